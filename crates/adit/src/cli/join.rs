//! `adit join`

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::init::Reached;
use super::{Places, output, service};
use crate::network::founding::{self, Joining};
use crate::{Failure, Result};

/// The longest token that is read.
const LONGEST: u64 = 4096;

const AFTER_HELP: &str = "\
Examples:
  adit join adit1.…                 the line that `adit init` or `adit token create` printed
  adit join --token-file FILE
  adit join - < FILE                so that nobody sees the token in a list of processes

Nothing of this host is changed before it is known that the network's addresses fit into its routes.";

/// Make this host a node of a network, with a token from its first node
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The token, or `-` to read it from standard input
    #[arg(value_name = "TOKEN", required_unless_present = "token_file")]
    token: Option<String>,

    /// A file with the token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,

    /// What this node is called; the host's name unless given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    reached: Reached,

    /// The configuration to write
    #[arg(long, value_name = "FILE", default_value = "/etc/adit/adit.toml")]
    config: PathBuf,

    /// The name of the device
    #[arg(long, value_name = "NAME", default_value = "adit0")]
    device: String,

    /// The UDP address and port of the tunnel; the first free port from 7777 on unless given
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Only write files, even where systemd runs
    #[arg(long)]
    no_start: bool,

    #[command(flatten)]
    places: Places,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let directories = self.places.directories();
        let token = match (self.token, self.token_file) {
            (Some(dash), _) if dash == "-" => read(std::io::stdin().lock(), "standard input")?,
            (Some(token), _) => Zeroizing::new(token),
            (None, Some(file)) => {
                let shown = file.display().to_string();
                let opened = std::fs::File::open(&file);
                read(opened.map_err(|e| Failure::failed(format!("cannot read {shown}: {e}")))?, &shown)?
            }
            // The parser sees to it.
            (None, None) => Zeroizing::default(),
        };
        let joining = Joining {
            token,
            name: self.name,
            public_ip: self.reached.public_ip(),
            config: self.config.clone(),
            device: self.device,
            listen: self.listen,
        };
        let joined = founding::join(joining, &directories)?;
        let (start, started) = service::start(&self.config, &directories, self.no_start);
        output::print(&format!(
            "This host is a node of the {} now, {}.\nWritten: {} and {}\n{}\n{start}",
            joined.networks,
            joined.name,
            self.config.display(),
            joined.directory.display(),
            joined.remark,
        ))?;
        started
    }
}

fn read(source: impl Read, what: &str) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    source
        .take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|e| Failure::failed(format!("cannot read the token from {what}: {e}")))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}
