//! What a bench between nodes says.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::lab::NOT_OPTIMISED;
use crate::lab::figures::median;
use crate::lab::screen::Style;
use crate::observe::bench::measure::Metric;
use crate::observe::bench::report::{WIDTH, number};
use crate::observe::bench::summary::Figure;
use crate::observe::table::{Table, wrap};

/// The document of `adit bench --to NODE --json`; docs/BENCH.md has all fields.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Version of the program here.
    pub(super) version: &'static str,
    /// `nodes`.
    pub(super) kind: &'static str,
    /// Whether it was built as one that is to be measured.
    pub(super) optimised: bool,
    /// The other node, and its version.
    pub(super) node: String,
    pub(super) node_version: String,
    pub(super) way: Way,
    /// How often each load was put on, and how long each time.
    pub(super) rounds: usize,
    pub(super) load_seconds: f64,
    /// All of it.
    pub(super) seconds: f64,
    /// By [`Metric::key`].
    pub(super) figures: BTreeMap<&'static str, Figure>,
    /// Loads that failed.
    pub(super) faults: Vec<Fault>,
}

/// What carried the loads.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Way {
    /// The tunnel device here.
    pub(super) device: String,
    /// The addresses that the loads had here and there.
    pub(super) from: String,
    pub(super) to: String,
    /// Where the node's datagrams go.
    pub(super) endpoint: Option<String>,
    /// `sealed`.
    pub(super) transport: String,
    pub(super) encrypted: bool,
    /// What encrypts.
    pub(super) suite: Option<String>,
    /// The largest packet of the device, in bytes, and of the way as far as it is known.
    pub(super) mtu: u32,
    pub(super) path_mtu: Option<u64>,
}

/// A load that failed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Fault {
    /// From 1.
    pub(super) round: usize,
    pub(super) what: String,
}

impl Report {
    /// As a person reads it, at most 100 columns wide.
    pub(super) fn text(&self, style: Style) -> String {
        let Way { device, from, to, endpoint, transport, encrypted, suite, mtu, path_mtu } = &self.way;
        let node = &self.node;
        let rounds = if self.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", self.rounds) };
        let sealed = match (encrypted, suite) {
            (true, Some(suite)) => format!("{transport}, encrypted with {suite}"),
            (true, None) => format!("{transport}, encrypted"),
            (false, _) => format!("{transport}, NOT ENCRYPTED"),
        };
        let endpoint = endpoint.as_ref().map_or_else(String::new, |endpoint| format!(", {node} at {endpoint}"));
        let path = path_mtu.map_or_else(String::new, |path| format!(", {path} on the way"));
        let head = format!(
            "{}\n{from} to {to} by {device}{endpoint}\n{sealed}; mtu {mtu}{path}; {node} runs adit {}\n{rounds} of {} s per load",
            style.bold(&format!("adit {} bench: this host and {node}", self.version)),
            self.node_version,
            self.load_seconds,
        );
        [wrap(&head, WIDTH) + "\n", self.table(), wrap(&self.notes(), WIDTH)].join("\n")
    }

    fn table(&self) -> String {
        let mut table = Table::new(&["", "median", "rounds"]);
        for metric in Metric::BETWEEN {
            let title = match metric {
                Metric::Tcp1 => "TCP, one stream there, Gb/s",
                Metric::Tcp1Back => "TCP, one stream back, Gb/s",
                Metric::Tcp4 => "TCP, four streams there, Gb/s",
                Metric::Tcp4Back => "TCP, four streams back, Gb/s",
                Metric::CpuHere => "daemon here, processor s/GB",
                Metric::CpuThere => "daemon there, processor s/GB",
                Metric::Small => "UDP of 64 bytes that arrived there, thousands per s",
                Metric::SmallLoss => "  of those sent at full speed lost, %",
                Metric::P50 => "round trip of 64 bytes, half within, us",
                Metric::P99 => "  99 of 100 within, us",
                Metric::TripLoss => "  lost, %",
                Metric::Cpu => continue,
            };
            let percent = if matches!(metric, Metric::SmallLoss | Metric::TripLoss) { 100.0 } else { 1.0 };
            let shown = |value: f64| number(Some(value * percent));
            let (middle, range) = match self.figures.get(metric.key()) {
                None => ("-".into(), String::new()),
                Some(figure) if figure.min < figure.max => {
                    (shown(figure.median), format!("{} - {}", shown(figure.min), shown(figure.max)))
                }
                Some(figure) => (shown(figure.median), String::new()),
            };
            table.row([title.to_owned(), middle, range]);
        }
        table.render(0)
    }

    fn notes(&self) -> String {
        let mut notes = Vec::new();
        if !self.optimised {
            notes.push(NOT_OPTIMISED.to_owned());
        }
        if self.rounds < 2 {
            notes.push("Noise: unknown, since one round says nothing about it (--rounds 5 does).".to_owned());
        } else {
            let losses = [Metric::SmallLoss.key(), Metric::TripLoss.key()];
            let figures = self.figures.iter().filter(|(key, _)| !losses.contains(*key));
            let spread = median(figures.map(|(_, figure)| figure.spread).collect());
            notes.push(format!(
                "Noise: rounds of one figure lie {:.0} % of its median apart, typically: a smaller difference to another run is none.",
                spread * 100.0
            ));
        }
        notes.push(format!(
            "Both hosts also make and take the loads. Processor time is that of the daemons' workers, for TCP both ways, {}.",
            match self.figures.get(Metric::CpuThere.key()) {
                Some(_) => "without the loads themselves",
                None => "where the kernel tells",
            }
        ));
        notes.extend(self.faults.iter().map(|fault| format!("Failed: round {}: {}.", fault.round, fault.what)));
        notes.join("\n")
    }
}
