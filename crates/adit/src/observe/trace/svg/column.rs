//! One column of the figure: hops as cards, one above the other, and crossings between them.

use super::super::crossings::Crossing;
use super::super::headers::Header;
use super::super::journey::Hop;
use super::super::lanes::{Item, Lane};
use super::super::observation::Place;
use super::super::words;
use super::canvas::{Canvas, Point};

/// The width of a column, and of what lies between two.
pub(super) const WIDTH: i32 = 340;
pub(super) const GAP: i32 = 64;
/// Between the cards of a column.
const BETWEEN: i32 = 20;
/// The height of a crossing.
const CROSSING: i32 = 30;
/// The height of a card without what is said about it, and without its headers.
const CARD: i32 = 34;
/// The height of a line about it, and its characters.
const ABOUT: i32 = 17;
const ABOUT_CHARACTERS: usize = 42;
/// The height of a line of chips, and of a line of what they say.
const CHIPS: i32 = 24;
const SAID: i32 = 15;
/// Characters of such a line.
const CHARACTERS: usize = 47;
/// The mark where a probe was last seen.
const DEAD: i32 = 30;

/// A column, measured.
pub(super) struct Column<'l> {
    rising: bool,
    parts: Vec<Part<'l>>,
}

struct Part<'l> {
    item: Item<'l>,
    height: i32,
    dead: bool,
}

impl<'l> Column<'l> {
    pub(super) fn of(lane: &Lane<'l>, dead: Option<usize>) -> Self {
        let part = |item: Item<'l>| match item {
            Item::Crossing(_) => Part { item, height: CROSSING, dead: false },
            Item::Hop(hop) => Part { item, height: measures(hop).1, dead: dead == Some(hop.number) },
        };
        Self { rising: lane.rising, parts: lane.downwards().into_iter().map(part).collect() }
    }

    /// How high it is.
    pub(super) fn height(&self) -> i32 {
        let parts: i32 = self.parts.iter().map(|part| part.height + if part.dead { DEAD } else { 0 }).sum();
        parts + BETWEEN * (i32::try_from(self.parts.len()).unwrap_or(1) - 1).max(0)
    }

    /// Draws it from `at` down; the middles of its first and its last card in the packet's order.
    pub(super) fn draw(&self, canvas: &mut Canvas, (x, mut y): Point) -> (i32, i32) {
        let mut middles = Vec::new();
        for (number, part) in self.parts.iter().enumerate() {
            // The way goes on at the side where the numbers are.
            if number > 0 {
                let (above, below) = ((x + 22, y - BETWEEN), (x + 22, y));
                canvas.arrow(&if self.rising { [below, above] } else { [above, below] });
            }
            if part.dead && self.rising {
                dead(canvas, (x, y));
                y += DEAD;
            }
            match part.item {
                Item::Crossing(crossing) => draw_crossing(canvas, (x, y), crossing),
                Item::Hop(hop) => {
                    draw_card(canvas, (x, y), hop, part.height);
                    middles.push(y + part.height / 2);
                }
            }
            y += part.height;
            if part.dead && !self.rising {
                dead(canvas, (x, y));
                y += DEAD;
            }
            y += BETWEEN;
        }
        let (top, foot) = (middles.first().copied().unwrap_or(y), middles.last().copied().unwrap_or(y));
        if self.rising { (foot, top) } else { (top, foot) }
    }
}

fn dead(canvas: &mut Canvas, (x, y): Point) {
    let (x, y) = (x + 22, y + 16);
    canvas.line("badline", (x - 7, y - 7), (x + 7, y + 7));
    canvas.line("badline", (x - 7, y + 7), (x + 7, y - 7));
    canvas.text("bad", x + 18, y + 5, "last seen here");
}

fn draw_crossing(canvas: &mut Canvas, (x, y): Point, crossing: &Crossing) {
    let text = words::cut(&words::crossing(crossing), 44);
    let half = i32::try_from(text.chars().count()).unwrap_or(0) * 7 / 2 + 10;
    let (middle, level) = (x + WIDTH / 2 + 12, y + CROSSING / 2);
    canvas.line("cut", (x - 8, level), (x + WIDTH + 8, level));
    canvas.rect("pill", (middle - half, level - 11), (2 * half, 22), 11);
    canvas.text("crossing", middle, level + 4, &text);
}

/// What is said about a card, in lines.
fn about(hop: &Hop) -> Vec<String> {
    let parts: Vec<String> = std::iter::once(words::sort(&hop.place)).chain(words::size(hop)).collect();
    words::joined(&parts, ABOUT_CHARACTERS)
}

/// What the headers of a card say, in lines.
fn said(hop: &Hop) -> Vec<String> {
    let telling = |header: &&Header| header.name != "Ethernet";
    let briefs: Vec<String> = hop.headers.iter().filter(telling).map(Header::brief).collect();
    words::joined(&briefs, CHARACTERS)
}

/// Where the headers begin, and the height of it all.
fn measures(hop: &Hop) -> (i32, i32) {
    let lines = |lines: Vec<String>| i32::try_from(lines.len()).unwrap_or(0);
    let headers = CARD + ABOUT * lines(about(hop));
    (headers, headers + CHIPS + SAID * lines(said(hop)) + 6)
}

fn draw_card(canvas: &mut Canvas, (x, y): Point, hop: &Hop, height: i32) {
    let whole: Vec<String> = hop.headers.iter().map(|header| format!("{}: {}", header.name, header.summary)).collect();
    canvas.begin(&whole.join("\u{2003}"));
    let class = if matches!(hop.place, Place::Worker { .. }) { "user" } else { "card" };
    // What stands for several packets is drawn as a pile.
    for behind in [2, 1].into_iter().filter(|_| hop.packets > 1) {
        canvas.rect(class, (x + 4 * behind, y + 4 * behind), (WIDTH, height), 8);
    }
    canvas.rect(class, (x, y), (WIDTH, height), 8);
    canvas.circle("number", (x + 22, y + 20), 11);
    canvas.text("onnumber", x + 22, y + 24, &hop.number.to_string());
    let name = words::cut(&words::place(&hop.place), 22);
    canvas.text("name", x + 42, y + 25, &name);
    canvas.text("quiet end", x + WIDTH - 12, y + 25, &words::since(hop));
    for (line, text) in (1..).zip(about(hop)) {
        canvas.text("quiet", x + 42, y + 26 + ABOUT * line, &text);
    }
    let (headers, _) = measures(hop);
    chips(canvas, (x + 12, y + headers + 2), hop);
    for (line, text) in (1..).zip(said(hop)) {
        canvas.text("code", x + 12, y + headers + CHIPS + SAID * line, &text);
    }
    canvas.end();
}

/// The headers as they stand in the packet, from left to right, and what follows them.
fn chips(canvas: &mut Canvas, (mut x, y): Point, hop: &Hop) {
    let end = x + WIDTH - 24;
    for header in &hop.headers {
        let (class, payload) = match header.name {
            "IPv4" | "IPv6" | "IP" | "ARP" => ("h-net", false),
            "TCP" | "UDP" | "ICMP" | "ICMPv6" => ("h-flow", false),
            // What is encrypted takes the rest of the packet.
            "sealed" | "WireGuard" => ("h-seal", true),
            _ => ("h-link", false),
        };
        let own = i32::try_from(header.name.len()).unwrap_or(0) * 7 + 14;
        let width = if payload { end - x } else { own };
        if x + width.max(own) > end {
            break;
        }
        canvas.rect(class, (x, y), (width, 19), 3);
        canvas.text("small middle", x + width / 2, y + 13, header.name);
        x += width + 2;
    }
    if end - x > 12 {
        canvas.rect("h-load", (x, y), (end - x, 19), 3);
        if end - x > 60 {
            canvas.text("code middle", (x + end) / 2, y + 13, "payload");
        }
    }
}
