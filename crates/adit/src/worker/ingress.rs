//! From the wire to the device.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::rand;
use linux::udp::{Datagrams, Flow, LocalAddress, SendQueue};
use tunnel::admission::Verdict;
use tunnel::open::{Batch, Outcome};
use tunnel::remote::Path as Whereabouts;
use tunnel::session::Session;
use tunnel::{Notice, PeerId, Reason, Snapshot, Time};
use wire::coalesce::{Coalescer, Joins};
use wire::ecn::{self, Ecn};
use wire::ip::IpPacket;
use wire::message::{self, Control, Flags, Handshake, Message, Note, Protocol, Step};
use wire::mss::{Checksum, clamp_mss};

use super::device::DeviceWriter;
use super::egress::NOBODY;
use super::frames::FrameAdmission;
use super::{Event, Path, Progress, Report, Secrets, TURN_BYTES, View};
use crate::counters::WorkerCounters;

impl Path {
    /// Takes what the wire has.
    pub(super) fn ingress(&mut self, view: &View) -> Progress {
        let limit = self.receive_limit;
        let receives = match self.received.receive(&self.socket, limit) {
            Ok(receives) => receives,
            Err(e) => return self.receive_failed(&e),
        };
        let Some(counters) = self.counters.get(self.number) else { return Progress::Idle };
        counters.receives.add(receives as u64);
        let device = DeviceWriter {
            queue: &self.queue,
            counters,
            scratch: &mut self.scratch,
            joins: self.joins,
            frames: view.frames.is_some(),
            gone: false,
        };
        self.batch.begin();
        let mut arriving = Arriving {
            view,
            number: self.number,
            now: self.now,
            counters,
            secrets: &self.secrets,
            report: &self.report,
            batch: &mut self.batch,
            coalescer: &mut self.coalescer,
            trains: &mut self.trains,
            device,
        };
        let mut total = 0;
        for mut datagrams in self.received.datagrams() {
            total += datagrams.bytes.len();
            match view.snapshot.speaker(datagrams.source) {
                Ok(peer) => arriving.plain(peer, &mut datagrams),
                Err(_) if view.snapshot.has_secure() => arriving.secure(&mut datagrams),
                Err(reason) => counters.dropped(reason, datagrams.bytes.len().div_ceil(datagrams.stride.max(1)).max(1)),
            }
        }
        let Arriving { mut device, coalescer, .. } = arriving;
        coalescer.flush(&mut |header, packet| device.write(header, packet));
        let DeviceWriter { joins, gone, .. } = device;
        if joins != self.joins {
            self.join_only(joins);
        }
        if gone {
            self.device_gone();
        }
        self.receive_limit = (TURN_BYTES * receives / total.max(1)).clamp(1, linux::udp::BATCH);
        if self.classic || receives == limit { Progress::More } else { Progress::Drained }
    }

    fn receive_failed(&mut self, error: &io::Error) -> Progress {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
            // What an ICMP error brought back for an earlier datagram; reading it has cleared it.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {}
            _ => {
                tracing::error!("worker-{} ends: cannot receive from the UDP socket: {error}", self.number);
                self.ended = true;
                (self.report)(Event::SocketFailed);
            }
        }
        Progress::Idle
    }

    /// The kernel refused a super-packet of a kind that it had agreed to (such kernels were released): none of that kind from
    /// now on.
    fn join_only(&mut self, joins: Joins) {
        self.joins = joins;
        self.coalescer = Coalescer::new(joins);
        (self.report)(Event::SuperPacketsRefused);
    }
}

/// One receive on its way to the device.
struct Arriving<'a> {
    view: &'a View,
    number: usize,
    now: Time,
    counters: &'a WorkerCounters,
    secrets: &'a Secrets,
    report: &'a Report,
    batch: &'a mut Batch,
    coalescer: &'a mut Coalescer,
    trains: &'a mut SendQueue,
    device: DeviceWriter<'a>,
}

/// Where a run of datagrams comes from.
#[derive(Clone, Copy)]
struct Origin {
    source: SocketAddr,
    local: Option<LocalAddress>,
}

/// What came from one session in one run.
#[derive(Default)]
struct Heard {
    packets: usize,
    /// Of inner packets.
    bytes: usize,
    /// Of datagrams.
    received: usize,
    newest: bool,
    /// Whether it came from elsewhere than before, and the peer is there now.
    moved: bool,
}

impl Arriving<'_> {
    /// A run from the endpoint of a plain peer.
    fn plain(&mut self, peer: PeerId, datagrams: &mut Datagrams<'_>) {
        let Some(link) = self.view.links.get(peer.0 as usize) else { return };
        if datagrams.bytes.is_empty() {
            return self.counters.dropped(Reason::Malformed, 1);
        }
        let mut admission = Admission::new(&self.view.snapshot, peer, datagrams.ecn);
        let (mut packets, mut bytes) = (0, 0);
        for datagram in datagrams.bytes.chunks_mut(datagrams.stride.max(1)) {
            match admission.admit_plain(datagram) {
                Ok(packet) => {
                    packets += 1;
                    bytes += packet.bytes().len();
                    self.coalescer.push(&packet, &mut |header, packet| self.device.write(header, packet));
                }
                Err(reason) => self.counters.dropped(reason, 1),
            }
        }
        if packets > 0 {
            link.answer_from(datagrams.local);
            self.counters.ingress.add(packets, bytes);
            if let Some(traffic) = link.traffic.get(self.number) {
                traffic.ingress.add(packets, bytes);
                traffic.wire.received.add(bytes as u64);
            }
        }
    }

    /// A run from anybody else: data names its session, and all else must prove itself.
    fn secure(&mut self, datagrams: &mut Datagrams<'_>) {
        let origin = Origin { source: datagrams.source, local: datagrams.local };
        let stride = datagrams.stride.max(1);
        if datagrams.bytes.is_empty() {
            return self.counters.dropped(Reason::UnknownEndpoint, 1);
        }
        self.batch.open(&self.secrets.sessions, datagrams.bytes, stride, self.now);
        let mut batch = std::mem::take(self.batch);
        let mut admission = Admission::new(&self.view.snapshot, PeerId(u32::MAX), datagrams.ecn);
        admission.frames = self.view.frames.as_ref().map(|frames| FrameAdmission::new(frames, datagrams.ecn));
        let mut current = None;
        let mut heard = Heard::default();
        for (number, outcome) in batch.outcomes().iter().enumerate() {
            match *outcome {
                Outcome::Dropped(reason) => self.counters.dropped(reason, 1),
                Outcome::Other => {
                    let rest = datagrams.bytes.get(number * stride..).unwrap_or_default();
                    self.message(rest.get(..stride.min(rest.len())).unwrap_or_default(), origin);
                }
                Outcome::Opened { session, plaintext: (from, to), flags, follows, newest } => {
                    if current != Some(session) {
                        self.hear(current.and_then(|current| batch.session(current)), &heard, origin);
                        (current, heard) = (Some(session), Heard::default());
                    }
                    let Some(session) = batch.session(session) else { continue };
                    admission.speaks(session.peer());
                    let Some(plaintext) = datagrams.bytes.get_mut(from..to) else { continue };
                    if heard.received == 0 || (newest && !heard.newest) {
                        self.meet(session, newest, &mut heard, origin);
                    }
                    heard.received += message::data::DATA_OVERHEAD + plaintext.len();
                    heard.newest |= newest;
                    self.deliver(session, plaintext, flags, follows, &mut admission, &mut heard, origin);
                }
            }
        }
        self.hear(current.and_then(|current| batch.session(current)), &heard, origin);
        batch.let_go();
        *self.batch = batch;
    }

    /// What a session opened.
    #[expect(clippy::too_many_arguments, reason = "all of it is about this one datagram, and taken apart at once")]
    #[inline]
    fn deliver(
        &mut self,
        session: &Session,
        plaintext: &mut [u8],
        flags: Flags,
        follows: bool,
        admission: &mut Admission<'_>,
        heard: &mut Heard,
        origin: Origin,
    ) {
        if flags.contains(Flags::CONTROL) {
            let bytes = message::data::DATA_OVERHEAD + plaintext.len();
            if Note::is_one(plaintext) {
                return self.told(session.index(), plaintext);
            }
            return match Control::parse(plaintext) {
                Ok(message) => {
                    let (index, from) = (session.index(), origin.source);
                    self.notify(Notice::Control { index, from, message, bytes }, origin.local);
                }
                Err(_) => self.counters.dropped(Reason::Malformed, 1),
            };
        }
        // WireGuard's keepalive.
        if plaintext.is_empty() && session.protocol() == Protocol::WireGuard {
            return;
        }
        let partial = flags.contains(Flags::CHECKSUM_PARTIAL);
        if let Some(frames) = &mut admission.frames {
            let from = (admission.peer, admission.mtu);
            let frame = match frames.admit(plaintext, from, partial, self.now) {
                Ok(frame) => frame,
                Err(reason) => return self.counters.dropped(reason, 1),
            };
            let write = &mut |header: &_, frame: &[u8]| self.device.write(header, frame);
            if partial {
                let continues = follows && flags.contains(Flags::CONTINUES);
                if self.coalescer.push_frame_partial(&frame, continues, write).is_err() {
                    return self.counters.dropped(Reason::Malformed, 1);
                }
            } else {
                self.coalescer.push_frame(&frame, write);
            }
            heard.packets += 1;
            heard.bytes += frame.bytes().len();
            return;
        }
        let packet = match admission.admit_secure(plaintext, session.protocol(), partial) {
            Ok(packet) => packet,
            Err(reason) => return self.counters.dropped(reason, 1),
        };
        let write = &mut |header: &_, packet: &[u8]| self.device.write(header, packet);
        if partial {
            let continues = follows && flags.contains(Flags::CONTINUES);
            if self.coalescer.push_partial(&packet, continues, write).is_err() {
                return self.counters.dropped(Reason::Malformed, 1);
            }
        } else {
            self.coalescer.push(&packet, write);
        }
        heard.packets += 1;
        heard.bytes += packet.bytes().len();
    }

    /// What a peer's daemon tells ours.
    #[cold]
    fn told(&self, index: u32, plaintext: &[u8]) {
        if Note::parse(plaintext).is_err() {
            return self.counters.dropped(Reason::Malformed, 1);
        }
        if !self.secrets.mailbox.tell(index, plaintext) {
            return self.counters.dropped(Reason::RateLimited, 1);
        }
        (self.report)(Event::Mail);
    }

    /// Before anything of a peer's is delivered: what is answered to it, by this host or by a worker beside us, must go by this session,
    /// to where it came from and from where it came to. Control does the rest a moment later.
    #[inline]
    fn meet(&mut self, session: &Arc<Session>, newest: bool, heard: &mut Heard, origin: Origin) {
        let id = session.peer();
        let Some(link) = self.view.links.get(id.0 as usize) else { return };
        let Some(remote) = self.view.snapshot.peer(id).and_then(|peer| peer.remote()) else { return };
        // From now on the peer may hold no other: it may have been started anew. Unless control has replaced this session already.
        if !session.is_confirmed() && self.secrets.sessions.is_claimed(session.index()) {
            remote.session.store(Some(Arc::clone(session)));
        }
        if !newest {
            return;
        }
        link.answer_from(origin.local);
        // Whoever has the keys is wherever it sends from, with WireGuard; others must show that they hear us there.
        if session.protocol() == Protocol::WireGuard
            && remote.path.load().as_ref().is_none_or(|path| path.endpoint != origin.source)
        {
            remote.path.store(Some(Arc::new(Whereabouts::proven(origin.source))));
            heard.moved = true;
        }
    }

    /// Notes what was heard of a session's peer, and tells control what it must know.
    fn hear(&mut self, session: Option<&Arc<Session>>, heard: &Heard, origin: Origin) {
        let Some(session) = session else { return };
        let id = session.peer();
        let Some(link) = self.view.links.get(id.0 as usize) else { return };
        let Some(remote) = self.view.snapshot.peer(id).and_then(|peer| peer.remote()) else { return };
        let (index, from, bytes) = (session.index(), origin.source, heard.received);
        // Before control is told of anything: what it sends then must leave from there too.
        if heard.newest {
            link.answer_from(origin.local);
        }
        if remote.activity.received(self.now, heard.packets > 0) {
            self.notify(Notice::Watch(id), None);
        }
        let first = session.confirm();
        if first {
            self.notify(Notice::Confirmed { index, from, bytes }, origin.local);
        }
        let path = remote.path.load();
        if heard.moved {
            if !first {
                self.notify(Notice::Roamed { index, from, bytes }, origin.local);
            }
        } else if path.as_ref().is_some_and(|path| path.endpoint == from) {
            if let Some(budget) = path.as_ref().and_then(|path| path.budget.as_ref()) {
                budget.earn(bytes);
            }
        } else if heard.newest && !first {
            self.notify(Notice::Roamed { index, from, bytes }, origin.local);
        }
        if session.wants_renewal(self.now, false) {
            self.notify(Notice::Renew(id), None);
        }
        if let Some(traffic) = link.traffic.get(self.number) {
            traffic.ingress.add(heard.packets, heard.bytes);
            traffic.wire.received.add(heard.received as u64);
        }
        self.counters.ingress.add(heard.packets, heard.bytes);
    }

    /// A datagram that is no data: a message of a handshake, or nothing that we speak.
    #[cold]
    fn message(&mut self, datagram: &[u8], origin: Origin) {
        let reason = match message::classify(datagram) {
            Message::Plain(_) | Message::Unknown(_) => Reason::UnknownEndpoint,
            Message::Sealed(..) | Message::WireGuard(..) => match self.admit(datagram, origin) {
                Ok(()) => return,
                Err(reason) => reason,
            },
        };
        self.counters.dropped(reason, 1);
    }

    fn admit(&mut self, datagram: &[u8], Origin { source, local }: Origin) -> Result<(), Reason> {
        let Secrets { sessions, admission, mailbox } = self.secrets;
        // A response that nobody asked for costs no more than this.
        if let Ok(response) = Handshake::parse(datagram)
            && response.step() == Step::Response
            && !sessions.is_claimed(response.receiver())
        {
            return Err(Reason::UnknownSession);
        }
        let known = self.view.snapshot.is_known(source);
        let nonce = || {
            let mut nonce = [0; message::cookie::NONCE];
            // aws-lc ends the process rather than to run out of randomness.
            let _ = rand::fill(&mut nonce);
            nonce
        };
        match admission.admit(datagram, source, known, self.now, nonce) {
            Verdict::Drop(reason) => Err(reason),
            Verdict::Pass if mailbox.deliver(datagram, source, local, known) => {
                (self.report)(Event::Mail);
                Ok(())
            }
            Verdict::Pass => Err(Reason::RateLimited),
            Verdict::Cookie(reply) => {
                let flow = Flow { to: source, from: local, ecn: Ecn::NotEct, lane: 0, tag: NOBODY };
                let slot = self.trains.slot(&flow, reply.len()).map_err(|_| Reason::RateLimited)?;
                slot.copy_from_slice(&reply);
                self.trains.commit(reply.len());
                // It was answered, but not looked at.
                Err(Reason::RateLimited)
            }
        }
    }

    fn notify(&self, notice: Notice, local: Option<LocalAddress>) {
        if self.secrets.mailbox.notify(notice, local) {
            (self.report)(Event::Mail);
        }
    }
}

/// Step 4 of ingress, for the packets of one peer. Neighbours mostly belong to one flow, so that the answer for the last pair of
/// addresses is kept.
struct Admission<'a> {
    snapshot: &'a Snapshot,
    peer: PeerId,
    mtu: usize,
    outer: Ecn,
    /// Source and destination address of the last packet that was admitted, one after the other.
    admitted: ([u8; 32], usize),
    /// With a device that carries frames.
    frames: Option<FrameAdmission<'a>>,
}

impl<'a> Admission<'a> {
    fn new(snapshot: &'a Snapshot, peer: PeerId, outer: Ecn) -> Self {
        Self { snapshot, peer, mtu: usize::MAX, outer, admitted: ([0; 32], 0), frames: None }
    }

    /// What follows comes from this peer.
    #[inline]
    fn speaks(&mut self, peer: PeerId) {
        if self.peer != peer {
            self.peer = peer;
            self.mtu = self.snapshot.peer(peer).map_or(usize::MAX, |peer| peer.mtu);
            self.admitted.1 = 0;
        }
    }

    #[inline]
    fn admit_plain<'d>(&mut self, datagram: &'d mut [u8]) -> Result<IpPacket<'d>, Reason> {
        match message::classify(datagram) {
            Message::Plain(_) => {}
            Message::Sealed(..) | Message::WireGuard(..) => return Err(Reason::WrongTransport),
            Message::Unknown(_) => return Err(Reason::Malformed),
        }
        self.admit(datagram)
    }

    /// A packet that was sealed. A TCP connection that opens learns what fits back to the peer.
    #[inline]
    fn admit_secure<'d>(
        &mut self,
        plaintext: &'d mut [u8],
        protocol: Protocol,
        partial: bool,
    ) -> Result<IpPacket<'d>, Reason> {
        clamp_mss(plaintext, self.mtu, if partial { Checksum::Partial } else { Checksum::Complete });
        let length = plaintext.len();
        let packet = self.admit(plaintext)?;
        // WireGuard pads; here nothing may hide behind a packet.
        if protocol == Protocol::Sealed && packet.bytes().len() != length {
            return Err(Reason::Malformed);
        }
        Ok(packet)
    }

    /// The congestion mark is carried inwards before the packet is read, so that what follows sees the packet as the device
    /// will.
    #[inline]
    fn admit<'d>(&mut self, datagram: &'d mut [u8]) -> Result<IpPacket<'d>, Reason> {
        if self.outer != Ecn::NotEct {
            let inner = IpPacket::parse(datagram).map_err(|_| Reason::Malformed)?.ecn();
            let combined = ecn::decapsulate(self.outer, inner).map_err(|_| Reason::Congestion)?;
            if combined != inner {
                ecn::set(datagram, combined);
            }
        }
        let packet = IpPacket::parse(datagram).map_err(|_| Reason::Malformed)?;
        let addresses = packet.addresses();
        let (last, length) = &mut self.admitted;
        if last.get(..*length) != Some(addresses) {
            self.snapshot.ingress(self.peer, &packet)?;
            *length = addresses.len();
            if let Some(last) = last.get_mut(..addresses.len()) {
                last.copy_from_slice(addresses);
            }
        }
        Ok(packet)
    }
}
