//! One time for all hosts: offsets of clocks applied, and where their uncertainty leaves it open, moved so far that no datagram
//! arrives before it was sent.

use std::collections::BTreeMap;

use super::links::Sighting;
use super::observation::{ClockOffset, HostReport, Place};

/// How a host's times were made comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// It is the clock that the others are compared with.
    Reference,
    /// By the offset that was measured.
    Measured {
        /// By how many nanoseconds its times may be wrong, either way.
        uncertainty: u64,
    },
    /// By the offset that was measured, and then by what causality demanded, which its uncertainty allows.
    Repaired {
        /// Nanoseconds that causality added.
        by: i64,
        /// By how many nanoseconds the measured offset may have been wrong.
        uncertainty: u64,
    },
    /// The measured offset cannot be right: datagrams would have arrived before they were sent, by more than its uncertainty.
    Contradicted {
        /// Nanoseconds that causality added.
        by: i64,
        /// By how many nanoseconds the offset was said to be wrong at most.
        uncertainty: u64,
    },
    /// Nothing was measured; by causality alone.
    Inferred {
        /// Half of what datagrams both ways left open; `None` if they bound one side only, so that the time of the way there is unknown.
        uncertainty: Option<u64>,
    },
}

impl Clock {
    /// By how many nanoseconds times of this host may be wrong; `None` if nobody knows.
    #[must_use]
    pub fn doubt(&self) -> Option<u64> {
        match *self {
            Self::Reference => Some(0),
            Self::Measured { uncertainty } | Self::Repaired { uncertainty, .. } => Some(uncertainty),
            Self::Contradicted { .. } => None,
            Self::Inferred { uncertainty } => uncertainty,
        }
    }
}

/// What to add to the times of each host, and why.
pub(super) fn align(hosts: &[String], reports: &[HostReport], seen: &[Sighting<'_>]) -> Vec<(i64, Clock)> {
    let measured: Vec<Option<ClockOffset>> =
        hosts.iter().map(|host| reports.iter().find(|report| report.host == *host)?.offset).collect();
    let mut fixed: BTreeMap<usize, (i64, Clock)> = BTreeMap::new();
    // The host that traces comes first, and measures the others by its own clock.
    let reference = measured.first().copied().flatten().map_or(0, |offset| offset.ns);
    fixed.insert(0, (reference, Clock::Reference));
    let flights = flights(seen);
    while fixed.len() < hosts.len() {
        // Whoever exchanged datagrams with a host whose clock is known by now comes next.
        let next = (0..hosts.len()).filter(|host| !fixed.contains_key(host));
        let bounds = next.map(|host| (host, bounds(host, &flights, &fixed, seen)));
        let Some((host, (least, most))) = bounds.max_by_key(|(_, (least, most))| least.is_some() || most.is_some())
        else {
            break;
        };
        fixed.insert(host, shift(measured.get(host).copied().flatten(), least, most));
    }
    fixed.into_values().collect()
}

/// Pairs of sightings of one datagram: on the host that sent it, and on another one that received it.
fn flights(seen: &[Sighting<'_>]) -> Vec<(usize, usize)> {
    let mut flights = Vec::new();
    let counts: Vec<bool> = seen.iter().enumerate().map(|(number, of)| counts(number, of, seen)).collect();
    let counts = |number: usize| counts.get(number).copied().unwrap_or(false);
    for (number, sent) in seen.iter().enumerate().filter(|(number, sighting)| sighting.leaves() && counts(*number)) {
        let arrived = sent.others.iter().filter(|other| {
            seen.get(**other).is_some_and(|arrived| arrived.arrives() && arrived.host != sent.host) && counts(**other)
        });
        flights.extend(arrived.map(|arrived| (number, *arrived)));
    }
    flights
}

/// Whether a sighting says when its datagram left a host, or came to it: that on the device does. A worker stamps whole batches, so without
/// one on the device, of what it saw on the way out the earliest counts, and on the way in the latest.
fn counts(number: usize, sighting: &Sighting<'_>, seen: &[Sighting<'_>]) -> bool {
    let on_device = |sighting: &Sighting<'_>| matches!(sighting.observation.place, Place::Device { .. });
    let alike = sighting.others.iter().filter_map(|other| seen.get(*other).map(|seen| (*other, seen)));
    let mut alike = alike.filter(|(_, other)| other.host == sighting.host && other.leaves() == sighting.leaves());
    if on_device(sighting) {
        return true;
    }
    alike.all(|(other, of)| {
        let better = if sighting.leaves() {
            (of.at(), other) < (sighting.at(), number)
        } else {
            (of.at(), other) > (sighting.at(), number)
        };
        !on_device(of) && !better
    })
}

/// The least and the most that may be added to the times of `host`.
fn bounds(
    host: usize,
    flights: &[(usize, usize)],
    fixed: &BTreeMap<usize, (i64, Clock)>,
    seen: &[Sighting<'_>],
) -> (Option<i64>, Option<i64>) {
    let (mut least, mut most) = (None::<i64>, None::<i64>);
    for (sent, arrived) in flights {
        let (Some(sent), Some(arrived)) = (seen.get(*sent), seen.get(*arrived)) else { continue };
        if arrived.host == host
            && let Some((shift, _)) = fixed.get(&sent.host)
        {
            let bound = sent.at().saturating_add(*shift).saturating_sub(arrived.at());
            least = Some(least.map_or(bound, |least| least.max(bound)));
        } else if sent.host == host
            && let Some((shift, _)) = fixed.get(&arrived.host)
        {
            let bound = arrived.at().saturating_add(*shift).saturating_sub(sent.at());
            most = Some(most.map_or(bound, |most| most.min(bound)));
        }
    }
    (least, most)
}

fn shift(measured: Option<ClockOffset>, least: Option<i64>, most: Option<i64>) -> (i64, Clock) {
    let Some(ClockOffset { ns, uncertainty }) = measured else {
        return match (least, most) {
            (Some(least), Some(most)) if least <= most => {
                let half = least.abs_diff(most) / 2;
                (least.saturating_add_unsigned(half), Clock::Inferred { uncertainty: Some(half) })
            }
            (bound, other) => (bound.or(other).unwrap_or(0), Clock::Inferred { uncertainty: None }),
        };
    };
    // Where both cannot be had, nothing arrives before it was sent on the way there.
    let shift = most.map_or(ns, |most| ns.min(most));
    let shift = least.map_or(shift, |least| shift.max(least));
    let by = shift.saturating_sub(ns);
    let clock = match by.unsigned_abs() {
        0 => Clock::Measured { uncertainty },
        moved if moved <= uncertainty => Clock::Repaired { by, uncertainty },
        _ => Clock::Contradicted { by, uncertainty },
    };
    (shift, clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(ns: i64, uncertainty: u64) -> Option<ClockOffset> {
        Some(ClockOffset { ns, uncertainty })
    }

    #[test]
    fn causality_moves_a_clock_no_further_than_it_must() {
        assert_eq!(shift(offset(10, 50), Some(0), Some(20)), (10, Clock::Measured { uncertainty: 50 }));
        assert_eq!(shift(offset(10, 50), Some(30), None), (30, Clock::Repaired { by: 20, uncertainty: 50 }));
        assert_eq!(shift(offset(10, 50), None, Some(-5)), (-5, Clock::Repaired { by: -15, uncertainty: 50 }));
        assert_eq!(shift(offset(10, 5), Some(30), None), (30, Clock::Contradicted { by: 20, uncertainty: 5 }));
    }

    #[test]
    fn a_clock_nobody_measured_lies_between_what_datagrams_allow() {
        assert_eq!(shift(None, Some(100), Some(300)), (200, Clock::Inferred { uncertainty: Some(100) }));
        assert_eq!(shift(None, Some(100), None), (100, Clock::Inferred { uncertainty: None }));
        assert_eq!(shift(None, None, None), (0, Clock::Inferred { uncertainty: None }));
    }
}
