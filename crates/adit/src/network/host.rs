//! What the authority's host does for the network beside being a node: it lets nodes in, and holds the registry unless that is elsewhere. It runs on
//! a thread of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use registry::api::mvccpb;
use registry::enrol::Enroller;
use registry::schema::{NetworkConfig, Prefix};
use registry::server::{self, Policy, Principal, Store, Tls, Write};
use registry::trust::{Credential, Ledger, LedgerPolicy, Present, Wanted};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use zeroize::Zeroizing;

use super::admin::NETWORK_FILE;
use super::member::Member;
use super::publish::Decisions;
use crate::config::{Network, RegistryAt};
use crate::{Failure, Result};

/// The cache of the embedded registry, in bytes.
const CACHE: usize = 16 << 20;

/// How long the registry rests after it could not be written.
const AGAIN: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Host {
    ledger: Arc<Ledger>,
    /// The network's configuration as it was founded.
    network: Vec<u8>,
    root: Option<Credential>,
    ready: Option<Ready>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is given.
struct Ready {
    listener: TcpListener,
    tls: Tls,
    /// The embedded registry's file.
    file: Option<PathBuf>,
    policy: Arc<HostPolicy>,
    enroller: Enroller,
}

/// Where the registry of this host is called from itself.
pub(super) fn own_url(settings: &Network) -> String {
    let listen = settings.registry_listen;
    let ip = if listen.ip().is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { listen.ip() };
    format!("https://{}", SocketAddr::new(ip, listen.port()))
}

impl Host {
    /// What this host has of it; nothing on hosts without an authority.
    ///
    /// # Errors
    /// Files are missing or damaged, or the port is taken.
    pub(super) fn open(settings: &Network, directory: &Path, member: &Member) -> Result<Option<Self>> {
        let authority = directory.join("authority");
        if !authority.is_dir() {
            return match settings.registry {
                RegistryAt::Embedded => Err(Failure::usage(
                    "registry = \"embedded\" is for the host on which `adit init` made the network, and this is not that host",
                )
                .with_remedy("name the URL of the registry, or join again with `adit join TOKEN`")),
                RegistryAt::Endpoints(_) => Ok(None),
            };
        }
        let failed = |what: &str, e: &dyn std::fmt::Display| Failure::failed(format!("{what}: {e}"));
        let ledger = Arc::new(Ledger::open(&authority).map_err(|e| failed("the authority's ledger", &e))?);
        let read = |name: &str| {
            let path = authority.join(name);
            std::fs::read(&path).map_err(|e| failed(&format!("cannot read {}", path.display()), &e))
        };
        let network = read(NETWORK_FILE)?;
        let config = NetworkConfig::parse(&network).map_err(|e| failed(NETWORK_FILE, &e))?;
        let (certificate, key) = ledger.tls().map_err(|e| Failure::failed(e.to_string()))?;
        let tls = Tls::from_pem(&certificate, &key).map_err(|e| Failure::failed(e.to_string()))?;
        let listener = listen(settings.registry_listen)?;
        let (file, root) = match settings.registry {
            RegistryAt::Embedded => {
                // For this run, and for nobody else.
                let root = ledger.renew_root().map_err(|e| Failure::failed(e.to_string()))?;
                (Some(directory.join("registry.redb")), Some(root))
            }
            RegistryAt::Endpoints(_) => (None, None),
        };
        let urls = match &settings.registry {
            RegistryAt::Embedded => Vec::new(),
            RegistryAt::Endpoints(urls) => urls.clone(),
        };
        let ca = match &settings.registry {
            RegistryAt::Embedded => certificate,
            RegistryAt::Endpoints(_) => match &settings.tls_ca {
                Some(file) => std::fs::read(file).map_err(|e| failed(&file.display().to_string(), &e))?,
                None => Vec::new(),
            },
        };
        let policy =
            Arc::new(HostPolicy(LedgerPolicy::new(Arc::clone(&ledger), member.prefix.clone(), config.clone())));
        let enroller = Enroller::new(Arc::clone(&ledger), member.prefix.clone(), urls, ca, config);
        let ready = Some(Ready { listener, tls, file, policy, enroller });
        Ok(Some(Self { ledger, network, root, ready, stop: CancellationToken::new(), thread: None }))
    }

    /// Begins to serve, on threads that have the rights of the calling one. What ends later by a failure, as with a disk that is full, begins anew.
    ///
    /// # Errors
    /// The registry's file cannot be opened.
    pub(super) fn serve(&mut self) -> Result<()> {
        let Some(ready) = self.ready.take() else { return Ok(()) };
        let mut store = Some(ready.store().map_err(|e| Failure::failed(format!("the registry: {e}")))?);
        let stop = self.stop.clone();
        let run = move || {
            while !stop.is_cancelled() {
                let opened = store.take().map_or_else(|| ready.store(), Ok);
                let Err(e) = opened.and_then(|store| ready.serve(store, &stop)) else { return };
                tracing::error!("the registry ended: {e}; it begins anew in {} s", AGAIN.as_secs());
                thread::park_timeout(AGAIN);
            }
        };
        let thread = thread::Builder::new().name("registry".into()).spawn(run);
        self.thread = Some(thread.map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))?);
        Ok(())
    }

    /// Who may everything here.
    pub(super) fn credential(&self) -> Option<(String, Zeroizing<String>)> {
        self.root.clone().map(|root| (root.user, root.password))
    }

    /// Whether the registry is here.
    pub(super) fn has_registry(&self) -> bool {
        self.root.is_some()
    }

    /// What the authority decided, for the registry.
    pub(super) fn decisions(&self, prefix: &Prefix) -> Decisions {
        Decisions::new(Arc::clone(&self.ledger), self.network.clone(), prefix.clone())
    }
}

impl Ready {
    fn store(&self) -> std::result::Result<Option<Arc<Store>>, String> {
        let store = self.file.as_ref().map(|file| Store::open(file, CACHE)).transpose();
        store.map(|store| store.map(Arc::new)).map_err(|e| e.to_string())
    }

    /// Serves until it is told to stop. Whatever was begun for it has ended afterwards, and nothing has the store any more.
    fn serve(&self, store: Option<Arc<Store>>, stop: &CancellationToken) -> std::result::Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let (policy, enroller): (Arc<dyn Policy>, _) = (self.policy.clone(), self.enroller.clone());
        let served = runtime.block_on(async {
            let listener = self.listener.try_clone().and_then(tokio::net::TcpListener::from_std);
            let listener = listener.map_err(|e| e.to_string())?;
            let extra = move |routes: Routes| routes.add_service(enroller.service());
            let serving = server::serve(listener, Some(self.tls.clone()), store, policy, extra, stop.clone());
            serving.await.map_err(|e| e.to_string())
        });
        drop(runtime);
        served
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let failed = |e: std::io::Error| {
        Failure::failed(format!("cannot listen on TCP {address} for the registry: {e}"))
            .with_remedy("choose another `registry-listen` under [network]")
    };
    let listener = match TcpListener::bind(address) {
        // A host without IPv6.
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).map_err(failed)?
        }
        bound => bound.map_err(failed)?,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// The ledger's rules, as the registry asks them.
struct HostPolicy(LedgerPolicy);

impl Policy for HostPolicy {
    fn authenticate(&self, user: &str, password: &str) -> Option<Principal> {
        self.0.is_user(user, password).then(|| Principal(user.to_owned()))
    }

    fn permit(
        &self,
        who: &Principal,
        write: &Write<'_>,
        present: Option<&mvccpb::KeyValue>,
    ) -> std::result::Result<(), String> {
        let (key, wanted) = match write {
            Write::Put { key, value, lease } => (key, Wanted::Put { value, lease: *lease }),
            Write::Delete { key } => (key, Wanted::Delete),
        };
        self.0.may_write(&who.0, key, wanted, present.map(|kv| Present { value: &kv.value, lease: kv.lease }))
    }

    fn may_read(&self, who: &Principal, key: &[u8], range_end: &[u8]) -> bool {
        self.0.may_read(&who.0, key, range_end)
    }

    fn still_valid(&self, who: &Principal) -> bool {
        self.0.is_valid(&who.0)
    }

    fn farewell(&self, user: &str) -> Option<Vec<u8>> {
        self.0.farewell(user)
    }
}
