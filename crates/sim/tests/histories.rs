//! Random histories of a host under the production agent, and defects that the checker must see.

use sim::{Defect, Plan, Report, Tally, run};

/// Steps of one history.
const STEPS: u64 = 1_000;
/// Histories; `WRENN_SIM_SEEDS` sets another number.
const SEEDS: u64 = 400;

/// What all histories together must have done at least: who changes the odds sees what is no longer tested.
const AT_LEAST: [(&str, u64); 35] = [
    ("steps", 100_000),
    ("host actions", 500_000),
    ("failures of host actions", 5_000),
    ("crashes of the agent", 2_000),
    ("agents that left in order", 200),
    ("drains", 500),
    ("hosts emptied", 200),
    ("losses of power", 200),
    ("new versions of the VMM", 100),
    ("records damaged", 50),
    ("VMMs that died", 1_000),
    ("VMMs that died without an agent", 100),
    ("creates done", 5_000),
    ("creates refused", 200),
    ("creates of clones done", 500),
    ("pauses done", 5_000),
    ("pauses refused", 500),
    ("pauses of disks done", 500),
    ("resumes done", 5_000),
    ("resumes refused", 500),
    ("reboots done", 500),
    ("destroys done", 2_000),
    ("destroys recorded", 2_000),
    ("lifetimes done", 2_000),
    ("snapshots recorded", 500),
    ("snapshots given up done", 500),
    ("calls doubled", 5_000),
    ("calls that came late", 5_000),
    ("callers that left", 2_000),
    ("guests used", 2_000),
    ("pages written by guests", 10_000),
    ("pages zeroed by guests", 2_000),
    ("events", 1_000),
    ("checks of everything", 2_000),
    ("answers foretold", 2_000),
];

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn done(plan: Plan) -> Report {
    run(plan).unwrap_or_else(|wrong| panic!("{wrong}"))
}

/// Every history holds; together they did enough of everything.
#[test]
fn many_histories() {
    let mut all = Tally::default();
    let seeds = from_environment("WRENN_SIM_SEEDS").unwrap_or(SEEDS);
    let steps = from_environment("WRENN_SIM_STEPS").unwrap_or(STEPS);
    for seed in 0..seeds {
        all.add(&done(Plan { seed, steps, defect: None }).tally);
    }
    println!("{seeds} histories:\n{all}");
    for (what, least) in AT_LEAST {
        assert!(all.of(what) >= least, "{what}: {} of at least {least}", all.of(what));
    }
}

/// The history that `WRENN_SIM_SEED` and `WRENN_SIM_STEPS` choose, twice: a seed is a history.
#[test]
fn one_history() {
    let seed = from_environment("WRENN_SIM_SEED").unwrap_or(1);
    let steps = from_environment("WRENN_SIM_STEPS").unwrap_or(STEPS);
    let plan = Plan { seed, steps, defect: None };
    let first = done(plan);
    println!("seed {seed}:\n{}", first.tally);
    assert!(first == done(plan), "the same seed, and another history");
}

/// The checker sees what is planted.
#[test]
fn planted_defects_are_found() {
    let planted = [
        (Defect::LateRecord, "recorded as paused"),
        (Defect::NoPins, "which is gone"),
        (Defect::LostEvent, "told"),
        (Defect::TornPause, "its generation is not what its VM holds"),
        (Defect::StaleMemory, "wakes"),
        (Defect::KeptSlot, "slots"),
        (Defect::KeptVm, "VMs"),
    ];
    for (defect, sign) in planted {
        let found = (0..20).filter_map(|seed| run(Plan { seed, steps: STEPS, defect: Some(defect) }).err());
        let found: Vec<_> = found.collect();
        let first = found.iter().find(|wrong| wrong.what.contains(sign));
        let first = first.unwrap_or_else(|| {
            let found: Vec<_> = found.iter().map(|wrong| &wrong.what).collect();
            panic!("{defect:?} is found by nothing but {found:?}")
        });
        println!(
            "{defect:?}: in {} of 20 histories; seed {}, step {}: {}",
            found.len(),
            first.seed,
            first.steps,
            first.what
        );
    }
}
