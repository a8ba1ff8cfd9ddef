//! Plugins of others with our subnet: `bridge` and `host-local`, configured from `subnet.env` as flannel's CNI plugin does it.

use std::time::Instant;

use ipnet::IpNet;
use serde_json::json;

use crate::bed::Bed;
use crate::bed::fake::FakeHost;
use crate::bed::image::Image;
use crate::podman::Podman;
use crate::story::{FEW_MIB, SERVE, Two, tell_speed};

/// The list of plugins that comes with flannel, with what its plugin has `bridge` do in its place: all that it knows is in `subnet.env`. Debian has no
/// package of that plugin.
fn conflist(host: &FakeHost<'_>) -> String {
    let subnets = ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"].map(|name| {
        let bridge: IpNet = host.subnet_env(name).parse().unwrap();
        json!([{"subnet": bridge.trunc()}])
    });
    let routes = ["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"].map(|name| json!({"dst": host.subnet_env(name)}));
    let bridge = json!({
        "type": "bridge",
        "hairpinMode": true,
        "isDefaultGateway": true,
        "isGateway": true,
        "ipMasq": host.subnet_env("FLANNEL_IPMASQ") != "true",
        "mtu": host.subnet_env("FLANNEL_MTU").parse::<u32>().unwrap(),
        "ipam": {"type": "host-local", "ranges": subnets, "routes": routes},
    });
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [bridge, portmap]}).to_string()
}

#[test]
fn podman_with_the_stock_bridge_in_our_subnet() {
    let bed = Bed::new(2);
    let two = Two::new(&bed);
    let _daemons = two.up(&["--ipv6-network", "fd42::/48"]);
    let image = Image::new();
    let [first, second] = two.hosts.each_ref().map(|host| {
        host.write("/etc/cni/net.d/10-flannel.conflist", &conflist(host));
        Podman::new(host, &image, "cbr0")
    });
    let web = first.start("web", &["-p", "8080:80"], SERVE);
    let other = second.start("other", &[], &["sleep", "600"]);
    first.reaches("web", &other);
    second.reaches("other", &web);
    let listed = second.shell("other", "ip -6 address show dev eth0 scope global");
    let address =
        listed.split_whitespace().find_map(|word| word.strip_suffix("/64")).unwrap_or_else(|| panic!("{listed}"));
    first.reaches("web", address);
    let sum = first
        .shell("web", &format!("dd if=/dev/urandom of=/www/big bs=1M count={FEW_MIB} 2>/dev/null; md5sum </www/big"));
    let start = Instant::now();
    assert_eq!(second.shell("other", &format!("wget -qO- http://{web}/big | md5sum")), sum);
    tell_speed("podman, stock bridge", FEW_MIB, start);
    let page = two.hosts[1].shell("busybox wget -qO- http://192.0.2.1:8080/big | head -c 100 | wc -c");
    assert_eq!(page.trim(), "100");
}
