//! The client against etcd: what it asks, whom, and what it says when that goes wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support_etcd;

use std::time::Duration;

use registry::client::{Client, ClientError, Options, OptionsError, Update, Watcher};
use support_etcd::proxy::{Hole, Mode, Proxy};
use support_etcd::{Etcd, Tls, client, free_address, options};
use tokio::time::Instant;
use zeroize::Zeroizing;

const DEADLINE: Duration = Duration::from_millis(1500);

fn impatient(endpoints: &[String]) -> Client {
    Client::new(Options { request_timeout: DEADLINE, ..options(endpoints) }).unwrap()
}

#[tokio::test]
async fn entries_leases_and_revisions() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    assert_eq!(client.get("/a").await, Ok(None));
    client.put("/a", b"1", 0).await.unwrap();
    client.put("/a", b"2", 0).await.unwrap();
    let entry = client.get("/a").await.unwrap().unwrap();
    assert_eq!((entry.value.as_slice(), entry.version, entry.lease), (b"2".as_slice(), 2, 0));
    assert_eq!(entry.mod_revision, entry.create_revision + 1);
    assert_eq!(client.delete("/a").await, Ok(true));
    assert_eq!(client.delete("/a").await, Ok(false));

    let (lease, ttl) = client.grant(600).await.unwrap();
    assert_eq!(ttl, 600);
    client.put("/b", b"", lease).await.unwrap();
    assert_eq!(client.get("/b").await.unwrap().unwrap().lease, lease);
    assert_eq!(client.keep_alive_once(lease).await, Ok(600));
    assert!((590..=600).contains(&client.time_to_live(lease).await.unwrap()));
    client.revoke(lease).await.unwrap();
    assert_eq!(client.get("/b").await, Ok(None));
    for gone in [
        client.revoke(lease).await.err(),
        client.keep_alive_once(lease).await.err(),
        client.time_to_live(lease).await.err(),
    ] {
        assert_eq!(gone, Some(ClientError::NoLease));
    }

    let revision = client.list("/").await.unwrap().revision;
    client.compact(revision).await.unwrap();
    assert_eq!(client.compact(revision).await, Err(ClientError::Compacted));
    assert!(client.status().await.unwrap().version.starts_with("3.4"));
}

#[tokio::test]
async fn a_listing_is_whole_and_of_its_prefix_only() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    for other in ["/net", "/net0", "/net.d/x", "/ne/t"] {
        client.put(other, b"other", 0).await.unwrap();
    }
    assert_eq!(client.list("/net/").await.unwrap().entries, []);
    let count = 2345;
    for number in 0..count {
        client.put(&format!("/net/{number:05}"), b"x", 0).await.unwrap();
    }
    let listing = client.list("/net/").await.unwrap();
    assert_eq!(listing.entries.len(), count);
    assert!(listing.entries.is_sorted_by(|one, other| one.key < other.key));
    assert_eq!(listing.revision, listing.entries.last().unwrap().mod_revision);
}

#[tokio::test]
async fn large_entries_are_listed_in_small_pages() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let large = vec![7; 1 << 20];
    for number in 0..70 {
        client.put(&format!("/net/{number}"), &large, 0).await.unwrap();
    }
    let client =
        Client::new(Options { request_timeout: Duration::from_secs(30), ..options(&etcd.endpoints()) }).unwrap();
    assert_eq!(client.list("/net/").await.unwrap().entries.len(), 70);
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_costs_one_request_one_deadline() {
    let etcd = Etcd::single().await;
    etcd.client().put("/a", b"1", 0).await.unwrap();
    let stalls = Proxy::new(etcd.members[0].client, Mode::Stall).await;
    let swallows = Proxy::new(etcd.members[0].client, Mode::Swallow).await;
    let (hole, nobody) = (Hole::new(), format!("http://{}", free_address()));
    for bad in [stalls.endpoint(), swallows.endpoint(), hole.endpoint(), nobody] {
        // Whichever is asked first, at random.
        let client = impatient(&[bad.clone(), etcd.endpoint(0)]);
        let start = Instant::now();
        for _ in 0..20 {
            assert!(client.get("/a").await.unwrap().is_some());
        }
        assert!(start.elapsed() < DEADLINE * 2, "{bad}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn when_nobody_answers_the_error_names_each_and_why() {
    let (hole, nobody) = (Hole::new(), format!("http://{}", free_address()));
    let client = impatient(&[hole.endpoint(), nobody.clone()]);
    let start = Instant::now();
    let error = client.list("/").await.unwrap_err();
    assert!(start.elapsed() < DEADLINE * 3);
    let text = error.to_string();
    assert!(matches!(error, ClientError::Unreachable(failures) if failures.len() == 2));
    for part in [&hole.endpoint(), "no answer within 1.5 s", &nobody, "Connection refused", "see that it runs"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let plain = Proxy::new(free_address(), Mode::Refuse).await;
    assert!(impatient(&[plain.endpoint()]).get("/a").await.is_err());
}

#[tokio::test]
async fn a_member_that_is_killed_and_one_that_freezes_are_passed_over() {
    let mut etcd = Etcd::cluster().await;
    let client = impatient(&etcd.endpoints());
    client.put("/a", b"1", 0).await.unwrap();
    for index in 0..3 {
        etcd.members[index].freeze();
        let deadline = Instant::now() + Duration::from_secs(20);
        while client.put("/a", b"2", 0).await.is_err() {
            assert!(Instant::now() < deadline, "two of three members are a cluster");
        }
        etcd.members[index].thaw();
        etcd.ready().await;
        etcd.members[index].kill();
        while client.put("/a", b"3", 0).await.is_err() {
            assert!(Instant::now() < deadline, "two of three members are a cluster");
        }
        etcd.members[index].start();
        etcd.ready().await;
    }
}

/// The leader dies when another member has just come back: what is written and told just then takes little longer than the election.
#[tokio::test]
async fn a_leaders_death_holds_nothing_up_for_long() {
    let mut etcd = Etcd::cluster().await;
    let new = |etcd: &Etcd| {
        Client::new(Options { request_timeout: Duration::from_secs(3), ..options(&etcd.endpoints()) }).unwrap()
    };
    for round in 0..3 {
        etcd.ready().await;
        let mut watchers: Vec<_> =
            (0..6).map(|_| Watcher::new(new(&etcd), "/a".to_owned(), Duration::from_secs(60))).collect();
        for watcher in &mut watchers {
            assert!(matches!(watcher.next().await, Update::Listing(_)));
        }
        let client = new(&etcd);
        let other = (etcd.leader().await + 1) % 3;
        etcd.members[other].kill();
        client.put("/other", b"1", 0).await.unwrap();
        etcd.members[other].start();
        etcd.members[other].ready().await;
        let leader = etcd.leader().await;
        etcd.members[leader].kill();
        let start = Instant::now();
        let key = format!("/a{round}");
        while client.put(&key, b"2", 0).await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(20));
        }
        let written = start.elapsed();
        for watcher in &mut watchers {
            let mut is_told = false;
            while !is_told {
                is_told = match watcher.next().await {
                    Update::Listing(listing) => listing.entries.iter().any(|entry| entry.key == key),
                    Update::Events { events, .. } => events.iter().any(|event| event.key() == key),
                    Update::Lost { .. } | Update::Back => false,
                };
            }
        }
        println!("written after {written:?}, told after {:?}", start.elapsed());
        assert!(start.elapsed() < written + Duration::from_secs(3), "written after {written:?}");
        etcd.members[leader].start();
    }
}

struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// A certificate for a name or address, and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(rcgen::DnType::CommonName, "me");
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn with_ca(etcd: &Etcd, ca: &str) -> Options {
    Options { ca: Some(ca.into()), request_timeout: Duration::from_secs(10), ..options(&etcd.endpoints()) }
}

#[tokio::test]
async fn tls_by_an_authority_and_by_nothing_less() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("127.0.0.1");
    let etcd = Etcd::tls(Tls { certificate, key, client_ca: None }).await;
    let good = Client::new(with_ca(&etcd, &authority.pem)).unwrap();
    good.put("/a", b"1", 0).await.unwrap();

    let other = Client::new(with_ca(&etcd, &Authority::new().pem)).unwrap();
    let text = other.get("/a").await.unwrap_err().to_string();
    assert!(text.contains("certificate") && text.contains("tls-ca"), "{text}");

    let name = etcd.endpoint(0).replace("127.0.0.1", "localhost");
    let named = Client::new(Options { endpoints: vec![name], ..with_ca(&etcd, &authority.pem) }).unwrap();
    let text = named.get("/a").await.unwrap_err().to_string();
    assert!(text.contains("certificate"), "a certificate for another name: {text}");

    let plain = etcd.endpoint(0).replace("https", "http");
    let text = client(&[plain]).get("/a").await.unwrap_err().to_string();
    assert!(text.contains("which endpoints speak TLS"), "{text}");
}

#[tokio::test]
async fn a_registry_that_does_not_speak_tls_is_told_by_its_answer() {
    let etcd = Etcd::single().await;
    let endpoints = vec![etcd.endpoint(0).replace("http", "https")];
    let client = Client::new(Options { endpoints, ..with_ca(&etcd, &Authority::new().pem) }).unwrap();
    let text = client.get("/a").await.unwrap_err().to_string();
    assert!(text.contains("which endpoints speak TLS"), "{text}");
}

#[tokio::test]
async fn what_is_no_registry_at_all_is_an_error_that_says_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answers = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let text = client(std::slice::from_ref(&endpoint)).get("/a").await.unwrap_err().to_string();
    assert!(text.contains(&endpoint) && text.contains("which endpoints speak TLS"), "{text}");
    answers.abort();
}

#[tokio::test]
async fn a_registry_is_recognised_by_its_own_certificate_under_any_name() {
    let own = rcgen::generate_simple_self_signed(["registry".to_owned()]).unwrap();
    let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let etcd = Etcd::tls(Tls { certificate: certificate.clone(), key, client_ca: None }).await;
    for name in ["127.0.0.1", "localhost"] {
        let endpoints = vec![etcd.endpoint(0).replace("127.0.0.1", name)];
        let pinned = Client::new(Options { endpoints, ..with_ca(&etcd, &certificate) }).unwrap();
        pinned.put("/a", b"1", 0).await.unwrap();
    }
    // The same name and another key.
    let other = rcgen::generate_simple_self_signed(["registry".to_owned()]).unwrap();
    let text = Client::new(with_ca(&etcd, &other.cert.pem())).unwrap().get("/a").await.unwrap_err().to_string();
    assert!(text.contains("certificate"), "{text}");
}

#[tokio::test]
async fn our_own_certificate_where_etcd_asks_for_one() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("127.0.0.1");
    let etcd = Etcd::tls(Tls { certificate, key, client_ca: Some(authority.pem.clone()) }).await;
    assert!(Client::new(with_ca(&etcd, &authority.pem)).unwrap().get("/a").await.is_err());
    let (certificate, key) = authority.sign("me");
    let identity = Some((certificate.into_bytes(), Zeroizing::new(key.into_bytes())));
    let known = Client::new(Options { identity, ..with_ca(&etcd, &authority.pem) }).unwrap();
    known.put("/a", b"1", 0).await.unwrap();
}

#[tokio::test]
async fn certificates_are_no_hindrance_where_endpoints_do_not_use_them() {
    let etcd = Etcd::single().await;
    let authority = Authority::new();
    let (certificate, key) = authority.sign("me");
    let identity = Some((certificate.into_bytes(), Zeroizing::new(key.into_bytes())));
    let client = Client::new(Options { identity, ..with_ca(&etcd, &authority.pem) }).unwrap();
    client.put("/a", b"1", 0).await.unwrap();
}

#[test]
fn options_that_cannot_be() {
    let error = |options| Client::new(options).err().unwrap();
    assert_eq!(error(Options::default()), OptionsError::NoEndpoint);
    let https = options(&["https://192.0.2.1:2379".to_owned()]);
    assert!(matches!(error(Options { ca: Some(b"junk".into()), ..https.clone() }), OptionsError::Ca(_)));
    let ca = Some(Authority::new().pem.into_bytes());
    let identity = Some((b"junk".to_vec(), Zeroizing::new(b"junk".to_vec())));
    assert!(matches!(error(Options { ca, identity, ..https }), OptionsError::Identity(_)));
}

fn user(etcd: &Etcd, name: &str, password: &str) -> Client {
    let user = Some((name.to_owned(), Zeroizing::new(password.to_owned())));
    Client::new(Options { user, request_timeout: Duration::from_secs(10), ..options(&etcd.endpoints()) }).unwrap()
}

#[tokio::test]
async fn user_and_password() {
    let mut etcd = Etcd::single().await;
    let early = user(&etcd, "node", "s3cret-word");
    early.put("/net/early", b"1", 0).await.expect("a registry without users asks for none");

    for args in [
        "user add root:r00t",
        "user grant-role root root",
        "role add nodes",
        "role grant-permission nodes --prefix=true readwrite /net/",
        "user add node:s3cret-word",
        "user grant-role node nodes",
        "auth enable",
    ] {
        etcd.ctl(&args.split(' ').collect::<Vec<_>>());
    }
    early.put("/net/a", b"1", 0).await.expect("and asks for it when it has them");
    let node = user(&etcd, "node", "s3cret-word");
    node.put("/net/a", b"2", 0).await.unwrap();
    assert_eq!(node.list("/net/").await.unwrap().entries.len(), 2);
    let denied = node.put("/other", b"", 0).await.unwrap_err();
    assert!(matches!(denied, ClientError::Denied { .. }), "{denied}");

    let wrong = user(&etcd, "node", "wr0ng-word").get("/net/a").await.unwrap_err();
    assert!(matches!(wrong, ClientError::Unauthenticated { .. }), "{wrong}");
    assert!(wrong.to_string().contains("refuses the user \"node\""));
    assert!(!format!("{wrong} {wrong:?}").contains("wr0ng"));
    let nobody = etcd.client().get("/net/a").await.unwrap_err();
    assert!(nobody.to_string().contains("asks for a user"), "{nobody}");

    // A member that starts anew knows no tokens.
    etcd.members[0].stop();
    etcd.members[0].start();
    etcd_answers(&node).await;
    node.put("/net/a", b"3", 0).await.unwrap();
}

async fn etcd_answers(client: &Client) {
    let deadline = Instant::now() + support_etcd::PATIENCE;
    while client.get("/net/a").await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_watch_with_an_old_token_gets_a_new_one() {
    let mut etcd = Etcd::single().await;
    for args in ["user add root:r00t", "user grant-role root root", "auth enable"] {
        etcd.ctl(&args.split(' ').collect::<Vec<_>>());
    }
    let client = user(&etcd, "root", "r00t");
    client.put("/net/a", b"1", 0).await.unwrap();
    etcd.members[0].stop();
    etcd.members[0].start();
    let mut watcher = registry::client::Watcher::new(client.clone(), "/net/".into(), Duration::from_secs(60));
    let mut state = support_etcd::state::State::default();
    state.until(&mut watcher, support_etcd::PATIENCE, |state| state.value("/net/a") == Some("1")).await;
    etcd_answers(&client).await;
    client.put("/net/a", b"2", 0).await.unwrap();
    state.until(&mut watcher, support_etcd::PATIENCE, |state| state.value("/net/a") == Some("2")).await;
}
