//! TLS between a host that joins and the authority's host: a certificate that is its own authority, known by its hash.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use zeroize::Zeroizing;

/// The certificate and key of an authority's host.
pub struct MadeTls {
    /// In PEM.
    pub certificate: Vec<u8>,
    /// In PEM.
    pub key: Zeroizing<Vec<u8>>,
    /// What tokens say of the certificate: SHA-256 of its DER encoding.
    pub pin: [u8; 32],
}

/// Why there is no pin.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Not a certificate in PEM.
    #[error("the registry's certificate cannot be read: {0}")]
    Certificate(String),
    /// It cannot be made.
    #[error("a certificate for the registry cannot be made: {0}")]
    Unmade(String),
}

/// Makes a certificate for these places (`host:port`) and its key. It is good for longer than anybody plans: a network must not die on an
/// anniversary.
///
/// # Errors
/// No randomness, or a name that no certificate can have.
pub fn make_tls(places: &[String]) -> Result<MadeTls, PinError> {
    let fault = |e: rcgen::Error| PinError::Unmade(e.to_string());
    let mut params = CertificateParams::new(Vec::new()).map_err(fault)?;
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "adit registry");
    for place in places {
        let host = place.rsplit_once(':').map_or(place.as_str(), |(host, _)| host).trim_matches(['[', ']']);
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into().map_err(fault)?),
        });
    }
    let key = KeyPair::generate().map_err(fault)?;
    let certificate = params.self_signed(&key).map_err(fault)?;
    Ok(MadeTls {
        pin: hash(certificate.der()),
        certificate: certificate.pem().into_bytes(),
        key: Zeroizing::new(key.serialize_pem().into_bytes()),
    })
}

/// What tokens say of a certificate (PEM).
///
/// # Errors
/// It is none.
pub fn pin(certificate: &[u8]) -> Result<[u8; 32], PinError> {
    let der = CertificateDer::from_pem_slice(certificate).map_err(|e| PinError::Certificate(e.to_string()))?;
    Ok(hash(&der))
}

fn hash(der: &[u8]) -> [u8; 32] {
    crate::trust::sha256(&[der])
}

/// Accepts the one certificate that the token pins, whatever its name and time, in TLS 1.3 only.
pub(super) struct Pinned {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    pub(super) fn new(pin: [u8; 32]) -> Arc<Self> {
        Arc::new(Self { pin, provider: Arc::new(aws_lc_rs::default_provider()) })
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if hash(end_entity) == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedCipherSuite))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pinned").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_certificate_is_accepted_and_no_other() {
        let places = ["192.0.2.1:7780".to_owned(), "[2001:db8::1]:7780".to_owned(), "berlin.example:7780".to_owned()];
        let (ours, other) = (make_tls(&places).unwrap(), make_tls(&places).unwrap());
        assert_eq!(pin(&ours.certificate).unwrap(), ours.pin);
        assert_ne!(ours.pin, other.pin);
        let pinned = Pinned::new(ours.pin);
        let judge = |made: &MadeTls| {
            let der = CertificateDer::from_pem_slice(&made.certificate).unwrap();
            pinned.verify_server_cert(&der, &[], &ServerName::try_from("x").unwrap(), &[], UnixTime::now())
        };
        assert!(judge(&ours).is_ok() && judge(&other).is_err());
        assert!(pin(b"nothing").is_err());
    }
}
