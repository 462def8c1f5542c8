//! A host in a network namespace of its own, an "Internet" behind it, and guests that are namespaces behind a TAP
//! device. Everything ends with the values; nothing of it is visible on the real host but names in `/run/netns`.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use network::{Adoption, InstanceId, Network, NetworkOptions, Orphans, Resolvers, Slot};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::event::{PollFd, PollFlags, poll};
use sys::spawn::Spawn;

/// The host's address on the way to the Internet, and the Internet's next hop with a server on every address.
pub const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// More addresses of that server, reached through the host's default route.
pub const FAR: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
pub const PRIVATE: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 1, 2, 3),
    Ipv4Addr::new(100, 64, 1, 1),
    Ipv4Addr::new(172, 16, 5, 5),
    Ipv4Addr::new(192, 168, 7, 7),
];
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
pub const PORT: u16 = 80;

/// How long a packet that should not arrive is given.
const PATIENCE: Duration = Duration::from_millis(700);

/// Runs a test on a host of its own.
pub fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F + Send + 'static) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests of this crate need root");
        ip("link set lo up");
        let lab = Lab::build();
        // Dropped after the runtime, whose tasks may still make some when a test fails.
        let _names = Names(lab.instance.clone());
        // Its threads are made by this one and so are on the same host.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test(lab));
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

pub struct Lab {
    pub home: tempfile::TempDir,
    pub instance: InstanceId,
    internet: OwnedFd,
}

impl Lab {
    fn build() -> Self {
        let host = namespace();
        let internet = within_new(|| {
            ip("link set lo up");
            namespace()
        });
        // The pair is made here and one end moved by way of a process that is inside: `ip` knows no descriptors.
        ip("link add up0 type veth peer name net0");
        within(&internet, || {
            let anchor = Spawn::new("sleep").arg("60").env("PATH", PATH).spawn().unwrap();
            within(&host, || ip(&format!("link set net0 netns {}", anchor.pid())));
            end(anchor);
            ip(&format!("addr add {INTERNET}/24 dev net0"));
            ip("link set net0 up");
            for address in [FAR, METADATA].iter().chain(&PRIVATE) {
                ip(&format!("addr add {address}/32 dev net0"));
            }
            serve(Ipv4Addr::UNSPECIFIED);
        });
        ip(&format!("addr add {HOST}/24 dev up0"));
        ip("link set up0 up");
        ip(&format!("route add default via {INTERNET}"));
        serve(Ipv4Addr::UNSPECIFIED);
        Self { home: tempfile::tempdir().unwrap(), instance: random_instance(), internet }
    }

    pub fn options(&self, ready_slots: usize) -> NetworkOptions {
        options(&self.instance, self.home.path(), ready_slots)
    }

    pub async fn adoption(&self) -> Adoption {
        Network::open(self.options(0)).await.unwrap()
    }

    pub async fn network(&self, ready_slots: usize) -> Network {
        Network::open(self.options(ready_slots)).await.unwrap().finish(Orphans::Remove).await
    }

    pub fn on_the_internet<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        within(&self.internet, job)
    }
}

/// Returns when a released slot is ready again.
pub async fn recycled(network: &Network) {
    let released = Instant::now();
    while network.ready() == 0 {
        assert!(released.elapsed() < Duration::from_mins(1), "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn options(instance: &InstanceId, home: &Path, ready_slots: usize) -> NetworkOptions {
    NetworkOptions {
        instance: instance.clone(),
        wrenn_dir: home.into(),
        ready_slots,
        resolvers: Resolvers::Fixed(Vec::new()),
    }
}

/// Links and tables go with the host's namespace; names of namespaces do not, unless with this.
pub struct Names(pub InstanceId);

impl Drop for Names {
    fn drop(&mut self) {
        for name in namespaces(&self.0) {
            let path = Path::new("/run/netns").join(name);
            let _ = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH);
            let _ = std::fs::remove_file(path);
        }
    }
}

pub fn random_instance() -> InstanceId {
    format!("{:07x}", rand::random::<u32>() >> 4).parse().unwrap()
}

/// Names of the instance's namespaces that exist.
pub fn namespaces(instance: &InstanceId) -> Vec<String> {
    let prefix = format!("wr{instance}-");
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// A guest of a slot: a namespace whose interface is the other end of the slot's TAP device, as a VMM would make it.
pub struct Guest {
    namespace: OwnedFd,
    stop: Option<io::PipeWriter>,
    wire: Option<std::thread::JoinHandle<()>>,
}

impl Guest {
    /// A guest whose packets arrive: the kernel may take a second to notice that its TAP devices have a carrier.
    pub fn boot(slot: &Slot) -> Self {
        let guest = Self::boot_unheard(slot);
        let gateway = SocketAddr::from((network::GATEWAY_ADDRESS, PORT));
        let began = Instant::now();
        let refused = || guest.run(|| TcpStream::connect_timeout(&gateway, PATIENCE)).err().map(|error| error.kind());
        while refused() != Some(io::ErrorKind::ConnectionRefused) {
            assert!(began.elapsed() < Duration::from_mins(1), "the gateway is silent");
        }
        guest
    }

    /// A guest that has not sent anything yet.
    pub fn boot_unheard(slot: &Slot) -> Self {
        let slot = &slot.namespace_fd().unwrap();
        let outer = within(slot, || sys::tap::attach("tap0").unwrap());
        let (namespace, inner) = within_new(|| {
            let inner = sys::tap::attach("eth0").unwrap();
            ip("link set lo up");
            ip("link set eth0 address 02:fc:00:00:00:05 txqueuelen 10000 up");
            ip("addr add 169.254.0.21/30 dev eth0");
            ip("route add default via 169.254.0.22");
            serve(Ipv4Addr::UNSPECIFIED);
            (namespace(), inner)
        });
        let (stopped, stop) = io::pipe().unwrap();
        let wire = std::thread::spawn(move || carry(&outer.into(), &inner.into(), &stopped));
        Self { namespace, stop: Some(stop), wire: Some(wire) }
    }

    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        within(&self.namespace, job)
    }

    /// Whom the server at the address sees, if it is reached.
    pub fn visit(&self, address: Ipv4Addr) -> io::Result<IpAddr> {
        self.run(|| visit(address))
    }

    /// The answer to a datagram.
    pub fn ask(&self, to: SocketAddr, message: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(patience))?;
            socket.connect(to)?;
            socket.send(message)?;
            let mut buffer = vec![0; 65536];
            let length = socket.recv(&mut buffer)?;
            Ok(buffer[..length].to_vec())
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(wire) = self.wire.take() {
            wire.join().unwrap();
        }
    }
}

/// Carries frames both ways until `stopped` has no writer any longer.
fn carry(a: &File, b: &File, stopped: &io::PipeReader) {
    let mut frame = vec![0; 65536];
    loop {
        let wanted = PollFlags::IN;
        let mut ends =
            [PollFd::new(a, wanted), PollFd::new(b, wanted), PollFd::from_borrowed_fd(stopped.as_fd(), wanted)];
        poll(&mut ends, None).unwrap();
        let ready = ends.each_ref().map(|end| !end.revents().is_empty());
        if ready[2] {
            return;
        }
        for (is_ready, mut from, mut to) in [(ready[0], a, b), (ready[1], b, a)] {
            if is_ready {
                let length = from.read(&mut frame).unwrap();
                // A frame the other side does not take is lost, as on any wire.
                let _ = to.write(&frame[..length]);
            }
        }
    }
}

/// Connects to a server of ours from the current namespace and returns how it sees us.
pub fn visit(address: Ipv4Addr) -> io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, PORT)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.parse().map_err(io::Error::other)
}

/// A server in the current namespace that tells every visitor its address. It lives as long as the process, which
/// keeps the namespace's sockets but none of its names.
pub fn serve(address: Ipv4Addr) {
    let listener = TcpListener::bind((address, PORT)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            if let Ok(peer) = stream.peer_addr() {
                let _ = write!(stream, "{}", peer.ip());
            }
        }
    });
}

/// Runs a job on a thread inside a namespace.
pub fn within<T: Send>(namespace: &OwnedFd, job: impl FnOnce() -> T + Send) -> T {
    on_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        job()
    })
}

fn within_new<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        job()
    })
}

fn on_thread<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(job).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The calling thread's namespace.
pub fn namespace() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").unwrap().into()
}

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) -> String {
    command("ip", arguments.split(' '))
}

/// Runs a shell command in the calling thread's namespace.
pub fn sh(script: &str) -> String {
    command("sh", ["-ec", script])
}

fn command<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> String {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let output = Spawn::new(program).args(&arguments).env("PATH", PATH).output().unwrap();
    assert!(output.exit.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn end(mut process: sys::spawn::Process) {
    process.kill().unwrap();
    process.wait().unwrap();
}
