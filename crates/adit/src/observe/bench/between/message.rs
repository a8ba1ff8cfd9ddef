//! What daemons tell each other about a bench, in notes of the topic `BENCH`: one JSON object each.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Terms;
use crate::notes::MAX_BODY;

/// Addresses that are told at most, so that a question fits into a note.
pub(super) const ADDRESSES: usize = 8;

/// One note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(super) enum Word {
    /// Please serve.
    Ask {
        /// Chosen at random; the answer has the same, and so has a repeated question.
        id: u64,
        /// The addresses of the asker's tunnel device.
        addresses: Vec<IpAddr>,
        /// How long the loads take together.
        seconds: u32,
    },
    /// It is served.
    Serve {
        id: u64,
        #[serde(flatten)]
        terms: Terms,
    },
    /// It is not.
    Refuse { id: u64, why: Why },
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Why {
    /// The host does not permit it to peers.
    Forbidden,
    /// Another bench is served.
    Busy,
    /// There are no two addresses of one family that packets could travel between.
    NoAddress,
    /// It asks for more time than is given.
    TooLong,
    /// It did not work: the reason is in the log there.
    Failed,
    /// A reason of a newer version.
    #[serde(other)]
    Unknown,
}

impl Word {
    /// The bytes of a note.
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What a note says; none if it is longer than a note may be, or says nothing that we know.
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        (body.len() <= MAX_BODY).then(|| serde_json::from_slice(body).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms() -> Terms {
        Terms {
            from: "fd77:1234:5678:9abc:def0:1234:5678:9abc".parse().unwrap(),
            to: "10.77.0.2".parse().unwrap(),
            port: 40_000,
            token: format!("{:032x}", u128::MAX),
            version: "0.1.0".into(),
        }
    }

    #[test]
    fn the_longest_question_fits_into_a_note() {
        let addresses = vec![terms().from; ADDRESSES];
        let word = Word::Ask { id: u64::MAX, addresses, seconds: u32::MAX };
        assert!(word.encode().len() <= MAX_BODY);
        assert_eq!(Word::decode(&word.encode()), Some(word));
    }

    #[test]
    fn what_is_said_is_understood() {
        for word in [Word::Serve { id: 1, terms: terms() }, Word::Refuse { id: u64::MAX, why: Why::Busy }] {
            assert_eq!(Word::decode(&word.encode()), Some(word));
        }
        let newer = br#"{"say":"refuse","id":7,"why":"new-moon"}"#;
        assert_eq!(Word::decode(newer), Some(Word::Refuse { id: 7, why: Why::Unknown }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..1200)) {
            Word::decode(&body);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "\\{\"say\":\"(ask|serve|refuse)\",\"id\":[0-9]{1,30}.*\\}") {
            Word::decode(text.as_bytes());
        }
    }
}
