//! How fast the platform is, as ratios against what the machine itself allows, measured in the same run.
//!
//! `cargo xtask bench [create|resume|pause|fork|exec|density]… [--json]`

mod density;
#[allow(dead_code)] // the guest daemon's benchmark uses the rest
mod figure;
mod floor;
mod fork;
#[path = "../../tests/platform/platform.rs"]
mod platform;
mod steps;

use figure::{Figure, median, print};
use floor::Floor;
use model::CapsuleId;
use model::rest::{CreateCapsule, ExecRequest};
use platform::Platform;
use std::error::Error;
use std::time::{Duration, Instant};

/// What a measurement can end with.
type Verdict = Result<(), Box<dyn Error>>;
type Measured = Result<Vec<Figure>, Box<dyn Error>>;

/// What can be measured.
const NAMES: [&str; 6] = ["create", "resume", "pause", "fork", "exec", "density"];
/// Times each thing is done; the figure is the median.
const ROUNDS: usize = 9;
/// Time the machine is left alone between rounds, so that one does not pay for the other's cleaning up.
const REST: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Verdict {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let names: Vec<&str> = arguments.iter().map(String::as_str).filter(|name| !name.starts_with('-')).collect();
    if let Some(unknown) = names.iter().find(|name| !NAMES.contains(name)) {
        return Err(format!("no benchmark is called `{unknown}`; there are {}", NAMES.join(", ")).into());
    }
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    let mut platform = Platform::start("0").await?;
    let mut floor = Floor::open(&platform).await?;
    let mut measured = without_ready_vms(&platform, &mut floor, &wanted).await;
    floor.close().await?;
    // Also what a measurement that failed has left.
    for capsule in platform.client.list().await? {
        platform.destroy(capsule.id).await?;
    }
    platform.kill()?;
    if let (Ok(figures), true) = (&mut measured, wanted("create")) {
        figures.extend(create_ready().await?);
    }
    platform.down()?;
    let figures = measured?;
    print(&figures, json);
    if figures.iter().all(|figure| figure.ok) { Ok(()) } else { Err("a goal was missed".into()) }
}

async fn without_ready_vms(platform: &Platform, floor: &mut Floor, wanted: &impl Fn(&str) -> bool) -> Measured {
    let mut figures = Vec::new();
    if wanted("create") {
        figures.extend(create(platform, floor).await?);
        figures.extend(steps::measure(platform).await?);
    }
    if wanted("resume") || wanted("pause") {
        let measured = pause_and_resume(platform, floor).await?;
        figures.extend(measured.into_iter().filter(|figure| wanted(figure.group())));
    }
    if wanted("fork") {
        figures.extend(fork::measure(platform, floor).await?);
    }
    if wanted("density") {
        figures.extend(density::measure(platform).await?);
    }
    if wanted("exec") {
        figures.extend(exec(platform).await?);
    }
    Ok(figures)
}

/// Create without a ready VM until the first `sh -c true` has ended, against the same with bare QEMU.
async fn create(platform: &Platform, floor: &Floor) -> Measured {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(floor.restore_and_exec().await?);
        tokio::time::sleep(REST).await;
        let (took, id) = create_and_exec(platform).await?;
        ours.push(took);
        platform.destroy(id).await?;
        tokio::time::sleep(REST).await;
    }
    Ok(vec![Figure::ratio("create.cold_to_exec", median(&ours), median(&bare), 1.3)])
}

/// Create with a ready VM until the first `sh -c true` has ended.
async fn create_ready() -> Measured {
    let mut platform = Platform::start("1").await?;
    let mut ours = Vec::new();
    for _ in 0..ROUNDS {
        // The next VM is made ready in the background.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (took, id) = create_and_exec(&platform).await?;
        ours.push(took);
        platform.destroy(id).await?;
    }
    platform.kill()?;
    Ok(vec![Figure::limit("create.ready_to_exec", median(&ours), Duration::from_millis(200))])
}

async fn create_and_exec(platform: &Platform) -> Result<(Duration, CapsuleId), Box<dyn Error>> {
    let started = Instant::now();
    let id = platform.client.create(&CreateCapsule::default()).await?.id;
    // The exec is held until the capsule runs.
    platform.sh(id, "true").await?;
    Ok((started.elapsed(), id))
}

/// Pause until it is durable, and resume until the first `sh -c true` has ended, against bare QEMU.
async fn pause_and_resume(platform: &Platform, floor: &mut Floor) -> Measured {
    let id = platform.capsule().await?.id;
    platform.sh(id, "true").await?;
    let (mut paused, mut resumed, mut bare_paused, mut bare_resumed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (save, restore) = floor.save_and_restore().await?;
        bare_paused.push(save);
        bare_resumed.push(restore);
        tokio::time::sleep(REST).await;
        floor.flush()?;
        let started = Instant::now();
        platform.pause(id).await?;
        paused.push(started.elapsed());
        tokio::time::sleep(REST).await;
        let started = Instant::now();
        platform.resume(id).await?;
        platform.sh(id, "true").await?;
        resumed.push(started.elapsed());
        tokio::time::sleep(REST).await;
    }
    platform.destroy(id).await?;
    Ok(vec![
        Figure::ratio("resume.to_exec", median(&resumed), median(&bare_resumed), 1.4),
        Figure::ratio("pause.durable", median(&paused), median(&bare_paused), 1.4),
    ])
}

/// Exec of `/bin/true` against fork, exec and wait inside the guest.
async fn exec(platform: &Platform) -> Measured {
    let id = platform.capsule().await?.id;
    let request = ExecRequest { cmd: "/bin/true".to_owned(), ..ExecRequest::default() };
    let inside = "n=0; a=$(date +%s%N); while [ $n -lt 20 ]; do /bin/true; n=$((n+1)); done; b=$(date +%s%N); echo $(((b-a)/20))";
    let (mut ours, mut guest) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        guest.push(Duration::from_nanos(platform.sh(id, inside).await?.trim().parse()?));
        for _ in 0..3 {
            let started = Instant::now();
            platform.client.exec(id, &request).await?;
            ours.push(started.elapsed());
        }
    }
    platform.destroy(id).await?;
    let floor = median(&guest);
    Ok(vec![Figure::above("exec.true", median(&ours), floor, Duration::from_millis(15))])
}
