//! Joining over the real wire: TLS, the service, the ledger.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod trust_bed;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use registry::api::mvccpb::KeyValue;
use registry::enrol::{EnrolError, Enroller, Joined, join, look, make_tls};
use registry::schema::{NetworkConfig, Prefix};
use registry::server::{Policy, Principal, Tls, Write, serve};
use registry::trust::{Certificate, Ledger, NodeKeys, Token};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use trust_bed::{authority, keys};

const HOUR: Duration = Duration::from_secs(3600);
const CONFIG: &str = r#"{"Network":"10.42.0.0/16","SubnetLen":24,"Backend":{"Type":"adit"}}"#;

/// Nobody asks the registry here.
struct Closed;

impl Policy for Closed {
    fn authenticate(&self, _: &str, _: &str) -> Option<Principal> {
        None
    }

    fn permit(&self, _: &Principal, _: &Write<'_>, _: Option<&KeyValue>) -> Result<(), String> {
        Err("closed".into())
    }

    fn may_read(&self, _: &Principal, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn still_valid(&self, _: &Principal) -> bool {
        false
    }
}

/// An authority's host.
struct Host {
    directory: tempfile::TempDir,
    ledger: Arc<Ledger>,
    address: SocketAddr,
    pin: [u8; 32],
    _stop: DropGuard,
}

async fn host() -> Host {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::create(&directory.path().join("authority"), authority()).unwrap());
    let made = make_tls(&["127.0.0.1:7780".to_owned()]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let network = NetworkConfig::parse(CONFIG.as_bytes()).unwrap();
    let enroller = Enroller::new(Arc::clone(&ledger), Prefix::default(), Vec::new(), made.certificate.clone(), network);
    let tls = Tls::from_pem(&made.certificate, &made.key).unwrap();
    let stop = CancellationToken::new();
    let until = stop.clone();
    tokio::spawn(async move {
        serve(listener, Some(tls), None, Arc::new(Closed), |routes| routes.add_service(enroller.service()), until)
            .await
            .unwrap();
    });
    Host { directory, ledger, address, pin: made.pin, _stop: stop.drop_guard() }
}

impl Host {
    fn token_at(&self, endpoints: Vec<String>, uses: u32) -> Token {
        self.ledger.create_token(endpoints, self.pin, HOUR, uses, SystemTime::now()).unwrap()
    }

    fn token(&self, uses: u32) -> Token {
        self.token_at(vec![self.address.to_string()], uses)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("authority")
    }
}

fn sentence(outcome: Result<Joined, EnrolError>) -> String {
    outcome.err().expect("was let in").to_string()
}

#[tokio::test]
async fn a_node_joins_and_is_told_everything() {
    let host = host().await;
    let token = host.token(1).to_string().parse::<Token>().unwrap();
    assert_eq!(look(&token).await.unwrap().network, NetworkConfig::parse(CONFIG.as_bytes()).unwrap());
    let keys = NodeKeys::generate().unwrap();
    let joined = join(&token, "paris", &keys).await.unwrap();
    assert_eq!(joined.certificate, Certificate::open(&joined.certificate.encode(), &authority().anchor()).unwrap());
    assert_eq!((joined.certificate.name.as_str(), joined.certificate.serial), ("paris", 1));
    joined.certificate.check_keys(&keys).unwrap();
    assert_eq!(joined.epoch, host.ledger.epoch().unwrap());
    assert_eq!((joined.user.as_str(), joined.prefix.as_str()), ("node-1", "/coreos.com/network"));
    assert!(host.ledger.has_password("node-1", &joined.password).unwrap());
    assert_eq!(joined.network_json, joined.network.to_json());
    assert_eq!((joined.seen, joined.enroller), (host.address.ip(), host.address));
    assert!(joined.registry.is_empty() && !joined.registry_ca.is_empty());
    // The answer is given again; to another node it is not.
    let again = join(&token, "paris", &keys).await.unwrap();
    assert_eq!(again.certificate, joined.certificate);
    let stolen = sentence(join(&token, "mallory", &NodeKeys::generate().unwrap()).await);
    assert_eq!(stolen, "the token was already used by paris: ask for another with `adit token create`");
    assert!(look(&token).await.is_err());
}

#[tokio::test]
async fn what_the_ledger_refuses_is_said_as_it_says_it() {
    let host = host().await;
    let many = host.token(5);
    join(&many, "paris", &keys(1)).await.unwrap();
    assert!(sentence(join(&many, "paris", &keys(2)).await).contains("already a node called paris"));
    assert!(sentence(join(&many, "rome", &keys(1)).await).contains("already joined as paris"));
    assert!(sentence(join(&many, "no name", &keys(3)).await).contains("1 to 63 letters"));
    let late = host
        .ledger
        .create_token(vec![host.address.to_string()], host.pin, Duration::ZERO, 1, SystemTime::now())
        .unwrap();
    assert!(sentence(join(&late, "rome", &keys(3)).await).contains("has expired"));
    host.ledger.revoke_token(&many.id_text()).unwrap();
    assert!(sentence(join(&many, "rome", &keys(3)).await).contains("was revoked"));
    // Books that cannot be read: the host's log says why, the asker is not told where they are.
    std::fs::write(host.path().join("ledger.json"), "{").unwrap();
    let said = sentence(join(&host.token_without_books(), "rome", &keys(3)).await);
    assert!(said.contains("see its log") && !said.contains("ledger.json"), "{said}");
}

impl Host {
    fn token_without_books(&self) -> Token {
        Token::generate(vec![self.address.to_string()], self.pin).unwrap()
    }
}

#[tokio::test]
async fn t4_guessing_gets_nowhere_and_slow() {
    let host = host().await;
    let token = host.token(1);
    let mut limited = false;
    for number in 0..40u8 {
        let guess = Token { secret: zeroize::Zeroizing::new([number; 32]), ..token.clone() };
        let said = sentence(join(&guess, "mallory", &keys(9)).await);
        limited |= said.contains("too many wrong tokens");
        assert!(limited || said.contains("not known here"), "{said}");
    }
    assert!(limited);
    assert!(host.ledger.members().unwrap().is_empty());
}

#[tokio::test]
async fn t4_who_has_another_certificate_is_told_nothing() {
    let (host, impostor) = (host().await, host().await);
    let token = host.token_at(vec![impostor.address.to_string()], 1);
    let said = sentence(join(&token, "paris", &keys(1)).await);
    assert!(said.contains("is not who made the token"), "{said}");
    assert!(matches!(look(&token).await, Err(EnrolError::Impostor(_))));
    // Another endpoint of the token is the right one.
    let token = host.token_at(vec![impostor.address.to_string(), host.address.to_string()], 1);
    assert_eq!(join(&token, "paris", &keys(1)).await.unwrap().enroller, host.address);
    assert!(impostor.ledger.members().unwrap().is_empty());
}

#[tokio::test]
async fn endpoints_are_tried_in_turn() {
    let host = host().await;
    // Nobody listens there any more.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let token = host.token_at(vec![dead.to_string(), host.address.to_string()], 1);
    join(&token, "paris", &keys(1)).await.unwrap();
    let token = host.token_at(vec![dead.to_string(), "does-not-exist.invalid:1".into()], 1);
    let said = sentence(join(&token, "rome", &keys(2)).await);
    assert!(said.contains(&dead.to_string()) && said.contains("TCP reaches it"), "{said}");
}

#[tokio::test]
async fn t4_tls_before_1_3_is_not_spoken() {
    use rustls::pki_types::pem::PemObject;
    let made = make_tls(&["127.0.0.1:1".to_owned()]).unwrap();
    let chain = vec![rustls::pki_types::CertificateDer::from_pem_slice(&made.certificate).unwrap()];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&made.key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.accept(stream).await.map(|_| ())
    });
    let token = Token::generate(vec![address.to_string()], made.pin).unwrap();
    assert!(join(&token, "paris", &keys(1)).await.is_err());
    assert!(server.await.unwrap().is_err(), "the handshake was completed");
}
