//! The names that a configuration gives: of the device, and of peers.

use std::collections::HashSet;

use super::resolved::Peer;

/// Letters of a public key by which people tell peers without a name apart.
const KEY_LETTERS: usize = 8;

/// The longest name of a network device, in bytes (`IFNAMSIZ` of linux/if.h, less its zero byte).
const DEVICE_NAME: usize = 15;

/// The longest name of a peer, in bytes (a DNS label, RFC 1035, section 2.3.4).
const PEER_NAME: usize = 63;

/// The longest domain of nodes, in bytes: a name has room for two labels before it (RFC 1035, section 2.3.4).
const DOMAIN: usize = 253 - 2 * (PEER_NAME + 1);

/// Why a text cannot name a device, peer or domain, as the end of a sentence that began with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("is not a device name: it must have 1 to 15 bytes")]
    DeviceLength,
    #[error("is not a device name: use letters, digits, '-', '_' and '.' only")]
    DeviceCharacter,
    #[error("is not a device name: the kernel keeps this one for itself")]
    DeviceReserved,
    #[error("is not a device name: \".status\" at its end would clash with the status socket of another device")]
    DeviceStatus,
    #[error("is not a peer name: it must have 1 to 63 letters, digits, '-', '_' or '.'")]
    Peer,
    #[error(
        "is not a domain: write labels of letters, digits and '-' with dots between them, 125 bytes at most, such as \"adit\"; or \"\" for \
         no names"
    )]
    Domain,
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Whether the kernel takes this name for a device (`dev_valid_name` of net/core/dev.c, and stricter), and we for files.
pub(crate) fn check_device(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > DEVICE_NAME {
        Err(NameError::DeviceLength)
    } else if !is_plain(name) {
        // The kernel refuses '/', ':' and white space, and reads '%d' as a number to fill in; the rest would only confuse.
        Err(NameError::DeviceCharacter)
    } else if matches!(name, "." | ".." | "lo" | "all" | "default") {
        // /proc/sys/net/ipv4/conf has its own entries "all" and "default".
        Err(NameError::DeviceReserved)
    } else if name.ends_with(".status") {
        Err(NameError::DeviceStatus)
    } else {
        Ok(())
    }
}

/// Names peers that have no name after their public keys: by the first letters, or by all of them where others begin alike.
pub(super) fn name_by_keys(peers: &mut [Peer]) {
    let mut taken: HashSet<String> = peers.iter().map(|peer| peer.name.to_ascii_lowercase()).collect();
    for peer in peers.iter_mut().filter(|peer| peer.name.is_empty()) {
        let Some(key) = &peer.public_key else { continue };
        // The letters of base64 for file names (RFC 4648, section 5): all of them may stand in a name.
        let letters = key.to_string().replace('+', "-").replace('/', "_").replace('=', "");
        let short: String = letters.chars().take(KEY_LETTERS).collect();
        peer.name = if taken.insert(short.to_ascii_lowercase()) { short } else { letters };
    }
}

/// Whether a peer may have this name.
pub(crate) fn check_peer(name: &str) -> Result<(), NameError> {
    if (1..=PEER_NAME).contains(&name.len()) && is_plain(name) { Ok(()) } else { Err(NameError::Peer) }
}

/// The domain of nodes and containers, in small letters; none for an empty text, and for `off`.
pub(crate) fn domain(text: &str) -> Result<Option<String>, NameError> {
    let domain = text.to_ascii_lowercase();
    if matches!(domain.as_str(), "" | "off") {
        return Ok(None);
    }
    let is_label = |label: &str| {
        (1..=PEER_NAME).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_sound = domain.len() <= DOMAIN && domain.split('.').all(is_label);
    if is_sound { Ok(Some(domain)) } else { Err(NameError::Domain) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::TransportKind, key::PublicKey};

    #[test]
    fn device_names() {
        for good in ["adit0", "a", "adit-berlin_1.5", "123456789012345", "..."] {
            assert_eq!(check_device(good), Ok(()), "{good}");
        }
        for (bad, error) in [
            ("", NameError::DeviceLength),
            ("1234567890123456", NameError::DeviceLength),
            ("a/b", NameError::DeviceCharacter),
            ("a b", NameError::DeviceCharacter),
            ("a\0b", NameError::DeviceCharacter),
            ("a:1", NameError::DeviceCharacter),
            ("adit%d", NameError::DeviceCharacter),
            ("ädit", NameError::DeviceCharacter),
            (".", NameError::DeviceReserved),
            ("..", NameError::DeviceReserved),
            ("all", NameError::DeviceReserved),
            ("adit0.status", NameError::DeviceStatus),
        ] {
            assert_eq!(check_device(bad), Err(error), "{bad}");
        }
    }

    #[test]
    fn domains() {
        for (text, expected) in [
            ("adit", Some("adit")),
            ("Adit.Example-1.ORG", Some("adit.example-1.org")),
            ("", None),
            ("off", None),
            ("officers", Some("officers")),
        ] {
            assert_eq!(domain(text), Ok(expected.map(str::to_owned)), "{text}");
        }
        let long = ["a"; 63].join(".");
        assert_eq!(domain(&long), Ok(Some(long.clone())));
        for bad in [".", "a.", ".a", "a..b", "-a", "a-", "a_b", "a b", "ö", &"a".repeat(64), &(long + ".a")] {
            assert_eq!(domain(bad), Err(NameError::Domain), "{bad}");
        }
    }

    #[test]
    fn a_key_is_a_name() {
        let peer = |name: &str, key: [u8; 32]| Peer {
            name: name.into(),
            public_key: Some(PublicKey::from_bytes(key)),
            endpoint: None,
            origin: crate::config::Origin::File,
            allowed_ips: Vec::new(),
            transport: TransportKind::WireGuard,
            preshared_key: None,
            keepalive: None,
            macs: Vec::new(),
        };
        let mut almost = [0xff; 32];
        almost[31] = 0;
        let mut peers = [peer("", [0xff; 32]), peer("", almost), peer("oslo", [1; 32]), peer("", [0xfb; 32])];
        name_by_keys(&mut peers);
        let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["________", "_________________________________________wA", "oslo", "-_v7-_v7"]);
        for name in names {
            assert_eq!(check_peer(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn peer_names() {
        for good in ["berlin", "a", "db-1.example_2", &"x".repeat(63)] {
            assert_eq!(check_peer(good), Ok(()), "{good}");
        }
        for bad in ["", "ber lin", "b\n", "bérlin", &"x".repeat(64)] {
            assert_eq!(check_peer(bad), Err(NameError::Peer), "{bad}");
        }
    }
}
