//! Phones and laptops: with the stock WireGuard, through the node that serves them, to containers of all nodes and back.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use adit::api::status::ClientStatus;
use ipnet::IpNet;
use linux::netlink::{LinkChange, Route};

use crate::bed::traffic::{End, exchange_tcp};
use crate::bed::{Bed, Host, await_address, wait_for};
use crate::world::{Container, Daemon, Node, network};

/// A line of a wg-quick file.
fn value<'a>(conf: &'a str, key: &str) -> &'a str {
    conf.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap_or_else(|| panic!("{key} in {conf}"))
}

/// A client's addresses, one of each family.
fn addresses(conf: &str) -> Vec<IpAddr> {
    value(conf, "Address").split(", ").map(|net| net.parse::<IpNet>().unwrap().addr()).collect()
}

/// The ends of a client that is up on a host.
fn ends<'a>(host: &'a Host, conf: &str) -> Vec<End<'a>> {
    addresses(conf)
        .into_iter()
        .inspect(|a| await_address(&host.namespace, *a))
        .map(|a| End::new(&host.namespace, a))
        .collect()
}

/// A laptop with Debian's wireguard-go and `wg`. It is ended when this is dropped.
struct Laptop(Child);

impl Laptop {
    /// As wg-quick does it: keys and peers by `wg setconf`, addresses and routes by hand.
    fn new(host: &Host, device: &str, conf: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("wg.conf");
        let for_wg: Vec<_> = conf.lines().filter(|line| !line.starts_with("Address")).collect();
        fs::write(&file, for_wg.join("\n") + "\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = Command::new("wireguard-go");
        command.args(["-f", device]).env("LOG_LEVEL", "error").stdin(Stdio::null());
        let child = host.namespace.run(|| command.spawn()).unwrap().expect("wireguard-go");
        let laptop = Self(child);
        let wg = |arguments: &[&str]| {
            host.namespace.run(|| Command::new("wg").args(arguments).output()).unwrap().expect("wg").status.success()
        };
        wait_for("wireguard-go", || wg(&["show", device]).then_some(()));
        assert!(wg(&["setconf", device, file.to_str().unwrap()]));
        let mut netlink = host.netlink();
        let index = netlink.existing_link(device).unwrap().index;
        netlink.change_link(index, &LinkChange { mtu: Some(1420), up: Some(true), ..LinkChange::default() }).unwrap();
        for net in value(conf, "Address").split(", ") {
            netlink.add_address(index, net.parse().unwrap(), true).unwrap();
        }
        for net in value(conf, "AllowedIPs").split(", ") {
            netlink.add_route(&Route { device: Some(index), ..Route::new(net.parse().unwrap()) }).unwrap();
        }
        laptop
    }
}

impl Drop for Laptop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether one ping of the client's is answered.
fn pings(client: End<'_>, to: IpAddr) -> bool {
    let ping = || Command::new("ping").args(["-c", "1", "-W", "1", "-n", &to.to_string()]).output();
    client.namespace.run(ping).unwrap().unwrap().status.success()
}

/// Each reaches the other, by ping and by TCP of either's making, in both families.
fn both_ways(client: &[End<'_>], container: &Container) {
    for (client, address) in client.iter().zip(&container.addresses) {
        let there = End::new(&container.namespace, *address);
        wait_for(&format!("an answer of {address} to the client"), || pings(*client, *address).then_some(()));
        exchange_tcp(*client, there, 100_000, 150_000);
        exchange_tcp(there, *client, 80_000, 60_000);
        wait_for("an answer of the client", || container.pings(client.address).then_some(()));
    }
}

/// Nobody but the client has its key: neither as text nor as bytes.
fn key_is_kept_nowhere(node: &Node<'_>, conf: &str) {
    let key = value(conf, "PrivateKey");
    let mut bytes = [0; 33];
    let length = base64(key, &mut bytes);
    let hex = format!("{:02x?}", &bytes[..length]);
    let text = format!("{:02x?}", key.as_bytes());
    let part = |list: &str| list.trim_matches(['[', ']']).to_owned();
    for file in node.files().iter().filter(|file| file.starts_with("state/") || file.starts_with("run/")) {
        assert!(!file.contains(&part(&hex)) && !file.contains(&part(&text)), "the client's key is in {}", &file[..60]);
    }
    assert!(!node.log().contains(key));
}

fn base64(text: &str, bytes: &mut [u8]) -> usize {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.decode_slice(text, bytes).unwrap()
}

#[test]
fn clients_reach_all_nodes_through_theirs_and_are_reached_until_they_are_put_out() {
    let bed = Bed::new(5);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let mut daemons = network(&nodes[..3], &["--ipv6-network", "fd42::/48"]);
    let containers: Vec<_> = nodes[..3].iter().map(Node::container).collect();
    let serving = &nodes[1];
    let phone = serving.adit(&["client", "add", "phone"]);
    let laptop = serving.adit(&["client", "add", "laptop", "--conf"]);
    let subnets = daemons[1].network().subnets;
    for conf in [&phone, &laptop] {
        assert!(subnets.iter().zip(addresses(conf)).all(|(subnet, address)| subnet.contains(&address)), "{conf}");
        assert_eq!(addresses(conf).len(), 2);
    }
    assert_ne!(addresses(&phone), addresses(&laptop));
    assert!(value(&phone, "Endpoint").starts_with("192.0.2.2:"), "{phone}");
    assert_eq!(value(&phone, "AllowedIPs"), "10.42.0.0/16, fd42::/48");

    let list = || -> Vec<ClientStatus> { serde_json::from_str(&serving.adit(&["client", "list", "--json"])).unwrap() };
    let before = list();
    assert_eq!(before.iter().map(|client| client.name.as_str()).collect::<Vec<_>>(), ["phone", "laptop"]);
    assert_eq!(before[0].addresses.iter().map(IpNet::addr).collect::<Vec<_>>(), addresses(&phone));
    let table = serving.adit(&["client", "list"]);
    assert!(table.contains("laptop") && table.contains(&addresses(&laptop)[0].to_string()), "{table}");
    assert_eq!(nodes[0].adit(&["client", "list"]).lines().count(), 1, "they are of one node alone");

    // A restart changes nothing of it.
    daemons.remove(1).crash();
    daemons.insert(1, serving.up());
    assert_eq!(list(), before);

    // One has adit's own WireGuard, by the file as it is; one the stock one.
    let file = nodes[3].path("phone.conf");
    fs::write(&file, &phone).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let up = nodes[3].up_with(&["up", file.to_str().unwrap()]);
    let phone_ends = ends(nodes[3].host, &phone);
    let _stock = Laptop::new(nodes[4].host, "adit-laptop", &laptop);
    let laptop_ends = ends(nodes[4].host, &laptop);
    for container in &containers {
        both_ways(&phone_ends, container);
        both_ways(&laptop_ends, container);
    }
    // They reach each other as well.
    exchange_tcp(phone_ends[0], laptop_ends[0], 50_000, 50_000);
    for conf in [&phone, &laptop] {
        key_is_kept_nowhere(serving, conf);
    }

    put_out(serving, &daemons[1], "laptop", &laptop_ends, &containers);
    both_ways(&phone_ends, &containers[1]);
    // Its address is free again, and nobody else's in between.
    let tablet = serving.adit(&["client", "add", "tablet"]);
    assert_ne!(addresses(&tablet), addresses(&phone));
    put_out(serving, &daemons[1], "phone", &phone_ends, &containers);
    drop(up);
    // Containers of the serving node look for clients on their bridge, where the host answers for those that there are, and for no others.
    let answered = || serving.host.run("ip", &["neighbour", "show", "proxy"]);
    wait_for("the host to answer for one client", || (answered().lines().count() == 2).then_some(()));
    addresses(&tablet).iter().for_each(|address| assert!(answered().contains(&format!("{address} dev br0"))));
    serving.adit(&["client", "remove", "tablet"]);
    wait_for("nobody to be answered for", || answered().is_empty().then_some(()));
}

/// After `remove` nothing of the client arrives any more, and nothing goes to it.
fn put_out(node: &Node<'_>, daemon: &Daemon<'_, '_>, name: &str, client: &[End<'_>], containers: &[Container]) {
    assert!(node.adit(&["client", "remove", name]).contains(&format!("{name} is out")));
    let status = daemon.status();
    assert!(status.peers.iter().all(|peer| peer.name != name), "{:?}", status.peers);
    for container in containers {
        assert!(!pings(client[0], container.addresses[0]), "{name} reaches {}", container.address);
    }
    assert!(!pings(client[1], containers[1].addresses[1]) && !containers[0].pings(client[0].address));
}

/// Reads the code that is drawn in half blocks, light on dark, as a camera would see it in a terminal.
fn scan(drawn: &str) -> String {
    const SCALE: usize = 4;
    let rows: Vec<Vec<bool>> = drawn
        .lines()
        .flat_map(|line| {
            let half = |upper: bool| -> Vec<bool> {
                line.chars()
                    .map(|c| match c {
                        '\u{2588}' => true,
                        '\u{2580}' => upper,
                        '\u{2584}' => !upper,
                        ' ' => false,
                        other => panic!("{other:?} is drawn"),
                    })
                    .collect()
            };
            [half(true), half(false)]
        })
        .collect();
    // The terminal around it is dark.
    let margin = 3;
    let (width, height) = (rows[0].len() + 2 * margin, rows.len() + 2 * margin);
    let is_light = |x: usize, y: usize| {
        let module = |at: usize| (at / SCALE).checked_sub(margin);
        module(y).zip(module(x)).and_then(|(y, x)| rows.get(y)?.get(x).copied()).unwrap_or(false)
    };
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width * SCALE, height * SCALE, |x, y| {
        if is_light(x, y) { 255 } else { 0 }
    });
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "one code in\n{drawn}");
    grids[0].decode().unwrap().1
}

#[test]
fn a_code_in_the_terminal_says_what_the_file_says() {
    let bed = Bed::new(1);
    let node = Node::new(bed.host(1));
    node.init(&["--ipv6-network", "fd42::/48"]);
    let _daemon = node.up();
    let drawn = node.adit(&["client", "add", "phone", "--qr"]);
    assert!(drawn.lines().all(|line| line.chars().count() <= 80), "it fits a terminal:\n{drawn}");
    let text = scan(&drawn);
    let other = node.adit(&["client", "add", "laptop"]);
    let keys = |text: &str| text.lines().map(|line| line.split(" = ").next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(keys(&text), keys(&other));
    for same in ["PublicKey", "Endpoint", "AllowedIPs", "PersistentKeepalive"] {
        assert_eq!(value(&text, same), value(&other, same));
    }
    let status = node.adit(&["client", "list"]);
    for net in value(&text, "Address").split(", ") {
        let net: IpNet = net.parse().unwrap();
        assert!(status.contains(&net.addr().to_string()), "{status}");
    }
    key_is_kept_nowhere(&node, &text);
}
