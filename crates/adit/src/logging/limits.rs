//! How many lines a cause may have. A cause is a place in the program: what it says of one peer or another is the same cause. Pure but for the
//! time that it is told.

use std::collections::HashMap;
use std::time::Instant;

use tracing::Metadata;
use tracing::callsite::Identifier;

use super::line::Line;
use super::{ALLOWANCE, INTERVAL};

/// Why there is a line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    /// A place in the program.
    Place(Identifier),
    /// What the crate `log` says has no place: by its module.
    Module(String),
}

impl Cause {
    pub(super) fn of(metadata: &'static Metadata<'static>, target: &str) -> Self {
        if metadata.target() == target { Self::Place(metadata.callsite()) } else { Self::Module(target.to_owned()) }
    }
}

/// What became of causes. There are as many as places that have said something.
#[derive(Debug, Default)]
pub(super) struct Limits {
    causes: HashMap<Cause, Spent>,
    /// How many of them have something withheld.
    silent: usize,
}

#[derive(Debug)]
struct Spent {
    since: Instant,
    lines: u32,
    withheld: u64,
    /// The last line that was withheld.
    last: Option<Line>,
}

/// What was withheld.
#[derive(Debug)]
pub(super) struct More {
    pub(super) count: u64,
    pub(super) last: Line,
}

impl Limits {
    /// Whether a cause may have another line now; `line` is kept otherwise. What is [`due`](Self::due) must have been told.
    pub(super) fn allow(&mut self, cause: Cause, now: Instant, line: impl FnOnce() -> Line) -> bool {
        let spent = self.causes.entry(cause).or_insert(Spent { since: now, lines: 0, withheld: 0, last: None });
        if now.saturating_duration_since(spent.since) >= INTERVAL {
            (spent.since, spent.lines) = (now, 0);
        }
        if spent.lines < ALLOWANCE {
            spent.lines += 1;
            return true;
        }
        spent.withheld += 1;
        self.silent += usize::from(spent.last.replace(line()).is_none());
        false
    }

    /// What was withheld in intervals that are over, each told once, the earliest first.
    pub(super) fn due(&mut self, now: Instant) -> Vec<More> {
        if self.silent == 0 {
            return Vec::new();
        }
        let mut due: Vec<(Instant, More)> = Vec::new();
        for spent in self.causes.values_mut() {
            if now.saturating_duration_since(spent.since) >= INTERVAL
                && let Some(last) = spent.last.take()
            {
                due.push((spent.since, More { count: std::mem::take(&mut spent.withheld), last }));
                // Another interval begins.
                (spent.since, spent.lines) = (now, 0);
            }
        }
        self.silent -= due.len();
        due.sort_by_key(|(since, _)| *since);
        due.into_iter().map(|(_, more)| more).collect()
    }
}
