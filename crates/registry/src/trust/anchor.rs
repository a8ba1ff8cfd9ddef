//! What a network's words are measured by.

use std::fmt;

use aws_lc_rs::constant_time;
use zeroize::Zeroizing;

use super::keys::{KEY, NetworkId, hkdf, is_record_key, mac};
use super::{Epoch, TrustError, label};

/// What everything in a network is checked against: known beforehand, never learnt from the registry.
#[derive(Clone)]
pub enum Anchor {
    /// The public key of the network's authority.
    Authority([u8; KEY]),
    /// The secret of a network without authority.
    Shared(Zeroizing<[u8; KEY]>),
}

impl Anchor {
    /// Which network.
    pub fn network_id(&self) -> NetworkId {
        match self {
            Self::Authority(public) => NetworkId::of_authority(public),
            Self::Shared(secret) => NetworkId::cut(&hkdf(&[], secret.as_ref(), label::SHARED_NETWORK)),
        }
    }

    /// Whether members could impersonate each other until they were seen first.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// The one epoch, number 1, of a network without authority. With an authority epochs come by bundles.
    pub fn shared_epoch(&self) -> Option<Epoch> {
        match self {
            Self::Authority(_) => None,
            Self::Shared(secret) => {
                Some(Epoch { number: 1, secret: hkdf(&self.network_id().0, secret.as_ref(), label::SHARED_EPOCH) })
            }
        }
    }

    /// The authority's key.
    pub(super) fn authority(&self) -> Result<&[u8; KEY], TrustError> {
        match self {
            Self::Authority(public) if is_record_key(public) => Ok(public),
            Self::Authority(_) => Err(TrustError::Field("authority")),
            Self::Shared(_) => Err(TrustError::NoAuthority),
        }
    }

    /// The MAC that a node's words carry in a network without authority; none where there is one.
    pub(super) fn tag(&self, label: &[u8], body: &[u8]) -> Option<Zeroizing<[u8; KEY]>> {
        match self {
            Self::Authority(_) => None,
            Self::Shared(secret) => {
                let key = hkdf(&[], secret.as_ref(), label::SHARED_MAC);
                Some(mac(key.as_ref(), &[label, body]))
            }
        }
    }

    /// Compares a MAC in constant time.
    pub(super) fn check_tag(&self, label: &[u8], body: &[u8], tag: &[u8; KEY]) -> Result<(), TrustError> {
        let expected = self.tag(label, body).ok_or(TrustError::Secret)?;
        constant_time::verify_slices_are_equal(expected.as_ref(), tag).map_err(|_| TrustError::Secret)
    }
}

impl fmt::Debug for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_shared() { "Shared" } else { "Authority" };
        write!(f, "{kind}({})", self.network_id())
    }
}
