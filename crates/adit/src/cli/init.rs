//! `adit init`

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

use super::{Places, output, service, token::Lifetime};
use crate::Result;
use crate::config::{PublicIp, RegistryAt};
use crate::network::founding::{self, Founding};

const AFTER_HELP: &str = "\
Examples:
  adit init                                     10.42.0.0/16, a /24 for each host
  adit init --network 10.7.0.0/16 --ipv6-network fd07::/48
  adit init --etcd-endpoints https://a:2379,https://b:2379 --etcd-cafile ca.pem

This host keeps the authority of the network: the key that says who is a node. Unless etcd is named, it also
keeps the registry, in which the nodes find each other.";

/// Make a network with this host as its first node, and print what to type on the next one
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// All addresses of the network
    #[arg(long, value_name = "NET", default_value = "10.42.0.0/16")]
    network: Ipv4Net,

    /// All its IPv6 addresses, if it is to have some
    #[arg(long, value_name = "NET")]
    ipv6_network: Option<Ipv6Net>,

    /// How large a subnet each host gets: the length of its prefix
    #[arg(long, value_name = "BITS")]
    subnet_len: Option<u8>,

    /// The same for IPv6
    #[arg(long, value_name = "BITS", requires = "ipv6_network")]
    ipv6_subnet_len: Option<u8>,

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

    /// The TCP address and port of the registry, and of those who join; the first free port from 7780 on unless given
    #[arg(long, value_name = "ADDRESS")]
    registry_listen: Option<SocketAddr>,

    /// How long a subnet stays a host's that is not heard of
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    lease_ttl: Option<Duration>,

    #[command(flatten)]
    etcd: Etcd,

    #[command(flatten)]
    token: Lifetime,

    /// Only write files, even where systemd runs
    #[arg(long)]
    no_start: bool,

    #[command(flatten)]
    places: Places,
}

/// Where others reach this host.
#[derive(Debug, clap::Args)]
pub(super) struct Reached {
    /// Where others reach this host; the addresses of its ways out unless given
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', conflicts_with = "iface")]
    pub(super) public_ip: Vec<IpAddr>,

    /// The card by which others reach this host
    #[arg(long, value_name = "NAME")]
    pub(super) iface: Option<String>,
}

impl Reached {
    pub(super) fn public_ip(self) -> PublicIp {
        match (self.iface, self.public_ip.is_empty()) {
            (Some(name), _) => PublicIp::Interface(name),
            (None, false) => PublicIp::Addresses(self.public_ip),
            (None, true) => PublicIp::Auto,
        }
    }
}

/// An etcd cluster, by flannel's names.
#[derive(Debug, clap::Args)]
pub(super) struct Etcd {
    /// URLs of an etcd cluster that is to be the registry
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(super) etcd_endpoints: Vec<String>,

    /// The prefix of the network's keys
    #[arg(long, value_name = "KEY", default_value = "/coreos.com/network")]
    pub(super) etcd_prefix: String,

    /// Who signs etcd's certificates (PEM)
    #[arg(long, value_name = "FILE")]
    pub(super) etcd_cafile: Option<PathBuf>,

    /// Our certificate for etcd (PEM)
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub(super) etcd_certfile: Option<PathBuf>,

    /// Its key
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub(super) etcd_keyfile: Option<PathBuf>,

    /// Who we are to an etcd with authentication
    #[arg(long, value_name = "NAME", requires = "etcd_password_file")]
    pub(super) etcd_username: Option<String>,

    /// A file with the password: a password itself would be seen by all who list processes
    #[arg(long, value_name = "FILE", requires = "etcd_username")]
    pub(super) etcd_password_file: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let directories = self.places.directories();
        let registry = match self.etcd.etcd_endpoints.is_empty() {
            true => RegistryAt::Embedded,
            false => RegistryAt::Endpoints(self.etcd.etcd_endpoints),
        };
        let founding = Founding {
            network: Some(self.network),
            ipv6_network: self.ipv6_network,
            subnet_len: self.subnet_len,
            ipv6_subnet_len: self.ipv6_subnet_len,
            name: self.name,
            public_ip: self.reached.public_ip(),
            config: self.config.clone(),
            device: self.device.clone(),
            listen: self.listen,
            registry_listen: self.registry_listen,
            lease_ttl: self.lease_ttl,
            registry,
            prefix: self.etcd.etcd_prefix,
            tls: (self.etcd.etcd_cafile, self.etcd.etcd_certfile, self.etcd.etcd_keyfile),
            user: self.etcd.etcd_username,
            password_file: self.etcd.etcd_password_file,
            token: self.token.terms(),
        };
        let founded = founding::found(founding, &directories)?;
        let (start, started) = service::start(&self.config, &directories, self.no_start);
        output::print(&format!(
            "The {} is made, and this host is its first node, {}.\n\
             Written: {} and {}\n{}\n\
             {start}\n\
             On the next host, {}:\n\n  adit join {}\n",
            founded.networks,
            founded.name,
            self.config.display(),
            founded.directory.display(),
            founded.remark,
            founded.terms,
            *founded.token,
        ))?;
        started
    }
}
