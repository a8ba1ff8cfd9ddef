//! The watcher against etcd 3.4: cuts, compaction, outages, and a registry that is set back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support_etcd;

use std::collections::BTreeMap;
use std::time::Duration;

use registry::client::{Client, Options, Watcher};
use support_etcd::proxy::{Mode, Proxy};
use support_etcd::state::State;
use support_etcd::{Etcd, PATIENCE, client, options};
use tokio::time::{Instant, sleep};

/// Longer than any test: what a watcher knows then comes from events alone.
const NEVER: Duration = Duration::from_secs(3600);
/// How soon a change must be known once the registry can be read.
const SOON: Duration = Duration::from_secs(2);

fn watch(client: &Client) -> Watcher {
    Watcher::new(client.clone(), "/net/".into(), NEVER)
}

async fn truth(client: &Client) -> BTreeMap<String, (Vec<u8>, i64)> {
    let listing = client.list("/net/").await.unwrap();
    listing.entries.into_iter().map(|entry| (entry.key, (entry.value, entry.mod_revision))).collect()
}

fn known(state: &State) -> BTreeMap<String, (Vec<u8>, i64)> {
    state.entries.iter().map(|(key, entry)| (key.clone(), (entry.value.clone(), entry.mod_revision))).collect()
}

#[tokio::test]
async fn first_all_there_is_then_each_change() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    client.put("/net/a", b"1", 0).await.unwrap();
    client.put("/net.d/a", b"other", 0).await.unwrap();
    let (mut watcher, mut state) = (watch(&client), State::default());
    state.until(&mut watcher, SOON, |state| state.listings == 1).await;
    assert_eq!(state.keys(), ["/net/a"]);

    client.put("/net/b", b"2", 0).await.unwrap();
    client.put("/net0", b"other", 0).await.unwrap();
    client.delete("/net/a").await.unwrap();
    state.until(&mut watcher, SOON, |state| state.keys() == ["/net/b"]).await;
    let (lease, _) = client.grant(600).await.unwrap();
    client.put("/net/c", b"3", lease).await.unwrap();
    state.until(&mut watcher, SOON, |state| state.value("/net/c") == Some("3")).await;
    client.revoke(lease).await.unwrap();
    state.until(&mut watcher, SOON, |state| state.value("/net/c").is_none()).await;
    assert_eq!((state.listings, state.lost.len(), state.events), (1, 0, 4));
}

#[tokio::test]
async fn a_cut_connection_loses_nothing_and_lists_nothing_again() {
    let etcd = Etcd::single().await;
    let (proxy, direct) = (Proxy::new(etcd.members[0].client, Mode::Forward).await, etcd.client());
    let (mut watcher, mut state) = (watch(&client(&[proxy.endpoint()])), State::default());
    state.until(&mut watcher, SOON, |state| state.listings == 1).await;
    for number in 0..6 {
        proxy.cut();
        direct.put("/net/a", number.to_string().as_bytes(), 0).await.unwrap();
        direct.put(&format!("/net/{number}"), b"x", 0).await.unwrap();
        direct.delete(&format!("/net/{}", number - 1)).await.unwrap();
        let key = format!("/net/{number}");
        state.until(&mut watcher, Duration::from_secs(7), |state| state.value(&key).is_some()).await;
    }
    state.during(&mut watcher, Duration::from_millis(100)).await;
    assert_eq!(known(&state), truth(&direct).await);
    assert_eq!((state.listings, state.lost.len()), (1, 0));
    assert_eq!(state.events, 6 + 6 + 5, "each change once");
}

#[tokio::test]
async fn compaction_beyond_what_was_seen_is_made_up_for_by_a_listing() {
    let etcd = Etcd::single().await;
    let (proxy, direct) = (Proxy::new(etcd.members[0].client, Mode::Forward).await, etcd.client());
    direct.put("/net/stays", b"1", 0).await.unwrap();
    direct.put("/net/goes", b"1", 0).await.unwrap();
    let (mut watcher, mut state) = (watch(&client(&[proxy.endpoint()])), State::default());
    state.until(&mut watcher, SOON, |state| state.listings == 1).await;
    proxy.set(Mode::Refuse);
    direct.delete("/net/goes").await.unwrap();
    direct.put("/net/stays", b"changed", 0).await.unwrap();
    let revision = direct.list("/net/").await.unwrap().revision;
    direct.compact(revision).await.unwrap();
    proxy.set(Mode::Forward);
    state
        .until(&mut watcher, PATIENCE, |state| state.listings == 2 && state.value("/net/stays") == Some("changed"))
        .await;
    assert_eq!(state.keys(), ["/net/stays"]);
    let before = proxy.connections();
    state.during(&mut watcher, Duration::from_secs(2)).await;
    assert!(proxy.connections() - before <= 2 && state.listings == 2, "no loop: {state:?}");
}

#[tokio::test]
async fn compaction_every_200_ms_while_fifty_keys_change() {
    let etcd = Etcd::single().await;
    let (proxy, direct) = (Proxy::new(etcd.members[0].client, Mode::Forward).await, etcd.client());
    let (mut watcher, mut state) = (watch(&client(&[proxy.endpoint()])), State::default());
    let churn = tokio::spawn({
        let direct = direct.clone();
        async move {
            let (start, mut compacted) = (Instant::now(), Instant::now());
            for round in 0.. {
                let key = format!("/net/{}", round * 7 % 50);
                if round % 5 == 4 {
                    direct.delete(&key).await.unwrap();
                } else {
                    direct.put(&key, round.to_string().as_bytes(), 0).await.unwrap();
                }
                if compacted.elapsed() > Duration::from_millis(200) {
                    compacted = Instant::now();
                    let revision = direct.list("/net/").await.unwrap().revision;
                    direct.compact(revision).await.unwrap();
                }
                if start.elapsed() > Duration::from_secs(6) {
                    return;
                }
            }
        }
    });
    let start = Instant::now();
    while !churn.is_finished() {
        state.during(&mut watcher, Duration::from_millis(700)).await;
        if start.elapsed() > Duration::from_secs(1) {
            proxy.cut();
        }
    }
    churn.await.unwrap();
    direct.put("/net/last", b"1", 0).await.unwrap();
    state.until(&mut watcher, PATIENCE, |state| state.value("/net/last").is_some()).await;
    assert_eq!(known(&state), truth(&direct).await);
    assert!(proxy.connections() < 60, "{}", proxy.connections());
}

#[tokio::test]
async fn an_outage_is_said_once_costs_few_calls_and_its_end_is_known_at_once() {
    let etcd = Etcd::single().await;
    let (proxy, direct) = (Proxy::new(etcd.members[0].client, Mode::Forward).await, etcd.client());
    direct.put("/net/a", b"1", 0).await.unwrap();
    let (mut watcher, mut state) = (watch(&client(&[proxy.endpoint()])), State::default());
    state.until(&mut watcher, SOON, |state| state.listings == 1).await;
    proxy.set(Mode::Refuse);
    state.until(&mut watcher, SOON, |state| state.lost.len() == 1).await;
    assert!(state.lost[0].contains(&proxy.endpoint()), "{}", state.lost[0]);
    let (connections, asked) = (proxy.connections(), proxy.asked());
    state.during(&mut watcher, Duration::from_secs(10)).await;
    assert_eq!((state.lost.len(), state.back, state.listings), (1, 0, 1), "a failed listing is none");
    assert_eq!(state.keys(), ["/net/a"]);
    let calls = proxy.connections() - connections;
    assert!((2..=24).contains(&calls), "{calls} calls in ten seconds");
    assert_eq!(proxy.asked(), asked);

    direct.put("/net/b", b"2", 0).await.unwrap();
    proxy.set(Mode::Forward);
    // The longest pause, and no more.
    state.until(&mut watcher, Duration::from_secs(7), |state| state.back == 1).await;
    assert_eq!((state.keys(), state.listings), (vec!["/net/a", "/net/b"], 2));
    direct.put("/net/c", b"3", 0).await.unwrap();
    state.until(&mut watcher, SOON, |state| state.value("/net/c").is_some()).await;
}

#[tokio::test]
async fn a_registry_that_ends_each_watch_at_once_is_asked_seldom() {
    let etcd = Etcd::single().await;
    let proxy = Proxy::new(etcd.members[0].client, Mode::Forward).await;
    let (mut watcher, mut state) = (watch(&client(&[proxy.endpoint()])), State::default());
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        state.during(&mut watcher, Duration::from_millis(20)).await;
        proxy.cut();
    }
    assert!(proxy.connections() < 25, "{}", proxy.connections());
}

#[tokio::test]
async fn a_registry_that_was_set_back_counts_as_it_is() {
    let mut etcd = Etcd::single().await;
    let client = etcd.client();
    client.put("/net/a", b"old", 0).await.unwrap();
    let saved = etcd.path().join("saved");
    etcd.members[0].stop();
    etcd.members[0].save(&saved);
    etcd.members[0].start();
    etcd.ready().await;
    client.put("/net/a", b"new", 0).await.unwrap();
    client.put("/net/b", b"new", 0).await.unwrap();
    let (mut watcher, mut state) = (watch(&client), State::default());
    state.until(&mut watcher, PATIENCE, |state| state.value("/net/b").is_some()).await;

    etcd.members[0].kill();
    etcd.members[0].restore(&saved);
    etcd.members[0].start();
    state.until(&mut watcher, PATIENCE, |state| state.value("/net/a") == Some("old")).await;
    assert_eq!(state.keys(), ["/net/a"]);
    // Revisions that were seen before the fall are news again.
    client.put("/net/c", b"1", 0).await.unwrap();
    state.until(&mut watcher, PATIENCE, |state| state.value("/net/c").is_some()).await;
}

#[tokio::test]
async fn all_is_listed_again_now_and_then_without_losing_what_happens_meanwhile() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut watcher = Watcher::new(client.clone(), "/net/".into(), Duration::from_millis(100));
    let mut state = State::default();
    let churn = tokio::spawn({
        let client = client.clone();
        async move {
            for round in 0..1500 {
                client.put(&format!("/net/{}", round % 50), round.to_string().as_bytes(), 0).await.unwrap();
            }
        }
    });
    while !churn.is_finished() {
        state.during(&mut watcher, Duration::from_millis(50)).await;
    }
    churn.await.unwrap();
    state.until(&mut watcher, SOON, |state| state.value("/net/49") == Some("1499")).await;
    assert_eq!(known(&state), truth(&client).await);
    assert!(state.listings >= 5 && state.events > 100 && state.lost.is_empty(), "{} {}", state.listings, state.events);
}

#[tokio::test]
async fn a_watch_that_has_nothing_to_say_is_left_alone_by_etcd() {
    let etcd = Etcd::single().await;
    let proxy = Proxy::new(etcd.members[0].client, Mode::Forward).await;
    let (mut watcher, mut state) = (watch(&client(&[proxy.endpoint()])), State::default());
    state.until(&mut watcher, SOON, |state| state.listings == 1).await;
    // Longer than etcd suffers signs of life that come too often.
    state.during(&mut watcher, Duration::from_secs(31)).await;
    assert_eq!((proxy.connections(), state.listings, state.lost.len()), (1, 1, 0));
    etcd.client().put("/net/a", b"1", 0).await.unwrap();
    state.until(&mut watcher, SOON, |state| state.value("/net/a").is_some()).await;
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn a_watcher_that_is_dropped_asks_nothing_more() {
    let etcd = Etcd::single().await;
    let proxy = Proxy::new(etcd.members[0].client, Mode::Refuse).await;
    let mut watcher = watch(&client(&[proxy.endpoint()]));
    watcher.next().await;
    drop(watcher);
    sleep(Duration::from_millis(50)).await;
    let before = proxy.connections();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(proxy.connections(), before);
}

/// Writes without pause to whoever takes it; the last number that was taken comes with the end.
async fn write_on(client: Client, until: Instant) -> u64 {
    let (mut number, mut last) = (0, 0);
    while Instant::now() < until {
        number += 1;
        if client.put("/net/n", number.to_string().as_bytes(), 0).await.is_ok() {
            last = number;
        }
        sleep(Duration::from_millis(20)).await;
    }
    last
}

#[tokio::test]
async fn members_that_are_killed_one_by_one_and_the_leader_among_them() {
    let mut etcd = Etcd::cluster().await;
    let quick = Client::new(Options { request_timeout: Duration::from_secs(1), ..options(&etcd.endpoints()) }).unwrap();
    let (mut watcher, mut state) = (watch(&quick), State::default());
    let end = Instant::now() + Duration::from_secs(16);
    let writer = tokio::spawn(write_on(etcd.client(), end));
    for victim in [0, 1, 2] {
        let victim = if victim == 0 { etcd.leader().await } else { victim };
        etcd.members[victim].kill();
        state.during(&mut watcher, Duration::from_secs(3)).await;
        etcd.members[victim].start();
        state.during(&mut watcher, Duration::from_secs(1)).await;
        etcd.ready().await;
    }
    while !writer.is_finished() {
        state.during(&mut watcher, Duration::from_millis(200)).await;
    }
    let last = writer.await.unwrap();
    let is_last = |state: &State| state.value("/net/n").is_some_and(|value| value.parse::<u64>().unwrap() >= last);
    state.until(&mut watcher, Duration::from_secs(10), is_last).await;
    assert!(last > 50, "{last}");
}

#[tokio::test]
async fn all_members_are_killed_for_some_seconds() {
    let mut etcd = Etcd::cluster().await;
    let client = etcd.client();
    client.put("/net/a", b"1", 0).await.unwrap();
    let (mut watcher, mut state) = (watch(&client), State::default());
    state.until(&mut watcher, PATIENCE, |state| state.listings == 1).await;
    for member in &mut etcd.members {
        member.kill();
    }
    state.until(&mut watcher, PATIENCE, |state| state.lost.len() == 1).await;
    state.during(&mut watcher, Duration::from_secs(6)).await;
    assert_eq!((state.lost.len(), state.keys()), (1, vec!["/net/a"]));
    for member in &mut etcd.members {
        member.start();
    }
    etcd.ready().await;
    client.put("/net/b", b"2", 0).await.unwrap();
    // From a read that succeeds: the longest pause, and what the change may take.
    state.until(&mut watcher, Duration::from_secs(5) + SOON, |state| state.value("/net/b").is_some()).await;
}

#[tokio::test]
async fn the_member_that_is_followed_falls_silent() {
    let etcd = Etcd::cluster().await;
    for frozen in 0..3 {
        // The frozen member is the first in line: others are asked only when it is noticed.
        let first = client(&[etcd.endpoint(frozen)]);
        let (mut probe, mut at) = (watch(&first), State::default());
        at.until(&mut probe, PATIENCE, |state| state.listings == 1).await;
        drop(probe);
        let proxies = [
            Proxy::new(etcd.members[frozen].client, Mode::Forward).await,
            Proxy::new(etcd.members[(frozen + 1) % 3].client, Mode::Refuse).await,
        ];
        let both = client(&[proxies[0].endpoint(), proxies[1].endpoint()]);
        let (mut watcher, mut state) = (watch(&both), State::default());
        state.until(&mut watcher, PATIENCE, |state| state.listings == 1).await;
        proxies[1].set(Mode::Forward);
        etcd.members[frozen].freeze();
        let other = client(&[etcd.endpoint((frozen + 1) % 3)]);
        let key = format!("/net/{frozen}");
        let start = Instant::now();
        while other.put(&key, b"1", 0).await.is_err() {
            assert!(start.elapsed() < PATIENCE);
        }
        // Members that were still choosing a leader when the silence was noticed could not answer either.
        let answered = start.elapsed() < Duration::from_secs(1);
        state.until(&mut watcher, Duration::from_secs(20), |state| state.value(&key).is_some()).await;
        assert!(!answered || state.lost.is_empty(), "another member answers: {:?}", state.lost);
        etcd.members[frozen].thaw();
        etcd.ready().await;
    }
}
