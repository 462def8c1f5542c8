//! The published SDKs against a platform of their own, started for the run.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Outcome, packages, process, workspace};

/// The first start prepares kernel and root file system.
const START_LIMIT: Duration = Duration::from_mins(10);
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const HTTP_LIMIT: Duration = Duration::from_secs(5);

/// Runs `tests/sdk` with pinned clients from the package registries.
pub fn run(envd: &Path) -> Outcome {
    let suite = workspace::root().join("tests/sdk");
    let target = workspace::target_dir()?;
    let python = process::step("install the SDKs", || install(&suite, &target.join("sdk-venv")))?;
    process::step("build Wrenn", || process::run(&mut workspace::cargo(&["build", "--package", "wrenn"])))?;
    // The platform that the tests of the program used, so that its images are not made again.
    let state = workspace::tests_dir()?.join("platform");
    let mut platform = process::step("start a platform", || Platform::start(&target, &state, envd))?;
    let result = process::step("tests of the SDKs", || {
        // The credentials file belongs to whom the platform runs as.
        let mut pytest = packages::privileged("env");
        pytest.arg(format!("WRENN_DIR={}", state.display()));
        pytest.arg(format!("WRENN_BIN={}", target.join("debug/wrenn").display()));
        process::run(pytest.arg(&python).args(["-m", "pytest"]).arg(&suite))
    });
    platform.stop();
    result
}

/// A virtual environment with the pinned Python clients and the JavaScript client beside the suite; kept until a
/// list of versions changes. Returns the environment's Python.
fn install(suite: &Path, venv: &Path) -> Outcome<PathBuf> {
    let python = venv.join("bin/python");
    let requirements = suite.join("requirements.txt");
    let wanted = read(&requirements)? + &read(&suite.join("package-lock.json"))?;
    let stamp = venv.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) && suite.join("node_modules").exists() {
        return Ok(python);
    }
    process::run_quietly(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv))?;
    let mut pip = Command::new(&python);
    // One of the clients declares a newer Python than it needs.
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--ignore-requires-python"]);
    process::run_quietly(pip.arg("-r").arg(requirements))?;
    process::run_quietly(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(suite))?;
    fs::write(&stamp, wanted).map_err(|error| format!("cannot write {}: {error}", stamp.display()))?;
    Ok(python)
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// `wrenn up` in the background.
struct Platform {
    child: Child,
}

impl Platform {
    /// Returns once the API answers, at a port of its own: the caller may run another platform.
    fn start(target: &Path, state: &Path, envd: &Path) -> Outcome<Self> {
        let address = free_address().map_err(|error| format!("no free port: {error}"))?;
        let mut command = packages::privileged("env");
        command.arg(format!("WRENN_DIR={}", state.display())).arg(format!("WRENN_ENVD={}", envd.display()));
        command.arg(target.join("debug/wrenn")).args(["up", "--yes", "--listen", &address]);
        let child = command.stdout(Stdio::null()).spawn().map_err(|error| format!("cannot start wrenn: {error}"))?;
        let mut platform = Self { child };
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = platform.child.try_wait() {
                return Err(format!("wrenn up ended with {status}"));
            }
            if health(&address).is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(platform);
            }
            thread::sleep(POLL_INTERVAL);
        }
        platform.stop();
        Err(format!("wrenn up did not answer within {} s", START_LIMIT.as_secs()))
    }

    /// Ends it as Ctrl-C would.
    fn stop(&mut self) {
        let pid = self.child.id().to_string();
        if process::run(packages::privileged("kill").args(["-INT", &pid])).is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// A loopback address nobody listens on at the moment.
fn free_address() -> io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// The answer to `GET /health`.
fn health(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(HTTP_LIMIT)).ok()?;
    write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
