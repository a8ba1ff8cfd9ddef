//! Children that end or stop, of any kind; alone in its program, since it takes those of all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::process::{Command, Stdio};

use linux::sandbox::{self, Change};
use support::wait_for;

#[test]
#[allow(clippy::zombie_processes, reason = "it is waited for by what is tested")]
fn children_that_stop_and_end_are_told_apart() {
    assert_eq!(sandbox::reap(), None);
    let child = Command::new("sh").args(["-c", "kill -STOP $$; exit 7"]).stdin(Stdio::null()).spawn().unwrap();
    assert_eq!(wait_for("a stop", sandbox::reap), (child.id(), Change::Stopped));
    assert_eq!(sandbox::reap(), None);
    sandbox::send(child.id(), false, libc::SIGCONT).unwrap();
    let (pid, change) = wait_for("an end", sandbox::reap);
    let Change::Ended(status) = change else { panic!("{change:?}") };
    assert_eq!((pid, status.code()), (child.id(), Some(7)));
    assert_eq!(sandbox::reap(), None);
}
