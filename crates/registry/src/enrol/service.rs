//! The side that lets in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::signed_part;
use crate::api::enrolment::enrolment_server::{Enrolment, EnrolmentServer};
use crate::api::enrolment::{JoinReply, JoinRequest, LookReply, LookRequest};
use crate::schema::{NetworkConfig, Prefix};
use crate::trust::{Ask, Ledger, LedgerError, label};

/// Wrong tokens from one address that are looked at at once; then one each [`PAUSE`].
const BURST: u32 = 10;
const PAUSE: Duration = Duration::from_secs(6);

/// Addresses that are kept in mind.
const MAX_SOURCES: usize = 4096;

/// The largest request, in bytes.
const MAX_REQUEST: usize = 4096;

/// Lets nodes in, by the authority's ledger.
#[derive(Clone)]
pub struct Enroller(Arc<Inner>);

struct Inner {
    ledger: Arc<Ledger>,
    prefix: Prefix,
    registry: Vec<String>,
    ca: Vec<u8>,
    network: NetworkConfig,
    guesses: Mutex<Guesses>,
}

impl Enroller {
    /// For the network of a ledger. `registry` are the URLs of the registry, none if it is where the enroller is; `ca` is by whom its
    /// certificates are signed (PEM), empty for the system's authorities.
    #[must_use]
    pub fn new(
        ledger: Arc<Ledger>,
        prefix: Prefix,
        registry: Vec<String>,
        ca: Vec<u8>,
        network: NetworkConfig,
    ) -> Self {
        let guesses = Mutex::default();
        Self(Arc::new(Inner { ledger, prefix, registry, ca, network, guesses }))
    }

    /// The service, to be served beside others.
    #[must_use]
    pub fn service(self) -> EnrolmentServer<Self> {
        EnrolmentServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// Does what needs the ledger's files away from the threads that serve. Who comes with wrong tokens too often waits.
    async fn with_ledger<T: Send + 'static>(
        &self,
        from: Option<IpAddr>,
        work: impl FnOnce(&Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, Status> {
        let source = from.map(source);
        if let Some(source) = source
            && !self.guesses(|guesses| guesses.may_try(source, Instant::now()))
        {
            return Err(Status::resource_exhausted(
                "too many wrong tokens came from this address: try again in a minute",
            ));
        }
        let ledger = Arc::clone(&self.0.ledger);
        let outcome = tokio::task::spawn_blocking(move || work(&ledger)).await;
        match outcome.map_err(|_| Status::internal("the ledger's task ended"))? {
            Ok(done) => Ok(done),
            Err(error) => {
                if let (Some(source), LedgerError::UnknownToken) = (source, &error) {
                    self.guesses(|guesses| guesses.note(source, Instant::now()));
                }
                Err(status(&error))
            }
        }
    }

    fn guesses<T>(&self, look: impl FnOnce(&mut Guesses) -> T) -> T {
        look(&mut self.0.guesses.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[tonic::async_trait]
impl Enrolment for Enroller {
    async fn look(&self, request: Request<LookRequest>) -> Result<Response<LookReply>, Status> {
        let from = request.remote_addr().map(|address| address.ip().to_canonical());
        let LookRequest { token_id, token_secret } = request.into_inner();
        let (id, secret) = (array::<8>(&token_id)?, Zeroizing::new(array::<32>(&token_secret)?));
        self.with_ledger(from, move |ledger| ledger.look(&id, &secret, SystemTime::now())).await?;
        Ok(Response::new(LookReply { network: self.0.network.to_json() }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let from = request.remote_addr().map(|address| address.ip().to_canonical());
        let JoinRequest { token_id, token_secret, name, record_key, sealed_key, signature } = request.into_inner();
        let token_secret = Zeroizing::new(token_secret);
        let (id, secret) = (array::<8>(&token_id)?, Zeroizing::new(array::<32>(&token_secret)?));
        let (record_key, sealed_key) = (array::<32>(&record_key)?, array::<32>(&sealed_key)?);
        if !crate::trust::is_name(&name) {
            return Err(Status::invalid_argument(
                "the name is none: it must have 1 to 63 letters, digits, '-', '_' or '.'",
            ));
        }
        let signed = signed_part(&id, secret.as_ref(), &name, &record_key, &sealed_key);
        let words = [label::JOIN, &signed].concat();
        UnparsedPublicKey::new(&ED25519, record_key)
            .verify(&words, &signature)
            .map_err(|_| Status::invalid_argument("the signature is not by the record key"))?;
        let admitted = self
            .with_ledger(from, move |ledger| {
                let ask = Ask {
                    token_id: &id,
                    token_secret: &secret,
                    name: &name,
                    record_key: &record_key,
                    sealed_key: &sealed_key,
                };
                ledger.admit(&ask, SystemTime::now())
            })
            .await?;
        let certificate = &admitted.certificate;
        tracing::info!("{} is a node now, number {}", certificate.name, certificate.serial);
        Ok(Response::new(JoinReply {
            certificate: certificate.encode(),
            epoch: admitted.epoch.number,
            secret: admitted.epoch.secret.to_vec(),
            registry: self.0.registry.clone(),
            registry_ca: self.0.ca.clone(),
            user: admitted.credential.user.clone(),
            password: admitted.credential.password.to_string(),
            prefix: self.0.prefix.to_string(),
            network: self.0.network.to_json(),
            seen: from.map(|address| address.to_string()).unwrap_or_default(),
        }))
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Status> {
    bytes.try_into().map_err(|_| Status::invalid_argument("a field has another length"))
}

fn status(error: &LedgerError) -> Status {
    let sentence = error.to_string();
    match error {
        LedgerError::UnknownToken
        | LedgerError::ExpiredToken
        | LedgerError::RevokedToken
        | LedgerError::UsedToken(_) => Status::permission_denied(sentence),
        LedgerError::NameTaken(_)
        | LedgerError::KeyTaken(_)
        | LedgerError::AlreadyJoined(_)
        | LedgerError::Removed(_) => Status::already_exists(sentence),
        LedgerError::Full => Status::resource_exhausted(sentence),
        _ => {
            tracing::error!("a node cannot be let in: {sentence}");
            Status::internal("the authority's host cannot let anybody in: see its log")
        }
    }
}

/// One customer's network: an IPv4 address, or the upper half of an IPv6 address.
fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
    }
}

/// Who came with wrong tokens.
#[derive(Default)]
struct Guesses(HashMap<IpAddr, (u32, Instant)>);

impl Guesses {
    fn may_try(&mut self, source: IpAddr, now: Instant) -> bool {
        self.forgive(source, now);
        self.0.get(&source).is_none_or(|(count, _)| *count < BURST)
    }

    fn note(&mut self, source: IpAddr, now: Instant) {
        if self.0.len() >= MAX_SOURCES {
            // Room is made by those who have waited; if there are none, by all of them.
            self.0.retain(|_, (count, at)| now.saturating_duration_since(*at) < PAUSE * *count);
            if self.0.len() >= MAX_SOURCES {
                self.0.clear();
            }
        }
        self.0.entry(source).or_insert((0, now)).0 += 1;
    }

    /// One try is forgiven each [`PAUSE`].
    fn forgive(&mut self, source: IpAddr, now: Instant) {
        let Some((count, at)) = self.0.get_mut(&source) else { return };
        let pauses = now.saturating_duration_since(*at).as_secs() / PAUSE.as_secs();
        if pauses > 0 {
            *count = count.saturating_sub(u32::try_from(pauses).unwrap_or(u32::MAX));
            *at = now;
        }
        if *count == 0 {
            self.0.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_gets_slow_for_who_guesses() {
        let (mut guesses, start) = (Guesses::default(), Instant::now());
        let [one, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        for _ in 0..BURST {
            assert!(guesses.may_try(one, start));
            guesses.note(one, start);
        }
        assert!(!guesses.may_try(one, start) && guesses.may_try(other, start));
        assert!(guesses.may_try(one, start + PAUSE));
        guesses.note(one, start + PAUSE);
        assert!(!guesses.may_try(one, start + PAUSE));
        assert!(guesses.may_try(one, start + PAUSE * (BURST + 2)) && guesses.0.is_empty());
    }

    #[test]
    fn addresses_that_are_kept_in_mind_are_bounded() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        for number in 0..20_000u32 {
            guesses.note(IpAddr::from(number.to_be_bytes()), now);
            assert!(guesses.0.len() <= MAX_SOURCES);
        }
        let half = source("2001:db8::7".parse().unwrap());
        assert_eq!(half, source("2001:db8::1:0:0:9".parse().unwrap()));
    }
}
