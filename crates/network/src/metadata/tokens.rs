//! The tokens of one guest.

use std::time::{Duration, Instant};

use subtle::{Choice, ConstantTimeEq as _};

use crate::limits;

const TOKEN_BYTES: usize = 32;

/// Tokens that were given out and are valid, the newest at the end.
#[derive(Debug, Default)]
pub(super) struct Tokens(Vec<Token>);

#[derive(Debug)]
struct Token {
    text: String,
    expires: Instant,
}

impl Tokens {
    /// A new token. It takes the place of the oldest where there are too many.
    pub(super) fn issue(&mut self, now: Instant, ttl_seconds: u32) -> String {
        self.0.retain(|token| now < token.expires);
        if self.0.len() >= limits::METADATA_TOKENS {
            self.0.remove(0);
        }
        let text = hex::encode(rand::random::<[u8; TOKEN_BYTES]>());
        self.0.push(Token { text: text.clone(), expires: now + Duration::from_secs(ttl_seconds.into()) });
        text
    }

    /// Whether this is one of them, in a time that does not tell how much of it is right.
    pub(super) fn accepts(&self, now: Instant, token: &[u8]) -> bool {
        let valid = self.0.iter().filter(|valid| now < valid.expires);
        valid.fold(Choice::from(0), |known, valid| known | valid.text.as_bytes().ct_eq(token)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_end_with_their_time_and_when_there_are_too_many() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut tokens = Tokens::default();
        let (short, long) = (tokens.issue(now, 1), tokens.issue(now, 21_600));
        assert_ne!(short, long);
        assert!(tokens.accepts(now, short.as_bytes()) && !tokens.accepts(after(1), short.as_bytes()));
        assert!(tokens.accepts(after(21_599), long.as_bytes()) && !tokens.accepts(after(21_600), long.as_bytes()));
        for wrong in ["", &long[1..], &short.replace(char::is_alphanumeric, "0")] {
            assert!(!tokens.accepts(now, wrong.as_bytes()), "{wrong}");
        }
        let last = (0..limits::METADATA_TOKENS).map(|_| tokens.issue(after(2), 60)).last();
        assert_eq!(tokens.0.len(), limits::METADATA_TOKENS);
        assert!(last.is_some_and(|last| tokens.accepts(after(2), last.as_bytes())));
        assert!(!tokens.accepts(after(2), long.as_bytes()));
    }
}
