//! The numbers of errno(3) that answers carry.

use std::fmt;

/// Why a request was not carried out. Shown as the answer's number, which is negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// Belongs to peers that are not WireGuard's, which these tools cannot change.
    pub const EPERM: Self = Self(libc::EPERM);
    /// A line was too long.
    pub const EIO: Self = Self(libc::EIO);
    /// A value that is none, or a key that does not exist there.
    pub const EINVAL: Self = Self(libc::EINVAL);
    /// Not the protocol: a line without `=`, an operation that does not exist, a request without its end.
    pub const EPROTO: Self = Self(libc::EPROTO);
    /// The request was too long.
    pub const EMSGSIZE: Self = Self(libc::EMSGSIZE);

    /// A number as the kernel gives it, positive.
    pub fn from_number(number: i32) -> Self {
        Self(number)
    }

    /// The number, positive.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.saturating_neg())
    }
}
