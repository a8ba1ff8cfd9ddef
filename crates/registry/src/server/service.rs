//! The calls that have one answer: keys, leases but for keeping them alive, and what a client asks about the registry itself.

use std::sync::Arc;

use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    doors::{Doors, Visit},
    policy::Mandate,
    refusal::Refusal,
    sessions::{Member, Sessions},
    store::{Answer, Command, Store},
    txn,
};
use crate::api::etcdserverpb::{
    AuthenticateRequest, AuthenticateResponse, CompactionRequest, CompactionResponse, DeleteRangeRequest,
    DeleteRangeResponse, Member as Node, MemberListRequest, MemberListResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, ResponseHeader, StatusRequest, StatusResponse, TxnRequest, TxnResponse, auth_server::Auth,
    cluster_server::Cluster, kv_server::Kv, maintenance_server::Maintenance,
};

/// Bytes of one request (etcd's `--max-request-bytes`).
pub(super) const REQUEST: usize = 1536 * 1024;

/// The same of anybody but `root`, since requests wait in memory: a node writes a record or two at once.
const REQUEST_OF_NODE: usize = 128 * 1024;

/// What clients are told to expect: etcd's API as of this version, by us.
const VERSION: &str = concat!("3.4.0+adit.", env!("CARGO_PKG_VERSION"));

/// There is one member and never an election.
const TERM: u64 = 1;

/// The registry as its clients see it.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) store: Arc<Store>,
    pub(super) stop: CancellationToken,
    /// Whether clients come by TLS.
    pub(super) tls: bool,
}

impl Service {
    /// The header of an answer as of a revision.
    pub(super) fn header(&self, revision: i64) -> ResponseHeader {
        let (cluster_id, member_id) = self.store.ids();
        ResponseHeader { cluster_id, member_id, revision, raft_term: TERM }
    }

    /// The header of an answer that knows its revision at most.
    fn completed(&self, header: Option<ResponseHeader>) -> Option<ResponseHeader> {
        let revision = header.map_or(0, |header| header.revision);
        Some(self.header(if revision == 0 { self.store.revision() } else { revision }))
    }

    pub(super) fn now(&self) -> Option<ResponseHeader> {
        self.completed(None)
    }
}

/// What was asked for, by whom.
pub(super) fn open<T>(request: Request<T>) -> Result<(T, Mandate), Status> {
    let mandate = Member::of(&request)?.mandate;
    Ok((request.into_inner(), mandate))
}

fn check_size(request: &impl Message, by: &Mandate) -> Result<(), Refusal> {
    let limit = if by.who.is_root() { REQUEST } else { REQUEST_OF_NODE };
    if request.encoded_len() > limit { Err(Refusal::TooLarge) } else { Ok(()) }
}

/// The thread that writes answers each command in its kind.
pub(super) fn mismatch() -> Status {
    Status::internal("registry: another command was answered")
}

#[tonic::async_trait]
impl Kv for Service {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let (range, by) = open(request)?;
        txn::check_range(&range)?;
        by.may_read(&range.key, &range.range_end)?;
        let mut answer = self.store.range(range).await?;
        answer.header = self.completed(answer.header);
        Ok(Response::new(answer))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let (put, by) = open(request)?;
        txn::check_put(&put)?;
        check_size(&put, &by)?;
        if put.prev_kv {
            by.may_read(&put.key, &[])?;
        }
        let Answer::Put(mut answer) = self.store.write(Command::Put(put), by).await? else { return Err(mismatch()) };
        answer.header = self.completed(answer.header);
        Ok(Response::new(answer))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let (delete, by) = open(request)?;
        txn::check_delete(&delete)?;
        if delete.prev_kv {
            by.may_read(&delete.key, &delete.range_end)?;
        }
        let Answer::Delete(mut answer) = self.store.write(Command::Delete(delete), by).await? else {
            return Err(mismatch());
        };
        answer.header = self.completed(answer.header);
        Ok(Response::new(answer))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let (txn, by) = open(request)?;
        txn::check(&txn)?;
        check_size(&txn, &by)?;
        txn::may_read(&txn, &by)?;
        let mut answer = if txn::writes(&txn) {
            let Answer::Txn(answer) = self.store.write(Command::Txn(txn), by).await? else { return Err(mismatch()) };
            answer
        } else {
            self.store.read_txn(txn).await?
        };
        answer.header = self.completed(answer.header);
        Ok(Response::new(answer))
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        let (compaction, by) = open(request)?;
        self.store.write(Command::Compact(compaction.revision), by).await?;
        Ok(Response::new(CompactionResponse { header: self.now() }))
    }
}

#[tonic::async_trait]
impl Maintenance for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let (_, member) = self.store.ids();
        let index = self.store.revision().cast_unsigned();
        Ok(Response::new(StatusResponse {
            header: self.now(),
            version: VERSION.into(),
            db_size: self.store.size(),
            db_size_in_use: self.store.size(),
            leader: member,
            raft_index: index,
            raft_applied_index: index,
            raft_term: TERM,
            errors: Vec::new(),
            is_learner: false,
        }))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        let scheme = if self.tls { "https" } else { "http" };
        // Where this client reaches us, whatever addresses there are besides.
        let client_ur_ls = request.local_addr().map(|at| format!("{scheme}://{at}")).into_iter().collect();
        let (_, id) = self.store.ids();
        let member = Node { id, name: "adit".into(), client_ur_ls, ..Node::default() };
        Ok(Response::new(MemberListResponse { header: self.now(), members: vec![member] }))
    }
}

/// Names and passwords for tokens: the one call that strangers are let in to.
pub(super) struct Entrance {
    pub(super) service: Service,
    pub(super) sessions: Arc<Sessions>,
    pub(super) doors: Arc<Doors>,
}

#[tonic::async_trait]
impl Auth for Entrance {
    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let visit = Visit::of(&request);
        let AuthenticateRequest { name, password } = request.into_inner();
        if name.is_empty() {
            return Err(Refusal::UserEmpty.into());
        }
        let (token, who) = self.sessions.authenticate(name, password).await?;
        if let Some(visit) = visit {
            self.doors.trust(&visit, &who);
        }
        Ok(Response::new(AuthenticateResponse { header: self.service.now(), token }))
    }
}
