//! What is shown with each runtime: that containers on two hosts are one network.

use std::time::Instant;

use ipnet::IpNet;

use crate::bed::Bed;
use crate::bed::fake::{FakeHost, Inside};

/// Two hosts that are nodes of one network.
pub(crate) struct Two<'b> {
    pub(crate) hosts: [FakeHost<'b>; 2],
}

impl<'b> Two<'b> {
    pub(crate) fn new(bed: &'b Bed) -> Self {
        Self { hosts: [FakeHost::new(bed.host(1)), FakeHost::new(bed.host(2))] }
    }

    /// Makes the network; the daemons end with what is answered.
    pub(crate) fn up(&self, arguments: &[&str]) -> [Inside<'_, 'b>; 2] {
        let [one, two] = &self.hosts;
        let token = one.init(arguments);
        let first = one.up();
        two.join(&token);
        [first, two.up()]
    }
}

/// Bytes that the file has which is fetched from one container by another.
pub(crate) const MIB: u64 = 200;

/// Says how fast something went, for whoever reads the output of a test.
pub(crate) fn tell_speed(what: &str, start: Instant) {
    let rate = (MIB << 23) as f64 / start.elapsed().as_secs_f64() / 1e9;
    println!("{what}: {MIB} MiB, {rate:.2} Gbit/s");
}

/// A list of plugins as it is written for the stock bridge from what the node has: flannel's plugin makes the same of `subnet.env`.
pub(crate) fn stock_conflist(host: &FakeHost<'_>, name: &str) -> String {
    let (subnet, mtu) = (host.subnet_env("FLANNEL_SUBNET"), host.subnet_env("FLANNEL_MTU"));
    let gateway: IpNet = subnet.parse().unwrap();
    let network = host.subnet_env("FLANNEL_NETWORK");
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "{name}", "plugins": [
  {{"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": false, "hairpinMode": true, "mtu": {mtu},
    "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{}", "gateway": "{}"}}]], "routes": [{{"dst": "{network}"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        gateway.trunc(),
        gateway.addr()
    )
}
