//! The table of faults of `[network]`.

use crate::faults::Case;
use crate::texts::{BOB, NODE, device, node, node_at};

pub(crate) fn cases() -> Vec<Case> {
    let etcd = "\"https://192.0.2.1:2379\"";
    let with_etcd = |line: &str| node_at(etcd, line);
    let with_peer = |transport: &str| {
        format!(
            "{NODE}[[peer]]\nname = \"laptop\"\npublic-key = \"{BOB}\"\nallowed-ips = [\"10.9.0.9\"]\n{transport}\n"
        )
    };
    vec![
        ("network without registry", "[network]\nnode-name = \"a\"\n".into(), 1, &["no registry", "\"embedded\""]),
        ("network a string", "network = \"x\"\n".into(), 1, &["must be a table, written [network]"]),
        ("registry a word", node_at("\"embeded\"", ""), 2, &["\"embeded\" is not a registry", "\"embedded\""]),
        (
            "registry without scheme",
            node_at("\"192.0.2.1:2379\"", ""),
            2,
            &["not a registry", "https://192.0.2.1:2379"],
        ),
        ("registry without port", node_at("\"https://192.0.2.1\"", ""), 2, &["no host and port"]),
        ("registry with a path", node_at("\"https://192.0.2.1:2379/v3\"", ""), 2, &["more than scheme, host and port"]),
        ("registry empty list", node_at("[]", ""), 2, &["a list of 0 URLs", "1 to 32"]),
        ("registry twice", node_at(&format!("[{etcd}, {etcd}]"), ""), 2, &["is there already"]),
        ("registry here and there", node_at(&format!("[{etcd}, \"embedded\"]"), ""), 2, &["cannot stand beside URLs"]),
        ("registry a number", node_at("7", ""), 2, &["\"registry\" in [network] must be \"embedded\", a URL"]),
        ("node name with space", NODE.replace("berlin", "ber lin"), 3, &["\"ber lin\" is not a node name", "1 to 63"]),
        ("prefix without slash", node("prefix = \"coreos.com\""), 4, &["not a prefix of keys", "begins with '/'"]),
        ("prefix with slash at its end", node("prefix = \"/a/\""), 4, &["not a prefix of keys"]),
        ("public-ip a name", node("public-ip = \"berlin\""), 4, &["\"berlin\" is not an address", "\"auto\""]),
        ("public-ip auto in a list", node("public-ip = [\"auto\", \"192.0.2.1\"]"), 4, &["is not an address"]),
        ("public-ip loopback", node("public-ip = [\"127.0.0.1\"]"), 4, &["no address where others reach this host"]),
        ("public-ip empty", node("public-ip = []"), 4, &["a list of 0 addresses", "1 to 8"]),
        ("public-ip twice", node("public-ip = [\"192.0.2.1\", \"::ffff:192.0.2.1\"]"), 4, &["there already"]),
        (
            "public-ip too many",
            node(
                "public-ip = [\"192.0.2.1\",\"192.0.2.2\",\"192.0.2.3\",\"192.0.2.4\",\"192.0.2.5\",\"192.0.2.6\",\"192.0.2.7\",\"192.0.2.8\",\"192.0.2.9\"]",
            ),
            4,
            &["a list of 9 addresses"],
        ),
        ("interface beside addresses", node("interface = \"eth0\"\npublic-ip = \"192.0.2.1\""), 4, &["one of the two"]),
        ("interface no name", node("interface = \"eth 0\""), 4, &["\"eth 0\" is not the name of a card", "ip link"]),
        ("lease without unit", node("lease-ttl = \"24\""), 4, &["not a duration", "\"24h\""]),
        ("lease a number", node("lease-ttl = 24"), 4, &["must be a string such as \"24h\""]),
        ("lease too short", node("lease-ttl = \"4s\""), 4, &["too short for a lease", "\"5s\""]),
        ("lease with a fraction", node("lease-ttl = \"5500ms\""), 4, &["whole seconds"]),
        ("lease too long", node("lease-ttl = \"11years\""), 4, &["too long for a lease"]),
        ("bridge is the device", node("bridge = \"adit0\""), 4, &["the name of the device itself"]),
        ("bridge no name", node("bridge = \"a/b\""), 4, &["not a device name"]),
        ("bridge too long", node("bridge = \"adit-bridge-0001\""), 4, &["not a device name", "1 to 15 bytes"]),
        ("domain with a dot at its end", node("domain = \"adit.\""), 4, &["\"adit.\" is not a domain", "no names"]),
        ("domain with an underscore", node("domain = \"a_b\""), 4, &["is not a domain", "letters, digits and '-'"]),
        ("domain not a string", node("domain = false"), 4, &["must be a string such as \"adit\""]),
        ("certificate without key", with_etcd("tls-cert = \"a.pem\""), 4, &["has no key", "tls-key"]),
        ("key without certificate", with_etcd("tls-key = \"a.pem\""), 4, &["has no certificate", "tls-cert"]),
        ("user without password", with_etcd("user = \"adit\""), 4, &["has no password", "password-file"]),
        ("password without user", with_etcd("password-file = \"p\""), 4, &["has no user", "user = "]),
        ("user empty", with_etcd("user = \"\"\npassword-file = \"p\""), 4, &["not a user of etcd"]),
        ("password itself", with_etcd("password = \"p\""), 4, &["unknown key", "\"password-file\"?"]),
        (
            "authority for a registry here",
            node("tls-ca = \"ca.pem\""),
            4,
            &["tls-ca is for a registry elsewhere", "remove it"],
        ),
        (
            "user of a registry here",
            node("user = \"a\"\npassword-file = \"p\""),
            4,
            &["user is for a registry elsewhere"],
        ),
        ("secret of a registry here", node("secret-file = \"s\""), 4, &["network without an authority", "remove it"]),
        ("plain without networks", node("plain = true"), 4, &["whom to believe", "plain-from = ["]),
        ("plain from nowhere", node("plain = true\nplain-from = []"), 4, &["whom to believe"]),
        ("networks without plain", node("plain-from = [\"192.0.2.0/24\"]"), 4, &["no meaning without plain = true"]),
        ("plain from no network", node("plain = true\nplain-from = [\"192.0.2/24\"]"), 5, &["is not a prefix"]),
        ("ip-masq a word", node("ip-masq = \"yes\""), 4, &["must be true or false"]),
        ("ipmasq", node("ip_masq = true"), 4, &["unknown key \"ip_masq\" in [network]", "\"ip-masq\"?"]),
        ("subnet files empty", node("subnet-files = []"), 4, &["subnet-files is empty", "/run/adit/subnet.env"]),
        ("subnet file twice", node("subnet-files = [\"/run/a\", \"/run/a\"]"), 4, &["there already"]),
        ("subnet file a directory", node("subnet-files = [\"/run/flannel/\"]"), 4, &["not the path of a file"]),
        ("registry listens nowhere", node("registry-listen = \"[::]\""), 4, &["not an address and port", "[::]:7780"]),
        ("registry listens on port 0", node("registry-listen = \"[::]:0\""), 4, &["port 0", "7780"]),
        ("key of a network elsewhere", device("lease-ttl = \"24h\""), 2, &["it belongs in [network]"]),
        (
            "private key of a node",
            format!("[device]\nprivate-key-file = \"private.key\"\n{NODE}"),
            2,
            &["no place beside [network]", "`adit init` or `adit join`", "remove it"],
        ),
        (
            "wireguard key of a node",
            format!("[device]\nwireguard-private-key-file = \"w.key\"\n{NODE}"),
            2,
            &["wireguard-private-key-file has no place beside [network]"],
        ),
        ("empty addresses of a node", format!("[device]\naddresses = []\n{NODE}"), 2, &["needs an address"]),
        (
            "sealed peer of a node",
            with_peer("transport = \"sealed\""),
            8,
            &["cannot be sealed", "adit join", "\"wireguard\""],
        ),
        ("peer of a node, by default sealed", with_peer(""), 4, &["cannot be sealed"]),
        ("tap, in a network", format!("[device]\nmode = \"tap\"\n{NODE}"), 2, &["\"tap\"", "a network's node"]),
        ("MTU too large, in a network", format!("[device]\nmtu = 65476\n{NODE}"), 2, &["too large", "65475"]),
    ]
}
