//! As much of the DNS wire format (RFC 1035 §4) as a forwarder needs: the header and the one question.

use crate::limits;

const HEADER_BYTES: usize = 12;
/// Longest name, RFC 1035 §2.3.4.
const NAME_BYTES: usize = 255;
/// Longest label; larger length bytes are compression pointers, which a question has no use for.
const LABEL_BYTES: u8 = 63;

/// `QR` in the third byte: this is an answer.
const ANSWER: u8 = 0x80;
/// `opcode` and `RD` in the third byte: what an answer repeats.
const REPEATED: u8 = 0x79;
/// `RA` in the fourth byte.
const RECURSION_AVAILABLE: u8 = 0x80;

/// Codes of answers the forwarder gives by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No resolver answered.
    Server = 2,
    /// The guest's policy lets no query out.
    Refused = 5,
}

impl Failure {
    /// What an answer says it is, if it is one of these.
    pub(super) fn of(answer: &[u8]) -> Option<Self> {
        let code = answer.get(3)? & 0x0F;
        [Self::Server, Self::Refused].into_iter().find(|failure| *failure as u8 == code)
    }
}

/// A well-formed query with one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    bytes: Vec<u8>,
    question_end: usize,
}

impl Query {
    /// `None` for anything that is no plain query of acceptable size.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let one_question = header[4..6] == [0, 1];
        if bytes.len() > limits::DNS_QUERY_BYTES || header[2] & ANSWER != 0 || !one_question {
            return None;
        }
        Some(Self { bytes: bytes.to_vec(), question_end: question_end(bytes)? })
    }

    /// The query under another id: a guest chooses predictable ones, a forger would guess them.
    pub(super) fn with_id(&self, id: u16) -> Vec<u8> {
        replace_id(self.bytes.clone(), id)
    }

    /// The answer under the guest's id, if it is one to this query sent under `id`.
    pub(super) fn accept(&self, answer: Vec<u8>, id: u16) -> Option<Vec<u8>> {
        let header: &[u8; HEADER_BYTES] = answer.first_chunk()?;
        let matches = header[..2] == id.to_be_bytes() && header[2] & ANSWER != 0;
        // Some resolvers leave the question out of an error (RFC 1035 does not demand it).
        let bare_error = header[4..6] == [0, 0] && header[3] & 0x0F != 0;
        let question = answer.get(HEADER_BYTES..self.question_end);
        // Length bytes of labels are below the letters, so the comparison may ignore the case of everything.
        let repeats = question.is_some_and(|question| question.eq_ignore_ascii_case(self.question()));
        (matches && (repeats || bare_error)).then(|| replace_id(answer, self.id()))
    }

    /// An answer of our own.
    pub(super) fn failure(&self, failure: Failure) -> Vec<u8> {
        let mut answer = Vec::with_capacity(self.question_end);
        answer.extend(self.id().to_be_bytes());
        let flags = self.bytes.get(2).copied().unwrap_or_default() & REPEATED;
        answer.extend([ANSWER | flags, RECURSION_AVAILABLE | failure as u8]);
        answer.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        answer.extend(self.question());
        answer
    }

    fn id(&self) -> u16 {
        self.bytes.first_chunk().copied().map_or(0, u16::from_be_bytes)
    }

    fn question(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..self.question_end).unwrap_or_default()
    }
}

fn replace_id(mut message: Vec<u8>, id: u16) -> Vec<u8> {
    if let Some(old) = message.first_chunk_mut() {
        *old = id.to_be_bytes();
    }
    message
}

/// Where the question ends: labels up to an empty one, then type and class.
fn question_end(bytes: &[u8]) -> Option<usize> {
    let mut position = HEADER_BYTES;
    loop {
        let length = *bytes.get(position)?;
        position += 1 + usize::from(length);
        if length > LABEL_BYTES || position - HEADER_BYTES > NAME_BYTES {
            return None;
        }
        if length == 0 {
            let end = position + 4;
            return (end <= bytes.len()).then_some(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03WwW\x07example\x00\x00\x01\x00\x01";

    fn answer(id: u16, question: &[u8]) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend(b"\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00");
        bytes.extend(question);
        bytes
    }

    #[test]
    fn only_the_answer_to_this_query_is_accepted() {
        let query = Query::parse(QUERY).unwrap();
        let question = &QUERY[HEADER_BYTES..];
        let accepted = query.accept(answer(7, &question.to_ascii_lowercase()), 7).unwrap();
        assert_eq!(accepted[..2], [0x12, 0x34]);
        assert_eq!(query.accept(answer(8, question), 7), None, "another id");
        assert_eq!(query.accept(answer(7, b"\x03foo\x07example\x00\x00\x01\x00\x01"), 7), None, "another question");
        assert_eq!(query.accept(query.with_id(7), 7), None, "a query");
        assert_eq!(query.accept(vec![0, 7], 7), None, "a stump");
        assert!(
            query.accept(b"\x00\x07\x81\x81\x00\x00\x00\x00\x00\x00\x00\x00".to_vec(), 7).is_some(),
            "a bare error"
        );
    }

    #[test]
    fn failures_repeat_the_question() {
        let refused = Query::parse(QUERY).unwrap().failure(Failure::Refused);
        assert_eq!(refused[..12], *b"\x12\x34\x81\x85\x00\x01\x00\x00\x00\x00\x00\x00");
        assert_eq!(refused[12..], QUERY[12..]);
    }

    #[test]
    fn what_is_no_query() {
        let with = |at: usize, value: u8| {
            let mut bytes = QUERY.to_vec();
            bytes[at] = value;
            bytes
        };
        let cases = [
            vec![],
            QUERY[..11].to_vec(),
            QUERY[..QUERY.len() - 1].to_vec(),
            with(2, 0x81),
            with(5, 2),
            with(12, 0xC0),
            with(12, 64),
        ];
        for bytes in cases {
            assert_eq!(Query::parse(&bytes), None, "{bytes:?}");
        }
        assert_eq!(Query::parse(&[QUERY, &[0; limits::DNS_QUERY_BYTES]].concat()), None);
    }

    proptest! {
        /// Guests and networks send anything.
        #[test]
        fn any_bytes_are_survived(mut bytes: Vec<u8>, reply: Vec<u8>, id: u16) {
            for message in [bytes.clone(), { bytes.splice(..0, QUERY.iter().copied()); bytes }] {
                if let Some(query) = Query::parse(&message) {
                    prop_assert_eq!(Query::parse(&query.with_id(id)).map(|q| q.id()), Some(id));
                    prop_assert!(query.accept(query.failure(Failure::Server), query.id()).is_some());
                    let _ = query.accept(reply.clone(), id);
                }
            }
        }
    }
}
