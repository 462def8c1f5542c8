//! Identifiers: a prefix and the 128 bits of a UUID as 25 digits of base 36.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Length of the part after the prefix.
pub const ID_DIGITS: usize = 25;

/// Why a text is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind} id (expected `{prefix}` and 25 of 0-9, a-z)")]
pub struct ParseIdError {
    kind: &'static str,
    prefix: &'static str,
}

fn encode(mut value: u128) -> String {
    let mut digits = [b'0'; ID_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(value % 36) as usize];
        value /= 36;
    }
    digits.iter().map(|&d| char::from(d)).collect()
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != ID_DIGITS {
        return None;
    }
    text.bytes().try_fold(0_u128, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'z' => byte - b'a' + 10,
            _ => return None,
        };
        value.checked_mul(36)?.checked_add(u128::from(digit))
    })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// What its text begins with.
            pub const PREFIX: &'static str = $prefix;

            /// A new random one.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// Of a stored UUID.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// As stored.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// The 25 digits without the prefix.
            #[must_use]
            pub fn digits(self) -> String {
                encode(self.0.as_u128())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, encode(self.0.as_u128()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix($prefix)
                    .and_then(decode)
                    .map(|value| Self(Uuid::from_u128(value)))
                    .ok_or(ParseIdError { kind: $kind, prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(/// A capsule (a microVM), `cl-…`.
    CapsuleId, "capsule", "cl-");
id!(/// A user, `usr-…`.
    UserId, "user", "usr-");
id!(/// A team, `team-…`.
    TeamId, "team", "team-");
id!(/// An API key, `key-…`.
    KeyId, "API key", "key-");
id!(/// A host, `host-…`.
    HostId, "host", "host-");
id!(/// A template. Templates are addressed by name; this is their stored id, `tpl-…`.
    TemplateId, "template", "tpl-");
id!(/// One request, `req_…`, for logs and error answers.
    RequestId, "request", "req_");

impl CapsuleId {
    /// Accepts `cl-` + 25 digits and the bare 25 digits, which E2B clients and host names use.
    pub fn parse_lenient(text: &str) -> Result<Self, ParseIdError> {
        match decode(text) {
            Some(value) => Ok(Self(Uuid::from_u128(value))),
            None => text.parse(),
        }
    }
}

impl TeamId {
    /// The platform itself: owner of the built-in templates.
    pub const PLATFORM: Self = Self(Uuid::nil());
}

impl TemplateId {
    /// The built-in template `minimal`.
    pub const MINIMAL: Self = Self(Uuid::nil());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trip(value: u128) {
            let id = CapsuleId::from_uuid(Uuid::from_u128(value));
            prop_assert_eq!(id.to_string().parse::<CapsuleId>(), Ok(id));
            prop_assert_eq!(CapsuleId::parse_lenient(&id.digits()), Ok(id));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = CapsuleId::parse_lenient(&text);
        }
    }

    #[test]
    fn bad_texts_are_refused() {
        let too_large = format!("cl-{}", "z".repeat(25));
        for text in ["", "cl-", "cl-0", "usr-0000000000000000000000000", &too_large, "cl-000000000000000000000000A"] {
            assert!(text.parse::<CapsuleId>().is_err(), "{text}");
        }
    }
}
