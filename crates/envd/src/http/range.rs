//! Part of a file (RFC 9110 section 14).

use std::time::{Duration, SystemTime};

use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName};

/// What of a file is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    /// First byte and length; the length is not 0.
    Part {
        start: u64,
        length: u64,
    },
    /// 304: the client has it.
    NotModified,
    /// 416.
    Unsatisfiable,
}

/// What the headers ask of a file of this size and age.
pub(super) fn wanted(headers: &HeaderMap, size: u64, modified: Option<SystemTime>) -> Wanted {
    if let (Some(modified), Some(known), false) =
        (modified, date(headers, &IF_MODIFIED_SINCE), headers.contains_key(IF_NONE_MATCH))
        && whole_seconds(modified) <= known
    {
        return Wanted::NotModified;
    }
    // Without entity tags only a date can match.
    let still_the_same = match (headers.contains_key(IF_RANGE), modified) {
        (false, _) => true,
        (true, Some(modified)) => date(headers, &IF_RANGE) == Some(whole_seconds(modified)),
        (true, None) => false,
    };
    match headers.get(RANGE).and_then(|value| value.to_str().ok()) {
        Some(range) if still_the_same => part(range, size),
        _ => Wanted::Whole,
    }
}

/// Several ranges at once, and units we do not know, are answered with the whole file, as a server may.
fn part(range: &str, size: u64) -> Wanted {
    let Some(range) = range.trim().strip_prefix("bytes=") else { return Wanted::Whole };
    let Some((first, last)) = range.trim().split_once('-') else { return Wanted::Whole };
    let (first, last) = (first.trim(), last.trim());
    let bounds = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(suffix)) if first.is_empty() && suffix > 0 => (size.saturating_sub(suffix), size.saturating_sub(1)),
        (Err(_), Ok(0)) if first.is_empty() => return Wanted::Unsatisfiable,
        _ => return Wanted::Whole,
    };
    match bounds {
        (start, _) if start >= size => Wanted::Unsatisfiable,
        (start, end) => Wanted::Part { start, length: end - start + 1 },
    }
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

/// HTTP dates know no fractions.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ten_bytes() {
        let part_of = |start, length| Wanted::Part { start, length };
        for (range, expected) in [
            ("bytes=0-0", part_of(0, 1)),
            ("bytes=2-5", part_of(2, 4)),
            ("bytes=2-", part_of(2, 8)),
            ("bytes=2-99", part_of(2, 8)),
            ("bytes=-3", part_of(7, 3)),
            ("bytes=-99", part_of(0, 10)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
        ] {
            assert_eq!(part(range, 10), expected, "{range}");
        }
        assert_eq!(part("bytes=0-", 0), Wanted::Unsatisfiable);
    }
}
