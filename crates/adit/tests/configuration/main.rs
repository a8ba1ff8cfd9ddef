//! Every way to get a configuration wrong: one line that names the place, the fault and the remedy; exit code 2; nothing
//! created. And a few ways to get it right.
// Helpers of tests may fail as tests do; the lint only knows functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod faults;
mod network;
mod quick;
mod texts;

use std::{
    fs,
    net::IpAddr,
    num::NonZero,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use adit::config::{self, Dns, Host, Mtu, Network, PublicIp, RegistryAt, Table, TransportKind, Tunnel, Workers};
use faults::cases;
use proptest::prelude::*;
use texts::{
    BOB, LEAST, NODE, SEALED, WHOLE, device, node, node_at, plain_beside_sealed, sealed, sealed_with,
    second_sealed_peer, transport, with,
};

fn parse(text: &str) -> Result<Tunnel, config::Error> {
    config::parse(Path::new("tunnel.toml"), text.to_owned())
}

#[test]
fn every_fault_is_one_line_with_its_place_and_remedy() {
    for (what, text, line, phrases) in cases().into_iter().chain(network::cases()) {
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
    let text = include_str!("../../../../docs/CONFIGURATION.md");
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
                // What goes into any file is shown without the rest of one.
                let rest = if example.starts_with("[observe]") { "[network]\nregistry = \"embedded\"\n" } else { "" };
                if let Err(error) = keys.parse(&format!("{rest}{example}")) {
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
        with("\"10.77.0.2/32\"", "\"0.0.0.0/0\", \"::/0\""),
        with("\"10.77.0.2/32\"", "\"0.0.0.0/1\", \"128.0.0.0/1\""),
        device("table = 4294967295"),
        device("dns = []"),
        transport("fwmark = 4294967295"),
        transport("fwmark = 0"),
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
fn roads_are_kept() {
    let table = |typed: &str| parse(&device(&format!("table = {typed}"))).unwrap().device.table;
    let number = |number| Table::Number(NonZero::new(number).unwrap());
    for (typed, meant) in [
        ("\"auto\"", Table::Auto),
        ("\"off\"", Table::Off),
        ("51820", number(51820)),
        ("0xca6c", number(51820)),
        ("\"0xca6c\"", number(51820)),
        ("\"main\"", number(254)),
    ] {
        assert_eq!(table(typed), meant, "{typed}");
    }
    let mark = |typed: &str| parse(&transport(&format!("fwmark = {typed}"))).unwrap().transport.fwmark;
    for (typed, meant) in [("51820", 51820), ("0xca6c", 51820), ("\"0xca6c\"", 51820), ("0", 0), ("\"off\"", 0)] {
        assert_eq!(mark(typed), NonZero::new(meant), "{typed}");
    }
    let dns = parse(&device("dns = [\"10.0.0.53\", \"Example.org\", \"fd00::53\"]")).unwrap().device.dns;
    assert_eq!(dns.servers, ["10.0.0.53".parse::<IpAddr>().unwrap(), "fd00::53".parse().unwrap()]);
    assert_eq!(dns.domains, ["example.org"]);
    let silent = parse(LEAST).unwrap();
    assert_eq!((silent.device.table, silent.device.dns, silent.transport.fwmark), (Table::Auto, Dns::default(), None));
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

#[test]
fn a_node_needs_a_registry_and_nothing_else() {
    let tunnel = parse(NODE).unwrap();
    assert_eq!(tunnel.network, Some(Network::new(RegistryAt::Embedded, "berlin".into())));
    assert_eq!((tunnel.device.addresses.len(), tunnel.peers.len(), tunnel.open), (0, 0, false));
    assert!(tunnel.overlay.is_none() && tunnel.transport.listen_is_default);
    let network = tunnel.network.unwrap();
    assert_eq!((network.prefix.as_str(), network.bridge.as_str()), ("/coreos.com/network", "adit-br0"));
    assert_eq!(network.domain.as_deref(), Some("adit"));
    assert_eq!((network.lease_ttl, network.public_ip), (Duration::from_secs(86_400), PublicIp::Auto));
    assert!(network.ip_masq && network.forward_rules && !network.plain);
    assert_eq!(network.registry_listen, "[::]:7780".parse().unwrap());
    // Named after the host, which has a name that fits in most places.
    if let Ok(name) = config::host_name() {
        assert_eq!(parse(&NODE.replace("node-name = \"berlin\"\n", "")).unwrap().network.unwrap().node_name, name);
    }
}

#[test]
fn a_node_of_an_etcd_keeps_what_it_says() {
    let tunnel = parse(
        r#"[device]
addresses = ["10.77.0.1/24"]
[network]
registry = ["https://etcd1.example.org:2379", "http://[2001:db8::2]:2379/"]
node-name = "berlin"
prefix = "/vxlan/network"
public-ip = ["192.0.2.1", "2001:db8::1"]
lease-ttl = "2h 30m"
bridge = "docker0"
domain = "Adit.Example.org"
tls-ca = "ca.pem"
tls-cert = "/etc/ssl/node.pem"
tls-key = "node.key"
user = "adit"
password-file = "etcd.password"
plain = true
plain-from = ["192.0.2.0/24"]
ip-masq = false
forward-rules = false
subnet-files = ["/run/adit/subnet.env", "/run/flannel/subnet.env"]
registry-listen = "192.0.2.1:7781"
[[peer]]
name = "site"
public-key = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
allowed-ips = ["0.0.0.0/0"]
transport = "wireguard"
"#,
    )
    .unwrap();
    assert_eq!(tunnel.device.addresses, ["10.77.0.1/24".parse().unwrap()]);
    assert_eq!(tunnel.peers[0].allowed_ips, ["0.0.0.0/0".parse().unwrap()]);
    assert!(tunnel.device.private_key.is_none() && tunnel.device.wireguard_private_key.is_none());
    let urls = ["https://etcd1.example.org:2379", "http://[2001:db8::2]:2379"].map(str::to_owned);
    let expected = Network {
        prefix: "/vxlan/network".into(),
        public_ip: PublicIp::Addresses(vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]),
        lease_ttl: Duration::from_secs(9000),
        bridge: "docker0".into(),
        domain: Some("adit.example.org".into()),
        tls_ca: Some("ca.pem".into()),
        tls_cert: Some("/etc/ssl/node.pem".into()),
        tls_key: Some("node.key".into()),
        user: Some("adit".into()),
        password_file: Some("etcd.password".into()),
        plain: true,
        plain_from: vec!["192.0.2.0/24".parse().unwrap()],
        ip_masq: false,
        forward_rules: false,
        subnet_files: vec!["/run/adit/subnet.env".into(), "/run/flannel/subnet.env".into()],
        registry_listen: "192.0.2.1:7781".parse().unwrap(),
        ..Network::new(RegistryAt::Endpoints(urls.to_vec()), "berlin".into())
    };
    assert_eq!(tunnel.network, Some(expected));
    // A card instead of addresses, one URL instead of a list, and what may be said twice.
    let other = |line: &str| parse(&node_at("\"https://192.0.2.1:2379\"", line)).unwrap().network.unwrap();
    assert_eq!(other("interface = \"eth0\"\npublic-ip = \"auto\"").public_ip, PublicIp::Interface("eth0".into()));
    assert_eq!(other("public-ip = \"auto\"").registry, RegistryAt::Endpoints(vec!["https://192.0.2.1:2379".into()]));
    assert_eq!(parse(&node("plain = false")).unwrap().network.unwrap().plain_from, []);
    for none in ["domain = \"\"", "domain = \"off\""] {
        assert_eq!(parse(&node(none)).unwrap().network.unwrap().domain, None);
    }
    // Relative paths start at the file.
    let path = Path::new("/etc/adit/adit.toml");
    let text = node_at("\"https://192.0.2.1:2379\"", "tls-ca = \"ca.pem\"");
    let network = config::parse(path, text).unwrap().network.unwrap();
    assert_eq!(network.tls_ca, Some("/etc/adit/ca.pem".into()));
}

#[test]
fn a_secret_of_a_network_has_a_key_beside_it() {
    let text = |device: &str| {
        format!("[device]\n{device}\n{}", node_at("\"http://192.0.2.1:2379\"", "secret-file = \"preshared.key\""))
    };
    let keys = Keys::new(&text("private-key-file = \"private.key\""));
    let tunnel = config::load(&keys.configuration()).unwrap();
    assert!(tunnel.device.private_key.is_some());
    assert_eq!(tunnel.network.unwrap().secret_file, Some(keys.directory.path().join("preshared.key")));
    let fault = Keys::new(&text("")).fault();
    assert!(fault.contains("needs a key of this node") && fault.contains("adit keygen > private.key"), "{fault}");
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
pub(crate) const PRIVATE_KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n";

/// RFC 7748, section 5.2: a scalar, which is nobody's key in these tests but ours.
pub(crate) const OUR_KEY: &str = "pUbjasNn+PL/B2DL6iyxPr5sjhZG8w3xh0mBEcCxLNI=\n";

/// 32 bytes 0xab.
pub(crate) const PRESHARED_KEY: &str = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=\n";

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
fn two_encrypted_transports_take_two_keys() {
    let both = |keys: &str| {
        let peer = |name: &str, ip: &str, public: &str, transport: &str| {
            format!(
                "[[peer]]\nname = \"{name}\"\npublic-key = \"{public}\"\nallowed-ips = [\"{ip}\"]\ntransport = \"{transport}\"\n"
            )
        };
        let peers = peer("oslo", "10.77.0.3", BOB, "sealed")
            + &peer("rome", "10.77.0.4", "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Es=", "wireguard");
        format!("[device]\naddresses = [\"10.77.0.1/24\"]\n{keys}\n{peers}")
    };
    let keys = Keys::new(&both("private-key-file = \"a\"\nwireguard-private-key-file = \"b\""));
    keys.write("a", PRIVATE_KEY, 0o600);
    keys.write("b", PRIVATE_KEY, 0o600);
    let fault = keys.fault();
    assert!(fault.contains("tunnel.toml:4:") && fault.contains("must not serve both"), "{fault}");
    keys.write("b", OUR_KEY, 0o600);
    let tunnel = config::load(&keys.configuration()).unwrap();
    let [one, two] =
        [tunnel.device.private_key, tunnel.device.wireguard_private_key].map(|key| key.unwrap().public_key());
    assert_ne!(one, two);
    // For wireguard alone either name will do.
    let wireguard =
        both("wireguard-private-key-file = \"b\"").replace("transport = \"sealed\"", "transport = \"wireguard\"");
    fs::write(keys.configuration(), wireguard).unwrap();
    let device = config::load(&keys.configuration()).unwrap().device;
    assert!(device.private_key.is_none() && device.wireguard_private_key.unwrap().public_key() == two);
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
    check("missing", &["preshared key file", "does not exist", "umask 077", "keygen --preshared > ", "the peer"]);
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
    check("our private key", &["is our private key", "\"berlin\" must not know", "keygen --preshared"]);
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

#[test]
fn a_switch_has_what_bridges_have_by_default() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("t.toml");
    fs::write(directory.path().join("private.key"), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=\n").unwrap();
    fs::set_permissions(directory.path().join("private.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let read = |text: String| {
        fs::write(&file, text).unwrap();
        config::load(&file).unwrap()
    };
    let tunnel = read(texts::switched("").replace("addresses = [\"10.77.0.1/24\"]\n", ""));
    let ethernet = tunnel.ethernet.unwrap();
    assert_eq!((ethernet.bridge, ethernet.reserve.len()), (None, 0));
    assert_eq!(ethernet.switch, tunnel::switch::Settings::default());
    assert!(tunnel.device.addresses.is_empty() && tunnel.peers[0].allowed_ips.is_empty());
    let all = "macs = [\"52:54:00:12:34:56\", \"52-54-00-12-34-56\"]\n[switch]\nage = \"10s\"\nmacs-per-peer = 16384\nstorm-limit = 10\nstp = true\nsuppress = false";
    let reserve = "reserve = [\"10.77.0.128/25\"]";
    let text = texts::switched(all).replace("mode", &format!("bridge = \"br0\"\n{reserve}\nmode"));
    let tunnel = read(text);
    let macs = tunnel.peers[0].macs.clone();
    let ethernet = tunnel.ethernet.unwrap();
    assert_eq!((ethernet.bridge.as_deref(), ethernet.reserve), (Some("br0"), vec!["10.77.0.128/25".parse().unwrap()]));
    let settings = tunnel::switch::Settings {
        age: Duration::from_secs(10),
        macs_per_peer: 16384,
        storm_limit: 10,
        stp: true,
        suppress: false,
    };
    assert_eq!(ethernet.switch, settings);
    assert_eq!(macs, ["52:54:00:12:34:56".parse().unwrap()]);
}

#[test]
fn what_may_be_seen_is_nothing_by_default() {
    assert_eq!(parse(LEAST).unwrap().observe, adit::config::Observe::default());
    let read = |line: &str| parse(&texts::observe(line)).unwrap().observe;
    let all = read("listen = \"[::1]:7790\"\nallow = [\"trace\", \"bench\"]");
    let at = adit::config::ObserveAt::Tcp("[::1]:7790".parse().unwrap());
    assert_eq!((all.listen, all.trace, all.bench), (Some(at), true, true));
    let some = read("listen = \"unix:/run/adit/page.sock\"\nallow = [\"trace\"]");
    let at = adit::config::ObserveAt::Unix("/run/adit/page.sock".into());
    assert_eq!((some.listen, some.trace, some.bench), (Some(at), true, false));
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
        whole in prop::sample::select(vec![
            WHOLE.to_owned(),
            plain_beside_sealed(""),
            sealed("keepalive = \"25s\""),
            node("lease-ttl = \"5s\"\npublic-ip = [\"192.0.2.1\"]\nsubnet-files = [\"/run/adit/subnet.env\"]"),
        ]),
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
        section in 0..5_usize,
        key in prop::sample::select(vec![
            "name", "mode", "addresses", "mtu", "private-key-file", "wireguard-private-key-file", "listen", "workers", "offload", "busy-poll",
            "table", "dns", "fwmark",
            "public-key", "endpoint", "allowed-ips", "transport", "preshared-key-file", "keepalive",
            "node-name", "prefix", "public-ip", "interface", "lease-ttl", "bridge", "tls-ca", "user", "secret-file", "plain",
            "plain-from", "ip-masq", "subnet-files", "registry-listen", "allow",
        ]),
        value in prop_oneof![
            "\"[^\"\\\\]{0,30}\"", "-?[0-9]{1,20}", Just("true".to_owned()), Just("1.5".to_owned()),
            Just("1979-05-27".to_owned()), "\\[(\"[0-9a-f.:/]{0,20}\",?){0,3}\\]", Just("{ a = 1 }".to_owned()),
        ],
    ) {
        let header = ["[device]", "[transport]", "[[peer]]", "[network]\nregistry = \"embedded\"", "[observe]"][section];
        let text = format!("{header}\n{key} = {value}\n");
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}
