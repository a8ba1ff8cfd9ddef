//! Joining a network: the service on the authority's host, and the call of a host that wants in.
//!
//! | step | who | what |
//! |---|---|---|
//! | 1 | host | calls an endpoint of its token by TLS 1.3, and goes on only if the certificate is the one that the token pins |
//! | 2 | host | *Look*: which network is it? Its addresses may be in use here, in which case nothing has happened yet |
//! | 3 | host | *Join*: token, name, public keys, and a signature that shows that it has the private one |
//! | 4 | authority | consumes the token and certifies the node, in one step of the ledger |
//! | 5 | authority | answers with certificate, the network's secret, where the registry is, and a credential for it |
//!
//! The same node that asks again with the same token gets the same certificate: its answer may have been lost. Whoever guesses tokens is
//! slowed down by address.

mod call;
mod service;
mod tls;

pub use call::{EnrolError, Joined, Look, join, look};
pub use service::Enroller;
pub use tls::{MadeTls, PinError, make_tls, pin};

/// What a host signs with its record key, so that nobody can join with keys that are not his.
fn signed_part(token_id: &[u8], token_secret: &[u8], name: &str, record_key: &[u8], sealed_key: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
    let mut all = Vec::with_capacity(256);
    for part in [token_id, token_secret, name.as_bytes(), record_key, sealed_key] {
        all.extend(length(part));
        all.extend(part);
    }
    all
}
