//! What a request is meant for: a port of a capsule.

use model::CapsuleId;
use std::fmt;

/// The guest daemon's port.
pub const GUEST_DAEMON_PORT: u16 = 49_983;

/// Paths of the guest daemon that only the capsule's host may use.
const GUEST_CONTROL: [&str; 5] = ["init", "snapshot", "freeze", "unfreeze", "upgrade"];

/// A port of a capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// The capsule.
    pub capsule: CapsuleId,
    /// TCP port in the guest.
    pub port: u16,
}

impl Target {
    /// The target in a host name `{port}-{id}.{domain}`, `id` with or without `cl-`. `None` when the name has
    /// another shape, so that the request is not for a capsule.
    #[must_use]
    pub fn from_host(host: &str) -> Option<Self> {
        let (label, _) = host.split_once('.')?;
        let label = label.to_ascii_lowercase();
        let (port, id) = label.split_once('-')?;
        // Some E2B clients append `-{client}` to the id.
        let bare = || CapsuleId::parse_lenient(id.split('-').next().unwrap_or_default());
        Some(Self { capsule: CapsuleId::parse_lenient(id).or_else(|_| bare()).ok()?, port: parse_port(port)? })
    }

    /// The target and the rest of a path `/proxy/{id}/{port}{rest}`; the rest is empty or begins with `/`.
    #[must_use]
    pub fn from_path(path: &str) -> Option<(Self, &str)> {
        let (id, rest) = path.strip_prefix("/proxy/")?.split_once('/')?;
        let end = rest.find('/').unwrap_or(rest.len());
        let (port, rest) = rest.split_at(end);
        Some((Self { capsule: CapsuleId::parse_lenient(id).ok()?, port: parse_port(port)? }, rest))
    }

    /// `/proxy/{id}/{port}`: what an agent finds a target by.
    #[must_use]
    pub fn path_prefix(&self) -> String {
        format!("/proxy/{}/{}", self.capsule, self.port)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.capsule, self.port)
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|port| *port != 0)
}

/// Whether this is one of the guest daemon's routes that only the host may use. Looks through percent-encoding and
/// doubled slashes, so that no spelling the daemon might accept gets past it.
#[must_use]
pub fn is_guest_control(port: u16, path: &str) -> bool {
    if port != GUEST_DAEMON_PORT {
        return false;
    }
    let decoded = decode(path);
    let first = decoded.split(|b| *b == b'/').find(|part| !part.is_empty() && *part != b".");
    first.is_some_and(|first| GUEST_CONTROL.iter().any(|control| control.as_bytes().eq_ignore_ascii_case(first)))
}

fn decode(path: &str) -> Vec<u8> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex =
            (byte == b'%').then(|| path.get(at + 1..at + 3)).flatten().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(hex.unwrap_or(byte));
        at += if hex.is_some() { 3 } else { 1 };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "0000000000000000000000abc";

    fn capsule() -> CapsuleId {
        CapsuleId::parse_lenient(DIGITS).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn host_names() {
        for (host, port) in [
            (format!("8080-{DIGITS}.example.com"), Some(8080)),
            (format!("8080-cl-{DIGITS}.localhost:8000"), Some(8080)),
            (format!("49983-{DIGITS}-deadbeef.e.x"), Some(49983)),
            (format!("8080-{}.LOCALHOST", DIGITS.to_uppercase()), Some(8080)),
            (format!("0-{DIGITS}.x"), None),
            (format!("65536-{DIGITS}.x"), None),
            (format!("+80-{DIGITS}.x"), None),
            (format!("8080-{DIGITS}"), None),
            ("8080-short.x".to_owned(), None),
            ("127.0.0.1:8000".to_owned(), None),
            ("my-host.example.com".to_owned(), None),
        ] {
            let want = port.map(|port| Target { capsule: capsule(), port });
            assert_eq!(Target::from_host(&host), want, "{host}");
        }
    }

    #[test]
    fn paths() {
        let target = Target { capsule: capsule(), port: 80 };
        let prefix = target.path_prefix();
        for rest in ["", "/", "/a/", "/a%2Fb"] {
            assert_eq!(Target::from_path(&format!("{prefix}{rest}")), Some((target, rest)), "{rest}");
        }
        for path in
            ["/proxy/", "/proxy/x/80/", "/other", &format!("/proxy/cl-{DIGITS}"), &format!("/proxy/cl-{DIGITS}/x/")]
        {
            assert_eq!(Target::from_path(path), None, "{path}");
        }
    }

    #[test]
    fn control_routes() {
        for path in [
            "/init",
            "/init/",
            "//init",
            "/%69nit",
            "/./init",
            "/INIT",
            "/snapshot/prepare",
            "/snapshot/hold",
            "/freeze",
            "/upgrade",
        ] {
            assert!(is_guest_control(GUEST_DAEMON_PORT, path), "{path}");
            assert!(!is_guest_control(8080, path), "{path}");
        }
        for path in ["/", "/health", "/files", "/initial", "/process.Process/Start", "/%", "/%zz"] {
            assert!(!is_guest_control(GUEST_DAEMON_PORT, path), "{path}");
        }
    }
}
