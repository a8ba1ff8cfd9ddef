//! The figure: one panel per load, a bar per system for the median, and a dot per round on it.
//!
//! It stands alone: no script, no font, no other file. Colours follow the reader's preference for light or dark; every bar has its number as
//! text, and the figure has a title and a description for those who do not see it.

use super::measure::Metric;
use super::report::{Report, number};
use super::summary::Row;

/// Pixels.
const WIDTH: f64 = 920.0;
const COLUMN: f64 = 450.0;
const LABELS: f64 = 110.0;
const VALUES: f64 = 60.0;
const BAR: f64 = 16.0;
const STEP: f64 = 24.0;
const HEAD: f64 = 64.0;
const PANEL_HEAD: f64 = 34.0;

/// The panels, with what a reader needs to know about each.
const PANELS: [(Metric, &str); 6] = [
    (Metric::Tcp1, "TCP, one stream (Gb/s, more is better)"),
    (Metric::Tcp4, "TCP, four streams (Gb/s, more is better)"),
    (Metric::Cpu, "Processor time (s per GB, less is better)"),
    (Metric::Small, "UDP, 64 bytes (thousands per s, more is better)"),
    (Metric::P50, "Round trip, median (us, less is better)"),
    (Metric::P99, "Round trip, 99 of 100 (us, less is better)"),
];

const STYLE: &str = "\
svg { color-scheme: light dark; --ink: #1d2330; --soft: #5c6475; --ground: #ffffff; --own: #0b6e99; --other: #9aa3b2; --dot: #1d2330; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e6e9f0; --soft: #a2abbd; --ground: #14181f; --own: #4db8e0; --other: #5c6779; --dot: #ffffff; }
}
text { font: 13px system-ui, sans-serif; fill: var(--ink); }
.title { font-size: 17px; font-weight: 600; }
.panel { font-weight: 600; }
.soft { fill: var(--soft); font-size: 12px; }
.own { fill: var(--own); }
.other { fill: var(--other); }
.dot { fill: var(--dot); stroke: var(--ground); stroke-width: 1; }
.line { stroke: var(--soft); stroke-width: 1; }
.end { text-anchor: end; }
";

/// The figure as a file of its own.
pub(super) fn draw(report: &Report) -> String {
    let panels: Vec<_> = PANELS
        .into_iter()
        .filter(|(metric, _)| report.systems.iter().any(|row| row.figure(*metric).is_some()))
        .collect();
    let height = PANEL_HEAD + STEP * report.systems.len() as f64 + 14.0;
    let whole = HEAD + height * panels.len().div_ceil(2) as f64 + 34.0;
    let (title, description) = (title(report), describe(report));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {whole:.0}\" width=\"{WIDTH:.0}\" height=\"{whole:.0}\" \
         role=\"img\" aria-labelledby=\"title description\">\n<title id=\"title\">{title}</title>\n\
         <desc id=\"description\">{description}</desc>\n<style>\n{STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" style=\"fill: var(--ground)\"/>\n\
         <text class=\"title\" x=\"16\" y=\"28\">{title}</text>\n<text class=\"soft\" x=\"16\" y=\"48\">{under}</text>\n",
        title = escape(&title),
        description = escape(&description),
        under = escape(&under(report)),
    );
    for (place, (metric, name)) in panels.into_iter().enumerate() {
        let (x, y) = (16.0 + COLUMN * (place % 2) as f64, HEAD + height * (place / 2) as f64);
        svg += &panel(report, (metric, name), x, y);
    }
    svg += &format!(
        "<text class=\"soft\" x=\"16\" y=\"{:.0}\">Bars: median; dots: the rounds. adit's own bars are coloured; encrypted: {}.</text>\n</svg>\n",
        whole - 14.0,
        escape(&encrypted(report)),
    );
    svg
}

fn panel(report: &Report, (metric, name): (Metric, &str), x: f64, y: f64) -> String {
    let largest = report.systems.iter().filter_map(|row| row.figure(metric)).map(|figure| figure.max);
    let largest = largest.fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let room = COLUMN - LABELS - VALUES - 20.0;
    let mut svg = format!("<g>\n<text class=\"panel\" x=\"{x:.0}\" y=\"{:.0}\">{}</text>\n", y + 20.0, escape(name));
    let left = x + LABELS;
    for (number_of, row) in report.systems.iter().enumerate() {
        let top = y + PANEL_HEAD + STEP * number_of as f64;
        svg += &bar(row, metric, (left, top), room / largest);
    }
    let (from, to) = (y + PANEL_HEAD - 4.0, y + PANEL_HEAD + STEP * report.systems.len() as f64 - 4.0);
    svg += &format!("<line class=\"line\" x1=\"{left:.1}\" y1=\"{from:.1}\" x2=\"{left:.1}\" y2=\"{to:.1}\"/>\n</g>\n");
    svg
}

fn bar(row: &Row, metric: Metric, (left, top): (f64, f64), scale: f64) -> String {
    let middle = top + BAR / 2.0;
    let mut svg =
        format!("<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n", left - 8.0, middle + 4.5, escape(row.title));
    let Some(figure) = row.figure(metric) else {
        return svg
            + &format!("<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\">failed</text>\n", left + 8.0, middle + 4.5);
    };
    let class = if row.title.starts_with("adit") { "own" } else { "other" };
    svg += &format!(
        "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR:.0}\" rx=\"2\"/>\n",
        figure.median * scale
    );
    for value in figure.rounds.iter().flatten() {
        svg += &format!("<circle class=\"dot\" cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"3\"/>\n", left + value * scale);
    }
    svg + &format!(
        "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
        left + figure.max * scale + 8.0,
        middle + 4.5,
        number(Some(figure.median))
    )
}

fn title(report: &Report) -> String {
    format!("adit {} bench: {} systems, side by side on one machine", report.version, report.systems.len())
}

fn under(report: &Report) -> String {
    let machine = &report.machine;
    let model = machine.model.as_ref().map_or_else(String::new, |model| format!(" ({model})"));
    format!(
        "{}, {} processors{model}; {} rounds of {} s, in turns",
        machine.kernel, machine.processors, report.rounds, report.load_seconds
    )
}

fn encrypted(report: &Report) -> String {
    let titles: Vec<_> = report.systems.iter().filter(|row| row.encrypted).map(|row| row.title).collect();
    if titles.is_empty() { "none".into() } else { titles.join(", ") }
}

/// Every number of the figure, for those who do not see it.
fn describe(report: &Report) -> String {
    let panel = |(metric, name): (Metric, &str)| {
        let values = report
            .systems
            .iter()
            .filter_map(|row| Some(format!("{} {}", row.title, number(Some(row.figure(metric)?.median)))));
        let values: Vec<_> = values.collect();
        (!values.is_empty()).then(|| format!("{name}: {}.", values.join(", ")))
    };
    PANELS.into_iter().filter_map(panel).collect::<Vec<_>>().join(" ")
}

/// Text within XML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 has none of these (section 2.2).
            no_xml if no_xml.is_control() || matches!(no_xml, '\u{fffe}' | '\u{ffff}') => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observe::bench::report::tests::sample;
    use crate::observe::bench::system::System;

    /// Fails where a text is not well-formed XML: tags that do not fit, attributes without quotes, signs that mean something else.
    fn assert_well_formed(text: &str) {
        let mut open = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            assert!(!rest[..start].contains('>'), "a stray > before {}", &rest[start..]);
            for entity in rest[..start].split('&').skip(1) {
                assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|name| entity.starts_with(name)), "&{entity}");
            }
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            assert!(!tag.contains(['<', '&']), "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "</{name}> closes nothing");
            } else {
                assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
                assert_eq!(tag.matches('=').count(), tag.matches("=\"").count(), "{tag}");
                if !tag.ends_with('/') {
                    open.push(tag.split_whitespace().next().unwrap());
                }
            }
            rest = &rest[end + 1..];
        }
        assert_eq!((open, rest.trim()), (Vec::new(), ""));
    }

    #[test]
    fn the_figure_stands_alone_and_says_every_number_as_text() {
        let report = sample("EPYC <9R14> & \"co\"", &[4.125, 5.25, 6.5]);
        let figure = draw(&report);
        assert_well_formed(&figure);
        assert!(figure.contains("prefers-color-scheme: dark") && figure.contains("role=\"img\""));
        assert!(!figure.contains("href") && !figure.contains("<script") && !figure.contains("url("));
        for system in System::ALL {
            assert!(figure.contains(&format!("{} 5.25", system.title())), "described in words: {system:?}");
        }
        assert_eq!(figure.matches("<rect class").count(), PANELS.len() * System::ALL.len());
        assert_eq!(figure.matches("<circle").count(), PANELS.len() * System::ALL.len() * 3);
    }

    #[test]
    fn what_failed_is_not_drawn_as_nothing() {
        let mut report = sample("EPYC", &[1.0]);
        report.systems.first_mut().unwrap().figures.remove(Metric::Small.key());
        let figure = draw(&report);
        assert_well_formed(&figure);
        assert_eq!(figure.matches(">failed</text>").count(), 1);
    }

    #[test]
    fn bars_and_numbers_stay_in_their_panel() {
        let figure = draw(&sample("EPYC", &[1.0, 9000.0]));
        for circle in figure.split("cx=\"").skip(1) {
            let x: f64 = circle.split('"').next().unwrap().parse().unwrap();
            assert!((0.0..=WIDTH - VALUES).contains(&x), "{x}");
        }
    }

    proptest! {
        #[test]
        fn any_model_and_any_numbers_give_a_figure(model in ".{0,60}", rounds in proptest::collection::vec(0.0..1e9, 0..4)) {
            assert_well_formed(&draw(&sample(&model, &rounds)));
        }
    }
}
