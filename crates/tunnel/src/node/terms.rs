//! What a handshake with a peer is made with: nothing but keys for peers from a file; in a network also its id and the secret of an epoch.

use wire::message::{Handshake, Protocol};
use zeroize::Zeroizing;

use super::{Settings, identity};
use crate::handshake::{Identity, NO_NETWORK, Shared};
use crate::mac::MacKeys;
use crate::network::{Epoch, Membership};
use crate::peer::{PeerSettings, Problem};

pub(super) struct Terms {
    network: [u8; 16],
    /// As the hello names it; 0 without a network.
    pub(super) epoch: u32,
    pub(super) psk: Zeroizing<[u8; 32]>,
    /// For messages to the peer.
    pub(super) macs: MacKeys,
}

impl Terms {
    /// The terms of a handshake with a peer; `epoch` chooses that of a network.
    pub(super) fn new(
        settings: &Settings,
        peer: &PeerSettings,
        epoch: impl FnOnce(&Membership) -> Option<&Epoch>,
    ) -> Result<Self, Problem> {
        let Some(network) = network(settings, peer.protocol) else {
            let (psk, macs) = (peer.preshared.clone(), MacKeys::new(peer.protocol, &peer.public));
            return Ok(Self { network: NO_NETWORK, epoch: 0, psk, macs });
        };
        let own = identity(settings, peer.protocol).ok_or(Problem::NoIdentity)?.public();
        let epoch = epoch(network).ok_or(Problem::NoSecret)?;
        let psk = network.pair(epoch, own, &peer.public).ok_or(Problem::Key)?;
        let macs = MacKeys::of_network(network, epoch, &peer.public).ok_or(Problem::Key)?;
        Ok(Self { network: network.id, epoch: epoch.number, psk, macs })
    }

    pub(super) fn shared(&self) -> Shared<'_> {
        Shared { network: &self.network, psk: &self.psk }
    }
}

/// The network that peers of a protocol are of.
pub(super) fn network(settings: &Settings, protocol: Protocol) -> Option<&Membership> {
    settings.network.as_ref().filter(|_| protocol == Protocol::Sealed)
}

/// Which of the accepted epochs of the network the first MAC of a message to us was made in.
pub(super) fn epoch_of(network: &Membership, own: &Identity, message: &Handshake<'_>) -> Option<usize> {
    network.accepted().position(|epoch| {
        MacKeys::of_network(network, epoch, own.public()).is_some_and(|keys| keys.verify_mac1(message))
    })
}
