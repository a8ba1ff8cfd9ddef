//! Whether who answers is the registry that was meant.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::OptionsError;

/// Where systems keep the certificates of authorities.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Accepts exactly the certificates it was given, whatever the name and time; or one that an authority among them signed, by the
/// usual rules. Either way the registry has to show that it has the key.
pub(super) struct Verifier {
    exact: Vec<CertificateDer<'static>>,
    signed: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(super) fn new(pem: Option<&[u8]>) -> Result<Arc<Self>, OptionsError> {
        let (exact, given) = match pem {
            Some(pem) => (certificates(pem).map_err(OptionsError::Ca)?, true),
            None => (system(), false),
        };
        if exact.is_empty() {
            return Err(if given { OptionsError::Ca("there is none".to_owned()) } else { OptionsError::NoRoots });
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(exact.iter().cloned());
        let signed = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Some(builder.build().map_err(|error| OptionsError::Ca(error.to_string()))?)
        };
        // The system's authorities are no registries.
        let exact = if given { exact } else { Vec::new() };
        Ok(Arc::new(Self { exact, signed, provider }))
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn system() -> Vec<CertificateDer<'static>> {
    let read = |path: &&str| std::fs::read(path).ok().and_then(|pem| certificates(&pem).ok());
    SYSTEM.iter().filter_map(read).find(|certificates| !certificates.is_empty()).unwrap_or_default()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.exact.iter().any(|certificate| certificate == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.signed {
            Some(signed) => signed.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
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

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Verifier").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate() {
        let error = |pem: &str| Verifier::new(Some(pem.as_bytes())).unwrap_err();
        assert_eq!(error(""), OptionsError::Ca("there is none".into()));
        assert!(matches!(error("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), OptionsError::Ca(_)));
    }

    #[test]
    fn only_the_given_certificate_is_accepted_whatever_its_name() {
        let made = || rcgen::generate_simple_self_signed(["registry".to_owned()]).unwrap();
        let (ours, other) = (made(), made());
        let verifier = Verifier::new(Some(ours.cert.pem().as_bytes())).unwrap();
        let judge = |certificate: &rcgen::Certificate, name: &'static str| {
            verifier.verify_server_cert(
                certificate.der(),
                &[],
                &ServerName::try_from(name).unwrap(),
                &[],
                UnixTime::now(),
            )
        };
        for name in ["registry", "192.0.2.7", "other.example"] {
            assert!(judge(&ours.cert, name).is_ok(), "{name}");
            assert!(judge(&other.cert, name).is_err(), "{name}");
        }
    }
}
