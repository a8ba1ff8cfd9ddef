//! What flannel does wrong with its registry (and what its tests leave out), each as a test that we pass.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support_etcd;

use std::time::Duration;

use registry::client::{Client, Update, Watcher};
use registry::lease::{Change, LeaseError};
use registry::schema::{Key, LeaseValue, Subnets};
use support_etcd::node::{Node, config, flannels_value, keeper, key, prefix, small, subnets};
use support_etcd::proxy::{Mode, Proxy};
use support_etcd::state::State;
use support_etcd::{Etcd, PATIENCE, client};
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(2);

fn watch(client: &Client) -> Watcher {
    Watcher::new(client.clone(), prefix().all(), Duration::from_secs(3600))
}

/// As flannel's udp backend writes it.
async fn flannels_lease(client: &Client, subnets: &str, ip: &str) -> i64 {
    let (lease, _) = client.grant(86_400).await.unwrap();
    client.put(&key(subnets), &flannels_value(ip), lease).await.unwrap();
    lease
}

#[tokio::test]
async fn a_lost_race_is_tried_with_another_subnet_instead_of_being_the_end() {
    let etcd = Etcd::single().await;
    let (one, other) = (etcd.client(), etcd.client());
    // Two subnets for two nodes that always want the same one first.
    let two = config(r#"{"Network":"10.3.0.0/22","SubnetMin":"10.3.2.0"}"#);
    for _ in 0..20 {
        let first = support_etcd::node::keeper_for;
        let mut a = first(&one, &two, &Node::named("a", [192, 0, 2, 1]), support_etcd::node::TTL, &["10.3.2.0-24"]);
        let mut b = first(&other, &two, &Node::named("b", [192, 0, 2, 2]), support_etcd::node::TTL, &["10.3.2.0-24"]);
        let (a_has, b_has) = tokio::join!(a.acquire(), b.acquire());
        assert_ne!(a_has.unwrap().subnets, b_has.unwrap().subnets);
        a.release().await.unwrap();
        b.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_reservation_survives_the_first_start_and_each_after_it() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    client.put(&key("10.3.2.0-24"), &flannels_value("192.0.2.1"), 0).await.unwrap();
    for node in [Node::flannels([192, 0, 2, 1]), Node::named("a", [192, 0, 2, 1])] {
        for _ in 0..2 {
            let mut keeper = keeper(&client, &small(), &node);
            let held = keeper.acquire().await.unwrap();
            assert!(held.reserved && held.subnets == subnets("10.3.2.0-24"));
            assert_eq!(keeper.maintain().await, Change::Nothing);
            assert_eq!(client.get(&key("10.3.2.0-24")).await.unwrap().unwrap().lease, 0);
        }
    }
}

#[tokio::test]
async fn a_value_that_changed_while_nobody_looked_is_told_from_a_listing() {
    let etcd = Etcd::single().await;
    let (proxy, direct) = (Proxy::new(etcd.members[0].client, Mode::Forward).await, etcd.client());
    let stale = flannels_lease(&direct, "10.3.1.0-24", "192.0.2.1").await;
    flannels_lease(&direct, "10.3.2.0-24", "192.0.2.2").await;
    let (mut watcher, mut state) = (watch(&client(&[proxy.endpoint()])), State::default());
    state.until(&mut watcher, SOON, |state| state.entries.len() == 2).await;
    // Away while one node changes its address, another goes, and all history of it is compacted.
    proxy.set(Mode::Refuse);
    state.until(&mut watcher, PATIENCE, |state| state.lost.len() == 1).await;
    direct.revoke(stale).await.unwrap();
    flannels_lease(&direct, "10.3.2.0-24", "198.51.100.2").await;
    let revision = direct.list("/").await.unwrap().revision;
    direct.compact(revision).await.unwrap();
    proxy.set(Mode::Forward);
    state.until(&mut watcher, PATIENCE, |state| state.back == 1).await;
    assert_eq!(state.keys(), [key("10.3.2.0-24")], "who is gone is gone");
    let value = state.value(&key("10.3.2.0-24")).unwrap();
    assert_eq!(LeaseValue::parse(value.as_bytes()).unwrap().public_ip, Some([198, 51, 100, 2].into()));
}

#[tokio::test]
async fn our_own_lease_is_not_lost_by_a_second_listing() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut keeper = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1]));
    let held = keeper.acquire().await.unwrap();
    let mut watcher = Watcher::new(client.clone(), prefix().all(), Duration::from_millis(100));
    let due = keeper.due();
    for _ in 0..5 {
        let update = watcher.next().await;
        assert!(matches!(update, Update::Listing(_) | Update::Back), "{update:?}");
        keeper.observe(&update);
    }
    assert_eq!((keeper.due(), keeper.held()), (due, Some(&held)));
}

#[tokio::test]
async fn junk_under_subnets_empties_nothing_and_hinders_nobody() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    flannels_lease(&client, "10.3.1.0-24", "192.0.2.1").await;
    let (mut watcher, mut state) = (watch(&client), State::default());
    state.until(&mut watcher, SOON, |state| state.entries.len() == 1).await;
    let junk = [
        ("junk", "junk"),
        ("10.3.2.0", "{}"),
        ("10.3.2.0-32", "{}"),
        ("x10.3.2.0-24", "{}"),
        ("10.3.2.0-24&", "{}"),
        ("", "{}"),
        ("10.3.2.0-24/more", "{}"),
        ("../config", "{}"),
    ];
    for (name, value) in junk {
        client.put(&format!("{}{name}", prefix().subnets()), value.as_bytes(), 0).await.unwrap();
    }
    // A good key with a bad value stands for whoever wrote it, and is nobody's peer.
    client.put(&key("10.3.2.0-24"), b"not json", 0).await.unwrap();
    state.until(&mut watcher, SOON, |state| state.entries.len() == junk.len() + 2).await;
    let read = |key: &String| match prefix().read(key) {
        Some(Key::Subnets(subnets)) => Some(subnets),
        _ => None,
    };
    let good: Vec<Subnets> = state.entries.keys().filter_map(read).collect();
    assert_eq!(good, [subnets("10.3.1.0-24"), subnets("10.3.2.0-24")]);
    assert!(LeaseValue::parse(state.value(&key("10.3.1.0-24")).unwrap().as_bytes()).is_ok());
    assert_eq!((state.listings, state.lost.len()), (1, 0));
    let held = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 9])).acquire().await.unwrap();
    assert_eq!(held.subnets, subnets("10.3.3.0-24"));
}

#[tokio::test]
async fn nodes_behind_one_address_get_subnets_of_their_own() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut a = keeper(&client, &small(), &Node::named("a", [10, 0, 2, 15]));
    let mut b = keeper(&client, &small(), &Node::named("b", [10, 0, 2, 15]));
    let (one, other) = (a.acquire().await.unwrap(), b.acquire().await.unwrap());
    assert_ne!(one.subnets, other.subnets);
    assert_eq!((a.maintain().await, b.maintain().await), (Change::Nothing, Change::Nothing));
}

#[tokio::test]
async fn a_node_whose_address_changed_keeps_its_subnet() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let before = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1])).acquire().await.unwrap();
    let after = keeper(&client, &small(), &Node::named("a", [198, 51, 100, 1])).acquire().await.unwrap();
    assert_eq!(before.subnets, after.subnets);
    let entry = client.get(&prefix().subnet(&after.subnets)).await.unwrap().unwrap();
    assert_eq!(LeaseValue::parse(&entry.value).unwrap().public_ip, Some([198, 51, 100, 1].into()));
}

#[tokio::test]
async fn a_lease_of_flannels_is_taken_over_with_its_bytes() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    flannels_lease(&client, "10.3.2.0-24", "192.0.2.1").await;
    let flannel = Node::flannels([192, 0, 2, 1]);
    let held = keeper(&client, &small(), &flannel).acquire().await.unwrap();
    assert_eq!(held.subnets, subnets("10.3.2.0-24"));
    let entry = client.get(&key("10.3.2.0-24")).await.unwrap().unwrap();
    assert_eq!(entry.value, br#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#);
    assert_ne!(entry.lease, 0);
    // And by the same host with a key.
    let named = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1])).acquire().await.unwrap();
    assert_eq!(named.subnets, held.subnets);
}

#[tokio::test]
async fn a_blind_write_of_flannels_is_answered_and_a_lease_that_it_made_anew_fences_us() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let (mut keeper, mut watcher) = (keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1])), watch(&client));
    let held = keeper.acquire().await.unwrap();
    let mut next_change = async || {
        loop {
            tokio::select! {
                update = watcher.next() => keeper.observe(&update),
                () = tokio::time::sleep_until(keeper.due()) => match keeper.maintain().await {
                    Change::Nothing => {}
                    change => return change,
                },
            }
        }
    };
    // flannel renews with a put that asks nothing. While our lease lives the subnet is ours.
    flannels_lease(&client, &held.subnets.to_key(), "192.0.2.7").await;
    let start = Instant::now();
    assert!(matches!(next_change().await, Change::Reclaimed(_)) && start.elapsed() < SOON);
    let entry = client.get(&key(&held.subnets.to_key())).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&entry.value).contains("192.0.2.1"));
    // One that was made where there was none is somebody else's.
    client.delete(&entry.key).await.unwrap();
    flannels_lease(&client, &held.subnets.to_key(), "192.0.2.7").await;
    let start = Instant::now();
    assert!(matches!(next_change().await, Change::Taken { .. }) && start.elapsed() < SOON);
    let next = keeper.acquire().await.unwrap();
    assert_ne!(next.subnets, held.subnets);
}

#[tokio::test]
async fn a_full_network_is_an_error_that_can_be_mended_while_we_run() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut leases = Vec::new();
    for (subnets, ip) in [("10.3.1.0-24", "192.0.2.1"), ("10.3.2.0-24", "192.0.2.2"), ("10.3.3.0-24", "192.0.2.3")] {
        leases.push(flannels_lease(&client, subnets, ip).await);
    }
    let mut keeper = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 9]));
    assert!(matches!(keeper.acquire().await, Err(LeaseError::OutOfSubnets(_))));
    client.revoke(leases[1]).await.unwrap();
    assert_eq!(keeper.acquire().await.unwrap().subnets, subnets("10.3.2.0-24"));
}
