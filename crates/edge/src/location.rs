//! Redirects of a program that does not know it is behind `/proxy/{id}/{port}`.

use crate::Target;

/// Names by which a program in the guest may call itself.
const GUEST_NAMES: [&str; 4] = ["localhost", "127.0.0.1", "[::1]", "169.254.0.21"];

/// The redirect as seen from before the prefix: root-relative ones and absolute ones to the target itself get it.
/// `None` = leave it; so for relative ones, for `//host/…` and for other hosts.
pub(crate) fn add_prefix(location: &str, target: &Target) -> Option<String> {
    let path = if location.starts_with("//") {
        return None;
    } else if location.starts_with('/') {
        location
    } else {
        own_path(location, target.port)?
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some(format!("{}{slash}{path}", target.path_prefix()))
}

/// The redirect without the prefix an agent has added. `None` = it has none.
pub(crate) fn strip_prefix(location: &str, target: &Target) -> Option<String> {
    let rest = location.strip_prefix(&target.path_prefix())?;
    match rest.chars().next() {
        None => Some("/".to_owned()),
        Some('/') => Some(rest.to_owned()),
        Some('?' | '#') => Some(format!("/{rest}")),
        Some(_) => None,
    }
}

/// What follows the authority of an absolute URL that names the target itself.
fn own_path(location: &str, port: u16) -> Option<&str> {
    let (scheme, rest) = location.split_once("://")?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => 80,
        "https" | "wss" => 443,
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (host, named_port) = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.ends_with(']') => (host, digits.parse().ok()?),
        _ => (authority, default_port),
    };
    let own = GUEST_NAMES.iter().any(|name| name.eq_ignore_ascii_case(host)) && named_port == port;
    own.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::CapsuleId;

    #[test]
    fn there_and_back() {
        let target = Target { capsule: CapsuleId::random(), port: 8080 };
        for (location, public) in [
            ("/login", Some("/login")),
            ("/", Some("/")),
            ("/a/?next=/b#c", Some("/a/?next=/b#c")),
            ("http://localhost:8080/x", Some("/x")),
            ("http://169.254.0.21:8080", Some("/")),
            ("http://[::1]:8080?q", Some("/?q")),
            ("http://localhost/x", None),
            ("http://localhost:9090/x", None),
            ("https://example.com/x", None),
            ("//example.com/x", None),
            ("next", None),
            ("../up", None),
            ("?page=2", None),
            ("", None),
        ] {
            let prefixed = add_prefix(location, &target);
            let stripped = prefixed.as_deref().and_then(|p| strip_prefix(p, &target));
            assert_eq!(stripped.as_deref(), public, "{location}");
        }
        assert_eq!(strip_prefix(&format!("{}0/x", target.path_prefix()), &target), None);
    }
}
