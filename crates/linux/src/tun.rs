//! TUN and TAP devices: network cards whose wire is a file descriptor (Documentation/networking/tuntap.rst).
//!
//! A device is opened with one or more [`Queue`]s. With a virtio-net header in front of each packet (`IFF_VNET_HDR`) the
//! kernel hands over *super-packets* of up to 64 KiB, and takes them; which kinds is settled once, when the device opens
//! ([`Offloads`]), and is data from then on.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use wire::vnet::VnetHdr;

use crate::syscall::syscall;
use crate::{Error, Result};

/// The longest packet that a queue gives or takes, without its virtio-net header, in bytes.
pub const MAX_PACKET: usize = 65_535;

/// What travels on the wire of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// TUN: IP packets (layer 3).
    Packets,
    /// TAP: Ethernet frames (layer 2).
    Frames,
}

/// A process that has a queue of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// What it calls itself; others chose it.
    pub name: String,
}

/// Who has a queue of the device of this name in this network namespace, as far as one may see: root sees all, others their own processes.
/// The kernel tells of each queue's device in `/proc/PID/fdinfo/FD`.
#[must_use]
pub fn holders(device: &str) -> Vec<Holder> {
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    let holds = |process: &Path| {
        let files = fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_to_string(file.path()).ok()).any(|text| is_queue_of(&text, device))
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let holder = |process: fs::DirEntry| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        // A device of that name may be there in each namespace.
        if fs::read_link(process.path().join("ns/net")).ok() != own || !holds(&process.path()) {
            return None;
        }
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default().trim_end().to_owned();
        Some(Holder { pid, name })
    };
    all.filter_map(holder).collect()
}

fn is_queue_of(fdinfo: &str, device: &str) -> bool {
    fdinfo.lines().filter_map(|line| line.strip_prefix("iff:")).any(|name| name.trim() == device)
}

/// How a device is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// 1 to 15 bytes; an existing device of this name is adopted if its layer and its multi-queue flag agree.
    pub name: &'a str,
    /// TUN or TAP.
    pub layer: Layer,
    /// How many queues to open; 0 counts as 1.
    pub queues: usize,
    /// Multi-queue devices cannot be opened as single-queue ones and the other way round; QEMU wants single-queue.
    pub multi_queue: bool,
    /// Puts the virtio-net header before each packet and asks for all offloads that the kernel knows.
    pub offload: bool,
    /// Lets the device outlive its descriptors; what the kernel then sends into it is dropped. `None` leaves an existing
    /// device as it is.
    pub persistent: Option<bool>,
    /// A user id that may attach to the device without CAP_NET_ADMIN.
    pub owner: Option<u32>,
    /// Fails with EBUSY if a device of this name exists.
    pub exclusive: bool,
}

impl<'a> Options<'a> {
    /// A multi-queue TUN device with one queue and all offloads; a new one goes with its descriptors.
    pub fn new(name: &'a str) -> Self {
        Self {
            name,
            layer: Layer::Packets,
            queues: 1,
            multi_queue: true,
            offload: true,
            persistent: None,
            owner: None,
            exclusive: false,
        }
    }
}

/// How far the offload ladder held. Each step includes the ones below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// One complete packet per system call, no header.
    None,
    /// Checksums may be left to the other side (`TUN_F_CSUM`).
    Checksum,
    /// TCP super-packets (`TUN_F_TSO4`, `TUN_F_TSO6`, `TUN_F_TSO_ECN`).
    Tcp,
    /// UDP super-packets too (`TUN_F_USO4`, `TUN_F_USO6`; Linux 6.2).
    Udp,
}

impl Offload {
    /// A word for tables: `none`, `checksum`, `tso`, `uso`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Checksum => "checksum",
            Self::Tcp => "tso",
            Self::Udp => "uso",
        }
    }
}

/// The offloads of a device, and why a higher step of the ladder is not in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// The step in use.
    pub level: Offload,
    /// Why it is not [`Offload::Udp`]; absent if it is.
    pub reason: Option<String>,
}

/// An open device.
#[derive(Debug)]
pub struct Device {
    /// The name that the kernel gave.
    pub name: String,
    /// What the kernel agreed to.
    pub offloads: Offloads,
    /// One per [`Options::queues`].
    pub queues: Vec<Queue>,
}

/// One queue of a device: each `read` is one packet of the kernel's, each `write` one for it. Non-blocking.
#[derive(Debug)]
pub struct Queue {
    fd: OwnedFd,
    header: bool,
}

/// The masks of the ladder, best first (include/uapi/linux/if_tun.h).
const LADDER: [(Offload, libc::c_uint); 3] = [
    (
        Offload::Udp,
        libc::TUN_F_CSUM
            | libc::TUN_F_TSO4
            | libc::TUN_F_TSO6
            | libc::TUN_F_TSO_ECN
            | libc::TUN_F_USO4
            | libc::TUN_F_USO6,
    ),
    (Offload::Tcp, libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN),
    (Offload::Checksum, libc::TUN_F_CSUM),
];

impl Device {
    /// Creates the device, or adopts the existing one of that name, and opens its queues.
    ///
    /// # Errors
    /// No `/dev/net/tun` (ENOENT), no right to use it (EACCES, EPERM), a device of another kind (EINVAL), one whose
    /// queues are all taken (EBUSY), one that exists although `exclusive` was asked (EBUSY).
    pub fn open(options: Options<'_>) -> Result<Self> {
        let mut queues = Vec::with_capacity(options.queues.max(1));
        let mut name = options.name.to_owned();
        for i in 0..options.queues.max(1) {
            let exclusive = options.exclusive && i == 0;
            let (queue, given) = Queue::attach(&Options { name: &name, exclusive, ..options })?;
            name = given;
            // At once: of a device without an owner anybody may open a queue.
            if let (0, Some(owner)) = (i, options.owner) {
                queue.control(libc::TUNSETOWNER, owner.into(), &format!("set the owner of {name}"))?;
            }
            queues.push(queue);
        }
        let offloads = match queues.first() {
            Some(first) => first.negotiate(&name, options.offload)?,
            None => Offloads { level: Offload::None, reason: None },
        };
        let device = Self { name, offloads, queues };
        if let Some(persistent) = options.persistent {
            device.set_persistent(persistent)?;
        }
        Ok(device)
    }

    /// Whether the device stays when its last descriptor is closed.
    pub fn set_persistent(&self, persistent: bool) -> Result<()> {
        self.queues.first().map_or(Ok(()), |queue| queue.set_persistent(persistent))
    }
}

impl Device {
    /// Has the kernel hand over nothing that the next program to open the device would have to finish; that one asks for what it can do.
    pub fn forget_offloads(&self) -> Result<()> {
        let Some(first) = self.queues.first() else { return Ok(()) };
        first.control(libc::TUNSETOFFLOAD, 0, &format!("switch the offloads of {} off", self.name))
    }
}

impl Queue {
    fn attach(options: &Options<'_>) -> Result<(Self, String)> {
        let operation = || format!("open the tun device {}", options.name);
        let fd: OwnedFd = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|e| Error::new("open /dev/net/tun", e))?
            .into();
        let mut flags = libc::IFF_NO_PI;
        flags |= match options.layer {
            Layer::Packets => libc::IFF_TUN,
            Layer::Frames => libc::IFF_TAP,
        };
        for (wanted, flag) in [
            (options.multi_queue, libc::IFF_MULTI_QUEUE),
            (options.offload, libc::IFF_VNET_HDR),
            (options.exclusive, libc::IFF_TUN_EXCL),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        let mut request =
            InterfaceRequest::new(options.name).ok_or_else(|| Error::from_errno(operation(), libc::EINVAL))?;
        request.flags = flags as libc::c_short;
        // TUNSETIFF reads and writes one ifreq, which `request` has the size and layout of.
        syscall!(ioctl(fd.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request))
            .map_err(|e| Error::new(operation(), e))?;
        Ok((Self { fd, header: options.offload }, request.name()))
    }

    /// Walks down the ladder until the kernel agrees. The mask belongs to the device and outlives descriptors of a
    /// persistent one, so it is set also when it is empty.
    fn negotiate(&self, name: &str, wanted: bool) -> Result<Offloads> {
        if !wanted {
            self.control(libc::TUNSETOFFLOAD, 0, &format!("switch the offloads of {name} off"))?;
            return Ok(Offloads { level: Offload::None, reason: Some("switched off by configuration".into()) });
        }
        let mut reason = None;
        for (level, mask) in LADDER {
            match self.control(libc::TUNSETOFFLOAD, mask.into(), "set offloads") {
                Ok(()) => return Ok(Offloads { level, reason }),
                Err(e) => {
                    let errno = e.errno().unwrap_or(0);
                    reason.get_or_insert(format!("the kernel refused {} (errno {errno})", level.name()));
                }
            }
        }
        self.control(libc::TUNSETOFFLOAD, 0, &format!("switch the offloads of {name} off"))?;
        Ok(Offloads { level: Offload::None, reason })
    }

    fn control(&self, request: libc::Ioctl, value: libc::c_ulong, operation: &str) -> Result<()> {
        // The requests used with this function take their argument by value.
        syscall!(ioctl(self.fd.as_raw_fd(), request, value)).map(drop).map_err(|e| Error::new(operation, e))
    }

    /// Whether the device of this queue stays when its last descriptor is closed. Works on whatever name the device has by now.
    pub fn set_persistent(&self, persistent: bool) -> Result<()> {
        self.control(libc::TUNSETPERSIST, persistent.into(), "set the persistence of the tun device")
    }

    /// Another descriptor of the same queue: both keep it attached.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(|e| Error::new("duplicate the descriptor of a tun queue", e))?;
        Ok(Self { fd, header: self.header })
    }

    /// Takes the next packet of the kernel's into `packet` and answers its virtio-net header and its length in bytes.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; EBADFD if the device is gone; EIO if the queue is detached. A packet longer than
    /// the buffer is cut by the kernel, so give [`MAX_PACKET`] bytes.
    #[inline]
    pub fn recv(&self, packet: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
        let fd = self.fd.as_raw_fd();
        if !self.header {
            // The pointer and the length are of one live, writable buffer.
            let length = syscall!(read(fd, packet.as_mut_ptr().cast(), packet.len()))?;
            return Ok((VnetHdr::NONE, length as usize));
        }
        let mut header = [0u8; VnetHdr::LEN];
        let parts = [
            libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() },
            libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() },
        ];
        // Both parts point to live, writable buffers of the stated lengths, which outlive the call.
        let length = syscall!(readv(fd, parts.as_ptr(), parts.len() as libc::c_int))?;
        let length = (length as usize).checked_sub(VnetHdr::LEN).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((VnetHdr::parse(&header), length))
    }

    /// Hands a packet, or a super-packet as described by `header`, to the kernel. Without offloads the header is not
    /// sent and must be [`VnetHdr::NONE`].
    ///
    /// # Errors
    /// EIO if the device is down; EINVAL if the kernel does not take such a super-packet; EBADFD if the device is gone.
    #[inline]
    pub fn send(&self, header: &VnetHdr, packet: &[u8]) -> io::Result<()> {
        let fd = self.fd.as_raw_fd();
        if !self.header {
            // The pointer and the length are of one live buffer.
            return syscall!(write(fd, packet.as_ptr().cast(), packet.len())).map(drop);
        }
        let header = header.emit();
        let parts = [
            libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() },
            libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() },
        ];
        // Both parts point to live buffers of the stated lengths; writev only reads them.
        syscall!(writev(fd, parts.as_ptr(), parts.len() as libc::c_int)).map(drop)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The part of `struct ifreq` that TUNSETIFF uses (include/uapi/linux/if.h), at its full size.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

impl InterfaceRequest {
    /// `None` for a name that does not fit with its terminating zero, or has a zero inside.
    fn new(name: &str) -> Option<Self> {
        let mut request = Self { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
        if name.len() >= libc::IFNAMSIZ || name.bytes().any(|b| b == 0) {
            return None;
        }
        request.name.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(request)
    }

    fn name(&self) -> String {
        let end = self.name.iter().position(|&b| b == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(self.name.get(..end).unwrap_or_default()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_must_fit_into_an_interface_request() {
        assert!(InterfaceRequest::new("adit0").is_some_and(|r| r.name() == "adit0"));
        assert!(InterfaceRequest::new("fifteen-bytes-x").is_some());
        assert!(InterfaceRequest::new("sixteen-bytes-xx").is_none());
        assert!(InterfaceRequest::new("a\0b").is_none());
    }

    #[test]
    fn the_ladder_goes_down() {
        assert!(LADDER.windows(2).all(|w| w[0].0 > w[1].0 && w[0].1 & w[1].1 == w[1].1));
    }
}
