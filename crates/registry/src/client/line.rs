//! One connection per endpoint, and what is asked over it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tonic::codegen::http::Uri;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use zeroize::Zeroizing;

use super::options::{Address, Options, OptionsError};
use super::{lock, verify};
use crate::api::etcdserverpb::{
    auth_client::AuthClient, kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
    watch_client::WatchClient,
};

/// The largest answer that is taken, in bytes. etcd's own limit for what one request writes is 1.5 MiB.
const MAX_ANSWER: usize = 64 << 20;
/// How long a connection with calls under way may be silent before the other side is asked for a sign of life. etcd closes
/// connections on which that comes more often than every 5 s.
const PING_AFTER: Duration = Duration::from_secs(6);
/// How long the sign may take.
const PING_WITHIN: Duration = Duration::from_secs(3);

/// The endpoints.
pub(super) struct Lines(Vec<Slot>);

struct Slot {
    name: String,
    endpoint: Endpoint,
    channel: Mutex<Option<Channel>>,
}

/// One of them, and the token that goes with what is asked.
#[derive(Clone)]
pub(super) struct Line {
    index: usize,
    channel: Channel,
    token: Option<Arc<Zeroizing<String>>>,
}

impl Lines {
    pub(super) fn new(options: &Options) -> Result<Self, OptionsError> {
        if options.endpoints.is_empty() {
            return Err(OptionsError::NoEndpoint);
        }
        let addresses: Vec<_> = options.endpoints.iter().map(|text| Address::parse(text)).collect::<Result<_, _>>()?;
        // Read even where no endpoint uses them, so that a mistake shows at once.
        let verifier = if options.ca.is_some() || addresses.iter().any(|address| address.is_tls) {
            Some(verify::Verifier::new(options.ca.as_deref())?)
        } else {
            None
        };
        let identity =
            options.identity.as_ref().map(|(certificate, key)| Identity::from_pem(certificate, key.as_slice()));
        if options.user.is_some() && addresses.iter().any(|address| !address.is_tls) {
            tracing::warn!("user and password go to the registry unencrypted: use endpoints with https://");
        }
        let mut slots = Vec::new();
        for Address { is_tls, host, uri, name } in addresses {
            let endpoint = prepared(uri, options.request_timeout);
            let endpoint = match &verifier {
                Some(verifier) if is_tls => {
                    let mut tls = ClientTlsConfig::new().domain_name(host);
                    if let Some(identity) = &identity {
                        tls = tls.identity(identity.clone());
                    }
                    let with = endpoint.tls_config_with_verifier(tls, verifier.clone());
                    with.map_err(|error| tls_error(&error, &name))?
                }
                _ => endpoint,
            };
            slots.push(Slot { name, endpoint, channel: Mutex::new(None) });
        }
        Ok(Self(slots))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn name(&self, index: usize) -> &str {
        self.0.get(index).map_or("nowhere", |slot| &slot.name)
    }

    /// The connection of an endpoint, which is made when something is asked over it.
    pub(super) fn line(&self, index: usize, token: Option<Arc<Zeroizing<String>>>) -> Result<Line, Status> {
        let slot = self.0.get(index).ok_or_else(|| Status::unavailable("no such endpoint"))?;
        let channel = lock(&slot.channel).get_or_insert_with(|| slot.endpoint.connect_lazy()).clone();
        Ok(Line { index, channel, token })
    }

    /// What is asked next goes over a new connection. Watches that are under way keep theirs.
    pub(super) fn renew(&self, index: usize) {
        if let Some(slot) = self.0.get(index) {
            lock(&slot.channel).take();
        }
    }
}

fn prepared(uri: Uri, timeout: Duration) -> Endpoint {
    Endpoint::from(uri)
        .connect_timeout(timeout)
        .http2_keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_WITHIN)
        // Without a call under way etcd wants no signs of life at all.
        .keep_alive_while_idle(false)
        .tcp_nodelay(true)
}

/// What is wrong with the certificate or the key, or with the name in an endpoint.
fn tls_error(error: &dyn std::error::Error, name: &str) -> OptionsError {
    let mut innermost = error;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    let cause = innermost.to_string();
    if cause.contains("dns name") { OptionsError::Endpoint(name.to_owned()) } else { OptionsError::Identity(cause) }
}

impl Line {
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// A request with the token.
    pub(super) fn ask<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let mut token: MetadataValue<_> =
                token.parse().map_err(|_| Status::unauthenticated("the registry's token is no text"))?;
            token.set_sensitive(true);
            request.metadata_mut().insert("token", token);
        }
        Ok(request)
    }

    pub(super) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(super) fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(super) fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    pub(super) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    pub(super) fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel.clone())
    }
}
