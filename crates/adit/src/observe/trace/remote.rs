//! What daemons say to each other about a trace, as notes inside their sealed session: `kind u8 | id u64 | what follows`, little-endian.
//!
//! Notes may be lost and come twice, so whoever asks asks again, and whoever answers answers the same again. Only questions are answered.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::capture::Run;
use super::probe::Sought;
use crate::notes::MAX_BODY;

/// Bytes of a part of what was gathered.
pub(super) const PART: usize = MAX_BODY - 13;

/// Runs of datagrams in a question: as many as a note holds with room to spare.
pub(super) const MAX_RUNS: usize = 48;

/// How many hosts a trace goes on to, one asked by the other.
pub(super) const HOPS: u8 = 3;

/// The longest time that a peer may have us watch.
pub(super) const LONGEST: Duration = super::helper::LONGEST;

/// What is to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Begin {
    /// What the probes look like.
    pub(super) sought: Sought,
    /// Where they go.
    pub(super) destination: IpAddr,
    /// For how long, in milliseconds.
    pub(super) ms: u32,
    /// How many more hosts may be asked.
    pub(super) ttl: u8,
}

/// Whether a host looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does.
    Ready,
    /// Its configuration does not permit it.
    Forbidden,
    /// It looks for somebody else's probes.
    Busy,
    /// It looked so many times in this minute, which is as often as it does.
    Often(u8),
    /// It may not capture.
    Unable,
}

/// One note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// What time is it? Asked at this time, in nanoseconds since 1970.
    Clock(i64),
    /// When the question was asked, as it said; when it came, and when the answer went.
    Time([i64; 3]),
    /// Look for these.
    Begin(Begin),
    /// Whether it is done.
    Verdict(Verdict),
    /// What was seen, in this part; datagrams of these runs among it.
    Collect(u16, Vec<Run>),
    /// Part of so many, and its bytes; of none while it is still being gathered.
    Part(u16, u16, Vec<u8>),
    /// All has come.
    Finish,
}

impl Message {
    /// The body of a note about the trace with this number.
    pub(super) fn emit(&self, id: u64) -> Vec<u8> {
        let (kind, rest) = match self {
            Self::Clock(asked) => (1, asked.to_le_bytes().to_vec()),
            Self::Time(times) => (2, times.map(i64::to_le_bytes).concat()),
            Self::Begin(begin) => (3, serde_json::to_vec(begin).unwrap_or_default()),
            Self::Verdict(verdict) => (
                4,
                match *verdict {
                    Verdict::Ready => vec![0],
                    Verdict::Forbidden => vec![1],
                    Verdict::Busy => vec![2],
                    Verdict::Often(times) => vec![2, times],
                    Verdict::Unable => vec![3],
                },
            ),
            Self::Collect(part, runs) => {
                let mut rest = part.to_le_bytes().to_vec();
                for Run { receiver, counter, count } in runs.iter().take(MAX_RUNS) {
                    rest.extend(receiver.to_le_bytes());
                    rest.extend(counter.to_le_bytes());
                    rest.extend(count.to_le_bytes());
                }
                (5, rest)
            }
            Self::Part(part, of, bytes) => {
                (6, [&part.to_le_bytes()[..], &of.to_le_bytes(), bytes.get(..PART).unwrap_or(bytes)].concat())
            }
            Self::Finish => (7, Vec::new()),
        };
        [&[kind][..], &id.to_le_bytes(), &rest].concat()
    }

    /// What a body says, and of which trace.
    pub(super) fn parse(body: &[u8]) -> Option<(u64, Self)> {
        let (&[kind], rest) = body.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let message = match kind {
            1 => Self::Clock(i64::from_le_bytes(*rest.first_chunk()?)),
            2 => {
                let (asked, rest) = rest.split_first_chunk()?;
                let (received, answered) = rest.split_first_chunk()?;
                Self::Time([asked, received, answered.first_chunk()?].map(|bytes| i64::from_le_bytes(*bytes)))
            }
            3 => Self::Begin(serde_json::from_slice(rest).ok()?),
            4 => Self::Verdict(match rest {
                [0, ..] => Verdict::Ready,
                [1, ..] => Verdict::Forbidden,
                [2] => Verdict::Busy,
                [2, times, ..] => Verdict::Often(*times),
                [3, ..] => Verdict::Unable,
                _ => return None,
            }),
            5 => {
                let (part, runs) = rest.split_first_chunk()?;
                let run = |bytes: &[u8]| {
                    let (receiver, rest) = bytes.split_first_chunk()?;
                    let (counter, count) = rest.split_first_chunk()?;
                    Some(Run {
                        receiver: u32::from_le_bytes(*receiver),
                        counter: u64::from_le_bytes(*counter),
                        count: u16::from_le_bytes(*count.first_chunk()?),
                    })
                };
                let runs = runs.chunks_exact(14).take(MAX_RUNS).filter_map(run).collect();
                Self::Collect(u16::from_le_bytes(*part), runs)
            }
            6 => {
                let (part, rest) = rest.split_first_chunk()?;
                let (of, bytes) = rest.split_first_chunk()?;
                Self::Part(u16::from_le_bytes(*part), u16::from_le_bytes(*of), bytes.to_vec())
            }
            7 => Self::Finish,
            _ => return None,
        };
        Some((u64::from_le_bytes(*id), message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::observation::Protocol;
    use super::*;

    #[test]
    fn messages_survive_their_notes() {
        let begin = Begin {
            sought: Sought { protocol: Protocol::Tcp, marker: u64::MAX, port: 65535, only: None },
            destination: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
            ms: u32::MAX,
            ttl: HOPS,
        };
        let run = Run { receiver: 7, counter: u64::MAX, count: 3 };
        for message in [
            Message::Clock(3),
            Message::Time([0, -1, i64::MAX]),
            Message::Begin(begin),
            Message::Verdict(Verdict::Ready),
            Message::Verdict(Verdict::Forbidden),
            Message::Verdict(Verdict::Busy),
            Message::Verdict(Verdict::Often(12)),
            Message::Verdict(Verdict::Unable),
            Message::Collect(9, vec![run; MAX_RUNS]),
            Message::Part(1, 2, vec![5; PART]),
            Message::Finish,
        ] {
            let body = message.emit(42);
            assert!(body.len() <= MAX_BODY, "{message:?}");
            assert_eq!(Message::parse(&body), Some((42, message)));
        }
    }

    proptest! {
        #[test]
        fn any_body_is_a_message_or_nothing(body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some((id, message)) = Message::parse(&body) {
                prop_assert_eq!(Message::parse(&message.emit(id)), Some((id, message)));
            }
        }
    }
}
