//! What becomes of a datagram on its way.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::random::Rng;
use crate::time::Time;

/// How many datagrams the attacker remembers.
const REMEMBERED: usize = 1 << 16;

/// How bad the network is. Parts are of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// How long every datagram takes.
    pub delay: Duration,
    /// Up to how much longer some take; more than the time between two makes them arrive in another order.
    pub jitter: Duration,
    /// How many are lost.
    pub loss: u64,
    /// How many arrive twice.
    pub duplicate: u64,
    /// How many arrive with a changed bit.
    pub corrupt: u64,
    /// How many arrive without their end.
    pub truncate: u64,
    /// Longer ones are lost, in bytes of UDP payload.
    pub mtu: Option<usize>,
}

impl Weather {
    /// Nothing goes wrong; 10 ms each way.
    pub const FAIR: Self = Self {
        delay: Duration::from_millis(10),
        jitter: Duration::ZERO,
        loss: 0,
        duplicate: 0,
        corrupt: 0,
        truncate: 0,
        mtu: None,
    };
}

/// A datagram that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// When.
    pub time: Time,
    /// By whom.
    pub host: usize,
    /// From where.
    pub from: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
    /// Its bytes.
    pub datagram: Vec<u8>,
}

/// The network, and its memory.
#[derive(Debug)]
pub struct Network {
    /// How bad it is.
    pub weather: Weather,
    /// From which node to which nothing passes.
    pub cut: BTreeSet<(usize, usize)>,
    /// What was sent, the oldest first.
    pub sent: VecDeque<Sent>,
    /// How much was sent since the beginning.
    pub count: usize,
}

impl Default for Network {
    fn default() -> Self {
        Self { weather: Weather::FAIR, cut: BTreeSet::new(), sent: VecDeque::new(), count: 0 }
    }
}

impl Network {
    /// Remembers what was sent.
    pub fn remember(&mut self, sent: Sent) {
        self.count += 1;
        self.sent.push_back(sent);
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
    }

    /// What arrives, and how much later, of one datagram.
    pub fn carry(&self, datagram: Vec<u8>, rng: &mut Rng) -> Vec<(Duration, Vec<u8>)> {
        let weather = &self.weather;
        if weather.mtu.is_some_and(|mtu| datagram.len() > mtu) || rng.happens(weather.loss) {
            return Vec::new();
        }
        let copies = 1 + usize::from(rng.happens(weather.duplicate));
        let mut arriving = Vec::with_capacity(copies);
        for _ in 0..copies {
            let mut copy = datagram.clone();
            if rng.happens(weather.corrupt) && !copy.is_empty() {
                let at = rng.index(copy.len());
                copy[at] ^= 1 << rng.below(8);
            }
            if rng.happens(weather.truncate) {
                copy.truncate(rng.index(copy.len()));
            }
            let jitter = Duration::from_micros(rng.below(weather.jitter.as_micros() as u64));
            arriving.push((weather.delay + jitter, copy));
        }
        arriving
    }
}
