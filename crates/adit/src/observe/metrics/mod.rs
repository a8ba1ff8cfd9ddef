//! What a daemon counts, for Prometheus and whatever else reads its formats. docs/METRICS.md has all names.

pub mod accept;
pub mod exposition;

pub use accept::Format;
use exposition::{Exposition, Family, Kind};

use super::facts::Facts;
use crate::api::Status;

/// The metrics at this moment: what goes into `Content-Type`, and the body. `accept` is what the client says in `Accept`.
pub fn render(facts: &Facts, accept: Option<&str>) -> (String, String) {
    let format = Format::of(accept);
    (format.content_type().to_owned(), text(&facts.status(), format))
}

static BUILD: Family = Family {
    name: "adit_build",
    kind: Kind::Info,
    unit: None,
    help: "The version of the daemon",
    labels: &["version"],
};

static UPTIME: Family = Family {
    name: "adit_uptime_seconds",
    kind: Kind::Gauge,
    unit: Some("seconds"),
    help: "Time since the daemon began to set up",
    labels: &[],
};

fn text(status: &Status, format: Format) -> String {
    let mut text = Exposition::new(format);
    text.family(&BUILD).sample(&[&status.version], 1);
    text.family(&UPTIME).sample(&[], status.uptime_s);
    text.finish()
}
