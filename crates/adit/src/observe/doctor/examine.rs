//! The daemon's part: measures the ways to its peers when it is asked, and tells peers who ask where they are seen, and what time it is here.
//!
//! Whoever asks is a peer with a session, and hears nothing but its own address and the time: what any web server tells anybody. So nothing
//! has to permit it. A question has 17 bytes (1, a number, when it was asked by the asker's clock), an answer 52:
//!
//! ```text
//! 2 1 | number 8 | asked 8 | heard 8 | answered 8 | family 1 (0, 4, 6) | address 16 | port 2      all numbers in network order
//! ```

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use linux::clock;
use tunnel::PeerId;

use crate::api::status::PeerStatus;
use crate::api::{Examination, PeerExamination, Told};
use crate::data_path;
use crate::key::PublicKey;
use crate::notes::{Note, topic};
use crate::request::{Handle, Refusal};
use crate::{Failure, Result};

/// How many peers are called and measured at once, the first ones of the configuration.
const MOST: usize = 128;

/// How long a measurement may take: see [`tunnel::gauge`].
const PATIENCE: Duration = Duration::from_secs(9);

/// How long an answer to a question is waited for, and after what time the question is put once more.
const ANSWER: Duration = Duration::from_millis(1500);
const AGAIN: Duration = Duration::from_millis(500);

/// How long a peer that has no session, since there was nothing to say, is waited for when it is called; and between two looks whether it answered.
const CALL: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// Between two looks at what measuring has found.
const GLANCE: Duration = Duration::from_millis(20);

const QUESTION: u8 = 1;
const REPLY: u8 = 2;
const QUESTION_LEN: usize = 1 + 8 + 8;
const REPLY_LEN: usize = 1 + 4 * 8 + 1 + 16 + 2;

/// Calls peers without a session, and measures the ways to those that have one. It takes a few round trips where all is well, and seconds where
/// it is not.
///
/// # Errors
/// The daemon is about to end.
pub fn examine(handle: &Handle) -> std::result::Result<Examination, Refusal> {
    let facts = handle.facts();
    let silent = wake(handle)?;
    let answers = handle.notes().subscribe(topic::DOCTOR);
    let began = Instant::now();
    let (ids, left_out) = handle.measure(MOST)?;
    let told = ask(handle, &answers, &ids, began);
    while began.elapsed() < PATIENCE && ids.iter().any(|id| facts.measured(*id).is_some_and(|found| !found.done)) {
        thread::sleep(GLANCE);
    }
    let peer = |id: &PeerId| {
        let found = facts.measured(*id)?;
        let now = facts.whereabouts(*id)?;
        Some(PeerExamination {
            name: now.name,
            size: found.size as u64,
            target: found.target as u64,
            in_use: now.mtu as u64,
            round_trip_us: found.round_trip.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            local: now.local.map(|local| (local.ip, local.device)),
            told: told.get(id).copied(),
        })
    };
    let tunnel = facts.tunnel();
    let keys = [&tunnel.device.private_key, &tunnel.device.wireguard_private_key];
    Ok(Examination {
        source: tunnel.source.clone(),
        public_keys: keys.into_iter().flatten().map(|key| key.public_key().to_string()).collect(),
        mark: tunnel.transport.fwmark.map(std::num::NonZero::get),
        asked_buffer: data_path::SOCKET_BUFFER as u64,
        peers: ids.iter().filter_map(peer).collect(),
        left_out,
        silent,
    })
}

/// Calls the sealed peers that have no session, as a packet for them would; answers who is still without one after a while.
fn wake(handle: &Handle) -> std::result::Result<Vec<String>, Refusal> {
    let facts = handle.facts();
    let idle = || {
        let idle = |peer: &PeerStatus| peer.transport == "sealed" && peer.session != "up" && peer.endpoint.is_some();
        let peers = facts.status().peers.into_iter().filter(idle);
        peers.map(|peer| (peer.name, peer.public_key.and_then(|key| key.parse().ok()))).collect::<Vec<_>>()
    };
    let mut called = idle();
    called.truncate(MOST);
    handle.call(called.iter().filter_map(|(_, key): &(String, Option<PublicKey>)| *key))?;
    let deadline = Instant::now() + CALL;
    while !called.is_empty() && Instant::now() < deadline {
        thread::sleep(PAUSE);
        let still = idle();
        called.retain(|(name, _)| still.iter().any(|(other, _)| other == name));
    }
    Ok(called.into_iter().map(|(name, _)| name).collect())
}

/// Puts the question to these peers; answers what they said.
fn ask(handle: &Handle, answers: &Receiver<Note>, ids: &[PeerId], began: Instant) -> HashMap<PeerId, Told> {
    let mut told: HashMap<PeerId, Told> = HashMap::new();
    let Some(number) = random() else { return told };
    for round in [AGAIN, ANSWER] {
        for id in ids.iter().filter(|id| !told.contains_key(id)) {
            // Of a peer whose session has just ended nothing is to be learned.
            let _ = handle.tell(*id, topic::DOCTOR, question(number, now()));
        }
        while told.len() < ids.len() {
            let left = round.saturating_sub(began.elapsed());
            let note = match answers.recv_timeout(left) {
                Ok(note) => note,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            };
            if let Some(said) = read_reply(&note.body, number, now()) {
                told.insert(note.peer, said);
            }
        }
    }
    told
}

/// Answers peers who ask, on a thread of its own, until the daemon ends.
///
/// # Errors
/// The thread cannot be started.
pub fn answer_peers(handle: Handle) -> Result<()> {
    let questions = handle.notes().subscribe(topic::DOCTOR);
    let work = move || {
        // It ends with the process: the subscription is held by the handle that this thread has.
        while let Ok(note) = questions.recv() {
            let heard = now();
            let Some((number, asked)) = read_question(&note.body) else { continue };
            let at = handle.facts().whereabouts(note.peer).and_then(|peer| peer.endpoint);
            let _ = handle.tell(note.peer, topic::DOCTOR, reply([number, asked, heard, now()], at));
        }
    };
    let thread = thread::Builder::new().name("doctor".into()).stack_size(256 * 1024).spawn(work);
    thread.map(drop).map_err(|e| Failure::failed(format!("cannot start the thread \"doctor\": {e}")))
}

fn random() -> Option<u64> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).ok().map(|()| u64::from_be_bytes(bytes))
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    u64::try_from(clock::realtime().as_nanos()).unwrap_or(u64::MAX)
}

fn question(number: u64, asked: u64) -> Vec<u8> {
    [&[QUESTION][..], &number.to_be_bytes(), &asked.to_be_bytes()].concat()
}

fn number_at(body: &[u8], at: usize) -> Option<u64> {
    body.get(at..)?.first_chunk().copied().map(u64::from_be_bytes)
}

fn read_question(body: &[u8]) -> Option<(u64, u64)> {
    (body.first() == Some(&QUESTION) && body.len() == QUESTION_LEN)
        .then(|| Some((number_at(body, 1)?, number_at(body, 9)?)))?
}

fn reply(numbers: [u64; 4], at: Option<SocketAddr>) -> Vec<u8> {
    let mut body = vec![REPLY];
    body.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    let (family, address) = match at.map(|at| at.ip()) {
        None => (0, [0; 16]),
        Some(IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            (4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        Some(IpAddr::V6(ip)) => (6, ip.octets()),
    };
    body.push(family);
    body.extend(address);
    body.extend(at.map_or(0, |at| at.port()).to_be_bytes());
    body
}

/// What a peer says, if it is the answer to question `number` and came at `arrived`. The offset is that of NTP (RFC 5905, section 8).
fn read_reply(body: &[u8], number: u64, arrived: u64) -> Option<Told> {
    if body.first() != Some(&REPLY) || body.len() != REPLY_LEN || number_at(body, 1)? != number {
        return None;
    }
    let [asked, heard, answered] = [number_at(body, 9)?, number_at(body, 17)?, number_at(body, 25)?];
    let address: [u8; 16] = *body.get(34..)?.first_chunk()?;
    let [a, b, c, d, ..] = address;
    let ip = match body.get(33)? {
        4 => Some(IpAddr::from([a, b, c, d])),
        6 => Some(IpAddr::from(address)),
        _ => None,
    };
    let port = u16::from_be_bytes(*body.get(50..)?.first_chunk()?);
    let [asked, heard, answered, arrived] = [asked, heard, answered, arrived].map(i128::from);
    let ahead = ((heard - asked) + (answered - arrived)) / 2;
    let uncertain = ((arrived - asked) - (answered - heard)) / 2;
    let short = |time: i128| i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX });
    Some(Told {
        seen_at: ip.map(|ip| SocketAddr::new(ip, port)),
        ahead_ns: short(ahead),
        uncertain_ns: short(uncertain.max(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_question_and_its_answer_say_how_far_clocks_are_apart() {
        let asked = question(7, 1_000);
        assert_eq!((asked.len(), read_question(&asked)), (QUESTION_LEN, Some((7, 1_000))));
        for at in ["192.0.2.7:4000", "[2001:db8::7]:4000"] {
            // The peer's clock is 5,000 ahead; each way takes 100, and it takes 50 to answer.
            let body = reply([7, 1_000, 6_100, 6_150], Some(at.parse().unwrap()));
            assert_eq!(body.len(), REPLY_LEN);
            let told = read_reply(&body, 7, 1_250).unwrap();
            assert_eq!(told, Told { seen_at: Some(at.parse().unwrap()), ahead_ns: 5_000, uncertain_ns: 100 });
            assert_eq!(read_reply(&body, 8, 1_250), None, "the answer to another question");
        }
        assert_eq!(read_reply(&reply([7, 1, 1, 1], None), 7, 1).unwrap().seen_at, None);
        assert_eq!(read_question(&reply([7, 1, 1, 1], None)), None);
    }

    proptest! {
        #[test]
        fn any_note_is_read(body in prop::collection::vec(any::<u8>(), 0..80), number: u64, arrived: u64) {
            let _ = (read_question(&body), read_reply(&body, number, arrived));
            let mut long = body;
            long.resize(REPLY_LEN, 0xff);
            long[0] = REPLY;
            long[1..9].copy_from_slice(&number.to_be_bytes());
            prop_assert!(read_reply(&long, number, arrived).is_some());
        }
    }
}
