//! Verbs: what was typed, turned into a call of the library. One file per verb; the same definitions make the parser, the
//! help, the man pages and the completions.

mod bench;
mod capture;
mod client;
mod cni;
mod completions;
mod demo;
mod docker_options;
mod docker_plugin;
mod doctor;
mod down;
mod exec;
mod find;
mod init;
mod inside;
mod join;
mod keygen;
mod man;
mod node;
mod output;
mod ps;
mod pubkey;
mod reload;
mod run;
mod secret;
mod service;
mod status;
mod token;
mod trace;
mod up;
mod vm_tap;
mod wireguard;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::{Directories, Result, logging};

/// Joins hosts, containers and laptops into one private network.
#[derive(Debug, Parser)]
#[command(
    name = "adit",
    version,
    max_term_width = 100,
    after_help = "Example, to see it work with nothing set up and nothing left behind:\n  adit demo"
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,

    /// What to log on standard error: error, warn, info (the default), debug or trace, also by module
    #[arg(long, global = true, env = "ADIT_LOG", value_name = "LEVEL")]
    log: Option<String>,

    /// What a line of the log looks like
    #[arg(long, global = true, env = "ADIT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    log_format: logging::Format,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Up(up::Arguments),
    Down(down::Arguments),
    Reload(reload::Arguments),
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    #[command(name = "wireguard")]
    WireGuard(wireguard::Arguments),
    Init(init::Arguments),
    Join(join::Arguments),
    Token(token::Arguments),
    Node(node::Arguments),
    Secret(secret::Arguments),
    Client(client::Arguments),
    Cni(cni::Arguments),
    DockerPlugin(docker_plugin::Arguments),
    DockerOptions(docker_options::Arguments),
    Run(run::Arguments),
    Exec(exec::Arguments),
    Ps(ps::Arguments),
    Trace(trace::Arguments),
    VmTap(vm_tap::Arguments),
    #[command(hide = true)]
    Inside(inside::Arguments),
    #[command(hide = true)]
    Capture(capture::Arguments),
    Keygen(keygen::Arguments),
    Pubkey(pubkey::Arguments),
    Bench(bench::Arguments),
    Demo(demo::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

/// Where daemons keep what others may find.
#[derive(Debug, Clone, Args)]
struct Places {
    /// Directory of the control sockets
    #[arg(long, env = "ADIT_RUNTIME_DIR", default_value = Directories::RUNTIME, value_name = "DIR")]
    runtime_dir: PathBuf,

    /// Directory of what must survive a reboot
    #[arg(long, env = "ADIT_STATE_DIR", default_value = Directories::STATE, value_name = "DIR")]
    state_dir: PathBuf,

    /// Directory of the sockets for WireGuard's tools, which look for them nowhere else
    #[arg(long, env = "ADIT_WIREGUARD_DIR", default_value = Directories::WIREGUARD, value_name = "DIR", hide = true)]
    wireguard_dir: PathBuf,
}

/// The network that is meant: a host may be a node of several.
#[derive(Debug, Args)]
struct Network {
    /// The device of the node
    #[arg(long, value_name = "NAME", default_value = "adit0")]
    device: String,

    #[command(flatten)]
    places: Places,
}

impl Places {
    fn directories(self) -> Directories {
        Directories { runtime: self.runtime_dir, state: self.state_dir, wireguard: self.wireguard_dir }
    }
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// The verb's failure, for its reader.
    pub fn run(self) -> Result<()> {
        let asked = match &self.verb {
            Verb::WireGuard(_) => self.log.as_deref().or(wireguard::log_level()),
            _ => self.log.as_deref(),
        };
        logging::to_stderr(asked.unwrap_or("info"), self.log_format)?;
        let log_wanted = asked.is_some();
        match self.verb {
            Verb::Up(arguments) => arguments.run(),
            Verb::Down(arguments) => arguments.run(),
            Verb::Reload(arguments) => arguments.run(),
            Verb::Status(arguments) => arguments.run(),
            Verb::Doctor(arguments) => arguments.run(),
            Verb::WireGuard(arguments) => arguments.run(log_wanted),
            Verb::Init(arguments) => arguments.run(),
            Verb::Join(arguments) => arguments.run(),
            Verb::Token(arguments) => arguments.run(),
            Verb::Node(arguments) => arguments.run(),
            Verb::Secret(arguments) => arguments.run(),
            Verb::Client(arguments) => arguments.run(),
            Verb::Cni(arguments) => arguments.run(),
            Verb::DockerPlugin(arguments) => arguments.run(),
            Verb::DockerOptions(arguments) => arguments.run(),
            Verb::Run(arguments) => arguments.run(),
            Verb::Exec(arguments) => arguments.run(),
            Verb::Ps(arguments) => arguments.run(),
            Verb::Trace(arguments) => arguments.run(),
            Verb::VmTap(arguments) => arguments.run(),
            Verb::Inside(arguments) => arguments.run(),
            Verb::Capture(arguments) => arguments.run(),
            Verb::Keygen(arguments) => arguments.run(),
            Verb::Pubkey(arguments) => arguments.run(),
            Verb::Bench(arguments) => arguments.run(),
            Verb::Demo(arguments) => arguments.run(),
            Verb::Completions(arguments) => arguments.run(),
            Verb::Man(arguments) => arguments.run(),
        }
    }
}

/// Parses a command line, its first word the program's name.
///
/// # Errors
/// What clap has to say, which may also be the help that was asked for: print it and end with its exit code.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> std::result::Result<Cli, clap::Error> {
    Cli::try_parse_from(wireguard::expand(arguments.into_iter().collect()))
}

/// The definition of the whole command line.
fn definition() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> std::result::Result<Cli, clap::Error> {
        super::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn every_verb_has_a_description_and_an_example() {
        for verb in definition().get_subcommands_mut() {
            let name = verb.get_name().to_owned();
            assert!(verb.get_about().is_some(), "{name} has no description");
            let help = verb.render_long_help().to_string();
            assert!(
                help.contains("Example") && help.contains(&format!("adit {name}")),
                "{name} has no example:\n{help}"
            );
        }
    }

    #[test]
    fn wrong_usage_ends_with_2_and_help_with_0() {
        for (line, code) in [
            ("adit", 2),
            ("adit upp", 2),
            ("adit up a --config b", 2),
            ("adit up --ip-masq", 2),
            ("adit up a.toml --device adit1", 2),
            ("adit up a.toml --lease-ttl 1h", 2),
            ("adit up --etcd-endpoints http://a:1 --secret-file s", 2),
            ("adit init --network 10.42.0.0", 2),
            ("adit init --public-ip 192.0.2.1 --iface eth0", 2),
            ("adit join", 2),
            ("adit join a --token-file b", 2),
            ("adit token", 2),
            ("adit token create --uses 0", 2),
            ("adit token create --ttl soon", 2),
            ("adit token create --ttl 0s", 2),
            ("adit node remove", 2),
            ("adit secret", 2),
            ("adit client add phone --qr --conf", 2),
            ("adit docker-plugin --socket", 2),
            ("adit docker-options json", 2),
            ("adit cni", 2),
            ("adit cni install adit1", 2),
            ("adit cni uninstall --device adit1", 2),
            ("adit run", 2),
            ("adit run --name web", 2),
            ("adit run sleep 1", 2),
            ("adit run --ip web -- sleep 1", 2),
            ("adit exec web", 2),
            ("adit exec -- sleep 1", 2),
            ("adit ps web", 2),
            ("adit bench warp", 2),
            ("adit bench --rounds 0", 2),
            ("adit bench --seconds 0", 2),
            ("adit bench --seconds NaN", 2),
            ("adit bench --to berlin sealed", 2),
            ("adit bench --to berlin --svg f", 2),
            ("adit bench --device adit0", 2),
            ("adit vm-tap", 2),
            ("adit vm-tap db --queues 0", 2),
            ("adit vm-tap db --delete --owner root", 2),
            ("adit inside", 2),
            ("adit trace", 2),
            ("adit trace 10.42.1.1 --icmp --udp 9", 2),
            ("adit trace 10.42.1.1 --tcp", 2),
            ("adit trace 10.42.1.1 --udp 65536", 2),
            ("adit capture", 2),
            ("adit up --config", 2),
            ("adit down --device a --config b", 2),
            ("adit reload --device a --config b", 2),
            ("adit status --verbose", 2),
            ("adit up --log-format yaml", 2),
            ("adit completions ksh", 2),
            ("adit keygen secret", 2),
            ("adit pubkey secret", 2),
            ("adit wireguard", 2),
            ("adit-wireguard", 2),
            ("adit-wireguard wg0 wg1", 2),
            ("adit-wireguard --help", 0),
            ("adit-wireguard --version", 0),
            ("adit --help", 0),
            ("adit up --help", 0),
            ("adit --version", 0),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), code, "{line}");
        }
    }

    #[test]
    fn directories_have_defaults_and_options() {
        let Verb::Up(up) = parse("adit up --config c.toml").unwrap().verb else { panic!("up") };
        assert_eq!(up.places.directories(), Directories::default());
        let Verb::Up(up) = parse("adit up --config c --runtime-dir r --state-dir s").unwrap().verb else {
            panic!("up")
        };
        assert_eq!(
            up.places.directories(),
            Directories { runtime: "r".into(), state: "s".into(), ..Directories::default() }
        );
    }
}
