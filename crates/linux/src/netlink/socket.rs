//! A blocking netlink socket: requests, acknowledgements, dumps, and the kernel's own words in errors.
//!
//! The kernel answers a request while `send` runs, so a reply is waiting when we come to read it; the receive timeout is only
//! there so that a lost reply can never hang a daemon. What arrives is told apart by sequence number, so that the leftovers of
//! an abandoned exchange are passed over.

use std::fmt::Arguments;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::attribute::{align, attributes};
use crate::syscall::syscall;
use crate::{Error, Result};

/// Size of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// The kernel builds dumps in pieces of at most 32 KiB (`netlink_dump`), and no single answer we ask for is larger.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Room for a whole burst of answers in the kernel, doubled there for its bookkeeping.
const SOCKET_BUFFER: libc::c_int = 1024 * 1024;

/// How often a dump that changed while it was read is started over before we give up.
const DUMP_ATTEMPTS: u32 = 32;

/// How many errors in a row are taken for leftovers of a failed exchange.
const SETTLE_ATTEMPTS: u32 = 8;

const NLM_F_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const NLM_F_ACK: u16 = libc::NLM_F_ACK as u16;
const NLM_F_DUMP: u16 = libc::NLM_F_DUMP as u16;
const NLM_F_DUMP_INTR: u16 = libc::NLM_F_DUMP_INTR as u16;
const NLM_F_CAPPED: u16 = libc::NLM_F_CAPPED as u16;
const NLM_F_ACK_TLVS: u16 = libc::NLM_F_ACK_TLVS as u16;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
const NLMSG_MIN_TYPE: u16 = libc::NLMSG_MIN_TYPE as u16;

/// `enum nlmsgerr_attrs` (linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message as it came: what is after the header is `body`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

/// Walks the messages of one datagram; a length that cannot be true ends the walk.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = rest.get(HEADER..length)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        })
    })
}

/// Appends one message (header, body, padding) to `to`.
pub(crate) fn append_message(to: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    to.extend_from_slice(&sequence.to_ne_bytes());
    to.extend_from_slice(&0u32.to_ne_bytes());
    to.extend_from_slice(body);
    to.resize(align(to.len()), 0);
}

/// The verdict in an `NLMSG_ERROR` or `NLMSG_DONE`: errno (0: success) and the kernel's explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) errno: i32,
    pub(crate) detail: Option<String>,
}

impl Verdict {
    /// Reads the verdict out of an acknowledgement or of the message that ends a dump; `None` for other messages.
    pub(crate) fn parse(message: &Message<'_>) -> Option<Self> {
        let code = message.body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
        let explanation = match message.kind {
            NLMSG_DONE => 4,
            // The request's header follows the code, and its body too unless it was capped.
            NLMSG_ERROR if message.flags & NLM_F_CAPPED != 0 => 4 + HEADER,
            NLMSG_ERROR => {
                let request = message.body.get(4..8)?.first_chunk::<4>().map(|length| u32::from_ne_bytes(*length))?;
                4usize.saturating_add(align(usize::try_from(request).ok()?))
            }
            _ => return None,
        };
        let detail = (message.flags & NLM_F_ACK_TLVS != 0)
            .then(|| message.body.get(explanation..).unwrap_or_default())
            .and_then(|list| attributes(list).find(|attribute| attribute.kind == NLMSGERR_ATTR_MSG))
            .map(|attribute| attribute.text());
        Some(Self { errno: code.saturating_neg(), detail })
    }

    /// Success, or the error of `operation`.
    pub(crate) fn check(self, operation: Arguments<'_>) -> Result<()> {
        if self.errno == 0 {
            return Ok(());
        }
        let error = Error::from_errno(operation.to_string(), self.errno);
        Err(match self.detail {
            Some(detail) => error.with_detail(detail),
            None => error,
        })
    }
}

/// The socket. It belongs to the network namespace of the thread that opened it, wherever it is used.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Box<[u8]>,
    /// A receive has failed, so answers may be left, or a dump unfinished, during which the kernel starts no other (EBUSY).
    unsettled: bool,
}

impl Socket {
    /// Opens a socket of `protocol` (`NETLINK_ROUTE`, `NETLINK_NETFILTER`).
    pub(crate) fn open(protocol: libc::c_int) -> Result<Self> {
        Self::open_with(protocol, 0)
    }

    /// As [`open`](Self::open), with extra type bits (`SOCK_NONBLOCK`).
    pub(crate) fn open_with(protocol: libc::c_int, bits: libc::c_int) -> Result<Self> {
        // All arguments are plain numbers.
        let fd = syscall!(socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC | bits, protocol))
            .map_err(|source| Error::new("open a netlink socket", source))?;
        // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an all-zero sockaddr_nl is a valid value of this plain structure.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // Address and length describe a structure that outlives the call. The kernel picks the port; without one a socket is
        // left out of most notifications, which exclude their causer by port and have 0 where nobody is to be excluded.
        syscall!(bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), length))
            .map_err(|source| Error::new("bind a netlink socket", source))?;
        let buffer = vec![0; RECEIVE_BUFFER].into_boxed_slice();
        let socket = Self { fd, sequence: 0, buffer, unsettled: false };
        // Kernels before 4.20 know not all of these. Without them errors say less and filters of dumps do nothing, which the
        // readers of dumps therefore repeat; so a refusal is no failure.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            let _ = socket.set_option(libc::SOL_NETLINK, option, &1);
        }
        if socket.set_option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &SOCKET_BUFFER).is_err() {
            // Forcing beyond the system's limit needs CAP_NET_ADMIN in the first user namespace: take what we may have.
            let _ = socket.set_option(libc::SOL_SOCKET, libc::SO_RCVBUF, &SOCKET_BUFFER);
        }
        let timeout = libc::timeval { tv_sec: 10, tv_usec: 0 };
        socket
            .set_option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)
            .map_err(|source| Error::new("set the timeout of a netlink socket", source))?;
        Ok(socket)
    }

    /// Joins a multicast group (`RTNLGRP_*`).
    pub(crate) fn join(&self, group: libc::c_uint) -> Result<()> {
        self.set_option(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &group)
            .map_err(|source| Error::new(format!("join netlink group {group}"), source))
    }

    fn set_option<T: Copy>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        // The pointer and the length describe `value`, which outlives the call.
        let pointer = std::ptr::from_ref(value).cast();
        syscall!(setsockopt(self.fd.as_raw_fd(), level, option, pointer, size_of::<T>() as libc::socklen_t)).map(drop)
    }

    /// Lets a datagram of this many bytes be sent, as far as the system allows: the kernel refuses one that is larger than the
    /// socket's buffer.
    pub(crate) fn make_room(&self, length: usize) {
        let wanted = libc::c_int::try_from(length).unwrap_or(libc::c_int::MAX);
        if self.set_option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &wanted).is_err() {
            let _ = self.set_option(libc::SOL_SOCKET, libc::SO_SNDBUF, &wanted);
        }
    }

    /// A sequence number not used before (until they wrap).
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends one datagram of one or more messages to the kernel.
    pub(crate) fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        self.settle()?;
        loop {
            // The pointer and the length describe `datagram`. An unconnected netlink socket speaks to the kernel.
            match syscall!(send(self.fd.as_raw_fd(), datagram.as_ptr().cast(), datagram.len(), 0)) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads and forgets what a failed exchange has left, which also moves an unfinished dump to its end.
    fn settle(&mut self) -> io::Result<()> {
        let mut attempts = 0;
        while self.unsettled {
            match self.receive_by(libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.unsettled = false,
                // The kernel tells an error once; one that stays is no leftover.
                Err(error) if attempts == SETTLE_ATTEMPTS => return Err(error),
                Err(_) => attempts += 1,
            }
        }
        Ok(())
    }

    /// Receives one datagram of the kernel; what other processes may send us is dropped.
    pub(crate) fn receive(&mut self) -> io::Result<&[u8]> {
        self.receive_by(0)
    }

    fn receive_by(&mut self, flags: libc::c_int) -> io::Result<&[u8]> {
        let length = loop {
            // SAFETY: an all-zero sockaddr_nl is a valid value of this plain structure.
            let mut from: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
            let mut from_length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            // Buffer and address are ours and as long as said.
            let received = syscall!(recvfrom(
                self.fd.as_raw_fd(),
                self.buffer.as_mut_ptr().cast(),
                self.buffer.len(),
                libc::MSG_TRUNC | flags,
                std::ptr::from_mut(&mut from).cast(),
                &mut from_length,
            ));
            match received {
                // A notification comes to a group, and under the port of whoever caused it; a process needs
                // CAP_NET_ADMIN to send to one.
                Ok(_) if from.nl_pid != 0 && from.nl_groups == 0 => {}
                Ok(length) => break usize::try_from(length).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.unsettled = true;
                    return Err(error);
                }
            }
        };
        // MSG_TRUNC makes the kernel tell the real length, also where it did not fit.
        self.unsettled |= length > self.buffer.len();
        self.buffer.get(..length).ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))
    }

    /// Sends one request and waits for its acknowledgement; answers that come before it go to `each`.
    pub(crate) fn request(
        &mut self,
        operation: Arguments<'_>,
        (kind, flags): (u16, u16),
        body: &[u8],
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<()> {
        let sequence = self.next_sequence();
        let mut datagram = Vec::with_capacity(HEADER + body.len() + 4);
        append_message(&mut datagram, kind, flags | NLM_F_ACK, sequence, body);
        let failed = |source| Error::new(operation.to_string(), source);
        self.send(&datagram).map_err(failed)?;
        loop {
            for message in messages(self.receive().map_err(failed)?) {
                if message.sequence != sequence {
                    continue;
                }
                if let Some(verdict) = Verdict::parse(&message) {
                    return verdict.check(operation);
                }
                if message.kind >= NLMSG_MIN_TYPE {
                    each(&message);
                }
            }
        }
    }

    /// Asks for a whole table. Should it change while it is read, it is read again, so that the list is one that existed.
    /// Entries for which `parse` has nothing are left out.
    pub(crate) fn dump<T>(
        &mut self,
        operation: Arguments<'_>,
        kind: u16,
        body: &[u8],
        mut parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(list) = self.dump_once(operation, kind, body, &mut parse)? {
                return Ok(list);
            }
        }
        Err(Error::from_errno(operation.to_string(), libc::EAGAIN)
            .with_detail("the table keeps changing while it is read"))
    }

    /// One attempt of [`dump`](Self::dump); `None` when the table changed under it.
    fn dump_once<T>(
        &mut self,
        operation: Arguments<'_>,
        kind: u16,
        body: &[u8],
        parse: &mut impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let sequence = self.next_sequence();
        let mut datagram = Vec::with_capacity(HEADER + body.len() + 4);
        append_message(&mut datagram, kind, NLM_F_DUMP, sequence, body);
        let failed = |source| Error::new(operation.to_string(), source);
        self.send(&datagram).map_err(failed)?;
        let (mut list, mut interrupted) = (Vec::new(), false);
        loop {
            for message in messages(self.receive().map_err(failed)?) {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                if let Some(verdict) = Verdict::parse(&message) {
                    verdict.check(operation)?;
                    return Ok((!interrupted).then_some(list));
                }
                if message.kind >= NLMSG_MIN_TYPE {
                    list.extend(parse(&message));
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::attribute::Writer;
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::UnixDatagram;

    fn error_message(errno: i32, flags: u16, request_body: &[u8], text: Option<&str>) -> Vec<u8> {
        let mut body = (-errno).to_ne_bytes().to_vec();
        append_message(&mut body, 16, 0, 7, request_body);
        if let Some(text) = text {
            let mut list = Writer::new();
            list.text(NLMSGERR_ATTR_MSG, text);
            body.extend_from_slice(list.as_bytes());
        }
        let mut datagram = Vec::new();
        append_message(&mut datagram, NLMSG_ERROR, flags, 7, &body);
        datagram
    }

    fn verdict_of(datagram: &[u8]) -> Verdict {
        messages(datagram).find_map(|message| Verdict::parse(&message)).unwrap()
    }

    #[test]
    fn an_acknowledgement_is_success() {
        assert_eq!(verdict_of(&error_message(0, NLM_F_CAPPED, &[], None)), Verdict { errno: 0, detail: None });
    }

    #[test]
    fn the_kernels_words_are_found_behind_a_capped_and_a_whole_request() {
        for (flags, body) in [(NLM_F_CAPPED, &[][..]), (0, &[1, 2, 3, 4, 5][..])] {
            let verdict = verdict_of(&error_message(libc::EINVAL, flags | NLM_F_ACK_TLVS, body, Some("mtu too small")));
            assert_eq!(verdict, Verdict { errno: libc::EINVAL, detail: Some("mtu too small".into()) });
            let error = verdict.check(format_args!("change device a")).unwrap_err();
            assert_eq!(error.to_string(), "cannot change device a: mtu too small (Invalid argument (os error 22))");
        }
    }

    #[test]
    fn messages_keep_their_order_and_padding() {
        let mut datagram = Vec::new();
        append_message(&mut datagram, 16, 0, 1, b"abc");
        append_message(&mut datagram, 17, 0, 2, b"defgh");
        let read: Vec<_> = messages(&datagram).map(|m| (m.kind, m.sequence, m.body.to_vec())).collect();
        assert_eq!(read, [(16, 1, b"abc".to_vec()), (17, 2, b"defgh".to_vec())]);
    }

    /// A socket whose kernel is `script`: for each request in turn (its sequence number given) the datagrams to answer with.
    fn with_kernel(script: impl Fn(usize, u32) -> Vec<Vec<u8>> + Send + 'static) -> Socket {
        let (ours, kernels) = UnixDatagram::pair().unwrap();
        ours.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            for turn in 0.. {
                let Ok(length @ 1..) = kernels.recv(&mut buffer) else { break };
                let sequence = messages(&buffer[..length]).next().unwrap().sequence;
                for datagram in script(turn, sequence) {
                    kernels.send(&datagram).unwrap();
                }
            }
        });
        Socket { fd: ours.into(), sequence: 0, buffer: vec![0; 128].into_boxed_slice(), unsettled: false }
    }

    fn datagram(list: &[(u16, u16, u32, &[u8])]) -> Vec<u8> {
        let mut datagram = Vec::new();
        for (kind, flags, sequence, body) in list {
            append_message(&mut datagram, *kind, *flags, *sequence, body);
        }
        datagram
    }

    fn first_byte(message: &Message<'_>) -> Option<u8> {
        message.body.first().copied()
    }

    #[test]
    fn a_dump_that_changed_while_it_was_read_is_read_again() {
        let mut socket = with_kernel(|turn, sequence| {
            let interrupted = if turn == 0 { NLM_F_DUMP_INTR } else { 0 };
            let parts = [(16, 0, sequence, &[1u8 + turn as u8][..]), (16, interrupted, sequence, &[3])];
            vec![datagram(&parts), datagram(&[(NLMSG_DONE, 0, sequence, &[0; 4])])]
        });
        assert_eq!(socket.dump(format_args!("list"), 18, &[], first_byte).unwrap(), [2, 3]);
    }

    #[test]
    fn a_dump_that_never_holds_still_is_given_up() {
        let mut socket = with_kernel(|_, sequence| vec![datagram(&[(NLMSG_DONE, NLM_F_DUMP_INTR, sequence, &[0; 4])])]);
        let error = socket.dump(format_args!("list"), 18, &[], first_byte).unwrap_err();
        assert!(error.to_string().starts_with("cannot list: the table keeps changing"), "{error}");
    }

    #[test]
    fn an_error_at_the_end_of_a_dump_is_its_error() {
        let mut socket = with_kernel(|_, sequence| {
            let refusal = (-libc::EPERM).to_ne_bytes();
            vec![datagram(&[(16, 0, sequence, &[1]), (NLMSG_DONE, 0, sequence, &refusal)])]
        });
        let error = socket.dump(format_args!("list"), 18, &[], first_byte).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EPERM));
    }

    #[test]
    fn leftovers_of_another_exchange_are_passed_over() {
        let mut socket = with_kernel(|_, sequence| {
            let stale = sequence.wrapping_sub(1);
            let acknowledgement = [0; 4 + HEADER];
            vec![
                datagram(&[(16, 0, stale, &[7]), (NLMSG_ERROR, NLM_F_CAPPED, stale, &[0xff; 4 + HEADER])]),
                datagram(&[(16, 0, sequence, &[1])]),
                datagram(&[(NLMSG_ERROR, NLM_F_CAPPED, sequence, &acknowledgement)]),
            ]
        });
        let mut seen = Vec::new();
        socket.request(format_args!("ask"), (18, 0), &[], |message| seen.extend(first_byte(message))).unwrap();
        assert_eq!(seen, [1]);
    }

    #[test]
    fn after_a_failure_the_next_exchange_begins_clean() {
        let mut socket = with_kernel(|turn, sequence| {
            let large = if turn == 0 { 200 } else { 1 };
            vec![
                datagram(&[(16, 0, sequence, &vec![5; large])]),
                datagram(&[(16, 0, sequence, &[6]), (NLMSG_DONE, 0, sequence, &[0; 4])]),
            ]
        });
        let error = socket.dump(format_args!("list"), 18, &[], first_byte).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EMSGSIZE));
        assert_eq!(socket.dump(format_args!("list"), 18, &[], first_byte).unwrap(), [5, 6]);
    }

    proptest! {
        #[test]
        fn any_datagram_is_walked_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            for message in messages(&bytes) {
                Verdict::parse(&message);
            }
        }

        #[test]
        fn any_error_body_is_read_without_panic(
            body in proptest::collection::vec(any::<u8>(), 0..64), flags: u16, done: bool,
        ) {
            let kind = if done { NLMSG_DONE } else { NLMSG_ERROR };
            Verdict::parse(&Message { kind, flags, sequence: 0, body: &body });
        }
    }
}
