//! Metrics as text: Prometheus' format 0.0.4 and OpenMetrics 1.0, which differ in names of families, units and the end.

use std::fmt::{Display, Write};

use super::accept::Format;
use crate::counters::Histogram;

/// What a family counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows. Its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size. Its samples end in `_bucket`, `_sum` and `_count`.
    Histogram,
    /// Always 1: its labels are what it says. Its samples end in `_info`.
    Info,
}

/// A group of series under one name.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Without `_total`, `_bucket` and their like; ends in the unit, if there is one.
    pub name: &'static str,
    /// What it counts.
    pub kind: Kind,
    /// `seconds` or `bytes`.
    pub unit: Option<&'static str>,
    /// What it says, without a full stop.
    pub help: &'static str,
    /// The labels of its series, in order.
    pub labels: &'static [&'static str],
}

impl Family {
    /// What stands behind the name of a sample, but for histograms, which have three.
    pub fn suffix(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }
}

/// A text that grows by families.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
}

impl Exposition {
    /// One without families.
    pub fn new(format: Format) -> Self {
        Self { format, text: String::new() }
    }

    /// Begins a family; its samples must follow. A family without samples says nothing and is better not begun.
    pub fn family(&mut self, family: &'static Family) -> Samples<'_> {
        let Family { name, kind, unit, help, .. } = family;
        // Text knows no families: it describes samples by their name, and has no type for what is always 1.
        let (suffix, kind) = match (self.format, kind) {
            (_, Kind::Gauge) => ("", "gauge"),
            (_, Kind::Histogram) => ("", "histogram"),
            (Format::Text, Kind::Counter) => ("_total", "counter"),
            (Format::Text, Kind::Info) => ("_info", "gauge"),
            (Format::OpenMetrics, Kind::Counter) => ("", "counter"),
            (Format::OpenMetrics, Kind::Info) => ("", "info"),
        };
        let text = &mut self.text;
        let _ = writeln!(text, "# HELP {name}{suffix} {}", escape_help(help, self.format));
        let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        if let (Format::OpenMetrics, Some(unit)) = (self.format, unit) {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        Samples { family, text }
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// Where the samples of a family go.
#[derive(Debug)]
pub struct Samples<'a> {
    family: &'static Family,
    text: &'a mut String,
}

impl Samples<'_> {
    /// A sample; `values` are those of the family's labels, in their order.
    pub fn sample(&mut self, values: &[&str], value: impl Display) {
        self.write(self.family.suffix(), values, None, &value);
    }

    /// The samples of a histogram: each step counts all that is at most as large.
    pub fn histogram(&mut self, values: &[&str], histogram: &Histogram) {
        let (counts, names) = (histogram.counts(), histogram.scale.names);
        let mut sum = 0u64;
        for (count, bound) in counts.iter().zip(names.iter().copied().chain(["+Inf"])) {
            sum = sum.wrapping_add(*count);
            self.write("_bucket", values, Some(bound), &sum);
        }
        self.write("_sum", values, None, &(histogram.sum() as f64 / histogram.scale.per_unit as f64));
        self.write("_count", values, None, &sum);
    }

    fn write(&mut self, suffix: &str, values: &[&str], bound: Option<&str>, value: &dyn Display) {
        debug_assert_eq!(values.len(), self.family.labels.len(), "{}", self.family.name);
        let _ = write!(self.text, "{}{suffix}", self.family.name);
        let bound = bound.map(|bound| ("le", bound));
        let mut before = '{';
        for (label, value) in self.family.labels.iter().copied().zip(values.iter().copied()).chain(bound) {
            let _ = write!(self.text, "{before}{label}=\"");
            escape_label(value, self.text);
            self.text.push('"');
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// Backslash, quote and line feed are escaped, and everything else stands for itself, in both formats.
fn escape_label(value: &str, text: &mut String) {
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            letter => text.push(letter),
        }
    }
}

/// OpenMetrics escapes quotes here too.
fn escape_help(help: &str, format: Format) -> String {
    let text = help.replace('\\', "\\\\").replace('\n', "\\n");
    if format == Format::OpenMetrics { text.replace('"', "\\\"") } else { text }
}
