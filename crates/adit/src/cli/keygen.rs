//! `adit keygen`

use std::{fs, io, os::unix::fs::MetadataExt};

use super::output;
use crate::{
    Failure, Result,
    key::{PresharedKey, PrivateKey},
};

const AFTER_HELP: &str = "\
Example, for a file that nobody else can read:
  umask 077 && adit keygen > private.key

For a secret that two peers share beside their keys (the same file on both):
  umask 077 && adit keygen --preshared > preshared.key

The texts are the same as those of `wg genkey` and `wg genpsk`: either program's keys serve the other.";

/// Make a private key and print it
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Make a preshared key instead
    #[arg(long)]
    preshared: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        if stdout_is_an_open_file() {
            tracing::warn!(
                "others can read the file that this key is written to: use `umask 077` before, or `chmod 600`"
            );
        }
        let failed = |error| Failure::failed(format!("cannot make a key: {error}"));
        let written = if self.preshared {
            PresharedKey::generate().map_err(failed)?.write(io::stdout().lock())
        } else {
            PrivateKey::generate().map_err(failed)?.write(io::stdout().lock())
        };
        output::outcome(written).map(drop)
    }
}

fn stdout_is_an_open_file() -> bool {
    fs::metadata("/proc/self/fd/1").is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o077 != 0)
}
