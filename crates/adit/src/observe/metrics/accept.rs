//! Which of the two formats a client gets: what it says in `Accept` (RFC 9110, section 12.5.1).

/// A format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4, which everybody reads.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What goes into `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// OpenMetrics for a client that names it and wants nothing else more. Who takes anything (curl, a browser) gets text: it shows that.
    pub fn of(accept: Option<&str>) -> Self {
        let (mut open, mut text) = (0, Weighed::default());
        for range in accept.into_iter().flat_map(|accept| split(accept, ',')).filter_map(Range::parse) {
            match (range.kind.as_str(), range.version.as_deref()) {
                ("application/openmetrics-text", None | Some("1.0.0")) => open = open.max(range.weight),
                ("text/plain", None | Some("0.0.4")) => text.weigh(2, range.weight),
                ("text/*", _) => text.weigh(1, range.weight),
                ("*/*", _) => text.weigh(0, range.weight),
                _ => {}
            }
        }
        if open > 0 && open >= text.weight { Self::OpenMetrics } else { Self::Text }
    }
}

/// The weight of the most specific range that matches.
#[derive(Default)]
struct Weighed {
    specific: u8,
    weight: u16,
    any: bool,
}

impl Weighed {
    fn weigh(&mut self, specific: u8, weight: u16) {
        if !self.any || specific > self.specific {
            *self = Self { specific, weight, any: true };
        } else if specific == self.specific {
            self.weight = self.weight.max(weight);
        }
    }
}

/// One of the things that a client takes.
struct Range {
    kind: String,
    version: Option<String>,
    /// In thousandths.
    weight: u16,
}

impl Range {
    /// Nothing for what is no media range: it is as if it was not said.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = split(text, ';').map(str::trim);
        let kind = parts.next().filter(|kind| !kind.is_empty())?.to_ascii_lowercase();
        let mut range = Self { kind, version: None, weight: 1000 };
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=')?;
            let value = value.trim();
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => range.weight = weight(value)?,
                "version" => range.version = Some(value.trim_matches('"').to_owned()),
                _ => {}
            }
        }
        Some(range)
    }
}

/// `0`, `1`, or with up to three digits behind the point; in thousandths.
fn weight(text: &str) -> Option<u16> {
    let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
    if digits.len() > 3 || !digits.bytes().all(|digit| digit.is_ascii_digit()) || !["0", "1"].contains(&whole) {
        return None;
    }
    let thousandths = format!("{whole}{digits:0<3}").parse().ok()?;
    (thousandths <= 1000).then_some(thousandths)
}

/// Splits where `mark` stands outside of quotes.
fn split(text: &str, mark: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |letter: char| {
        if escaped {
            escaped = false;
        } else if quoted && letter == '\\' {
            escaped = true;
        } else if letter == '"' {
            quoted = !quoted;
        }
        letter == mark && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_wants_most_it_gets() {
        use Format::{OpenMetrics, Text};
        // The first two are what Prometheus 2.x and 3.x send.
        for (accept, format) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,/;q=0.1",
                OpenMetrics,
            ),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"", OpenMetrics),
            ("text/plain;q=0.2, application/openmetrics-text;q=0.3", OpenMetrics),
            ("text/plain;q=0.30, application/openmetrics-text;q=0.3", OpenMetrics),
            ("text/plain;q=0.3, application/openmetrics-text;q=0.299", Text),
            ("text/plain, application/openmetrics-text;q=0.999", Text),
            ("application/openmetrics-text;q=0", Text),
            ("application/openmetrics-text;q=0.000, */*", Text),
            // The most specific range counts, not the largest weight.
            ("text/*, text/plain;q=0.1, application/openmetrics-text;q=0.2", OpenMetrics),
            ("*/*, text/plain;q=0.1, application/openmetrics-text;q=0.2", OpenMetrics),
            ("*/*, application/openmetrics-text;q=0.2", Text),
            // What we do not speak.
            ("application/openmetrics-text;version=2.0.0", Text),
            ("application/openmetrics-text;version=0.0.1", Text),
            ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily", Text),
            // Anything: text, which anybody can read.
            ("*/*", Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Text),
            ("application/*", Text),
            ("", Text),
            (",,;;,", Text),
            // What is no weight is no wish.
            ("application/openmetrics-text;q=2", Text),
            ("application/openmetrics-text;q=1.001", Text),
            ("application/openmetrics-text;q=-1", Text),
            ("application/openmetrics-text;q=0.1234", Text),
            ("application/openmetrics-text;q=", Text),
            ("application/openmetrics-text;q", Text),
            // A comma in quotes separates nothing.
            ("text/plain;a=\"x,application/openmetrics-text\"", Text),
            ("text/plain;a=\"\\\",application/openmetrics-text\"", Text),
        ] {
            assert_eq!(Format::of(Some(accept)), format, "{accept}");
        }
        assert_eq!(Format::of(None), Text);
    }
}
