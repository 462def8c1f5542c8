//! What init has to say, and how far it has come.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long the last words stay before the power goes off: the host reads them from the serial port.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The kernel's console. Quiet about what works.
#[derive(Debug)]
pub(super) struct Console {
    file: Option<File>,
    /// Each phase of the boot and when it ended, in milliseconds since the kernel's start.
    phases: Vec<(&'static str, u64)>,
    troubled: bool,
}

impl Console {
    pub(super) fn new() -> Self {
        Self { file: None, phases: Vec::new(), troubled: false }
    }

    /// Before `/dev` is mounted there is nowhere to write to.
    pub(super) fn open(&mut self) {
        self.file = OpenOptions::new().write(true).open("/dev/console").ok();
    }

    /// One line.
    pub(super) fn say(&mut self, text: impl Display) {
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "wrenn-init: {text}");
        }
    }

    /// Reports a failed step and goes on.
    pub(super) fn step<T, E: Display>(&mut self, what: impl Display, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.troubled = true;
                self.say(format_args!("{what}: {error} ({} ms)", uptime_ms()));
                None
            }
        }
    }

    pub(super) fn phase_ended(&mut self, name: &'static str) {
        self.phases.push((name, uptime_ms()));
    }

    /// Says where the time went, but only when something failed on the way.
    pub(super) fn boot_ended(&mut self) {
        if self.troubled {
            for (name, uptime_ms) in std::mem::take(&mut self.phases) {
                self.say(format_args!("{name} done at {uptime_ms} ms"));
            }
        }
    }

    /// The machine is of no use: says why and powers it off.
    pub(super) fn fatal(&mut self, failure: &dyn Display) -> ! {
        self.troubled = true;
        self.say(format_args!("fatal: {failure}"));
        self.boot_ended();
        std::thread::sleep(LAST_WORDS);
        rustix::fs::sync();
        let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
        loop {
            std::thread::sleep(Duration::from_hours(1));
        }
    }
}

/// Milliseconds since the kernel's start.
pub(super) fn uptime_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec * 1000 + time.tv_nsec / 1_000_000).unwrap_or_default()
}
