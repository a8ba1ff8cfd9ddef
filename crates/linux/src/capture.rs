//! Watching what passes a device, with `AF_PACKET` (packet(7)): each packet with its direction, the kernel's time stamp, and
//! the virtio header that tells whether it is a super-packet and whether its checksum is still to be filled in.
//!
//! A capture sees a packet as the device does. On its way out a TCP packet is therefore usually larger than the MTU and has no
//! checksum yet: that is the work offloads leave to the device.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use wire::vnet::VnetHdr;

use crate::netlink::Layer;
use crate::syscall::syscall;
use crate::{Error, Result};

/// Room for packets nobody has read yet, in bytes, where we may have it.
const SOCKET_BUFFER: libc::c_int = 4 * 1024 * 1024;

/// Room for the control messages of one packet: time stamp and auxiliary data, each with its header.
const CONTROL: usize = 128;

/// The number that stands for every device (packet(7)).
const EVERY_DEVICE: u32 = 0;

/// Loads of a program from here answer the sort of device (`ARPHRD_*`), and no bytes of the packet (`SKF_AD_OFF + SKF_AD_HATYPE`,
/// linux/filter.h).
pub const HARDWARE: u32 = (-0x1000_i32 + 28).cast_unsigned();

/// What [`HARDWARE`] answers for devices whose packets begin with an Ethernet header: Ethernet, loopback.
pub const WITH_ETHERNET: [u32; 2] = [libc::ARPHRD_ETHER as u32, libc::ARPHRD_LOOPBACK as u32];

/// Which way a packet went, seen from the device's host (`PACKET_*`, linux/if_packet.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in, for this host, for a group or for everyone.
    Incoming,
    /// It came in but its link-layer address is another host's; a bridge forwards such.
    Passing,
    /// This host sent it.
    Outgoing,
}

/// One instruction of a classic BPF program (`struct sock_filter`, linux/filter.h): code, jump if true, jump if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// What is known of a packet besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Bytes now in the buffer.
    pub length: usize,
    /// Bytes the packet has; more than `length` if the buffer was too small, or the program asked for less.
    pub original_length: usize,
    /// When the kernel took note of it: nanoseconds since 1970, by the system's clock. 0 if the kernel did not tell.
    pub timestamp_ns: u64,
    /// Which way it went.
    pub direction: Direction,
    /// The EtherType of what it carries: 0x0800, 0x86dd, 0x0806, …
    pub protocol: u16,
    /// What the bytes begin with.
    pub layer: Layer,
    /// The device it passed.
    pub index: u32,
    /// Whether it is a super-packet, and the state of its checksum. Offsets count from the first byte.
    pub vnet: VnetHdr,
    /// The VLAN tag (TCI) that the kernel has taken out of the bytes.
    pub vlan: Option<u16>,
}

/// How many packets a capture has seen and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets that passed the filter, lost ones included.
    pub seen: u64,
    /// Packets lost because nobody read them in time.
    pub lost: u64,
    /// Super-packets of a kind that the virtio header cannot express; the kernel drops these when they are read.
    pub unreadable: u64,
}

/// A capture on one device.
#[derive(Debug)]
pub struct Capture {
    fd: OwnedFd,
    tally: Tally,
}

impl Capture {
    /// Captures all packets of the device `name` in the calling thread's namespace.
    pub fn open(name: &str) -> Result<Self> {
        Self::open_filtered(name, &[])
    }

    /// Captures the packets for which a classic BPF program answers more than 0; none: all. Loads count from the link-layer
    /// header, on a TUN device from the IP header.
    pub fn open_filtered(name: &str, program: &[Instruction]) -> Result<Self> {
        let operation = || format!("capture on device {name}");
        let c_name = CString::new(name).map_err(|_| Error::from_errno(operation(), libc::EINVAL))?;
        // SAFETY: the pointer is to a string that outlives the call.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(Error::last(operation()));
        }
        Self::on_index(index, program).map_err(|source| Error::new(operation(), source))
    }

    /// Captures on all devices of the calling thread's namespace, those that come later included. Loads of the program count as those of the
    /// device that a packet passes; [`HARDWARE`] tells which sort that is.
    pub fn open_everywhere(program: &[Instruction]) -> Result<Self> {
        Self::on_index(EVERY_DEVICE, program).map_err(|source| Error::new("capture on all devices", source))
    }

    fn on_index(index: u32, program: &[Instruction]) -> io::Result<Self> {
        // Protocol 0: nothing is captured before the filter is in place and the device is chosen.
        let bits = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // The call takes numbers only.
        let fd = syscall!(socket(libc::AF_PACKET, bits, 0))?;
        // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
        let capture = Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, tally: Tally::default() };
        let on: libc::c_int = 1;
        capture.set_option(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &on)?;
        capture.set_option(libc::SOL_PACKET, libc::PACKET_AUXDATA, &on)?;
        capture.set_option(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &on)?;
        if capture.set_option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &SOCKET_BUFFER).is_err() {
            // Forcing needs CAP_NET_ADMIN in the first user namespace; the usual limit is better than nothing.
            let _ = capture.set_option(libc::SOL_SOCKET, libc::SO_RCVBUF, &SOCKET_BUFFER);
        }
        if !program.is_empty() {
            capture.attach(program)?;
        }
        // SAFETY: an all-zero sockaddr_ll is a valid value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = i32::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // Address and length describe a structure that outlives the call.
        syscall!(bind(capture.fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), length))?;
        Ok(capture)
    }

    fn attach(&self, program: &[Instruction]) -> io::Result<()> {
        let mut filter: Vec<_> =
            program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
        let length = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
        let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
        // The kernel copies the program that `filter` holds during the call.
        self.set_option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    fn set_option<T: Copy>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let (pointer, length) = (std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t);
        // Pointer and length describe `value`, which outlives the call.
        syscall!(setsockopt(self.fd.as_raw_fd(), level, option, pointer, length)).map(drop)
    }

    /// Takes the next packet into `buffer` (64 KiB hold any); `None` when there is none now.
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<Captured>> {
        loop {
            match self.receive(buffer) {
                Ok(captured) => return Ok(Some(captured)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    Some(libc::EINTR) => {}
                    // A super-packet of a kind for which there is no virtio header.
                    Some(libc::EINVAL) => self.tally.unreadable += 1,
                    _ => return Err(Error::new("read a captured packet", error)),
                },
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Captured> {
        let mut vnet = [0u8; VnetHdr::LEN];
        let mut parts = [
            libc::iovec { iov_base: vnet.as_mut_ptr().cast(), iov_len: vnet.len() },
            libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() },
        ];
        // SAFETY: an all-zero sockaddr_ll is a valid value of this plain structure.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut control = [0u64; CONTROL / 8];
        // SAFETY: an all-zero msghdr is a valid value of this plain structure.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = std::ptr::from_mut(&mut from).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = parts.as_mut_ptr();
        // The types of the lengths differ between C libraries.
        message.msg_iovlen = parts.len() as _;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = CONTROL as _;
        // All pointers of the message are to locals and to the buffer, as long as they are said to be.
        let received = syscall!(recvmsg(self.fd.as_raw_fd(), &mut message, libc::MSG_TRUNC))?;
        // MSG_TRUNC makes the kernel tell the packet's own length, the virtio header included; or that which the program has left of it.
        let kept = usize::try_from(received).unwrap_or(0).saturating_sub(vnet.len());
        let Auxiliary { timestamp_ns, vlan, length } = read_control(&message);
        Ok(Captured {
            length: kept.min(buffer.len()),
            original_length: length.max(kept),
            timestamp_ns,
            direction: match from.sll_pkttype {
                libc::PACKET_OUTGOING => Direction::Outgoing,
                libc::PACKET_OTHERHOST => Direction::Passing,
                _ => Direction::Incoming,
            },
            protocol: u16::from_be(from.sll_protocol),
            layer: Layer::from(from.sll_hatype),
            index: u32::try_from(from.sll_ifindex).unwrap_or(0),
            vnet: VnetHdr::parse(&vnet),
            vlan,
        })
    }

    /// How many packets were seen and lost since the capture was opened.
    pub fn tally(&mut self) -> Result<Tally> {
        let mut since_last = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        let pointer = std::ptr::from_mut(&mut since_last).cast();
        // Pointer and length describe a structure that outlives the call.
        syscall!(getsockopt(self.fd.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, pointer, &mut length))
            .map_err(|source| Error::new("read the statistics of a capture", source))?;
        // The kernel starts over with each reading.
        self.tally.seen += u64::from(since_last.tp_packets);
        self.tally.lost += u64::from(since_last.tp_drops);
        Ok(self.tally)
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the kernel says of a packet beside its bytes.
#[derive(Default)]
struct Auxiliary {
    timestamp_ns: u64,
    vlan: Option<u16>,
    /// Before the program cut it.
    length: usize,
}

/// Time stamp, VLAN tag and length out of the control messages.
fn read_control(message: &libc::msghdr) -> Auxiliary {
    let mut told = Auxiliary::default();
    // SAFETY: the kernel has filled the control buffer and set its length; CMSG_FIRSTHDR looks at these only.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR answer null or a header within the control buffer, which is still alive.
    while let Some(header) = unsafe { next.as_ref() } {
        // SAFETY: the pointer is to a header within the control buffer; the data follow it.
        let data = unsafe { libc::CMSG_DATA(next) };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                // SAFETY: the kernel puts a timespec there; the read does not need alignment.
                let time = unsafe { data.cast::<libc::timespec>().read_unaligned() };
                let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                told.timestamp_ns = seconds.saturating_mul(1_000_000_000) + u64::try_from(time.tv_nsec).unwrap_or(0);
            }
            (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                // SAFETY: the kernel puts a tpacket_auxdata there; the read does not need alignment.
                let auxiliary = unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
                let tagged = auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
                told.vlan = tagged.then_some(auxiliary.tp_vlan_tci);
                told.length = auxiliary.tp_len as usize;
            }
            _ => {}
        }
        // SAFETY: `message` is the one the header came from.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    told
}
