//! The parts of the report as text, at most 100 columns wide.

use super::{Buffers, Crossing, Hop, Packet, Pairs, PerCall, Reach, Throughput, Topology};
use crate::demo::throughput::{CLASSIC_PATH, PLAIN_PATH, SEALED_PATH};
use crate::lab::screen::Style;

/// Columns of the longest bar.
const BAR: usize = 20;
/// An eighth of a column, two eighths, …: U+258F down to U+2589, then a whole one.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// What stands below the drawing.
pub(in crate::demo) fn under_drawing(topology: &Topology, buffers: &[Buffers], rootless: bool) -> String {
    let mut lines = Vec::new();
    if let Some(host) = topology.hosts.first() {
        let offloads = if host.offloads.is_empty() { "none".into() } else { host.offloads.join(" ") };
        lines.push(format!("containers and {}: mtu {}; offloads of the TUN device: {offloads}", host.device, host.mtu));
    }
    if let Some(first) = buffers.first() {
        let (receive, send) = (bytes(first.receive), bytes(first.send));
        lines.push(format!("socket buffers of the daemons: {receive} to receive, {send} to send"));
        if rootless {
            lines.push("(without root as much as net.core.rmem_max and wmem_max allow, so speeds may differ)".into());
        }
    }
    match topology.hosts.first().and_then(|host| host.suite.as_ref()) {
        Some(suite) => {
            lines.push(format!("between hosts: encrypted and authenticated, sealed with {suite} and keys of this run"));
            lines
                .push("within a host nothing is encrypted: who is root there can read what its containers send".into());
        }
        None => lines.push("between hosts: not encrypted, not authenticated".into()),
    }
    indented(&lines)
}

fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", count / 1024),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

/// One line per path.
pub(in crate::demo) fn reach(reach: &Reach, style: Style) -> String {
    let way = format!("{} → {}", reach.from, reach.to);
    let answers = format!("{}/{}", reach.received, reach.sent);
    let lost = reach.received < reach.sent;
    let answers = format!("{answers:>6}");
    format!(
        "   {:<14}{way:<17}{:<12}{}{:>9.1}{:>10.1}",
        reach.path,
        reach.address,
        if lost { style.warm(&answers) } else { answers },
        reach.min_us,
        reach.median_us
    )
}

/// The heads of [`reach`]'s columns.
pub(in crate::demo) fn reach_head(style: Style) -> String {
    let line =
        format!("   {:<14}{:<17}{:<12}{:>6}{:>9}{:>10}", "path", "from → to", "address", "back", "min µs", "median µs");
    style.dim(&line)
}

/// Whether all containers reach each other.
pub(in crate::demo) fn pairs(pairs: Pairs, style: Style) -> String {
    let all = pairs.reached == pairs.of;
    let count = format!("{} of {} pairs", pairs.reached, pairs.of);
    let count = if all { style.good(&count) } else { style.warm(&count) };
    format!("   Every container to every other: {count}.")
}

/// The table with bars.
pub(in crate::demo) fn throughput(rows: &[Throughput], style: Style) -> String {
    let fastest = rows.iter().map(|row| row.gbps).fold(0.0, f64::max);
    let head = format!(
        "   {:<15}{:>6}  {:<BAR$}{:>9}{:>8}{:>10}  {}",
        "path", "Gb/s", "", "× VXLAN", "× veth", "CPU s/GB", "what it is"
    );
    let mut lines = vec![style.dim(&head)];
    for row in rows {
        let bar = format!("{:<BAR$}", bar(row.gbps, fastest));
        let own = row.encrypted;
        let name = format!("{:<15}", row.path);
        lines.push(format!(
            "   {}{:>6}  {}{:>9.2}{:>8.2}{:>10.2}  {}",
            if own { style.bold(&name) } else { name },
            figure(row.gbps),
            if own { style.own(&bar) } else { style.dim(&bar) },
            row.times_vxlan,
            row.times_veth,
            row.cpu_seconds_per_gb,
            row.what,
        ));
    }
    lines.join("\n")
}

/// What explains the table.
pub(in crate::demo) fn throughput_notes(rows: &[Throughput], seconds: f64, rounds: usize) -> String {
    let plural = if rounds == 1 { "round" } else { "rounds" };
    let mut lines = vec![
        format!("One TCP stream, {seconds} s a path, {rounds} {plural}; all on this one machine, so read the ratios."),
        "The pair joins berlin and paris, the bridge web and db; the other four are ways from web to app.".into(),
        "Only the sealed path is encrypted: on the others whoever listens on the cable reads every byte.".into(),
        "CPU is that of the whole machine: both ends, the daemons and the load itself.".into(),
    ];
    let per_call = |path: &str| rows.iter().find(|row| row.path == path).and_then(|row| row.packets_per_call);
    let counted = [SEALED_PATH, PLAIN_PATH, CLASSIC_PATH].map(|path| (path, per_call(path)));
    if counted.iter().any(|(_, per_call)| per_call.is_some()) {
        let calls = |of: PerCall| {
            format!(
                "{:.0} a read(), {:.0} a sendmsg(), {:.0} a recvmsg(), {:.0} a write()",
                of.read, of.sendmsg, of.recvmsg, of.write
            )
        };
        lines.push("Packets per system call, counted:".into());
        let told = counted.into_iter().filter_map(|(path, per_call)| per_call.map(|of| (path, calls(of))));
        lines.extend(told.map(|(path, calls)| format!("   {path:<13}{calls}")));
    }
    indented(&lines)
}

fn figure(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

/// A bar of up to [`BAR`] columns; whatever is not nothing has at least an eighth.
fn bar(value: f64, most: f64) -> String {
    if value <= 0.0 || most <= 0.0 {
        return String::new();
    }
    let eighths = ((value / most).min(1.0) * (BAR * EIGHTHS.len()) as f64).round().max(1.0) as usize;
    let mut bar = "█".repeat(eighths / EIGHTHS.len());
    bar.extend((eighths % EIGHTHS.len()).checked_sub(1).and_then(|rest| EIGHTHS.get(rest)));
    bar
}

/// The journey, with the crossings numbered.
pub(in crate::demo) fn journey(packet: &Packet, hops: &[Hop], style: Style) -> String {
    let head = format!(
        "   {:>6}  {:<7}{:<10}{:<5}{:>6}  {}",
        "µs", "where", "device", "way", "bytes", "headers, outermost first"
    );
    let mut lines = vec![style.dim(&head)];
    let (mut number, mut last_place) = (0, "");
    for hop in hops {
        for crossing in &hop.crossings {
            number += 1;
            lines.push(crossing_line(number, crossing, style));
            last_place = "";
        }
        let place = if hop.place == last_place { "" } else { hop.place };
        last_place = hop.place;
        let [outer, inner] = [0, 1].map(|depth| headers(hop, depth));
        lines.push(format!(
            "   {:>6.1}  {:<7}{:<10}{:<5}{:>6}  {}",
            hop.us,
            place,
            hop.device,
            hop.direction,
            hop.size,
            if inner.is_empty() { outer } else { style.own(&outer) }
        ));
        if !inner.is_empty() {
            lines.push(format!("{}{inner}", " ".repeat(39) + &style.own("└ ")));
        }
    }
    lines.push(crossing_line(number + 1, &packet.last_crossing, style));
    lines.push(format!("   {:>6.1}  delivered", packet.delivered_us));
    lines.join("\n")
}

fn crossing_line(number: usize, crossing: &Crossing, style: Style) -> String {
    let direction = if crossing.into_kernel { "user → kernel" } else { "kernel → user" };
    let text = format!("┄┄ {number} {direction}: {} by {} ┄┄", crossing.call, crossing.by);
    format!("           {}", style.warm(&text))
}

/// The headers of one depth in short: names with who speaks to whom, and the hop limit, which shows where it was routed; of what is
/// encrypted its number and its length, as there is no more to be seen.
fn headers(hop: &Hop, depth: usize) -> String {
    let short = |header: &super::Header| {
        let parts: Vec<_> = header.summary.split(", ").collect();
        let ttl = parts.iter().find(|part| part.starts_with("ttl ")).map_or_else(String::new, |ttl| format!(" {ttl}"));
        match header.name {
            "Ethernet" => "Eth".to_owned(),
            name @ "sealed" => {
                let told = |part: &&&str| part.starts_with("counter ") || part.starts_with("encrypted ");
                let told: Vec<_> = parts.iter().filter(told).copied().collect();
                format!("{name} {}, {}", parts.first().unwrap_or(&""), told.join(", "))
            }
            name => format!("{name} {}{ttl}", parts.first().unwrap_or(&"")),
        }
    };
    hop.headers.iter().filter(|header| header.depth == depth).map(short).collect::<Vec<_>>().join(" · ")
}

/// What the journey shows. `per_call` is what was counted under load.
pub(in crate::demo) fn journey_notes(packet: &Packet, per_call: Option<PerCall>) -> String {
    let [first, second] = packet.daemons_us;
    let Packet { crossings, copies_by_model, delivered_us, .. } = packet;
    let per_host = crossings / 2;
    let mut lines = vec![
        format!(
            "{crossings} crossings between kernel and user space, {per_host} on each host: inferred from the order of the hops."
        ),
        format!(
            "{copies_by_model} copies of its bytes for that: one per crossing by how these calls work, not measured."
        ),
        "Between the two daemons nobody can read it. What we know it by there: its length, which no other".into(),
        "datagram had at that time, and on the second card that its ciphertext is the same, byte for byte.".into(),
        "On each host it went through the IP stack twice: as itself, and as the payload of UDP.".into(),
        format!("The daemons took {first:.0} and {second:.0} of the {delivered_us:.0} µs, waking up included."),
    ];
    if let Some(PerCall { read, sendmsg, recvmsg, write }) = per_call {
        let calls = [read, sendmsg, recvmsg, write];
        let (least, most) = (calls.into_iter().fold(f64::MAX, f64::min), calls.into_iter().fold(0.0, f64::max));
        lines
            .push("A classic TUN program crosses as often, for every packet. Under load one crossing of adit's".into());
        lines.push(format!("daemons carried {least:.0} to {most:.0} packets (counted, part 3)."));
    }
    indented(&lines)
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("   {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bars_are_drawn_in_eighths() {
        assert_eq!(bar(0.0, 8.0), "");
        assert_eq!(bar(8.0, 8.0), "█".repeat(BAR));
        assert_eq!(bar(1e-9, 8.0), "▏");
        assert_eq!(bar(1.0, 2.0 * BAR as f64), "▌");
    }

    #[test]
    fn sizes_are_written_in_their_unit() {
        assert_eq!([bytes(212), bytes(212_992), bytes(8 << 20)], ["212 B", "208 KiB", "8.0 MiB"]);
    }

    proptest! {
        #[test]
        fn no_bar_is_longer_than_the_longest(value: f64, most: f64) {
            prop_assert!(bar(value, most).chars().count() <= BAR);
        }
    }
}
