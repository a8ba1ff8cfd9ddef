//! From the device to the wire.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use linux::udp::{self, Flow, SendError, Sent};
use tunnel::session::Session;
use tunnel::{Notice, Peer, PeerId, Reason, Remote, Time, Way};
use wire::frame::Frame;
use wire::icmp::{self, Unreachable};
use wire::ip::{IpPacket, protocol};
use wire::message::data::{DATA_OVERHEAD, LANE_MASK};
use wire::message::{Flags, Protocol};
use wire::mss::{Checksum, clamp_mss};
use wire::segment::{Layout, SuperPacket};
use wire::vnet::VnetHdr;

use super::frames::Cast;
use super::{EBADFD, Event, Link, Path, Progress, TURN_BYTES, View};
use crate::observe::trace::observation::MAX_HEAD;
use crate::observe::trace::watch;

/// Packets read from the device before the wire has its turn again.
const DEVICE_BATCH: usize = 64;

/// Bytes that wait in trains before the full ones are sent in the middle of a batch: about one full train, which is still in
/// the processor's nearest caches then.
const SEND_THRESHOLD: usize = 60_000;

/// The tag of datagrams that belong to no peer.
pub(super) const NOBODY: u32 = u32::MAX;

/// Which trains are to be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    Full,
}

impl Path {
    /// Takes what the device has.
    pub(super) fn egress(&mut self, view: &View) -> Progress {
        let mut packet = std::mem::take(&mut self.packet);
        let batch = if self.classic { 1 } else { DEVICE_BATCH };
        let (mut taken, mut bytes) = (0, 0);
        let mut progress = Progress::More;
        self.sealed = None;
        while taken < batch && bytes < TURN_BYTES {
            match self.queue.recv(&mut packet) {
                Ok((header, length)) => {
                    taken += 1;
                    bytes += length;
                    let packet = packet.get_mut(..length).unwrap_or_default();
                    if let Some(tap) = &self.tap {
                        self.probe = tap.read(self.number, &header, packet);
                    }
                    if let Err(reason) = self.forward(view, header, packet) {
                        self.dropped(reason, 1);
                    }
                }
                Err(e) => {
                    // EAGAIN: nothing there. EBADFD: the device was deleted. Others do not last.
                    if e.raw_os_error() == Some(EBADFD) {
                        self.device_gone();
                    }
                    progress = if taken == 0 { Progress::Idle } else { Progress::Drained };
                    break;
                }
            }
        }
        self.packet = packet;
        if let Some(counters) = self.counters.get(self.number) {
            counters.device_reads.add(taken as u64);
            if taken > 0 {
                counters.batches.device.see(taken as u64);
            }
        }
        // With more to come in the next turn, trains that take more wait for it, but no longer than that.
        self.waits = progress == Progress::More && !self.classic && !self.waits;
        self.send(view, if self.waits { Which::Full } else { Which::All });
        progress
    }

    fn forward(&mut self, view: &View, header: VnetHdr, bytes: &mut [u8]) -> Result<(), Reason> {
        if let Some(frames) = &view.frames {
            return self.forward_frame(view, frames, header, bytes);
        }
        let packet = IpPacket::parse(bytes).map_err(|_| Reason::Malformed)?;
        let (id, peer) = match view.snapshot.egress(packet.destination()) {
            Ok(found) => found,
            Err(reason) => {
                if reason == Reason::NoRoute {
                    self.tell_sender(&packet, Unreachable::NoRoute);
                }
                return Err(reason);
            }
        };
        let link = view.links.get(id.0 as usize).ok_or(Reason::NoRoute)?;
        match &peer.way {
            Way::Plain(endpoint) => self.forward_plain(view, (id, peer, link), *endpoint, header, bytes),
            Way::Secure { remote, .. } => self.forward_secure(view, (id, peer, link), remote, header, bytes),
        }
    }

    fn forward_plain(
        &mut self,
        view: &View,
        (id, peer, link): (PeerId, &Peer, &Link),
        to: SocketAddr,
        header: VnetHdr,
        bytes: &[u8],
    ) -> Result<(), Reason> {
        let packet = IpPacket::parse(bytes).map_err(|_| Reason::Malformed)?;
        if is_own_datagram(&packet, to) {
            return Err(Reason::Loop);
        }
        let packets = SuperPacket::parse(header, packet).map_err(|_| Reason::Malformed)?;
        let from = link.local.load().as_deref().copied();
        let flow = Flow { to, from, ecn: packet.ecn(), lane: packet.flow_hash(), tag: id.0 };
        if packets.segment_len() > peer.mtu {
            return self.forward_narrow(&packet, &packets, peer.mtu, &mut |path, piece| {
                path.put(view, &flow, (piece.len(), piece.len()), |slot| {
                    slot.copy_from_slice(piece);
                    true
                })
            });
        }
        if let (Some(tap), Some(probe)) = (&self.tap, self.probe) {
            self.waiting.push(tap.enclosed((probe, id.0), packet.bytes()));
        }
        for i in 0..packets.count() {
            let length = packets.len_of(i);
            self.put(view, &flow, (length, length), |slot| packets.emit(i, slot) == length)?;
        }
        self.send_when_full(view);
        Ok(())
    }

    fn forward_secure(
        &mut self,
        view: &View,
        (id, peer, link): (PeerId, &Peer, &Link),
        remote: &Remote,
        header: VnetHdr,
        bytes: &mut [u8],
    ) -> Result<(), Reason> {
        let session = remote.session.load();
        let path = remote.path.load();
        let alive = session.as_ref().filter(|session| session.is_alive(self.now));
        let (Some(session), Some(path)) = (alive, path.as_ref()) else {
            return self.hold(id, header, bytes);
        };
        let checksum = if header.needs_csum() { Checksum::Partial } else { Checksum::Complete };
        clamp_mss(bytes, peer.mtu, checksum);
        let packet = IpPacket::parse(bytes).map_err(|_| Reason::Malformed)?;
        if is_own_datagram(&packet, path.endpoint) {
            return Err(Reason::Loop);
        }
        let packets = SuperPacket::parse(header, packet).map_err(|_| Reason::Malformed)?;
        let lane = lane(session.protocol(), packet.flow_hash());
        let from = link.local.load().as_deref().copied();
        let flow = Flow { to: path.endpoint, from, ecn: packet.ecn(), lane, tag: id.0 };
        let sealing = Sealing { id, session, remote, flow, mtu: peer.mtu.min(view.mtu) };
        if packets.segment_len() > peer.mtu {
            return self.forward_narrow(&packet, &packets, peer.mtu, &mut |path, piece| {
                let counter = path.reserve(&sealing, 1, piece.len() + DATA_OVERHEAD).ok_or(Reason::NoSession)?;
                path.seal(view, &sealing, counter, Flags::NONE, piece)
            });
        }
        let layout = packets.layout();
        let total = (0..layout.count()).map(|i| layout.len_of(i) + DATA_OVERHEAD).sum();
        if !path.permits(total) {
            return Err(Reason::Unproven);
        }
        let Ok(first) = session.reserve(layout.count(), self.now) else { return self.hold(id, header, bytes) };
        let flags = self.first_flags(&sealing, (&[], Some(&packet)), &layout, first);
        self.seal_all(view, &sealing, (first, flags), layout, header, bytes)?;
        self.sent(&sealing);
        self.send_when_full(view);
        Ok(())
    }

    /// The flags of a packet, or of the first segment of one.
    #[inline]
    pub(super) fn first_flags(
        &mut self,
        sealing: &Sealing<'_>,
        (link, packet): (&[u8], Option<&IpPacket<'_>>),
        layout: &Layout,
        first: u64,
    ) -> Flags {
        let index = sealing.session.index();
        let next = self.sealed == first.checked_sub(1).map(|last| (index, last));
        let count = layout.count();
        self.sealed = Some((index, first + (count - 1) as u64));
        if sealing.session.protocol() != Protocol::Sealed || !layout.has_partial() || count > 1 || !next {
            self.continuity.interrupt();
        }
        if sealing.session.protocol() != Protocol::Sealed || !layout.has_partial() {
            return Flags::NONE;
        }
        let flags = Flags::CHECKSUM_PARTIAL;
        let continues = count == 1 && packet.is_some_and(|packet| self.continuity.continues(link, packet));
        if continues { flags.with(Flags::CONTINUES) } else { flags }
    }

    #[inline]
    pub(super) fn seal_all(
        &mut self,
        view: &View,
        sealing: &Sealing<'_>,
        (first, flags): (u64, Flags),
        layout: Layout,
        header: VnetHdr,
        bytes: &mut [u8],
    ) -> Result<(), Reason> {
        let partial = sealing.session.protocol() == Protocol::Sealed;
        let flags_of =
            |i: u64| if i > 0 && layout.has_partial() && partial { flags.with(Flags::CONTINUES) } else { flags };
        let counters = first..first + layout.count() as u64;
        if let Some(mut segments) = layout.in_place(bytes) {
            for counter in counters {
                let segment = if partial { segments.next_partial() } else { segments.next_complete() };
                let Some(segment) = segment else { return Err(Reason::Malformed) };
                self.seal(view, sealing, counter, flags_of(counter - first), segment)?;
            }
            return Ok(());
        }
        // Headers longer than any that are in use.
        let packets = match &view.frames {
            Some(_) => Frame::parse(bytes).and_then(|frame| SuperPacket::parse_frame(header, &frame)),
            None => IpPacket::parse(bytes).and_then(|packet| SuperPacket::parse(header, packet)),
        };
        let packets = packets.map_err(|_| Reason::Malformed)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut outcome = Ok(());
        for (i, counter) in counters.enumerate() {
            let length = if partial { packets.emit_partial(i, &mut scratch) } else { packets.emit(i, &mut scratch) };
            let segment = scratch.get(..length).unwrap_or_default();
            outcome = outcome.and(self.seal(view, sealing, counter, flags_of(counter - first), segment));
        }
        self.scratch = scratch;
        outcome
    }

    /// Takes counters for one datagram after the other, where a packet is cut in pieces; none if nothing may be sent now.
    pub(super) fn reserve(&mut self, sealing: &Sealing<'_>, count: usize, bytes: usize) -> Option<u64> {
        let path = sealing.remote.path.load();
        let permitted = path.as_ref().is_some_and(|path| path.permits(bytes));
        let counter = sealing.session.reserve(count, self.now).ok().filter(|_| permitted)?;
        self.sealed = None;
        self.sent(sealing);
        Some(counter)
    }

    /// Notes that a packet went to a peer.
    #[inline]
    pub(super) fn sent(&self, sealing: &Sealing<'_>) {
        if sealing.remote.activity.sent(self.now, true) {
            self.notify(Notice::Watch(sealing.id), None);
        }
        if sealing.session.wants_renewal(self.now, true) {
            self.notify(Notice::Renew(sealing.id), None);
        }
    }

    #[inline]
    pub(super) fn seal(
        &mut self,
        view: &View,
        sealing: &Sealing<'_>,
        counter: u64,
        flags: Flags,
        packet: &[u8],
    ) -> Result<(), Reason> {
        let Sealing { session, flow, mtu, .. } = sealing;
        let length = session.datagram_len(packet.len(), *mtu);
        if self.probe.is_some() {
            return self.seal_probe(view, sealing, (counter, flags), packet, length);
        }
        self.put(view, flow, (length, packet.len()), |slot| session.seal(counter, flags, flow.lane, packet, slot))
    }

    /// The same for a probe, which is noted.
    #[cold]
    fn seal_probe(
        &mut self,
        view: &View,
        Sealing { session, flow, .. }: &Sealing<'_>,
        (counter, flags): (u64, Flags),
        packet: &[u8],
        length: usize,
    ) -> Result<(), Reason> {
        let mut head = [0; MAX_HEAD];
        self.put(view, flow, (length, packet.len()), |slot| {
            let sealed = session.seal(counter, flags, flow.lane, packet, slot);
            head.iter_mut().zip(&*slot).for_each(|(to, from)| *to = *from);
            sealed
        })?;
        if let (Some(tap), Some(probe)) = (&self.tap, self.probe) {
            self.waiting.push(tap.sealed(
                self.number,
                (probe, flow.tag),
                packet,
                head.get(..length).unwrap_or(&head),
                length,
            ));
        }
        Ok(())
    }

    /// Writes one datagram of `length` bytes, of which `inside` are a packet's, into a train; `write` answers whether it did.
    #[inline]
    fn put(
        &mut self,
        view: &View,
        flow: &Flow,
        (length, inside): (usize, usize),
        write: impl FnOnce(&mut [u8]) -> bool,
    ) -> Result<(), Reason> {
        let written = match self.trains.slot(flow, length) {
            Ok(slot) => write(slot),
            Err(udp::Full) => {
                self.send(view, Which::All);
                write(self.trains.slot(flow, length).map_err(|_| Reason::TooBig)?)
            }
        };
        if !written {
            return Err(Reason::SendFailed);
        }
        self.trains.commit_counted(length, inside);
        Ok(())
    }

    #[inline]
    pub(super) fn send_when_full(&mut self, view: &View) {
        if self.trains.waiting() >= SEND_THRESHOLD {
            self.send(view, Which::Full);
        }
    }

    /// A packet longer than the path takes: fragments if its sender allows them, else the news that it is too big.
    #[cold]
    fn forward_narrow(
        &mut self,
        packet: &IpPacket<'_>,
        packets: &SuperPacket<'_>,
        mtu: usize,
        put: &mut Put<'_>,
    ) -> Result<(), Reason> {
        if packet.dont_fragment() {
            self.tell_sender(packet, Unreachable::TooBig { mtu: u32::try_from(mtu).unwrap_or(u32::MAX) });
            self.dropped(Reason::TooBig, packets.count().saturating_sub(1));
            return Err(Reason::TooBig);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut pieces = Vec::new();
        for i in 0..packets.count() {
            let length = packets.emit(i, &mut scratch);
            let Ok(segment) = IpPacket::parse(scratch.get(..length).unwrap_or_default()) else {
                self.dropped(Reason::Malformed, 1);
                continue;
            };
            pieces.clear();
            let split = wire::fragment::fragment_v4(&segment, mtu, &mut |header, payload| {
                pieces.push([header, payload].concat());
            });
            if split.is_err() {
                self.dropped(Reason::TooBig, 1);
            }
            for piece in &pieces {
                if let Err(reason) = put(self, piece) {
                    self.dropped(reason, 1);
                }
            }
        }
        self.scratch = scratch;
        Ok(())
    }

    /// Writes an ICMP error for `packet` into the device. It comes from the address that cannot be reached: the kernel takes
    /// nothing from a device whose source is an address of its own (`fib_validate_source` in net/ipv4/fib_frontend.c), while
    /// the way back to this one leads through this device, as reverse-path filters want it.
    #[cold]
    fn tell_sender(&mut self, packet: &IpPacket<'_>, what: Unreachable) {
        if !self.errors.take(Instant::now()) {
            return;
        }
        let length = icmp::error_reply(packet, packet.destination(), what, &mut self.scratch);
        if let Some(reply) = length.and_then(|l| self.scratch.get(..l)) {
            // An error that the device does not take is lost, as errors may be.
            let _ = self.queue.send(&VnetHdr::NONE, reply);
        }
    }

    // ---- packets that wait for a session -------------------------------------------------------------------------------

    #[cold]
    pub(super) fn hold(&mut self, id: PeerId, header: VnetHdr, packet: &[u8]) -> Result<(), Reason> {
        let placed = self.stage.put(id, header, packet, self.now);
        if placed.tell {
            self.notify(Notice::Wanted(id), None);
        }
        self.dropped(Reason::NoSession, placed.dropped);
        Ok(())
    }

    /// Sends what waited for a session that is there now, and drops what waited for one that did not come about.
    #[cold]
    pub(super) fn look_at_stage(&mut self, view: &View) {
        for id in self.stage.peers() {
            let remote = view.snapshot.peer(id).and_then(Peer::remote);
            if remote.is_some_and(|remote| remote.session.load().is_some()) {
                let waited: VecDeque<_> = self.stage.take(id);
                for mut staged in waited {
                    self.probe = self.tap.as_ref().and_then(|tap| tap.find(&staged.packet));
                    // A frame that waited for one peer went to the others at once, if it was for all.
                    let outcome = match &view.frames {
                        Some(_) => self.frame_to(view, (id, Cast::Flood), staged.header, &mut staged.packet),
                        None => self.forward(view, staged.header, &mut staged.packet),
                    };
                    if let Err(reason) = outcome {
                        self.dropped(reason, 1);
                    }
                }
            } else {
                let given_up = view.links.get(id.0 as usize).map_or(0, |link| link.given_up.load(Ordering::Acquire));
                let dropped = self.stage.drop_until(id, Time::from_nanos(given_up));
                self.dropped(Reason::NoSession, dropped);
            }
        }
        self.send(view, Which::All);
    }

    // ---- sending -------------------------------------------------------------------------------------------------------

    /// Sends all that waits.
    pub(super) fn send_all(&mut self, view: &View) {
        self.send(view, Which::All);
    }

    /// Sends what waits; in the middle of a batch only the trains that are full, since more of the same flow is likely to come.
    fn send(&mut self, view: &View, which: Which) {
        if self.trains.is_empty() {
            return;
        }
        let Some(counters) = self.counters.get(self.number) else { return };
        let (number, report) = (self.number, &self.report);
        let mut all = 0;
        let (at, mut failed) = (if self.waiting.is_empty() { 0 } else { watch::now() }, None);
        let account = |sent: Sent<'_>| {
            counters.sends.add(1);
            all += sent.datagrams;
            if sent.flow.tag == NOBODY {
                return;
            }
            let id = PeerId(sent.flow.tag);
            counters.egress.add(sent.datagrams, sent.counted);
            let link = view.links.get(id.0 as usize);
            if let Some(traffic) = link.and_then(|link| link.traffic.get(number)) {
                traffic.egress.add(sent.datagrams, sent.counted);
                traffic.wire.sent.add(sent.bytes as u64);
            }
            if sent.source_lost
                && let Some(link) = link
            {
                link.local.store(None);
            }
            if let Some((datagrams, error)) = sent.failed {
                counters.dropped(reason(error), datagrams);
                failed = Some(sent.flow.tag);
                if error == SendError::TooBig {
                    report(Event::PathTooNarrow(id));
                }
            }
        };
        match which {
            Which::All => self.trains.flush(&self.socket, account),
            Which::Full => self.trains.flush_closed(&self.socket, account),
        }
        if all > 0 {
            counters.batches.sent.see(all as u64);
        }
        if !self.waiting.is_empty() {
            self.note_sent(at, failed);
        }
    }

    /// Notes which probes were sent, unless some of their trains still wait, or those of their peer failed.
    #[cold]
    fn note_sent(&mut self, at: i64, failed: Option<u32>) {
        if !self.trains.is_empty() {
            return;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if let Some(tap) = self.tap.as_ref().filter(|_| failed != Some(waiting.tag)) {
                tap.sent(self.number, at, &waiting);
            }
        }
    }
}

/// Puts a piece of a packet into a train.
type Put<'a> = dyn FnMut(&mut Path, &[u8]) -> Result<(), Reason> + 'a;

/// Whom a packet is sealed for, and how it gets there.
pub(super) struct Sealing<'a> {
    pub(super) id: PeerId,
    pub(super) session: &'a Arc<Session>,
    pub(super) remote: &'a Remote,
    pub(super) flow: Flow,
    pub(super) mtu: usize,
}

/// The lane of a flow, the same in both directions. WireGuard has none.
#[inline]
pub(super) fn lane(protocol: Protocol, hash: u32) -> u32 {
    match protocol {
        // As the steering program spreads ports (`linux::udp`), but by the upper bits.
        Protocol::Sealed => (hash.wrapping_mul(0x9e37_79b1) >> 16) & LANE_MASK,
        Protocol::WireGuard => 0,
    }
}

/// Whether a packet of the device's looks like the datagrams in which we carry packets to this peer: the routes lead them into the
/// tunnel itself.
#[inline]
pub(super) fn is_own_datagram(packet: &IpPacket<'_>, endpoint: SocketAddr) -> bool {
    packet.destination() == endpoint.ip()
        && packet.protocol() == protocol::UDP
        && packet.payload().get(2..4) == Some(&endpoint.port().to_be_bytes())
}

fn reason(error: SendError) -> Reason {
    match error {
        SendError::TooBig => Reason::TooBig,
        SendError::Full => Reason::SendBufferFull,
        SendError::Unreachable => Reason::Unreachable,
        SendError::Other(_) => Reason::SendFailed,
    }
}
