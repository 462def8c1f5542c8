//! How fast the pager brings memory, without a machine, against the bare system calls in the same run.
//!
//! `cargo xtask bench pager [--json]`
#![allow(clippy::cast_precision_loss)]

#[path = "../../wrenn/benches/platform/figure.rs"]
#[allow(dead_code)] // other benchmarks use the rest
mod figure;

use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use figure::{Figure, median, print};
use memory::pager::{MemoryFile, Pager, Region, Source, WorkingSet};
use rustix::fs::OFlags;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use sys::uffd::{Area, Event, Uffd};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Memory of the faults, and of the whole.
const FAULTED_BYTES: usize = 32 << 20;
const BYTES: usize = 256 << 20;
const PAGE_BYTES: usize = 4096;
const RUN_BYTES: usize = 2 << 20;
/// Times each thing is done, after one time that does not count: what a hypervisor backs lazily is there then.
const ROUNDS: usize = 15;
/// Between two looks whether everything is there: a thousandth of the time it takes.
const LOOK: Duration = Duration::from_micros(200);
/// Of what the bare calls do.
const SHARE: f64 = 0.6;

fn main() -> Result {
    let json = std::env::args().any(|argument| argument == "--json");
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("memory");
    let mut file = File::create(&path)?;
    for run in 0..BYTES / RUN_BYTES {
        file.write_all(&vec![u8::try_from(run % 255)? + 1; RUN_BYTES])?;
    }
    let figures = [faults(&path)?, prefetch(&path)?];
    print(&figures, json);
    if figures.iter().all(|figure| figure.ok) { Ok(()) } else { Err("a goal was missed".into()) }
}

/// Medians of both, in turn.
fn in_turn(
    mut ours: impl FnMut() -> Result<Duration>,
    mut bare: impl FnMut() -> Result<Duration>,
) -> Result<(f64, f64)> {
    let (mut of_ours, mut of_bare) = (Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        of_bare.push(bare()?);
        of_ours.push(ours()?);
    }
    let middle = |times: &[Duration]| median(times.get(1..).unwrap_or_default()).as_secs_f64();
    Ok((middle(&of_ours), middle(&of_bare)))
}

/// One thread touches page after page. On one processor: what waking another one takes would hide all the rest, and differs by
/// a factor of five from one moment to the next.
fn faults(path: &Path) -> Result<Figure> {
    let all = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).ok_or("no processor")?);
    sched_setaffinity(None, &one)?;
    let figure = faults_here(path);
    sched_setaffinity(None, &all)?;
    figure
}

fn faults_here(path: &Path) -> Result<Figure> {
    let bare = || {
        let (area, uffd) = Area::new(FAULTED_BYTES)?;
        rustix::fs::fcntl_setfl(&uffd, OFlags::empty())?;
        std::thread::scope(|scope| {
            let answering = scope.spawn(|| answer_all(&uffd));
            let took = touch_all(&area);
            answering.join().map_err(|_| "a thread died")??;
            Ok(took)
        })
    };
    let ours = || served(path, FAULTED_BYTES, &Pager::recording()?, |area| Ok(touch_all(area)));
    let (ours, bare) = in_turn(ours, bare)?;
    let rate = |seconds: f64| (FAULTED_BYTES / PAGE_BYTES) as f64 / seconds;
    Ok(Figure::share("pager.faults", rate(ours), "1/s", rate(bare), SHARE))
}

fn touch_all(area: &Area) -> Duration {
    let started = Instant::now();
    for word in (0..area.words()).step_by(PAGE_BYTES / 8) {
        std::hint::black_box(area.load(word..word + 1).next());
    }
    started.elapsed()
}

fn answer_all(uffd: &Uffd) -> std::result::Result<(), String> {
    let page = vec![1; PAGE_BYTES];
    let (mut events, mut left) = (Vec::new(), FAULTED_BYTES / PAGE_BYTES);
    while left > 0 {
        uffd.read(&mut events).map_err(|error| error.to_string())?;
        for event in events.drain(..) {
            let Event::Fault(address) = event else { return Err("not a fault".to_owned()) };
            uffd.copy(address, &page).map_err(|error| error.to_string())?;
            left -= 1;
        }
    }
    Ok(())
}

/// Everything, without being asked.
fn prefetch(path: &Path) -> Result<Figure> {
    let run = vec![1; RUN_BYTES];
    let bare = || {
        let (area, uffd) = Area::new(BYTES)?;
        let started = Instant::now();
        for at in (area.address()..).step_by(RUN_BYTES).take(BYTES / RUN_BYTES) {
            uffd.copy(at, &run)?;
        }
        Ok(started.elapsed())
    };
    let ours = || {
        let started = Instant::now();
        served(path, BYTES, &Pager::prefetching(WorkingSet::default())?, |area| {
            let last = area.address() / PAGE_BYTES as u64 + (BYTES / PAGE_BYTES) as u64 - 1;
            let pagemap = File::open("/proc/self/pagemap")?;
            let mut entry = [0; 8];
            // The highest bit of an entry: the page is there (proc_pid_pagemap(5)).
            while u64::from_le_bytes(entry) >> 63 == 0 {
                std::thread::sleep(LOOK);
                pagemap.read_exact_at(&mut entry, last * 8)?;
            }
            Ok(started.elapsed())
        })
    };
    let (ours, bare) = in_turn(ours, bare)?;
    let rate = |seconds: f64| BYTES as f64 / seconds / 1e6;
    Ok(Figure::share("pager.prefetch", rate(ours), "MB/s", rate(bare), SHARE))
}

/// What `work` takes on memory that our pager serves.
fn served(path: &Path, bytes: usize, pager: &Pager, work: impl FnOnce(&Area) -> Result<Duration>) -> Result<Duration> {
    let (area, uffd) = Area::new(bytes)?;
    let region = Region { address: area.address(), bytes: bytes as u64, offset: 0 };
    let source: Arc<dyn Source> = Arc::new(MemoryFile::open(path)?);
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| pager.serve(&uffd, &[region], &source));
        let took = work(&area);
        pager.stop();
        serving.join().map_err(|_| "the pager died")??;
        took
    })
}
