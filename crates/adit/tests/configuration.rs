//! Every way to get a configuration wrong: one line that names the place, the fault and the remedy; exit code 2; nothing
//! created. And a few ways to get it right.
// Helpers of tests may fail as tests do; the lint only knows functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use adit::config::{self, Host, Mtu, TransportKind, Tunnel, Workers};
use proptest::prelude::*;

/// A file in which everything is said that this version has.
const WHOLE: &str = r#"# two sites
[device]
name = "adit7"
mode = "tun"
addresses = ["10.77.0.1/24", "fd77::1/64"]
mtu = 1400

[transport]
listen = "0.0.0.0:7000"
workers = 2
offload = false
busy-poll = "50us"

[[peer]]
name = "berlin"
public-key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
endpoint = "192.0.2.2:7777"
allowed-ips = ["10.77.0.2/32", "10.42.7.9/24"]
transport = "plain"

[[peer]]
name = "oslo"
endpoint = "oslo.example.org:7777"
allowed-ips = ["10.42.0.0/16", "fd77::3/128"]
transport = "plain"
"#;

/// The least that is a tunnel.
const LEAST: &str = r#"[device]
addresses = ["10.77.0.1/24"]
[[peer]]
name = "berlin"
endpoint = "192.0.2.2:7777"
allowed-ips = ["10.77.0.2/32"]
transport = "plain"
"#;

/// The least that is an encrypted tunnel.
const SEALED: &str = r#"[device]
addresses = ["10.77.0.1/24"]
private-key-file = "private.key"
[[peer]]
name = "berlin"
public-key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
allowed-ips = ["10.77.0.2/32"]
"#;

/// RFC 7748, section 6.1: Bob's public key.
const BOB: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

fn parse(text: &str) -> Result<Tunnel, config::Error> {
    config::parse(Path::new("tunnel.toml"), text.to_owned())
}

/// `LEAST` with one text in place of another.
fn with(old: &str, new: &str) -> String {
    assert_eq!(LEAST.matches(old).count(), 1, "{old}");
    LEAST.replace(old, new)
}

/// `LEAST` with a line under `[device]`.
fn device(line: &str) -> String {
    with("[device]", &format!("[device]\n{line}"))
}

/// `LEAST` with a section `[transport]` of one line.
fn transport(line: &str) -> String {
    format!("[transport]\n{line}\n{LEAST}")
}

/// `LEAST` with a line under its peer.
fn peer(line: &str) -> String {
    format!("{LEAST}{line}\n")
}

/// `SEALED` with one text in place of another.
fn sealed_with(old: &str, new: &str) -> String {
    assert_eq!(SEALED.matches(old).count(), 1, "{old}");
    SEALED.replace(old, new)
}

/// `SEALED` with a line under its peer.
fn sealed(line: &str) -> String {
    format!("{SEALED}{line}\n")
}

/// `SEALED` with another encrypted peer that begins in line 8 and has these lines beside name, key and prefix (9 to 11).
fn second_sealed_peer(lines: &str) -> String {
    format!("{SEALED}[[peer]]\nname = \"oslo\"\npublic-key = \"{BOB}\"\nallowed-ips = [\"10.77.0.3/32\"]\n{lines}\n")
}

/// `SEALED` with a plain peer, from line 8 on.
fn plain_beside_sealed(line: &str) -> String {
    let (_, peer) = LEAST.split_once("[[peer]]").unwrap();
    let peer = peer.replace("berlin", "oslo").replace("10.77.0.2/32", "10.77.0.3/32");
    format!("{SEALED}[[peer]]{peer}{line}\n")
}

/// `LEAST` with another peer, sound but for what `fields` says otherwise.
fn second_peer(fields: &[(&str, &str)]) -> String {
    let mut lines = [
        ("name", "\"oslo\""),
        ("endpoint", "\"192.0.2.3:7777\""),
        ("allowed-ips", "[\"10.77.0.3/32\"]"),
        ("transport", "\"plain\""),
    ];
    for (key, value) in fields {
        lines.iter_mut().filter(|(known, _)| known == key).for_each(|line| line.1 = value);
    }
    let lines: Vec<String> = lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    format!("{LEAST}[[peer]]\n{}", lines.concat())
}

/// A faulty file: its text, the line that must be named (0: none), and what the sentence must contain.
type Case = (&'static str, String, usize, &'static [&'static str]);

fn cases() -> Vec<Case> {
    let key = "public-key = \"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\"";
    vec![
        // Text
        ("empty file", String::new(), 0, &["needs an address", "[device]"]),
        ("not TOML", "[device\n".into(), 1, &["not TOML"]),
        ("unquoted value", device("name = adit0"), 2, &["not TOML"]),
        ("key twice", device("mtu = 1400\nmtu = 1400"), 3, &["not TOML", "duplicate key"]),
        ("wg-quick file", "# wg\n[Interface]\nPrivateKey = x\n".into(), 2, &["wg-quick", "write it as TOML"]),
        // Keys and types
        ("unknown key", device("adresses = []"), 2, &["unknown key \"adresses\" in [device]", "\"addresses\"?"]),
        ("key of another spelling", with("allowed-ips", "allowed_ips"), 6, &["\"allowed_ips\"", "\"allowed-ips\"?"]),
        (
            "unknown key, nothing near",
            peer("colour = 1"),
            8,
            &["unknown key \"colour\" in [[peer]]", "known here: name,"],
        ),
        (
            "key of another section",
            device("listen = \"[::]:1\""),
            2,
            &["unknown key \"listen\"", "belongs in [transport]"],
        ),
        ("unknown section", format!("[devices]\n{LEAST}"), 1, &["unknown key \"devices\"", "\"device\"?"]),
        (
            "wrong type: list",
            with("[\"10.77.0.1/24\"]", "\"10.77.0.1/24\""),
            2,
            &["must be a list of strings", "not a string"],
        ),
        ("wrong type: item", with("[\"10.77.0.1/24\"]", "[1]"), 2, &["must be a list of strings", "not a number"]),
        ("wrong type: boolean", transport("offload = \"no\""), 2, &["must be true or false", "not a string"]),
        ("wrong type: string", device("name = 7"), 2, &["\"name\" in [device] must be a string", "not a number"]),
        ("wrong type: number", device("mtu = 1.5"), 2, &["\"auto\" or a number", "fraction"]),
        ("wrong type: section", with("[[peer]]", "[peer]"), 3, &["\"peer\" must be tables, each written [[peer]]"]),
        // Device
        ("no device", LEAST.replace("[device]\naddresses = [\"10.77.0.1/24\"]\n", ""), 0, &["needs an address"]),
        ("no address", with("addresses = [\"10.77.0.1/24\"]", ""), 1, &["needs an address", "addresses = ["]),
        ("empty addresses", with("[\"10.77.0.1/24\"]", "[]"), 2, &["needs an address"]),
        ("bad address", with("10.77.0.1/24", "10.77.0.300/24"), 2, &["\"10.77.0.300/24\" is not a prefix"]),
        ("address without length", with("10.77.0.1/24", "10.77.0.1"), 2, &["has no prefix length", "10.77.0.1/24"]),
        ("prefix too long", with("10.77.0.1/24", "10.77.0.1/40"), 2, &["prefix length beyond 32"]),
        ("network as address", with("10.77.0.1/24", "10.77.0.0/24"), 2, &["address of the network itself"]),
        ("broadcast as address", with("10.77.0.1/24", "10.77.0.255/24"), 2, &["broadcast address"]),
        ("loopback as address", with("10.77.0.1/24", "127.0.0.1/8"), 2, &["is loopback"]),
        ("address twice", with("\"10.77.0.1/24\"", "\"10.77.0.1/24\", \"10.77.0.1/16\""), 2, &["has already"]),
        ("device name too long", device("name = \"adit-to-berlin-1\""), 2, &["1 to 15 bytes"]),
        ("empty device name", device("name = \"\""), 2, &["1 to 15 bytes"]),
        ("device name with slash", device("name = \"../adit\""), 2, &["letters, digits"]),
        ("device name with line feed", device("name = \"a\\nb\""), 2, &["\"a\\nb\"", "letters, digits"]),
        ("device name is dots", device("name = \"..\""), 2, &["the kernel keeps"]),
        ("device name of a status socket", device("name = \"adit0.status\""), 2, &["\".status\""]),
        ("tap", device("mode = \"tap\""), 2, &["\"tap\"", "not in this version yet", "\"tun\""]),
        ("unknown mode", device("mode = \"tunnel\""), 2, &["not a mode", "\"tun\""]),
        ("MTU too small", device("mtu = 575"), 2, &["575 is too small", "576"]),
        ("MTU negative", device("mtu = -1"), 2, &["-1 is too small"]),
        (
            "MTU too small for IPv6",
            device("mtu = 1279").replace("10.77.0.2/32", "fd77::2/128"),
            2,
            &["IPv6 needs 1280"],
        ),
        ("MTU too large", device("mtu = 65536"), 2, &["too large", "65507"]),
        ("MTU a word", device("mtu = \"1400\""), 2, &["without quotes"]),
        ("MTU far out of range", device("mtu = 99999999999999999999"), 2, &["out of range"]),
        // Transport
        ("listen without port", transport("listen = \"0.0.0.0\""), 2, &["not an address and port"]),
        ("listen on port 0", transport("listen = \"[::]:0\""), 2, &["port 0", "choose a port"]),
        ("listen on a name", transport("listen = \"localhost:7777\""), 2, &["not an address and port"]),
        ("listen on multicast", transport("listen = \"224.0.0.1:7777\""), 2, &["not an address of this host"]),
        ("no workers", transport("workers = 0"), 2, &["0 workers are not possible", "1 to 64"]),
        ("too many workers", transport("workers = 65"), 2, &["65 workers are not possible"]),
        ("workers a word", transport("workers = \"many\""), 2, &["\"many\"", "\"auto\""]),
        ("busy-poll without unit", transport("busy-poll = \"50\""), 2, &["not a duration", "\"50us\""]),
        ("busy-poll too long", transport("busy-poll = \"2ms\""), 2, &["too long", "\"1ms\""]),
        // Peers
        ("no peer", "[device]\naddresses = [\"10.77.0.1/24\"]\n".into(), 0, &["there is no peer", "[[peer]]"]),
        ("peer without name", with("name = \"berlin\"", ""), 3, &["no name"]),
        ("peer name with space", with("\"berlin\"", "\"ber lin\""), 4, &["not a peer name"]),
        ("peer name twice", second_peer(&[("name", "\"Berlin\"")]), 9, &["\"berlin\" already (line 4)"]),
        (
            "no transport",
            with("transport = \"plain\"", ""),
            3,
            &["no public-key", "\"sealed\"", "adit pubkey < private.key"],
        ),
        (
            "sealed without keys",
            with("\"plain\"", "\"sealed\""),
            3,
            &[
                "peer \"berlin\" has no public-key",
                "\"sealed\"",
                "`adit pubkey < private.key` on its host",
                "public-key = ",
            ],
        ),
        (
            "wireguard without keys",
            with("\"plain\"", "\"wireguard\""),
            3,
            &["has no public-key", "\"wireguard\"", "`wg pubkey < private.key`"],
        ),
        (
            "unknown transport",
            with("\"plain\"", "\"vxlan\""),
            7,
            &["not a transport", "\"sealed\"", "\"wireguard\"", "\"plain\""],
        ),
        ("empty transport", with("\"plain\"", "\"\""), 7, &["not a transport"]),
        ("transport in another case", with("\"plain\"", "\"Plain\""), 7, &["\"Plain\" is not a transport"]),
        ("transport not a word", with("\"plain\"", "false"), 7, &["\"transport\" in [[peer]] must be", "\"sealed\""]),
        (
            "transport of the tunnel",
            with("[device]", "transport = \"sealed\"\n[device]"),
            1,
            &["must be a table, written [transport]"],
        ),
        ("no endpoint", with("endpoint = \"192.0.2.2:7777\"", ""), 3, &["\"berlin\" has no endpoint", "endpoint = "]),
        ("endpoint without port", with("192.0.2.2:7777", "192.0.2.2"), 5, &["has no port"]),
        ("endpoint with port 0", with("192.0.2.2:7777", "192.0.2.2:0"), 5, &["needs a port"]),
        (
            "endpoint without brackets",
            with("192.0.2.2:7777", "2001:db8::2:7777"),
            5,
            &["without brackets", "[address]:port"],
        ),
        ("endpoint unspecified", with("192.0.2.2:7777", "0.0.0.0:7777"), 5, &["unspecified"]),
        ("endpoint multicast", with("192.0.2.2:7777", "224.0.0.1:7777"), 5, &["multicast"]),
        (
            "endpoint of another family",
            format!("[transport]\nlisten = \"[2001:db8::1]:1\"\n{LEAST}"),
            7,
            &["IPv4 but we listen on IPv6 only"],
        ),
        (
            "endpoint is ourselves",
            format!("[transport]\nlisten = \"192.0.2.2:7777\"\n{LEAST}"),
            7,
            &["listen ourselves"],
        ),
        (
            "endpoint inside the tunnel",
            with("192.0.2.2:7777", "10.77.0.2:7777"),
            5,
            &["allowed-ips of peer \"berlin\" (line 6)"],
        ),
        (
            "endpoint twice",
            second_peer(&[("endpoint", "\"192.0.2.2:7777\"")]),
            10,
            &["\"berlin\" already (line 5)", "told apart"],
        ),
        (
            "endpoint twice, mapped",
            second_peer(&[("endpoint", "\"[::ffff:192.0.2.2]:7777\"")]),
            10,
            &["\"berlin\" already"],
        ),
        ("no allowed-ips", with("allowed-ips = [\"10.77.0.2/32\"]", ""), 3, &["no allowed-ips"]),
        ("empty allowed-ips", with("[\"10.77.0.2/32\"]", "[]"), 6, &["no allowed-ips"]),
        ("bad prefix", with("10.77.0.2/32", "10.77.0/24"), 6, &["\"10.77.0/24\" is not a prefix", "10.42.7.0/24"]),
        ("default route", with("10.77.0.2/32", "0.0.0.0/0"), 6, &["default route", "not in this version yet"]),
        (
            "prefixes collide",
            second_peer(&[("allowed-ips", "[\"10.77.0.2\"]")]),
            11,
            &["10.77.0.2/32 belongs to peer \"berlin\" already (line 6)"],
        ),
        ("own address", with("10.77.0.2/32", "10.77.0.1/32"), 6, &["this device's own address"]),
        ("bad public key", peer("public-key = \"hSDw\""), 8, &["public key of peer \"berlin\"", "32 bytes in base64"]),
        (
            "public key twice",
            format!(
                "{}{key}\n",
                second_peer(&[]).replace("[[peer]]\nname = \"berlin\"", &format!("[[peer]]\nname = \"berlin\"\n{key}"))
            ),
            14,
            &["the public key belongs to peer \"berlin\" already (line 5)"],
        ),
        ("preshared key", peer("preshared-key-file = \"psk\""), 8, &["no meaning for a plain peer", "remove it"]),
        ("keepalive", peer("keepalive = \"25s\""), 8, &["no meaning for a plain peer", "remove it"]),
        // Encrypted peers
        (
            "no private key",
            sealed_with("private-key-file = \"private.key\"\n", ""),
            1,
            &["no private-key-file", "peer \"berlin\" is sealed", "adit keygen > private.key", "under [device]"],
        ),
        (
            "no private key for wireguard",
            sealed("transport = \"wireguard\"").replace("private-key-file = \"private.key\"\n", ""),
            1,
            &["no private-key-file", "peer \"berlin\" is wireguard", "adit keygen"],
        ),
        (
            "no private key beside plain",
            plain_beside_sealed("").replace("private-key-file = \"private.key\"\n", ""),
            1,
            &["no private-key-file", "peer \"berlin\" is sealed"],
        ),
        ("private key in the peer", peer("private-key-file = \"private.key\""), 8, &["belongs in [device]"]),
        ("private key itself", with("[device]", "[device]\nprivate-key = \"x\""), 2, &["\"private-key-file\"?"]),
        ("key file not a path", sealed_with("\"private.key\"", "7"), 3, &["must be a string, the path of a file"]),
        (
            "sealed and wireguard",
            second_sealed_peer("transport = \"wireguard\""),
            12,
            &["\"oslo\" is wireguard", "\"berlin\" (line 4) is sealed", "second file", "private-key-file"],
        ),
        (
            "wireguard and sealed",
            second_sealed_peer("").replace("name = \"berlin\"", "name = \"berlin\"\ntransport = \"wireguard\""),
            9,
            &["\"oslo\" is sealed", "\"berlin\" (line 4) is wireguard", "second file"],
        ),
        ("public key too short", sealed_with("hSDw", ""), 6, &["public key of peer \"berlin\"", "32 bytes in base64"]),
        ("public key with a stray letter", sealed_with("hSDw", "hS!w"), 6, &["32 bytes in base64"]),
        (
            "public key empty",
            sealed_with("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=", ""),
            6,
            &["32 bytes in base64"],
        ),
        (
            "public key of zeros",
            sealed_with("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            6,
            &["public key of peer \"berlin\" is not a key"],
        ),
        (
            "public key without a secret",
            sealed_with("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            6,
            &["public key of peer \"berlin\" is not a key"],
        ),
        ("public key of another spelling", sealed_with("public-key =", "public_key ="), 6, &["\"public-key\"?"]),
        (
            "public key twice, sealed",
            second_sealed_peer("").replace(BOB, "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="),
            10,
            &["the public key belongs to peer \"berlin\" already (line 6)", "key of its own"],
        ),
        ("sealed without allowed-ips", sealed_with("allowed-ips = [\"10.77.0.2/32\"]", ""), 4, &["no allowed-ips"]),
        (
            "default route, sealed",
            sealed_with("10.77.0.2/32", "0.0.0.0/0"),
            7,
            &["default route", "not in this version yet"],
        ),
        (
            "IPv6 default route, sealed",
            sealed_with("10.77.0.2/32", "::/0"),
            7,
            &["default route", "not in this version yet"],
        ),
        ("endpoint without port, sealed", sealed("endpoint = \"192.0.2.2\""), 8, &["has no port"]),
        ("endpoint unspecified, sealed", sealed("endpoint = \"[::]:7777\""), 8, &["unspecified"]),
        (
            "endpoint twice, sealed",
            second_sealed_peer("endpoint = \"192.0.2.2:7777\"")
                .replace("name = \"berlin\"", "name = \"berlin\"\nendpoint = \"192.0.2.2:7777\""),
            13,
            &["\"berlin\" already (line 6)", "one socket is one peer", "none for a peer that calls us"],
        ),
        (
            "name as endpoint twice, wireguard",
            second_sealed_peer("endpoint = \"SITE.example.org:7777\"")
                .replace("name = ", "transport = \"wireguard\"\nname = ")
                .replacen("name = \"berlin\"", "name = \"berlin\"\nendpoint = \"site.example.org:7777\"", 1),
            15,
            &["\"berlin\" already (line 7)", "one socket is one peer"],
        ),
        (
            "endpoint of a sealed and a plain peer",
            plain_beside_sealed("").replace("name = \"berlin\"", "name = \"berlin\"\nendpoint = \"192.0.2.2:7777\""),
            11,
            &["\"berlin\" already (line 6)", "one socket is one peer"],
        ),
        (
            "endpoint is ourselves, sealed",
            format!("[transport]\nlisten = \"192.0.2.2:7777\"\n{}", sealed("endpoint = \"192.0.2.2:7777\"")),
            10,
            &["listen ourselves"],
        ),
        (
            "endpoint of another family after a peer without one",
            format!("[transport]\nlisten = \"0.0.0.0:1\"\n{}", second_sealed_peer("endpoint = \"[2001:db8::2]:1\"")),
            14,
            &["IPv6 but we listen on IPv4 only"],
        ),
        (
            "endpoint inside the tunnel, sealed",
            sealed("endpoint = \"10.77.0.2:7777\""),
            8,
            &["allowed-ips of peer \"berlin\" (line 7)"],
        ),
        (
            "plain beside sealed without endpoint",
            plain_beside_sealed("").replace("endpoint = \"192.0.2.2:7777\"\n", ""),
            8,
            &["\"oslo\" has no endpoint", "plain peer"],
        ),
        (
            "keepalive of plain beside sealed",
            plain_beside_sealed("keepalive = \"25s\""),
            13,
            &["no meaning for a plain peer"],
        ),
        (
            "preshared key of plain beside sealed",
            plain_beside_sealed("preshared-key-file = \"psk\""),
            13,
            &["no meaning for a plain peer"],
        ),
        ("keepalive off, plain", peer("keepalive = \"0s\""), 8, &["no meaning for a plain peer"]),
        ("keepalive a number", sealed("keepalive = 25"), 8, &["must be a string such as \"25s\"", "not a number"]),
        ("keepalive without unit", sealed("keepalive = \"25\""), 8, &["not a duration", "\"25s\""]),
        ("keepalive empty", sealed("keepalive = \"\""), 8, &["not a duration"]),
        ("keepalive negative", sealed("keepalive = \"-25s\""), 8, &["not a duration"]),
        ("keepalive a word", sealed("keepalive = \"off\""), 8, &["not a duration"]),
        ("keepalive with a fraction", sealed("keepalive = \"1500ms\""), 8, &["whole seconds"]),
        ("keepalive below a second", sealed("keepalive = \"20ms\""), 8, &["whole seconds"]),
        ("keepalive too long", sealed("keepalive = \"65536s\""), 8, &["too long for a keepalive", "\"65535s\""]),
        ("keepalive far too long", sealed("keepalive = \"1000years\""), 8, &["too long for a keepalive"]),
        ("keepalive of another spelling", sealed("keep-alive = \"25s\""), 8, &["\"keepalive\"?"]),
        ("keepalive in another section", device("keepalive = \"25s\""), 2, &["belongs in [[peer]]"]),
        ("preshared key not a path", sealed("preshared-key-file = 1"), 8, &["must be a string, the path of a file"]),
        ("preshared key itself", sealed("preshared-key = \"x\""), 8, &["\"preshared-key-file\"?"]),
        (
            "tap, sealed",
            sealed_with("[device]", "[device]\nmode = \"tap\""),
            2,
            &["\"tap\"", "not in this version yet"],
        ),
        ("MTU too large, sealed", sealed_with("[device]", "[device]\nmtu = 65476"), 2, &["too large", "65475"]),
        (
            "MTU too large, wireguard",
            sealed("transport = \"wireguard\"").replace("[device]", "[device]\nmtu = 65507"),
            2,
            &["too large", "65475"],
        ),
        // Of a later version
        ("network", format!("[network]\n{LEAST}"), 1, &["[network] is not in this version yet"]),
    ]
}

#[test]
fn every_fault_is_one_line_with_its_place_and_remedy() {
    for (what, text, line, phrases) in cases() {
        let Err(error) = parse(&text) else { panic!("{what}: accepted\n{text}") };
        let shown = error.to_string();
        assert_eq!(error.position().map_or(0, |at| at.line), line, "{what}: {shown}\n{text}");
        assert!(!shown.contains('\n'), "{what}: {shown}");
        let place = if line == 0 { "tunnel.toml: ".to_owned() } else { format!("tunnel.toml:{line}:") };
        assert!(shown.starts_with(&place), "{what}: {shown}");
        for phrase in phrases {
            assert!(shown.contains(phrase), "{what}: {shown:?} does not say {phrase:?}");
        }
        assert_eq!(adit::Failure::from(error).exit_code(), 2, "{what}");
    }
}

#[test]
fn a_whole_file_means_what_it_says() {
    let tunnel = parse(WHOLE).unwrap();
    assert_eq!(tunnel.device.name, "adit7");
    assert_eq!(tunnel.device.addresses, ["10.77.0.1/24".parse().unwrap(), "fd77::1/64".parse().unwrap()]);
    assert_eq!(tunnel.device.mtu, Mtu::Fixed(1400));
    assert!(tunnel.device.private_key.is_none());
    assert_eq!(tunnel.transport.listen, "0.0.0.0:7000".parse().unwrap());
    assert!(!tunnel.transport.listen_is_default);
    assert!(matches!(tunnel.transport.workers, Workers::Fixed(two) if two.get() == 2));
    assert!(!tunnel.transport.offload);
    assert_eq!(tunnel.transport.busy_poll.as_micros(), 50);
    let [berlin, oslo] = &tunnel.peers[..] else { panic!("two peers") };
    assert_eq!(berlin.name, "berlin");
    assert_eq!(berlin.endpoint.as_ref().unwrap().address(), Some("192.0.2.2:7777".parse().unwrap()));
    assert_eq!(berlin.allowed_ips, ["10.77.0.2/32".parse().unwrap(), "10.42.7.0/24".parse().unwrap()]);
    assert_eq!(oslo.endpoint.as_ref().unwrap().host, Host::Name("oslo.example.org".into()));
    // 10.42.0.0/16 holds berlin's 10.42.7.0/24: the longer prefix wins there.
    assert_eq!(oslo.allowed_ips, ["10.42.0.0/16".parse().unwrap(), "fd77::3/128".parse().unwrap()]);
    assert!(oslo.public_key.is_none());
}

#[test]
fn what_is_left_out_has_a_default() {
    let tunnel = parse(LEAST).unwrap();
    assert_eq!(tunnel.device.name, "adit0");
    assert_eq!(tunnel.device.mtu, Mtu::Auto);
    assert_eq!(tunnel.transport.listen, "[::]:7777".parse().unwrap());
    assert!(tunnel.transport.listen_is_default);
    assert_eq!(tunnel.transport.workers, Workers::Auto);
    assert!(tunnel.transport.offload);
    assert!(tunnel.transport.busy_poll.is_zero());
}

#[test]
fn the_documented_example_means_what_it_says() {
    let text = include_str!("../../../docs/CONFIGURATION.md");
    let example = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let keys = Keys::new("");
    let tunnel = keys.parse(example).unwrap();
    // It says that the rest repeats defaults.
    let short = keys
        .parse(
            "device.addresses = [\"10.77.0.1/24\", \"fd77::1/64\"]\ndevice.private-key-file = \"private.key\"\n[[peer]]\n\
             name = \"berlin\"\npublic-key = \"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\"\nendpoint = \"192.0.2.2:7777\"\n\
             allowed-ips = [\"10.77.0.2/32\", \"10.42.7.0/24\", \"fd77::2/128\"]\n",
        )
        .unwrap();
    assert_eq!(tunnel.device.name, short.device.name);
    assert_eq!(tunnel.device.addresses, short.device.addresses);
    assert_eq!(tunnel.device.mtu, short.device.mtu);
    assert_eq!(tunnel.transport.listen, short.transport.listen);
    assert_eq!(tunnel.transport.workers, short.transport.workers);
    assert_eq!(tunnel.transport.offload, short.transport.offload);
    assert_eq!(tunnel.transport.busy_poll, short.transport.busy_poll);
    assert_eq!(tunnel.peers, short.peers);
}

#[test]
fn every_example_in_the_documents_is_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let keys = Keys::new("");
    let mut examples = 0;
    for directory in [root.clone(), root.join("docs")] {
        let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
            let text = fs::read_to_string(&file).unwrap();
            for example in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
                if let Err(error) = keys.parse(example) {
                    panic!("{}: {error}\n{example}", file.display());
                }
                examples += 1;
            }
        }
    }
    assert!(examples > 0);
}

#[test]
fn limits_themselves_are_accepted() {
    let keys = Keys::new("");
    for text in [
        device("mtu = 576"),
        device("mtu = 65507"),
        device("mtu = \"auto\""),
        device("mtu = 1280").replace("10.77.0.2/32", "fd77::2/128"),
        device("name = \"adit-to-berlin1\""),
        transport("workers = 1"),
        transport("workers = 64"),
        transport("workers = \"auto\""),
        transport("busy-poll = \"0us\""),
        transport("busy-poll = \"1ms\""),
        with("10.77.0.2/32", "10.77.0.0/24"),
        with("\"10.77.0.2/32\"", "\"10.77.0.2\", \"10.77.0.2/32\""),
        with("192.0.2.2:7777", "127.0.0.1:7777"),
        SEALED.to_owned(),
        second_sealed_peer("endpoint = \"192.0.2.2:7777\""),
        second_sealed_peer("transport = \"sealed\""),
        second_sealed_peer("transport = \"wireguard\"")
            .replace("name = \"berlin\"", "name = \"berlin\"\ntransport = \"wireguard\""),
        plain_beside_sealed(""),
        plain_beside_sealed("").replace("name = \"berlin\"", "name = \"berlin\"\ntransport = \"wireguard\""),
        plain_beside_sealed(&format!("public-key = \"{BOB}\"")),
        sealed("keepalive = \"65535s\""),
        sealed("preshared-key-file = \"preshared.key\""),
        sealed_with("[device]", "[device]\nmtu = 65475"),
        sealed("transport = \"wireguard\"").replace("[device]", "[device]\nmtu = 576"),
    ] {
        if let Err(error) = keys.parse(&text) {
            panic!("{error}\n{text}");
        }
    }
}

#[test]
fn what_an_encrypted_peer_says_is_kept() {
    let keys = Keys::new("");
    let peer = |text: &str| keys.parse(text).unwrap().peers.remove(0);
    let silent = peer(SEALED);
    assert_eq!(silent.transport, TransportKind::Sealed);
    assert_eq!(silent.public_key.unwrap().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    assert_eq!((silent.endpoint, silent.keepalive, silent.preshared_key), (None, None, None));
    let lines = "transport = \"wireguard\"\nendpoint = \"[2001:db8::2]:51820\"\npreshared-key-file = \"preshared.key\"\nkeepalive";
    for (typed, seconds) in [("25s", 25), ("1s", 1), ("2m 5s", 125), ("18h 12m 15s", 65535)] {
        let full = peer(&sealed(&format!("{lines} = {typed:?}")));
        assert_eq!(full.transport, TransportKind::WireGuard);
        assert_eq!(full.endpoint.as_ref().unwrap().address(), Some("[2001:db8::2]:51820".parse().unwrap()));
        assert_eq!(full.keepalive, Some(Duration::from_secs(seconds)), "{typed}");
        assert_eq!(full.preshared_key.as_ref().unwrap().as_bytes(), &[0xab; 32]);
        assert!(!format!("{full:?}").contains("171"), "no secret is printed");
    }
    assert_eq!(peer(&sealed("keepalive = \"0s\"")).keepalive, None);
}

/// A directory with a configuration, the private key `private.key` and the preshared key `preshared.key`.
struct Keys {
    directory: tempfile::TempDir,
}

impl Keys {
    fn new(configuration: &str) -> Self {
        let keys = Self { directory: tempfile::tempdir().unwrap() };
        fs::write(keys.configuration(), configuration).unwrap();
        keys.write("private.key", OUR_KEY, 0o600);
        keys.write("preshared.key", PRESHARED_KEY, 0o600);
        keys
    }

    fn configuration(&self) -> PathBuf {
        self.directory.path().join("tunnel.toml")
    }

    fn write(&self, name: &str, content: &str, mode: u32) {
        let path = self.directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn parse(&self, text: &str) -> Result<Tunnel, config::Error> {
        config::parse(&self.configuration(), text.to_owned())
    }

    fn fault(&self) -> String {
        match config::load(&self.configuration()) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        }
    }
}

/// RFC 7748, section 6.1: Alice's, whose public half is peer berlin's in these tests.
const PRIVATE_KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n";

/// RFC 7748, section 5.2: a scalar, which is nobody's key in these tests but ours.
const OUR_KEY: &str = "pUbjasNn+PL/B2DL6iyxPr5sjhZG8w3xh0mBEcCxLNI=\n";

/// 32 bytes 0xab.
const PRESHARED_KEY: &str = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=\n";

#[test]
fn key_files() {
    let keys = Keys::new(&device("private-key-file = \"key\""));
    let fault = keys.fault();
    assert!(
        fault.contains("tunnel.toml:2:") && fault.contains("does not exist") && fault.contains("adit keygen"),
        "{fault}"
    );

    for mode in [0o644, 0o640, 0o666] {
        keys.write("key", PRIVATE_KEY, mode);
        let fault = keys.fault();
        assert!(fault.contains("open to other users") && fault.contains("chmod 600"), "{fault}");
        assert!(!fault.contains("dwdt"), "{fault}");
    }
    for content in
        ["", "key", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25L", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
    {
        keys.write("key", content, 0o600);
        let fault = keys.fault();
        assert!(fault.contains("does not hold a private key") && fault.contains("adit keygen"), "{fault}");
        assert!(content.is_empty() || !fault.contains(content) || content == "key", "{fault}");
    }
    keys.write("key", PRIVATE_KEY, 0o600);
    let tunnel = config::load(&keys.configuration()).unwrap();
    let public = tunnel.device.private_key.unwrap().public_key().to_string();
    assert_eq!(public, "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");

    for text in [
        format!("{}public-key = \"{public}\"\n", device("private-key-file = \"key\"")),
        sealed_with("\"private.key\"", "\"key\""),
        sealed("transport = \"wireguard\"").replace("\"private.key\"", "\"key\""),
    ] {
        fs::write(keys.configuration(), text).unwrap();
        let fault = keys.fault();
        assert!(fault.contains("public key of peer \"berlin\"") && fault.contains("key of its own"), "{fault}");
    }
}

#[test]
fn preshared_key_files() {
    let keys = Keys::new(&sealed("preshared-key-file = \"psk\""));
    let check = |what: &str, phrases: &[&str]| {
        let fault = keys.fault();
        assert!(fault.contains("tunnel.toml:8:") && !fault.contains('\n'), "{what}: {fault}");
        for phrase in phrases {
            assert!(fault.contains(phrase), "{what}: {fault:?} does not say {phrase:?}");
        }
        for secret in [PRESHARED_KEY, OUR_KEY] {
            assert!(!fault.contains(&secret[..8]), "{what}: {fault}");
        }
    };
    check("missing", &["preshared key file", "does not exist", "umask 077", "base64 > ", "the peer"]);
    for mode in [0o644, 0o640, 0o620, 0o601] {
        keys.write("psk", PRESHARED_KEY, mode);
        check("open", &["open to other users", &format!("{mode:04o}"), "chmod 600"]);
    }
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for content in ["", "a passphrase", &PRESHARED_KEY[1..], zeros, &PRESHARED_KEY.repeat(2)] {
        keys.write("psk", content, 0o600);
        check(content, &["does not hold a preshared key", "wg genpsk"]);
    }
    keys.write("psk", OUR_KEY, 0o600);
    check("our private key", &["is our private key", "\"berlin\" must not know", "base64"]);
    keys.write("psk", PRESHARED_KEY, 0o400);
    assert!(config::load(&keys.configuration()).unwrap().peers[0].preshared_key.is_some());
    fs::remove_file(keys.directory.path().join("psk")).unwrap();
    fs::create_dir(keys.directory.path().join("psk")).unwrap();
    check("directory", &["not a regular file"]);
}

#[test]
fn a_fault_elsewhere_is_found_before_a_key_is_asked_for() {
    // Neither of the files is there.
    let text = sealed("preshared-key-file = \"absent\"\nkeepalive = \"soon\"").replace("private.key", "absent");
    assert!(parse(&text).err().unwrap().to_string().contains("not a duration"));
}

#[test]
fn files_that_are_no_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent.toml");
    let binary = directory.path().join("binary");
    fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    for (path, phrase) in [
        (absent.as_path(), "No such file"),
        (directory.path(), "directory"),
        (binary.as_path(), "not UTF-8"),
        (Path::new("/dev/zero"), "larger than 16 MiB"),
    ] {
        let Err(error) = config::load(path) else { panic!("{} was accepted", path.display()) };
        assert!(error.to_string().contains(phrase), "{error}");
        assert_eq!(adit::Failure::from(error).exit_code(), 2);
    }
}

#[test]
fn the_device_of_a_faulty_file_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tunnel.toml");
    fs::write(&path, WHOLE.replace("10.77.0.2/32", "nonsense")).unwrap();
    assert_eq!(config::device_name(&path).unwrap(), "adit7");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_tunnel_or_one_line(text in "(?s).{0,200}") {
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }

    #[test]
    fn a_mutated_file_is_a_tunnel_or_one_line(
        whole in prop::sample::select(vec![WHOLE.to_owned(), plain_beside_sealed(""), sealed("keepalive = \"25s\"")]),
        edits in prop::collection::vec((0..WHOLE.len(), 0..12_usize, "[\\[\\]\"=.#\n a-z0-9:/-]{0,6}"), 1..5),
    ) {
        let mut text = whole;
        for (at, length, insert) in edits {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.replace_range(at..end, &insert);
        }
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }

    #[test]
    fn any_value_anywhere_is_a_tunnel_or_one_line(
        section in 0..3_usize,
        key in prop::sample::select(vec![
            "name", "mode", "addresses", "mtu", "private-key-file", "listen", "workers", "offload", "busy-poll",
            "public-key", "endpoint", "allowed-ips", "transport", "preshared-key-file", "keepalive",
        ]),
        value in prop_oneof![
            "\"[^\"\\\\]{0,30}\"", "-?[0-9]{1,20}", Just("true".to_owned()), Just("1.5".to_owned()),
            Just("1979-05-27".to_owned()), "\\[(\"[0-9a-f.:/]{0,20}\",?){0,3}\\]", Just("{ a = 1 }".to_owned()),
        ],
    ) {
        let header = ["[device]", "[transport]", "[[peer]]"][section];
        let text = format!("{header}\n{key} = {value}\n");
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}
