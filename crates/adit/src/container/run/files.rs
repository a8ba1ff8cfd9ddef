//! What files of `/etc` say inside: by whom names are resolved, and what our own is.

use std::fs;
use std::net::IpAddr;

use crate::container::{Node, Record};

/// As many resolvers are asked (`MAXNS` of resolv.h).
const RESOLVERS: usize = 3;

/// How the host resolves names: the lines of its `resolv.conf` that are of use inside.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    resolvers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Host {
    /// That of this host. Where the node resolves `names`, the host's own resolvers are not asked.
    pub(super) fn read(names: bool) -> Self {
        let read = |path: &str| Self::parse(&fs::read_to_string(path).unwrap_or_default());
        let host = read("/etc/resolv.conf");
        // A resolver at a loopback address is reached from its own namespace alone. systemd's says whom it asks itself.
        let upstream = if host.resolvers.is_empty() && !names {
            read("/run/systemd/resolve/resolv.conf").resolvers
        } else {
            Vec::new()
        };
        if host.resolvers.is_empty() && upstream.is_empty() && !names {
            tracing::warn!(
                "names are not resolved inside: the network has none, and the resolvers of this host are on itself"
            );
        }
        Self { resolvers: [host.resolvers.clone(), upstream].concat(), ..host }
    }

    fn parse(text: &str) -> Self {
        let mut host = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(keyword), words) = (words.next(), words.map(str::to_owned)) else { continue };
            match keyword {
                "nameserver" => host.resolvers.extend(words.take(1).filter(|text| !is_loopback(text))),
                // The last one counts (resolv.conf(5)).
                "search" | "domain" => host.search = words.collect(),
                "options" => host.options.extend(words),
                _ => {}
            }
        }
        host
    }

    /// `/etc/resolv.conf` inside: the node's resolver, which asks the host's for what it does not know, or else the host's own.
    pub(super) fn resolv_conf(&self, node: &Node) -> String {
        let mut text = String::from("# Written by adit run, for this container alone.\n");
        let mut search = Vec::new();
        let resolvers: Vec<String> = match &node.domain {
            Some(domain) => {
                search.extend([format!("{}.{domain}", node.name), domain.clone()]);
                node.gateways().map(|net| net.addr().to_string()).collect()
            }
            None => self.resolvers.clone(),
        };
        search.extend(self.search.iter().cloned());
        for resolver in resolvers.iter().take(RESOLVERS) {
            text.push_str(&format!("nameserver {resolver}\n"));
        }
        for (keyword, words) in [("search", &search), ("options", &self.options)] {
            if !words.is_empty() {
                text.push_str(&format!("{keyword} {}\n", words.join(" ")));
            }
        }
        text
    }
}

fn is_loopback(text: &str) -> bool {
    // One of IPv6 may name its device: fe80::1%eth0.
    let address = text.split('%').next().unwrap_or(text);
    address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

/// `/etc/hosts` inside: its own names.
pub(super) fn hosts(node: &Node, record: &Record, name: &str, hostname: &str) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    let mut names = Vec::new();
    if let Some(domain) = &node.domain {
        names.push(format!("{name}.{}.{domain}", node.name));
    }
    names.push(name.to_owned());
    if hostname != name {
        names.push(hostname.to_owned());
    }
    for address in &record.addresses {
        text.push_str(&format!("{} {}\n", address.addr(), names.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::record::tests::record;

    fn node(domain: Option<&str>, subnets: &[&str]) -> Node {
        Node {
            device: "adit0".into(),
            name: "berlin".into(),
            domain: domain.map(str::to_owned),
            bridge: "adit-br0".into(),
            networks: Vec::new(),
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1420,
            clients: Vec::new(),
            containers: None,
        }
    }

    const HOST: &str = "# a comment\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver ::1\nnameserver fe80::1%eth0\ndomain old.example\n\
                        search example.org corp.example\noptions edns0\noptions trust-ad\nsortlist 10.0.0.0\nnameserver\n";

    #[test]
    fn the_node_resolves_names_where_it_does() {
        let node = node(Some("adit"), &["10.42.7.0/24", "fd77:0:0:7::/64"]);
        assert_eq!(
            Host::parse(HOST).resolv_conf(&node).split_once('\n').unwrap().1,
            "nameserver 10.42.7.1\nnameserver fd77:0:0:7::1\nsearch berlin.adit adit example.org corp.example\noptions edns0 trust-ad\n"
        );
    }

    #[test]
    fn else_the_hosts_resolvers_are_asked_as_far_as_they_can_be_reached() {
        let node = node(None, &["10.42.7.0/24"]);
        assert_eq!(
            Host::parse(HOST).resolv_conf(&node).split_once('\n').unwrap().1,
            "nameserver 192.0.2.53\nnameserver fe80::1%eth0\nsearch example.org corp.example\noptions edns0 trust-ad\n"
        );
        assert_eq!(Host::parse("").resolv_conf(&node).lines().count(), 1);
    }

    #[test]
    fn a_container_knows_its_own_names() {
        let record = record("c1", &["10.42.7.2/24", "fd77::2/64"]);
        let [with, without] = [Some("adit"), None].map(|domain| node(domain, &["10.42.7.0/24"]));
        let text = hosts(&with, &record, "web", "web");
        assert!(text.ends_with("\n10.42.7.2 web.berlin.adit web\nfd77::2 web.berlin.adit web\n"), "{text}");
        let text = hosts(&without, &record, "web", "www.example.org");
        assert!(text.ends_with("\n10.42.7.2 web www.example.org\nfd77::2 web www.example.org\n"), "{text}");
    }
}
