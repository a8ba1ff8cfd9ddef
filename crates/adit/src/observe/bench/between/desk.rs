//! The daemon that is asked: whether it permits it, and one service at a time.

use std::net::IpAddr;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand;
use ipnet::IpNet;
use tunnel::PeerId;

use super::message::{Why, Word};
use super::serve::{self, Service};
use super::{MAX_SECONDS, Terms, is_of, speaker};
use crate::config::Peer;
use crate::notes::{Note, topic};
use crate::observe::bench::datagram::TOKEN;
use crate::request::Handle;
use crate::{Failure, Result};

/// How much longer than its loads a bench may take: connections are made, and the other side says what it has counted.
const MARGIN: Duration = Duration::from_secs(60);

/// Starts the thread that answers peers. It sleeps until one asks, and ends with the process.
///
/// # Errors
/// The thread could not be started.
pub fn start(handle: &Handle) -> Result<()> {
    let notes = handle.notes().subscribe(topic::BENCH);
    let handle = handle.clone();
    thread::Builder::new()
        .name("bench".into())
        .spawn(move || attend(&handle, &notes))
        .map(drop)
        .map_err(|error| Failure::failed(format!("cannot start the thread \"bench\": {error}")))
}

/// A service, and who it was promised to.
struct Promise {
    peer: PeerId,
    id: u64,
    terms: Terms,
    service: Service,
}

fn attend(handle: &Handle, notes: &Receiver<Note>) {
    let mut promise: Option<Promise> = None;
    while let Ok(note) = notes.recv() {
        let Some(Word::Ask { id, addresses, seconds }) = Word::decode(&note.body) else { continue };
        if promise.as_ref().is_some_and(|promise| promise.service.has_ended()) {
            promise = None;
        }
        let answer = match &promise {
            // The answer was lost.
            Some(given) if given.peer == note.peer && given.id == id => Ok(given.terms.clone()),
            given => permit(handle, given.is_some(), seconds).and_then(|()| {
                let made = serve(handle, &note, &addresses, seconds)?;
                let terms = made.1.clone();
                promise = Some(Promise { peer: note.peer, id, terms: made.1, service: made.0 });
                Ok(terms)
            }),
        };
        let word = match answer {
            Ok(terms) => Word::Serve { id, terms },
            Err(why) => Word::Refuse { id, why },
        };
        if let Err(refusal) = handle.tell(note.peer, topic::BENCH, word.encode()) {
            tracing::debug!("{} is not told about its bench: {refusal}", note.name);
        }
    }
}

fn permit(handle: &Handle, is_busy: bool, seconds: u32) -> std::result::Result<(), Why> {
    match seconds {
        _ if !handle.facts().tunnel().observe.bench => Err(Why::Forbidden),
        _ if is_busy => Err(Why::Busy),
        1..=MAX_SECONDS => Ok(()),
        _ => Err(Why::TooLong),
    }
}

fn serve(
    handle: &Handle,
    note: &Note,
    addresses: &[IpAddr],
    seconds: u32,
) -> std::result::Result<(Service, Terms), Why> {
    let facts = handle.facts();
    let peer = facts.peer(note.peer).ok_or(Why::NoAddress)?;
    let (device, own) = speaker(facts);
    let (from, to) = choose(&peer, addresses, &own).ok_or(Why::NoAddress)?;
    let limit = Duration::from_secs(seconds.into()) + MARGIN;
    let begun = || {
        let mut token = [0; TOKEN];
        random(&mut token)?;
        let service = serve::start(&device, (from, to), token, limit)?;
        Ok::<_, Failure>((service, token))
    };
    match begun() {
        Ok((service, token)) => {
            tracing::info!("serving a bench to {} ({from}) at {to}, port {}", note.name, service.port());
            let token = format!("{:032x}", u128::from_be_bytes(token));
            let terms = Terms { from, to, port: service.port(), token, version: env!("CARGO_PKG_VERSION").into() };
            Ok((service, terms))
        }
        Err(failure) => {
            tracing::warn!("a bench that {} asked for cannot be served: {failure}", note.name);
            Err(Why::Failed)
        }
    }
}

/// An address that packets from the peer may have, and one of ours of the same family.
fn choose(peer: &Peer, theirs: &[IpAddr], ours: &[IpNet]) -> Option<(IpAddr, IpAddr)> {
    theirs.iter().filter(|from| is_of(**from, peer, ours)).find_map(|from| {
        let own = ours.iter().map(IpNet::addr);
        own.filter(|to| to.is_ipv4() == from.is_ipv4() && to != from).map(|to| (*from, to)).next()
    })
}

/// Fills it with what nobody guesses.
pub(super) fn random(bytes: &mut [u8]) -> Result<()> {
    rand::fill(bytes).map_err(|_| Failure::failed("the kernel gives no random numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Origin, TransportKind};

    fn peer(prefixes: &[&str]) -> Peer {
        Peer {
            name: "host1".into(),
            public_key: None,
            endpoint: None,
            allowed_ips: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            transport: TransportKind::Sealed,
            preshared_key: None,
            keepalive: None,
            macs: Vec::new(),
            origin: Origin::File,
        }
    }

    fn chosen(prefixes: &[&str], theirs: &[&str], ours: &[&str]) -> Option<(String, String)> {
        let theirs: Vec<_> = theirs.iter().map(|address| address.parse().unwrap()).collect();
        let ours: Vec<_> = ours.iter().map(|net| net.parse().unwrap()).collect();
        choose(&peer(prefixes), &theirs, &ours).map(|(from, to)| (from.to_string(), to.to_string()))
    }

    #[test]
    fn only_an_address_of_the_peer_is_served_and_in_its_family() {
        let both = |from: &str, to: &str| Some((from.to_owned(), to.to_owned()));
        let ours = ["10.77.0.2/24", "fd77::2/64"];
        assert_eq!(chosen(&["10.77.0.1/32"], &["10.77.0.1"], &ours), both("10.77.0.1", "10.77.0.2"));
        assert_eq!(chosen(&["10.77.0.1/32"], &["10.77.0.3"], &ours), None);
        assert_eq!(chosen(&["fd77::1/128"], &["10.77.0.1", "fd77::1"], &ours), both("fd77::1", "fd77::2"));
        assert_eq!(
            chosen(&["0.0.0.0/0"], &["10.77.0.2", "10.9.0.1"], &["10.77.0.2/24"]),
            both("10.9.0.1", "10.77.0.2")
        );
        assert_eq!(chosen(&["fd77::1/128"], &["fd77::1"], &["10.77.0.2/24"]), None);
        // Frames: peers have no prefixes, the network of the device is theirs.
        assert_eq!(chosen(&[], &["10.77.0.1"], &ours), both("10.77.0.1", "10.77.0.2"));
        assert_eq!(chosen(&[], &["192.0.2.1"], &ours), None);
    }
}
