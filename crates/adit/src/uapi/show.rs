//! The answer to `get`: a device and its `wireguard` peers at one moment, as lines.

use std::fmt::Write;

use zeroize::Zeroizing;

use super::edit;
use crate::{
    config::{Peer, TransportKind, Tunnel},
    request::PeerNow,
};

/// Room for a device's lines, and for a peer's without its prefixes. No growing buffer leaves copies of keys behind.
const ROOM: usize = 512;

/// Room for a prefix's line.
const ROOM_OF_PREFIX: usize = 64;

/// The lines, without the number that ends the answer; `port` is the one that is bound. Peers that are not `wireguard` are passed over.
pub fn show<'a>(
    tunnel: &Tunnel,
    port: u16,
    peers: impl Iterator<Item = (&'a Peer, &'a PeerNow)> + Clone,
) -> Zeroizing<String> {
    let peers = peers.filter(|(peer, _)| peer.transport == TransportKind::WireGuard);
    let room = peers.clone().map(|(peer, _)| ROOM + ROOM_OF_PREFIX * peer.allowed_ips.len()).sum::<usize>();
    let mut text = Zeroizing::new(String::with_capacity(ROOM + room));
    if let Some(key) = edit::private_key(tunnel) {
        line_of_key(&mut text, "private_key", key.as_bytes());
    }
    if port != 0 {
        line(&mut text, format_args!("listen_port={port}"));
    }
    if let Some(mark) = tunnel.transport.fwmark {
        line(&mut text, format_args!("fwmark={mark}"));
    }
    for (peer, now) in peers {
        show_peer(&mut text, peer, now);
    }
    text
}

fn show_peer(text: &mut String, peer: &Peer, now: &PeerNow) {
    let Some(key) = peer.public_key else { return };
    line_of_key(text, "public_key", key.as_bytes());
    line_of_key(text, "preshared_key", peer.preshared_key.as_ref().map_or(&[0; 32], |key| key.as_bytes()));
    line(text, format_args!("protocol_version=1"));
    if let Some(endpoint) = now.endpoint {
        line(text, format_args!("endpoint={endpoint}"));
    }
    let handshake = now.handshake.unwrap_or_default();
    line(text, format_args!("last_handshake_time_sec={}", handshake.as_secs()));
    line(text, format_args!("last_handshake_time_nsec={}", handshake.subsec_nanos()));
    line(text, format_args!("tx_bytes={}", now.sent));
    line(text, format_args!("rx_bytes={}", now.received));
    let keepalive = peer.keepalive.unwrap_or_default().as_secs();
    line(text, format_args!("persistent_keepalive_interval={keepalive}"));
    for net in &peer.allowed_ips {
        line(text, format_args!("allowed_ip={net}"));
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing into memory does not fail.
    let _ = text.write_fmt(content);
    text.push('\n');
}

fn line_of_key(text: &mut String, name: &str, key: &[u8; 32]) {
    text.push_str(name);
    text.push('=');
    for digit in key.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        text.extend(char::from_digit(digit.into(), 16));
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::uapi::edit::tests::{key, peer, tunnel};

    #[test]
    fn nothing_is_shown_as_nothing() {
        assert_eq!(show(&tunnel(), 0, std::iter::empty()).as_str(), "");
        assert_eq!(show(&tunnel(), 51820, std::iter::empty()).as_str(), "listen_port=51820\n");
    }

    #[test]
    fn a_device_in_full() {
        let mut tunnel = tunnel();
        tunnel.device.private_key = Some(key(0x40));
        tunnel.transport.fwmark = std::num::NonZero::new(0xca6c);
        let mut full = peer(7, &["10.1.0.0/16", "fd00::1/128"]);
        full.preshared_key = Some(crate::key::PresharedKey::from_bytes(Zeroizing::new([0xab; 32])).unwrap());
        full.keepalive = Some(Duration::from_secs(25));
        let now = PeerNow {
            endpoint: Some("[2001:db8::2]:51820".parse().unwrap()),
            handshake: Some(Duration::new(1_700_000_000, 12)),
            received: u64::MAX,
            sent: 148,
        };
        let mut sealed = peer(9, &["10.9.0.0/16"]);
        sealed.transport = TransportKind::Plain;
        let peers = [(&full, &now), (&sealed, &now), (&peer(8, &[]), &PeerNow::default())];
        let text = show(&tunnel, 7777, peers.into_iter());
        let expected = format!(
            "private_key={}\nlisten_port=7777\nfwmark=51820\npublic_key={}\npreshared_key={}\nprotocol_version=1\n\
             endpoint=[2001:db8::2]:51820\nlast_handshake_time_sec=1700000000\nlast_handshake_time_nsec=12\ntx_bytes=148\n\
             rx_bytes=18446744073709551615\npersistent_keepalive_interval=25\nallowed_ip=10.1.0.0/16\nallowed_ip=fd00::1/128\n\
             public_key={}\npreshared_key={}\nprotocol_version=1\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\n\
             tx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\n",
            "40".repeat(32),
            "07".repeat(32),
            "ab".repeat(32),
            "08".repeat(32),
            "00".repeat(32),
        );
        assert_eq!(text.as_str(), expected);
    }

    #[test]
    fn the_longest_lines_fit_into_the_room() {
        let mut tunnel = tunnel();
        tunnel.device.private_key = Some(key(0x40));
        tunnel.transport.fwmark = std::num::NonZero::new(u32::MAX);
        let nets = (0..100).map(|n| format!("aaaa:bbbb:cccc:dddd:eeee:ffff:aaaa:{n:x}{n:x}{n:x}{n:x}/128"));
        let nets: Vec<_> = nets.filter(|net| net.parse::<ipnet::IpNet>().is_ok()).collect();
        let mut longest = peer(7, &nets.iter().map(String::as_str).collect::<Vec<_>>());
        longest.keepalive = Some(Duration::from_secs(65535));
        let now = PeerNow {
            endpoint: Some("[fe80:bbbb:cccc:dddd:eeee:ffff:aaaa:bbbb%4294967295]:65535".parse().unwrap()),
            handshake: Some(Duration::MAX),
            received: u64::MAX,
            sent: u64::MAX,
        };
        let peers: Vec<_> = (0..50).map(|_| (&longest, &now)).collect();
        let room = ROOM + 50 * (ROOM + nets.len() * ROOM_OF_PREFIX);
        let text = show(&tunnel, 65535, peers.into_iter());
        assert!(text.len() <= room && text.capacity() == room, "{} of {room}", text.len());
    }

    #[test]
    fn beside_sealed_peers_their_key_is_not_shown() {
        let mut tunnel = tunnel();
        tunnel.device.private_key = Some(key(0x40));
        let mut sealed = peer(9, &[]);
        sealed.transport = TransportKind::Sealed;
        tunnel.peers.push(sealed);
        assert_eq!(show(&tunnel, 0, std::iter::empty()).as_str(), "");
        tunnel.device.wireguard_private_key = Some(key(0x48));
        assert_eq!(show(&tunnel, 0, std::iter::empty()).as_str(), format!("private_key={}\n", "48".repeat(32)));
    }
}
