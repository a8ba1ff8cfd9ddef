//! The topology as a drawing, 79 columns wide.

use super::{Host, Topology};

/// Columns of a host's box, borders included.
const WIDTH: usize = 38;
/// Columns of a container's box; two and a gap of two are a host's.
const CONTAINER: usize = 18;
/// Columns between the hosts.
const GAP: usize = 2;

/// Draws the topology.
pub(in crate::demo) fn draw(topology: &Topology) -> String {
    let halves: Vec<Vec<String>> = topology.hosts.iter().map(half).collect();
    let height = halves.iter().map(Vec::len).max().unwrap_or(0);
    let mut lines: Vec<String> = (0..height)
        .map(|row| {
            let cells = halves.iter().map(|half| padded(half.get(row).map_or("", String::as_str), WIDTH));
            format!(" {}", cells.collect::<Vec<_>>().join(&" ".repeat(GAP)))
        })
        .collect();
    lines.push(cable(topology));
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

fn half(host: &Host) -> Vec<String> {
    let containers: Vec<[String; 4]> = host
        .containers
        .iter()
        .map(|container| {
            [
                top(container.name, CONTAINER),
                boxed(&format!("{} {}", container.device, container.address), CONTAINER),
                bottom(CONTAINER),
                centred("│", CONTAINER),
            ]
        })
        .collect();
    let mut lines: Vec<String> = (0..4)
        .map(|row| containers.iter().filter_map(|c| c.get(row).cloned()).collect::<Vec<_>>().join(&" ".repeat(GAP)))
        .collect();
    // The feet of the containers, where the veth pairs enter the host.
    let feet = [CONTAINER / 2, CONTAINER + GAP + CONTAINER / 2];
    lines.push(roof(host.name, feet));
    let ports: String =
        host.containers.iter().map(|container| centred(container.port, CONTAINER)).collect::<Vec<_>>().join("  ");
    lines.push(frame(&ports));
    let mut joint: Vec<char> = vec![' '; WIDTH];
    for (column, place) in joint.iter_mut().enumerate() {
        *place = match column {
            c if c == feet[0] => '└',
            c if c == feet[1] => '┘',
            c if c == WIDTH / 2 => '┬',
            c if c > feet[0] && c < feet[1] => '─',
            _ => ' ',
        };
    }
    lines.push(frame(&joint.into_iter().collect::<String>()));
    let inside = [
        format!("bridge  {:<11}{}", host.bridge, host.gateway),
        format!("route   {} → {}", host.routed, host.device),
        format!("TUN     {:<11}{}", host.device, host.addresses.join(" ")),
        arrows("read()", "write()"),
        format!("daemon  adit, UDP {}", host.listen),
        format!("{:<8}{}", host.transport, host.suite.as_deref().unwrap_or("NOT ENCRYPTED")),
        arrows("sendmsg()", "recvmsg()"),
        format!("card    {:<11}{}", super::super::layout::UNDERLAY, host.underlay),
    ];
    lines.extend(inside.iter().map(|text| boxed(text, WIDTH)));
    lines.push(bottom(WIDTH));
    lines
}

/// The network between the hosts: from the foot of one box to that of the other.
fn cable(topology: &Topology) -> String {
    let label = format!(" {}, mtu {} ", topology.underlay, topology.underlay_mtu);
    let inner = (WIDTH + GAP).saturating_sub(1);
    let left = inner.saturating_sub(label.chars().count()) / 2;
    let right = inner.saturating_sub(label.chars().count() + left);
    format!("{}└{}{label}{}┘", " ".repeat(1 + WIDTH / 2), "─".repeat(left), "─".repeat(right))
}

fn padded(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(text.chars().count());
    format!("{text}{}", " ".repeat(missing))
}

fn centred(text: &str, width: usize) -> String {
    let before = (width + 1).saturating_sub(text.chars().count()) / 2;
    padded(&format!("{}{text}", " ".repeat(before)), width)
}

fn boxed(text: &str, width: usize) -> String {
    format!("│ {} │", padded(text, width.saturating_sub(4)))
}

/// Puts the sides of a host's box around a line that is as wide as the box.
fn frame(line: &str) -> String {
    let inner: String = line.chars().skip(1).take(WIDTH - 2).collect();
    format!("│{}│", padded(&inner, WIDTH - 2))
}

/// The upper side of a container's box, with its name.
fn top(name: &str, width: usize) -> String {
    let mut columns: Vec<char> = format!("┌─ {name} ").chars().collect();
    columns.resize(width.saturating_sub(1), '─');
    columns.push('┐');
    columns.into_iter().collect()
}

/// The upper side of a host's box, with its name in the middle and the veth pairs that come in.
fn roof(name: &str, feet: [usize; 2]) -> String {
    let mut columns: Vec<char> = format!("{:─^width$}", format!(" {name} "), width = WIDTH - 2).chars().collect();
    columns.insert(0, '┌');
    columns.push('┐');
    for foot in feet {
        if let Some(place) = columns.get_mut(foot) {
            *place = '┴';
        }
    }
    columns.into_iter().collect()
}

/// The two ways between a device and the daemon; the arrows stand above the middle of the box.
fn arrows(down: &str, up: &str) -> String {
    format!("{down:>width$} ↓ ↑ {up}", width = WIDTH / 2 - 4)
}

fn bottom(width: usize) -> String {
    let mut columns = vec!['─'; width];
    if let Some(first) = columns.first_mut() {
        *first = '└';
    }
    if let Some(middle) = columns.get_mut(width / 2) {
        *middle = '┬';
    }
    if let Some(last) = columns.last_mut() {
        *last = '┘';
    }
    columns.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::report::Container;

    fn sample() -> Topology {
        let host = |name, number: u8, ports: [&'static str; 2]| Host {
            name,
            namespace: format!("adit-demo-{name}"),
            underlay: format!("192.0.2.{number}/24"),
            bridge: "adit-br0",
            gateway: format!("10.42.{number}.1/24"),
            device: "adit0".into(),
            addresses: vec![format!("10.77.0.{number}/24")],
            mtu: 1440,
            offloads: Vec::new(),
            listen: format!("192.0.2.{number}:7777"),
            transport: "sealed".into(),
            encrypted: true,
            suite: Some("ChaCha20-Poly1305".into()),
            routed: format!("10.42.{}.0/24", 3 - number),
            containers: ports
                .into_iter()
                .zip(2u8..)
                .map(|(port, last)| Container {
                    name: port.trim_start_matches("veth-"),
                    namespace: String::new(),
                    device: "eth0",
                    address: format!("10.42.{number}.{last}"),
                    port,
                })
                .collect(),
        };
        Topology {
            underlay: "veth pair",
            underlay_mtu: 1500,
            hosts: vec![host("berlin", 1, ["veth-web", "veth-db"]), host("paris", 2, ["veth-app", "veth-cache"])],
        }
    }

    #[test]
    fn it_fits_eighty_columns_and_its_boxes_are_closed() {
        let drawing = draw(&sample());
        for line in drawing.lines() {
            assert!(line.chars().count() < 80, "{line}");
        }
        let count = |wanted: char| drawing.chars().filter(|c| *c == wanted).count();
        // Six boxes: a corner each. The joints below the ports and the cable have the lower corners too.
        assert_eq!((count('┌'), count('┐')), (6, 6));
        assert_eq!((count('└'), count('┘')), (6 + 2 + 1, 6 + 2 + 1));
        assert_eq!(count('┴'), 4);
        let sides = drawing.lines().filter(|line| line.starts_with(" │"));
        assert!(sides.clone().count() > 5 && sides.clone().all(|line| line.chars().count() == 79), "{drawing}");
        for name in [
            "web",
            "db",
            "app",
            "cache",
            "10.42.2.3",
            "192.0.2.1:7777",
            "10.42.1.0/24 → adit0",
            "sealed  ChaCha20-Poly1305",
        ] {
            assert!(drawing.contains(name), "{name}");
        }
    }
}
