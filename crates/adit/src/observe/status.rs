//! The state of daemons, as text that one would paste to a colleague.

use std::{
    fmt::Write,
    time::{Duration, UNIX_EPOCH},
};

use super::{
    human,
    table::{Table, clean},
};
use crate::api::{
    Status,
    status::{DeviceStatus, NetworkStatus, PeerStatus, SwitchStatus, TransportStatus},
};

/// A daemon's state: what it is, then a table of its peers.
pub fn render(status: &Status) -> String {
    // Plain peers shake no hands.
    let handshakes = status.peers.iter().any(|peer| peer.secure);
    let mut titles = vec!["PEER", "TRANSPORT", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "ALLOWED IPS"];
    titles.retain(|title| handshakes || *title != "HANDSHAKE");
    let mut table = Table::new(&titles);
    for peer in &status.peers {
        let mut row = vec![peer.name.clone(), transport_of(peer), endpoint_of(peer)];
        row.extend(handshakes.then(|| handshake_of(peer)));
        row.extend([
            traffic(human::bytes(peer.rx_bytes), human::count(peer.rx_packets)),
            traffic(human::bytes(peer.tx_bytes), human::count(peer.tx_packets)),
            list(&peer.allowed_ips),
        ]);
        table.row(row);
    }
    format!("{}\n{}{}{}{}", head(status), table.render(2), containers(status), problems(status), drops(status))
}

pub(super) fn head(status: &Status) -> String {
    let Status { version, pid, uptime_s, device, transport, .. } = status;
    let mut text = String::new();
    let name = &device.name;
    let _ = writeln!(
        text,
        "{}",
        clean(&format!("{name}  up {}, adit {version}, process {pid}", human::duration(*uptime_s)))
    );
    let _ = writeln!(text, "  device     {}", clean(&describe_device(device)));
    let _ = writeln!(text, "  offloads   {}", clean(&describe_offloads(device, transport)));
    let _ = writeln!(text, "  transport  {}", clean(&describe_transport(transport)));
    if let Some(switch) = &status.switch {
        let _ = writeln!(text, "  switch     {}", clean(&describe_switch(switch)));
    }
    if let Some(network) = &status.network {
        let _ = writeln!(text, "  network    {}", clean(&describe_network(network)));
        let _ = writeln!(text, "  registry   {}", clean(&describe_registry(network)));
    }
    text
}

fn describe_switch(switch: &SwitchStatus) -> String {
    let SwitchStatus { bridge, local_macs, peer_macs, moves, refused, flooded, answered, .. } = switch;
    let mut text = bridge.as_ref().map_or_else(String::new, |bridge| format!("port of {bridge}, "));
    let addresses = if *local_macs == 1 { "address" } else { "addresses" };
    let _ = write!(
        text,
        "{local_macs} {addresses} here and {peer_macs} with peers, {} frames flooded, {} questions answered",
        human::count(*flooded),
        human::count(*answered)
    );
    if *moves > 0 {
        let _ = write!(text, ", {} moves", human::count(*moves));
    }
    if *refused > 0 {
        let _ = write!(text, ", NO ROOM for an address {} times", human::count(*refused));
    }
    text
}

fn describe_network(network: &NetworkStatus) -> String {
    let NetworkStatus { node, networks, subnets, nodes, clients, containers, .. } = network;
    let held = if subnets.is_empty() { "no subnet yet".to_owned() } else { list(subnets) };
    let others = match nodes.len() {
        1 => "1 other node".to_owned(),
        n => format!("{n} other nodes"),
    };
    let mut text = format!("{node} with {held} of {}, {others}", list(networks));
    if !clients.is_empty() {
        let _ = write!(text, ", {}", human::several(clients.len(), "client"));
    }
    if !containers.is_empty() {
        let _ = write!(text, ", {}", human::several(containers.len(), "container"));
    }
    if let Some(epoch) = network.epoch {
        let _ = write!(text, ", secret of epoch {epoch}");
    }
    match network.trust.as_str() {
        "authority" => {}
        "shared secret" => text.push_str(" (shared secret: members can impersonate each other)"),
        _ => text.push_str(" (NOT ENCRYPTED: plain only)"),
    }
    if network.behind_nat {
        text.push_str(", behind NAT");
    }
    text
}

fn describe_registry(network: &NetworkStatus) -> String {
    let place = match (network.embedded, network.registry.as_slice()) {
        (true, _) => "in this daemon".to_owned(),
        (false, urls) => urls.join(" "),
    };
    let lease = match (network.lease.as_str(), network.lease_s) {
        ("held", Some(seconds)) => format!("lease for {}", human::duration(seconds)),
        ("reserved", _) => "subnet reserved for us".to_owned(),
        ("taken", _) => "ANOTHER NODE HAS OUR SUBNET".to_owned(),
        (state, _) => format!("lease {state}"),
    };
    match &network.registry_problem {
        Some(problem) => format!("{place}, NOT REACHED: {problem}; {lease}"),
        None => format!("{place}, {lease}"),
    }
}

fn describe_device(device: &DeviceStatus) -> String {
    let addresses = if device.addresses.is_empty() { "no address".into() } else { list(&device.addresses) };
    format!("{}, MTU {}, {addresses}", device.mode, device.mtu)
}

fn describe_offloads(device: &DeviceStatus, transport: &TransportStatus) -> String {
    let mut text = if device.offloads.is_empty() { "none".to_owned() } else { device.offloads.join(" ") };
    if let Some(reason) = &device.reason {
        let _ = write!(text, " ({reason})");
    } else if !transport.offload {
        text.push_str(" (offload = false)");
    }
    text
}

fn describe_transport(transport: &TransportStatus) -> String {
    let workers = if transport.workers == 1 { "worker" } else { "workers" };
    let mut text = format!(
        "UDP {}, {} {workers}, buffers {} to receive and {} to send",
        transport.listen,
        transport.workers,
        human::bytes(transport.receive_buffer),
        human::bytes(transport.send_buffer),
    );
    if transport.busy_poll_us > 0 {
        let _ = write!(text, ", busy-poll {} us", transport.busy_poll_us);
    }
    if transport.offload && !transport.segmentation {
        text.push_str(", no trains: the kernel refused one on a route without checksum offload");
    }
    text
}

pub(super) fn transport_of(peer: &PeerStatus) -> String {
    match &peer.suite {
        _ if !peer.secure => format!("{} (not encrypted)", peer.transport),
        // WireGuard has one only.
        Some(suite) if peer.transport != "wireguard" => format!("{} {suite}", peer.transport),
        _ => peer.transport.clone(),
    }
}

pub(super) fn handshake_of(peer: &PeerStatus) -> String {
    match (peer.session.as_str(), peer.handshake_s) {
        _ if !peer.secure => "-".into(),
        ("handshaking", _) => "calling".into(),
        ("refused", _) => "refused".into(),
        (_, Some(seconds)) => format!("{} ago", human::duration(seconds)),
        (_, None) => "never".into(),
    }
}

pub(super) fn endpoint_of(peer: &PeerStatus) -> String {
    peer.endpoint.clone().unwrap_or_else(|| "-".to_owned())
}

pub(super) fn traffic(amount: String, packets: String) -> String {
    format!("{amount} ({packets})")
}

/// Networks shown of each peer; the rest is counted.
const SHOWN: usize = 6;

fn list(networks: &[ipnet::IpNet]) -> String {
    let mut shown: Vec<String> = networks.iter().take(SHOWN).map(ToString::to_string).collect();
    if networks.len() > SHOWN {
        shown.push(format!("and {} more", networks.len() - SHOWN));
    }
    shown.join(" ")
}

/// The first second that is not written in four digits of a year.
const YEAR_10000: u64 = 253_402_300_800;

/// Containers shown; the rest is counted.
const ROWS: usize = 30;

/// A table of the containers of a node.
fn containers(status: &Status) -> String {
    let all = status.network.as_ref().map_or(&[][..], |network| &network.containers);
    if all.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["CONTAINER", "DOOR", "ADDRESSES", "PORTS", "SINCE"]);
    for container in all.iter().take(ROWS) {
        let addresses: Vec<_> = container.addresses.iter().map(|net| net.addr().to_string()).collect();
        let since =
            UNIX_EPOCH.checked_add(Duration::from_secs(container.since)).filter(|_| container.since < YEAR_10000);
        table.row([
            container.name.clone(),
            container.door.clone(),
            addresses.join(" "),
            human::ports(&container.ports),
            since.map_or_else(|| "-".to_owned(), |at| humantime::format_rfc3339_seconds(at).to_string()),
        ]);
    }
    let mut text = format!("\n{}", table.render(2));
    if all.len() > ROWS {
        let _ = writeln!(text, "  and {} more: `adit ps` lists all", all.len() - ROWS);
    }
    text
}

/// A line for each peer that something is wrong with.
pub(super) fn problems(status: &Status) -> String {
    let mut text = String::new();
    for peer in &status.peers {
        let Some(problem) = &peer.problem else { continue };
        if text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "  problem    {}", clean(&format!("{}: {problem}", peer.name)));
    }
    if let Some(problem) = status.switch.as_ref().and_then(|switch| switch.problem.as_ref()) {
        if text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "  problem    {}", clean(problem));
    }
    let Some(network) = &status.network else { return text };
    if text.is_empty() && (network.skipped > 0 || !network.problems.is_empty()) {
        text.push('\n');
    }
    for problem in &network.problems {
        let _ = writeln!(text, "  problem    {}", clean(problem));
    }
    if network.skipped > 0 {
        let records = if network.skipped == 1 { "record" } else { "records" };
        let _ = writeln!(text, "  skipped    {} {records} of the registry", network.skipped);
    }
    text
}

fn drops(status: &Status) -> String {
    let mut reasons: Vec<(&String, &u64)> = status.drops.iter().filter(|(_, packets)| **packets > 0).collect();
    if reasons.is_empty() {
        return String::new();
    }
    reasons.sort_by_key(|(reason, packets)| (std::cmp::Reverse(**packets), reason.as_str()));
    let reasons: Vec<String> =
        reasons.iter().map(|(reason, packets)| format!("{} {}", clean(reason), human::count(**packets))).collect();
    format!("\n  dropped    {}\n", reasons.join(", "))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::status::tests::{node, sample};

    #[test]
    fn a_daemon_in_full() {
        let expected = "\
adit0  up 3 h 12 min, adit 0.1.0, process 4711
  device     tun, MTU 1472, 10.77.0.1/24
  offloads   csum tso4 (USO needs Linux 6.2)
  transport  UDP [::]:7777, 2 workers, buffers 8.00 MiB to receive and 4.00 MiB to send

  PEER    TRANSPORT              ENDPOINT           RECEIVED           SENT               ALLOWED IPS
  berlin  plain (not encrypted)  192.0.2.2:7777     1.20 GiB (1.29 M)  2.40 GiB (2.58 M)  10.77.0.2/32
  oslo    plain (not encrypted)  198.51.100.3:7777  0 B (0)            0 B (0)            10.42.0.0/16

  dropped    no_route 17
";
        assert_eq!(render(&sample()), expected);
    }

    /// Two encrypted peers and a plain one.
    pub(in crate::observe) fn encrypted() -> Status {
        let mut status = sample();
        let [berlin, oslo] = &mut status.peers[..] else { panic!("two peers") };
        for (peer, transport) in [(&mut *berlin, "sealed"), (&mut *oslo, "wireguard")] {
            (peer.transport, peer.secure) = (transport.into(), true);
        }
        (berlin.session, berlin.handshake_s, berlin.suite) = ("up".into(), Some(12), Some("AES-256-GCM".into()));
        (oslo.session, oslo.endpoint) = ("none".into(), None);
        let paris = PeerStatus { name: "paris".into(), ..sample().peers[1].clone() };
        status.peers.push(paris);
        status
    }

    #[test]
    fn encrypted_peers_say_when_they_shook_hands() {
        let expected = "
  PEER    TRANSPORT              ENDPOINT           HANDSHAKE  RECEIVED           SENT               ALLOWED IPS
  berlin  sealed AES-256-GCM     192.0.2.2:7777     12 s ago   1.20 GiB (1.29 M)  2.40 GiB (2.58 M)  10.77.0.2/32
  oslo    wireguard              -                  never      0 B (0)            0 B (0)            10.42.0.0/16
  paris   plain (not encrypted)  198.51.100.3:7777  -          0 B (0)            0 B (0)            10.42.0.0/16
";
        let text = render(&encrypted());
        assert!(text.contains(expected), "{text}");
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    }

    #[test]
    fn containers_have_a_table() {
        let mut status = node();
        let text = render(&status);
        let expected = "
  CONTAINER  DOOR  ADDRESSES  PORTS                            SINCE
  web        cni   10.42.7.2  8080:80/tcp 192.0.2.1:53:53/udp  2026-11-18T11:06:40Z
";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("1 other node, 1 client, 1 container, secret of epoch 2"), "{text}");
        let network = status.network.as_mut().unwrap();
        let container = &mut network.containers[0];
        (container.name, container.since) = ("x\u{1b}[2J".into(), u64::MAX);
        container.ports = vec!["80:80/tcp".into(); 6];
        network.containers = vec![network.containers[0].clone(); ROWS + 3];
        let text = render(&status);
        assert!(text.contains("and 3 more: `adit ps` lists all") && text.contains(" and 2 more  -\n"), "{text}");
        assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
    }

    #[test]
    fn the_state_of_a_session_is_a_word() {
        let mut peer = encrypted().peers.swap_remove(0);
        for (session, handshake_s, shown) in [
            ("up", Some(0), "0 s ago"),
            ("none", Some(11_520), "3 h 12 min ago"),
            ("none", None, "never"),
            ("handshaking", None, "calling"),
            ("handshaking", Some(200), "calling"),
            ("refused", Some(200), "refused"),
            ("of a later version", Some(3), "3 s ago"),
        ] {
            (peer.session, peer.handshake_s) = (session.into(), handshake_s);
            assert_eq!(handshake_of(&peer), shown);
        }
        peer.suite = Some("ChaCha20-Poly1305".into());
        assert_eq!(transport_of(&peer), "sealed ChaCha20-Poly1305");
        peer.transport = "wireguard".into();
        assert_eq!(transport_of(&peer), "wireguard");
    }

    #[test]
    fn what_is_wrong_with_a_peer_stands_below_the_table() {
        let mut status = encrypted();
        status.peers[0].problem = Some("it refused: its device is a tap and ours is a tun".into());
        status.peers[1].problem = Some("no answer from it for 20 s\u{1b}".into());
        let expected = "
  problem    berlin: it refused: its device is a tap and ours is a tun
  problem    oslo: no answer from it for 20 s\u{fffd}

  dropped    no_route 17
";
        let text = render(&status);
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_foreign_text_cannot_steer_the_terminal() {
        let mut status = sample();
        status.version = "\u{1b}[2J".into();
        status.device.reason = Some("a\u{7}\nb".into());
        status.peers[0].name = "x\u{1b}]0;y".into();
        status.drops = [("no\rroute".to_owned(), 1)].into();
        let text = render(&status);
        assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
    }

    #[test]
    fn many_networks_are_counted() {
        let networks: Vec<ipnet::IpNet> = (0..9).map(|i| format!("10.{i}.0.0/16").parse().unwrap()).collect();
        assert!(list(&networks).ends_with("10.5.0.0/16 and 3 more"));
    }

    #[test]
    fn a_switch_says_what_it_knows_and_what_is_wrong() {
        let mut status = sample();
        assert!(!render(&status).contains("switch"));
        let switch = SwitchStatus {
            bridge: Some("br0".into()),
            local_macs: 1,
            peer_macs: 5,
            flooded: 12,
            ..SwitchStatus::default()
        };
        status.switch = Some(switch.clone());
        status.device.addresses.clear();
        let text = render(&status);
        assert!(
            text.contains(
                "  switch     port of br0, 1 address here and 5 with peers, 12 frames flooded, 0 questions answered\n"
            ),
            "{text}"
        );
        assert!(text.contains("no address"), "{text}");
        let problem = Some("a loop: look".to_owned());
        status.switch = Some(SwitchStatus { refused: 7, moves: 2, problem, ..switch });
        let text = render(&status);
        assert!(text.contains(", 2 moves, NO ROOM for an address 7 times\n"), "{text}");
        assert!(text.contains("  problem    a loop: look\n"), "{text}");
    }
}
