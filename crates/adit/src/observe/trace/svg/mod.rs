//! A journey as a figure: one SVG file that needs no other, light or dark as its reader prefers, whose text can be selected and is read
//! out by screen readers. On each host the packet goes down to the card, and up from it; filled boxes are user space.

mod canvas;
mod column;

use super::journey::{Fate, Hop, Journey, Leg, Probe, Way};
use super::lanes::lanes;
use super::words;
use canvas::Canvas;
use column::{Column, GAP, WIDTH};

/// What the figure looks like: its only style sheet, for whoever must name what a page may contain.
pub const STYLE: &str = include_str!("style.css");
/// The border of the figure, and of a host's panel.
const PAD: i32 = 20;
/// The least width, for the text below.
const LEAST: i32 = 760;
/// The height of a line of text.
const LINE: i32 = 19;

/// Draws `journey`.
#[must_use]
pub fn svg(journey: &Journey) -> String {
    let groups = words::groups(journey);
    let columns = groups.iter().filter_map(|group| group.first().copied());
    let columns = columns.flat_map(words::drawn).map(|leg| lanes(leg).len()).max().unwrap_or(1);
    let columns = i32::try_from(columns).unwrap_or(1).clamp(1, 1000);
    let width = LEAST.max(2 * PAD + columns * (WIDTH + GAP) - GAP + 2 * PAD);
    let mut canvas = Canvas::new(width);
    let title = format!("From {} to {}", journey.from, journey.destination);
    let mut y = PAD + 22;
    canvas.text("title", PAD, y, &title);
    let mut lines = vec![journey.protocol_name().to_owned()];
    if journey.probes.is_empty() {
        lines.push("nothing was sent".to_owned());
    }
    y = paragraph(&mut canvas, "quiet", y, &lines) + 8;
    for group in &groups {
        y = of_group(&mut canvas, journey, group, y);
    }
    y = paragraph(&mut canvas, "quiet", y, &words::notes(journey));
    y = legend(&mut canvas, y + 26);
    let picture = canvas.body();
    let (width, height) = (width, y + PAD);
    let (title, told) = (canvas::escaped(&title), canvas::escaped(&told(journey, &groups)));
    // By the width it is as wide as whoever shows it lets it be; the ids name it for whoever cannot see it.
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"adit-trace\" role=\"img\" aria-labelledby=\"adit-trace-title adit-trace-desc\" \
         viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" lang=\"en\">\n\
         <title id=\"adit-trace-title\">{title}</title>\n<desc id=\"adit-trace-desc\">{told}</desc>\n<style>\n{STYLE}</style>\n\
         <defs><marker id=\"adit-trace-tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto-start-reverse\">\
         <path class=\"tip\" d=\"M0 0 8 4 0 8z\"/></marker></defs>\n\
         <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n{picture}</svg>\n"
    )
}

fn of_group(canvas: &mut Canvas, journey: &Journey, group: &[&Probe], mut y: i32) -> i32 {
    let Some((first, others)) = group.split_first() else { return y };
    let lost = matches!(first.fate, Fate::Lost(_));
    y = paragraph(canvas, if lost { "bad" } else { "name" }, y + 6, &[capital(&words::fate(first))]);
    for leg in words::drawn(first) {
        if leg.way == Way::Back {
            y = paragraph(canvas, "name", y, &["Its answer:".to_owned()]);
        }
        y = of_leg(canvas, journey, first, leg, y + 14) + 10;
        y = paragraph(canvas, "", y, &words::totals(leg).iter().map(|line| capital(line)).collect::<Vec<_>>());
    }
    let mut lines: Vec<String> = words::answer(first).into_iter().map(|line| capital(&line)).collect();
    if let Fate::Lost(death) = &first.fate {
        y = paragraph(canvas, "bad", y, std::slice::from_ref(&death.reason.sentence));
        lines.extend(death.reason.evidence.iter().map(|evidence| format!("Evidence: {evidence}.")));
        lines.extend(death.reason.remedy.iter().map(|remedy| format!("Next: {remedy}")));
    }
    lines.extend(others.iter().map(|probe| format!("The same way: {}.", words::fate(probe))));
    paragraph(canvas, "quiet", y, &lines) + 8
}

/// Lines of text below `y`; the last one's foot.
fn paragraph(canvas: &mut Canvas, class: &str, mut y: i32, lines: &[String]) -> i32 {
    // Seven units are the mean width of a character of this size, with something to spare.
    let characters = usize::try_from((canvas.width() - 2 * PAD) / 7).unwrap_or(1);
    for line in lines.iter().flat_map(|line| words::wrapped(line, characters)) {
        y += LINE;
        canvas.text(class, PAD, y, &line);
    }
    y
}

fn of_leg(canvas: &mut Canvas, journey: &Journey, probe: &Probe, leg: &Leg, y: i32) -> i32 {
    let dead = match &probe.fate {
        Fate::Lost(death) if death.way == leg.way => death.last,
        _ => None,
    };
    let lanes = lanes(leg);
    let columns: Vec<Column<'_>> = lanes.iter().map(|lane| Column::of(lane, dead)).collect();
    let height = columns.iter().map(Column::height).max().unwrap_or(0);
    let foot = y + 44 + height;
    let left = |number: usize| 2 * PAD + i32::try_from(number).unwrap_or(0) * (WIDTH + GAP);
    // A panel for each host, around all its columns that stand side by side.
    let mut number = 0;
    while let Some(lane) = lanes.get(number) {
        let same = lanes.iter().skip(number).take_while(|other| other.host == lane.host).count();
        let wide = i32::try_from(same).unwrap_or(1) * (WIDTH + GAP) - GAP + 2 * PAD;
        canvas.rect("panel", (left(number) - PAD, y), (wide, height + 44 + PAD), 10);
        let host = journey.hosts.get(lane.host).map_or("", |host| host.name.as_str());
        canvas.text("host", left(number), y + 28, &words::cut(host, 38));
        number += same.max(1);
    }
    let mut ends: Vec<(i32, i32)> = Vec::new();
    for (number, column) in columns.iter().enumerate() {
        let at = (left(number), foot - column.height());
        let middles = column.draw(canvas, at);
        ends.push(middles);
    }
    for (number, pair) in ends.windows(2).enumerate() {
        let [(_, from), (to, _)] = pair else { continue };
        let (start, end) = (left(number) + WIDTH, left(number + 1));
        canvas.arrow(&[(start, *from), ((start + end) / 2, *from), ((start + end) / 2, *to), (end, *to)]);
    }
    foot + PAD
}

/// What the colours and lines mean.
fn legend(canvas: &mut Canvas, y: i32) -> i32 {
    canvas.rect("card", (PAD, y - 11), (18, 14), 3);
    canvas.text("quiet", PAD + 26, y, "in the kernel");
    canvas.rect("user", (PAD + 120, y - 11), (18, 14), 3);
    canvas.text("quiet", PAD + 146, y, "in user space");
    canvas.line("cut", (PAD + 246, y - 4), (PAD + 280, y - 4));
    canvas.text("quiet", PAD + 288, y, "a crossing between them; times are since the hop before");
    y
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

/// The journey in sentences, for whoever cannot see it.
fn told(journey: &Journey, groups: &[Vec<&Probe>]) -> String {
    let mut told = Vec::new();
    for probe in groups.iter().filter_map(|group| group.first()) {
        told.push(format!("{}.", capital(&words::fate(probe))));
        for leg in words::drawn(probe) {
            told.extend(leg.hops.iter().map(|hop| sentence(journey, hop)));
            told.extend(words::totals(leg).iter().map(|line| format!("{}.", capital(line))));
        }
        if let Fate::Lost(death) = &probe.fate {
            told.push(death.reason.sentence.clone());
        }
    }
    told.extend(words::notes(journey).iter().map(|note| format!("{note}.")));
    told.join(" ")
}

fn sentence(journey: &Journey, hop: &Hop) -> String {
    let since = words::since(hop);
    let since = if since.is_empty() { String::new() } else { format!(", {since}") };
    let (place, sort, size) = (words::place(&hop.place), words::sort(&hop.place), words::size(hop).join(", "));
    format!("Hop {} on {}: {place}, {sort}, {size}{since}.", hop.number, journey.host(hop))
}
