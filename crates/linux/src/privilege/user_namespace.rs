//! Being root without being root: a user, network and mount namespace of one's own.
//!
//! In a user namespace an ordinary user holds every capability over the namespaces made inside it, so he can make devices,
//! routes and further network namespaces there, which nobody outside sees. What he cannot do is touch the host's network.

use std::ffi::CStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::syscall::syscall;
use crate::{Error, Result};

/// Makes this process root of a new user namespace, with a network namespace that has only a loopback device (down), an empty
/// `/run`, and mounts that nobody outside sees. The process must not have started other threads.
pub fn reenter_user_namespace() -> Result<()> {
    enter().map_err(|source| {
        let remedy = user_namespace_remedy(&source);
        Error::new("enter a user namespace", source).with_detail(remedy)
    })
}

/// Lets `command` run as [`reenter_user_namespace`] says. A refusal is an error of spawning it, for which
/// [`user_namespace_remedy`] has words. For processes that have threads already.
pub fn in_user_namespace(command: &mut Command) -> &mut Command {
    // SAFETY: `enter` makes system calls only; between fork and exec it neither allocates nor takes a lock.
    unsafe { command.pre_exec(enter) }
}

/// What to do when the kernel refuses a user namespace, in one sentence.
pub fn user_namespace_remedy(error: &io::Error) -> String {
    remedy(error.raw_os_error().unwrap_or(0), |setting| fs::read_to_string(format!("/proc/sys/{setting}")).ok())
}

fn remedy(errno: i32, setting: impl Fn(&str) -> Option<String>) -> String {
    let is = |name: &str, value: &str| setting(name).is_some_and(|text| text.trim() == value);
    // Which switch it is depends on the distribution: the kernel's own, Debian's, Ubuntu's.
    let switches = [
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
    ];
    if let Some((.., assignment)) = switches.iter().find(|(name, value, _)| is(name, value)) {
        return format!("this system forbids user namespaces: run as root, or type `sudo sysctl {assignment}`");
    }
    match errno {
        libc::EINVAL => {
            "the process has started threads already, or this kernel has no user namespaces: run as root".into()
        }
        libc::ENOSPC | libc::EUSERS => {
            "too many user namespaces exist: run as root, or raise user.max_user_namespaces".into()
        }
        _ => "user namespaces are forbidden here (in a container: by its seccomp profile): run as root".into(),
    }
}

/// Enters. Runs between fork and exec too, so it must not allocate: system calls and the stack only.
fn enter() -> io::Result<()> {
    // SAFETY: the call takes nothing and cannot fail.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: the call takes nothing and cannot fail.
    let gid = unsafe { libc::getegid() };
    // The calls here take numbers only.
    syscall!(unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS))?;
    // After a change of user the files below belong to root, until the process counts as dumpable again.
    syscall!(prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0))?;
    // Without this an ordinary user may not map his group (user_namespaces(7)).
    write(c"/proc/self/setgroups", b"deny")?;
    map(c"/proc/self/uid_map", uid)?;
    map(c"/proc/self/gid_map", gid)?;
    mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
    // Covers the host's, which we may not write: /run/netns and the runtime directory come to be in it.
    mount(c"tmpfs", c"/run", Some(c"mode=0755"), libc::MS_NOSUID | libc::MS_NODEV)?;
    // Shows the devices of the new network namespace. Refused where parts of /sys are covered, as in containers; nothing of
    // ours depends on it.
    let _ = mount(c"sysfs", c"/sys", None, libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC);
    Ok(())
}

/// Maps root inside to `id` outside.
fn map(path: &CStr, id: u32) -> io::Result<()> {
    let mut text = io::Cursor::new([0u8; 24]);
    writeln!(text, "0 {id} 1")?;
    let length = usize::try_from(text.position()).unwrap_or(0);
    write(path, text.get_ref().get(..length).unwrap_or_default())
}

fn write(path: &CStr, content: &[u8]) -> io::Result<()> {
    // The path is a string that outlives the call.
    let fd = syscall!(open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
    // Pointer and length describe `content`.
    let written = syscall!(write(fd, content.as_ptr().cast(), content.len())).map(drop);
    // The descriptor is ours and not used again.
    let _ = syscall!(close(fd));
    written
}

fn mount(kind: &CStr, target: &CStr, options: Option<&CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let options = options.map_or(std::ptr::null(), CStr::as_ptr).cast();
    // All pointers are null or to strings that outlive the call.
    syscall!(mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_switch_has_its_remedy() {
        for (name, value, words) in [
            ("user/max_user_namespaces", "0\n", "sysctl user.max_user_namespaces=15000"),
            ("kernel/unprivileged_userns_clone", "0\n", "sysctl kernel.unprivileged_userns_clone=1"),
            (
                "kernel/apparmor_restrict_unprivileged_userns",
                "1\n",
                "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        ] {
            let text = remedy(libc::EPERM, |asked| (asked == name).then(|| value.to_owned()));
            assert!(text.contains(words), "{text}");
        }
        for (errno, words) in [(libc::EINVAL, "threads"), (libc::ENOSPC, "too many"), (libc::EPERM, "seccomp")] {
            assert!(remedy(errno, |_| None).contains(words));
        }
    }
}
