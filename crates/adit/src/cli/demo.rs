//! `adit demo`

use crate::{Result, demo};

const AFTER_HELP: &str = "\
Examples:
  adit demo           a tour: topology, round trips, throughput, the way of one packet
  adit demo --quick   the same in under ten seconds
  adit demo --keep    look around inside, as long as you like

Everything happens in network namespaces of its own and is removed at the end, also after Ctrl-C. Root is not needed where
the kernel lets users make namespaces.";

/// Build two hosts with containers in namespaces, tie them together, show a packet's way, and remove everything
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Print one JSON document in place of text
    #[arg(long)]
    json: bool,

    /// Keep everything until Ctrl-C, and print how to enter each container
    #[arg(long)]
    keep: bool,

    /// Measure shortly: under ten seconds in all
    #[arg(long)]
    quick: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        demo::run(demo::Options { json: self.json, keep: self.keep, quick: self.quick })
    }
}
