//! Sending: datagrams of equal size to one destination leave as one message, and messages leave together.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use wire::ecn::Ecn;

use super::Socket;
use super::address::{LocalAddress, RawAddress};
use crate::syscall::syscall;

/// Datagrams in one train. The kernel takes 64 since 4.18 and 128 since 6.9 (UDP_MAX_SEGMENTS, include/linux/udp.h).
const MAX_SEGMENTS: usize = 64;

/// Bytes of one train: the longest UDP payload that either family carries, whose length field counts 8 bytes of UDP header
/// and whose IPv4 total length counts 20 more; 20 are left for the larger header of IPv6.
pub(super) const MAX_TRAIN: usize = 65_535 - 8 - 40;

/// Trains that wait at the same time. With [`MAX_TRAIN`] this bounds the queue's memory at 1 MiB.
const MAX_TRAINS: usize = 16;

/// How long a full send buffer is waited for before datagrams are dropped: long enough for a card to drain some, short enough
/// not to hold up other peers.
const PATIENCE: libc::c_int = 5; // ms

/// Where a datagram goes, and what it may share a train with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Destination.
    pub to: SocketAddr,
    /// Source address; without one the routes decide.
    pub from: Option<LocalAddress>,
    /// ECN bits of the outer IP header.
    pub ecn: Ecn,
    /// Datagrams of different lanes travel in different trains, since the receiver steers a train by its first datagram.
    pub lane: u32,
    /// The sender's own mark, given back with the result.
    pub tag: u32,
}

/// All trains are taken: [`SendQueue::flush`] first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What became of a train.
#[derive(Debug)]
pub struct Sent<'a> {
    /// The flow of its datagrams.
    pub flow: &'a Flow,
    /// Datagrams that the kernel took.
    pub datagrams: usize,
    /// Their bytes, headers not counted.
    pub bytes: usize,
    /// What was said of them in [`SendQueue::commit_counted`], summed up.
    pub counted: usize,
    /// Datagrams that it did not take, and why.
    pub failed: Option<(usize, SendError)>,
    /// Whether the source address of the flow is no longer ours: it was sent from another.
    pub source_lost: bool,
}

/// Why datagrams were not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// Longer than the path takes (EMSGSIZE).
    TooBig,
    /// The send buffer stayed full.
    Full,
    /// No way there: no route, host unreachable, network down, or a firewall of this host (EPERM).
    Unreachable,
    /// Another errno.
    Other(i32),
}

/// Datagrams on their way out: reserve a slot, fill it, commit it; then flush.
pub struct SendQueue {
    trains: Vec<Train>,
    /// The first `used` trains hold something.
    used: usize,
    /// Bytes that they hold.
    waiting: usize,
    /// The train that the last slot was taken from.
    current: usize,
    max_segments: usize,
}

struct Train {
    flow: Flow,
    buffer: Vec<u8>,
    length: usize,
    stride: usize,
    datagrams: usize,
    counted: usize,
    /// Takes more: not full, and no shorter datagram yet, which must be the last.
    open: bool,
}

impl Default for SendQueue {
    fn default() -> Self {
        Self { trains: Vec::new(), used: 0, waiting: 0, current: 0, max_segments: MAX_SEGMENTS }
    }
}

impl SendQueue {
    /// The longest datagram in bytes.
    pub const MAX_DATAGRAM: usize = MAX_TRAIN;

    /// A queue in which each datagram is a message of its own.
    pub fn unbatched() -> Self {
        Self { max_segments: 1, ..Self::default() }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Room for one datagram of `length` bytes, to be filled and then [committed](Self::commit); a slot that is not committed
    /// is taken back by the next call.
    ///
    /// # Errors
    /// [`Full`], also for a length of 0 or above [`MAX_DATAGRAM`](Self::MAX_DATAGRAM), which no flush helps.
    #[inline]
    pub fn slot(&mut self, flow: &Flow, length: usize) -> Result<&mut [u8], Full> {
        if length == 0 || length > MAX_TRAIN {
            return Err(Full);
        }
        let fits = self.trains.get(self.current).is_some_and(|t| self.current < self.used && t.takes(flow, length));
        if !fits {
            self.current = self.find(flow, length)?;
        }
        let train = self.trains.get_mut(self.current).ok_or(Full)?;
        train.buffer.get_mut(train.length..train.length + length).ok_or(Full)
    }

    /// The newest train of this flow if it takes the datagram (an older one would overtake it), else a new one.
    #[cold]
    fn find(&mut self, flow: &Flow, length: usize) -> Result<usize, Full> {
        let newest = self.trains.iter().take(self.used).rposition(|t| t.flow == *flow);
        if let Some((at, train)) = newest.and_then(|at| Some((at, self.trains.get_mut(at)?))) {
            if train.takes(flow, length) {
                return Ok(at);
            }
            train.open = false;
        }
        if self.used == MAX_TRAINS {
            return Err(Full);
        }
        if self.used == self.trains.len() {
            self.trains.push(Train {
                flow: *flow,
                buffer: vec![0; MAX_TRAIN],
                length: 0,
                stride: 0,
                datagrams: 0,
                counted: 0,
                open: true,
            });
        }
        let train = self.trains.get_mut(self.used).ok_or(Full)?;
        (train.flow, train.length, train.stride, train.datagrams, train.open) = (*flow, 0, length, 0, true);
        train.counted = 0;
        self.used += 1;
        Ok(self.used - 1)
    }

    /// Keeps the first `length` bytes of the slot taken last, at least 1.
    #[inline]
    pub fn commit(&mut self, length: usize) {
        self.commit_counted(length, length);
    }

    /// The same for a datagram that counts as `counted` bytes to whoever is [told](Sent::counted).
    #[inline]
    pub fn commit_counted(&mut self, length: usize, counted: usize) {
        let max_segments = self.max_segments;
        let Some(train) = self.trains.get_mut(self.current).filter(|_| length > 0) else { return };
        self.waiting += length;
        if train.datagrams == 0 {
            train.stride = length;
        }
        train.length += length;
        train.counted += counted;
        train.datagrams += 1;
        train.open =
            length == train.stride && train.datagrams < max_segments && train.length + train.stride <= MAX_TRAIN;
    }

    /// Sends all that waits, in order per flow, and reports each train.
    pub fn flush(&mut self, socket: &Socket, report: impl FnMut(Sent<'_>)) {
        self.flush_first(self.used, socket, report);
    }

    /// Sends the trains that take no more, and leaves the others to grow: for the middle of a batch.
    pub fn flush_closed(&mut self, socket: &Socket, report: impl FnMut(Sent<'_>)) {
        let Some(used) = self.trains.get_mut(..self.used) else { return };
        // Of one flow only the newest train is open, so that no datagram overtakes another of its flow. The sort is stable.
        used.sort_by_key(|train| train.open);
        let closed = used.iter().take_while(|train| !train.open).count();
        self.flush_first(closed, socket, report);
    }

    fn flush_first(&mut self, count: usize, socket: &Socket, mut report: impl FnMut(Sent<'_>)) {
        let mut trains = self.trains.get(..count).unwrap_or_default();
        self.waiting -= trains.iter().map(|train| train.length).sum::<usize>();
        while let Some((first, rest)) = trains.split_first() {
            let together = if socket.segmentation() && !rest.is_empty() {
                send_messages(socket, trains.iter().map(Train::message)).unwrap_or(0)
            } else {
                0
            };
            if together > 0 {
                trains.iter().take(together).for_each(|t| report(t.sent(t.datagrams, None)));
                trains = trains.get(together..).unwrap_or_default();
            } else {
                if first.datagrams > 0 {
                    report(first.send(socket));
                }
                trains = rest;
            }
        }
        // What was not sent moves to the front.
        if let Some(used) = self.trains.get_mut(..self.used) {
            used.rotate_left(count);
        }
        self.used -= count;
        self.current = 0;
    }
}

impl Train {
    #[inline]
    fn takes(&self, flow: &Flow, length: usize) -> bool {
        // An empty train was reserved but never committed: it takes anything of its flow.
        self.flow == *flow && (self.datagrams == 0 || (self.open && length <= self.stride))
    }

    fn message(&self) -> Message<'_> {
        Message { flow: self.flow, payload: self.payload(), stride: if self.datagrams > 1 { self.stride } else { 0 } }
    }

    fn payload(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    /// The result after the first `datagrams` were taken.
    fn sent(&self, datagrams: usize, error: Option<SendError>) -> Sent<'_> {
        let bytes = self.length.min(datagrams * self.stride);
        let failed = error.map(|e| (self.datagrams - datagrams, e));
        // Of a train that left in part, its share.
        let counted = self.counted * datagrams / self.datagrams.max(1);
        Sent { flow: &self.flow, datagrams, bytes, counted, failed, source_lost: false }
    }

    /// Sends as one message, and finds a way around what the kernel has against that.
    fn send(&self, socket: &Socket) -> Sent<'_> {
        if self.datagrams == 1 || socket.segmentation() {
            match send_patiently(socket, self.message()) {
                Ok(source_lost) => return Sent { source_lost, ..self.sent(self.datagrams, None) },
                // No checksum offload on the card of this route: trains will never work there.
                Err(e) if self.datagrams > 1 && e.raw_os_error() == Some(libc::EIO) => {
                    socket.segmentation.store(false, Ordering::Relaxed);
                }
                // A train that this kernel finds too long, or whatever else it may have against it.
                Err(e) if self.datagrams > 1 && e.raw_os_error() == Some(libc::EINVAL) => {}
                // Segments are not fragmented on top (udp_send_skb in net/ipv4/udp.c), datagrams are.
                Err(e)
                    if self.datagrams > 1
                        && !socket.dont_fragment.load(Ordering::Relaxed)
                        && e.raw_os_error() == Some(libc::EMSGSIZE) => {}
                Err(e) => return self.sent(0, Some(e.into())),
            }
        }
        let mut sent = 0;
        while sent < self.datagrams {
            let rest = self.payload().get(sent * self.stride..).unwrap_or_default();
            let messages =
                rest.chunks(self.stride.max(1)).map(|payload| Message { flow: self.flow, payload, stride: 0 });
            let taken = if self.datagrams > 1 { send_messages(socket, messages.clone()).unwrap_or(0) } else { 0 };
            sent += taken;
            if taken == 0 {
                let Some(next) = messages.clone().next() else { break };
                match send_patiently(socket, next) {
                    Ok(_) => sent += 1,
                    Err(e) => return self.sent(sent, Some(e.into())),
                }
            }
        }
        self.sent(sent, None)
    }
}

/// One UDP message: a datagram, or a train of `stride` bytes each.
#[derive(Clone, Copy)]
struct Message<'a> {
    flow: Flow,
    payload: &'a [u8],
    /// 0: the payload is one datagram.
    stride: usize,
}

impl Message<'_> {
    /// The same without asking for a source address.
    fn without_source(self) -> Self {
        Self { flow: Flow { from: None, ..self.flow }, ..self }
    }
}

/// Sends one message; waits a little where the buffer is full, and lets go of a source address that is no longer ours, which it
/// answers.
fn send_patiently(socket: &Socket, message: Message<'_>) -> io::Result<bool> {
    let send =
        |message: Message<'_>| socket.send_parts(&message.flow, &[IoSlice::new(message.payload)], message.stride);
    let Err(error) = send(message) else { return Ok(false) };
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => {
            let mut wait = libc::pollfd { fd: socket.fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
            // One pollfd on this stack frame.
            let _ = syscall!(poll(&raw mut wait, 1, PATIENCE));
            send(message).map(|()| false)
        }
        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENETUNREACH) if message.flow.from.is_some() => {
            send(message.without_source()).map(|()| true)
        }
        // An error that an earlier datagram brought back (ICMP); it is told once and does not concern this one.
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::EINTR) => send(message).map(|()| false),
        _ => Err(error),
    }
}

/// Sends up to [`MAX_TRAINS`] messages with one system call; answers how many the kernel took.
fn send_messages<'a>(socket: &Socket, messages: impl Iterator<Item = Message<'a>>) -> io::Result<usize> {
    // SAFETY: iovec and mmsghdr are plain integers and pointers, for which all zeros is a valid value.
    let (mut parts, mut headers): ([libc::iovec; MAX_TRAINS], [libc::mmsghdr; MAX_TRAINS]) =
        unsafe { std::mem::zeroed() };
    let mut envelopes = [const { Envelope::EMPTY }; MAX_TRAINS];
    let mut count = 0;
    for (message, ((part, header), envelope)) in messages.zip(parts.iter_mut().zip(&mut headers).zip(&mut envelopes)) {
        if message.payload.is_empty() {
            break;
        }
        envelope.address(&message.flow, message.stride, socket.six);
        *part = libc::iovec { iov_base: message.payload.as_ptr().cast_mut().cast(), iov_len: message.payload.len() };
        envelope.put(&mut header.msg_hdr);
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    if count == 0 {
        return Ok(0);
    }
    // `count` messages were prepared above; payloads, parts and envelopes outlive the call, which only reads them.
    syscall!(sendmmsg(socket.fd.as_raw_fd(), headers.as_mut_ptr(), count, 0)).map(|n| n as usize)
}

impl Socket {
    /// Sends one datagram gathered from `parts`; with a `stride` above 0, a train of datagrams of that size (the last one may
    /// be shorter), which needs [`Socket::segmentation`].
    ///
    /// # Errors
    /// EMSGSIZE: longer than the path takes, also in a train where single datagrams would be fragmented; EIO: no trains on this route; EINVAL: too many datagrams in the train (more than
    /// 64 before Linux 6.9) or too many parts (1,024).
    pub fn send_parts(&self, flow: &Flow, parts: &[IoSlice<'_>], stride: usize) -> io::Result<()> {
        let mut envelope = Envelope::EMPTY;
        envelope.address(flow, stride, self.six);
        // SAFETY: msghdr is plain integers and pointers, for which all zeros is a valid value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        envelope.put(&mut header);
        // IoSlice is guaranteed to have the layout of an iovec; the kernel only reads through it.
        header.msg_iov = parts.as_ptr().cast_mut().cast();
        header.msg_iovlen = parts.len() as _;
        // The message points to the envelope above and to the caller's live slices.
        syscall!(sendmsg(self.fd.as_raw_fd(), &raw const header, 0)).map(drop)
    }
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Self::TooBig,
            Some(libc::EAGAIN | libc::ENOBUFS) => Self::Full,
            Some(libc::EPERM | libc::EACCES | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN) => {
                Self::Unreachable
            }
            other => Self::Other(other.unwrap_or(0)),
        }
    }
}

/// The address and the control messages of one outgoing message.
struct Envelope {
    address: RawAddress,
    control: Control,
    used: usize,
}

/// Room for packet info (IPv6, the larger), traffic class and segment size: CMSG_SPACE of 20, 4 and 2 bytes.
#[repr(align(8))]
struct Control([u8; 96]);

impl Envelope {
    const EMPTY: Self = Self { address: RawAddress::EMPTY, control: Control([0; 96]), used: 0 };

    fn address(&mut self, flow: &Flow, stride: usize, six: bool) {
        self.used = 0;
        self.address = RawAddress::new(flow.to, six);
        if let Some(from) = flow.from {
            self.source(from, six);
        }
        if flow.ecn != Ecn::NotEct {
            // On a socket for both families the kernel reads the option of the family that the datagram travels in.
            let bits = i32::from(flow.ecn.bits()).to_ne_bytes();
            if flow.to.is_ipv4() {
                self.push(libc::IPPROTO_IP, libc::IP_TOS, &bits);
            } else {
                self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &bits);
            }
        }
        if stride > 0 {
            self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &(stride as u16).to_ne_bytes());
        }
    }

    /// struct in_pktinfo or in6_pktinfo. The device stays with the routes, but for link-local addresses, which mean nothing
    /// without it.
    fn source(&mut self, from: LocalAddress, six: bool) {
        if six {
            let (ip, device) = match from.ip {
                IpAddr::V4(ip) => (ip.to_ipv6_mapped(), 0),
                IpAddr::V6(ip) => (ip, if ip.is_unicast_link_local() { from.device } else { 0 }),
            };
            let mut info = [0u8; 20];
            let (address, index) = info.split_at_mut(16);
            address.copy_from_slice(&ip.octets());
            index.copy_from_slice(&device.to_ne_bytes());
            self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        } else if let IpAddr::V4(ip) = from.ip {
            let mut info = [0u8; 12];
            let (_, rest) = info.split_at_mut(4);
            let (source, _) = rest.split_at_mut(4);
            source.copy_from_slice(&ip.octets());
            self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
    }

    /// Appends a `struct cmsghdr`: length (usize), level, type (int), data, padding to a usize.
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        const WORD: usize = size_of::<usize>();
        let length = WORD + 8 + data.len();
        let end = self.used + length.next_multiple_of(WORD);
        let Some(room) = self.control.0.get_mut(self.used..end) else { return };
        room.fill(0);
        let header = length.to_ne_bytes().into_iter().chain(level.to_ne_bytes()).chain(kind.to_ne_bytes());
        for (byte, value) in room.iter_mut().zip(header.chain(data.iter().copied())) {
            *byte = value;
        }
        self.used = end;
    }

    fn put(&mut self, header: &mut libc::msghdr) {
        header.msg_name = self.address.as_mut_ptr().cast();
        header.msg_namelen = self.address.len();
        header.msg_control = if self.used == 0 { std::ptr::null_mut() } else { self.control.0.as_mut_ptr().cast() };
        header.msg_controllen = self.used as _;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flow(tag: u32) -> Flow {
        Flow { to: "192.0.2.1:7777".parse().unwrap(), from: None, ecn: Ecn::NotEct, lane: 0, tag }
    }

    /// Puts datagrams of the given tags and lengths in; answers what the trains hold, as (tag, lengths).
    fn queue(datagrams: &[(u32, usize)]) -> (SendQueue, Vec<(u32, Vec<usize>)>) {
        let mut queue = SendQueue::default();
        for &(tag, length) in datagrams {
            match queue.slot(&flow(tag), length) {
                Ok(slot) => slot.fill(tag as u8),
                Err(Full) => break,
            }
            queue.commit(length);
        }
        let trains = queue.trains[..queue.used]
            .iter()
            .map(|t| (t.flow.tag, t.payload().chunks(t.stride).map(<[u8]>::len).collect()))
            .collect();
        (queue, trains)
    }

    #[test]
    fn equal_datagrams_share_a_train_and_a_shorter_one_ends_it() {
        let (_, trains) = queue(&[(1, 100), (2, 50), (1, 100), (1, 60), (1, 60), (2, 50)]);
        assert_eq!(trains, [(1, vec![100, 100, 60]), (2, vec![50, 50]), (1, vec![60])]);
    }

    #[test]
    fn a_longer_datagram_starts_a_new_train() {
        let (_, trains) = queue(&[(1, 100), (1, 101)]);
        assert_eq!(trains, [(1, vec![100]), (1, vec![101])]);
    }

    #[test]
    fn an_abandoned_slot_leaves_nothing() {
        let mut queue = SendQueue::default();
        queue.slot(&flow(1), 100).unwrap();
        queue.slot(&flow(1), 200).unwrap().fill(7);
        queue.commit(200);
        assert_eq!((queue.used, queue.trains[0].datagrams, queue.trains[0].stride), (1, 1, 200));
    }

    #[test]
    fn a_train_that_was_passed_over_takes_no_more() {
        // Were the first train open still, the shorter datagram would overtake the longer one.
        let (queue, trains) = queue(&[(1, 100), (1, 200), (1, 80)]);
        assert_eq!(trains, [(1, vec![100]), (1, vec![200, 80])]);
        assert!(queue.trains[..queue.used].iter().all(|t| !t.open));
    }

    #[test]
    fn only_trains_that_take_no_more_leave_in_the_middle_of_a_batch() {
        let options = crate::udp::Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            share_port: false,
            offload: true,
            dont_fragment: true,
            buffer: 1 << 20,
        };
        let (sender, receiver) = (Socket::bind(options).unwrap(), Socket::bind(options).unwrap());
        let to = |tag| Flow { to: receiver.local_address(), ..flow(tag) };
        let mut queue = SendQueue::default();
        for (tag, length) in [(1, 100), (2, 50), (2, 40), (1, 100), (3, 70)] {
            queue.slot(&to(tag), length).unwrap().fill(tag as u8);
            queue.commit(length);
        }
        let mut sent = Vec::new();
        queue.flush_closed(&sender, |s| sent.push((s.flow.tag, s.datagrams, s.bytes)));
        assert_eq!((sent.as_slice(), queue.waiting()), ([(2, 2, 90)].as_slice(), 270));
        queue.slot(&to(1), 100).unwrap().fill(1);
        queue.commit(100);
        queue.flush(&sender, |s| sent.push((s.flow.tag, s.datagrams, s.bytes)));
        assert_eq!(sent, [(2, 2, 90), (1, 3, 300), (3, 1, 70)]);
        assert!(queue.is_empty() && queue.waiting() == 0);
    }

    #[test]
    fn lengths_that_no_datagram_has_are_refused() {
        let mut queue = SendQueue::default();
        assert_eq!(queue.slot(&flow(1), 0), Err(Full));
        assert_eq!(queue.slot(&flow(1), MAX_TRAIN + 1), Err(Full));
        assert!(queue.slot(&flow(1), MAX_TRAIN).is_ok());
    }

    proptest! {
        #[test]
        fn trains_keep_every_datagram_in_order(datagrams in prop::collection::vec((0u32..3, 1usize..4000), 0..200)) {
            let (_, trains) = queue(&datagrams);
            for tag in 0..3 {
                let held: Vec<_> = trains.iter().filter(|t| t.0 == tag).flat_map(|t| t.1.clone()).collect();
                let put: Vec<_> = datagrams.iter().filter(|d| d.0 == tag).map(|d| d.1).collect();
                // A full queue takes a prefix.
                prop_assert!(put.starts_with(&held));
            }
            for (_, lengths) in &trains {
                prop_assert!(lengths.len() <= MAX_SEGMENTS && lengths.iter().sum::<usize>() <= MAX_TRAIN);
                let (last, others) = lengths.split_last().unwrap();
                prop_assert!(others.iter().all(|l| *l == lengths[0]) && *last <= lengths[0]);
            }
        }
    }
}
