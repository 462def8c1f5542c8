//! The daemon under measurement, and nginx beside it.

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sys::spawn::{Process, Spawn, Stream};

/// A server, killed when dropped.
pub struct Server {
    process: Process,
    pub address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The static daemon guests have: `WRENN_ENVD` names it.
pub fn binary() -> Result<PathBuf, Box<dyn Error>> {
    Ok(std::env::var_os("WRENN_ENVD")
        .ok_or("WRENN_ENVD must name the guest daemon; `cargo xtask bench` sets it")?
        .into())
}

impl Server {
    /// The daemon; answers the time from its start until it says that it listens, too.
    pub fn envd(dir: &Path) -> Result<(Self, Duration), Box<dyn Error>> {
        let started = Instant::now();
        let mut process = Spawn::new(binary()?)
            .args(["--address", "127.0.0.1", "--port", "0", "--run-dir"])
            .arg(dir.join("run"))
            .env("PATH", "/usr/bin:/bin")
            .stdout(Stream::Pipe)
            .stderr(Stream::Inherit)
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.take_stdout().ok_or("no stdout")?).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().ok_or("no address")?.to_owned();
        Ok((Self { process, address }, started.elapsed()))
    }

    /// Serves and takes files of `dir`.
    pub fn nginx(dir: &Path) -> Result<Self, Box<dyn Error>> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let here = dir.display();
        let configuration = format!(
            "daemon off; master_process off; user root; worker_processes 1; pid {here}/nginx.pid; error_log {here}/nginx.log;
             events {{}}
             http {{
                 access_log off; sendfile on; client_body_buffer_size 1m; client_body_temp_path {here}/body; client_max_body_size 0;
                 proxy_temp_path {here}/p; fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;
                 server {{ listen 127.0.0.1:{port}; root {here}; location / {{ dav_methods PUT; }} }}
             }}"
        );
        let file = dir.join("nginx.conf");
        fs::write(&file, configuration)?;
        let process = Spawn::new("nginx").arg("-c").arg(file).inherit_env().stderr(Stream::Inherit).spawn()?;
        let server = Self { process, address: format!("127.0.0.1:{port}") };
        for _ in 0..500 {
            if std::net::TcpStream::connect(&server.address).is_ok() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("nginx does not listen".into())
    }

    /// Resident memory now, and the most since the last [`Self::forget_peak`], in megabytes (`proc_pid_status(5)`).
    pub fn memory_mb(&self) -> Result<(f64, f64), Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib * 1.024e-3)
        };
        Ok((field("VmRSS:").ok_or("no VmRSS")?, field("VmHWM:").ok_or("no VmHWM")?))
    }

    /// The peak begins anew (`proc_pid_clear_refs(5)`).
    pub fn forget_peak(&self) -> Result<(), Box<dyn Error>> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.process.pid()), "5")?)
    }
}
