//! The side that wants in.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::signed_part;
use super::tls::Pinned;
use crate::api::enrolment::enrolment_client::EnrolmentClient;
use crate::api::enrolment::{JoinReply, JoinRequest, LookRequest};
use crate::schema::{NetworkConfig, Prefix};
use crate::trust::{Certificate, Epoch, NodeKeys, Token, TrustError, label};

/// How long one endpoint has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a call is made again that may have arrived.
const TRIES: usize = 3;

/// Why a host did not get in: one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// None of the token's endpoints answered.
    #[error("nobody lets us in at {places}: {reason}; check that the daemon runs there and that TCP reaches it")]
    Unreachable {
        /// All of them.
        places: String,
        /// What happened at the last one.
        reason: String,
    },
    /// Somebody else is there.
    #[error("who answers at {0} is not who made the token: the token is old, or somebody stands in between")]
    Impostor(String),
    /// The authority's word.
    #[error("{0}")]
    Refused(String),
    /// What came back makes no sense.
    #[error("the answer cannot be used: {0}")]
    Answer(String),
}

impl From<TrustError> for EnrolError {
    fn from(error: TrustError) -> Self {
        Self::Answer(error.to_string())
    }
}

/// Which network a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Its configuration.
    pub network: NetworkConfig,
}

/// What a host gets that is let in.
pub struct Joined {
    /// Who it is.
    pub certificate: Certificate,
    /// The network's secret.
    pub epoch: Epoch,
    /// URLs of the registry; none if it is where the enroller is.
    pub registry: Vec<String>,
    /// By whom its certificates are signed (PEM); empty for the system's authorities.
    pub registry_ca: Vec<u8>,
    /// Who we are to the registry; empty for nobody.
    pub user: String,
    /// The password that goes with that.
    pub password: Zeroizing<String>,
    /// The prefix of the registry's keys.
    pub prefix: String,
    /// The network's configuration.
    pub network: NetworkConfig,
    /// The same, as it is in the registry.
    pub network_json: Vec<u8>,
    /// The address that the enroller saw us from.
    pub seen: IpAddr,
    /// The address that let us in.
    pub enroller: SocketAddr,
}

/// Asks which network a token is for. The token is not used up.
///
/// # Errors
/// Nobody answers, or the token is not good.
pub async fn look(token: &Token) -> Result<Look, EnrolError> {
    let (_, reply) = ask(token, async |mut client| {
        let (token_id, token_secret) = (token.id.to_vec(), token.secret.to_vec());
        client.look(LookRequest { token_id, token_secret }).await
    })
    .await?;
    Ok(Look { network: network(&reply.network)? })
}

/// Joins with a token, as `name`.
///
/// # Errors
/// Nobody answers, or the authority refuses.
pub async fn join(token: &Token, name: &str, keys: &NodeKeys) -> Result<Joined, EnrolError> {
    let (record_key, sealed_key) = (keys.record_public(), keys.sealed_public());
    let signed = signed_part(&token.id, token.secret.as_ref(), name, &record_key, &sealed_key);
    let signature = keys.sign(label::JOIN, &signed).to_vec();
    let (enroller, reply) = ask(token, async |mut client| {
        let request = JoinRequest {
            token_id: token.id.to_vec(),
            token_secret: token.secret.to_vec(),
            name: name.to_owned(),
            record_key: record_key.to_vec(),
            sealed_key: sealed_key.to_vec(),
            signature: signature.clone(),
        };
        client.join(request).await
    })
    .await?;
    joined(reply, enroller, name, keys)
}

fn joined(reply: JoinReply, enroller: SocketAddr, name: &str, keys: &NodeKeys) -> Result<Joined, EnrolError> {
    let JoinReply { certificate, epoch, secret, registry, registry_ca, user, password, prefix, network: json, seen } =
        reply;
    let (secret, password) = (Zeroizing::new(secret), Zeroizing::new(password));
    let certificate = Certificate::open_own(&certificate, keys)?;
    if certificate.name != name {
        return Err(EnrolError::Answer(format!("the certificate is for {}", certificate.name)));
    }
    let secret: [u8; 32] =
        secret.as_slice().try_into().map_err(|_| EnrolError::Answer("the secret has another length".into()))?;
    Prefix::new(&prefix).map_err(|fault| EnrolError::Answer(format!("the prefix {prefix:?} {fault}")))?;
    let seen = seen.parse().map_err(|_| EnrolError::Answer("it does not say where we were seen".into()))?;
    Ok(Joined {
        certificate,
        epoch: Epoch { number: epoch, secret: Zeroizing::new(secret) },
        registry,
        registry_ca,
        user,
        password,
        prefix,
        network: network(&json)?,
        network_json: json,
        seen,
        enroller,
    })
}

fn network(json: &[u8]) -> Result<NetworkConfig, EnrolError> {
    NetworkConfig::parse(json).map_err(|e| EnrolError::Answer(format!("the network's configuration: {e}")))
}

/// Makes a call at the token's endpoints in turn, again where it may have arrived and its answer was lost. Answers who answered.
async fn ask<T>(
    token: &Token,
    call: impl AsyncFn(EnrolmentClient<Channel>) -> Result<tonic::Response<T>, Status>,
) -> Result<(SocketAddr, T), EnrolError> {
    let mut reason = "its name has no address".to_owned();
    let mut impostor = None;
    for place in &token.endpoints {
        let addresses: Vec<SocketAddr> = match tokio::net::lookup_host(place.as_str()).await {
            Ok(addresses) => addresses.collect(),
            Err(e) => {
                reason = e.to_string();
                continue;
            }
        };
        for address in addresses {
            for _ in 0..TRIES {
                match once(token, address, &call).await {
                    Ok(answer) => return Ok((address, answer)),
                    // A private address may be another host's where we are: the next one may be right.
                    Err(Failed::Impostor) => {
                        impostor = Some(EnrolError::Impostor(address.to_string()));
                        break;
                    }
                    Err(Failed::Refused(sentence)) => return Err(EnrolError::Refused(sentence)),
                    Err(Failed::Unreached(why)) => {
                        reason = why.replace("deadline has elapsed", "no answer within 10 s");
                        break;
                    }
                    Err(Failed::Lost(why)) => reason = why,
                }
            }
        }
    }
    Err(impostor.unwrap_or_else(|| EnrolError::Unreachable { places: token.endpoints.join(", "), reason }))
}

enum Failed {
    Impostor,
    Refused(String),
    Unreached(String),
    Lost(String),
}

async fn once<T>(
    token: &Token,
    address: SocketAddr,
    call: &impl AsyncFn(EnrolmentClient<Channel>) -> Result<tonic::Response<T>, Status>,
) -> Result<T, Failed> {
    let unreached = |e: &dyn std::error::Error| Failed::Unreached(innermost(e));
    let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(|e| unreached(&e))?;
    let tls = ClientTlsConfig::new().domain_name("adit");
    let endpoint = endpoint
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE)
        .tls_config_with_verifier(tls, Pinned::new(token.pin))
        .map_err(|e| unreached(&e))?;
    // The limit of the endpoint itself is for TCP alone, and who answers there may never say a word of TLS.
    let connected = tokio::time::timeout(PATIENCE, endpoint.connect()).await;
    let channel = connected.map_err(|_| Failed::Unreached("there was no answer in time".to_owned()))?.map_err(|e| {
        let cause = innermost(&e);
        if cause.contains("ApplicationVerificationFailure") { Failed::Impostor } else { Failed::Unreached(cause) }
    })?;
    match call(EnrolmentClient::new(channel)).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) => Err(match status.code() {
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => {
                Failed::Lost(status.message().to_owned())
            }
            Code::Unimplemented => {
                Failed::Refused("nobody is let in there: it is not the host where `adit init` ran".into())
            }
            _ => Failed::Refused(status.message().to_owned()),
        }),
    }
}

/// The cause of causes.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    innermost.to_string()
}
