//! Stock plugins behind ours in a list, as runtimes chain them: each gets the result of the one before, and DEL goes the other way round.

use serde_json::{Value, json};

use crate::world::{Ask, Container, Host, ips, key, run};

/// The first version with CHECK, and the last that Debian's stock plugins speak.
const CHECKED: [&str; 2] = ["0.4.0", "1.0.0"];

struct Chain<'a> {
    host: &'a Host,
    container: &'a Container,
    version: &'a str,
    /// Names of plugins behind ours, each with its configuration.
    behind: &'a [(&'a str, Value)],
}

impl Chain<'_> {
    fn asks(&self, verb: &str) -> Vec<Ask<'_>> {
        let first = self.host.ours(verb, self.container).version(self.version);
        let behind = self.behind.iter().map(|(name, value)| first.clone().plugin(name, value.clone()));
        std::iter::once(first.clone()).chain(behind).collect()
    }

    fn add(&self) -> Value {
        let mut result = Value::Null;
        for ask in self.asks("ADD") {
            result = if result.is_null() { ask } else { ask.previous(&result) }.result();
        }
        result
    }

    fn check(&self, result: &Value) {
        // The stock portmap of Debian 12 looks for the rules of one family in the table of the other, so that its CHECK never succeeds.
        let names = std::iter::once("adit").chain(self.behind.iter().map(|(name, _)| *name));
        let asks = self.asks("CHECK").into_iter().zip(names).filter(|(_, name)| *name != "portmap");
        asks.for_each(|(ask, _)| ask.previous(result).done());
    }

    fn del(&self, result: &Value) {
        self.asks("DEL").into_iter().rev().for_each(|ask| ask.previous(result).done());
    }
}

/// Adds, checks and removes by a chain, with a look at what it did in between.
fn chained(behind: &[(&str, Value)], look: impl Fn(&Host, &Container, &Value)) {
    for version in CHECKED {
        let (host, container) = (Host::new(), Container::new("c1"));
        let chain = Chain { host: &host, container: &container, version, behind };
        let result = chain.add();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(ips(&result, "address"), ["10.42.7.2/24", "fd42:0:0:7::2/64"]);
        chain.check(&result);
        look(&host, &container, &result);
        chain.del(&result);
        chain.del(&result);
        assert!(container.link("eth0").is_none());
        assert!(host.records().is_empty());
        assert!(host.netlink().link("adit-br0").unwrap().is_none());
    }
}

#[test]
fn tuning_finds_the_interface() {
    let tuning = json!({"sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}});
    chained(&[("tuning", tuning)], |_, container, _| {
        let value = run(&container.namespace, "sysctl", &["-n", "net.ipv4.conf.eth0.arp_filter"]);
        assert_eq!(value.trim(), "1");
    });
}

#[test]
fn bandwidth_finds_the_end_on_the_host() {
    let bandwidth =
        json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000});
    chained(&[("bandwidth", bandwidth)], |host, container, _| {
        let end = key(container, "eth0").host_interface();
        let shown = host.run("tc", &["qdisc", "show", "dev", &end]);
        assert!(shown.contains("tbf"), "{shown}");
        container.reaches("10.42.7.1".parse().unwrap());
    });
}

#[test]
fn portmap_leads_to_the_container() {
    let ports =
        json!({"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}});
    chained(&[("portmap", ports)], |host, _, _| {
        let rules = host.run("iptables-save", &["-t", "nat"]);
        assert!(rules.contains("10.42.7.2:80"), "{rules}");
    });
}

#[test]
fn several_stand_behind_one_another() {
    let portmap =
        json!({"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}});
    let firewall = json!({"backend": "iptables"});
    let tuning = json!({"sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}});
    let bandwidth = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000});
    let all = [("portmap", portmap), ("firewall", firewall), ("tuning", tuning), ("bandwidth", bandwidth)];
    chained(&all, |host, container, result| {
        container.reaches("10.42.7.1".parse().unwrap());
        // Another plugin took from the container what the chain does not know of.
        let mut changed = result.clone();
        changed["interfaces"][2]["name"] = "eth7".into();
        host.ours("CHECK", container).previous(&changed).error();
    });
}
