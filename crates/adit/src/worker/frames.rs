//! The way of a frame, with a device that carries frames: who gets it is the switch's to say ([`tunnel::switch`]), and all else is as with packets.

use std::sync::Arc;
use std::time::Instant;

use linux::udp::Flow;
use tunnel::switch::{Members, Switch, Way as SwitchWay};
use tunnel::{PeerId, Reason, Way};
use wire::ecn::{self, Ecn};
use wire::frame::{Frame, MAX_LINK};
use wire::icmp::{self, Unreachable};
use wire::ip::IpPacket;
use wire::message::Flags;
use wire::message::data::DATA_OVERHEAD;
use wire::mss::{Checksum, clamp_mss};
use wire::segment::SuperPacket;
use wire::vnet::{self, VnetHdr};

use super::egress::{Sealing, is_own_datagram, lane};
use super::{Event, Path, View};

/// What workers know of frames.
#[derive(Clone)]
pub struct Frames {
    /// Which address is where.
    pub switch: Arc<Switch>,
    /// Who there is.
    pub members: Members,
}

/// Why a peer gets a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cast {
    /// Its destination is there.
    Owner,
    /// It may be there, as it may be anywhere: what the way to this one takes says nothing of the way to it.
    Flood,
}

impl Path {
    /// A frame of the device's.
    pub(super) fn forward_frame(
        &mut self,
        view: &View,
        frames: &Frames,
        header: VnetHdr,
        bytes: &mut [u8],
    ) -> Result<(), Reason> {
        let frame = Frame::parse(bytes).map_err(|_| Reason::Malformed)?;
        match frames.switch.egress(&frames.members, &frame, count(header, &frame), self.now)? {
            SwitchWay::To(id) => self.frame_to(view, (id, Cast::Owner), header, bytes),
            SwitchWay::Flood => self.flood(view, frames.members.all(), header, bytes),
            SwitchWay::Answer(reply) => {
                // One that the device does not take is asked for again.
                let _ = self.queue.send(&VnetHdr::NONE, &reply);
                Ok(())
            }
            SwitchWay::Beacon(Some(beacon)) => {
                if self.secrets.mailbox.hear(beacon) {
                    (self.report)(Event::Mail);
                }
                Ok(())
            }
            SwitchWay::Beacon(None) => Err(Reason::Malformed),
        }
    }

    /// To each of them. Splitting leaves nothing of a frame, so that all but the last get a copy.
    #[cold]
    fn flood(&mut self, view: &View, members: &[PeerId], header: VnetHdr, bytes: &mut [u8]) -> Result<(), Reason> {
        let Some((last, others)) = members.split_last() else { return Err(Reason::NoRoute) };
        let mut copy = Vec::with_capacity(bytes.len());
        for id in others {
            copy.clear();
            copy.extend_from_slice(bytes);
            if let Err(reason) = self.frame_to(view, (*id, Cast::Flood), header, &mut copy) {
                self.dropped(reason, 1);
            }
        }
        self.frame_to(view, (*last, Cast::Flood), header, bytes)
    }

    /// To one peer.
    pub(super) fn frame_to(
        &mut self,
        view: &View,
        (id, cast): (PeerId, Cast),
        header: VnetHdr,
        bytes: &mut [u8],
    ) -> Result<(), Reason> {
        let peer = view.snapshot.peer(id).ok_or(Reason::NoRoute)?;
        let link = view.links.get(id.0 as usize).ok_or(Reason::NoRoute)?;
        let Way::Secure { remote, .. } = &peer.way else { return Err(Reason::WrongTransport) };
        let session = remote.session.load();
        let path = remote.path.load();
        let alive = session.as_ref().filter(|session| session.is_alive(self.now));
        let (Some(session), Some(path)) = (alive, path.as_ref()) else {
            return self.hold(id, header, bytes);
        };
        let link_len = Frame::parse(bytes).map_err(|_| Reason::Malformed)?.link().len();
        if let Some(inner) = bytes.get_mut(link_len..) {
            let checksum = if header.needs_csum() { Checksum::Partial } else { Checksum::Complete };
            clamp_mss(inner, peer.mtu.saturating_sub(link_len), checksum);
        }
        let frame = Frame::parse(bytes).map_err(|_| Reason::Malformed)?;
        let packet = frame.packet();
        if packet.is_some_and(|packet| is_own_datagram(&packet, path.endpoint)) {
            return Err(Reason::Loop);
        }
        let packets = SuperPacket::parse_frame(header, &frame).map_err(|_| Reason::Malformed)?;
        let flow = Flow {
            to: path.endpoint,
            from: link.local.load().as_deref().copied(),
            ecn: packet.map_or(Ecn::NotEct, |packet| packet.ecn()),
            lane: lane(session.protocol(), frame.flow_hash()),
            tag: id.0,
        };
        let sealing = Sealing { id, session, remote, flow, mtu: peer.mtu.min(view.mtu) };
        if packets.segment_len() > peer.mtu {
            return self.frame_too_long(view, &sealing, (&frame, cast), &packets, peer.mtu);
        }
        let layout = packets.layout();
        let total = (0..layout.count()).map(|i| layout.len_of(i) + DATA_OVERHEAD).sum();
        if !path.permits(total) {
            return Err(Reason::Unproven);
        }
        let Ok(first) = session.reserve(layout.count(), self.now) else { return self.hold(id, header, bytes) };
        let flags = self.first_flags(&sealing, (frame.link(), packet.as_ref()), &layout, first);
        self.seal_all(view, &sealing, (first, flags), layout, header, bytes)?;
        self.sent(&sealing);
        self.send_when_full(view);
        Ok(())
    }

    /// A frame longer than the way takes: the packet in it in fragments if its sender allows them, else the news that it is too big.
    #[cold]
    fn frame_too_long(
        &mut self,
        view: &View,
        sealing: &Sealing<'_>,
        (frame, cast): (&Frame<'_>, Cast),
        packets: &SuperPacket<'_>,
        mtu: usize,
    ) -> Result<(), Reason> {
        let (Some(packet), Some(room)) = (frame.packet(), mtu.checked_sub(frame.link().len())) else {
            return Err(Reason::TooBig);
        };
        if packet.dont_fragment() {
            if cast == Cast::Owner {
                self.tell_neighbour(frame, &packet, room);
            }
            self.dropped(Reason::TooBig, packets.count().saturating_sub(1));
            return Err(Reason::TooBig);
        }
        let link = frame.link().to_vec();
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        for i in 0..packets.count() {
            let length = packets.emit(i, &mut scratch);
            let inner = scratch.get(..length).and_then(|segment| segment.get(link.len()..)).unwrap_or_default();
            let Ok(segment) = IpPacket::parse(inner) else {
                self.dropped(Reason::Malformed, 1);
                continue;
            };
            pieces.clear();
            let split = wire::fragment::fragment_v4(&segment, room, &mut |header, payload| {
                pieces.push([&link, header, payload].concat());
            });
            if split.is_err() {
                self.dropped(Reason::TooBig, 1);
            }
            for piece in &pieces {
                let sent = match self.reserve(sealing, 1, piece.len() + DATA_OVERHEAD) {
                    Some(counter) => self.seal(view, sealing, counter, Flags::NONE, piece),
                    None => Err(Reason::NoSession),
                };
                if let Err(reason) = sent {
                    self.dropped(reason, 1);
                }
            }
        }
        self.scratch = scratch;
        Ok(())
    }

    /// Tells the sender of a packet, by the device, which size fits: in the name of whom it sent to, as nobody else is there.
    #[cold]
    fn tell_neighbour(&mut self, frame: &Frame<'_>, packet: &IpPacket<'_>, mtu: usize) {
        if frame.destination().is_group() || !self.errors.take(Instant::now()) {
            return;
        }
        let mut link = [0; MAX_LINK];
        let link_len = frame.link().len();
        let Some(link) = link.get_mut(..link_len) else { return };
        link.copy_from_slice(frame.link());
        let (to, from) = (frame.source().0, frame.destination().0);
        if let Some(addresses) = link.first_chunk_mut::<12>() {
            *addresses =
                [to[0], to[1], to[2], to[3], to[4], to[5], from[0], from[1], from[2], from[3], from[4], from[5]];
        }
        let what = Unreachable::TooBig { mtu: u32::try_from(mtu).unwrap_or(u32::MAX) };
        let Some((head, room)) = self.scratch.split_at_mut_checked(link_len) else { return };
        head.copy_from_slice(link);
        let length = icmp::error_reply(packet, packet.destination(), what, room);
        if let Some(reply) = length.and_then(|length| self.scratch.get(..link_len + length)) {
            // An error that the device does not take is lost, as errors may be.
            let _ = self.queue.send(&VnetHdr::NONE, reply);
        }
    }
}

/// For how many frames a frame of the device's stands, roughly: headers count as payload.
fn count(header: VnetHdr, frame: &Frame<'_>) -> usize {
    let size = usize::from(header.gso_size);
    if header.gso_type == vnet::GSO_NONE || size == 0 { 1 } else { frame.bytes().len().div_ceil(size) }
}

/// Whom the last frame of a run came from, and whether the next one of the same two addresses needs no look.
pub(super) struct FrameAdmission<'a> {
    frames: &'a Frames,
    outer: Ecn,
    admitted: Option<(PeerId, [u8; 12])>,
}

impl<'a> FrameAdmission<'a> {
    pub(super) fn new(frames: &'a Frames, outer: Ecn) -> Self {
        Self { frames, outer, admitted: None }
    }

    /// A frame that a peer sealed, whose way back takes `mtu` bytes. The congestion mark is carried inwards, and a TCP connection that opens
    /// learns what fits, before the frame is looked at.
    #[inline]
    pub(super) fn admit<'d>(
        &mut self,
        plaintext: &'d mut [u8],
        (peer, mtu): (PeerId, usize),
        partial: bool,
        now: tunnel::Time,
    ) -> Result<Frame<'d>, Reason> {
        let link_len = Frame::parse(plaintext).map_err(|_| Reason::Malformed)?.link().len();
        if let Some(inner) = plaintext.get_mut(link_len..) {
            let checksum = if partial { Checksum::Partial } else { Checksum::Complete };
            clamp_mss(inner, mtu.saturating_sub(link_len), checksum);
        }
        if self.outer != Ecn::NotEct {
            carry_mark(self.outer, plaintext, link_len)?;
        }
        let frame = Frame::parse(plaintext).map_err(|_| Reason::Malformed)?;
        if self.admitted != Some((peer, *frame.addresses())) {
            let Frames { switch, members } = self.frames;
            let settled = switch.ingress(members, peer, &frame, now)?;
            self.admitted = settled.then_some((peer, *frame.addresses()));
        }
        Ok(frame)
    }
}

#[cold]
fn carry_mark(outer: Ecn, plaintext: &mut [u8], link_len: usize) -> Result<(), Reason> {
    let inner = Frame::parse(plaintext).ok().and_then(|frame| frame.packet()).map(|packet| packet.ecn());
    // What is no IP packet cannot carry it, and nothing says that it should have.
    let Some(inner) = inner else { return Ok(()) };
    let combined = ecn::decapsulate(outer, inner).map_err(|_| Reason::Congestion)?;
    if combined != inner
        && let Some(packet) = plaintext.get_mut(link_len..)
    {
        ecn::set(packet, combined);
    }
    Ok(())
}
