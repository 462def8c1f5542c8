//! What capsules may reach, and that a change of it is in force at once.

use crate::Verdict;
use crate::platform::{Platform, SETTLE};
use model::rest::{CreateCapsule, ExecRequest, ForkCapsule, Forked, Network};
use model::{CapsuleId, CapsuleStatus};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};
use sys::spawn::Spawn;

/// Addresses for documentation (RFC 5737), public as far as policies are concerned.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const HOST_END: &str = "198.51.100.1/30";
const FAR_END: &str = "198.51.100.2/30";
const PORT: u16 = 7_777;

/// A server beyond the host that returns what it is sent.
struct FarServer {
    name: String,
}

impl FarServer {
    fn start() -> Result<Self, Box<dyn Error>> {
        let far = Self { name: format!("wrtest{}", std::process::id()) };
        let (name, end) = (far.name.as_str(), format!("{}h", far.name));
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &end, "type", "veth", "peer", "name", "far", "netns", name])?;
        ip(&["addr", "add", HOST_END, "dev", &end])?;
        ip(&["link", "set", &end, "up"])?;
        // Answers come in here, as they do at an uplink.
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{end}/forwarding"), "1")?;
        ip(&["-n", name, "addr", "add", FAR_END, "dev", "far"])?;
        ip(&["-n", name, "link", "set", "far", "up"])?;
        let namespace = std::fs::File::open(format!("/run/netns/{name}"))?;
        let listen = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))
        };
        let listener = std::thread::spawn(listen).join().map_err(|_| "no thread")??;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
                });
            }
        });
        Ok(far)
    }
}

impl Drop for FarServer {
    fn drop(&mut self) {
        // The pair goes with either end.
        let _ = ip(&["link", "del", &format!("{}h", self.name)]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> Verdict {
    let output = Spawn::new("ip").args(args).inherit_env().output()?;
    if output.exit.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)).into())
}

/// Whether a new connection from the capsule is answered.
async fn reaches(platform: &Platform, id: CapsuleId) -> Result<bool, Box<dyn Error>> {
    let script = format!(
        "python3 -c 'import socket; far = socket.create_connection((\"{FAR}\", {PORT}), 5); far.send(b\"x\"); \
         assert far.recv(1) == b\"x\"' 2>/dev/null && echo yes || echo no"
    );
    Ok(platform.sh(id, &script).await? == "yes\n")
}

/// Speaks with the server ten times a second and writes down whether it is heard.
const FLOW: &str = "
import socket, sys, time
def say(word):
    with open('/root/flow', 'w') as file: file.write(word)
far = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
far.settimeout(5)
try:
    while True:
        far.send(b'x')
        assert far.recv(1) == b'x'
        say('open')
        time.sleep(0.1)
except OSError:
    say('cut')
";

async fn flow_is(platform: &Platform, id: CapsuleId, word: &str) -> Verdict {
    let deadline = Instant::now() + SETTLE;
    while platform.sh(id, "cat /root/flow 2>/dev/null || true").await? != word {
        if Instant::now() > deadline {
            return Err(format!("the connection is not {word}").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn network(allow_internet: bool, allow_out: &[&str], deny_out: &[&str]) -> Network {
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    Network { allow_internet: Some(allow_internet), allow_out: texts(allow_out), deny_out: texts(deny_out) }
}

/// A change is in force at once, for connections that exist as well, and outlives everything the capsule does.
pub async fn changes_at_once_and_for_good(platform: &mut Platform) -> Verdict {
    let _far = FarServer::start()?;
    let request = CreateCapsule { network: Some(network(false, &[], &[])), ..CreateCapsule::default() };
    let closed = platform.client.create(&request).await?.id;
    platform.reached(closed, CapsuleStatus::Running).await?;
    let id = platform.capsule().await?.id;
    assert!(reaches(platform, id).await?, "a server nobody reaches proves nothing");
    assert!(!reaches(platform, closed).await?, "closed from its beginning");

    let flow = ExecRequest {
        cmd: "python3".to_owned(),
        args: vec!["-c".to_owned(), FLOW.to_owned(), FAR.to_string(), PORT.to_string()],
        ..ExecRequest::default()
    };
    platform.client.start(id, &flow).await?;
    flow_is(platform, id, "open").await?;
    let far = FAR.to_string();
    platform.client.set_network(id, &network(true, &[], &[&far])).await?;
    assert!(!reaches(platform, id).await?);
    flow_is(platform, id, "cut").await?;

    platform.pause(id).await?;
    platform.resume(id).await?;
    assert!(!reaches(platform, id).await?, "after a pause");
    platform.kill()?;
    *platform = Platform::start("0").await?;
    assert!(!reaches(platform, id).await?, "after a crash");
    assert!(!reaches(platform, closed).await?, "after a crash");
    let clone = match platform.client.fork(id, &ForkCapsule::default()).await?.remove(0) {
        Forked::Capsule(capsule) => capsule.id,
        Forked::Error { message, .. } => return Err(message.into()),
    };
    assert!(!reaches(platform, clone).await?, "in a clone");

    platform.client.set_network(id, &network(false, &["198.51.100.0/24"], &["0.0.0.0/0"])).await?;
    assert!(reaches(platform, id).await?, "what is allowed goes before what is denied");
    platform.pause(id).await?;
    platform.client.set_network(id, &network(false, &["1.1.1.1"], &[])).await?;
    platform.resume(id).await?;
    assert!(!reaches(platform, id).await?, "changed while it was paused");
    platform.client.set_network(id, &Network::default()).await?;
    assert!(reaches(platform, id).await?, "as at first");
    for id in [id, closed, clone] {
        platform.destroy(id).await?;
    }
    Ok(())
}
