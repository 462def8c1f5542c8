//! Headers that belong to one connection, and those that tell the next one about the client.

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use std::net::IpAddr;

/// RFC 9110 §7.6.1, and the ones older clients send.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The protocol the client wants to switch to, if it asks for one (RFC 9110 §7.8).
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked =
        headers.get_all(CONNECTION).iter().any(|value| tokens(value).any(|t| t.eq_ignore_ascii_case("upgrade")));
    if asked { headers.get(UPGRADE).cloned() } else { None }
}

/// Removes what does not go further, `Connection`'s nominees included; puts the upgrade back.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| tokens(value).filter_map(|token| HeaderName::try_from(token).ok()).collect::<Vec<_>>())
        .collect();
    for name in nominated {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Appends the client's address, and says by which name and scheme it came unless a proxy before us did.
pub(crate) fn add_forwarded(headers: &mut HeaderMap, client: Option<IpAddr>, host: Option<&HeaderValue>) {
    if let Some(client) = client {
        let mut chain: Vec<String> =
            headers.get_all(&FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
        chain.push(client.to_string());
        if let Ok(value) = HeaderValue::from_str(&chain.join(", ")) {
            headers.insert(FORWARDED_FOR, value);
        }
    }
    if let Some(host) = host {
        headers.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn connection_headers_stay_behind() {
        let mut headers = map(&[("connection", "close, X-Mine"), ("x-mine", "1"), ("te", "trailers"), ("accept", "a")]);
        strip_hop_by_hop(&mut headers, None);
        assert_eq!(headers, map(&[("accept", "a")]));
    }

    #[test]
    fn upgrades_go_on() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("keep-alive", "5")]);
        let protocol = upgrade(&headers);
        strip_hop_by_hop(&mut headers, protocol);
        assert_eq!(headers, map(&[("upgrade", "websocket"), ("connection", "upgrade")]));
        assert_eq!(upgrade(&map(&[("upgrade", "websocket")])), None, "not nominated: not an upgrade");
    }

    #[test]
    fn the_client_is_appended() {
        let mut headers = map(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https")]);
        add_forwarded(&mut headers, Some([1, 2, 3, 4].into()), Some(&HeaderValue::from_static("a.b")));
        assert_eq!(
            headers,
            map(&[
                ("x-forwarded-for", "10.0.0.1, 1.2.3.4"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "a.b")
            ])
        );
    }
}
