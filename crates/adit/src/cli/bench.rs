//! `adit bench`

use std::path::PathBuf;
use std::time::Duration;

use super::Places;
use crate::observe::bench::{self, System, between};
use crate::{Failure, Result};

const AFTER_HELP: &str = "\
Examples:
  adit bench                           everything, in under two minutes
  adit bench --quick                   the same in under half a minute, for a first look
  adit bench sealed vxlan --rounds 20  two systems, long enough to believe a small difference
  adit bench --svg bench.svg           and a figure of it
  adit bench --to paris                between this host and a node, through the tunnel that runs

With --to, the other node is asked inside the sealed session, and must permit it: `allow = [\"bench\"]` under [observe] there.

Without, everything happens in network namespaces of its own and is removed at the end, also after Ctrl-C. Root is not needed
where the kernel lets users make namespaces. docs/BENCH.md says what is measured, how, and what --json prints.";

/// How often and how long, if nothing else was asked for: so that all systems are done in under two minutes, and with --quick in half a minute.
const ROUNDS: u16 = 5;
const SECONDS: f64 = 0.4;
const QUICK_ROUNDS: u16 = 2;
const QUICK_SECONDS: f64 = 0.2;
/// The same between nodes: 18 and 4 seconds in all.
const NODE_ROUNDS: u16 = 3;
const NODE_SECONDS: f64 = 1.0;
const NODE_QUICK_SECONDS: f64 = 0.3;

/// Measure how fast tunnels are on this machine, adit's among them
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// What to measure; everything if none is named
    #[arg(value_name = "SYSTEM", value_enum)]
    systems: Vec<System>,

    /// Measure between this host and this node, a peer that `adit status` names
    #[arg(long, value_name = "NODE", conflicts_with_all = ["systems", "svg"])]
    to: Option<String>,

    /// With --to: the device of our daemon, if several have such a peer
    #[arg(long, value_name = "NAME", requires = "to")]
    device: Option<String>,

    /// How often each load is put on each system, 1 to 1000 [default: 5, with --to 3]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,

    /// Seconds of each load, 0.05 to 60 [default: 0.4, with --to 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,

    /// Measure shortly: 2 rounds of 0.2 seconds, with --to of 0.3 seconds
    #[arg(long)]
    quick: bool,

    /// Print one JSON document in place of the table
    #[arg(long)]
    json: bool,

    /// Draw a figure into this file as well
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    #[command(flatten)]
    places: Places,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| (0.05..=60.0).contains(number));
    number.ok_or_else(|| "write a number of seconds from 0.05 to 60".into())
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let (rounds, seconds) = match (self.to.is_some(), self.quick) {
            (false, false) => (ROUNDS, SECONDS),
            (false, true) => (QUICK_ROUNDS, QUICK_SECONDS),
            (true, false) => (NODE_ROUNDS, NODE_SECONDS),
            (true, true) => (QUICK_ROUNDS, NODE_QUICK_SECONDS),
        };
        let load = Duration::try_from_secs_f64(self.seconds.unwrap_or(seconds))
            .map_err(|error| Failure::usage(format!("--seconds: {error}")))?;
        let rounds = self.rounds.unwrap_or(rounds).into();
        match self.to {
            Some(node) => {
                let (device, runtime) = (self.device, self.places.directories().runtime);
                between::run(&between::Options { node, device, runtime, rounds, load, json: self.json })
            }
            None => bench::run(&bench::Options { systems: self.systems, rounds, load, json: self.json, svg: self.svg }),
        }
    }
}
