//! How a journey is said: the words and numbers that the drawing and the figure share.

use std::collections::BTreeSet;

use super::clocks::Clock;
use super::crossings::Crossing;
use super::journey::{Fate, Hop, Host, Journey, Leg, Probe, Way};
use super::observation::{Checksum, DeviceKind, Direction, Layer, Place, Step, Unseen};

/// Nanoseconds, with one digit after the point.
pub(super) fn time(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    match ns {
        0..10_000_000 => format!("{sign}{:.1} µs", ns as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{sign}{:.1} ms", ns as f64 / 1e6),
        _ => format!("{sign}{:.1} s", ns as f64 / 1e9),
    }
}

/// A number with its thousands apart.
pub(super) fn count(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// "1 crossing", "2 crossings".
pub(super) fn several(number: impl Into<u64>, one: &str, many: &str) -> String {
    let number = number.into();
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// The place in few words: "adit0", "worker-0 sealed".
pub(super) fn place(place: &Place) -> String {
    match place {
        Place::Device { name, .. } => name.clone(),
        Place::Worker { number, step } => format!("worker-{number} {}", step_name(*step)),
    }
}

/// The step as a word, which is also its key.
pub(super) fn step_name(step: Step) -> &'static str {
    match step {
        Step::Read => "read",
        Step::Sealed => "sealed",
        Step::Sent => "sent",
        Step::Received => "received",
        Step::Opened => "opened",
        Step::Written => "written",
    }
}

/// The kind of device as a word, which is also its key.
pub(super) fn kind_name(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Veth => "veth",
        DeviceKind::Bridge => "bridge",
        DeviceKind::Tun => "tun",
        DeviceKind::Tap => "tap",
        DeviceKind::Card => "card",
        DeviceKind::Loopback => "loopback",
        DeviceKind::Other => "other",
    }
}

/// What sort of place it is: "bridge, L2 in", "in the daemon".
pub(super) fn sort(place: &Place) -> String {
    match place {
        Place::Device { kind, layer, direction, .. } => {
            let layer = if *layer == Layer::Frames { "L2" } else { "L3" };
            let direction = if *direction == Direction::In { "in" } else { "out" };
            match kind {
                DeviceKind::Tun => format!("TUN, {layer} {direction}"),
                DeviceKind::Tap => format!("TAP, {layer} {direction}"),
                DeviceKind::Other => format!("{layer} {direction}"),
                kind => format!("{}, {layer} {direction}", kind_name(*kind)),
            }
        }
        Place::Worker { .. } => "in the daemon".to_owned(),
    }
}

/// How large it is there: "84 B"; "63 902 B", "46 packets of 1 388"; "46 × 1 428 B".
pub(super) fn size(hop: &Hop) -> Vec<String> {
    let size = count(hop.size);
    let mut parts =
        vec![if hop.pieces > 1 { format!("{} × {size} B", count(hop.pieces)) } else { format!("{size} B") }];
    if hop.packets > hop.pieces {
        let what = if hop.outer.is_some() && outside(hop) { "datagrams" } else { "packets" };
        let each = if hop.segment_size > 0 { format!(" of {}", count(hop.segment_size)) } else { String::new() };
        parts.push(format!("{} {what}{each}", count(hop.packets)));
    }
    if hop.checksum == Checksum::Partial {
        parts.push("checksum left to do".to_owned());
    }
    parts
}

/// Whether what is seen there is the datagram, and not what it carries.
fn outside(hop: &Hop) -> bool {
    matches!(hop.place, Place::Device { .. } | Place::Worker { step: Step::Sent | Step::Received, .. })
}

/// The time since the hop before: "+2.0 µs", "+2.0 µs ± 8.0 µs"; nothing for the first.
pub(super) fn since(hop: &Hop) -> String {
    match (hop.since, hop.doubt) {
        (None, _) => String::new(),
        (Some(since), Some(0)) => format!("+{}", time(since)),
        (Some(since), Some(doubt)) => format!("+{} ± {}", time(since), time(i64::try_from(doubt).unwrap_or(i64::MAX))),
        (Some(_), None) => "time not known".to_owned(),
    }
}

/// "read() × 1: kernel → user".
pub(super) fn crossing(crossing: &Crossing) -> String {
    let times = if crossing.calls > 1 { format!(" × {}", count(crossing.calls)) } else { String::new() };
    let way = if crossing.into_kernel { "user → kernel" } else { "kernel → user" };
    let seen = if crossing.seen { "" } else { " (inferred)" };
    format!("{}{times} {way}{seen}", crossing.call)
}

/// The sums of a way, one sentence a line.
pub(super) fn totals(leg: &Leg) -> Vec<String> {
    let totals = &leg.totals;
    let took =
        if leg.hops.iter().all(|hop| hop.doubt.is_some()) { time(totals.took) } else { "time not known".to_owned() };
    let seen = match totals.crossings_seen {
        seen if seen == totals.crossings => "all seen".to_owned(),
        seen => format!("{} seen, the others inferred", count(seen)),
    };
    let crossings = several(totals.crossings, "crossing", "crossings");
    if totals.crossings == 0 {
        return vec![format!("{took}; it stayed in the kernel as far as it was seen")];
    }
    let copies = several(totals.copies_by_model, "copy", "copies");
    let classic = &totals.classic;
    let mut lines = vec![format!("{crossings} ({seen}), {copies} (by the model, not counted), {took}")];
    lines.push(if classic.crossings > totals.crossings {
        format!(
            "the classic path, one packet per call: {}, {} where this had {}",
            several(classic.crossings, "crossing", "crossings"),
            several(classic.packets, "packet", "packets"),
            count(totals.pieces),
        )
    } else {
        "the classic path, one packet per call, crosses as often with so small a packet".to_owned()
    });
    lines
}

/// Why a host did not look, and what to do about it.
pub(super) fn unseen(why: &Unseen) -> String {
    match why {
        Unseen::Busy => "it is busy with another trace; try again in ten seconds".to_owned(),
        Unseen::Often { times } => {
            format!("it permits {times} traces a minute, and there were as many; try again in a minute")
        }
        Unseen::Unable => "it cannot capture; the log of its daemon says why".to_owned(),
        Unseen::Unasked { transport } => format!("peers by {transport} cannot be asked, only sealed ones"),
        Unseen::Silent { problem } => problem.clone(),
    }
}

/// Tunnels that answered probes went on by, without being looked at: those of other daemons.
fn other_tunnels(journey: &Journey) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for probe in journey.probes.iter().filter(|probe| matches!(probe.fate, Fate::Answered(_))) {
        for leg in &probe.legs {
            for (number, hop) in leg.hops.iter().enumerate() {
                let Place::Device { name, kind: DeviceKind::Tun, direction: Direction::Out, .. } = &hop.place else {
                    continue;
                };
                let is_read = |later: &Hop| later.host == hop.host && matches!(later.place, Place::Worker { .. });
                // Where records are missing, it may be that of the daemon that was asked.
                let is_whole = journey.hosts.get(hop.host).is_some_and(|host| host.lost_records == 0);
                if is_whole && !leg.hops.iter().skip(number + 1).any(is_read) {
                    found.insert((name.clone(), journey.host(hop).to_owned()));
                }
            }
        }
    }
    found
}

/// What must be known to read the numbers, and to know what is missing.
pub(super) fn notes(journey: &Journey) -> Vec<String> {
    let mut notes = clocks(journey);
    notes.extend(other_tunnels(journey).into_iter().map(|(device, host)| {
        format!("what became of it behind {device} on {host} was not looked at: that is a tunnel of its own, and not in the sums")
    }));
    let silent = journey.hosts.iter().filter(|host| !host.permitted);
    notes.extend(silent.map(|host| format!("{} does not permit a look, so its hops are missing", host.name)));
    notes.extend(journey.hosts.iter().filter_map(|host| {
        let why = unseen(host.unseen.as_ref()?);
        Some(format!("{} was not seen, so its hops are missing: {why}", host.name))
    }));
    let gaps = journey.hosts.iter().filter(|host| host.lost_records > 0);
    notes.extend(gaps.map(|host| format!("{} records of {} were lost", count(host.lost_records), host.name)));
    notes
}

/// How sure times between hosts are, a sentence for each that needs one.
fn clocks(journey: &Journey) -> Vec<String> {
    let reference = journey.hosts.first().map_or("", |host| host.name.as_str());
    let seen = |number: usize| journey.probes.iter().flat_map(Probe::hops).any(|hop| hop.host == number);
    let hosts = journey.hosts.iter().enumerate().filter(|(number, _)| seen(*number));
    hosts.filter_map(|(_, host)| clock(host, reference)).collect()
}

fn clock(host: &Host, reference: &str) -> Option<String> {
    let name = &host.name;
    let short = |ns: u64| time(i64::try_from(ns).unwrap_or(i64::MAX));
    Some(match host.clock {
        Clock::Reference => return None,
        Clock::Measured { uncertainty } => {
            format!("clock of {name}: compared with that of {reference}, ± {}", short(uncertainty))
        }
        Clock::Repaired { by, uncertainty } => format!(
            "clock of {name}: compared with that of {reference}, ± {}; moved by {}, as nothing arrives before it was sent",
            short(uncertainty),
            time(by)
        ),
        Clock::Contradicted { by, uncertainty } => format!(
            "clock of {name}: contradicts what was measured (± {}): moved by {}, as nothing arrives before it was sent; do not \
             trust times between the hosts",
            short(uncertainty),
            time(by)
        ),
        Clock::Inferred { uncertainty: Some(uncertainty) } => {
            format!("clock of {name}: from datagrams both ways, ± {}", short(uncertainty))
        }
        Clock::Inferred { uncertainty: None } => {
            format!("clock of {name}: nothing is known of it, so times between the hosts are not known")
        }
    })
}

/// The probe and what became of it.
pub(super) fn fate(probe: &Probe) -> String {
    let size = probe.size.map_or_else(String::new, |size| format!(", {}", several(size, "byte", "bytes")));
    let fate = match &probe.fate {
        Fate::Answered(ns) => format!("answered after {}", time(*ns)),
        Fate::Lost(death) if death.way == Way::Back => "its answer was lost".to_owned(),
        Fate::Lost(_) => "not answered".to_owned(),
    };
    format!("probe {}{size}: {fate}", probe.number)
}

/// The probes that went the same way, by what became of them; of each group the first is drawn.
pub(super) fn groups(journey: &Journey) -> Vec<Vec<&Probe>> {
    let mut groups: Vec<Vec<&Probe>> = Vec::new();
    for probe in &journey.probes {
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| alike(first, probe))) {
            Some(group) => group.push(probe),
            None => groups.push(vec![probe]),
        }
    }
    groups
}

fn alike(one: &Probe, other: &Probe) -> bool {
    let fates = match (&one.fate, &other.fate) {
        (Fate::Answered(_), Fate::Answered(_)) => true,
        (Fate::Lost(one), Fate::Lost(other)) => one.reason.cause == other.reason.cause,
        _ => false,
    };
    fates && shape(one) == shape(other)
}

/// The places that are drawn of a probe, and whether it was a super-packet there.
fn shape(probe: &Probe) -> Vec<(usize, &Place, bool)> {
    drawn(probe).flat_map(|leg| leg.hops.iter().map(|hop| (hop.host, &hop.place, hop.packets > 1))).collect()
}

/// The ways of a probe that are drawn: there, and back if it was lost there.
pub(super) fn drawn(probe: &Probe) -> impl Iterator<Item = &Leg> {
    let lost = matches!(&probe.fate, Fate::Lost(death) if death.way == Way::Back);
    probe.legs.iter().filter(move |leg| leg.way == Way::There || lost)
}

/// A line about the answer, where it was seen and is not drawn.
pub(super) fn answer(probe: &Probe) -> Option<String> {
    let leg = probe.legs.iter().find(|leg| leg.way == Way::Back && matches!(probe.fate, Fate::Answered(_)))?;
    let hops = several(u64::try_from(leg.hops.len()).unwrap_or(0), "hop", "hops");
    let crossings = several(leg.totals.crossings, "crossing", "crossings");
    Some(format!("its answer came back by {hops} with {crossings} in {}", time(leg.totals.took)))
}

/// `text` in lines of at most `width` characters.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut letters: Vec<char> = word.chars().collect();
        let used = lines.last().map_or(0, |line| line.chars().count());
        if used > 0 && used + 1 + letters.len() > width {
            lines.push(String::new());
        } else if used > 0 {
            letters.insert(0, ' ');
        }
        for letter in letters {
            if lines.last().is_some_and(|line| line.chars().count() >= width) {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                line.push(letter);
            }
        }
    }
    lines
}

/// `parts` with points between them, in lines of at most `width` characters that begin with a whole part where it fits.
pub(super) fn joined(parts: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 3 + part.chars().count() <= width => {
                line.push_str(" · ");
                line.push_str(part);
            }
            _ => lines.extend(wrapped(part, width)),
        }
    }
    lines
}

/// `text`, cut to `width` characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_written_with_their_units() {
        assert_eq!([time(0), time(41_250), time(-1500), time(12_000_000)], ["0.0 µs", "41.2 µs", "-1.5 µs", "12.0 ms"]);
        assert_eq!(
            [count(7u32), count(1420u32), count(1_000_000u32)],
            ["7", "1\u{202f}420", "1\u{202f}000\u{202f}000"]
        );
        assert_eq!([several(1u32, "copy", "copies"), several(4u32, "copy", "copies")], ["1 copy", "4 copies"]);
    }

    #[test]
    fn long_text_is_cut_and_wrapped() {
        assert_eq!(cut("adit-br0", 8), "adit-br0");
        assert_eq!(cut("adit-br0", 5), "adit…");
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefgh", 3), ["abc", "def", "gh"]);
    }

    proptest! {
        #[test]
        fn no_line_is_longer_than_it_may_be(text in "\\PC{0,80}", width in 1usize..40) {
            for line in wrapped(&text, width) {
                prop_assert!(line.chars().count() <= width);
            }
            for line in joined(&[text.clone(), "a part".into(), text.clone()], width) {
                prop_assert!(line.chars().count() <= width);
            }
            prop_assert!(cut(&text, width).chars().count() <= width);
        }
    }
}
