//! The calls about leases.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    refusal::Refusal,
    service::{Service, mismatch, open},
    sessions::Member,
    store::{Answer, Command},
};
use crate::api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, lease_server::Lease,
};

/// Answers that wait for a client to take them.
const ANSWERS: usize = 16;

#[tonic::async_trait]
impl Lease for Service {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let (grant, by) = open(request)?;
        let Answer::Granted(id, ttl) = self.store.write(Command::Grant(grant), by).await? else {
            return Err(mismatch());
        };
        Ok(Response::new(LeaseGrantResponse { header: self.now(), id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let (revoke, by) = open(request)?;
        self.store.write(Command::Revoke(revoke.id), by).await?;
        Ok(Response::new(LeaseRevokeResponse { header: self.now() }))
    }

    type LeaseKeepAliveStream = ReceiverStream<Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let member = Member::of(&request)?;
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(ANSWERS);
        let service = self.clone();
        tokio::spawn(async move {
            let ended = member.ended();
            let serve = async {
                while let Ok(Some(request)) = requests.message().await {
                    let answer = service.keep_alive(request.id, &member);
                    let refused = answer.is_err();
                    if answers.send(answer).await.is_err() || refused {
                        return None;
                    }
                }
                None
            };
            let last = tokio::select! {
                last = serve => last,
                () = ended.cancelled() => Some(Refusal::InvalidToken),
                () = service.stop.cancelled() => Some(Refusal::Stopped),
            };
            if let Some(refusal) = last {
                let _ = answers.try_send(Err(refusal.into()));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let (asked, by) = open(request)?;
        let mut answer =
            LeaseTimeToLiveResponse { header: self.now(), id: asked.id, ttl: -1, ..LeaseTimeToLiveResponse::default() };
        if let Some(left) = self.store.left(asked.id) {
            (answer.ttl, answer.granted_ttl) = (left.left, left.granted);
            if asked.keys {
                answer.keys = self.store.keys_of(asked.id).await?;
                answer.keys.iter().try_for_each(|key| by.may_read(key, &[]))?;
            }
        }
        Ok(Response::new(answer))
    }

    async fn lease_leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        let leases = self.store.leases().into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: self.now(), leases }))
    }
}

impl Service {
    /// A lease that is over, or never was, has 0 seconds: etcd's way to say so.
    fn keep_alive(&self, id: i64, member: &Member) -> Result<LeaseKeepAliveResponse, Status> {
        let who = &member.mandate.who;
        if !who.is_root() && self.store.owner(id).is_some_and(|owner| owner != who.0) {
            return Err(Refusal::Denied("the lease is somebody else's".into()).into());
        }
        let ttl = self.store.keep_alive(id).unwrap_or(0);
        Ok(LeaseKeepAliveResponse { header: self.now(), id, ttl })
    }
}
