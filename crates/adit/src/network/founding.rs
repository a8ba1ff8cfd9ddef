//! Networks are made and joined. Both write keys and a configuration, and leave nothing behind where they fail.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use linux::netlink::{Netlink, PROTOCOL, Route, RouteKind};
use registry::enrol;
use registry::schema::{Backend, ConfigError, NetworkConfig, Pool};
use registry::trust::{Ledger, NodeKeys, ROLE_REGISTRY, Token};
use zeroize::Zeroizing;

use super::admin::{ENDPOINTS_FILE, NETWORK_FILE, TokenTerms, crypto, ledger_told, new_store};
use super::member::told;
use super::notes::{Notes, NotesFile};
use super::places::{self, free_for_connections, free_for_datagrams};
use crate::config::{self, Network, PublicIp, RegistryAt};
use crate::key::PrivateKey;
use crate::{Directories, Failure, Result};

/// What a network is made of.
#[derive(Debug)]
pub struct Founding {
    /// All IPv4 addresses.
    pub network: Option<Ipv4Net>,
    /// All IPv6 addresses.
    pub ipv6_network: Option<Ipv6Net>,
    /// The prefix length of a node's subnet.
    pub subnet_len: Option<u8>,
    /// The same for IPv6.
    pub ipv6_subnet_len: Option<u8>,
    /// The node's name; the host's name unless given.
    pub name: Option<String>,
    /// Where it is reached.
    pub public_ip: PublicIp,
    /// The configuration to write.
    pub config: PathBuf,
    /// The device.
    pub device: String,
    /// Where datagrams arrive.
    pub listen: Option<SocketAddr>,
    /// Where the registry and the enroller listen.
    pub registry_listen: Option<SocketAddr>,
    /// The life of a lease.
    pub lease_ttl: Option<Duration>,
    /// Where the registry is.
    pub registry: RegistryAt,
    /// The prefix of its keys.
    pub prefix: String,
    /// Of etcd: who signs its certificate, our certificate, its key.
    pub tls: (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>),
    /// Who we are to etcd.
    pub user: Option<String>,
    /// Its password.
    pub password_file: Option<PathBuf>,
    /// Of the first token.
    pub token: TokenTerms,
}

/// A network that was made.
pub struct Founded {
    /// Its addresses, as a text.
    pub networks: String,
    /// The name of this node.
    pub name: String,
    /// Where its files are.
    pub directory: PathBuf,
    /// The first token.
    pub token: Zeroizing<String>,
    /// How long it is good.
    pub terms: TokenTerms,
    /// What its reader should know of ports; may be empty.
    pub remark: String,
}

/// What a host joins with.
pub struct Joining {
    /// The token's text.
    pub token: Zeroizing<String>,
    /// The node's name; the host's name unless given.
    pub name: Option<String>,
    /// Where it is reached.
    pub public_ip: PublicIp,
    /// The configuration to write.
    pub config: PathBuf,
    /// The device.
    pub device: String,
    /// Where datagrams arrive.
    pub listen: Option<SocketAddr>,
}

/// A network that was joined.
#[derive(Debug)]
pub struct Joined {
    /// Its addresses, as a text.
    pub networks: String,
    /// The name of this node.
    pub name: String,
    /// Where its files are.
    pub directory: PathBuf,
    /// What its reader should know of how it was seen; may be empty.
    pub remark: String,
}

/// Makes a network with this host as its first node.
///
/// # Errors
/// The host is a node already, the addresses are in use here, or files cannot be written. Nothing is left of it then.
pub fn found(founding: Founding, directories: &Directories) -> Result<Founded> {
    let place = Place::check(&founding.config, &founding.device, directories)?;
    let name = name(founding.name)?;
    let network = NetworkConfig {
        v4: founding.network.map(|net| pool(net.into(), founding.subnet_len)).transpose()?,
        v6: founding.ipv6_network.map(|net| pool(net.into(), founding.ipv6_subnet_len)).transpose()?,
        backend: Backend::Adit,
        backend_is_written: true,
    };
    let mut netlink = Netlink::open()?;
    check_overlap(&mut netlink, &network.networks(), &founding.device)?;
    let reached = places::public_addresses(&mut netlink, &founding.public_ip, &[], &|_| false)?;
    let mut settings = Network::new(founding.registry, name.clone());
    settings.bridge = Network::bridge_of(&founding.device);
    settings.subnet_files = place.subnet_files(&founding.device, directories);
    let (ca, certificate, key) = founding.tls;
    settings.tls_ca = ca.map(absolute).transpose()?;
    settings.tls_cert = certificate.map(absolute).transpose()?;
    settings.tls_key = key.map(absolute).transpose()?;
    settings.user = founding.user;
    settings.password_file = founding.password_file.map(absolute).transpose()?;
    (settings.prefix, settings.public_ip) = (founding.prefix, founding.public_ip);
    let (listen, mut remark) = place.listen(founding.listen);
    if settings.registry == RegistryAt::Embedded {
        let at =
            founding.registry_listen.unwrap_or_else(|| place.free(Network::REGISTRY_LISTEN, &free_for_connections));
        if founding.registry_listen.is_none() && at != Network::REGISTRY_LISTEN {
            remark.push_str(&format!("Its registry listens at TCP port {}, for the same reason.\n", at.port()));
        }
        settings.registry_listen = at;
    }
    settings.lease_ttl = founding.lease_ttl.unwrap_or(settings.lease_ttl);
    let port = settings.registry_listen.port();
    let endpoints: Vec<String> = reached.iter().map(|ip| SocketAddr::new(*ip, port).to_string()).collect();
    let configuration = configuration(&founding.config, &founding.device, listen, &settings)?;

    let written = || {
        let store = new_store(&place.directory)?;
        let keys = NodeKeys::generate().map_err(crypto)?;
        store.create_keys(&keys).map_err(told)?;
        let wireguard = PrivateKey::generate().map_err(|e| Failure::failed(format!("cannot make a key: {e}")))?;
        store.create_wireguard_key(wireguard.as_bytes()).map_err(told)?;
        let authority = registry::trust::Authority::generate().map_err(crypto)?;
        let ledger = Ledger::create(&store.authority(), authority).map_err(ledger_told)?;
        let now = SystemTime::now();
        let both = (keys.record_public(), keys.sealed_public());
        let certificate = ledger.certify(&name, both, ROLE_REGISTRY, now).map_err(ledger_told)?;
        store.set_certificate(&certificate).map_err(told)?;
        store.set_epochs(&[ledger.epoch().map_err(ledger_told)?]).map_err(told)?;
        let tls = enrol::make_tls(&endpoints).map_err(crypto)?;
        ledger.create_tls(&tls.certificate, &tls.key).map_err(ledger_told)?;
        write_new(&store.authority().join(NETWORK_FILE), &network.to_json(), 0o600)?;
        if settings.registry == RegistryAt::Embedded {
            store.set_registry_ca(&tls.certificate).map_err(told)?;
        }
        let places = endpoints.join("\n");
        write_new(&store.authority().join(ENDPOINTS_FILE), places.as_bytes(), 0o600)?;
        let TokenTerms { ttl, uses } = founding.token;
        let token = ledger.create_token(endpoints, tls.pin, ttl, uses, now).map_err(ledger_told)?;
        let notes =
            Notes { network: Some(String::from_utf8_lossy(&network.to_json()).into_owned()), ..Notes::default() };
        NotesFile::within(&place.directory).write(&notes)?;
        write_configuration(&founding.config, &configuration)?;
        Ok(token.text())
    };
    let token = place.keep_or_remove(written())?;
    Ok(Founded { networks: text(&network), name, directory: place.directory, token, terms: founding.token, remark })
}

/// Makes this host a node of a network.
///
/// # Errors
/// As [`found`], and what the enroller refuses.
pub fn join(joining: Joining, directories: &Directories) -> Result<Joined> {
    let place = Place::check(&joining.config, &joining.device, directories)?;
    let name = name(joining.name)?;
    let token: Token = joining.token.parse().map_err(|e| Failure::usage(format!("{e}")))?;
    let mut netlink = Netlink::open()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::failed(format!("cannot call the enroller: {e}")))?;
    let look = runtime.block_on(enrol::look(&token)).map_err(|e| Failure::failed(e.to_string()))?;
    check_overlap(&mut netlink, &look.network.networks(), &joining.device)?;
    let keys = NodeKeys::generate().map_err(crypto)?;
    // Before the token is used up by somebody who may not write here.
    let store = place.keep_or_remove(new_store(&place.directory))?;
    let joined = runtime.block_on(enrol::join(&token, &name, &keys)).map_err(|e| Failure::failed(e.to_string()));
    let joined = place.keep_or_remove(joined)?;
    let registry = match joined.registry.as_slice() {
        [] => vec![format!("https://{}", joined.enroller)],
        urls => urls.to_vec(),
    };
    let mut settings = Network::new(RegistryAt::Endpoints(registry), name.clone());
    settings.bridge = Network::bridge_of(&joining.device);
    settings.subnet_files = place.subnet_files(&joining.device, directories);
    (settings.prefix, settings.public_ip) = (joined.prefix.clone(), joining.public_ip);
    let local = places::local_addresses(&mut netlink)?;
    let (listen, mut remark) = place.listen(joining.listen);
    if settings.public_ip == PublicIp::Auto && !local.contains(&joined.seen) {
        remark.push_str(&format!(
            "It was seen from {}, which is no address of its own: it takes itself to be behind NAT, and calls the others. With a\n\
             forwarded port, write public-ip = \"{}\" under [network].\n",
            joined.seen, joined.seen
        ));
    }
    let written = || {
        store.create_keys(&keys).map_err(told)?;
        let wireguard = PrivateKey::generate().map_err(|e| Failure::failed(format!("cannot make a key: {e}")))?;
        store.create_wireguard_key(wireguard.as_bytes()).map_err(told)?;
        store.set_certificate(&joined.certificate).map_err(told)?;
        store.set_epochs(std::slice::from_ref(&joined.epoch)).map_err(told)?;
        if !joined.registry_ca.is_empty() {
            store.set_registry_ca(&joined.registry_ca).map_err(told)?;
        }
        // It is for the embedded registry: what etcd asks for, an administrator writes into the configuration.
        if joined.registry.is_empty() && !joined.user.is_empty() {
            store.set_credential(&joined.user, &joined.password).map_err(told)?;
        }
        let network = String::from_utf8_lossy(&joined.network_json).into_owned();
        let called_from = places::source_towards(joined.enroller);
        let notes = Notes { network: Some(network), seen: Some(joined.seen), called_from, ..Notes::default() };
        NotesFile::within(&place.directory).write(&notes)?;
        write_configuration(&joining.config, &config::network_file(&joining.device, listen, &settings))
    };
    place.keep_or_remove(written())?;
    Ok(Joined { networks: text(&joined.network), name, directory: place.directory, remark })
}

/// Where a node's files will be.
struct Place {
    directory: PathBuf,
    /// What was not there before.
    made: Vec<PathBuf>,
    /// The directory that it is in, if that was not there before either.
    state: Option<PathBuf>,
    /// Whether this host is a node of another network already, whose daemon may be about to start.
    is_second: bool,
}

impl Place {
    /// Checks that there is nothing yet.
    fn check(config: &Path, device: &str, directories: &Directories) -> Result<Self> {
        config::check_device(device).map_err(|fault| Failure::usage(format!("{device:?} {fault}")))?;
        let directory = super::directory(directories, device);
        if directory.exists() {
            return Err(Failure::failed(format!("this host is a node already: there is {}", directory.display()))
                .with_remedy(format!(
                    "start it with `adit up`, make it forget its network with `adit down --device {device} --purge`, or take part in \
                     a second network with `--device adit1 --config /etc/adit/adit1.toml`"
                )));
        }
        if config.exists() {
            return Err(Failure::failed(format!("{} is there already", config.display()))
                .with_remedy("remove it, or choose another with --config"));
        }
        let is_node = |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "network");
        let is_second = fs::read_dir(&directories.state).into_iter().flatten().flatten().any(is_node);
        let state = Some(directories.state.clone()).filter(|state| !state.exists());
        Ok(Self { made: vec![directory.clone(), config.into()], directory, state, is_second })
    }

    /// Where the lease is to be written in flannel's format, if not where the first network of this host has its own.
    fn subnet_files(&self, device: &str, directories: &Directories) -> Vec<PathBuf> {
        let own = || directories.runtime.join(format!("{device}.subnet.env"));
        self.is_second.then(own).into_iter().collect()
    }

    /// The port by default, or a later one where another network of this host has that, or any program.
    fn free(&self, default: SocketAddr, next: &dyn Fn(SocketAddr) -> SocketAddr) -> SocketAddr {
        next(SocketAddr::new(default.ip(), default.port() + u16::from(self.is_second)))
    }

    /// Where datagrams are to arrive, if that is not the default, and what the reader should know of it.
    fn listen(&self, asked: Option<SocketAddr>) -> (Option<SocketAddr>, String) {
        if asked.is_some() {
            return (asked, String::new());
        }
        let listen = self.free(config::LISTEN, &free_for_datagrams);
        if listen == config::LISTEN {
            return (None, String::new());
        }
        let (port, default) = (listen.port(), config::LISTEN.port());
        let remark = format!(
            "It listens at UDP port {port}, since this host uses {default} already: let {port} through its firewall.\n"
        );
        (Some(listen), remark)
    }

    /// After a failure nothing of it stays.
    fn keep_or_remove<T>(&self, outcome: Result<T>) -> Result<T> {
        if outcome.is_err() {
            for path in &self.made {
                let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
                if let Err(e) = removed.or_else(absent) {
                    tracing::warn!("cannot remove {}: {e}", path.display());
                }
            }
            if let Some(state) = &self.state {
                // Fails, rightly, where somebody else uses it by now.
                let _ = fs::remove_dir(state);
            }
        }
        outcome
    }
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn name(given: Option<String>) -> Result<String> {
    match given {
        Some(name) => {
            config::check_peer(&name).map_err(|fault| Failure::usage(format!("the node's name {name:?} {fault}")))?;
            Ok(name)
        }
        None => config::host_name().map_err(|fault| Failure::failed(fault).with_remedy("choose a name with --name")),
    }
}

/// The addresses of a family, and how they are divided among nodes.
fn pool(net: IpNet, len: Option<u8>) -> Result<Pool> {
    let (network, subnet_len) = match net {
        IpNet::V4(_) => ("--network", "--subnet-len"),
        IpNet::V6(_) => ("--ipv6-network", "--ipv6-subnet-len"),
    };
    Pool::new(net, len.map(u64::from), None, None).map_err(|fault| match fault {
        ConfigError::TooSmall(net) => {
            Failure::usage(format!("the network {net} is too small to be divided among nodes"))
                .with_remedy(format!("write a larger one with {network}: it must have room for four subnets"))
        }
        ConfigError::Special(net) => Failure::usage(format!("in the network {net} no host can be"))
            .with_remedy(format!("write another one with {network}, such as 10.42.0.0/16")),
        ConfigError::SubnetTooLong { len, longest } => {
            Failure::usage(format!("a subnet of length /{len} has no room for a device, a bridge and a container"))
                .with_remedy(format!("write {subnet_len} {longest} or less"))
        }
        ConfigError::TooFew { network: net, len } => {
            let most = net.prefix_len().saturating_add(2);
            Failure::usage(format!("the network {net} has no room for four subnets of length /{len}"))
                .with_remedy(format!("write {subnet_len} {most} or more, or a larger network with {network}"))
        }
        other => Failure::usage(format!("the network {net} {other}")),
    })
}

fn text(network: &NetworkConfig) -> String {
    let networks: Vec<String> = network.networks().iter().map(ToString::to_string).collect();
    format!("network {}", networks.join(" and "))
}

/// Whether the network's addresses are free here: no route of the host's leads into them, and no card has one of them. What an earlier daemon of
/// the same device left is not counted, since the next one takes it over.
fn check_overlap(netlink: &mut Netlink, networks: &[IpNet], device: &str) -> Result<()> {
    let own = netlink.link(device)?.map(|link| link.index);
    let refuse = |netlink: &mut Netlink, net: &IpNet, what: String, index: Option<u32>, remedy: &str| {
        let link = index.and_then(|index| netlink.link_by_index(index).ok().flatten());
        let by = link.map_or(String::new(), |link| format!(" by {}", link.name));
        Err(Failure::failed(format!("the network's addresses {net} overlap this host's {what}{by}")).with_remedy(
            format!("make the network with other addresses (`adit init --network`), or take the {remedy} away"),
        ))
    };
    for address in netlink.addresses(None)?.iter().filter(|address| Some(address.index) != own) {
        if let Some(net) = networks.iter().find(|net| net.contains(&address.net.addr())) {
            return refuse(netlink, net, format!("address {}", address.net), Some(address.index), "address");
        }
    }
    let is_ours = |route: &Route| route.protocol == PROTOCOL && route.device.is_none_or(|index| Some(index) == own);
    for route in netlink.routes(None)?.iter().filter(|r| r.kind == RouteKind::Unicast && !is_ours(r)) {
        let Some(net) = networks.iter().find(|net| overlaps(net, &route.destination)) else { continue };
        let is_within = net.contains(&route.destination.trunc());
        // One that is wider and leads to a router gives way to the network's own.
        if !is_within && route.gateway.is_some() {
            continue;
        }
        return refuse(netlink, net, format!("route to {}", route.destination.trunc()), route.device, "route");
    }
    Ok(())
}

fn overlaps(one: &IpNet, other: &IpNet) -> bool {
    other.prefix_len() > 0 && (one.contains(&other.trunc()) || other.trunc().contains(one))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let written = || {
        let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    written().map_err(|e: std::io::Error| Failure::failed(format!("cannot write {}: {e}", path.display())))
}

/// What is written as the configuration, once it is one that `adit up` takes.
fn configuration(path: &Path, device: &str, listen: Option<SocketAddr>, settings: &Network) -> Result<String> {
    let text = config::network_file(device, listen, settings);
    match config::parse(path, text.clone()) {
        Ok(_) => Ok(text),
        Err(e) => Err(Failure::usage(e.sentence())),
    }
}

/// A file of an option, wherever the configuration that names it will be.
fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))
}

fn write_configuration(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|e| Failure::failed(format!("cannot make {}: {e}", parent.display())))?;
    }
    write_new(path, text.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_cannot_be_divided_are_named_with_a_remedy() {
        for (net, len, parts) in [
            ("10.98.0.0/30", None, ["the network 10.98.0.0/30 is too small", "with --network"]),
            ("127.0.0.0/8", None, ["in the network 127.0.0.0/8 no host", "with --network"]),
            ("10.42.0.0/16", Some(31), ["a subnet of length /31 has no room", "write --subnet-len 30 or less"]),
            ("10.42.0.0/16", Some(16), ["the network 10.42.0.0/16 has no room", "write --subnet-len 18 or more"]),
            ("fd42::/126", None, ["the network fd42::/126 is too small", "with --ipv6-network"]),
            ("fd42::/48", Some(127), ["a subnet of length /127", "write --ipv6-subnet-len 126 or less"]),
        ] {
            let failure = pool(net.parse().unwrap(), len).unwrap_err();
            let sentence = failure.sentence();
            assert!(sentence.starts_with(parts[0]) && sentence.contains(parts[1]), "{sentence}");
        }
    }
}
