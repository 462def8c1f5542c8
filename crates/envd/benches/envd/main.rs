//! How fast and how small the guest daemon is, run natively, against what the machine allows in the same run.
//!
//! `cargo xtask bench envd [--json]`
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]

#[path = "../../../wrenn/benches/platform/figure.rs"]
#[allow(dead_code)] // other benchmarks use the rest
mod figure;
mod http;
mod servers;

use std::error::Error;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use figure::{Figure, median, print};
use servers::Server;
use sys::spawn::Spawn;

type Measured = Result<Vec<Figure>, Box<dyn Error>>;

/// Size of every transfer.
const BYTES: u64 = 1 << 30;
/// Times a transfer is done; the figure is the median.
const TRANSFERS: usize = 7;
/// Times a small thing is done; the figure is the median.
const ROUNDS: usize = 51;
/// Peak of the daemon's memory during any of it, in megabytes.
const PEAK_MB: f64 = 32.0;

fn main() -> Result<(), Box<dyn Error>> {
    let json = std::env::args().any(|argument| argument == "--json");
    let dir = tempfile::tempdir()?;
    let mut figures = at_rest(dir.path())?;
    let (envd, _) = Server::envd(dir.path())?;
    let nginx = Server::nginx(dir.path())?;
    figures.extend(exec(&envd)?);
    figures.extend(transfers(&envd, &nginx, dir.path())?);
    figures.extend(outputs(&envd)?);
    print(&figures, json);
    if figures.iter().all(|figure| figure.ok) { Ok(()) } else { Err("a goal was missed".into()) }
}

/// Size of the binary, time to readiness, resident memory when idle.
fn at_rest(dir: &Path) -> Measured {
    let size = fs::metadata(servers::binary()?)?.len() as f64 / 1e6;
    let mut starts = Vec::new();
    let mut resident = 0.0;
    for _ in 0..9 {
        let (envd, started) = Server::envd(dir)?;
        starts.push(started);
        std::thread::sleep(Duration::from_millis(100));
        resident = envd.memory_mb()?.0;
    }
    Ok(vec![
        Figure::at_most("envd.binary", size, "MB", 6.0),
        Figure::limit("envd.ready", median(&starts), Duration::from_millis(20)),
        Figure::at_most("envd.resident", resident, "MB", 6.0),
    ])
}

/// A whole `Start` of `/bin/true` against fork, exec, wait and one round trip to the same server.
fn exec(envd: &Server) -> Measured {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        Spawn::new("/bin/true").spawn()?.wait()?;
        http::request(&envd.address, "GET /health HTTP/1.1", b"", |_| Ok(()))?;
        floor.push(began.elapsed());
        let began = Instant::now();
        start(envd, "application/connect+json", br#"{"process":{"cmd":"/bin/true"},"stdin":false}"#)?;
        ours.push(began.elapsed());
    }
    Ok(vec![Figure::ratio("envd.exec", median(&ours), median(&floor), 1.5)])
}

/// Upload and download of one file against nginx, client and file being the same.
fn transfers(envd: &Server, nginx: &Server, dir: &Path) -> Measured {
    let file = dir.join("file");
    let length = format!("Content-Length: {BYTES}");
    let post =
        format!("POST /files?path={} HTTP/1.1\r\nContent-Type: application/octet-stream\r\n{length}", file.display());
    let put = format!("PUT /file HTTP/1.1\r\n{length}");
    let up = |server: &Server, head: &str| http::request(&server.address, head, b"", http::zeros(BYTES)).map(|_| BYTES);
    let get = format!("GET /files?path={} HTTP/1.1", file.display());
    let down = |server: &Server, head: &str| http::request(&server.address, head, b"", |_| Ok(()));
    let (mut uploads, mut uploads_floor) = (Vec::new(), Vec::new());
    let (mut downloads, mut downloads_floor) = (Vec::new(), Vec::new());
    let mut peaks = (0.0_f64, 0.0_f64);
    // In turns, so that both meet the same machine; medians, because the reference alone varies twofold.
    for _ in 0..TRANSFERS {
        warm_memory(&file)?;
        uploads_floor.push(duration(|| up(nginx, &put))?);
        warm_memory(&file)?;
        envd.forget_peak()?;
        uploads.push(duration(|| up(envd, &post))?);
        peaks.0 = peaks.0.max(envd.memory_mb()?.1);
        downloads_floor.push(duration(|| down(nginx, "GET /file HTTP/1.1"))?);
        envd.forget_peak()?;
        downloads.push(duration(|| down(envd, &get))?);
        peaks.1 = peaks.1.max(envd.memory_mb()?.1);
    }
    let rate = |durations: &[Duration]| rate(median(durations));
    Ok(vec![
        Figure::share("envd.upload", rate(&uploads), "MB/s", rate(&uploads_floor), 0.6),
        Figure::at_most("envd.upload_peak", peaks.0, "MB", PEAK_MB),
        Figure::share("envd.download", rate(&downloads), "MB/s", rate(&downloads_floor), 0.6),
        Figure::at_most("envd.download_peak", peaks.1, "MB", PEAK_MB),
    ])
}

/// Fills the page cache with a file of three times the size, and removes it: an upload then finds memory that is really
/// there. Memory that lay free for a second may have gone back to a hypervisor (`page_reporting` of the kernel), and
/// having it again takes several times as long as an upload.
fn warm_memory(file: &Path) -> std::io::Result<()> {
    // Written in the largest pages there are, or the memory comes back in pieces that have to be joined first.
    let mut writer = std::io::BufWriter::with_capacity(2 << 20, fs::File::create(file)?);
    std::io::copy(&mut std::io::repeat(0).take(3 * BYTES), &mut writer)?;
    drop(writer);
    fs::remove_file(file)
}

/// Output of a process that says a gibibyte, in both encodings.
fn outputs(envd: &Server) -> Measured {
    let count = BYTES.to_string();
    let json = format!(r#"{{"process":{{"cmd":"/usr/bin/head","args":["-c","{count}","/dev/zero"]}},"stdin":false}}"#);
    // StartRequest{process: ProcessConfig{cmd, args}, stdin: false} on the wire (protobuf encoding).
    let mut config = field(1, b"/usr/bin/head");
    for argument in ["-c", &count, "/dev/zero"] {
        config.extend(field(2, argument.as_bytes()));
    }
    let mut proto = field(1, &config);
    proto.extend([4 << 3, 0]);
    let (mut in_proto, mut in_json) = (Vec::new(), Vec::new());
    let mut peaks = (0.0_f64, 0.0_f64);
    for _ in 0..TRANSFERS {
        envd.forget_peak()?;
        in_proto.push(duration(|| start(envd, "application/connect+proto", &proto).map(|_| BYTES))?);
        peaks.0 = peaks.0.max(envd.memory_mb()?.1);
        envd.forget_peak()?;
        in_json.push(duration(|| start(envd, "application/connect+json", json.as_bytes()).map(|_| BYTES))?);
        peaks.1 = peaks.1.max(envd.memory_mb()?.1);
    }
    Ok(vec![
        Figure::at_least("envd.stdout_proto", rate(median(&in_proto)), "MB/s", 300.0),
        Figure::at_most("envd.stdout_proto_peak", peaks.0, "MB", PEAK_MB),
        Figure::at_least("envd.stdout_json", rate(median(&in_json)), "MB/s", 120.0),
        Figure::at_most("envd.stdout_json_peak", peaks.1, "MB", PEAK_MB),
    ])
}

/// One `Start`, read to its end.
fn start(envd: &Server, content_type: &str, message: &[u8]) -> std::io::Result<u64> {
    let length = u32::try_from(message.len()).unwrap_or_default();
    let envelope = [&[0], &length.to_be_bytes()[..], message].concat();
    let head = format!(
        "POST /process.Process/Start HTTP/1.1\r\nContent-Type: {content_type}\r\nConnect-Protocol-Version: 1\r\nContent-Length: {}",
        envelope.len()
    );
    http::request(&envd.address, &head, &envelope, |_| Ok(()))
}

/// A field of bytes shorter than 16 KiB.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let (low, high) = ((bytes.len() & 0x7F) as u8, (bytes.len() >> 7) as u8);
    let length: &[u8] = if high == 0 { &[low] } else { &[low | 0x80, high] };
    [&[number << 3 | 2], length, bytes].concat()
}

/// Of a transfer; an error when fewer bytes than [`BYTES`] came.
fn duration(transfer: impl FnOnce() -> std::io::Result<u64>) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let bytes = transfer()?;
    if bytes < BYTES {
        return Err(format!("only {bytes} bytes were transferred").into());
    }
    Ok(began.elapsed())
}

/// Megabytes a second.
fn rate(duration: Duration) -> f64 {
    BYTES as f64 / 1e6 / duration.as_secs_f64()
}
