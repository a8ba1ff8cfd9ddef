//! The daemon that asks a peer to serve.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::message::{ADDRESSES, Why, Word};
use super::{MAX_SECONDS, Terms, Wish, is_of, speaker};
use crate::config::TransportKind;
use crate::notes::topic;
use crate::request::Handle;
use crate::{Failure, Result};

/// How often it is asked: notes may be lost.
const ATTEMPTS: usize = 5;
/// How long an answer is waited for each time.
const ANSWER: Duration = Duration::from_millis(600);
/// How long a session is waited for, where there was none.
const CALL: Duration = Duration::from_millis(300);

/// Asks the peer that is meant, and waits for what it says.
///
/// # Errors
/// There is no such peer, no session with it, no answer; or the peer does not serve: each with what to do.
pub fn ask(handle: &Handle, wish: &Wish) -> Result<Terms> {
    let (id, peer) = handle.facts().peer_named(&wish.node).ok_or_else(|| no_such_peer(handle, &wish.node))?;
    let name = &peer.name;
    if peer.transport != TransportKind::Sealed {
        return Err(Failure::failed(format!(
            "{name} is a {} peer, and only sealed sessions carry the question whether it permits a bench",
            peer.transport
        ))
        .with_remedy("run iperf3 there instead, or give the peer `transport = \"sealed\"` on both hosts"));
    }
    if wish.seconds > MAX_SECONDS {
        return Err(Failure::usage(format!("a bench between nodes takes at most {MAX_SECONDS} seconds in all")));
    }
    let (_, own) = speaker(handle.facts());
    let addresses: Vec<_> = own.iter().map(ipnet::IpNet::addr).take(ADDRESSES).collect();
    let number = random_number()?;
    let question = Word::Ask { id: number, addresses: addresses.clone(), seconds: wish.seconds }.encode();
    let notes = handle.notes().subscribe(topic::BENCH);
    let mut untold = None;
    for _ in 0..ATTEMPTS {
        untold = handle.tell(id, topic::BENCH, question.clone()).err();
        if let (Some(_), Some(key)) = (&untold, peer.public_key) {
            // Of the nodes of a network most have no session, since nobody had anything to say.
            handle.call([key]).map_err(Failure::from)?;
        }
        let deadline = Instant::now() + if untold.is_some() { CALL } else { ANSWER };
        loop {
            let note = match notes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(note) => note,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::failed("the daemon is about to end")),
            };
            match Word::decode(&note.body).filter(|_| note.peer == id) {
                Some(Word::Serve { id: answered, terms }) if answered == number => {
                    // A peer must not direct our load at somebody else.
                    return if is_of(terms.to, &peer, &own) && addresses.contains(&terms.from) {
                        Ok(terms)
                    } else {
                        Err(Failure::failed(format!(
                            "{name} offers to serve at {}, which is no address of it",
                            terms.to
                        )))
                    };
                }
                Some(Word::Refuse { id: answered, why }) if answered == number => return Err(refused(name, why)),
                _ => {}
            }
        }
    }
    if let Some(refusal) = untold {
        return Err(Failure::failed(format!("{name} cannot be asked: {refusal}"))
            .with_remedy(format!("`adit status` says why there is no session with {name}")));
    }
    let waited = (ANSWER * ATTEMPTS as u32).as_secs_f64();
    Err(Failure::failed(format!("{name} has not answered within {waited:.0} seconds whether it permits a bench"))
        .with_remedy(format!(
            "see `adit status`: it may be away, or run an adit that knows no benches ({name} needs this version)"
        )))
}

fn no_such_peer(handle: &Handle, node: &str) -> Failure {
    let tunnel = handle.facts().tunnel();
    let names: Vec<_> = tunnel.peers.iter().map(|peer| peer.name.as_str()).take(8).collect();
    let known = if names.is_empty() { "it has none".to_owned() } else { format!("they are {}", names.join(", ")) };
    Failure::failed(format!("{node:?} is no peer of {}: {known}", handle.facts().device_name()))
        .with_remedy("`adit status` lists them all")
}

fn refused(name: &str, why: Why) -> Failure {
    let sentence = |text: String| Failure::failed(text);
    match why {
        Why::Forbidden => sentence(format!("{name} does not permit benches")).with_remedy(format!(
            "on {name}, write `allow = [\"bench\"]` under [observe] in its configuration and type `adit reload`"
        )),
        Why::Busy => {
            sentence(format!("{name} serves another bench at this moment")).with_remedy("try again in a minute")
        }
        Why::NoAddress => {
            sentence(format!("no address of {name}'s tunnel device is one that packets from here come to"))
                .with_remedy("give both devices addresses of one family, within the allowed-ips of each other")
        }
        Why::TooLong => {
            sentence(format!("{name} does not give that much time")).with_remedy("ask for fewer --rounds or --seconds")
        }
        Why::Failed => sentence(format!("{name} permits it but cannot serve")).with_remedy("its log says why"),
        Why::Unknown => sentence(format!("{name} refuses for a reason that this version does not know"))
            .with_remedy("update adit here"),
    }
}

/// A number that nobody guesses.
fn random_number() -> Result<u64> {
    let mut bytes = [0; 8];
    super::desk::random(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        for why in [Why::Forbidden, Why::Busy, Why::NoAddress, Why::TooLong, Why::Failed, Why::Unknown] {
            let failure = refused("paris", why);
            assert!(failure.sentence().contains("paris") && failure.sentence().contains("; "), "{failure}");
        }
        assert_eq!(
            refused("paris", Why::Forbidden).sentence(),
            "paris does not permit benches; on paris, write `allow = [\"bench\"]` under [observe] in its configuration and type `adit reload`"
        );
    }
}
