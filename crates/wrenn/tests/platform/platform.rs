//! One `wrenn up` and its API.

use crate::Verdict;
use client::{Client, Credentials, Output};
use model::rest::{Capsule, CreateCapsule, ExecRequest};
use model::{CapsuleId, CapsuleStatus};
use std::error::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sys::spawn::{Process, Spawn, Stream};

/// Until a first start has downloaded and built everything.
const START: Duration = Duration::from_mins(15);
/// Until an operation on a loaded machine without KVM is over.
pub const SETTLE: Duration = Duration::from_mins(2);

/// A running platform.
pub struct Platform {
    /// Its data directory.
    pub dir: PathBuf,
    process: Process,
    log: PathBuf,
    /// Its API.
    pub client: Client,
    /// Its address.
    pub base_url: String,
    /// Its key.
    pub api_key: String,
}

impl Platform {
    /// Starts it with so many VMs kept ready, and waits for its API.
    pub async fn start(ready_vms: &str) -> Result<Self, Box<dyn Error>> {
        Self::start_with(&[("WRENN_READY_VMS", OsStr::new(ready_vms))]).await
    }

    /// Starts it with these variables in its environment. It needs the guest daemon, whose path is in `WRENN_ENVD`.
    pub async fn start_with(variables: &[(&str, &OsStr)]) -> Result<Self, Box<dyn Error>> {
        let dir = data_dir();
        std::fs::create_dir_all(&dir)?;
        let log = dir.join("up.log");
        let process = up(&dir, &log, variables)?;
        let nowhere = Credentials { base_url: "http://127.0.0.1:9".to_owned(), api_key: "-".to_owned() };
        let client = Client::new(nowhere)?;
        let mut platform = Self { dir, process, log, client, base_url: String::new(), api_key: String::new() };
        platform.wait_ready().await?;
        Ok(platform)
    }

    /// `up` says it is ready with the credentials on standard output, as its last line in JSON.
    async fn wait_ready(&mut self) -> Verdict {
        let deadline = Instant::now() + START;
        loop {
            if let Some(exit) = self.process.try_wait()? {
                return Err(format!("`wrenn up` ended with {exit:?}:\n{}", self.log()).into());
            }
            if self.log().contains("\"e2b_api_key\"") {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("not ready:\n{}", self.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let text = std::fs::read_to_string(self.dir.join("credentials.json"))?;
        let found: model::rest::Credentials = serde_json::from_str(&text)?;
        self.base_url.clone_from(&found.base_url);
        self.api_key.clone_from(&found.api_key);
        self.client = Client::new(Credentials { base_url: found.base_url, api_key: found.api_key })?;
        Ok(())
    }

    /// What it printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Verdict {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// `wrenn down`, whether or not it still runs.
    pub fn down(&self) -> Verdict {
        let mut down = Spawn::new(env!("CARGO_BIN_EXE_wrenn"))
            .args(["down", "--dir"])
            .arg(&self.dir)
            .inherit_env()
            .stdout(Stream::Null)
            .stderr(Stream::Inherit)
            .spawn()?;
        if down.wait()?.success() { Ok(()) } else { Err("`wrenn down` failed".into()) }
    }

    /// A new capsule that runs.
    pub async fn capsule(&self) -> Result<Capsule, Box<dyn Error>> {
        let capsule = self.client.create(&CreateCapsule::default()).await?;
        self.reached(capsule.id, CapsuleStatus::Running).await
    }

    /// The capsule, once it is in this status.
    pub async fn reached(&self, id: CapsuleId, status: CapsuleStatus) -> Result<Capsule, Box<dyn Error>> {
        let capsule = self.client.settled(id, SETTLE).await?;
        if capsule.status == status {
            Ok(capsule)
        } else {
            Err(format!("{id} is {} instead of {status}, reason {:?}", capsule.status, capsule.reason).into())
        }
    }

    /// Pauses and waits.
    pub async fn pause(&self, id: CapsuleId) -> Verdict {
        if self.client.pause(id, false).await?.status == CapsuleStatus::Paused {
            return Ok(());
        }
        self.reached(id, CapsuleStatus::Paused).await.map(drop)
    }

    /// Resumes and waits.
    pub async fn resume(&self, id: CapsuleId) -> Verdict {
        self.client.resume(id, false).await?;
        self.reached(id, CapsuleStatus::Running).await.map(drop)
    }

    /// Destroys and waits.
    pub async fn destroy(&self, id: CapsuleId) -> Verdict {
        self.client.destroy(id).await?;
        self.reached(id, CapsuleStatus::Stopped).await.map(drop)
    }

    /// Standard output of a shell command, which must succeed.
    pub async fn sh(&self, id: CapsuleId, script: &str) -> Result<String, Box<dyn Error>> {
        let request = ExecRequest {
            cmd: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            timeout_sec: Some(120),
            ..ExecRequest::default()
        };
        let result = self.client.exec(id, &request).await?;
        let output = Output::of(&result).ok_or("unreadable output")?;
        if result.exit_code != 0 {
            return Err(format!(
                "`{script}` ended with {}: {}",
                result.exit_code,
                String::from_utf8_lossy(&output.stderr)
            )
            .into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn data_dir() -> PathBuf {
    std::env::var_os("WRENN_TEST_DIR")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("platform"), PathBuf::from)
}

/// `wrenn up --json` with its output in a file.
fn up(dir: &Path, log: &Path, variables: &[(&str, &OsStr)]) -> Result<Process, Box<dyn Error>> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let output = std::fs::File::create(log)?;
    let errors = output.try_clone()?;
    let mut spawn = Spawn::new(env!("CARGO_BIN_EXE_wrenn"))
        .args(["up", "--yes", "--json", "--listen", &format!("127.0.0.1:{port}"), "--dir"])
        .arg(dir)
        .inherit_env()
        .stdout(Stream::Fd(output.into()))
        .stderr(Stream::Fd(errors.into()));
    for (name, value) in variables {
        spawn = spawn.env(name, value);
    }
    Ok(spawn.spawn()?)
}
