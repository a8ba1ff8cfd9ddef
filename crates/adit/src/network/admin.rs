//! What the authority of a network decides (tokens, removals, secrets), and who a node's clients are. It works on files, so that it needs no daemon;
//! one that runs is told to look.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use registry::enrol;
use registry::trust::{FileError, Ledger, MAX_ENDPOINTS, NodeStore};
use serde::Serialize;
use zeroize::Zeroizing;

use super::clients::{self, Introduction};
use super::member::told;
use super::notes::NotesFile;
use crate::api::status::ClientStatus;
use crate::api::{self, Request};
use crate::container::Store;
use crate::key::PrivateKey;
use crate::observe::human;
use crate::{Directories, Failure, Result};

/// In the authority's directory: the network's configuration as it was founded.
pub(super) const NETWORK_FILE: &str = "network.json";

/// In the authority's directory: where the enroller is called, a line each.
pub(super) const ENDPOINTS_FILE: &str = "endpoints";

/// How long and how often a token is good.
#[derive(Debug, Clone, Copy)]
pub struct TokenTerms {
    /// From now on.
    pub ttl: Duration,
    /// Nodes that may join with it.
    pub uses: u32,
}

impl std::fmt::Display for TokenTerms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "within {}", human::duration(self.ttl.as_secs()))?;
        if self.uses > 1 { write!(f, " (good for {} hosts)", self.uses) } else { Ok(()) }
    }
}

pub(super) fn crypto(error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("cannot make keys: {error}"))
}

pub(super) fn ledger_told(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}

/// A token as it is listed.
#[derive(Debug, Serialize)]
pub struct TokenLine {
    /// 16 hexadecimal digits.
    pub id: String,
    /// Seconds that it is still good, by its time alone.
    pub expires_s: Option<u64>,
    /// Nodes that may join with it.
    pub uses: u32,
    /// Those that did.
    pub used_by: Vec<String>,
    /// Whether it was taken back.
    pub revoked: bool,
}

/// The authority of a network, on the host that has it.
pub struct Authority {
    ledger: Ledger,
    directory: PathBuf,
    device: String,
    runtime: PathBuf,
}

impl Authority {
    /// The authority of the network of a device.
    ///
    /// # Errors
    /// It is not on this host.
    pub fn open(device: &str, directories: &Directories) -> Result<Self> {
        let directory = super::directory(directories, device).join("authority");
        if !is_there(&directory)? {
            return Err(Failure::failed(format!(
                "the network's authority is not on this host: there is no {}",
                directory.display()
            ))
            .with_remedy("run this on the host where `adit init` made the network"));
        }
        let ledger = Ledger::open(&directory).map_err(ledger_told)?;
        Ok(Self { ledger, directory, device: device.into(), runtime: directories.runtime.clone() })
    }

    /// Makes a token.
    ///
    /// # Errors
    /// The ledger cannot be written, or this host has no address.
    pub fn create_token(&self, terms: TokenTerms) -> Result<Zeroizing<String>> {
        let path = self.directory.join(ENDPOINTS_FILE);
        let text =
            fs::read_to_string(&path).map_err(|e| Failure::failed(format!("cannot read {}: {e}", path.display())))?;
        let places = api::status(&self.runtime, &self.device).ok().and_then(|status| status.network);
        let places = places.filter(|network| !network.behind_nat).map_or_else(Vec::new, |network| network.public);
        let endpoints = endpoints(&text, &places);
        let (certificate, _) = self.ledger.tls().map_err(ledger_told)?;
        let pin = enrol::pin(&certificate).map_err(ledger_told)?;
        let now = SystemTime::now();
        let token = self.ledger.create_token(endpoints, pin, terms.ttl, terms.uses, now).map_err(ledger_told)?;
        Ok(token.text())
    }

    /// The tokens that there are.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn tokens(&self) -> Result<Vec<TokenLine>> {
        let now = SystemTime::now();
        let tokens = self.ledger.tokens(now).map_err(ledger_told)?;
        let line = |token: registry::trust::TokenState| TokenLine {
            id: token.id,
            // Rounded up: as long as it is good, it has a second.
            expires_s: token
                .expires
                .duration_since(now)
                .ok()
                .map(|left| left.as_nanos().div_ceil(1_000_000_000) as u64),
            uses: token.uses,
            used_by: token.used_by,
            revoked: token.revoked,
        };
        Ok(tokens.into_iter().map(line).collect())
    }

    /// Takes a token back.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn revoke_token(&self, id: &str) -> Result<()> {
        self.ledger.revoke_token(id).map_err(ledger_told)
    }

    /// Puts a node out, and makes the next secret unless that is not wanted. A sentence for the reader.
    ///
    /// # Errors
    /// There is no node of this name.
    pub fn remove_node(&self, name: &str, keep_secret: bool) -> Result<String> {
        self.ledger.remove(name, !keep_secret).map_err(ledger_told)?;
        Ok(format!("{name} is out{}", self.tell()))
    }

    /// Makes the next secret. A sentence for the reader.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn rotate(&self) -> Result<String> {
        let (epoch, _) = self.ledger.rotate().map_err(ledger_told)?;
        Ok(format!("the secret of epoch {epoch} is made{}", self.tell()))
    }

    /// Has a daemon that runs publish what was decided.
    fn tell(&self) -> String {
        tell(
            &self.runtime,
            &self.device,
            ": this host goes by it, and the daemon publishes it now",
            "; it is published when the daemon of this host runs",
        )
    }
}

/// Where those who join call: at the addresses that the node has now, if its daemon says them, and at those that it was founded with.
fn endpoints(founded: &str, public: &[String]) -> Vec<String> {
    let founded: Vec<&str> = founded.lines().collect();
    let port = founded.first().and_then(|place| place.rsplit_once(':')?.1.parse().ok());
    let address = |public: &String| public.parse::<SocketAddr>().ok();
    let now = public.iter().filter_map(|public| Some(SocketAddr::new(address(public)?.ip(), port?).to_string()));
    let mut all: Vec<String> = Vec::new();
    for place in now.chain(founded.iter().map(|place| (*place).to_owned())) {
        if !all.contains(&place) && all.len() < MAX_ENDPOINTS {
            all.push(place);
        }
    }
    all
}

fn tell(runtime: &Path, device: &str, now: &str, later: &str) -> String {
    let path = api::control_socket(runtime, device);
    match api::call_within(&path, Request::Refresh, Duration::from_secs(60)) {
        Ok(api::Response::Done) => now.into(),
        Ok(api::Response::Error { sentence }) => format!("; {sentence}"),
        _ => later.into(),
    }
}

// ---- clients -----------------------------------------------------------------------------------------------------------

/// Makes a client of this node; what is to be shown to its app.
///
/// # Errors
/// The host is no node or has no subnet yet, or the name is taken.
pub fn add_client(name: &str, qr: bool, device: &str, directories: &Directories) -> Result<Zeroizing<String>> {
    let directory = super::directory(directories, device);
    let store = open_store(&directory)?;
    let _alone = store.lock().map_err(told)?;
    let mut known = read_clients(&store)?;
    let notes = NotesFile::within(&directory).read();
    let status = api::status(&directories.runtime, device).map_err(|e| {
        Failure::failed(format!("the node does not run, so that it is not known where it is reached: {e}"))
    })?;
    let Some(network) = status.network else {
        return Err(Failure::failed(format!("{device} is a tunnel from a file and no node of a network")));
    };
    let Some(endpoint) = network.public.first().filter(|_| !network.behind_nat) else {
        return Err(Failure::failed("this node is behind NAT, so that a client could not call it")
            .with_remedy("add the client on a node that can be called"));
    };
    // Nobody gives addresses to containers until the daemon has said that these are taken.
    let containers = Store::of(directories, device);
    let locked = containers.lock()?;
    let of_containers: Vec<IpAddr> =
        locked.records()?.iter().flat_map(|record| &record.addresses).map(IpNet::addr).collect();
    let (client, key) = clients::make(name, &known, &of_containers, &notes.subnets)?;
    let node = store.wireguard_key().map_err(|e| match e.is_missing() {
        true => Failure::failed("clients are for nodes that an authority certified, and this one only knows a secret"),
        false => told(e),
    })?;
    let node = PrivateKey::from_bytes(node).map_err(|e| Failure::failed(e.to_string()))?.public_key();
    let introduction = Introduction { client: &client, key: &key, node: &node, endpoint, networks: &network.networks };
    let text = if qr { introduction.qr()? } else { introduction.conf() };
    known.push(client);
    store.set_clients(&clients::write(&known)).map_err(told)?;
    tell(&directories.runtime, device, "", "");
    drop(locked);
    Ok(text)
}

/// The clients of this node.
///
/// # Errors
/// The host is no node.
pub fn clients(device: &str, directories: &Directories) -> Result<Vec<ClientStatus>> {
    let store = open_store(&super::directory(directories, device))?;
    let lines = read_clients(&store)?.into_iter().map(|client| ClientStatus {
        name: client.name,
        addresses: client.addresses,
        public_key: client.public_key.to_string(),
    });
    Ok(lines.collect())
}

/// Puts a client of this node out.
///
/// # Errors
/// There is none of this name.
pub fn remove_client(name: &str, device: &str, directories: &Directories) -> Result<()> {
    let store = open_store(&super::directory(directories, device))?;
    let _alone = store.lock().map_err(told)?;
    let mut known = read_clients(&store)?;
    let before = known.len();
    known.retain(|client| client.name != name);
    if known.len() == before {
        return Err(Failure::failed(format!("there is no client {name}")).with_remedy("`adit client list` shows them"));
    }
    store.set_clients(&clients::write(&known)).map_err(told)?;
    tell(&directories.runtime, device, "", "");
    Ok(())
}

/// Makes the directory of a node, and the one that it is in.
pub(super) fn new_store(directory: &Path) -> Result<NodeStore> {
    if let Some(state) = directory.parent() {
        fs::create_dir_all(state).map_err(|e| Failure::failed(format!("cannot make {}: {e}", state.display())))?;
    }
    NodeStore::create(directory).map_err(told)
}

fn open_store(directory: &Path) -> Result<NodeStore> {
    if !is_there(directory)? {
        return Err(Failure::failed(format!("this host is no node of a network: there is no {}", directory.display()))
            .with_remedy("run `adit init` or `adit join TOKEN`"));
    }
    NodeStore::open(directory).map_err(told)
}

/// Whether a directory is there.
///
/// # Errors
/// We may not look: most of what a node keeps is root's alone.
fn is_there(directory: &Path) -> Result<bool> {
    match fs::metadata(directory) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(told(FileError::Io { verb: "look at", path: directory.into(), error })),
    }
}

fn read_clients(store: &NodeStore) -> Result<Vec<clients::Client>> {
    let bytes = store.clients().map_err(told)?;
    bytes
        .map_or(Ok(Vec::new()), |bytes| clients::read(&bytes))
        .map_err(|e| Failure::failed(format!("the clients of this node cannot be read: {e}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use linux::privilege;

    use super::*;

    #[test]
    fn a_token_names_where_the_host_is_now_first() {
        let founded = "192.0.2.1:7780\n[2001:db8::1]:7780";
        assert_eq!(endpoints(founded, &[]), ["192.0.2.1:7780", "[2001:db8::1]:7780"]);
        let now = ["192.0.2.9:7777".to_owned(), "[2001:db8::1]:7777".to_owned(), "nonsense".to_owned()];
        assert_eq!(endpoints(founded, &now), ["192.0.2.9:7780", "[2001:db8::1]:7780", "192.0.2.1:7780"]);
        assert_eq!(endpoints("vpn.example:443", &now[..1]), ["192.0.2.9:443", "vpn.example:443"]);
        let many: Vec<_> = (1..20).map(|n| format!("192.0.2.{n}:7777")).collect();
        assert_eq!(endpoints(founded, &many).len(), MAX_ENDPOINTS);
    }

    #[test]
    fn who_may_not_look_is_not_told_that_nothing_is_there() {
        let top = tempfile::tempdir().unwrap();
        let directories = Directories { state: top.path().into(), ..Directories::default() };
        let node = super::super::directory(&directories, "adit0");
        fs::create_dir_all(node.join("authority")).unwrap();
        let set = |mode| fs::set_permissions(&node, fs::Permissions::from_mode(mode)).unwrap();
        set(0o000);
        // Without rights, root is an owner as any other.
        let ask = || {
            privilege::keep_in_this_thread(&[]).unwrap();
            [Authority::open("adit0", &directories).map(drop), clients("adit0", &directories).map(drop)]
        };
        let answers = thread::scope(|scope| scope.spawn(ask).join().unwrap());
        set(0o700);
        for answer in answers {
            let sentence = answer.unwrap_err().sentence().to_owned();
            assert!(sentence.contains("Permission denied") && sentence.ends_with("; run this as root"), "{sentence}");
        }
    }
}
