//! Counters of the packet's way: one writer each, read by anybody at any time.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use tunnel::Reason;

/// A number that one thread adds to and others read. Adding costs no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; for the one writer only.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets and bytes in one direction.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Inner packets.
    pub packets: Counter,
    /// Their bytes, from the inner IP header on.
    pub bytes: Counter,
}

impl Traffic {
    /// Adds some.
    #[inline]
    pub fn add(&self, packets: usize, bytes: usize) {
        self.packets.add(packets as u64);
        self.bytes.add(bytes as u64);
    }
}

/// Bytes of datagrams, all that they say included, without IP and UDP headers.
#[derive(Debug, Default)]
pub struct Wire {
    /// Authentic ones.
    pub received: Counter,
    /// Those that the kernel took.
    pub sent: Counter,
}

/// What one worker exchanged with one peer.
#[derive(Debug, Default)]
pub struct PeerTraffic {
    /// From the wire to the device.
    pub ingress: Traffic,
    /// From the device to the wire.
    pub egress: Traffic,
    /// Both, in bytes of datagrams.
    pub wire: Wire,
}

/// What one worker did.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// From the wire to the device.
    pub ingress: Traffic,
    /// From the device to the wire.
    pub egress: Traffic,
    /// Reads from the socket that brought something; each is one datagram or a run of them.
    pub receives: Counter,
    /// Messages given to the socket; each is one datagram or a train of them.
    pub sends: Counter,
    /// Packets and super-packets read from the device.
    pub device_reads: Counter,
    /// Packets and super-packets written to the device.
    pub device_writes: Counter,
    drops: Drops,
}

impl WorkerCounters {
    /// Counts `packets` as dropped for `reason`.
    #[inline]
    pub fn dropped(&self, reason: Reason, packets: usize) {
        self.drops.add(reason, packets);
    }

    /// Packets dropped for `reason` so far.
    pub fn drops(&self, reason: Reason) -> u64 {
        self.drops.get(reason)
    }
}

/// What one thread dropped, by reason.
#[derive(Debug)]
pub struct Drops([Counter; Reason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Drops {
    /// Counts `packets` as dropped for `reason`.
    #[inline]
    pub fn add(&self, reason: Reason, packets: usize) {
        if let Some(counter) = self.0.get(reason.index()) {
            counter.add(packets as u64);
        }
    }

    /// Packets dropped for `reason` so far.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(reason.index()).map_or(0, Counter::get)
    }
}

/// One slot per worker, each on cache lines of its own.
pub type PerWorker<T> = Box<[CachePadded<T>]>;

/// One slot for each of `workers` workers.
pub fn per_worker<T: Default>(workers: usize) -> PerWorker<T> {
    (0..workers).map(|_| CachePadded::new(T::default())).collect()
}
