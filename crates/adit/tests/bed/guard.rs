//! Watches the underlay of a bed whose tunnels are all encrypted, from the first configuration to the bed's end, also while daemons
//! are killed and come again: nothing that the tunnels carry may be seen there.
//!
//! What gives it away is the [`MARK`] that all payloads hold, and the addresses of an inner header, one beside the other as IP
//! has them. A bed with a plain tunnel is not watched.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use linux::capture::Captured;
use linux::netns::NetNs;
use memchr::memmem::Finder;
use wire::ip::{IpPacket, protocol};
use wire::message::{Message, Step, classify};

use super::daemon::Configuration;
use super::packet::MARK;
use super::sniffer::{Sniffer, Watch};

/// A leak is a fault, however often: this many are enough to look at, per port.
const ENOUGH: u64 = 3;

/// The watch over one bed.
pub(crate) struct Guard {
    switch: NetNs,
    hosts: usize,
    encrypted: Arc<AtomicU64>,
    flooded: AtomicBool,
    state: Mutex<State>,
}

enum State {
    /// There is no configuration yet.
    Idle,
    Watching {
        watches: Vec<Watch<String>>,
        configurations: usize,
    },
    /// Something is plain, or the end was reached.
    Off,
}

impl Guard {
    pub(crate) fn new(switch: &NetNs, hosts: usize) -> Self {
        Self {
            switch: switch.clone(),
            hosts,
            encrypted: Arc::default(),
            flooded: AtomicBool::new(false),
            state: Mutex::new(State::Idle),
        }
    }

    /// Encrypted packets of data so far, as one of the ports saw them; a train counts once.
    pub(crate) fn encrypted(&self) -> u64 {
        self.encrypted.load(Ordering::Relaxed)
    }

    /// More passes than can be looked at: a sample of it is enough.
    pub(crate) fn expect_a_flood(&self) {
        self.flooded.store(true, Ordering::Relaxed);
    }

    /// Watches no more: where what passes is measured, looking at it costs too much.
    pub(crate) fn switch_off(&self) {
        stop(&mut self.state.lock().unwrap());
    }

    /// Takes note that a daemon will be run with this configuration.
    pub(crate) fn note(&self, configuration: &Configuration) {
        let is_encrypted = configuration.peers.iter().all(|peer| peer.transport != "plain");
        let mut state = self.state.lock().unwrap();
        match &mut *state {
            State::Watching { configurations, .. } if is_encrypted => *configurations += 1,
            State::Watching { .. } => stop(&mut state),
            State::Idle if is_encrypted => {
                *state = State::Watching { watches: self.watch(configuration), configurations: 1 };
            }
            State::Idle => *state = State::Off,
            State::Off => {}
        }
    }

    /// What goes between two of n ports is seen at one of the first n - 1.
    fn watch(&self, configuration: &Configuration) -> Vec<Watch<String>> {
        let ports = 1..self.hosts.max(2);
        ports
            .map(|port| {
                let (encrypted, mut leaks) = (Arc::clone(&self.encrypted), 0);
                let patterns = Patterns::new(self.hosts, configuration);
                Sniffer::open(&self.switch, &format!("port{port}")).watch(move |captured, frame| {
                    if is_encrypted_data(frame) {
                        encrypted.fetch_add(1, Ordering::Relaxed);
                    }
                    let leak = patterns.look(captured, frame).filter(|_| leaks < ENOUGH)?;
                    leaks += 1;
                    Some(format!("port {port} sees {leak}"))
                })
            })
            .collect()
    }

    /// Ends the watch, and a test with it that gave something away.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let State::Watching { watches, configurations } = std::mem::replace(&mut *state, State::Off) else { return };
        let seen: Vec<_> = watches.into_iter().map(Watch::collect_what_was_seen).collect();
        let leaks: Vec<_> = seen.iter().flat_map(|(leaks, _)| leaks).collect();
        if thread::panicking() {
            leaks.iter().for_each(|leak| eprintln!("---- {leak}"));
            return;
        }
        assert!(leaks.is_empty(), "in the clear on the underlay: {leaks:#?}");
        assert!(configurations < 2 || self.encrypted() > 0, "the watch saw encrypted packets");
        for (_, tally) in seen {
            let enough = if self.flooded.load(Ordering::Relaxed) { tally.seen * 4 } else { tally.seen / 2 };
            assert!(tally.lost <= enough, "the watch saw what passed: {tally:?}");
        }
    }
}

fn stop(state: &mut State) {
    if let State::Watching { watches, .. } = std::mem::replace(state, State::Off) {
        watches.into_iter().for_each(|watch| drop(watch.collect_what_was_seen()));
    }
}

/// Whether a frame is, or begins with, an encrypted packet of data.
fn is_encrypted_data(frame: &[u8]) -> bool {
    let packet = frame.get(14..).and_then(|packet| IpPacket::parse(packet).ok());
    let datagram =
        packet.filter(|packet| packet.protocol() == protocol::UDP).and_then(|packet| packet.payload().get(8..));
    let kind = datagram.map(classify);
    matches!(kind, Some(Message::Sealed(Step::Data, _) | Message::WireGuard(Step::Data, _)))
}

/// What must not be seen.
struct Patterns {
    mark: Finder<'static>,
    addresses: Vec<Finder<'static>>,
}

impl Patterns {
    fn new(hosts: usize, configuration: &Configuration) -> Self {
        let mut addresses = Vec::new();
        // A network behind a host that daemons are reached on is a part of the underlay.
        let endpoints: Vec<_> = configuration.peers.iter().map(|peer| &peer.endpoint).collect();
        let is_outside = |network: String| endpoints.iter().any(|endpoint| endpoint.contains(&network));
        // A source and the beginning of a destination, since four bytes alone are in any ciphertext sooner or later.
        for host in 1..=hosts as u8 {
            addresses.push(vec![10, 77, 0, host, 10, 77, 0]);
            if is_outside(format!("10.{}.", 40 + host)) || is_outside(format!("fd40:{host}:")) {
                continue;
            }
            addresses.extend((1..=hosts as u8).map(|other| vec![10, 40 + host, 0, 2, 10, 40 + other, 0]));
            addresses.push([&[0xfd, 0x40, 0, host][..], &[0; 10]].concat());
        }
        addresses.push([&[0xfd, 0x77][..], &[0; 12]].concat());
        let addresses = addresses.iter().map(|address| Finder::new(address).into_owned()).collect();
        Self { mark: Finder::new(MARK), addresses }
    }

    fn look(&self, captured: &Captured, frame: &[u8]) -> Option<String> {
        let what = if self.mark.find(frame).is_some() {
            "the mark of a payload"
        } else if self.addresses.iter().any(|address| address.find(frame).is_some()) {
            "inner addresses"
        } else {
            return None;
        };
        let start = &frame[..frame.len().min(128)];
        Some(format!("{what} in a frame of {} bytes, {captured:?}: {start:02x?}", frame.len()))
    }
}
