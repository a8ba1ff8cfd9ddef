//! Kinds of networks: both families, ones without a way out, and Docker's own bridge with the node's addresses.

use crate::bed::fake::FakeHost;
use crate::bed::image::Image;
use crate::bed::{Bed, wait_for};
use crate::engine::{Engine, plugin, records};

#[test]
fn both_families_and_networks_without_a_way_out() {
    let bed = Bed::new(2);
    let hosts: Vec<_> = bed.hosts.iter().map(FakeHost::new).collect();
    let token = hosts[0].init(&["--ipv6-network", "fd42::/48"]);
    let _node1 = hosts[0].up();
    hosts[1].join(&token);
    let _node2 = hosts[1].up();
    let engines: Vec<_> = hosts.iter().map(|host| Engine::start(host, &[])).collect();
    let image = Image::new();
    let _plugins: Vec<_> = hosts.iter().map(|host| plugin(host, &[])).collect();
    for engine in &engines {
        // As later engines do for IPv6 what this one does for IPv4 alone.
        engine.host.shell("ip6tables -N DOCKER-USER; ip6tables -A FORWARD -j DOCKER-USER; ip6tables -P FORWARD DROP");
        engine.import(&image);
        engine.network("both", &["--ipv6", "-o", "mtu=1300"]);
    }
    let here = engines[0].container("here", &["--network", "both", "-p", "[2001:db8::1]:8080:80", "-p", "8081:80"]);
    let there = engines[1].container("there", &["--network", "both"]);
    assert_eq!((here.addresses().len(), there.addresses().len()), (2, 2));
    assert_eq!(there.exec("ip link show eth0 | grep -o 'mtu [0-9]*'").1, "mtu 1300");
    wait_for("rules of IPv6", || (!engines[1].docker_user("ip6tables").is_empty()).then_some(()));
    here.talks(&there);
    assert_eq!(engines[0].fetch("http://[2001:db8::1]:8080").as_deref(), Some("here"));
    assert_eq!(engines[1].fetch("http://[2001:db8::1]:8081").as_deref(), Some("here"));
    assert_eq!(there.exec("wget -qO- 'http://[2001:db8::1]:8081'"), (true, "here".into()));

    // An address of the other family would lead published ports to nobody.
    engines[0].network("four", &[]);
    let four = engines[0].container("four", &["--network", "four", "-p", "8082:80"]);
    assert_eq!(four.addresses().len(), 1);
    let rules = hosts[0].shell("nft list table inet adit-adit0-ports");
    assert_eq!(rules.matches("dport 8082 dnat").count(), 2, "{rules}");

    engines[0].network("inner", &["--internal"]);
    let inner = engines[0].container("inner", &["--network", "inner"]);
    inner.reaches(there.address());
    there.reaches(inner.address());
    assert!(!inner.exec("ip route").1.contains("default"));
    assert!(!inner.pings("192.0.2.2".parse().unwrap()), "there is no way out");

    // A container of another network comes to ours, and goes. Docker's own networks take no notice of ours.
    engines[0].docker(&["network", "create", "plain"]);
    let late = engines[0].container("late", &["--network", "plain", "-p", "8083:80"]);
    engines[0].docker(&["network", "connect", "both", "late"]);
    let device = late.exec("ip -4 -o address show eth1 | awk '{ print $4 }'").1;
    let address = device.split('/').next().unwrap().parse().unwrap();
    there.reaches(address);
    assert_eq!(engines[1].fetch("http://192.0.2.1:8083").as_deref(), Some("late"));
    let count = records(&hosts[0]);
    engines[0].docker(&["network", "disconnect", "both", "late"]);
    assert_eq!(records(&hosts[0]), count - 1);
    assert!(!there.pings(address));

    for container in [here, there, four, inner, late] {
        container.remove();
    }
    assert_eq!(hosts.iter().map(records).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn the_engines_own_bridge_has_the_nodes_addresses() {
    let bed = Bed::new(2);
    let hosts: Vec<_> = bed.hosts.iter().map(FakeHost::new).collect();
    let token = hosts[0].init(&[]);
    let _node1 = hosts[0].up();
    hosts[1].join(&token);
    let _node2 = hosts[1].up();
    let image = Image::new();
    let engines: Vec<_> = hosts
        .iter()
        .map(|host| {
            // The MTU is another when the other node is heard of.
            let options = wait_for("options as the node has it", || {
                let options = host.adit(&["docker-options"]);
                let bridge = host.subnet_env("FLANNEL_SUBNET");
                let mtu = host.subnet_env("FLANNEL_MTU");
                (options.trim() == format!("--bip={bridge} --mtu={mtu} --ip-masq=false")).then_some(options)
            });
            let engine = Engine::start(host, &options.split_whitespace().collect::<Vec<_>>());
            engine.import(&image);
            engine
        })
        .collect();
    let here = engines[0].container("here", &["-p", "8080:80"]);
    let there = engines[1].container("there", &[]);
    assert!(!here.pings(there.address()), "Docker drops what it forwards for others");
    for host in &hosts {
        host.shell("iptables -I DOCKER-USER -i adit0 -o docker0 -j ACCEPT");
    }
    here.talks(&there);
    assert_eq!(there.exec("wget -qO- http://192.0.2.1:8080"), (true, "here".into()));
    // As another's file, that Docker reads.
    let keys: serde_json::Value = serde_json::from_str(&hosts[0].adit(&["docker-options", "--json"])).unwrap();
    assert_eq!(keys["bip"], hosts[0].subnet_env("FLANNEL_SUBNET"));
}
