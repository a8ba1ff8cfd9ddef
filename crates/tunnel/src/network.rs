//! The network that a node is in: its id, and the epochs of its secret.

use std::fmt;

use zeroize::Zeroizing;

/// A secret that all nodes of a network have at one time.
#[derive(Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Counts from 1, up with each new secret.
    pub number: u32,
    /// 32 random bytes.
    pub secret: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoch").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What sealed handshakes of a network are bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The network.
    pub id: [u8; 16],
    /// The secrets that are accepted, newest first: that of now, and for a while the one before.
    pub epochs: Vec<Epoch>,
}
