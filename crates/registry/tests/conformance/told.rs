//! What a case is told, so that it is the same on every server that behaves the same.

use std::{fmt::Debug, future::Future, pin::Pin};

use registry::api::{
    etcdserverpb::{
        CompactionResponse, DeleteRangeResponse, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse,
        LeaseRevokeResponse, LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
        ResponseHeader, TxnResponse, WatchResponse, kv_client::KvClient, lease_client::LeaseClient,
        maintenance_client::MaintenanceClient, response_op, watch_client::WatchClient,
    },
    mvccpb::{Event, KeyValue},
};
use tonic::{Response, Status, metadata::MetadataValue, service::Interceptor, transport::Channel};

pub(crate) type Case = for<'a> fn(&'a mut Told) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Names and functions of cases.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(crate) const CASES: &[(&str, $crate::told::Case)] = &[$((stringify!($name), |told| Box::pin($name(told)))),*];
    };
}
pub(crate) use cases;

/// Sends a token with each request, if there is one.
#[derive(Clone, Default)]
pub(crate) struct WithToken(pub(crate) Option<String>);

impl Interceptor for WithToken {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", MetadataValue::try_from(token.as_str()).unwrap());
        }
        Ok(request)
    }
}

type Service = tonic::service::interceptor::InterceptedService<Channel, WithToken>;

pub(crate) struct Told {
    pub(crate) endpoint: String,
    pub(crate) channel: Channel,
    pub(crate) kv: KvClient<Service>,
    pub(crate) watch: WatchClient<Service>,
    pub(crate) lease: LeaseClient<Service>,
    pub(crate) maintenance: MaintenanceClient<Service>,
    /// Where the case's own keys begin.
    pub(crate) prefix: String,
    /// The revision at which it began.
    pub(crate) base: i64,
    pub(crate) lines: Vec<String>,
}

impl Told {
    pub(crate) async fn new(name: &str, endpoint: &str) -> Self {
        let channel = Channel::from_shared(endpoint.to_owned()).unwrap().connect().await.unwrap();
        let mut told = Self::over(endpoint, channel, WithToken::default());
        told.prefix = format!("/{name}/");
        // Refused where there is authentication: such cases know no revisions.
        if let Ok(answer) = told.kv.range(RangeRequest { key: b"/".to_vec(), ..RangeRequest::default() }).await {
            told.base = answer.into_inner().header.unwrap().revision;
        }
        told
    }

    fn over(endpoint: &str, channel: Channel, token: WithToken) -> Self {
        let with = |token: &WithToken| Service::new(channel.clone(), token.clone());
        Self {
            endpoint: endpoint.into(),
            kv: KvClient::new(with(&token)),
            watch: WatchClient::new(with(&token)),
            lease: LeaseClient::new(with(&token)),
            maintenance: MaintenanceClient::new(with(&token)),
            channel,
            prefix: String::new(),
            base: 0,
            lines: Vec::new(),
        }
    }

    /// Sends this token from now on.
    pub(crate) fn use_token(&mut self, token: &str) {
        let token = WithToken(Some(token.into()));
        let other = Self::over(&self.endpoint, self.channel.clone(), token);
        (self.kv, self.watch, self.lease, self.maintenance) = (other.kv, other.watch, other.lease, other.maintenance);
    }

    pub(crate) fn key(&self, name: &str) -> Vec<u8> {
        format!("{}{name}", self.prefix).into_bytes()
    }

    /// The end of all of the case's keys.
    pub(crate) fn end(&self) -> Vec<u8> {
        let mut end = self.prefix.clone().into_bytes();
        *end.last_mut().unwrap() += 1;
        end
    }

    pub(crate) fn say(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// Writes down an answer or a refusal.
    pub(crate) fn hear<T: Relative + Debug + Clone>(&mut self, answer: Result<Response<T>, Status>) -> Option<T> {
        match answer {
            Ok(answer) => {
                let answer = answer.into_inner();
                self.tell(answer.clone());
                Some(answer)
            }
            Err(status) => {
                self.say(format!("{:?}: {}", status.code(), status.message()));
                None
            }
        }
    }

    pub(crate) fn tell<T: Relative + Debug>(&mut self, mut answer: T) {
        answer.relative(self.base);
        self.say(format!("{answer:?}"));
    }

    /// Puts a value, and writes nothing down.
    pub(crate) async fn set(&mut self, name: &str, value: &str) -> i64 {
        let put = PutRequest { key: self.key(name), value: value.into(), ..PutRequest::default() };
        self.kv.put(put).await.unwrap().into_inner().header.unwrap().revision
    }
}

/// What has revisions, which are told from where the case began.
pub(crate) trait Relative {
    fn relative(&mut self, base: i64);
}

impl<T: Relative> Relative for Option<T> {
    fn relative(&mut self, base: i64) {
        if let Some(inner) = self {
            inner.relative(base);
        }
    }
}

impl<T: Relative> Relative for Vec<T> {
    fn relative(&mut self, base: i64) {
        self.iter_mut().for_each(|inner| inner.relative(base));
    }
}

/// A revision, where 0 stands for none.
fn shift(revision: &mut i64, base: i64) {
    if *revision != 0 {
        *revision -= base;
    }
}

impl Relative for ResponseHeader {
    fn relative(&mut self, base: i64) {
        shift(&mut self.revision, base);
        for id in [&mut self.cluster_id, &mut self.member_id, &mut self.raft_term] {
            *id = (*id).min(1);
        }
    }
}

impl Relative for KeyValue {
    fn relative(&mut self, base: i64) {
        shift(&mut self.create_revision, base);
        shift(&mut self.mod_revision, base);
    }
}

impl Relative for Event {
    fn relative(&mut self, base: i64) {
        self.kv.relative(base);
        self.prev_kv.relative(base);
    }
}

impl Relative for TxnResponse {
    fn relative(&mut self, base: i64) {
        self.header.relative(base);
        for part in &mut self.responses {
            match part.response.as_mut().unwrap() {
                response_op::Response::ResponseRange(inner) => inner.relative(base),
                response_op::Response::ResponsePut(inner) => inner.relative(base),
                response_op::Response::ResponseDeleteRange(inner) => inner.relative(base),
                response_op::Response::ResponseTxn(inner) => inner.relative(base),
            }
        }
    }
}

impl Relative for WatchResponse {
    fn relative(&mut self, base: i64) {
        self.header.relative(base);
        self.events.relative(base);
        shift(&mut self.compact_revision, base);
    }
}

macro_rules! relative {
    ($($name:ty: $($field:ident)*;)*) => { $(impl Relative for $name {
        fn relative(&mut self, base: i64) {
            $(self.$field.relative(base);)*
        }
    })* };
}
relative! {
    RangeResponse: header kvs;
    PutResponse: header prev_kv;
    DeleteRangeResponse: header prev_kvs;
    CompactionResponse: header;
    LeaseGrantResponse: header;
    LeaseRevokeResponse: header;
    LeaseKeepAliveResponse: header;
    LeaseTimeToLiveResponse: header;
    LeaseLeasesResponse: header;
}
