//! Who we are in the network and whom we believe: keys, certificate, the network's secrets, and the files that they are in.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::client::{Client, Options};
use registry::schema::{Backend, NetworkConfig, Prefix};
use registry::trust::{Anchor, Bundle, Certificate, Epoch, FileError, NodeKeys, NodeStore, Serial, random};
use registry::view::{Memory, Setting, View};
use tokio::net::lookup_host;
use tokio::time::timeout;
use tunnel::network::Membership;
use zeroize::Zeroizing;

use super::clients;
use super::host::Host;
use crate::config::{Network, RegistryAt, Tunnel};
use crate::key::{PresharedKey, PrivateKey};
use crate::{Failure, Result};

/// How long the former secret is good after the next one is known.
const GRACE: Duration = Duration::from_secs(600);

/// How long a resolver has to say where a registry is.
const RESOLUTION: Duration = Duration::from_secs(1);

/// How long the registry has for one answer.
const REQUEST: Duration = Duration::from_secs(3);

/// Why nodes are believed.
enum Trust {
    /// An authority certifies them.
    Authority(Box<Certificate>),
    /// They know a secret.
    Shared(Box<Certificate>),
    /// They are not: only plain nodes are spoken to.
    Nothing,
}

/// See the module.
pub(super) struct Member {
    store: Option<NodeStore>,
    /// Where the registry's keys stand.
    pub(super) prefix: Prefix,
    keys: Option<Arc<NodeKeys>>,
    trust: Trust,
    anchor: Anchor,
    name: String,
    /// Newest first, and until when one is good that has a newer one.
    epochs: Vec<(Epoch, Option<Instant>)>,
    /// Whether the authority gave the others a secret, and us none.
    is_left_out: bool,
    /// As configured.
    pub(super) registry_urls: Vec<String>,
    /// Those of them that are addresses, or names that could be resolved.
    pub(super) registry_addresses: Vec<SocketAddr>,
}

impl Member {
    /// Reads what this host has of the network, and gives `tunnel` its keys.
    ///
    /// # Errors
    /// The host is no node yet, or its files are missing or wrong.
    pub(super) fn load(settings: &Network, directory: &Path, tunnel: &mut Tunnel) -> Result<Self> {
        let prefix = Prefix::new(&settings.prefix)
            .map_err(|fault| Failure::usage(format!("the prefix {:?} {fault}", settings.prefix)))?;
        let registry_urls = match &settings.registry {
            RegistryAt::Embedded => vec![super::host::own_url(settings)],
            RegistryAt::Endpoints(urls) => urls.clone(),
        };
        // Names are asked for once the thread runs, which waits for a resolver no longer than it should.
        let registry_addresses = registry_urls.iter().filter_map(|url| place(url).parse().ok()).collect();
        let mut member = Self {
            store: None,
            prefix,
            keys: None,
            trust: Trust::Nothing,
            anchor: Anchor::Shared(random().map_err(|e| Failure::failed(e.to_string()))?),
            name: settings.node_name.clone(),
            epochs: Vec::new(),
            is_left_out: false,
            registry_urls,
            registry_addresses,
        };
        let is_certified = NodeStore::is_certified(directory);
        match (&settings.secret_file, directory.exists()) {
            (Some(file), _) => member.share(file, directory, tunnel)?,
            (None, _) if settings.plain && !is_certified => member.store = Some(super::admin::new_store(directory)?),
            (None, true) => member.certified(directory, tunnel)?,
            (None, false) => {
                return Err(Failure::failed(format!(
                    "this host is no node of a network yet: there is no {}",
                    directory.display()
                ))
                .with_remedy("run `adit init` to make a network, or `adit join TOKEN` with a token from one"));
            }
        }
        Ok(member)
    }

    /// A node that an authority certified.
    fn certified(&mut self, directory: &Path, tunnel: &mut Tunnel) -> Result<()> {
        let store = NodeStore::open(directory).map_err(told)?;
        let keys = store.keys().map_err(needed)?;
        let certificate = store.certificate(&keys).map_err(needed)?;
        self.anchor = Anchor::Authority(certificate.authority);
        self.name.clone_from(&certificate.name);
        self.epochs = store.epochs().map_err(needed)?.into_iter().map(|epoch| (epoch, None)).collect();
        // The file was written when the newest one was learned: starts make the time of the one before no longer.
        let until = Instant::now() + GRACE.saturating_sub(store.epochs_age());
        self.epochs.iter_mut().skip(1).for_each(|(_, good)| *good = Some(until));
        tunnel.device.private_key = Some(private(keys.sealed_private().clone())?);
        tunnel.device.wireguard_private_key = Some(private(store.wireguard_key().map_err(needed)?)?);
        self.trust = Trust::Authority(Box::new(certificate));
        (self.keys, self.store) = (Some(Arc::new(keys)), Some(store));
        Ok(())
    }

    /// A node that knows a secret.
    fn share(&mut self, file: &Path, directory: &Path, tunnel: &mut Tunnel) -> Result<()> {
        let secret = PresharedKey::read_file(file).map_err(|e| Failure::usage(format!("the network's secret: {e}")))?;
        let Some(key) = &tunnel.device.private_key else {
            return Err(Failure::usage("a node that knows a network's secret needs a key of its own")
                .with_remedy("make one with `adit keygen`, and name its file with --private-key-file"));
        };
        let keys =
            NodeKeys::from_private(Zeroizing::new(*key.as_bytes())).map_err(|e| Failure::failed(e.to_string()))?;
        self.anchor = Anchor::Shared(Zeroizing::new(*secret.as_bytes()));
        let certificate = Certificate::self_certified(&self.name, &keys, &self.anchor)
            .map_err(|e| Failure::failed(format!("cannot certify this node: {e}")))?;
        self.epochs = self.anchor.shared_epoch().into_iter().map(|epoch| (epoch, None)).collect();
        self.store = Some(super::admin::new_store(directory)?);
        self.trust = Trust::Shared(Box::new(certificate));
        self.keys = Some(Arc::new(keys));
        Ok(())
    }

    /// Asks for the addresses of registries that are named, for a moment.
    pub(super) async fn find_registries(&mut self) {
        let mut found = Vec::new();
        for url in self.registry_urls.iter().filter(|url| place(url).parse::<SocketAddr>().is_err()) {
            if let Ok(Ok(addresses)) = timeout(RESOLUTION, lookup_host(place(url))).await {
                found.extend(addresses);
            }
        }
        self.registry_addresses.extend(found);
    }

    /// A client of the registry.
    ///
    /// # Errors
    /// Files of certificates or passwords cannot be read.
    pub(super) fn client(&self, settings: &Network, host: Option<&Host>) -> Result<Client> {
        let read = |file: &Path| {
            std::fs::read(file).map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))
        };
        let mut ca = settings.tls_ca.as_deref().map(read).transpose()?;
        if let (None, Some(store)) = (&ca, &self.store) {
            ca = match store.registry_ca() {
                Ok(pem) => Some(pem),
                Err(e) if e.is_missing() => None,
                Err(e) => return Err(told(e)),
            };
        }
        let identity = match (&settings.tls_cert, &settings.tls_key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, Zeroizing::new(read(key)?))),
            _ => None,
        };
        let user = match (&settings.user, &settings.password_file, host.and_then(Host::credential), &self.store) {
            (Some(user), Some(file), ..) => {
                let text = Zeroizing::new(String::from_utf8_lossy(&read(file)?).trim().to_owned());
                Some((user.clone(), text))
            }
            (_, _, Some(credential), _) => Some(credential),
            (_, _, None, Some(store)) => match store.credential() {
                Ok(credential) => Some(credential),
                Err(e) if e.is_missing() => None,
                Err(e) => return Err(told(e)),
            },
            _ => None,
        };
        let options = Options { endpoints: self.registry_urls.clone(), ca, identity, user, request_timeout: REQUEST };
        Client::new(options).map_err(|e| Failure::usage(e.to_string()))
    }

    /// Whether we can be a node of this network at all.
    ///
    /// # Errors
    /// What stands against it.
    pub(super) fn check(&self, network: &NetworkConfig, settings: &Network) -> Result<()> {
        let is_plain_only = matches!(self.trust, Trust::Nothing);
        match &network.backend {
            _ if !network.backend_is_written => Err(Failure::failed(
                "the network configuration in the registry names no backend, which means udp to flannel and nothing to adit",
            )
            .with_remedy("write \"Backend\": {\"Type\": \"adit\"} or {\"Type\": \"udp\"} into it")),
            Backend::Adit if is_plain_only => Err(Failure::failed(
                "the network's nodes speak to certified nodes only, and this one has no certificate and no secret",
            )
            .with_remedy("join it with `adit join TOKEN`, or name its secret with --secret-file")),
            Backend::Adit | Backend::Udp { .. } => Ok(()),
            Backend::Other(kind) => Err(Failure::failed(format!(
                "the network configuration in the registry says {kind:?}, which adit does not speak"
            ))
            .with_remedy("use a network whose \"Backend\" has the \"Type\" \"adit\" or \"udp\"")),
        }?;
        match (&network.backend, settings.plain) {
            (Backend::Adit, true) => {
                Err(Failure::usage("plain = true fits networks of flannel's udp backend only").with_remedy("remove it"))
            }
            _ => Ok(()),
        }
    }

    /// What is known of the network's nodes, with what an earlier run remembered.
    pub(super) fn view(&self, network: &NetworkConfig, settings: &Network) -> View {
        let remembered = self.store.as_ref().and_then(|store| match store.memory() {
            Ok(bytes) => bytes,
            Err(e) => {
                tracing::warn!("{e}");
                None
            }
        });
        let memory = remembered.and_then(|bytes| match Memory::from_bytes(&bytes) {
            Ok(memory) => Some(memory),
            Err(e) => {
                tracing::warn!("{e}");
                None
            }
        });
        let setting = Setting {
            prefix: self.prefix.clone(),
            anchor: self.anchor.clone(),
            network: network.clone(),
            own: self.serial(),
            lease_ttl: settings.lease_ttl,
        };
        View::new(setting, memory.unwrap_or_default())
    }

    /// Notes what is known, for the next start.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn remember(&self, memory: &Memory) -> std::result::Result<(), String> {
        let Some(store) = &self.store else { return Ok(()) };
        store.set_memory(&memory.to_bytes()).map_err(|e| e.to_string())
    }

    // ---- the network's secret ------------------------------------------------------------------------------------------

    /// Takes in the secret of an epoch, if it is a later one; answers whether there is another secret now.
    ///
    /// # Errors
    /// It is not authentic, or cannot be read.
    pub(super) fn learn_secret(&mut self, number: u32, value: &[u8]) -> std::result::Result<bool, String> {
        let (Trust::Authority(certificate), Some(keys)) = (&self.trust, &self.keys) else { return Ok(false) };
        let newest = self.epochs.first().map(|(epoch, _)| epoch.clone());
        if newest.as_ref().is_some_and(|epoch| number <= epoch.number) {
            return Ok(false);
        }
        let fault =
            |e: &dyn std::fmt::Display| format!("the secret of epoch {number} in the registry cannot be used: {e}");
        let bytes = STANDARD.decode(value).map_err(|e| fault(&e))?;
        let bundle = Bundle::open(&bytes, &self.anchor).map_err(|e| fault(&e))?;
        if bundle.epoch != number {
            return Err(fault(&"it is that of another epoch"));
        }
        if !bundle.is_for(certificate.serial) {
            self.is_left_out = true;
            return Ok(false);
        }
        let epoch =
            bundle.unwrap(certificate.network, keys, certificate.serial, newest.as_ref()).map_err(|e| fault(&e))?;
        for (_, until) in &mut self.epochs {
            until.get_or_insert_with(|| Instant::now() + GRACE);
        }
        self.epochs.insert(0, (epoch, None));
        self.epochs.truncate(2);
        if let Some(store) = &self.store {
            let epochs: Vec<Epoch> = self.epochs.iter().map(|(epoch, _)| epoch.clone()).collect();
            store.set_epochs(&epochs).map_err(|e| e.to_string())?;
        }
        tracing::info!("the network's secret is that of epoch {number} now");
        Ok(true)
    }

    /// Former secrets end some time after the next one; answers whether one did.
    pub(super) fn forget_old_secrets(&mut self) -> bool {
        let before = self.epochs.len();
        self.epochs.retain(|(_, until)| until.is_none_or(|until| Instant::now() < until));
        let ended = self.epochs.len() != before;
        if ended && let (Some(store), Trust::Authority(_)) = (&self.store, &self.trust) {
            let epochs: Vec<Epoch> = self.epochs.iter().map(|(epoch, _)| epoch.clone()).collect();
            if let Err(e) = store.set_epochs(&epochs) {
                tracing::warn!("{e}");
            }
        }
        ended
    }

    /// What sealed handshakes are bound to.
    pub(super) fn membership(&self) -> Option<Membership> {
        if matches!(self.trust, Trust::Nothing) {
            return None;
        }
        let epochs = self
            .epochs
            .iter()
            .map(|(epoch, _)| tunnel::network::Epoch { number: epoch.number, secret: epoch.secret.clone() });
        Some(Membership { id: self.anchor.network_id().0, epochs: epochs.collect() })
    }

    // ---- what others ask -----------------------------------------------------------------------------------------------

    /// Keys, certificate and anchor, with which a record is signed; none for a plain node.
    pub(super) fn signer(&self) -> Option<(Arc<NodeKeys>, Certificate, Anchor)> {
        let (Trust::Authority(certificate) | Trust::Shared(certificate)) = &self.trust else { return None };
        Some((Arc::clone(self.keys.as_ref()?), Certificate::clone(certificate), self.anchor.clone()))
    }

    /// The phones and laptops that this node serves.
    pub(super) fn clients(&self) -> Vec<clients::Client> {
        let Some(store) = &self.store else { return Vec::new() };
        let read = store.clients().map_err(|e| e.to_string());
        match read.and_then(|bytes| bytes.map_or(Ok(Vec::new()), |bytes| clients::read(&bytes))) {
            Ok(clients) => clients,
            Err(e) => {
                tracing::error!("the clients of this node cannot be read, and are not served: {e}");
                Vec::new()
            }
        }
    }

    /// Whether the authority gave the others a secret, and us none: we are out.
    pub(super) fn is_left_out(&self) -> bool {
        self.is_left_out
    }

    /// Whether the registry was told of a user of ours when we joined.
    pub(super) fn has_credential(&self) -> bool {
        matches!(self.trust, Trust::Authority(_)) && self.store.as_ref().is_some_and(|store| store.credential().is_ok())
    }

    /// What this node is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The number of its certificate.
    pub(super) fn serial(&self) -> Option<Serial> {
        match &self.trust {
            Trust::Authority(certificate) | Trust::Shared(certificate) => Some(certificate.serial),
            Trust::Nothing => None,
        }
    }

    /// Why nodes are believed, as `adit status` says it.
    pub(super) fn trust(&self) -> &'static str {
        match &self.trust {
            Trust::Authority(_) => "authority",
            Trust::Shared(_) => "shared secret",
            Trust::Nothing => "nothing",
        }
    }

    /// The epoch of the secret in force.
    pub(super) fn epoch(&self) -> Option<u32> {
        self.epochs.first().map(|(epoch, _)| epoch.number)
    }

    /// Which network.
    pub(super) fn network_id(&self) -> [u8; 16] {
        match &self.trust {
            Trust::Nothing => [0; 16],
            _ => self.anchor.network_id().0,
        }
    }
}

fn private(key: Zeroizing<[u8; 32]>) -> Result<PrivateKey> {
    PrivateKey::from_bytes(key).map_err(|e| Failure::failed(format!("the key of this node: {e}")))
}

/// The same for a file without which this host is not the node it was.
fn needed(error: FileError) -> Failure {
    let is_lost = matches!(error, FileError::Missing(_) | FileError::Content { .. });
    let failure = told(error);
    if !is_lost {
        return failure;
    }
    failure.with_remedy(
        "bring it back from a backup, or make this host forget its network with `adit down --purge` and join again",
    )
}

/// A fault of a file, as our reader meets it.
pub(super) fn told(error: FileError) -> Failure {
    let failure = Failure::failed(error.to_string());
    match error {
        FileError::Io { error, .. } if error.kind() == ErrorKind::PermissionDenied => {
            failure.with_remedy("run this as root")
        }
        _ => failure,
    }
}

/// Host and port of a URL, `https://host:port`.
fn place(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, place)| place).trim_end_matches('/')
}
