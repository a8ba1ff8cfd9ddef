//! What a bench says: the document for programs, and the table that a person would paste.

use serde::Serialize;

use super::measure::Metric;
use super::summary::{Figure, Pair, Row};
use crate::lab::NOT_OPTIMISED;
use crate::lab::screen::Style;
use crate::observe::table::{Table, wrap};

/// The document of `adit bench --json`; docs/BENCH.md has all fields.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Version of the program.
    pub(super) version: &'static str,
    /// `systems`.
    pub(super) kind: &'static str,
    /// Whether it was built as one that is to be measured.
    pub(super) optimised: bool,
    pub(super) machine: Machine,
    /// Whether it ran in a user namespace of its own, without root.
    pub(super) rootless: bool,
    /// How often each load was put on each system, and how long each time.
    pub(super) rounds: usize,
    pub(super) load_seconds: f64,
    /// All of it, building and removal included.
    pub(super) seconds: f64,
    /// The system that others are divided by.
    pub(super) yardstick: Option<&'static str>,
    pub(super) systems: Vec<Row>,
    pub(super) pairs: Vec<Pair>,
    /// What could not be built.
    pub(super) left_out: Vec<LeftOut>,
    /// Loads that failed.
    pub(super) faults: Vec<Fault>,
    /// The network namespaces that were made, all of which are gone.
    pub(super) removed: Vec<String>,
}

/// What it ran on.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    /// `Linux 6.18.5`
    pub(super) kernel: String,
    /// How many processors this process may use.
    pub(super) processors: usize,
    /// What the kernel calls them.
    pub(super) model: Option<String>,
    /// Whether they have instructions for AES.
    pub(super) aes: bool,
    /// How TCP reacts to congestion there.
    pub(super) congestion_control: String,
}

/// A system that could not be built.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LeftOut {
    pub(super) name: &'static str,
    pub(super) why: String,
}

/// A load that failed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Fault {
    pub(super) system: &'static str,
    /// From 1.
    pub(super) round: usize,
    pub(super) what: String,
}

/// Columns of the text.
pub(super) const WIDTH: usize = 100;

/// The columns of ratios: those of which a reader wants to know how a tunnel does beside another.
const RATIOS: [Metric; 5] = [Metric::Tcp1, Metric::Tcp4, Metric::Cpu, Metric::Small, Metric::P50];

impl Report {
    /// As a person reads it, at most 100 columns wide.
    pub(super) fn text(&self, style: Style) -> String {
        let mut parts = vec![wrap(&self.head(style), WIDTH) + "\n", self.figures()];
        if let Some(base) = self.systems.iter().find(|row| Some(row.name) == self.yardstick) {
            parts.push(self.ratios(base, style));
        }
        parts.push(wrap(&self.notes(), WIDTH));
        parts.join("\n")
    }

    fn head(&self, style: Style) -> String {
        let Machine { kernel, processors, model, congestion_control, .. } = &self.machine;
        let model = model.as_ref().map_or_else(String::new, |model| format!(" ({model})"));
        let rounds = if self.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", self.rounds) };
        format!(
            "{}\n{kernel}, {processors} processors{model}, {congestion_control}\n{rounds} of {} s per load, systems in turns; each \
             figure is the median of its rounds",
            style.bold(&format!("adit {} bench: two hosts in network namespaces of one machine", self.version)),
            self.load_seconds,
        )
    }

    fn figures(&self) -> String {
        let mut table = Table::new(&["", "TCP x1", "", "TCP x4", "", "CPU", "UDP 64 B", "RTT p50", "p99"]);
        table.row(["", "Gb/s >", "< Gb/s", "Gb/s >", "< Gb/s", "s/GB", "kpps", "us", "us"].map(str::to_owned));
        for row in &self.systems {
            let cells = Metric::ALL.map(|metric| number(row.figure(metric).map(|figure| figure.median)));
            table.row(std::iter::once(row.title.to_owned()).chain(cells));
        }
        table.render(0)
    }

    fn ratios(&self, base: &Row, style: Style) -> String {
        let titles: Vec<_> = std::iter::once("").chain(RATIOS.map(Metric::title)).collect();
        let mut table = Table::new(&titles);
        for row in self.systems.iter().filter(|row| row.name != base.name) {
            let cells = RATIOS.map(|metric| row.figure(metric).map_or_else(|| "-".into(), ratio));
            table.row(std::iter::once(row.title.to_owned()).chain(cells));
        }
        let title =
            format!("Divided by {} in the same round: median, and smallest to largest of the rounds", base.title);
        format!("{}\n{}", style.bold(&title), table.render(0))
    }

    fn notes(&self) -> String {
        let mut notes = Vec::new();
        if !self.optimised {
            notes.push(NOT_OPTIMISED.to_owned());
        }
        if self.yardstick == Some("veth") && self.left_out.iter().any(|out| out.name == "vxlan") {
            notes.push("Ratios are to the veth pair, since this kernel makes no VXLAN device.".to_owned());
        }
        notes.extend(self.noise());
        let encrypted: Vec<_> = self.systems.iter().filter(|row| row.encrypted).map(|row| row.title).collect();
        notes.push(match encrypted.as_slice() {
            [] => "None of these encrypts.".to_owned(),
            titles => format!("Encrypted: {}. The others carry packets in the clear.", titles.join(", ")),
        });
        notes.push(
            "CPU is that of the whole machine: both hosts, both ends of the load, and whatever else ran meanwhile."
                .to_owned(),
        );
        notes.extend(self.left_out.iter().map(|out| format!("Left out: {}: {}.", out.name, out.why)));
        notes.extend(self.faults.iter().map(|f| format!("Failed: {}, round {}: {}.", f.system, f.round, f.what)));
        notes.join("\n")
    }

    fn noise(&self) -> Vec<String> {
        if self.rounds < 2 {
            return vec!["Noise: unknown, since one round says nothing about it (--rounds 5 does).".to_owned()];
        }
        let all = || {
            self.systems.iter().flat_map(|row| {
                Metric::ALL.into_iter().filter_map(move |metric| Some((row.title, metric, row.figure(metric)?.spread)))
            })
        };
        let typical = crate::lab::figures::median(all().map(|(_, _, spread)| spread).collect());
        let worst = all().max_by(|a, b| a.2.total_cmp(&b.2));
        let worst = worst.map_or_else(String::new, |(title, metric, spread)| {
            format!(", at most {:.0} % ({title}, {})", spread * 100.0, metric.title())
        });
        let mut notes = vec![format!(
            "Noise: rounds of one figure lie {:.0} % of its median apart, typically{worst}.",
            typical * 100.0
        )];
        if self.systems.iter().any(|row| RATIOS.iter().any(|metric| row.figure(*metric).is_some_and(is_noise))) {
            notes.push("~ no difference shown: some rounds say larger, others smaller.".to_owned());
        }
        notes.extend(self.pairs.iter().filter_map(|pair| self.within_noise(pair)));
        notes
    }

    /// Of what two of our own systems do not differ, as far as this run shows.
    fn within_noise(&self, pair: &Pair) -> Option<String> {
        let title = |name| self.systems.iter().find(|row| row.name == name).map(|row| row.title);
        let same: Vec<_> = Metric::ALL
            .into_iter()
            .filter(|metric| pair.ratios.get(metric.key()).is_some_and(|ratio| ratio.within_noise))
            .map(Metric::title)
            .collect();
        let (first, second) = (title(pair.first)?, title(pair.second)?);
        (!same.is_empty())
            .then(|| format!("{first} and {second} differ by no more than the noise in: {}.", same.join(", ")))
    }
}

fn is_noise(figure: &Figure) -> bool {
    figure.ratio.as_ref().is_some_and(|ratio| ratio.within_noise && ratio.min < ratio.max)
}

/// `0.52 0.48-0.55`, with a mark where it says nothing.
fn ratio(figure: &Figure) -> String {
    let Some(ratio) = &figure.ratio else { return "-".into() };
    let mark = if is_noise(figure) { "~" } else { "" };
    let range = if ratio.min < ratio.max {
        format!(" {}-{}", number(Some(ratio.min)), number(Some(ratio.max)))
    } else {
        String::new()
    };
    format!("{mark}{}{range}", number(Some(ratio.median)))
}

/// Three digits.
pub(super) fn number(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value < 9.995 => format!("{value:.2}"),
        Some(value) if value < 99.95 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observe::bench::summary::tests::measured;
    use crate::observe::bench::summary::{pairs, rows, yardstick};
    use crate::observe::bench::system::System;

    /// A report on all systems, each with these rounds.
    pub(in crate::observe::bench) fn sample(model: &str, rounds: &[f64]) -> Report {
        let all: Vec<_> = System::ALL.into_iter().map(|system| measured(system, rounds)).collect();
        Report {
            version: "0.1.0",
            kind: "systems",
            optimised: true,
            machine: Machine {
                kernel: "Linux 6.18".into(),
                processors: 2,
                model: Some(model.into()),
                aes: true,
                congestion_control: "cubic".into(),
            },
            rootless: false,
            rounds: rounds.len(),
            load_seconds: 0.4,
            seconds: 90.0,
            yardstick: yardstick(&all).map(System::name),
            systems: rows(&all),
            pairs: pairs(&all),
            left_out: Vec::new(),
            faults: Vec::new(),
            removed: Vec::new(),
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, shown) in
            [(0.0, "0.00"), (0.456, "0.46"), (9.994, "9.99"), (9.996, "10.0"), (99.96, "100"), (12345.6, "12346")]
        {
            assert_eq!(number(Some(value)), shown);
        }
        assert_eq!(number(None), "-");
    }

    #[test]
    fn what_one_round_cannot_say_is_said() {
        let text = sample("EPYC", &[1.0]).text(Style { colour: false });
        assert!(text.contains("Noise: unknown") && !text.contains('~'), "{text}");
    }

    #[test]
    fn a_ratio_to_the_bare_pair_says_why() {
        let mut report = sample("EPYC", &[1.0, 2.0]);
        report.systems.retain(|row| row.name != "vxlan");
        report.yardstick = Some("veth");
        report.left_out = vec![LeftOut { name: "vxlan", why: "create vx0: not supported".into() }];
        report.faults = vec![Fault { system: "adit plain", round: 2, what: "TCP x1: nothing moved".into() }];
        let text = report.text(Style { colour: false });
        for words in [
            "Divided by veth pair",
            "Ratios are to the veth pair, since this kernel makes no VXLAN device.",
            "Left out: vxlan: create vx0: not supported.",
            "Failed: adit plain, round 2: TCP x1: nothing moved.",
        ] {
            assert!(text.contains(words), "{words:?} is missing in:\n{text}");
        }
    }

    proptest! {
        #[test]
        fn the_text_is_no_wider_than_a_page(model in ".{0,120}", rounds in proptest::collection::vec(0.5..50.0, 1..4)) {
            for line in sample(&model, &rounds).text(Style { colour: false }).lines() {
                let words = line.split(' ').map(|word| word.chars().count()).max().unwrap_or(0);
                prop_assert!(line.chars().count() <= WIDTH.max(words + 2), "{line}");
            }
        }
    }
}
