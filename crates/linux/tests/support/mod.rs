//! What the integration tests share: namespaces of their own that vanish with them, and waiting for a condition.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::Write;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use linux::netlink::Netlink;
use linux::netns::NetNs;
use linux::privilege::{self, Capability};

/// Makes sure that this test program may make namespaces. An ordinary user's is started once more as root of a user namespace,
/// with the same arguments, and its verdict is ours; where that is forbidden, the sentence that says what to do ends it.
pub(crate) fn enter() {
    static ENTERED: Once = Once::new();
    ENTERED.call_once(|| {
        if privilege::has_capability(Capability::SysAdmin) {
            return;
        }
        let mut again = Command::new("/proc/self/exe");
        let status = privilege::in_user_namespace(again.args(std::env::args_os().skip(1))).status();
        let code = status.map_or_else(
            |error| {
                // Not by a macro: libtest would keep what those print.
                let remedy = privilege::user_namespace_remedy(&error);
                let _ = writeln!(std::io::stderr(), "cannot test without root: {remedy}");
                1
            },
            |status| status.code().unwrap_or(1),
        );
        std::process::exit(code);
    });
}

/// A namespace of its own, with its loopback device up, and a connection to it.
pub(crate) fn fresh() -> (NetNs, Netlink) {
    enter();
    let namespace = NetNs::anonymous().unwrap();
    let mut netlink = Netlink::open_in(&namespace).unwrap();
    netlink.set_up(1, true).unwrap();
    (namespace, netlink)
}

/// A name no other test and no other run has.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A named namespace that is deleted with this value, also when the test fails.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) namespace: NetNs,
}

impl Named {
    pub(crate) fn create() -> Self {
        enter();
        let name = unique("adit-test");
        let namespace = NetNs::create_named(&name).unwrap();
        Self { name, namespace }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = NetNs::delete_named(&self.name);
    }
}

/// Waits until `condition` has something, at most five seconds.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The largest segment that a TCP connection sends, in bytes (`TCP_MAXSEG`).
pub(crate) fn segment_size(stream: &std::net::TcpStream) -> i32 {
    use std::os::fd::AsRawFd;
    let (mut size, mut length) = (0i32, 4);
    let pointer = std::ptr::from_mut(&mut size).cast();
    // SAFETY: pointer and length describe an integer that outlives the call.
    unsafe { libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MAXSEG, pointer, &mut length) };
    size
}
