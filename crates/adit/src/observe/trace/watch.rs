//! What workers see of a trace. While nobody traces a worker reads one flag per turn, and has one empty option to look at per packet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use crossbeam_queue::ArrayQueue;
use linux::clock;
use wire::ethernet::EthernetFrame;
use wire::ip::IpPacket;
use wire::message::DataHeader;
use wire::message::data::DATA_HEADER;
use wire::vnet::VnetHdr;

use super::capture::{checksum, segments};
use super::observation::{Checksum, MAX_HEAD, Observation, Outer, Place, Step};
use super::probe::{Course, Sought};

/// What all workers together may have seen before somebody collects it: one megabyte, which is there while somebody traces.
const CAPACITY: usize = 4096;

/// How long a worker that has a probe in hand is waited for: the kernel may let others run, and an answer arrive, before a call that
/// sent it returns.
const IN_HAND: Duration = Duration::from_millis(200);

/// Whether workers look for probes.
#[derive(Default)]
pub struct Gate {
    open: AtomicBool,
    tap: ArcSwapOption<Tap>,
}

impl Gate {
    /// What a worker is to look for in its next turn.
    #[inline]
    pub fn tap(&self) -> Option<Arc<Tap>> {
        if self.open.load(Ordering::Relaxed) { self.tap.load_full() } else { None }
    }

    /// Lets workers look from their next turns on.
    pub(super) fn open(&self, sought: Sought) -> Arc<Tap> {
        let tap =
            Arc::new(Tap { sought, seen: ArrayQueue::new(CAPACITY), lost: AtomicU64::new(0), in_hand: Arc::default() });
        self.tap.store(Some(Arc::clone(&tap)));
        self.open.store(true, Ordering::Release);
        tap
    }

    /// Ends it.
    pub(super) fn close(&self) {
        self.open.store(false, Ordering::Release);
        self.tap.store(None);
    }
}

/// What is looked for, and where it is noted.
pub struct Tap {
    sought: Sought,
    seen: ArrayQueue<Seen>,
    lost: AtomicU64,
    /// Every datagram that waits to be sent holds one of these.
    in_hand: Arc<()>,
}

/// The beginning of a packet.
#[derive(Clone, Copy)]
struct Head {
    bytes: [u8; MAX_HEAD],
    length: usize,
}

impl Head {
    fn of(packet: &[u8]) -> Self {
        let mut bytes = [0; MAX_HEAD];
        bytes.iter_mut().zip(packet).for_each(|(to, from)| *to = *from);
        Self { bytes, length: packet.len().min(MAX_HEAD) }
    }

    fn to_vec(self) -> Vec<u8> {
        self.bytes.get(..self.length).unwrap_or_default().to_vec()
    }
}

struct Seen {
    worker: usize,
    step: Step,
    probe: u32,
    at: i64,
    size: usize,
    segments: (u16, u16),
    checksum: Checksum,
    outer: Option<Outer>,
    head: Head,
}

/// A datagram with a probe in it that waits to be sent.
pub struct Waiting {
    probe: u32,
    /// For which peer: the tag of its flow.
    pub tag: u32,
    outer: Option<Outer>,
    size: usize,
    head: Head,
    _in_hand: Arc<()>,
}

/// A probe that was taken from the socket: not known yet whether it may go on.
#[derive(Clone, Copy)]
pub struct Arrived {
    probe: u32,
    outer: Option<Outer>,
}

impl Tap {
    /// A packet was read from the device: the number of the probe, if it is one.
    #[cold]
    pub fn read(&self, worker: usize, header: &VnetHdr, packet: &[u8]) -> Option<u32> {
        let probe = self.find(packet)?;
        self.note(Seen { at: now(), ..self.whole((worker, Step::Read), probe, header, packet) });
        Some(probe)
    }

    /// Which probe a packet is, if any.
    #[cold]
    pub fn find(&self, packet: &[u8]) -> Option<u32> {
        // A device that carries frames has a link-layer header before it.
        let within = || self.sought.spot(EthernetFrame::parse(packet).ok()?.payload());
        let spotted = self.sought.spot(packet).or_else(within);
        spotted.filter(|spotted| spotted.course != Course::Error).map(|spotted| spotted.probe)
    }

    /// A packet, or a segment of one, was sealed into a datagram of `size` bytes, which now waits to be sent; `header` is how that begins.
    #[cold]
    pub fn sealed(
        &self,
        worker: usize,
        (probe, tag): (u32, u32),
        packet: &[u8],
        header: &[u8],
        size: usize,
    ) -> Waiting {
        let outer = outer(header);
        let seen = self.whole((worker, Step::Sealed), probe, &VnetHdr::NONE, packet);
        self.note(Seen { at: now(), outer, checksum: Checksum::Unknown, ..seen });
        Waiting { probe, tag, outer, size, head: Head::of(header), _in_hand: Arc::clone(&self.in_hand) }
    }

    /// A packet was written into a datagram as it is.
    #[cold]
    pub fn enclosed(&self, (probe, tag): (u32, u32), packet: &[u8]) -> Waiting {
        let (size, head) = (packet.len(), Head::of(packet));
        Waiting { probe, tag, outer: None, size, head, _in_hand: Arc::clone(&self.in_hand) }
    }

    /// A datagram that waited was sent, at this time.
    #[cold]
    pub fn sent(&self, worker: usize, at: i64, waiting: &Waiting) {
        let Waiting { probe, outer, size, head, .. } = *waiting;
        let (step, checksum, segments) = (Step::Sent, Checksum::Unknown, (1, 0));
        self.note(Seen { worker, step, probe, at, size, segments, checksum, outer, head });
    }

    /// A datagram was taken from the socket at this time, and opened: of `bytes`, the range `(from, to)` is the packet.
    #[cold]
    pub fn received(&self, worker: usize, at: i64, bytes: &[u8], (from, to): (usize, usize)) -> Option<Arrived> {
        let probe = self.find(bytes.get(from..to)?)?;
        let header = bytes.get(from.checked_sub(DATA_HEADER)?..to)?;
        let outer = outer(header);
        // Behind the packet is the tag.
        let size = header.len() + wire::message::TAG;
        // Only the header is as it came: what follows it was opened in its place. Zeros stand for that.
        let mut head = Head { length: size.min(MAX_HEAD), ..Head::of(&[]) };
        head.bytes.iter_mut().zip(header.get(..DATA_HEADER)?).for_each(|(to, from)| *to = *from);
        let (step, checksum, segments) = (Step::Received, Checksum::Unknown, (1, 0));
        self.note(Seen { worker, step, probe, at, size, segments, checksum, outer, head });
        Some(Arrived { probe, outer })
    }

    /// The same for a datagram that is the packet.
    #[cold]
    pub fn received_plain(&self, worker: usize, at: i64, packet: &[u8]) {
        if let Some(probe) = self.find(packet) {
            let seen = self.whole((worker, Step::Received), probe, &VnetHdr::NONE, packet);
            self.note(Seen { at, checksum: Checksum::Unknown, ..seen });
        }
    }

    /// It may go on.
    #[cold]
    pub fn opened(&self, worker: usize, arrived: Arrived, packet: &[u8], partial: bool) {
        let seen = self.whole((worker, Step::Opened), arrived.probe, &VnetHdr::NONE, packet);
        let checksum = if partial { Checksum::Partial } else { Checksum::Complete };
        self.note(Seen { at: now(), outer: arrived.outer, checksum, ..seen });
    }

    /// A packet or super-packet is about to be written to the device.
    #[cold]
    pub fn written(&self, worker: usize, header: &VnetHdr, packet: &[u8]) {
        if let Some(probe) = self.find(packet) {
            self.note(Seen { at: now(), ..self.whole((worker, Step::Written), probe, header, packet) });
        }
    }

    fn whole(&self, (worker, step): (usize, Step), probe: u32, header: &VnetHdr, packet: &[u8]) -> Seen {
        let inner = match IpPacket::parse_cut(packet) {
            Ok(_) => packet,
            Err(_) => EthernetFrame::parse(packet).map_or(packet, |frame| frame.payload()),
        };
        Seen {
            worker,
            step,
            probe,
            at: 0,
            size: packet.len(),
            segments: segments(header, inner, inner.len()),
            checksum: checksum(header),
            outer: None,
            head: Head::of(packet),
        }
    }

    fn note(&self, seen: Seen) {
        if self.seen.push(seen).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for workers that have a probe in hand, so that what they do with it is among what is taken next.
    pub(super) fn settle(&self) {
        let deadline = Instant::now() + IN_HAND;
        while Arc::strong_count(&self.in_hand) > 1 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes what was seen since the last call, and how much was lost so far.
    pub(super) fn take(&self) -> (Vec<Observation>, u64) {
        let mut observations = Vec::new();
        while let Some(seen) = self.seen.pop() {
            let Seen { worker, step, probe, at, size, segments: (segments, segment_size), checksum, outer, head } =
                seen;
            observations.push(Observation {
                host: String::new(),
                probe,
                at,
                place: Place::Worker { number: u16::try_from(worker).unwrap_or(u16::MAX), step },
                size: u32::try_from(size).unwrap_or(u32::MAX),
                segments,
                segment_size,
                checksum,
                outer,
                head: head.to_vec(),
            });
        }
        (observations, self.lost.load(Ordering::Relaxed))
    }
}

fn outer(message: &[u8]) -> Option<Outer> {
    DataHeader::parse(message).ok().map(|header| Outer { receiver: header.receiver, counter: header.counter })
}

/// Nanoseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    i64::try_from(clock::realtime().as_nanos()).unwrap_or(i64::MAX)
}
