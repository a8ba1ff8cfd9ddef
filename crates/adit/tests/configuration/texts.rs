//! Sound files, and the same with something changed.

/// A file in which everything is said that this version has.
pub(crate) const WHOLE: &str = r#"# two sites
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
pub(crate) const LEAST: &str = r#"[device]
addresses = ["10.77.0.1/24"]
[[peer]]
name = "berlin"
endpoint = "192.0.2.2:7777"
allowed-ips = ["10.77.0.2/32"]
transport = "plain"
"#;

/// The least that is an encrypted tunnel.
pub(crate) const SEALED: &str = r#"[device]
addresses = ["10.77.0.1/24"]
private-key-file = "private.key"
[[peer]]
name = "berlin"
public-key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
allowed-ips = ["10.77.0.2/32"]
"#;

/// RFC 7748, section 6.1: Bob's public key.
pub(crate) const BOB: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

/// `LEAST` with one text in place of another.
pub(crate) fn with(old: &str, new: &str) -> String {
    assert_eq!(LEAST.matches(old).count(), 1, "{old}");
    LEAST.replace(old, new)
}

/// `LEAST` with a line under `[device]`.
pub(crate) fn device(line: &str) -> String {
    with("[device]", &format!("[device]\n{line}"))
}

/// `LEAST` with a section `[transport]` of one line.
pub(crate) fn transport(line: &str) -> String {
    format!("[transport]\n{line}\n{LEAST}")
}

/// `LEAST` with a section `[observe]` of one line.
pub(crate) fn observe(line: &str) -> String {
    format!("[observe]\n{line}\n{LEAST}")
}

/// `LEAST` with a line under its peer.
pub(crate) fn peer(line: &str) -> String {
    format!("{LEAST}{line}\n")
}

/// `SEALED` with one text in place of another.
pub(crate) fn sealed_with(old: &str, new: &str) -> String {
    assert_eq!(SEALED.matches(old).count(), 1, "{old}");
    SEALED.replace(old, new)
}

/// `SEALED` with a line under its peer.
pub(crate) fn sealed(line: &str) -> String {
    format!("{SEALED}{line}\n")
}

/// `SEALED` with another encrypted peer that begins in line 8 and has these lines beside name, key and prefix (9 to 11).
pub(crate) fn second_sealed_peer(lines: &str) -> String {
    format!("{SEALED}[[peer]]\nname = \"oslo\"\npublic-key = \"{BOB}\"\nallowed-ips = [\"10.77.0.3/32\"]\n{lines}\n")
}

/// `SEALED` with a plain peer, from line 8 on.
pub(crate) fn plain_beside_sealed(line: &str) -> String {
    let (_, peer) = LEAST.split_once("[[peer]]").unwrap();
    let peer = peer.replace("berlin", "oslo").replace("10.77.0.2/32", "10.77.0.3/32");
    format!("{SEALED}[[peer]]{peer}{line}\n")
}

/// `LEAST` with another peer, sound but for what `fields` says otherwise.
pub(crate) fn second_peer(fields: &[(&str, &str)]) -> String {
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

/// The least that is a node of a network; its section ends the file, so that lines come from line 4 on.
pub(crate) const NODE: &str = r#"[network]
registry = "embedded"
node-name = "berlin"
"#;

/// `NODE` with a line more in its section, line 4.
pub(crate) fn node(line: &str) -> String {
    format!("{NODE}{line}\n")
}

/// `NODE` whose registry is this, line 2, with a line more, line 4.
pub(crate) fn node_at(registry: &str, line: &str) -> String {
    node(line).replace("\"embedded\"", registry)
}
