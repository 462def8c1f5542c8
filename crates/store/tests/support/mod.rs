//! A Postgres server of our own, for as long as a test runs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use sys::spawn::{Credentials, Process, Spawn, Stream};
use tempfile::TempDir;

/// SIGQUIT: Postgres leaves at once, children included.
const SIGQUIT: i32 = 3;

/// A running server. It ends with the thread that started it.
pub struct Postgres {
    process: Process,
    directory: TempDir,
}

impl Postgres {
    /// Starts one on a socket in a directory of its own.
    pub fn start() -> Self {
        let bin = newest_release();
        let user = postgres_user();
        let directory = tempfile::tempdir().unwrap();
        // The server's user must get through to its data.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        chown(&data, Some(user.uid), Some(user.gid)).unwrap();

        let made = Spawn::new(bin.join("initdb"))
            .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--pgdata"])
            .arg(&data)
            .inherit_env()
            .cwd("/")
            .credentials(user.clone())
            .output()
            .unwrap();
        assert!(made.exit.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));

        let mut process = Spawn::new(bin.join("postgres"))
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"])
            .arg(&data)
            .arg("-D")
            .arg(&data)
            .inherit_env()
            .cwd("/")
            .credentials(user)
            .stderr(Stream::Pipe)
            .death_signal(SIGQUIT)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.take_stderr().unwrap()).lines();
        let ready = log.by_ref().map(Result::unwrap).any(|line| line.contains("ready to accept connections"));
        assert!(ready, "postgres did not start");
        std::thread::spawn(move || log.for_each(drop));
        Self { process, directory }
    }

    /// URL of a database of this server.
    pub fn url(&self, database: &str) -> String {
        let socket = self.directory.path().join("data").display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{socket}/{database}")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn newest_release() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").expect("this test needs the package postgresql");
    let releases = installed.filter_map(|entry| {
        let path = entry.ok()?.path();
        let number: u32 = path.file_name()?.to_str()?.parse().ok()?;
        Path::exists(&path.join("bin/postgres")).then(|| (number, path.join("bin")))
    });
    releases.max().expect("this test needs the package postgresql").1
}

/// Postgres refuses to run as root.
fn postgres_user() -> Credentials {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("no user postgres");
    let number = |field| line.split(':').nth(field).unwrap().parse().unwrap();
    Credentials { uid: number(2), gid: number(3), groups: Vec::new() }
}
