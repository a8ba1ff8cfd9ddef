//! TLS, strangers, and services beside etcd's.

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::{CertificateParams, KeyPair};
use registry::{
    api::enrolment::{
        JoinReply, JoinRequest, LookReply, LookRequest,
        enrolment_client::EnrolmentClient,
        enrolment_server::{Enrolment, EnrolmentServer},
    },
    server::{Tls, serve},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Channel, ClientTlsConfig},
};

use crate::{
    host::{Client, Host, Nodes, Open, authenticate, run},
    watching::{Watch, all},
};

/// A certificate for 127.0.0.1 in PEM, and a TLS side that has it.
fn certificate() -> (String, Tls) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), Tls::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap())
}

#[test]
fn clients_of_etcd_come_by_tls_with_user_and_password() {
    let (pem, tls) = certificate();
    let host = Host::start(Arc::new(Nodes::default()), Some(tls), |routes| routes);
    let ca = host.directory.path().join("ca.pem");
    std::fs::write(&ca, &pem).unwrap();
    for scheme in ["https://", ""] {
        for (line, expected) in [
            ("put /net/a node-1", "OK\n"),
            ("get /net/a --print-value-only", "node-1\n"),
            ("endpoint status", ", 3.4."),
            ("member list", "https://127.0.0.1:"),
        ] {
            let done = Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args([
                    "--endpoints",
                    &format!("{scheme}{}", host.at),
                    "--cacert",
                    ca.to_str().unwrap(),
                    "--user",
                    "node-1:pw",
                ])
                .args(line.split(' '))
                .output()
                .unwrap();
            let out = String::from_utf8_lossy(&done.stdout);
            assert!(out.contains(expected), "{scheme} {line}: {out} {}", String::from_utf8_lossy(&done.stderr));
        }
    }
    run(async {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&pem));
        let channel = Channel::from_shared(format!("https://{}", host.at)).unwrap().tls_config(tls).unwrap();
        let channel = channel.connect().await.unwrap();
        let token = authenticate(&channel, "node-1", "pw").await.unwrap();
        let client = Client::with(channel, Some(token));
        let mut watch = Watch::of(&client, all("/net/")).await;
        client.put("/net/b", "node-1").await.unwrap();
        assert_eq!(watch.next().await.events.len(), 1);
        let other = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificate().0));
        let channel = Channel::from_shared(format!("https://{}", host.at)).unwrap().tls_config(other).unwrap();
        assert!(channel.connect().await.is_err(), "the certificate is not one that was asked for");
    });
}

#[test]
fn a_key_that_does_not_fit_is_refused() {
    let (pem, _) = certificate();
    let other = KeyPair::generate().unwrap().serialize_pem();
    assert!(Tls::from_pem(pem.as_bytes(), other.as_bytes()).is_err());
    assert!(Tls::from_pem(pem.as_bytes(), b"none").is_err());
    assert!(Tls::from_pem(b"none", other.as_bytes()).is_err());
}

/// Tells whoever asks where they come from.
struct Mirror;

#[tonic::async_trait]
impl Enrolment for Mirror {
    async fn look(&self, _: Request<LookRequest>) -> Result<Response<LookReply>, Status> {
        Ok(Response::new(LookReply::default()))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let seen = request.remote_addr().map(|at| at.to_string()).unwrap_or_default();
        Ok(Response::new(JoinReply { seen, ..JoinReply::default() }))
    }
}

#[test]
fn a_service_beside_etcds_sees_who_asks_and_needs_no_store() {
    let (pem, tls) = certificate();
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let extra = |routes: tonic::service::Routes| routes.add_service(EnrolmentServer::new(Mirror));
        let serving = tokio::spawn(serve(listener, Some(tls), None, Arc::new(Open), extra, stop.clone()));
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&pem));
        let channel =
            Channel::from_shared(format!("https://{at}")).unwrap().tls_config(tls).unwrap().connect().await.unwrap();
        let reply = EnrolmentClient::new(channel.clone()).join(JoinRequest::default()).await.unwrap().into_inner();
        assert!(reply.seen.starts_with("127.0.0.1:"), "{}", reply.seen);
        let none = Client::with(channel, None).put("/a", "1").await.unwrap_err();
        assert_eq!(none.code(), tonic::Code::Unimplemented);
        stop.cancel();
        serving.await.unwrap().unwrap();
    });
}

#[test]
fn a_stranger_who_does_not_finish_its_handshake_is_put_out() {
    let (_, tls) = certificate();
    let host = Host::start(Arc::new(Open), Some(tls), |routes| routes);
    run(async {
        let begin = Instant::now();
        let mut silent = TcpStream::connect(host.at).await.unwrap();
        silent.write_all(&[0x16, 3, 1]).await.unwrap();
        let mut rest = Vec::new();
        let _ = silent.read_to_end(&mut rest).await;
        let after = begin.elapsed();
        assert!(after > Duration::from_secs(4) && after < Duration::from_secs(8), "{after:?}");
    });
}

#[test]
fn a_crowd_of_strangers_does_not_keep_a_member_out() {
    let host = Host::open();
    run(async {
        let client = host.client().await;
        client.put("/a", "1").await.unwrap();
        let mut crowd = Vec::new();
        for _ in 0..300 {
            let mut stranger = TcpStream::connect(host.at).await.unwrap();
            let _ = stranger.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / nonsense").await;
            crowd.push(stranger);
        }
        client.put("/a", "2").await.unwrap();
        host.client().await.put("/a", "3").await.unwrap();
    });
}

#[test]
fn a_server_that_stops_ends_its_watches_and_lets_go_of_its_file() {
    let host = Host::open();
    let client = run(async {
        let client = host.client().await;
        client.put("/a", "1").await.unwrap();
        client
    });
    drop(client);
    let begin = Instant::now();
    let host = host.again(Arc::new(Open));
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    run(async {
        let client = host.client().await;
        let mut watch = Watch::of(&client, all("/")).await;
        let stopping = std::thread::spawn(move || drop(host));
        let status = watch.answers.message().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
        stopping.join().unwrap();
    });
}
