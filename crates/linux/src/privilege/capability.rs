//! Capabilities (capabilities(7)): which of root's powers a thread has.

use std::fs;
use std::io;

use crate::syscall::syscall;
use crate::{Error, Result};

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h): 64 bits in two words.
const VERSION: u32 = 0x2008_0522;

/// One of root's powers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Capability {
    /// Giving up capabilities for good (`CAP_SETPCAP`).
    SetPcap = 8,
    /// UDP ports below 1024 (`CAP_NET_BIND_SERVICE`).
    NetBindService = 10,
    /// Devices, addresses, routes, nf_tables, privileged socket options (`CAP_NET_ADMIN`).
    NetAdmin = 12,
    /// Raw and packet sockets (`CAP_NET_RAW`).
    NetRaw = 13,
    /// Entering namespaces, mounting (`CAP_SYS_ADMIN`).
    SysAdmin = 21,
}

impl Capability {
    fn bit(self) -> u64 {
        1 << (self as u32)
    }
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`, once for the low and once for the high word of each set.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The capability sets of the calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sets {
    effective: u64,
    permitted: u64,
    inheritable: u64,
}

impl Sets {
    fn read() -> io::Result<Self> {
        let header = Header { version: VERSION, pid: 0 };
        let mut data = [Data::default(); 2];
        // Both pointers are to structures of the layout that this version of the call has.
        syscall!(syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()))?;
        let [low, high] = data;
        let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        Ok(Self {
            effective: join(low.effective, high.effective),
            permitted: join(low.permitted, high.permitted),
            inheritable: join(low.inheritable, high.inheritable),
        })
    }

    fn write(self) -> io::Result<()> {
        let header = Header { version: VERSION, pid: 0 };
        let word = |shift: u32| Data {
            effective: (self.effective >> shift) as u32,
            permitted: (self.permitted >> shift) as u32,
            inheritable: (self.inheritable >> shift) as u32,
        };
        let data = [word(0), word(32)];
        // Both pointers are to structures of the layout that this version of the call has.
        syscall!(syscall(libc::SYS_capset, &raw const header, data.as_ptr())).map(drop)
    }
}

/// Whether the calling thread may use this capability now.
pub fn has_capability(capability: Capability) -> bool {
    Sets::read().is_ok_and(|sets| sets.effective & capability.bit() != 0)
}

/// From now on no program that this process runs gets more rights than it has (`PR_SET_NO_NEW_PRIVS`).
pub fn forbid_new_privileges() -> Result<()> {
    // The call takes numbers only.
    syscall!(prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        .map_err(|source| Error::new("forbid new privileges", source))
        .map(drop)
}

/// From now on the memory of this process, with its keys, goes into no core file, and no debugger of the same user may look
/// into it.
pub fn forbid_dumps() -> Result<()> {
    let failed = |source| Error::new("forbid core files", source);
    // The call takes numbers only.
    syscall!(prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0)).map_err(failed)?;
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // The pointer is to a structure that outlives the call.
    syscall!(setrlimit(libc::RLIMIT_CORE, &none)).map_err(failed)?;
    Ok(())
}

/// Gives up all capabilities but these, for good: also a program that is run later cannot get them back. Of those, it keeps
/// what it has. Each thread has capabilities of its own: to be called before other threads start, but for those that have
/// [given up theirs](keep_in_this_thread) already.
pub fn keep_capabilities(keep: &[Capability]) -> Result<()> {
    let failed = |source| Error::new("give up capabilities", source);
    let kept = bits(keep);
    let mut stronger = 0;
    for thread in fs::read_dir("/proc/self/task").map_err(failed)? {
        let thread = thread.map_err(failed)?;
        if thread.file_name().to_str().and_then(|id| id.parse().ok()) == Some(thread_id()) {
            continue;
        }
        match fs::read_to_string(thread.path().join("status")) {
            Ok(status) if !may_more(&status, kept) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Ok(_) | Err(_) => stronger += 1,
        }
    }
    if stronger > 0 {
        let error = Error::from_errno("give up capabilities", libc::EBUSY);
        return Err(error.with_detail(format!("{stronger} other threads run already, and each would keep its own")));
    }
    keep_in_this_thread(keep)
}

fn bits(capabilities: &[Capability]) -> u64 {
    capabilities.iter().fold(0, |bits, capability| bits | capability.bit())
}

/// The number of the calling thread, as in `/proc/self/task`.
fn thread_id() -> i32 {
    // The call has no arguments and cannot fail.
    syscall!(gettid()).unwrap_or(0)
}

/// Whether a thread with this status (proc_pid_status(5)) has, or could get, more than `kept`.
fn may_more(status: &str, kept: u64) -> bool {
    ["CapPrm:", "CapBnd:"].iter().any(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).is_none_or(|held| held & !kept != 0)
    })
}

/// The same for the calling thread and those that it will start, whatever others have.
pub fn keep_in_this_thread(keep: &[Capability]) -> Result<()> {
    let failed = |source| Error::new("give up capabilities", source);
    let kept = bits(keep);
    let sets = Sets::read().map_err(failed)?;
    if sets.effective & Capability::SetPcap.bit() != 0 {
        for number in 0..u64::BITS {
            // The call takes numbers only; EINVAL means that the kernel has no more.
            let Ok(held) = syscall!(prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(number), 0, 0, 0)) else { break };
            if held == 1 && kept & (1 << number) == 0 {
                // The call takes numbers only.
                syscall!(prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0)).map_err(failed)?;
            }
        }
    }
    // The call takes numbers only. Kernels before 4.3 have no ambient set, and then nothing to clear.
    let _ = syscall!(prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0));
    let permitted = sets.permitted & kept;
    let wanted = Sets { effective: permitted, permitted, inheritable: 0 };
    // Who was started with just these may be kept from the call itself.
    if sets == wanted { Ok(()) } else { wanted.write().map_err(failed) }
}

/// All stages: what a running daemon keeps is CAP_NET_ADMIN.
pub fn drop_to_net_admin() -> Result<()> {
    drop_to(&[Capability::NetAdmin])
}

/// All stages, for a daemon that keeps these.
pub fn drop_to(keep: &[Capability]) -> Result<()> {
    keep_capabilities(keep)?;
    forbid_new_privileges()?;
    forbid_dumps()
}
