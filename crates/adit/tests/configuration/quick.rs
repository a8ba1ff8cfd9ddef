//! wg-quick files: every way to get one wrong, and what a right one means.

use std::{
    collections::HashMap, fs, net::IpAddr, num::NonZero, os::unix::fs::PermissionsExt, path::Path, time::Duration,
};

use adit::config::{self, Host, Mtu, Peer, Table, TransportKind, Tunnel, Workers};
use adit::key::PublicKey;
use ipnet::IpNet;
use proptest::prelude::*;

use crate::{OUR_KEY, PRESHARED_KEY, PRIVATE_KEY, texts::BOB};

/// Alice's public key, of RFC 7748, section 6.1.
const ALICE: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

/// A file in which everything is said, in lines that the table of faults counts on.
const WHOLE: &str = "\
[Interface]
PrivateKey = pUbjasNn+PL/B2DL6iyxPr5sjhZG8w3xh0mBEcCxLNI=
Address = 10.0.0.2/24, fd00::2/64
DNS = 10.0.0.53, example.org
MTU = 1400
ListenPort = 51820
FwMark = 0xca6c
Table = 1234
[Peer]
PublicKey = hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=
PresharedKey = q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=
AllowedIPs = 10.0.0.1/32, 10.1.0.0/16
Endpoint = 192.0.2.1:51820
PersistentKeepalive = 25
";

fn parse(text: &str) -> Result<Tunnel, config::Error> {
    config::parse(Path::new("/etc/wireguard/wg0.conf"), text.to_owned())
}

fn accept(text: &str) -> Tunnel {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// `WHOLE` with one line in place of that which begins like it.
fn line(new: &str) -> String {
    let (key, _) = new.split_once(" = ").unwrap();
    replaced(key, new)
}

/// `WHOLE` with another line in place of the one that begins with `start`.
fn replaced(start: &str, new: &str) -> String {
    assert_eq!(WHOLE.lines().filter(|line| line.starts_with(start)).count(), 1, "{start}");
    WHOLE.lines().map(|line| if line.starts_with(start) { new } else { line }.to_owned() + "\n").collect()
}

/// `WHOLE` with a line more under `[Interface]`, as line 2.
fn interface(line: &str) -> String {
    WHOLE.replacen("[Interface]", &format!("[Interface]\n{line}"), 1)
}

/// `WHOLE` with a line more at its end, as line 15.
fn peer(line: &str) -> String {
    format!("{WHOLE}{line}\n")
}

/// The file, the line that must be named (0: none), and what the sentence must contain.
fn cases() -> Vec<(String, usize, &'static [&'static str])> {
    let whole = WHOLE.to_owned();
    vec![
        // Lines and sections
        (
            whole.replace("[Interface]", "PrivateKey = x\n[Interface]"),
            1,
            &["before the first section", "[Interface] above"],
        ),
        ("PrivateKey = x\n".into(), 1, &["before the first section", "[Interface] above"]),
        (whole.replace("[Interface]", "[Interface"), 1, &["\"[Interface\" is not a section"]),
        (whole.replace("[Peer]", "[Peer"), 9, &["\"[Peer\" is not a section", "[Interface] or [Peer]"]),
        (whole.replace("[Peer]", "[Peers]"), 9, &["unknown section \"[Peers]\"", "did you mean [Peer]?"]),
        (whole.replace("[Peer]", "[[Peer]]"), 9, &["unknown section", "[Peer]"]),
        (whole.replace("[Peer]", "[WireGuard]"), 9, &["unknown section", "[Interface] and [Peer] only"]),
        (whole.replace("[Peer]", "[]"), 9, &["unknown section"]),
        (whole[whole.find("[Peer]").unwrap()..].into(), 0, &["there is no [Interface]", "PrivateKey ="]),
        (interface("MTU 1400"), 2, &["no '=' after MTU", "MTU = VALUE"]),
        (interface("MTU: 1400"), 2, &["not of the form KEY = VALUE"]),
        (interface("= 1400"), 2, &["no key before the '='"]),
        (interface("hello"), 2, &["unknown key \"hello\"", "KEY = VALUE"]),
        (interface("; a comment"), 2, &["not of the form KEY = VALUE"]),
        (interface("Mtuu = 1400"), 2, &["unknown key \"Mtuu\" in [Interface]", "did you mean \"MTU\"?"]),
        (interface("Adress = 10.0.0.3/24"), 2, &["unknown key \"Adress\"", "\"Address\"?"]),
        (interface("Addresses = 10.0.0.3/24"), 2, &["unknown key \"Addresses\"", "\"Address\"?"]),
        (interface("Jc = 4"), 2, &["unknown key \"Jc\"", "known here: PrivateKey,"]),
        (interface("AllowedIPs = 10.0.0.0/8"), 2, &["AllowedIPs has no meaning in [Interface]", "belongs in [Peer]"]),
        (peer("Address = 10.0.0.3/24"), 15, &["Address has no meaning in [Peer]", "belongs in [Interface]"]),
        (peer("allowed-ips = 10.0.0.0/8"), 15, &["unknown key \"allowed-ips\" in [Peer]", "\"AllowedIPs\"?"]),
        (peer("KeepAlive = 25"), 15, &["unknown key \"KeepAlive\"", "known here: PublicKey,"]),
        // Keys
        (replaced("PrivateKey", ""), 1, &["no PrivateKey", "wg genkey"]),
        (line("PrivateKey = "), 2, &["not a private key", "44 characters", "wg genkey"]),
        (line("PrivateKey = /etc/wireguard/private.key"), 2, &["not a private key"]),
        (line("PrivateKey = pUbjasNn+PL/B2DL6iyxPr5sjhZG8w3xh0mBEcCxLNI"), 2, &["not a private key"]),
        (line("PrivateKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), 2, &["not a private key"]),
        (
            replaced("PrivateKey", "PrivateKey pUbjasNn+PL/B2DL6iyxPr5sjhZG8w3xh0mBEcCxLNI="),
            2,
            &["no '=' after PrivateKey"],
        ),
        (replaced("PrivateKey", "pUbjasNn+PL/B2DL6iyxPr5sjhZG8w3xh0mBEcCxLNI="), 2, &["not of the form KEY = VALUE"]),
        (replaced("PublicKey", ""), 9, &["this peer has no PublicKey", "wg pubkey"]),
        (line("PublicKey = berlin"), 10, &["not a public key", "wg pubkey"]),
        (line("PublicKey = hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmp="), 10, &["not a public key"]),
        (line("PublicKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), 10, &["not a public key"]),
        (line("PresharedKey = (none)"), 11, &["not a preshared key", "wg genpsk", "both ends"]),
        (line("PresharedKey = pUbjasNn+PL/B2DL6iyxPr5sjhZG8w3xh0mBEcCxLNI="), 11, &["our private key", "wg genpsk"]),
        // Device
        (line("Address = "), 3, &["Address is empty", "10.0.0.2/24"]),
        (line("Address = ,"), 3, &["nothing between the commas"]),
        (line("Address = 10.0.0.2/24, 10.0.0.300/24"), 3, &["\"10.0.0.300/24\" is not a prefix"]),
        (line("Address = 10.0.0.2/33"), 3, &["beyond 32"]),
        (line("Address = 10.0.0.2/255.255.255.0"), 3, &["is not a prefix", "a length"]),
        (line("Address = fd00::2/129"), 3, &["beyond 128"]),
        (line("Address = 0.0.0.0/0"), 3, &["unspecified"]),
        (line("Address = 127.0.0.1/8"), 3, &["loopback"]),
        (line("Address = 224.0.0.1/24"), 3, &["multicast"]),
        (line("Address = 10.0.0.2/24, 10.0.0.2/32"), 3, &["has already"]),
        (interface("Address = 10.0.0.2"), 4, &["has already"]),
        (line("Address = dhcp"), 3, &["\"dhcp\" is not a prefix"]),
        (line("DNS = "), 4, &["DNS is empty"]),
        (line("DNS = 10.0.0.353"), 4, &["\"10.0.0.353\" is not the address of a DNS server", "10.0.0.53"]),
        (line("DNS = 10.0.0.53:53"), 4, &["not the address of a DNS server"]),
        (line("DNS = https://dns.example/"), 4, &["not the address of a DNS server"]),
        (line("DNS = 10.0.0.53, exa$mple"), 4, &["\"exa$mple\" is neither", "domain"]),
        (line("DNS = 0.0.0.0"), 4, &["can be no DNS server"]),
        (line("MTU = auto"), 5, &["\"auto\" is not an MTU", "remove the line"]),
        (line("MTU = 1279"), 5, &["too small", "IPv6 needs 1280", "remove the line"]),
        (line("MTU = 65476"), 5, &["too large", "65475"]),
        (line("MTU = 99999999999999999999"), 5, &["is not an MTU"]),
        (line("MTU = -1"), 5, &["is not an MTU"]),
        (line("ListenPort = 65536"), 6, &["is not a UDP port", "1 to 65535"]),
        (line("ListenPort = [::]:51820"), 6, &["is not a UDP port"]),
        (line("ListenPort = "), 6, &["nothing is not a UDP port"]),
        (line("FwMark = on"), 7, &["\"on\" is not a mark", "or off"]),
        (line("FwMark = 0x1ffffffff"), 7, &["is not a mark", "0xffffffff"]),
        (line("FwMark = 1/0xff"), 7, &["is not a mark"]),
        (line("Table = vpn"), 8, &["\"vpn\" is not a routing table", "its number"]),
        (line("Table = 0"), 8, &["kernel keeps"]),
        (line("Table = local"), 8, &["kernel keeps"]),
        // What we do not do
        (interface("PreUp = true"), 2, &["PreUp is a command", "remove the line", "ExecStartPre="]),
        (interface("PostUp = iptables -A FORWARD -i %i -j ACCEPT"), 2, &["PostUp is a command", "ExecStartPost="]),
        (interface("PreDown = true"), 2, &["PreDown is a command", "ExecStop="]),
        (interface("PostDown ="), 2, &["PostDown is a command", "ExecStopPost="]),
        (interface("SaveConfig = true"), 2, &["SaveConfig", "never writes", "write false", "wg showconf"]),
        (interface("SaveConfig = yes"), 2, &["\"yes\" is neither true nor false"]),
        // Peers
        (line("AllowedIPs = 10.0.0.1/33"), 12, &["\"10.0.0.1/33\"", "beyond 32"]),
        (line("AllowedIPs = 10.1/16"), 12, &["\"10.1/16\" is not a prefix", "10.42.7.0/24"]),
        (line("AllowedIPs = 10.0.0.0/8 10.1.0.0/16"), 12, &["not one prefix", "write a comma"]),
        (line("AllowedIPs = 10.0.0.0/8, any"), 12, &["\"any\" is not a prefix"]),
        (line("AllowedIPs = 0.0.0.0"), 12, &["unspecified", "0.0.0.0/0"]),
        (line("AllowedIPs = 127.0.0.0/8"), 12, &["loopback"]),
        (line("AllowedIPs = ::ffff:10.0.0.0/104"), 12, &["IPv4-mapped", "write it as IPv4"]),
        (line("AllowedIPs = ,,"), 12, &["nothing between the commas"]),
        (line("Endpoint = 192.0.2.1"), 13, &["has no port"]),
        (line("Endpoint = 192.0.2.1:0"), 13, &["needs a port"]),
        (line("Endpoint = 192.0.2.1:http"), 13, &["needs a port"]),
        (line("Endpoint = 2001:db8::1:51820"), 13, &["without brackets", "[address]:port"]),
        (line("Endpoint = [fe80::1%eth0]:51820"), 13, &["no valid address"]),
        (line("Endpoint = 0.0.0.0:51820"), 13, &["unspecified"]),
        (line("Endpoint = berlin_!:51820"), 13, &["no valid host name"]),
        (line("Endpoint = "), 13, &["nothing has no port"]),
        (line("PersistentKeepalive = 25s"), 14, &["\"25s\" is not a keepalive", "or off"]),
        (line("PersistentKeepalive = 65536"), 14, &["is not a keepalive", "65535"]),
        (line("PersistentKeepalive = on"), 14, &["is not a keepalive"]),
        (line("PersistentKeepalive = -1"), 14, &["is not a keepalive"]),
    ]
}

#[test]
fn every_fault_is_one_line_with_its_place_and_remedy() {
    assert!(cases().len() >= 50);
    for (text, line, phrases) in cases() {
        let Err(error) = parse(&text) else { panic!("accepted\n{text}") };
        let shown = error.to_string();
        assert_eq!(error.position().map_or(0, |at| at.line), line, "{shown}\n{text}");
        assert!(!shown.contains('\n') && shown.starts_with("/etc/wireguard/wg0.conf:"), "{shown}");
        for phrase in phrases {
            assert!(shown.contains(phrase), "{shown:?} does not say {phrase:?}");
        }
        for secret in [OUR_KEY, PRESHARED_KEY] {
            assert!(!shown.contains(&secret[..12]), "{shown}");
        }
        assert_eq!(adit::Failure::from(error).exit_code(), 2);
    }
}

#[test]
fn a_fault_is_shown_where_it_stands() {
    for (text, column) in [
        (line("Address = 10.0.0.2/24, 10.0.0.300/24"), 24),
        (replaced("Address", "  Address  =\t 10.0.0.2/24\u{a0}fd00::2/64 ,x # y"), 39),
        (line("AllowedIPs = 10.0.0.1/32,10.1/16"), 26),
        (replaced("MTU", " mtu = none # 1400"), 8),
        (interface("\u{a0}ü = 1"), 2),
    ] {
        let error = parse(&text).err().unwrap();
        assert_eq!(error.position().unwrap().column, column, "{error}");
    }
}

#[test]
fn a_whole_file_means_what_it_says() {
    let tunnel = accept(WHOLE);
    assert_eq!(tunnel.device.name, "wg0");
    assert_eq!(tunnel.device.addresses, nets(&["10.0.0.2/24", "fd00::2/64"]));
    assert_eq!(tunnel.device.mtu, Mtu::Fixed(1400));
    assert_eq!(tunnel.device.dns.servers, ["10.0.0.53".parse::<IpAddr>().unwrap()]);
    assert_eq!(tunnel.device.dns.domains, ["example.org"]);
    assert_eq!(tunnel.device.table, Table::Number(NonZero::new(1234).unwrap()));
    let mut private = Vec::new();
    tunnel.device.private_key.unwrap().write(&mut private).unwrap();
    assert_eq!(String::from_utf8(private).unwrap(), OUR_KEY);
    assert!(tunnel.device.wireguard_private_key.is_none());
    assert_eq!(tunnel.transport.listen, "[::]:51820".parse().unwrap());
    assert_eq!(tunnel.transport.fwmark, NonZero::new(0xca6c));
    assert!(tunnel.transport.listen_is_default && tunnel.transport.offload);
    assert_eq!((tunnel.transport.workers, tunnel.transport.busy_poll), (Workers::Auto, Duration::ZERO));
    let [peer] = &tunnel.peers[..] else { panic!("one peer") };
    assert_eq!((peer.name.as_str(), peer.transport), ("hSDwCYkw", TransportKind::WireGuard));
    assert_eq!(peer.public_key.unwrap().to_string(), ALICE);
    assert_eq!(peer.preshared_key.as_ref().unwrap().as_bytes(), &[0xab; 32]);
    assert_eq!(peer.allowed_ips, nets(&["10.0.0.1/32", "10.1.0.0/16"]));
    assert_eq!(peer.endpoint.as_ref().unwrap().address(), Some("192.0.2.1:51820".parse().unwrap()));
    assert_eq!(peer.keepalive, Some(Duration::from_secs(25)));
}

#[test]
fn what_is_left_out_is_as_in_wireguard() {
    let tunnel = accept(&format!("[Interface]\nPrivateKey = {OUR_KEY}"));
    assert!(tunnel.device.addresses.is_empty() && tunnel.peers.is_empty() && tunnel.device.dns.servers.is_empty());
    assert_eq!((tunnel.device.mtu, tunnel.device.table), (Mtu::AsWireGuard, Table::Auto));
    assert_eq!((tunnel.transport.listen, tunnel.transport.fwmark), ("[::]:0".parse().unwrap(), None));
    let tunnel = accept(&format!("[Interface]\nPrivateKey = {OUR_KEY}[Peer]\nPublicKey = {ALICE}\nAllowedIPs =\n"));
    let [peer] = &tunnel.peers[..] else { panic!("one peer") };
    assert_eq!((&peer.endpoint, peer.keepalive, &peer.preshared_key), (&None, None, &None));
    assert!(peer.allowed_ips.is_empty());
}

#[test]
fn what_wg_and_wg_quick_take_is_taken() {
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for text in [
        WHOLE.replace('\n', "\r\n"),
        WHOLE.replace(" = ", "="),
        WHOLE.replace(" = ", " \t=  ").replace('\n', "  # comment = [Peer]\n"),
        WHOLE
            .to_ascii_uppercase()
            .replace(&ALICE.to_ascii_uppercase(), ALICE)
            .replace("0XCA6C", "0xca6c")
            .replace(&OUR_KEY.to_ascii_uppercase(), OUR_KEY)
            .replace(&PRESHARED_KEY.to_ascii_uppercase(), PRESHARED_KEY),
        WHOLE.trim_end().to_owned(),
        format!("\u{feff}# mine\n\n{WHOLE}"),
        WHOLE.replace("10.0.0.2/24, fd00", "10.0.0.2/24 fd00"),
        WHOLE.replace("10.0.0.2/24, fd00::2/64", "10.0.0.2/24\nADDRESS = fd00::2/64"),
        WHOLE.replace("10.0.0.1/32, 10.1.0.0/16", "10.0.0.1,10.1.2.3 / 16,\nAllowedIPs="),
        WHOLE.replace("10.0.0.1/32, 10.1.0.0/16", "10.0.0.1/32\nAllowedIPs = 10.1.0.0/16"),
        WHOLE.replace("0xca6c", "51820"),
        WHOLE.replace("192.0.2.1:51820", "[::ffff:192.0.2.1]:51820"),
        interface("SaveConfig = false"),
        interface("SaveConfig = False"),
        // The last of several counts.
        interface("MTU = 1280\nTable = off\nFwMark = off\nListenPort = 1"),
        interface(&format!("PrivateKey = {PRIVATE_KEY}")),
        // Sections in pieces.
        WHOLE.replace("[Interface]", "[Interface]\nMTU = 1280\n[Interface]"),
        format!("{}{}", &WHOLE[WHOLE.find("[Peer]").unwrap()..], &WHOLE[..WHOLE.find("[Peer]").unwrap()]),
        peer(&format!("[Peer]\nPublicKey = {ALICE}\nAllowedIPs = 10.0.0.1, 10.1.0.0/16")),
    ] {
        let (tunnel, whole) = (accept(&text), accept(WHOLE));
        assert_eq!(tunnel.peers, whole.peers, "{text}");
        assert_eq!(tunnel.transport, whole.transport, "{text}");
        let public = |tunnel: &Tunnel| tunnel.device.private_key.as_ref().unwrap().public_key();
        assert_eq!(public(&tunnel), public(&whole), "{text}");
        let device = |tunnel: &Tunnel| {
            let device = &tunnel.device;
            (device.addresses.clone(), device.mtu, device.table, device.dns.clone())
        };
        assert_eq!(device(&tunnel), device(&whole), "{text}");
    }
    assert!(accept(&line(&format!("PresharedKey = {zeros}"))).peers[0].preshared_key.is_none());
    for off in ["off", "Off", "0"] {
        assert_eq!(accept(&line(&format!("PersistentKeepalive = {off}"))).peers[0].keepalive, None);
    }
    assert_eq!(accept(&line("Address = 10.0.0.0/24 fd00::2")).device.addresses, nets(&["10.0.0.0/24", "fd00::2/128"]));
    let special = nets(&["0.0.0.0/0", "::/0", "0.0.0.0/1", "224.0.0.0/4", "ff02::/16", "10.0.0.2/32"]);
    let texts: Vec<String> = special.iter().map(IpNet::to_string).collect();
    assert_eq!(accept(&line(&format!("AllowedIPs = {}", texts.join(",")))).peers[0].allowed_ips, special);
    let host = accept(&line("Endpoint = Berlin.example.org : 51820")).peers.remove(0).endpoint.unwrap().host;
    assert_eq!(host, Host::Name("berlin.example.org".into()));
    let domains_alone = accept(&line("DNS = example.org, ~."));
    assert!(domains_alone.device.dns.domains.is_empty(), "wg-quick does nothing without a server");
}

#[test]
fn a_prefix_is_its_last_ones() {
    let text = format!(
        "{WHOLE}[Peer]\nPublicKey = {BOB}\nAllowedIPs = 10.1.0.9/16, 10.2.0.0/16, 10.2.0.1/16\nEndpoint = 192.0.2.1:51820\n"
    );
    let peers = accept(&text).peers;
    assert_eq!(peers[0].allowed_ips, nets(&["10.0.0.1/32"]));
    assert_eq!(peers[1].allowed_ips, nets(&["10.1.0.0/16", "10.2.0.0/16"]));
    // The first peer once more: what it says now counts, and what it does not say stays, but for its prefixes.
    let peers =
        accept(&format!("{text}[Peer]\nPublicKey = {ALICE}\nAllowedIPs = 10.2.0.0/16\nPersistentKeepalive = off\n"))
            .peers;
    assert_eq!(peers.len(), 2);
    assert_eq!(peers[0].allowed_ips, nets(&["10.2.0.0/16"]));
    assert_eq!(peers[1].allowed_ips, nets(&["10.1.0.0/16"]));
    assert!(peers[0].keepalive.is_none() && peers[0].preshared_key.is_some() && peers[0].endpoint.is_some());
}

#[test]
fn ourselves_among_the_peers_are_left_out() {
    let text = line(&format!("PrivateKey = {}", PRIVATE_KEY.trim()));
    assert!(accept(&text).peers.is_empty());
    let other = accept(&format!("{text}[Peer]\nPublicKey = {BOB}\n")).peers;
    assert_eq!(other.len(), 1);
    assert_eq!(other[0].public_key.unwrap().to_string(), BOB);
}

#[test]
fn the_content_tells_the_kind_and_the_name_the_device() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("berlin.toml");
    fs::write(&path, WHOLE).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    // Open to others: wg-quick warns, and so do we.
    assert_eq!(config::load(&path).unwrap().device.name, "berlin");
    assert_eq!(config::device_name(&path).unwrap(), "berlin");
    fs::write(&path, WHOLE.replace("MTU = 1400", "MTU = x")).unwrap();
    assert!(config::load(&path).is_err());
    assert_eq!(config::device_name(&path).unwrap(), "berlin", "a faulty file has its name all the same");
    let path = directory.path().join("a name that is too long.conf");
    fs::write(&path, WHOLE).unwrap();
    let error = config::load(&path).err().unwrap();
    assert!(error.sentence().contains("named after its device") && error.sentence().contains("wg0.conf"), "{error}");
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// What a generated peer says.
#[derive(Debug, Clone)]
struct Said {
    key: [u8; 32],
    prefixes: Vec<IpNet>,
    endpoint: Option<(IpAddr, u16)>,
    keepalive: Option<u16>,
    preshared: Option<[u8; 32]>,
}

fn base64(bytes: &[u8; 32]) -> String {
    PublicKey::from_bytes(*bytes).to_string()
}

fn prefix() -> impl Strategy<Value = IpNet> {
    let four = (any::<u32>(), 0..=32_u8)
        .prop_map(|(bits, length)| IpNet::new(IpAddr::from(bits.to_be_bytes()), length).unwrap());
    let six = (any::<u128>(), 0..=128_u8)
        .prop_map(|(bits, length)| IpNet::new(IpAddr::from(bits.to_be_bytes()), length).unwrap());
    // What is loopback, unspecified or IPv4-mapped is in the table of faults.
    prop_oneof![four, six].prop_filter("odd", |net| {
        let start = net.trunc().addr();
        !start.is_loopback()
            && (!start.is_unspecified() || net.prefix_len() < net.max_prefix_len())
            && start.to_canonical() == start
            && net.addr().to_canonical() == net.addr()
    })
}

fn said() -> impl Strategy<Value = Said> {
    let address = prop_oneof![
        (1..=223_u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d])),
        any::<u64>().prop_map(|low| IpAddr::from(((0x2001_0db8_u128 << 96) | u128::from(low)).to_be_bytes())),
    ];
    (
        any::<[u8; 32]>(),
        prop::collection::vec(prefix(), 0..5),
        prop::option::of((address, 1_u16..)),
        prop::option::of(any::<u16>()),
        prop::option::of(any::<[u8; 32]>()),
    )
        .prop_map(|(key, prefixes, endpoint, keepalive, preshared)| Said {
            key,
            prefixes,
            endpoint,
            keepalive,
            preshared,
        })
}

/// A line in one of the shapes that people write.
fn shaped(key: &str, value: &str, shape: u8) -> String {
    match shape % 4 {
        0 => format!("{key} = {value}\n"),
        1 => format!("{}={value}# {key} = 7\n\n", key.to_lowercase()),
        2 => format!("\t{}  =\t{value}\r\n", key.to_uppercase()),
        _ => format!("# [Peer]\n{key}= {value} \n"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_sound_file_is_read_back(
        peers in prop::collection::vec(said(), 0..6),
        shapes in any::<[u8; 8]>(),
        port: u16,
        mark: u32,
        mtu in prop::option::of(1280..=65475_u16),
    ) {
        let [a, b, c, d, e, f, g, h] = shapes;
        let mut text = shaped("[Interface]", "", 0).replace(" = ", "") + &shaped("PrivateKey", OUR_KEY.trim(), a);
        text += &shaped("ListenPort", &port.to_string(), b);
        text += &shaped("FwMark", &if c % 2 == 0 { format!("{mark:#x}") } else { mark.to_string() }, c);
        if let Some(mtu) = mtu {
            text += &shaped("MTU", &mtu.to_string(), d);
        }
        let mut expected: Vec<Peer> = Vec::new();
        for said in &peers {
            text += "[Peer]\n";
            text += &shaped("PublicKey", &base64(&said.key), e);
            let list: Vec<String> = said.prefixes.iter().map(IpNet::to_string).collect();
            if f % 2 == 0 {
                text += &shaped("AllowedIPs", &list.join(if f % 4 == 0 { "," } else { " , " }), f);
            } else {
                text.extend(list.iter().map(|prefix| shaped("AllowedIPs", prefix, f)));
            }
            let endpoint = said.endpoint.map(|(ip, port)| std::net::SocketAddr::new(ip, port).to_string());
            if let Some(endpoint) = &endpoint {
                text += &shaped("Endpoint", endpoint, g);
            }
            if let Some(keepalive) = said.keepalive {
                text += &shaped("PersistentKeepalive", &keepalive.to_string(), h);
            }
            if let Some(preshared) = &said.preshared {
                text += &shaped("PresharedKey", &base64(preshared), h);
            }
            let mut allowed_ips: Vec<IpNet> = Vec::new();
            for net in said.prefixes.iter().map(IpNet::trunc) {
                expected.iter_mut().for_each(|other| other.allowed_ips.retain(|owned| *owned != net));
                if !allowed_ips.contains(&net) {
                    allowed_ips.push(net);
                }
            }
            expected.push(Peer {
                origin: adit::config::Origin::File,
                name: base64(&said.key).replace('+', "-").replace('/', "_")[..8].to_owned(),
                public_key: Some(PublicKey::from_bytes(said.key)),
                endpoint: endpoint.map(|endpoint| endpoint.parse().unwrap()),
                allowed_ips,
                transport: TransportKind::WireGuard,
                preshared_key: None,
                keepalive: said.keepalive.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into())),
                macs: Vec::new(),
            });
        }
        let tunnel = match parse(&text) {
            Ok(tunnel) => tunnel,
            Err(error) => return Err(TestCaseError::fail(format!("{error}\n{text}"))),
        };
        prop_assert_eq!(tunnel.transport.listen.port(), port);
        prop_assert_eq!(tunnel.transport.fwmark, NonZero::new(mark));
        prop_assert_eq!(tunnel.device.mtu, mtu.map_or(Mtu::AsWireGuard, Mtu::Fixed));
        let secrets: HashMap<[u8; 32], [u8; 32]> =
            peers.iter().filter_map(|said| Some((said.key, said.preshared?))).collect();
        let mut found = tunnel.peers;
        for peer in &mut found {
            let preshared = peer.preshared_key.take();
            let written = secrets.get(peer.public_key.unwrap().as_bytes());
            prop_assert_eq!(preshared.as_ref().map(|key| key.as_bytes()), written);
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_lines_are_a_tunnel_or_one_line(
        lines in prop::collection::vec((
            prop::sample::select(vec![
                "PrivateKey", "ListenPort", "FwMark", "Address", "DNS", "MTU", "Table", "PreUp", "SaveConfig", "PublicKey", "PresharedKey",
                "AllowedIPs", "Endpoint", "PersistentKeepalive", "[Interface]", "[Peer]", "[", "#", "",
            ]),
            prop_oneof!["[ =\t]{0,3}", Just(" = ".to_owned())],
            prop_oneof![
                "[0-9a-f.:/, x-]{0,30}", ".{0,20}", Just(OUR_KEY.trim().to_owned()), Just(ALICE.to_owned()), Just("off".to_owned()),
                Just("10.0.0.1/32".to_owned()),
            ],
        ), 0..12),
    ) {
        let lines: Vec<String> = lines.into_iter().map(|(key, sign, value)| format!("{key}{sign}{value}")).collect();
        if let Err(error) = parse(&format!("[Interface]\n{}", lines.join("\n"))) {
            let shown = error.to_string();
            prop_assert!(!shown.contains('\n'), "{}", shown);
            prop_assert!(!shown.contains(&OUR_KEY[..12]), "{}", shown);
        }
    }

    #[test]
    fn a_mutated_file_is_a_tunnel_or_one_line(
        edits in prop::collection::vec((0..WHOLE.len(), 0..12_usize, "[\\[\\]=,#\n a-zA-Z0-9:/-]{0,6}"), 1..5),
    ) {
        let mut text = WHOLE.to_owned();
        for (at, length, insert) in edits {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.replace_range(at..end, &insert);
        }
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}
