//! `adit up`

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::init::{Etcd, Reached};
use super::{Places, find};
use crate::config::{self, Network, RegistryAt, Tunnel};
use crate::{Failure, Result, up};

/// What is started without a name: the file that `init` and `join` write.
const DEFAULT: &str = "/etc/adit/adit.toml";

const AFTER_HELP: &str = "\
Examples:
  adit up                          the network that `adit init` or `adit join` made this host a node of
  adit up wg0.conf                 a wg-quick file, for the device wg0
  adit up tunnel.toml

  with this in tunnel.toml, and keys, addresses and names exchanged at the other end:
    [device]
    addresses = [\"10.77.0.1/24\"]
    private-key-file = \"private.key\"       # adit keygen

    [[peer]]
    name = \"berlin\"
    public-key = \"…\"                       # adit pubkey < private.key, there
    endpoint = \"192.0.2.2:7777\"
    allowed-ips = [\"10.77.0.2/32\"]

  adit up --etcd-endpoints http://192.0.2.9:2379 --secret-file s --private-key-file k
                                   a node of a network that flannel's keys in etcd describe
  adit up --etcd-endpoints http://192.0.2.9:2379 --plain-from 192.0.2.0/24
                                   among flannel's own nodes in udp mode, NOT ENCRYPTED";

/// Start a tunnel or a node of a network, and keep it up until Ctrl-C, SIGTERM or `adit down`
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The configuration: our TOML, or a wg-quick file as it is; a mere name NAME is looked for as NAME.toml and NAME.conf
    /// in /etc/adit and /etc/wireguard; without one, /etc/adit/adit.toml
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// The configuration, as an option
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,

    #[command(flatten)]
    flannel: Flannel,

    #[command(flatten)]
    pub(super) places: Places,

    /// Also stop when standard input is closed, as happens when the process that started the daemon ends
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

/// A node without a file, by flannel's options.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A node without a file, by flannel's options")]
struct Flannel {
    #[command(flatten)]
    etcd: Etcd,

    #[command(flatten)]
    reached: Reached,

    /// Where to write the lease, for Docker and CNI plugins
    #[arg(long, value_name = "FILE", requires = "etcd_endpoints")]
    subnet_file: Vec<PathBuf>,

    /// Masquerade what leaves the network for elsewhere
    #[arg(long, requires = "etcd_endpoints")]
    ip_masq: bool,

    /// Do not accept forwarding to and from the network
    #[arg(long, requires = "etcd_endpoints")]
    no_forward_rules: bool,

    /// The network's secret, the same on all nodes (`adit keygen --preshared` makes one)
    #[arg(long, value_name = "FILE", requires_all = ["etcd_endpoints", "private_key_file"])]
    secret_file: Option<PathBuf>,

    /// This node's key (`adit keygen` makes one)
    #[arg(long, value_name = "FILE", requires_all = ["etcd_endpoints", "secret_file"])]
    private_key_file: Option<PathBuf>,

    /// Speak to flannel's own nodes at these addresses, in the clear
    #[arg(long, value_name = "NET", value_delimiter = ',', requires = "etcd_endpoints")]
    plain_from: Vec<IpNet>,

    /// What this node is called; the host's name unless given
    #[arg(long, value_name = "NAME", requires = "etcd_endpoints")]
    node_name: Option<String>,

    /// The name of the device [default: adit0]
    #[arg(long, value_name = "NAME", requires = "etcd_endpoints")]
    device: Option<String>,

    /// How long the lease lives if it is not renewed [default: 24h]
    #[arg(long, value_name = "TIME", requires = "etcd_endpoints", value_parser = humantime::parse_duration)]
    lease_ttl: Option<Duration>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let tunnel = if self.flannel.etcd.etcd_endpoints.is_empty() {
            if let Some(option) = self.flannel.first_option() {
                return Err(Failure::usage(format!(
                    "{option} is for a node without a file: write it into the file, or name the registry with --etcd-endpoints"
                )));
            }
            let file = self.file.or(self.config);
            if file.is_none() && !Path::new(DEFAULT).exists() {
                return Err(Failure::usage(format!(
                    "there is no {DEFAULT}: make a network with `adit init`, join one with `adit join TOKEN`, or name a tunnel's file: \
                     `adit up FILE`"
                )));
            }
            config::load(&find::file(&file.unwrap_or_else(|| DEFAULT.into()))?)?
        } else if self.file.is_some() || self.config.is_some() {
            return Err(Failure::usage("--etcd-endpoints and a file are two ways to say what to start: name one"));
        } else {
            self.flannel.tunnel()?
        };
        let lifetime =
            if self.until_stdin_closes { up::Lifetime::UntilStdinCloses } else { up::Lifetime::UntilStopped };
        up::run(tunnel, &self.places.directories(), lifetime)
    }
}

impl Flannel {
    /// An option that was given and would do nothing beside a file; the parser sees to the others.
    fn first_option(&self) -> Option<&'static str> {
        let Self { etcd, reached, .. } = self;
        let given = [
            ("--etcd-prefix", etcd.etcd_prefix != Network::PREFIX),
            ("--etcd-cafile", etcd.etcd_cafile.is_some()),
            ("--etcd-certfile", etcd.etcd_certfile.is_some()),
            ("--etcd-username", etcd.etcd_username.is_some()),
            ("--public-ip", !reached.public_ip.is_empty()),
            ("--iface", reached.iface.is_some()),
        ];
        given.into_iter().find_map(|(option, is_given)| is_given.then_some(option))
    }

    fn tunnel(self) -> Result<Tunnel> {
        let Self { etcd, reached, .. } = self;
        let device = self.device.unwrap_or_else(|| "adit0".into());
        let lease_ttl = self.lease_ttl.unwrap_or(Network::LEASE_TTL);
        config::check_device(&device).map_err(|fault| Failure::usage(format!("{device:?} {fault}")))?;
        config::check_key_prefix(&etcd.etcd_prefix)
            .map_err(|fault| Failure::usage(format!("--etcd-prefix {:?} {fault}", etcd.etcd_prefix)))?;
        let endpoints = etcd
            .etcd_endpoints
            .iter()
            .map(|url| {
                config::registry_url(url).map_err(|fault| Failure::usage(format!("--etcd-endpoints {url:?} {fault}")))
            })
            .collect::<Result<_>>()?;
        let node_name = match self.node_name {
            Some(name) => name,
            None => config::host_name().map_err(Failure::failed)?,
        };
        config::check_peer(&node_name).map_err(|fault| {
            Failure::usage(format!("the node's name {node_name:?} {fault}")).with_remedy("choose one with --node-name")
        })?;
        if self.secret_file.is_none() && self.plain_from.is_empty() {
            return Err(Failure::usage("a node without a secret can speak to nobody").with_remedy(
                "give it the network's secret and its own key with --secret-file and --private-key-file, or allow flannel's own \
                 nodes, in the clear, with --plain-from",
            ));
        }
        if lease_ttl < Duration::from_secs(5) {
            return Err(Failure::usage("--lease-ttl is shorter than 5s"));
        }
        let network = Network {
            registry: RegistryAt::Endpoints(endpoints),
            node_name,
            prefix: etcd.etcd_prefix,
            public_ip: reached.public_ip(),
            lease_ttl,
            bridge: Network::bridge_of(&device),
            domain: Some(Network::DOMAIN.into()),
            tls_ca: etcd.etcd_cafile,
            tls_cert: etcd.etcd_certfile,
            tls_key: etcd.etcd_keyfile,
            user: etcd.etcd_username,
            password_file: etcd.etcd_password_file,
            secret_file: self.secret_file,
            plain: !self.plain_from.is_empty(),
            plain_from: self.plain_from,
            ip_masq: self.ip_masq,
            forward_rules: !self.no_forward_rules,
            subnet_files: self.subnet_file,
            registry_listen: Network::REGISTRY_LISTEN,
        };
        up::node(&device, network, self.private_key_file.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn what_a_file_would_not_hear_of_is_refused() {
        for option in ["--etcd-prefix=/x", "--etcd-cafile=a", "--public-ip=192.0.2.1", "--iface=eth0"] {
            let line = Line::try_parse_from(["up", "/nowhere/a.toml", option]).unwrap();
            let failure = line.arguments.run().unwrap_err();
            let name = option.split('=').next().unwrap();
            assert!(failure.exit_code() == 2 && failure.sentence().contains(name), "{option}: {failure}");
        }
    }
}
