//! Which encoding an answer gets (RFC 9110 section 12.5.3).

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};

/// How a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

/// None when the client accepts nothing we have. Ranges and conditions are about the file itself, so they demand
/// identity.
pub(super) fn choose(headers: &HeaderMap) -> Option<Encoding> {
    let values: Vec<_> = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).collect();
    let accepted = Accepted::parse(&values.join(","));
    let exact = [RANGE, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE].iter().any(|name| headers.contains_key(name));
    if exact {
        return accepted.identity_allowed().then_some(Encoding::Identity);
    }
    accepted.best()
}

/// Codings with their weights in thousandths, in the client's order.
struct Accepted(Vec<(String, u16)>);

impl Accepted {
    fn parse(header: &str) -> Self {
        let codings = header.split(',').filter_map(|item| {
            let mut parts = item.split(';').map(str::trim);
            let coding = parts.next().filter(|coding| !coding.is_empty())?.to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            Some((coding, weight.map_or(1000, thousandths)))
        });
        Self(codings.collect())
    }

    fn weight(&self, name: &str) -> Option<u16> {
        self.0.iter().find(|(coding, _)| coding == name).map(|(_, weight)| *weight)
    }

    fn identity_allowed(&self) -> bool {
        self.weight("identity").or_else(|| self.weight("*")) != Some(0)
    }

    fn best(&self) -> Option<Encoding> {
        let gzip_forbidden = self.weight("gzip").or_else(|| self.weight("x-gzip")) == Some(0);
        let wildcard = if self.identity_allowed() { Encoding::Identity } else { Encoding::Gzip };
        let mut best: Option<(Encoding, u16)> = None;
        for (coding, weight) in self.0.iter().filter(|(_, weight)| *weight > 0) {
            let encoding = match coding.as_str() {
                "gzip" | "x-gzip" => Encoding::Gzip,
                "identity" => Encoding::Identity,
                "*" if wildcard == Encoding::Gzip && gzip_forbidden => continue,
                "*" => wildcard,
                _ => continue,
            };
            if best.is_none_or(|(_, heaviest)| *weight > heaviest) {
                best = Some((encoding, *weight));
            }
        }
        best.map(|(encoding, _)| encoding).or_else(|| self.identity_allowed().then_some(Encoding::Identity))
    }
}

/// `0.5` → 500. What is not a weight counts as 1.
fn thousandths(text: &str) -> u16 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
    text.parse::<f32>().map_or(1000, |weight| (weight.clamp(0.0, 1.0) * 1000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation() {
        use Encoding::{Gzip, Identity};
        for (header, expected) in [
            ("", Some(Identity)),
            ("gzip", Some(Gzip)),
            ("zstd,gzip,br", Some(Gzip)),
            ("br", Some(Identity)),
            ("identity, gzip", Some(Identity)),
            ("gzip;q=0.5, identity;q=0.8", Some(Identity)),
            ("gzip;q=0", Some(Identity)),
            ("*", Some(Identity)),
            ("identity;q=0", None),
            ("identity;q=0, *", Some(Gzip)),
            ("identity;q=0, gzip;q=0, *", None),
            ("*;q=0", None),
            ("*;q=0, gzip", Some(Gzip)),
            ("*;q=0, identity", Some(Identity)),
        ] {
            assert_eq!(Accepted::parse(header).best(), expected, "{header}");
        }
    }

    #[test]
    fn ranges_demand_identity() {
        let headers = |accept: &'static str| {
            let pairs = [(ACCEPT_ENCODING, accept), (RANGE, "bytes=0-1")];
            pairs.into_iter().map(|(name, value)| (name, http::HeaderValue::from_static(value))).collect::<HeaderMap>()
        };
        assert_eq!(choose(&headers("gzip")), Some(Encoding::Identity));
        assert_eq!(choose(&headers("gzip, identity;q=0")), None);
    }
}
