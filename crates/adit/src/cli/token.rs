//! `adit token`

use std::time::Duration;

use super::{Network, output};
use crate::Result;
use crate::network::admin::{Authority, TokenTerms};
use crate::observe::human;
use crate::observe::table::Table;

const AFTER_HELP: &str = "\
Examples:
  adit token create                       one host, within an hour
  adit token create --uses 20 --ttl 1day  many hosts, as for a cloud image
  adit token list
  adit token revoke 5d0c1f2e93a4b7c6";

/// Let further hosts in: tokens for `adit join`, on the host that made the network
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a token and print it
    Create {
        #[command(flatten)]
        lifetime: Lifetime,
        #[command(flatten)]
        network: Network,
    },
    /// List the tokens that were made, and by whom they were used
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        network: Network,
    },
    /// Take a token back
    Revoke {
        /// Its id, as `list` shows it
        id: String,
        #[command(flatten)]
        network: Network,
    },
}

/// How long and how often a token is good.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Lifetime {
    /// How long the token is good
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    ttl: Duration,

    /// How many hosts may join with it
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    uses: u32,
}

fn lifetime(text: &str) -> std::result::Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if time < Duration::from_secs(1) { Err("a token has to be good for a second at least".into()) } else { Ok(time) }
}

impl Lifetime {
    pub(super) fn terms(self) -> TokenTerms {
        TokenTerms { ttl: self.ttl, uses: self.uses }
    }
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        match self.verb {
            Verb::Create { lifetime, network } => {
                let authority = Authority::open(&network.device, &network.places.directories())?;
                let token = authority.create_token(lifetime.terms())?;
                output::print(&format!("adit join {}\n", *token)).map(drop)
            }
            Verb::List { json, network } => {
                let tokens = Authority::open(&network.device, &network.places.directories())?.tokens()?;
                if json {
                    return output::print(&format!("{}\n", serde_json::to_string(&tokens).unwrap_or_default()))
                        .map(drop);
                }
                let mut table = Table::new(&["TOKEN", "STATE", "USES", "USED BY"]);
                for token in tokens {
                    let state = match token.expires_s {
                        _ if token.revoked => "revoked".to_owned(),
                        Some(0) | None => "expired".to_owned(),
                        _ if token.used_by.len() as u64 >= u64::from(token.uses) => "used".to_owned(),
                        Some(seconds) => format!("good for {}", human::duration(seconds)),
                    };
                    let uses = format!("{} of {}", token.used_by.len(), token.uses);
                    table.row([token.id, state, uses, token.used_by.join(" ")]);
                }
                output::print(&table.render(0)).map(drop)
            }
            Verb::Revoke { id, network } => {
                Authority::open(&network.device, &network.places.directories())?.revoke_token(&id)?;
                output::print(&format!("token {id} is revoked\n")).map(drop)
            }
        }
    }
}
