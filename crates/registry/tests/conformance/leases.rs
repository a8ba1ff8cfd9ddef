//! Leases.

use std::time::{Duration, Instant};

use registry::api::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest, WatchCreateRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    told::{Told, cases},
    watches::Stream,
};

cases![granting, revoking, time_to_live, keeping_alive, keys_change_their_lease, expiry, list];

async fn grant(told: &mut Told, id: i64, ttl: i64) {
    let answer = told.lease.lease_grant(LeaseGrantRequest { ttl, id }).await;
    told.hear(answer);
}

async fn left(told: &mut Told, id: i64, keys: bool) {
    let answer = told.lease.lease_time_to_live(LeaseTimeToLiveRequest { id, keys }).await.map(|mut answer| {
        // A second may pass between granting and asking.
        let left = &mut answer.get_mut().ttl;
        *left = (*left + 1) / 10 * 10;
        // etcd has them in no order.
        answer.get_mut().keys.sort();
        answer
    });
    told.hear(answer);
}

async fn put(told: &mut Told, name: &str, lease: i64) {
    let put = PutRequest { key: told.key(name), value: b"1".to_vec(), lease, ..PutRequest::default() };
    told.kv.put(put).await.unwrap();
}

async fn show(told: &mut Told) {
    let answer =
        told.kv.range(RangeRequest { key: told.key(""), range_end: told.end(), ..RangeRequest::default() }).await;
    told.hear(answer);
}

async fn granting(told: &mut Told) {
    for (id, ttl) in [
        (0x3000, 60),
        (0x3000, 60),
        (0x3001, 0),
        (0x3002, -5),
        (0x3003, 1),
        (0x3004, 9_000_000_001),
        (0x3005, 9_000_000_000),
    ] {
        grant(told, id, ttl).await;
    }
    let chosen = told.lease.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap().into_inner();
    told.say(format!("{} {}", chosen.id > 0, chosen.ttl));
}

async fn revoking(told: &mut Told) {
    grant(told, 0x3100, 60).await;
    for name in ["b", "c", "a"] {
        put(told, name, 0x3100).await;
    }
    put(told, "d", 0).await;
    for _ in 0..2 {
        let answer = told.lease.lease_revoke(LeaseRevokeRequest { id: 0x3100 }).await;
        told.hear(answer);
        show(told).await;
    }
    grant(told, 0x3101, 60).await;
    let answer = told.lease.lease_revoke(LeaseRevokeRequest { id: 0x3101 }).await;
    told.hear(answer);
}

async fn time_to_live(told: &mut Told) {
    grant(told, 0x3200, 60).await;
    left(told, 0x3200, true).await;
    for name in ["b", "a"] {
        put(told, name, 0x3200).await;
    }
    left(told, 0x3200, true).await;
    left(told, 0x3200, false).await;
    left(told, 0x3201, true).await;
}

async fn keeping_alive(told: &mut Told) {
    grant(told, 0x3300, 60).await;
    let (requests, stream) = mpsc::channel(4);
    requests.send(LeaseKeepAliveRequest { id: 0x3300 }).await.unwrap();
    let mut answers = told.lease.lease_keep_alive(ReceiverStream::new(stream)).await.unwrap().into_inner();
    for id in [0x3301, 0x3300] {
        let answer = answers.message().await.unwrap().unwrap();
        told.tell(answer);
        requests.send(LeaseKeepAliveRequest { id }).await.unwrap();
    }
    let answer = answers.message().await.unwrap().unwrap();
    told.tell(answer);
}

async fn keys_change_their_lease(told: &mut Told) {
    for id in [0x3400, 0x3401] {
        grant(told, id, 60).await;
    }
    for name in ["a", "b", "c"] {
        put(told, name, 0x3400).await;
    }
    put(told, "a", 0x3401).await;
    put(told, "b", 0).await;
    left(told, 0x3400, true).await;
    left(told, 0x3401, true).await;
    told.lease.lease_revoke(LeaseRevokeRequest { id: 0x3400 }).await.unwrap();
    show(told).await;
    told.lease.lease_revoke(LeaseRevokeRequest { id: 0x3401 }).await.unwrap();
    show(told).await;
}

async fn expiry(told: &mut Told) {
    let mut stream = Stream::open(told);
    let all =
        WatchCreateRequest { key: told.key(""), range_end: told.end(), prev_kv: true, ..WatchCreateRequest::default() };
    stream.create(told, all).await;
    grant(told, 0x3500, 1).await;
    let granted = Instant::now();
    for name in ["b", "a"] {
        put(told, name, 0x3500).await;
    }
    let mut events = Vec::new();
    while events.len() < 4 {
        events.extend(stream.next().await.events);
    }
    let after = granted.elapsed();
    assert!(after >= Duration::from_millis(900) && after < Duration::from_secs(5), "after {after:?}");
    for event in events {
        told.tell(event);
    }
    left(told, 0x3500, true).await;
    show(told).await;
}

async fn list(told: &mut Told) {
    for id in [0x3600, 0x3601, 0x3602] {
        grant(told, id, 600).await;
    }
    told.lease.lease_revoke(LeaseRevokeRequest { id: 0x3601 }).await.unwrap();
    let answer = told.lease.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner();
    let mut ids: Vec<i64> = answer.leases.iter().map(|lease| lease.id).filter(|id| id >> 8 == 0x36).collect();
    ids.sort_unstable();
    told.say(format!("{ids:x?}"));
}
