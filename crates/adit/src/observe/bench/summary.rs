//! From rounds to a statement: medians, how far rounds lie apart, ratios within a round, and whether a difference is one at all.

use std::collections::BTreeMap;

use serde::Serialize;

use super::measure::{Figures, Metric};
use super::system::System;
use crate::lab::figures::median;

/// What all rounds say of one figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figure {
    /// The middle of the rounds.
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// How far the rounds lie apart, largest less smallest, as a part of the median.
    pub(super) spread: f64,
    /// Each round, in order; none where it failed.
    pub(super) rounds: Vec<Option<f64>>,
    /// Divided by the yardstick's figure of the same round; none for the yardstick itself, or without one.
    pub(super) ratio: Option<Ratio>,
}

/// A figure divided by that of the yardstick.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Ratio {
    /// The middle of the rounds' ratios.
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// Whether the rounds do not agree which of the two is the larger: then no difference was shown.
    pub(super) within_noise: bool,
}

/// All figures of one system, by [`Metric::key`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    /// As it is typed.
    pub(super) name: &'static str,
    /// As a person reads it.
    pub(super) title: &'static str,
    pub(super) encrypted: bool,
    /// The largest packet, in bytes.
    pub(super) mtu: u32,
    pub(super) figures: BTreeMap<&'static str, Figure>,
}

impl Row {
    /// One of the figures, if any round brought it.
    pub(super) fn figure(&self, metric: Metric) -> Option<&Figure> {
        self.figures.get(metric.key())
    }
}

/// Two systems of adit, compared round by round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Pair {
    pub(super) first: &'static str,
    pub(super) second: &'static str,
    /// The first divided by the second, by [`Metric::key`].
    pub(super) ratios: BTreeMap<&'static str, Ratio>,
}

/// A system and what its rounds brought.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) system: System,
    pub(super) mtu: u32,
    pub(super) rounds: Vec<Figures>,
}

impl Measured {
    fn series(&self, metric: Metric) -> Vec<Option<f64>> {
        self.rounds.iter().map(|round| round.get(&metric).copied()).collect()
    }
}

/// What others are divided by: VXLAN, which is what the kernel offers for the same purpose; where it was not measured, the bare pair.
pub(super) fn yardstick(measured: &[Measured]) -> Option<System> {
    let brought = |system| {
        let found = measured.iter().find(|one| one.system == system);
        found.is_some_and(|one| one.rounds.iter().any(|round| !round.is_empty()))
    };
    [System::Vxlan, System::Veth].into_iter().find(|system| measured.len() > 1 && brought(*system))
}

/// The table.
pub(super) fn rows(measured: &[Measured]) -> Vec<Row> {
    let base = yardstick(measured).and_then(|base| measured.iter().find(|one| one.system == base));
    let row = |one: &Measured| {
        let base = base.filter(|base| base.system != one.system);
        let figure = |metric: Metric| {
            let rounds = one.series(metric);
            let ratio = base.and_then(|base| ratio(&rounds, &base.series(metric)));
            Some((metric.key(), figure(rounds, ratio)?))
        };
        Row {
            name: one.system.name(),
            title: one.system.title(),
            encrypted: one.system.is_encrypted(),
            mtu: one.mtu,
            figures: Metric::ALL.into_iter().filter_map(figure).collect(),
        }
    };
    measured.iter().map(row).collect()
}

/// Those systems of adit that a reader compares with each other.
const PAIRS: [(System, System); 4] = [
    (System::Sealed, System::Plain),
    (System::Sealed, System::WireGuard),
    (System::Tap, System::Sealed),
    (System::Plain, System::Classic),
];

/// The pairs of which both were measured.
pub(super) fn pairs(measured: &[Measured]) -> Vec<Pair> {
    let find = |system| measured.iter().find(|one| one.system == system);
    let pair = |(first, second): (System, System)| {
        let (one, other) = (find(first)?, find(second)?);
        let ratios = Metric::ALL
            .into_iter()
            .filter_map(|metric| Some((metric.key(), ratio(&one.series(metric), &other.series(metric))?)));
        Some(Pair { first: first.name(), second: second.name(), ratios: ratios.collect() })
    };
    PAIRS.into_iter().filter_map(pair).collect()
}

/// What all rounds say of each of these figures, without comparing.
pub(super) fn figures(rounds: &[Figures], metrics: &[Metric]) -> BTreeMap<&'static str, Figure> {
    let series = |metric| rounds.iter().map(|round: &Figures| round.get(metric).copied()).collect();
    metrics.iter().filter_map(|metric| Some((metric.key(), figure(series(metric), None)?))).collect()
}

fn figure(rounds: Vec<Option<f64>>, ratio: Option<Ratio>) -> Option<Figure> {
    let values: Vec<f64> = rounds.iter().flatten().copied().collect();
    let (min, max) = range(&values)?;
    let median = median(values);
    let spread = if median > 0.0 { (max - min) / median } else { 0.0 };
    Some(Figure { median, min, max, spread, rounds, ratio })
}

/// Of those rounds that brought both.
fn ratio(rounds: &[Option<f64>], base: &[Option<f64>]) -> Option<Ratio> {
    let both = rounds.iter().zip(base).filter_map(|(own, base)| own.zip(*base));
    let ratios: Vec<f64> = both.filter(|(_, base)| *base > 0.0).map(|(own, base)| own / base).collect();
    let (min, max) = range(&ratios)?;
    Some(Ratio { median: median(ratios), min, max, within_noise: min <= 1.0 && max >= 1.0 })
}

fn range(values: &[f64]) -> Option<(f64, f64)> {
    let smaller = values.iter().copied().reduce(f64::min)?;
    let larger = values.iter().copied().reduce(f64::max)?;
    Some((smaller, larger))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::observe::bench) fn measured(system: System, rounds: &[f64]) -> Measured {
        let round = |value: &f64| Metric::ALL.into_iter().map(|metric| (metric, *value)).collect();
        Measured { system, mtu: 1440, rounds: rounds.iter().map(round).collect() }
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        // The machine was twice as fast in the second round: the ratio does not see it.
        let rows = rows(&[measured(System::Sealed, &[5.0, 10.0, 6.0]), measured(System::Vxlan, &[10.0, 20.0, 10.0])]);
        let [sealed, vxlan] = rows.as_slice() else { panic!("{rows:?}") };
        let figure = sealed.figure(Metric::Tcp1).unwrap();
        assert_eq!((figure.median, figure.min, figure.max), (6.0, 5.0, 10.0));
        assert_eq!(figure.ratio, Some(Ratio { median: 0.5, min: 0.5, max: 0.6, within_noise: false }));
        assert_eq!(vxlan.figure(Metric::Tcp1).unwrap().ratio, None);
    }

    #[test]
    fn rounds_that_disagree_show_no_difference() {
        let all = [measured(System::Sealed, &[9.0, 11.0]), measured(System::Plain, &[10.0, 10.0])];
        let pairs = pairs(&all);
        let [pair] = pairs.as_slice() else { panic!("{pairs:?}") };
        assert_eq!((pair.first, pair.second), ("sealed", "plain"));
        assert!(pair.ratios.values().all(|ratio| ratio.within_noise));
    }

    #[test]
    fn the_yardstick_is_vxlan_or_else_the_bare_pair() {
        let some = |system| measured(system, &[1.0]);
        assert_eq!(yardstick(&[some(System::Veth), some(System::Vxlan)]), Some(System::Vxlan));
        assert_eq!(yardstick(&[some(System::Veth), some(System::Sealed)]), Some(System::Veth));
        assert_eq!(yardstick(&[some(System::Veth), measured(System::Vxlan, &[])]), Some(System::Veth));
        assert_eq!(yardstick(&[some(System::Sealed), some(System::Plain)]), None);
        assert_eq!(yardstick(&[some(System::Vxlan)]), None);
    }

    #[test]
    fn a_round_that_failed_is_left_out() {
        let mut sealed = measured(System::Sealed, &[1.0, 3.0]);
        sealed.rounds.first_mut().unwrap().remove(&Metric::Small);
        let rows = rows(&[sealed, measured(System::Vxlan, &[2.0, 2.0])]);
        let figure = rows.first().unwrap().figure(Metric::Small).unwrap();
        assert_eq!((figure.median, figure.rounds.as_slice()), (3.0, [None, Some(3.0)].as_slice()));
        assert_eq!(figure.ratio.as_ref().unwrap().median, 1.5);
    }

    proptest! {
        #[test]
        fn the_median_lies_between(values in proptest::collection::vec(0.01..1e6, 1..9), base in proptest::collection::vec(0.01..1e6, 1..9)) {
            let all = [measured(System::Sealed, &values), measured(System::Vxlan, &base)];
            for row in rows(&all) {
                for figure in row.figures.values() {
                    prop_assert!(figure.min <= figure.median && figure.median <= figure.max);
                    if let Some(ratio) = &figure.ratio {
                        prop_assert!(ratio.min <= ratio.median && ratio.median <= ratio.max);
                    }
                }
            }
        }
    }
}
