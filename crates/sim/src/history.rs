//! A history: one world, one seed, one agent after another.

use crate::agent::Agent;
use crate::clock;
use crate::driver::{Driver, End};
use crate::tally::Tally;
use crate::world::{Defect, Shared};
use rand::RngExt;
use std::fmt;
use std::io;

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What chance begins with.
    pub seed: u64,
    /// How many steps.
    pub steps: u64,
    /// What is broken on purpose.
    pub defect: Option<Defect>,
}

/// Something that must not be has been.
#[derive(Debug)]
pub struct Wrong {
    /// The history in which.
    pub seed: u64,
    /// What.
    pub what: String,
    /// The steps it had taken.
    pub steps: u64,
    /// What had happened before.
    pub lines: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, what, steps, lines } = self;
        writeln!(f, "{lines}after {steps} steps: {what}")?;
        writeln!(f, "again: WRENN_SIM_SEED={seed} WRENN_SIM_STEPS={steps} cargo test -p sim -- one_history")
    }
}

/// What a history did, and by what its repetition is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How often what happened.
    pub tally: Tally,
    /// Of every line of its trace.
    pub digest: u64,
}

/// Performs a history.
pub fn run(plan: Plan) -> Result<Report, Box<Wrong>> {
    let shared = Shared::new(plan.seed, plan.defect);
    let mut left = plan.steps;
    let mut number = 0;
    loop {
        number += 1;
        let (end, left_now) = one_agent(&shared, number, left).map_err(|error| {
            Box::new(Wrong { seed: plan.seed, what: error.to_string(), steps: 0, lines: String::new() })
        })?;
        left = left_now;
        let mut world = shared.lock();
        if let Some(what) = world.wrong.take() {
            let (steps, lines) = (plan.steps - left, world.lines());
            return Err(Box::new(Wrong { seed: plan.seed, what, steps, lines }));
        }
        if end == End::Over {
            return Ok(Report { tally: world.tally.clone(), digest: world.digest() });
        }
        world.between(end);
    }
}

/// The time of one agent; how it ended, and how many steps are left.
fn one_agent(shared: &Shared, number: u32, steps: u64) -> io::Result<(End, u64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let mut left = steps;
    let host = Agent::host(shared, number);
    let end = runtime.block_on(async {
        let began = {
            let mut world = shared.lock();
            world.failures = if world.happens(250) { 0 } else { world.chance.random_range(1..60) };
            world.now_ms
        };
        clock::begin(began);
        let driven = async {
            let agent = Agent::start(&host).await;
            let mut driver = Driver::new(agent);
            let end = driver.run(&mut left).await;
            if end == End::Over {
                driver.clear().await;
            }
            end
        };
        let end = tokio::select! {
            biased;
            () = host.crashed.notified() => End::Crash,
            end = driven => end,
        };
        let mut world = shared.lock();
        world.agent = None;
        world.now_ms = clock::now_ms();
        end
    });
    drop(runtime);
    host.forget();
    Ok((end, left))
}

impl crate::world::World {
    /// From the end of one agent to the start of the next.
    fn between(&mut self, end: End) {
        self.say(format!("the agent ends: {end:?}"));
        self.crash_in = None;
        self.leaving = false;
        match end {
            End::Crash => self.tally.count("crashes of the agent"),
            End::PowerLoss => {
                self.tally.count("losses of power");
                self.lose_power();
            }
            End::Leave => self.tally.count("agents that left in order"),
            End::Over => {}
        }
        // What was not told before the end is told by the list of capsules.
        self.ledger.owed.clear();
        if self.happens(100) {
            self.tally.count("new versions of the VMM");
            self.version += 1;
        }
        // Found damaged by the next agent, put back before the one after it.
        self.damaged.clear();
        let records: Vec<_> = self.records.keys().copied().collect();
        if self.happens(50)
            && let Some(id) = self.any(&records)
        {
            self.tally.count("records damaged");
            self.damaged.insert(id);
        }
        self.now_ms += self.chance.random_range(0..20_000);
        // Processes in guests do not notice.
        let vms: Vec<_> = self.vms.keys().copied().collect();
        for vm in &vms {
            self.guest_writes(*vm);
        }
        if self.happens(200)
            && let Some(vm) = self.any(&vms)
        {
            self.tally.count("VMMs that died without an agent");
            self.kill(vm);
        }
    }
}
