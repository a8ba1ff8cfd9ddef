//! A registry in a thread of its own, and its clients.

use std::{
    collections::BTreeSet,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use registry::{
    api::{
        etcdserverpb::{
            AuthenticateRequest, PutRequest, RangeRequest, RangeResponse, auth_client::AuthClient, kv_client::KvClient,
            lease_client::LeaseClient, watch_client::WatchClient,
        },
        mvccpb::KeyValue,
    },
    server::{Policy, Principal, Store, Tls, Write, lies_under, serve},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, Routes, interceptor::InterceptedService},
    transport::Channel,
};

pub(crate) fn run<T>(asking: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(Duration::from_secs(120), asking).await.expect("it takes too long") })
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, within: Duration, mut so: impl FnMut() -> F) {
    let deadline = Instant::now() + within;
    while !so().await {
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A process that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        use std::os::unix::process::CommandExt;
        let name = command.get_program().to_string_lossy().into_owned();
        Self(command.process_group(0).spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}")))
    }

    /// Ends it as nothing can be caught, with all that it started.
    pub(crate) fn kill(&mut self) {
        let _ = Command::new("kill").args(["-9", "--", &format!("-{}", self.0.id())]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) struct Host {
    pub(crate) at: SocketAddr,
    pub(crate) directory: Arc<TempDir>,
    pub(crate) store: Option<Arc<Store>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Where everybody may everything.
    pub(crate) fn open() -> Self {
        Self::start(Arc::new(Open), None, |routes| routes)
    }

    pub(crate) fn start(
        policy: Arc<dyn Policy>,
        tls: Option<Tls>,
        extra: impl FnOnce(Routes) -> Routes + Send + 'static,
    ) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), policy, tls, extra)
    }

    pub(crate) fn start_in(
        directory: Arc<TempDir>,
        policy: Arc<dyn Policy>,
        tls: Option<Tls>,
        extra: impl FnOnce(Routes) -> Routes + Send + 'static,
    ) -> Self {
        let store = Arc::new(Store::open(file(directory.path()), 4 << 20).unwrap());
        let (bound, at) = std::sync::mpsc::channel();
        let (stop, serving) = (CancellationToken::new(), Arc::clone(&store));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                // Its queue is longer than that of the standard library: many come at once.
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, tls, Some(serving), policy, extra, stopping).await.unwrap();
            });
        });
        let at = at.recv().unwrap();
        Self { at, directory, store: Some(store), stop, thread: Some(thread) }
    }

    /// Stops it and starts it again on the same file.
    pub(crate) fn again(self, policy: Arc<dyn Policy>) -> Self {
        let directory = Arc::clone(&self.directory);
        drop(self);
        Self::start_in(directory, policy, None, |routes| routes)
    }

    pub(crate) async fn client(&self) -> Client {
        Client::to(self.at, None).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        drop(self.store.take());
    }
}

pub(crate) fn file(directory: &Path) -> PathBuf {
    directory.join("registry.redb")
}

#[derive(Clone)]
pub(crate) struct Token(Option<String>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", MetadataValue::try_from(token.as_str()).unwrap());
        }
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Token>;

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) kv: KvClient<Service>,
    pub(crate) lease: LeaseClient<Service>,
    pub(crate) watch: WatchClient<Service>,
}

impl Client {
    pub(crate) async fn to(at: SocketAddr, user: Option<(&str, &str)>) -> Self {
        let channel = Channel::from_shared(format!("http://{at}")).unwrap().connect().await.unwrap();
        let token = match user {
            None => None,
            Some((name, password)) => Some(authenticate(&channel, name, password).await.unwrap()),
        };
        Self::with(channel, token)
    }

    pub(crate) fn with(channel: Channel, token: Option<String>) -> Self {
        let service = || Service::new(channel.clone(), Token(token.clone()));
        Self { kv: KvClient::new(service()), lease: LeaseClient::new(service()), watch: WatchClient::new(service()) }
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> Result<i64, Status> {
        let put = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
        Ok(self.kv.clone().put(put).await?.into_inner().header.unwrap().revision)
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<RangeResponse, Status> {
        let range = RangeRequest { key: prefix.into(), range_end: end(prefix), ..RangeRequest::default() };
        Ok(self.kv.clone().range(range).await?.into_inner())
    }
}

pub(crate) fn end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    end
}

pub(crate) async fn authenticate(channel: &Channel, name: &str, password: &str) -> Result<String, Status> {
    let request = AuthenticateRequest { name: name.into(), password: password.into() };
    Ok(AuthClient::new(channel.clone()).authenticate(request).await?.into_inner().token)
}

/// Everybody may everything.
pub(crate) struct Open;

impl Policy for Open {
    fn authenticate(&self, _: &str, _: &str) -> Option<Principal> {
        None
    }

    fn permit(&self, _: &Principal, _: &Write<'_>, _: Option<&KeyValue>) -> Result<(), String> {
        Ok(())
    }

    fn may_read(&self, _: &Principal, _: &[u8], _: &[u8]) -> bool {
        true
    }

    fn still_valid(&self, _: &Principal) -> bool {
        true
    }

    fn anonymous(&self) -> Option<Principal> {
        Some(Principal::root())
    }
}

/// Root and nodes, all with the password `pw`: a node reads what is under `/net/`, and writes a key under `/net/` that is free, or that holds its name.
#[derive(Default)]
pub(crate) struct Nodes {
    pub(crate) removed: Mutex<BTreeSet<String>>,
}

impl Policy for Nodes {
    fn authenticate(&self, user: &str, password: &str) -> Option<Principal> {
        let known = user == "root" || user.starts_with("node-");
        (known && password == "pw").then(|| Principal(user.into()))
    }

    fn permit(&self, who: &Principal, write: &Write<'_>, present: Option<&KeyValue>) -> Result<(), String> {
        let (Write::Put { key, .. } | Write::Delete { key }) = write;
        if !key.starts_with("/net/") {
            return Err("outside of the network".into());
        }
        match present {
            Some(present) if present.value != who.0.as_bytes() => Err("held by another node".into()),
            _ => Ok(()),
        }
    }

    fn may_read(&self, _: &Principal, key: &[u8], range_end: &[u8]) -> bool {
        lies_under(b"/net/", key, range_end)
    }

    fn still_valid(&self, who: &Principal) -> bool {
        !self.removed.lock().unwrap().contains(&who.0)
    }

    fn farewell(&self, user: &str) -> Option<Vec<u8>> {
        self.removed.lock().unwrap().contains(user).then(|| format!("{user} is out").into_bytes())
    }
}
