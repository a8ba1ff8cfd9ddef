//! A device that carries frames, and the bridge it is a port of: whether frames get from one to the other, and whether they go round.

use linux::netlink::Link;
use linux::nft::Listing;

use super::super::facts::{Daemon, Host};
use super::super::firewall::{End, Owner, Packet, Pass, Place, place, remedy, walk, walk_bridge};
use super::super::{Check, Facts, Finding, Kind, word};
use crate::api::Status;
use crate::api::status::SwitchStatus;

/// As many ports of a bridge are named.
const NAMED: usize = 8;

static LOOP: Kind =
    Kind::broken("switch-loop", "the network behind the device is joined twice: a loop, which adit cuts where it can");
static UNPLUGGED: Kind =
    Kind::broken("switch-unplugged", "the device is no port of its bridge, or the bridge is down: nothing reaches it");
static FILTERED: Kind =
    Kind::broken("switch-filtered", "the firewall drops frames between the device and the other ports of its bridge");
static FULL: Kind = Kind::warning(
    "switch-full",
    "there was no room for a link-layer address: somebody sends from more of them than it may have",
);
static STORM: Kind = Kind::note("switch-storm", "frames for everybody were dropped, since there were too many of them");
static MTU: Kind = Kind::note("switch-mtu", "machines on the bridge may send longer packets than the device carries");

/// Switches.
pub(in super::super) const CHECK: Check = Check {
    id: "switch",
    title: "frames get from the bridge to the device and back, and do not go round",
    kinds: &[&LOOP, &UNPLUGGED, &FILTERED, &FULL, &STORM, &MTU],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        let Some(switch) = &status.switch else { continue };
        let mut found: Vec<Finding> = looped(switch).into_iter().collect();
        if let Some((bridge, device)) = switch.bridge.as_deref().zip(link(&facts.host, &daemon.device)) {
            match unplugged(facts, daemon, (bridge, device)) {
                Some(finding) => found.push(finding),
                None => {
                    found.extend(filtered(facts, (bridge, device)));
                    found.extend(longer(facts, daemon, (bridge, device)));
                }
            }
        }
        found.extend(full(switch));
        found.extend(storm(status));
        findings.extend(found.into_iter().map(|finding| finding.on(&daemon.device)));
    }
    findings
}

fn link<'a>(host: &'a Host, name: &str) -> Option<&'a Link> {
    host.links.iter().find(|link| link.name == name)
}

/// What else is plugged into a bridge.
fn others<'a>(host: &'a Host, device: &'a Link) -> impl Iterator<Item = &'a Link> {
    host.links.iter().filter(|port| port.controller == device.controller && port.index != device.index)
}

fn looped(switch: &SwitchStatus) -> Option<Finding> {
    let problem = switch.problem.as_ref()?;
    let finding = LOOP.found(problem.clone()).advise(
        "take one of the two ways away: what joins the bridges beside the tunnel, or the peer. Some five seconds later all is as before",
    );
    Some(match &switch.bridge {
        Some(bridge) => finding.run(format!("ip -brief link show master {}", word(bridge))),
        None => finding,
    })
}

fn unplugged(facts: &Facts, daemon: &Daemon, (bridge, device): (&str, &Link)) -> Option<Finding> {
    let name = &device.name;
    let Some(there) = link(&facts.host, bridge) else {
        let finding = UNPLUGGED
            .found(format!("{bridge}, of which {name} is to be a port, is not there"))
            .advise(format!(
                "one of adit's own is made again within two seconds, and else the log says why; one of somebody else's is his to make, and \
                 {name} is plugged into it as soon as it is there"
            ));
        return Some(match &daemon.unit {
            Some(unit) => finding.run(facts.as_root(format!("journalctl -u {} -n 20", word(unit)))),
            None => finding,
        });
    };
    if device.controller != Some(there.index) {
        let now = device.controller.map_or("of none".to_owned(), |index| format!("of {}", facts.host.device(index)));
        return Some(
            UNPLUGGED
                .found(format!("{name} is a port {now}, and not of {bridge}"))
                .advise("the daemon plugs it in again within two seconds: if that does not last, somebody takes it out each time")
                .run(facts.as_root(format!("ip link set {} master {}", word(name), word(bridge)))),
        );
    }
    (!there.up).then(|| {
        let finding = UNPLUGGED.found(format!("{bridge}, of which {name} is a port, is down"));
        finding.run(facts.as_root(format!("ip link set {} up", word(bridge))))
    })
}

/// What a bridge passes on meets the chains of bridges, and, with br_netfilter, those of forwarded packets too.
fn filtered(facts: &Facts, (bridge, device): (&str, &Link)) -> Vec<Finding> {
    let (Ok(listing), Some(port)) = (&facts.host.filters, others(&facts.host, device).next()) else {
        return Vec::new();
    };
    let mut findings: Vec<Finding> = Vec::new();
    let port = (port.name.clone(), port.index);
    let device = (device.name.clone(), device.index);
    for (from, to) in [(&port, &device), (&device, &port)] {
        for v6 in [false, true] {
            let frame = packet(v6, from, to);
            if let Some(end) = walk_bridge(listing, &frame).filter(|end| end.certain) {
                let finding = told(facts, listing, &end, (&from.0, &to.0));
                if !findings.contains(&finding) {
                    findings.push(finding);
                }
            }
        }
    }
    for (v6, setting) in [(false, "bridge-nf-call-iptables"), (true, "bridge-nf-call-ip6tables")] {
        let (Some(1), Some(index)) = (facts.host.setting(&["net", "bridge", setting]), facts.host.index(bridge)) else {
            continue;
        };
        let whole = (bridge.to_owned(), index);
        let end = walk(listing, &packet(v6, &whole, &whole), &[Place::Forward]).filter(|end| end.certain);
        findings.extend(end.map(|end| {
            told(facts, listing, &end, (bridge, bridge)).seen(format!("net.bridge.{setting} = 1")).advise(format!(
                "where nobody relies on filtered bridges (Kubernetes does), this helps as well: `sysctl -w net.bridge.{setting}=0`"
            ))
        }));
    }
    findings
}

fn packet(v6: bool, from: &(String, u32), to: &(String, u32)) -> Packet {
    Packet {
        v6,
        established: false,
        input: Some(from.clone()),
        output: Some(to.clone()),
        from: None,
        to: None,
        protocol: libc::IPPROTO_TCP as u8,
        source_port: None,
        port: None,
        icmp: None,
    }
}

fn told(facts: &Facts, listing: &Listing, end: &End, (from, to): (&str, &str)) -> Finding {
    let owner = Owner::of(end, listing);
    let way = if from == to { format!("goes over {from}") } else { format!("goes from {from} to {to}") };
    let finding = FILTERED.found(format!("{} drops what {way}", owner.name())).seen(place(end));
    remedy(finding, facts, listing, end, Pass::Between(from, to))
}

/// A bridge drops what is longer than the port it is to leave by, and tells nobody.
fn longer(facts: &Facts, daemon: &Daemon, (bridge, device): (&str, &Link)) -> Option<Finding> {
    let longer: Vec<&Link> = others(&facts.host, device).filter(|port| port.mtu > device.mtu).collect();
    let most = longer.iter().map(|port| port.mtu).max()?;
    let (name, mtu) = (&device.name, device.mtu);
    let mut ports: Vec<String> =
        longer.iter().take(NAMED).map(|port| format!("{} ({})", port.name, port.mtu)).collect();
    if longer.len() > NAMED {
        ports.push(format!("{} more", longer.len() - NAMED));
    }
    let finding = MTU
        .found(format!("machines on {bridge} may send packets of {most} bytes, and {name} carries {mtu}"))
        .seen(format!("ports of {bridge} with a larger MTU: {}", ports.join(", ")))
        .advise(format!(
            "TCP is told, and needs nothing; of datagrams the bridge drops what is longer. Where such are sent: write `mtu = {most}` under \
             [device] in {}, so that adit cuts them or tells their sender, or give the machines the MTU {mtu}",
            daemon.file()
        ));
    Some(finding)
}

fn full(switch: &SwitchStatus) -> Option<Finding> {
    let refused = Some(switch.refused).filter(|refused| *refused > 0)?;
    let mut finding = FULL.found(format!("{refused} times there was no room for a link-layer address"));
    if let Some((peer, count)) = switch.peers.iter().max_by_key(|(_, count)| **count) {
        finding = finding.seen(format!("the most are behind {peer}: {count}"));
    }
    Some(finding.seen(format!("on this side there are {}", switch.local_macs)).advise(
        "a machine that makes addresses up pushes out none but its own side's. Where so many are real, raise `macs-per-peer` under [switch]; \
         where they are not, `macs` holds a peer to the addresses you give it",
    ))
}

fn storm(status: &Status) -> Option<Finding> {
    let dropped = status.drops.get("storm").copied().filter(|dropped| *dropped > 0)?;
    let finding =
        STORM.found(format!("{dropped} frames for everybody were dropped, since a second had too many of them"));
    Some(finding.advise(
        "look who sends so many broadcasts; where they are meant, raise `storm-limit` under [switch]. The number counts from the daemon's start on",
    ))
}

#[cfg(test)]
mod tests {
    use linux::nft::Family;

    use super::super::super::facts::tests::{link, status};
    use super::super::super::firewall::tests::chain;
    use super::super::tests::{found, ids};
    use super::*;

    const BRIDGE: u32 = 5;

    /// A device that is a port of a bridge, beside a machine.
    fn plugged(facts: &mut Facts) {
        let switch = SwitchStatus { bridge: Some("br0".into()), ..SwitchStatus::default() };
        status(facts).switch = Some(switch);
        facts.host.links.push(link(BRIDGE, "br0", Some("bridge")));
        facts.host.links.push(Link { controller: Some(BRIDGE), ..link(6, "vnet0", Some("tun")) });
        device(facts).controller = Some(BRIDGE);
    }

    fn device(facts: &mut Facts) -> &mut Link {
        facts.host.links.iter_mut().find(|link| link.name == "adit0").unwrap()
    }

    fn seen(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
        found(&CHECK, |facts| {
            plugged(facts);
            change(facts);
        })
    }

    fn known(facts: &mut Facts) -> &mut SwitchStatus {
        status(facts).switch.as_mut().unwrap()
    }

    #[test]
    fn one_that_is_well_has_none_and_what_it_says_itself_is_told() {
        assert_eq!(seen(|_| ()), []);
        let findings = seen(|facts| known(facts).problem = Some("a loop: look".into()));
        assert_eq!((ids(&findings), &findings[0].sentence[..]), (vec!["switch-loop"], "a loop: look"));
        let findings = seen(|facts| {
            known(facts).refused = 7;
            known(facts).peers = [("oslo".to_owned(), 3), ("paris".to_owned(), 1024)].into();
            status(facts).drops.insert("storm".into(), 9);
        });
        assert_eq!(ids(&findings), ["switch-full", "switch-storm"]);
        assert!(findings[0].evidence[0].contains("paris: 1024"), "{findings:?}");
    }

    #[test]
    fn a_device_that_is_not_plugged_in_is_told_with_the_cause() {
        type Change = fn(&mut Facts);
        let cases: [(Change, &str); 4] = [
            (|facts| device(facts).controller = None, "ip link set adit0 master br0"),
            (|facts| device(facts).controller = Some(2), "ip link set adit0 master br0"),
            (|facts| facts.host.links.retain(|link| link.name != "br0"), "journalctl -u adit.service -n 20"),
            (
                |facts| facts.host.links.iter_mut().filter(|link| link.name == "br0").for_each(|link| link.up = false),
                "ip link set br0 up",
            ),
        ];
        for (change, command) in cases {
            let findings = seen(change);
            assert_eq!(
                (ids(&findings), &findings[0].commands[..]),
                (vec!["switch-unplugged"], &[command.to_owned()][..])
            );
        }
    }

    #[test]
    fn filters_of_bridges_and_those_of_forwarded_packets_are_told_from_each_other() {
        let forward = |family: (Family, &str), name: &str| chain(family, name, Some((2, true)), vec![]);
        let findings = seen(|facts| {
            let chains = vec![forward((Family::Bridge, "filter"), "forward")];
            facts.host.filters = Ok(Listing { chains, ..Listing::default() });
        });
        let ways = ["vnet0 oifname adit0", "adit0 oifname vnet0"]
            .map(|way| format!("nft insert rule bridge filter forward iifname {way} accept"));
        assert_eq!(findings.iter().flat_map(|finding| finding.commands.clone()).collect::<Vec<_>>(), ways);
        for (on, expected) in [(1, vec!["switch-filtered"]), (0, vec![])] {
            let findings = seen(|facts| {
                facts.host.settings.insert("net.bridge.bridge-nf-call-iptables".into(), on);
                let chains = vec![forward((Family::Ip, "filter"), "FORWARD")];
                facts.host.filters = Ok(Listing { chains, ..Listing::default() });
            });
            assert_eq!(ids(&findings), expected);
            let commands: Vec<_> = findings.iter().flat_map(|finding| finding.commands.clone()).collect();
            assert!(on == 0 || commands == ["iptables -I FORWARD -i br0 -o br0 -j ACCEPT"], "{commands:?}");
        }
    }

    #[test]
    fn longer_packets_of_machines_are_told() {
        let findings = seen(|facts| device(facts).mtu = 1426);
        assert_eq!(ids(&findings), ["switch-mtu"]);
        assert!(findings[0].evidence[0].ends_with("vnet0 (1500)") && findings[0].advice.contains("mtu = 1500"));
    }
}
