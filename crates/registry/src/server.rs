//! The registry inside adit: the part of etcd's v3 API that is used, on one file, over TLS, with a policy.
//!
//! Not a cluster: one node of the network holds it, and the others need it for changes only.
//!
//! | module | what |
//! |---|---|
//! | `doors` | connections and their bounds |
//! | `sessions` | names, passwords, tokens |
//! | `policy` | what somebody may |
//! | `service`, `leases`, `watch` | the calls |
//! | `txn`, `range` | what etcd makes of requests, without any state |
//! | `store` | the file, and the one thread that writes it |
//! | `refusal` | etcd's errors |

mod doors;
mod leases;
mod policy;
mod range;
mod refusal;
mod service;
mod sessions;
mod store;
mod txn;
mod watch;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::{Routes, interceptor::InterceptedService},
    transport::Server,
};

use self::{
    doors::Doors,
    service::{Entrance, REQUEST, Service},
    sessions::{Guard, Sessions},
    watch::Watches,
};
pub use self::{
    policy::{Policy, Principal, Write, lies_under},
    store::{Store, StoreError},
};
use crate::api::etcdserverpb::{
    auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer, watch_server::WatchServer,
};

/// Bytes of a message: a request and what stands around it (etcd's 512 KiB more), so that a larger one is refused in etcd's words.
const MESSAGE: usize = REQUEST + 512 * 1024;

/// Bytes of a message with a name and a password, or of headers.
const SMALL: usize = 16 * 1024;

/// Of one connection: streams, and requests that are being served.
const STREAMS: u32 = 256;
const REQUESTS: usize = 64;

/// How long a request may take, its body's arrival included; streams are not meant.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often a quiet connection is asked whether anybody is there, and how long the answer may take.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(10);

/// How often it is looked at who is still welcome.
const SWEEP: Duration = Duration::from_millis(500);

/// How long a server that ends waits for answers on their way.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a registry cannot be served, or not any longer.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The certificate or its key is none, or they do not fit each other.
    #[error("the registry's TLS certificate or key cannot be used: {0}")]
    Tls(String),
    /// The file cannot be read or written any more.
    #[error("the registry's file failed: {0}")]
    Store(String),
    /// Connections cannot be served.
    #[error("the registry cannot serve: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// The certificate and key that clients see, for TLS 1.2 and 1.3.
#[derive(Clone)]
pub struct Tls(Arc<ServerConfig>);

impl Tls {
    /// From a certificate, with those that lead to its authority if any, and its private key, both in PEM.
    ///
    /// # Errors
    /// Either is none, or they do not fit each other.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, ServeError> {
        let reason = |error: &dyn std::fmt::Display| ServeError::Tls(error.to_string());
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(certificates).collect::<Result<_, _>>().map_err(|error| reason(&error))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| reason(&error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| reason(&error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| reason(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// Serves a registry until `stop`, or until its file fails. Without a store it serves `extra` alone.
///
/// `extra` adds services of its own, which no policy guards: they see where a request came from by [`tonic::Request::remote_addr`].
/// Without `tls` everything is said in the clear, passwords included.
///
/// # Errors
/// The file failed, or nothing can be served.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    store: Option<Arc<Store>>,
    policy: Arc<dyn Policy>,
    extra: impl FnOnce(Routes) -> Routes,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    // Whatever ends the serving ends all that was begun for it.
    let stop = stop.child_token();
    let _guard = stop.clone().drop_guard();
    let doors = Arc::new(Doors::default());
    let sessions = Arc::new(Sessions::new(policy));
    let mut routes = Routes::default();
    if let Some(store) = &store {
        let service = Service { store: Arc::clone(store), stop: stop.clone(), tls: tls.is_some() };
        routes = add(routes, service, &sessions, &doors);
    }
    let routes = extra(routes);
    let (ready, connections) = mpsc::channel(1);
    let acceptor = tls.map(|Tls(config)| TlsAcceptor::from(config));
    tokio::spawn(doors::listen(listener, acceptor, Arc::clone(&doors), ready, stop.clone()));
    tokio::spawn(sweep(sessions, doors, stop.clone()));
    let serving = Server::builder()
        .timeout(TIMEOUT)
        .concurrency_limit_per_connection(REQUESTS)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(u32::try_from(SMALL).ok())
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PONG))
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            ReceiverStream::<io::Result<_>>::new(connections),
            stop.clone().cancelled_owned(),
        );
    let failed = async {
        match &store {
            Some(store) => store.failed().await,
            None => std::future::pending().await,
        }
    };
    let given_up = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        served = serving => Ok(served?),
        reason = failed => Err(ServeError::Store(reason)),
        () = given_up => Ok(()),
    }
}

/// Adds etcd's services. Each asks who comes before it reads what they want.
fn add(routes: Routes, service: Service, sessions: &Arc<Sessions>, doors: &Arc<Doors>) -> Routes {
    let guard = Guard { sessions: Arc::clone(sessions), doors: Arc::clone(doors) };
    let watches = Watches { service: service.clone(), streams: Arc::new(Semaphore::new(watch::STREAMS)) };
    let entrance = Entrance { service: service.clone(), sessions: Arc::clone(sessions), doors: Arc::clone(doors) };
    let kv = KvServer::new(service.clone()).max_decoding_message_size(MESSAGE);
    let lease = LeaseServer::new(service.clone()).max_decoding_message_size(SMALL);
    let watch = WatchServer::new(watches).max_decoding_message_size(MESSAGE);
    let cluster = ClusterServer::new(service.clone()).max_decoding_message_size(SMALL);
    let maintenance = MaintenanceServer::new(service).max_decoding_message_size(SMALL);
    routes
        .add_service(InterceptedService::new(kv, guard.clone()))
        .add_service(InterceptedService::new(lease, guard.clone()))
        .add_service(InterceptedService::new(watch, guard.clone()))
        .add_service(InterceptedService::new(cluster, guard.clone()))
        .add_service(InterceptedService::new(maintenance, guard))
        .add_service(AuthServer::new(entrance).max_decoding_message_size(SMALL))
}

async fn sweep(sessions: Arc<Sessions>, doors: Arc<Doors>, stop: CancellationToken) {
    let mut every = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = stop.cancelled() => return,
        }
        let now = Instant::now();
        let gone = sessions.sweep(now);
        doors.sweep(&gone, now);
    }
}
