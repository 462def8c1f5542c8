//! Progress: a live line per running step on a terminal, a line with its duration once it is over.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often a step without a terminal says that it is alive.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// The steps of one command. Clones share the terminal.
#[derive(Debug, Clone)]
pub struct Steps {
    bars: MultiProgress,
    voice: Voice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voice {
    Terminal,
    Plain,
    Silent,
}

impl Steps {
    /// Speaks on stderr; says nothing when JSON was asked for.
    pub fn new(silent: bool) -> Self {
        let voice = match (silent, io::stderr().is_terminal()) {
            (true, _) => Voice::Silent,
            (false, true) => Voice::Terminal,
            (false, false) => Voice::Plain,
        };
        let target = if voice == Voice::Terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), voice }
    }

    /// Begins a step. Its end is told by [`Step::done`]; a step that is dropped has failed and says nothing, since
    /// the error that follows does.
    pub fn begin(&self, what: &str) -> Step {
        let bar = self.bars.add(ProgressBar::new_spinner().with_message(what.to_owned()));
        bar.set_style(style("   {elapsed:>5} {spinner} {msg}"));
        bar.enable_steady_tick(Duration::from_millis(120));
        let now = Instant::now();
        Step { steps: self.clone(), bar, what: what.to_owned(), started: now, spoke: Mutex::new(now) }
    }

    fn say(&self, line: &str) {
        match self.voice {
            Voice::Terminal => {
                let _ = self.bars.println(line);
            }
            Voice::Plain => {
                let _ = writeln!(io::stderr(), "{line}");
            }
            Voice::Silent => {}
        }
    }
}

/// One running step.
#[derive(Debug)]
pub struct Step {
    steps: Steps,
    bar: ProgressBar,
    what: String,
    started: Instant,
    spoke: Mutex<Instant>,
}

impl Step {
    /// How far it is (0 to 1), and what it does now.
    pub fn advance(&self, fraction: f32, doing: &str) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
        let percent = (fraction.clamp(0.0, 1.0) * 100.0) as u64;
        if self.bar.length().is_none() {
            self.bar.set_length(100);
            self.bar.set_style(style("   {elapsed:>5} {spinner} {prefix} {bar:24} {percent:>3} %  {msg}"));
            self.bar.set_prefix(self.what.clone());
        }
        self.bar.set_position(percent);
        self.bar.set_message(doing.to_owned());
        if self.steps.voice == Voice::Plain && self.may_speak() {
            self.steps.say(&format!("         …  {}: {percent} %, {doing}", self.what));
        }
    }

    /// It is over: with what result.
    pub fn done(self, result: &str) {
        self.bar.finish_and_clear();
        let colon = if result.is_empty() { "" } else { ": " };
        self.steps.say(&format!("{:>6.1} s  {}{colon}{result}", self.started.elapsed().as_secs_f64(), self.what));
    }

    fn may_speak(&self) -> bool {
        let Ok(mut spoke) = self.spoke.lock() else { return false };
        let due = spoke.elapsed() >= PLAIN_EVERY;
        if due {
            *spoke = Instant::now();
        }
        due
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
