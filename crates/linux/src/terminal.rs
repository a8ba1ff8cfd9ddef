//! What a terminal is like.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::syscall::syscall;

/// Its rows and columns, if it is one and says so.
#[must_use]
pub fn size(fd: BorrowedFd<'_>) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // TIOCGWINSZ writes one winsize, which is ours, and the descriptor is borrowed for the call.
    syscall!(ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size)).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row.into(), size.ws_col.into()))
}
