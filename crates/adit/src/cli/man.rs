//! `adit man`

use std::{fs, io, path::PathBuf};

use clap_mangen::Man;

use super::{definition, output};
use crate::{Failure, Result};

const AFTER_HELP: &str = "\
Examples:
  adit man | man -l -
  adit man /usr/share/man/man1";

/// Print the manual page, or write one for each verb into a directory
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Where to write the pages: adit.1, adit-up.1 and so on
    directory: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let pages = pages().map_err(|error| Failure::failed(format!("cannot make a manual page: {error}")))?;
        match self.directory {
            None => output::write(pages.first().map_or(&[], |(_, page)| page)).map(drop),
            Some(directory) => pages.iter().try_for_each(|(name, page)| {
                let path = directory.join(name);
                fs::write(&path, page)
                    .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
            }),
        }
    }
}

/// The name and text of each page, that of the program itself first.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = definition().disable_help_subcommand(true);
    // Gives each verb its full names: "adit-up" for the page, "adit up" for its synopsis.
    program.build();
    let mut pages = Vec::new();
    let verbs = program.get_subcommands().filter(|verb| !verb.is_hide_set());
    for command in std::iter::once(&program).chain(verbs) {
        let mut page = Vec::new();
        Man::new(command.clone()).render(&mut page)?;
        pages.push((format!("{}.1", command.get_display_name().unwrap_or_else(|| command.get_name())), page));
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_the_program_and_every_verb() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "adit.1",
                "adit-up.1",
                "adit-down.1",
                "adit-reload.1",
                "adit-status.1",
                "adit-doctor.1",
                "adit-wireguard.1",
                "adit-init.1",
                "adit-join.1",
                "adit-token.1",
                "adit-node.1",
                "adit-secret.1",
                "adit-client.1",
                "adit-cni.1",
                "adit-docker-plugin.1",
                "adit-docker-options.1",
                "adit-run.1",
                "adit-exec.1",
                "adit-ps.1",
                "adit-trace.1",
                "adit-vm-tap.1",
                "adit-keygen.1",
                "adit-pubkey.1",
                "adit-bench.1",
                "adit-demo.1",
                "adit-completions.1",
                "adit-man.1",
            ],
        );
        for (name, page) in &pages {
            let page = String::from_utf8_lossy(page);
            assert!(page.contains(".SH SYNOPSIS") && page.contains("xample"), "{name}: {page}");
        }
    }
}
