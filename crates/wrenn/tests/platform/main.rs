//! The whole platform as its user meets it: `wrenn up` as a process, real VMs, the public API.
//!
//! The scenarios share one data directory, because making the guest's kernel and image takes minutes, and run one
//! after another, because some of them kill the platform. `WRENN_TEST_DIR` names the directory; else it is below the
//! target directory and kept for the next run.

mod bad_input;
mod disks;
mod drain;
mod egress;
mod fork;
mod guest;
mod history;
mod host;
mod kill_points;
mod lifecycle;
mod metrics;
mod platform;
mod restart;
mod startup;
mod templates;

use futures_util::FutureExt;
use platform::Platform;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

/// What a scenario ends with.
type Verdict = Result<(), Box<dyn std::error::Error>>;

macro_rules! scenarios {
    ($platform:ident, $only:ident: $( $module:ident :: $name:ident ),* $(,)?) => {{
        let (mut passed, mut failed) = (0, 0);
        $(
            let name = concat!(stringify!($module), "::", stringify!($name));
            if $only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
                let started = Instant::now();
                let scenario = AssertUnwindSafe($module::$name(&mut $platform)).catch_unwind();
                let verdict: Verdict = scenario.await.unwrap_or_else(|_| Err("an assertion failed, see above".into()));
                let seconds = started.elapsed().as_secs_f64();
                match verdict {
                    Ok(()) => { passed += 1; println!("test {name} ... ok ({seconds:.1} s)"); }
                    Err(error) => { failed += 1; println!("test {name} ... FAILED ({seconds:.1} s)\n  {error}"); }
                }
            }
        )*
        (passed, failed)
    }};
}

#[tokio::main]
async fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let mut platform = match Platform::start("0").await {
        Ok(platform) => platform,
        Err(error) => {
            println!("the platform does not start: {error}");
            std::process::exit(1);
        }
    };
    let (mut passed, mut failed) = scenarios!(platform, only:
        guest::runs_commands,
        guest::moves_files,
        guest::mounts_overlays,
        guest::goes_on_after_a_pause,
        guest::outlives_its_daemon,
        guest::offers_loopback_servers,
        guest::differs_from_its_siblings,
        bad_input::is_refused,
        startup::refuses_what_cannot_work,
        startup::full_disk_refuses_capsules,
        startup::full_disk_stops_no_capsule_for_good,
        lifecycle::memory_and_disk_survive_twenty_rounds,
        lifecycle::a_pause_cuts_what_is_open,
        lifecycle::idle_time_counts_from_the_resume,
        lifecycle::five_at_once_leave_nothing,
        lifecycle::a_storm_on_one_capsule_leaves_one_state,
        egress::changes_at_once_and_for_good,
        metrics::show_what_a_capsule_does,
        metrics::outlive_pauses_and_crashes,
        metrics::free_memory_goes_back,
        fork::clones_go_on_from_one_moment,
        fork::clocks_are_right_after_a_long_snapshot,
        fork::clones_outlive_a_killed_platform,
        disks::are_as_large_as_asked_for,
        templates::capsules_go_on_from_a_kept_one,
        templates::disks_are_kept_without_memory,
        history::nothing_is_lost_or_invented,
        kill_points::nothing_leaks_and_nothing_saved_is_lost,
        restart::kill_of_the_platform_stops_no_capsule,
        restart::an_upgrade_reaches_what_was_paused_before,
        restart::vms_that_die_are_reported_with_their_last_words,
        restart::a_damaged_record_loses_nothing,
        drain::empties_the_host_until_its_end,
    );
    match host::down_leaves_nothing(platform).await {
        Ok(()) => passed += 1,
        Err(error) => {
            failed += 1;
            println!("test host::down_leaves_nothing ... FAILED\n  {error}");
        }
    }
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out",
        if failed == 0 { "ok" } else { "FAILED" }
    );
    std::process::exit(i32::from(failed > 0));
}
