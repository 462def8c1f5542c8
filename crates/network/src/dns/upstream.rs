//! Asking the host's resolvers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::message::{Failure, Query};
use crate::limits;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;

/// Whom to ask.
#[derive(Debug, Clone, Default)]
pub enum Resolvers {
    /// The host's, from `/etc/resolv.conf`, followed when it changes.
    #[default]
    Host,
    /// These, in this order; the first three are used.
    Fixed(Vec<SocketAddr>),
}

/// How a question came and is passed on: answers over UDP may be cut off, which is what TCP is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Shared by the name servers of all slots.
#[derive(Debug)]
pub(crate) struct Upstream {
    resolvers: Resolvers,
    known: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
    in_flight: Semaphore,
}

impl Upstream {
    pub(crate) fn new(resolvers: Resolvers) -> Self {
        Self { resolvers, known: Mutex::new(None), in_flight: Semaphore::new(limits::DNS_IN_FLIGHT_TOTAL) }
    }

    /// An answer in any case: the first resolver's that gives one, else a failure.
    pub(super) async fn answer(&self, query: &Query, transport: Transport) -> Vec<u8> {
        let Ok(_permit) = self.in_flight.try_acquire() else { return query.failure(Failure::Server) };
        for resolver in self.addresses() {
            let exchange = async {
                match transport {
                    Transport::Udp => ask_udp(resolver, query).await,
                    Transport::Tcp => ask_tcp(resolver, query).await,
                }
            };
            match tokio::time::timeout(limits::DNS_TIMEOUT, exchange).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "resolver failed"),
                Err(_) => tracing::debug!(%resolver, "resolver is silent"),
            }
        }
        query.failure(Failure::Server)
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        match &self.resolvers {
            Resolvers::Fixed(addresses) => addresses.iter().copied().take(limits::DNS_RESOLVERS).collect(),
            Resolvers::Host => self.host_addresses(),
        }
    }

    fn host_addresses(&self) -> Vec<SocketAddr> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((read, addresses)) if read.elapsed() < limits::DNS_RESOLVERS_AGE => addresses.clone(),
            _ => {
                let addresses = parse(&read_resolv_conf());
                *known = Some((Instant::now(), addresses.clone()));
                addresses
            }
        }
    }
}

/// What each of these resolvers makes of a question that none can be without an answer to: the root's name servers. For
/// whoever wants to know before a guest asks. Takes three seconds at most.
pub async fn try_resolvers(resolvers: Resolvers) -> Vec<(SocketAddr, io::Result<()>)> {
    // RFC 1035 §4.1: recursion desired, one question, the empty name, type NS, class IN.
    const QUESTION: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01";
    let Some(query) = &Query::parse(QUESTION) else { return Vec::new() };
    let asked = Upstream::new(resolvers).addresses().into_iter().map(async |resolver| {
        let answer = tokio::time::timeout(limits::DNS_TIMEOUT, ask_udp(resolver, query)).await;
        let judged =
            answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).and_then(|answer| {
                match Failure::of(&answer) {
                    None => Ok(()),
                    Some(Failure::Server) => Err(io::Error::other("it finds no answer itself")),
                    Some(Failure::Refused) => Err(io::Error::other("it refuses to answer this host")),
                }
            });
        (resolver, judged)
    });
    futures_util::future::join_all(asked).await
}

fn read_resolv_conf() -> String {
    let mut text = String::new();
    let read = std::fs::File::open(RESOLV_CONF)
        .and_then(|file| io::Read::read_to_string(&mut io::Read::take(file, limits::DNS_RESOLV_CONF_BYTES), &mut text));
    if let Err(error) = read {
        tracing::warn!(%error, "cannot read {RESOLV_CONF}");
    }
    text
}

/// resolv.conf(5): without a usable line the resolver of this machine is meant.
fn parse(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next()?;
        let address: IpAddr = words.next()?.parse().ok()?;
        (keyword == "nameserver").then_some(SocketAddr::new(address, DNS_PORT))
    };
    let found: Vec<_> = text.lines().filter_map(address).take(limits::DNS_RESOLVERS).collect();
    if found.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))] } else { found }
}

/// A socket per question: a random port besides the random id, and connected, so that nobody else's packets arrive.
async fn ask_udp(resolver: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    let any = if resolver.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    let id = rand::random();
    socket.send(&query.with_id(id)).await?;
    let mut buffer = vec![0; limits::DNS_UDP_ANSWER_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default().to_vec();
        if let Some(answer) = query.accept(answer, id) {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(resolver: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let id = rand::random();
    stream.write_all(&framed(&query.with_id(id))).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    query
        .accept(answer, id)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"))
}

/// RFC 1035 §4.2.2: over TCP a length of two bytes goes first. What does not fit into it cannot occur: queries are
/// bounded, answers came with such a length themselves.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_of_a_host() {
        let cases = [
            ("", "127.0.0.1:53"),
            ("# nameserver 9.9.9.9\nsearch x\nnameserver\nnameserver none\n", "127.0.0.1:53"),
            (
                "nameserver 10.0.0.1\nnameserver\t2001:db8::1\n nameserver 10.0.0.2 x\nnameserver 10.0.0.3",
                "10.0.0.1:53 [2001:db8::1]:53 10.0.0.2:53",
            ),
        ];
        for (text, expected) in cases {
            let found: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected, "{text}");
        }
    }
}
