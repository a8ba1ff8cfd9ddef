//! `adit pubkey`

use std::io;

use super::output;
use crate::{Failure, Result, key::PrivateKey};

const AFTER_HELP: &str = "\
Example:
  adit pubkey < private.key

The private key is read from standard input only: arguments can be seen by every user.";

/// Print the public key of the private key on standard input
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let key = PrivateKey::read(io::stdin().lock()).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                Failure::usage("standard input is not a private key: give it the one line that `adit keygen` prints")
            }
            _ => Failure::failed(format!("cannot read standard input: {error}")),
        })?;
        output::print(&format!("{}\n", key.public_key())).map(drop)
    }
}
