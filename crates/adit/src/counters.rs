//! Counters of the packet's way: one writer each, read by anybody at any time.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use tunnel::Reason;
use tunnel::peer::Problem;

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

/// The steps of a histogram: what is at most as large counts there.
#[derive(Debug, PartialEq, Eq)]
pub struct Scale {
    /// Ascending.
    pub bounds: [u64; STEPS],
    /// The same as metrics have them, in the unit there: numbers as Go writes them, as their readers compare them.
    pub names: [&'static str; STEPS],
    /// How many of what is counted make one of the unit.
    pub per_unit: u64,
}

/// Steps of each scale; what is larger than the last has a place of its own.
const STEPS: usize = 11;

/// Numbers of packets and datagrams.
pub static NUMBERS: Scale = Scale {
    bounds: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
    names: ["1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "64.0", "128.0", "256.0", "512.0", "1024.0"],
    per_unit: 1,
};

/// Nanoseconds of a turn: from one packet to some hundred kilobytes, and to a worker that waits for its processor.
pub static TURNS: Scale = Scale {
    bounds: [
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        100_000_000,
    ],
    names: ["1e-05", "2.5e-05", "5e-05", "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.1"],
    per_unit: 1_000_000_000,
};

/// Nanoseconds to a peer and back: from the same machine to the other side of the world.
pub static ROUND_TRIPS: Scale = Scale {
    bounds: [
        250_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
    ],
    names: ["0.00025", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0"],
    per_unit: 1_000_000_000,
};

/// How often something was how large. One thread adds, as to a [`Counter`]: two of these for each thing.
#[derive(Debug)]
pub struct Histogram {
    /// Its steps.
    pub scale: &'static Scale,
    steps: [Counter; STEPS + 1],
    sum: Counter,
}

impl Histogram {
    /// One in which nothing was seen.
    pub fn new(scale: &'static Scale) -> Self {
        Self { scale, steps: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }

    /// Counts a thing of this size; for the one writer only.
    #[inline]
    pub fn see(&self, size: u64) {
        let step = self.scale.bounds.iter().take_while(|bound| size > **bound).count();
        if let Some(counter) = self.steps.get(step) {
            counter.add(1);
        }
        self.sum.add(size);
    }

    /// How many things were in each step, the last of which has no bound.
    pub fn counts(&self) -> [u64; STEPS + 1] {
        self.steps.each_ref().map(Counter::get)
    }

    /// The sum of all sizes.
    pub fn sum(&self) -> u64 {
        self.sum.get()
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
    /// How much of it was done at once.
    pub batches: Batches,
    drops: Drops,
}

/// How much a worker did at once: each is seen once per batch or turn, never per packet.
#[derive(Debug)]
pub struct Batches {
    /// Packets and super-packets that one turn read from the device.
    pub device: Histogram,
    /// Datagrams that one system call brought.
    pub received: Histogram,
    /// Datagrams that were given to the socket at once.
    pub sent: Histogram,
    /// Nanoseconds of turns in which something came.
    pub turns: Histogram,
}

impl Default for Batches {
    fn default() -> Self {
        let numbers = || Histogram::new(&NUMBERS);
        Self { device: numbers(), received: numbers(), sent: numbers(), turns: Histogram::new(&TURNS) }
    }
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

/// What control did. It writes, and others read.
#[derive(Debug)]
pub struct ControlCounters {
    /// Handshakes after which there was a session.
    pub handshakes: Counter,
    failed: [Counter; Problem::ALL.len()],
    /// Nanoseconds until a peer answered a probe.
    pub round_trips: Histogram,
    /// Changes by which the host was brought back to its configuration.
    pub repairs: Counter,
    /// Changes by which the containers' side of the host was.
    pub container_repairs: Counter,
    /// Times that the device was made anew.
    pub revivals: Counter,
    /// Times that the machine slept, or its clock was set.
    pub gaps: Counter,
    /// Other configurations that were put into force, of a network's nodes too.
    pub changes: Counter,
}

impl Default for ControlCounters {
    fn default() -> Self {
        Self {
            handshakes: Counter::default(),
            failed: std::array::from_fn(|_| Counter::default()),
            round_trips: Histogram::new(&ROUND_TRIPS),
            repairs: Counter::default(),
            container_repairs: Counter::default(),
            revivals: Counter::default(),
            gaps: Counter::default(),
            changes: Counter::default(),
        }
    }
}

impl ControlCounters {
    /// Counts a handshake that came to nothing.
    pub fn handshake_failed(&self, problem: Problem) {
        if let Some(counter) =
            Problem::ALL.iter().position(|other| *other == problem).and_then(|at| self.failed.get(at))
        {
            counter.add(1);
        }
    }

    /// Handshakes that came to nothing, by their cause.
    pub fn failed_handshakes(&self) -> impl Iterator<Item = (Problem, u64)> {
        Problem::ALL.into_iter().zip(self.failed.iter().map(Counter::get))
    }
}

/// What became of questions for names. The thread `names` writes, and others read.
#[derive(Debug, Default)]
pub struct NamesCounters {
    /// Answered with what was asked for, or that there is nothing of that kind.
    pub answered: Counter,
    /// Answered that there is no such name.
    pub no_name: Counter,
    /// Refused: who asked has no part in the network, or the question is not ours.
    pub refused: Counter,
    /// Answered that nobody knows: who was to be asked did not answer, or the question made no sense.
    pub failed: Counter,
    /// Not answered: who asks too much, or says nothing that is a question.
    pub passed_over: Counter,
}

impl NamesCounters {
    /// Each with its name in metrics.
    pub fn results(&self) -> [(&'static str, u64); 5] {
        [
            ("answered", self.answered.get()),
            ("no_name", self.no_name.get()),
            ("refused", self.refused.get()),
            ("failed", self.failed.get()),
            ("passed_over", self.passed_over.get()),
        ]
    }
}

/// One slot per worker, each on cache lines of its own.
pub type PerWorker<T> = Box<[CachePadded<T>]>;

/// One slot for each of `workers` workers.
pub fn per_worker<T: Default>(workers: usize) -> PerWorker<T> {
    (0..workers).map(|_| CachePadded::new(T::default())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_thing_counts_in_the_first_step_that_holds_it() {
        let histogram = Histogram::new(&NUMBERS);
        for size in [0, 1, 2, 3, 4, 5, 1024, 1025, u64::MAX - 10_000] {
            histogram.see(size);
        }
        assert_eq!(histogram.counts(), [2, 1, 2, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(histogram.sum(), u64::MAX - 10_000 + 15 + 2049);
    }

    #[test]
    fn steps_ascend_and_their_names_say_the_same() {
        for scale in [&NUMBERS, &TURNS, &ROUND_TRIPS] {
            assert!(scale.bounds.is_sorted_by(|a, b| a < b));
            for (bound, name) in scale.bounds.iter().zip(scale.names) {
                assert_eq!((name.parse::<f64>().unwrap() * scale.per_unit as f64).round() as u64, *bound, "{name}");
            }
        }
    }

    proptest! {
        #[test]
        fn each_thing_counts_once(sizes in prop::collection::vec(0u64..200_000_000, 0..100)) {
            for scale in [&NUMBERS, &TURNS, &ROUND_TRIPS] {
                let histogram = Histogram::new(scale);
                sizes.iter().for_each(|size| histogram.see(*size));
                prop_assert_eq!(histogram.counts().iter().sum::<u64>(), sizes.len() as u64);
                prop_assert_eq!(histogram.sum(), sizes.iter().sum::<u64>());
                for (step, bound) in scale.bounds.iter().enumerate() {
                    let upto = histogram.counts()[..=step].iter().sum::<u64>();
                    prop_assert_eq!(upto, sizes.iter().filter(|size| *size <= bound).count() as u64);
                }
            }
        }
    }
}
