//! A journey on a terminal: a box per host, down to the card and up from it, with the hops numbered in their order. Double walls are
//! user space.
//!
//! Where the terminal is too narrow for two boxes side by side, they stand one below the other, each from its first hop to its last.

use super::journey::{Fate, Hop, Journey, Leg, Probe, Way};
use super::lanes::{Item, Lane, lanes};
use super::observation::Place;
use super::words;

/// The narrowest drawing, in columns.
pub const NARROWEST: usize = 40;
/// Columns of a box at least where several stand side by side, and at most.
const LEAST: usize = 37;
const MOST: usize = 56;
/// Columns between boxes.
const GAP: usize = 3;

/// Draws `journey` with at most `width` columns, or [`NARROWEST`] if that is more.
#[must_use]
pub fn drawing(journey: &Journey, width: usize) -> String {
    let width = width.max(NARROWEST);
    let mut lines = words::wrapped(
        &format!("from {} to {}, {}", journey.from, journey.destination, journey.protocol_name()),
        width,
    );
    if journey.probes.is_empty() {
        lines.push("nothing was sent".to_owned());
    }
    for group in words::groups(journey) {
        lines.push(String::new());
        lines.extend(of_group(journey, &group, width));
    }
    let notes = words::notes(journey);
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes.iter().flat_map(|note| words::wrapped(note, width)));
    }
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

fn of_group(journey: &Journey, group: &[&Probe], width: usize) -> Vec<String> {
    let Some((first, others)) = group.split_first() else { return Vec::new() };
    let mut lines = words::wrapped(&words::fate(first), width);
    for leg in words::drawn(first) {
        if leg.way == Way::Back {
            lines.push("its answer:".to_owned());
        }
        lines.extend(of_leg(journey, first, leg, width));
        lines.extend(words::totals(leg).iter().flat_map(|line| indented(line, width)));
    }
    lines.extend(words::answer(first).iter().flat_map(|line| indented(line, width)));
    if let Fate::Lost(death) = &first.fate {
        lines.extend(indented(&format!("✕ {}", death.reason.sentence), width));
        lines.extend(death.reason.evidence.iter().flat_map(|line| indented(&format!("· {line}"), width)));
        lines.extend(death.reason.remedy.iter().flat_map(|line| indented(&format!("→ {line}"), width)));
    }
    let alike = others.iter().flat_map(|probe| indented(&format!("the same way: {}", words::fate(probe)), width));
    lines.extend(alike);
    lines
}

fn indented(text: &str, width: usize) -> Vec<String> {
    words::wrapped(text, width.saturating_sub(2)).into_iter().map(|line| format!("  {line}")).collect()
}

fn of_leg(journey: &Journey, probe: &Probe, leg: &Leg, width: usize) -> Vec<String> {
    let lanes = lanes(leg);
    let dead = match &probe.fate {
        Fate::Lost(death) if death.way == leg.way => death.last,
        _ => None,
    };
    let fitting = (width + GAP) / (LEAST + GAP);
    // Two by two, so that the box that goes down stands beside the one that goes up.
    let abreast = if fitting < 2 { 1 } else { fitting - fitting % 2 };
    let mut lines = Vec::new();
    for (number, row) in lanes.chunks(abreast).enumerate() {
        if number > 0 {
            lines.push(match row.first().and_then(Lane::first) {
                Some(hop) if abreast > 1 => format!("  goes on with hop {}:", hop.number),
                _ => format!("{:>1$}", "▼", width.min(MOST) / 2),
            });
        }
        let columns = row.len().max(abreast.min(2));
        let each = ((width + GAP) / columns).saturating_sub(GAP).clamp(LEAST, MOST).min(width);
        let boxes: Vec<Vec<String>> = row.iter().map(|lane| of_lane(journey, lane, each, abreast > 1, dead)).collect();
        lines.extend(beside(&boxes, row, each));
    }
    lines
}

/// Puts boxes side by side, standing on one line, with arrows where the packet goes from one to the next.
fn beside(boxes: &[Vec<String>], lanes: &[Lane<'_>], each: usize) -> Vec<String> {
    let height = boxes.iter().map(Vec::len).max().unwrap_or(0);
    let top = |number: usize| boxes.get(number).map_or(0, |lines| height.saturating_sub(lines.len()));
    (0..height)
        .map(|row| {
            let mut line = String::new();
            for (number, (lines, lane)) in boxes.iter().zip(lanes).enumerate() {
                if number > 0 {
                    // Over the foot where it comes from above, else over the head.
                    let falls = lanes.get(number - 1).is_some_and(|before| !before.rising);
                    let at = if falls { height.saturating_sub(2) } else { top(number - 1).max(top(number)) + 1 };
                    line += if row == at && lane.rising == falls { "──▶" } else { "   " };
                }
                let text = row.checked_sub(top(number)).and_then(|row| lines.get(row));
                line += &text.map_or_else(|| " ".repeat(each), Clone::clone);
            }
            line
        })
        .collect()
}

/// The box of a lane, all lines `width` columns wide.
fn of_lane(journey: &Journey, lane: &Lane<'_>, width: usize, standing: bool, dead: Option<usize>) -> Vec<String> {
    let inner = width.saturating_sub(4);
    let host = journey.hosts.get(lane.host).map_or("", |host| host.name.as_str());
    let arrow = if lane.rising && standing { '▲' } else { '▼' };
    let title = words::cut(host, width.saturating_sub(9));
    let bar = "─".repeat(width.saturating_sub(8 + title.chars().count()));
    let mut lines = vec![format!("┌─ {title} {arrow} {bar}─┐")];
    let items = if standing { lane.downwards() } else { lane.items.clone() };
    for item in items {
        match item {
            Item::Crossing(crossing) => {
                let text = words::cut(&format!(" {} ", words::crossing(crossing)), width.saturating_sub(4));
                let rest = width.saturating_sub(4 + text.chars().count());
                lines.push(format!("├╌╌{text}{}┤", "╌".repeat(rest)));
            }
            Item::Hop(hop) => {
                let mut texts = of_hop(hop, inner);
                if dead == Some(hop.number) {
                    // Where it goes on from there: below in a box that goes down.
                    let at = if lane.rising && standing { 0 } else { texts.len() };
                    texts.insert(at, "✕ last seen here".to_owned());
                }
                let wall = if matches!(hop.place, Place::Worker { .. }) { '║' } else { '│' };
                lines.extend(texts.iter().map(|text| format!("{wall} {} {wall}", padded(text, inner))));
            }
        }
    }
    lines.push(format!("└{}┘", "─".repeat(width.saturating_sub(2))));
    lines
}

fn of_hop(hop: &Hop, width: usize) -> Vec<String> {
    let name = format!("{:>2} {}", hop.number, words::place(&hop.place));
    let since = words::since(hop);
    let room = width.saturating_sub(name.chars().count() + since.chars().count());
    let mut lines =
        if room > 0 { vec![format!("{name}{}{since}", " ".repeat(room))] } else { vec![name, format!("   {since}")] };
    let about: Vec<String> = std::iter::once(words::sort(&hop.place)).chain(words::size(hop)).collect();
    lines.extend(words::joined(&about, width.saturating_sub(3)).iter().map(|line| format!("   {line}")));
    for depth in [0, 1] {
        let headers: Vec<_> = hop.headers.iter().filter(|header| header.depth == depth).map(|h| h.brief()).collect();
        let mut foot = if depth == 0 { "   " } else { " └ " };
        for line in words::joined(&headers, width.saturating_sub(3)) {
            lines.push(format!("{foot}{line}"));
            foot = "   ";
        }
    }
    lines
}

fn padded(text: &str, width: usize) -> String {
    let text = words::cut(text, width);
    let missing = width.saturating_sub(text.chars().count());
    format!("{text}{}", " ".repeat(missing))
}
