//! `adit bench`: how fast a veth pair, a bridge, a classic TUN device, adit in each of its ways and the kernel's VXLAN are, on this machine, in
//! one run and without any other program.
//!
//! | module | what it is for |
//! |---|---|
//! | `system` | what is measured |
//! | `field` | hosts in namespaces, with every system between them |
//! | `measure`, `datagram` | the loads on one system, once |
//! | `summary` | from rounds to medians, ratios and noise (pure) |
//! | `report` | the document and the table |
//! | `plot` | the figure (pure) |
//! | [`between`] | the same between two real nodes, through the tunnel that runs |
//!
//! All systems stand at the same time and take turns, so that all of them see the machine's good and bad moments; a ratio is one within a
//! round. Nothing is made in the caller's own network namespace, and everything is removed again, whatever happens.

pub mod between;
mod datagram;
mod field;
mod measure;
mod plot;
mod report;
mod summary;
mod system;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::namespace::Namespace;
use crate::lab::place::{Lock, Place};
use crate::lab::screen::Screen;
use crate::lab::watch::Watch;
use crate::lab::{OPTIMISED, become_able, print_json};
use crate::{Failure, Result};
pub use between::{Terms, Wish};
use field::{Built, Field};
use report::{Fault, LeftOut, Machine, Report};
use summary::Measured;
pub use system::System;

/// What names the lock and the files of a run.
const KIND: &str = "bench";

/// What `adit bench` was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What is measured, in this order; empty: everything.
    pub systems: Vec<System>,
    /// How often each load is put on each system.
    pub rounds: usize,
    /// For how long each time.
    pub load: Duration,
    /// One JSON document on standard output in place of the table.
    pub json: bool,
    /// Where to draw it.
    pub svg: Option<PathBuf>,
}

/// Builds the field, measures, says what came out, and removes everything.
///
/// # Errors
/// The step that failed, after everything was removed.
pub fn run(options: &Options) -> Result<()> {
    // Signals and namespaces of this process can be arranged only while it has a single thread.
    let watch = Watch::new()?;
    let lock = Lock::take(KIND)?;
    let start = Instant::now();
    // A user namespace may hide it, and a fault is to be said before the work.
    let file = options.svg.as_deref().map(FigureFile::open).transpose()?;
    let rootless = become_able()?;
    let screen = Screen::new(options.json);
    let (place, had_files) = Place::make(KIND)?;
    let repaired = Namespace::remove_leftovers(field::PREFIX)?;
    if had_files || !repaired.is_empty() {
        screen.say("Removed what an earlier run left behind.\n");
    }
    let mut field = None;
    let measured = measure(options, &mut field, &place, (&screen, &watch));
    screen.progress("removing everything");
    let removed = remove(field, place);
    drop(lock);
    screen.clear_progress();
    let (outcome, removed) = match (measured, removed) {
        (Ok(outcome), Ok(removed)) => (outcome, removed),
        (Err(failure), Ok(_)) => return Err(failure.with_remedy("everything was removed")),
        (Ok(_), Err(failure)) => return Err(failure),
        (Err(failure), Err(removal)) => return Err(failure.with_remedy(removal)),
    };
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        kind: "systems",
        optimised: OPTIMISED,
        machine: machine(outcome.congestion_control),
        rootless,
        rounds: options.rounds,
        load_seconds: options.load.as_secs_f64(),
        seconds: start.elapsed().as_secs_f64(),
        yardstick: summary::yardstick(&outcome.measured).map(System::name),
        systems: summary::rows(&outcome.measured),
        pairs: summary::pairs(&outcome.measured),
        left_out: outcome.left_out,
        faults: outcome.faults,
        removed,
    };
    if let Some(file) = file {
        file.write(&plot::draw(&report))?;
    }
    if options.json {
        print_json(&report)?;
    } else {
        screen.say(report.text(screen.style()).trim_end());
    }
    match report.faults.first() {
        Some(Fault { system, what, .. }) => Err(Failure::failed(format!("a load on {system} failed: {what}"))),
        None => Ok(()),
    }
}

/// The file of the figure. One that was made for it and stays empty goes again.
struct FigureFile {
    path: PathBuf,
    file: File,
    made: bool,
}

impl FigureFile {
    fn open(path: &Path) -> Result<Self> {
        let failed = |error| Failure::failed(format!("cannot write {}: {error}", path.display()));
        let made = !path.exists();
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, made })
    }

    fn write(mut self, text: &str) -> Result<()> {
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(|error| Failure::failed(format!("cannot write {}: {error}", self.path.display())))?;
        self.made = false;
        Ok(())
    }
}

impl Drop for FigureFile {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What the rounds brought.
struct Outcome {
    measured: Vec<Measured>,
    left_out: Vec<LeftOut>,
    faults: Vec<Fault>,
    congestion_control: String,
}

fn measure(
    options: &Options,
    place_for: &mut Option<Field>,
    place: &Place,
    (screen, watch): (&Screen, &Watch),
) -> Result<Outcome> {
    let mut systems = if options.systems.is_empty() { System::ALL.to_vec() } else { options.systems.clone() };
    let mut seen = Vec::new();
    systems.retain(|system| {
        !seen.contains(system) && {
            seen.push(*system);
            true
        }
    });
    screen.progress("building hosts, daemons and containers");
    let Built { field, left_out } = Field::build(&systems, place.path(), watch)?;
    let field = &*place_for.insert(field);
    systems.retain(|system| !left_out.iter().any(|(out, _)| out == system));
    if systems.is_empty() {
        let why = left_out.into_iter().map(|(_, why)| why).next().unwrap_or_default();
        return Err(Failure::failed(format!("there is nothing to measure: {why}")));
    }
    let left_out = left_out.into_iter().map(|(system, why)| LeftOut { name: system.name(), why }).collect();
    let lanes = systems.iter().map(|system| field.lane(*system)).collect::<Result<Vec<_>>>()?;
    let mut measured: Vec<_> =
        lanes.iter().map(|lane| Measured { system: lane.system, mtu: lane.mtu, rounds: Vec::new() }).collect();
    let mut faults = Vec::new();
    let begun = Instant::now();
    let all = options.rounds * lanes.len() * measure::LOADS;
    let mut done = 0;
    for round in 0..options.rounds {
        let mut brought = vec![None; lanes.len()];
        // Each round begins with another one, so that none always comes after the same.
        for turn in 0..lanes.len() {
            let number = (round + turn) % lanes.len();
            let (Some(lane), Some(brought)) = (lanes.get(number), brought.get_mut(number)) else { continue };
            let title = lane.system.title();
            let (figures, failed) = measure::round(lane, options.load, watch, |load| {
                let left = remaining(begun.elapsed(), done, all);
                screen.progress(&format!("round {} of {}: {title}, {load}{left}", round + 1, options.rounds));
                done += 1;
            })?;
            faults.extend(failed.into_iter().map(|what| Fault { system: title, round: round + 1, what }));
            *brought = Some(figures);
        }
        for (measured, figures) in measured.iter_mut().zip(brought) {
            measured.rounds.push(figures.unwrap_or_default());
        }
    }
    Ok(Outcome { measured, left_out, faults, congestion_control: field.congestion_control()? })
}

/// `, 40 s left`, once enough is done to tell.
fn remaining(elapsed: Duration, done: usize, all: usize) -> String {
    if done < measure::LOADS {
        return String::new();
    }
    let left = elapsed.as_secs_f64() / done as f64 * all.saturating_sub(done) as f64;
    format!(", {left:.0} s left")
}

/// Removes everything, and looks whether anything is left.
fn remove(field: Option<Field>, place: Place) -> Result<Vec<String>> {
    // Each step is tried whether or not the one before it worked.
    let names = field.map_or_else(|| Ok(Vec::new()), Field::remove);
    let files = place.remove();
    let names = names?;
    files?;
    let left = Namespace::present(field::PREFIX)?;
    if left.is_empty() { Ok(names) } else { Err(Failure::failed(format!("namespaces are left: {}", left.join(", ")))) }
}

fn machine(congestion_control: String) -> Machine {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo");
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Machine {
        kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        processors: thread::available_parallelism().map_or(1, usize::from),
        model: model.map(|(_, name)| name.trim().to_owned()),
        aes: linux::cpu::has_aes(),
        congestion_control,
    }
}
