//! `adit completions`

use clap_complete::Shell;

use super::{definition, output};
use crate::Result;

const AFTER_HELP: &str = "\
Examples:
  adit completions bash > /etc/bash_completion.d/adit
  adit completions zsh > ~/.zfunc/_adit
  adit completions fish > ~/.config/fish/completions/adit.fish";

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The shell
    shell: Shell,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        // Into memory first: the generator panics when its output fails.
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut definition(), "adit", &mut text);
        output::write(&text).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_learns_every_verb() {
        for shell in Shell::value_variants() {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut definition(), "adit", &mut text);
            let text = String::from_utf8(text).unwrap();
            for verb in definition().get_subcommands() {
                assert!(text.contains(verb.get_name()), "{shell}: {}", verb.get_name());
            }
        }
    }
}
