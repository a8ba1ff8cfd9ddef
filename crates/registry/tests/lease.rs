//! Leases against etcd: which subnet a node gets, and what becomes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support_etcd;

use std::time::Duration;

use registry::api::etcdserverpb as pb;
use registry::client::{Client, ClientError, Options, Update, Watcher};
use registry::lease::{Change, Held, Keeper, LeaseError};
use registry::schema::{LeaseValue, NetworkConfig};
use support_etcd::node::{Node, config, flannels_value, keeper, keeper_for, key, prefix, small, subnets};
use support_etcd::proxy::{Mode, Proxy};
use support_etcd::{Etcd, PATIENCE, options};
use tokio::time::{Instant, sleep, timeout};

/// The shortest that a member which runs alone gives.
const SHORT: Duration = Duration::from_secs(2);

async fn keys(client: &Client) -> Vec<String> {
    let listing = client.list(&prefix().subnets()).await.unwrap();
    listing.entries.into_iter().map(|entry| entry.key.rsplit('/').next().unwrap().to_owned()).collect()
}

async fn lease_count(etcd: &Etcd) -> usize {
    etcd.ctl(&["lease", "list"]).lines().filter(|line| !line.contains("found")).count()
}

/// Lets a keeper work as it wants to, until something comes of it.
async fn next_change(keeper: &mut Keeper, watcher: &mut Watcher) -> Change {
    let change = async {
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
    timeout(PATIENCE, change).await.expect("nothing comes of it")
}

fn watch(client: &Client) -> Watcher {
    Watcher::new(client.clone(), prefix().all(), Duration::from_secs(60))
}

#[tokio::test]
async fn a_node_gets_a_subnet_that_is_bound_to_a_lease() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut keeper = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1]));
    let held = keeper.acquire().await.unwrap();
    assert!(small().permits(&held.subnets) && !held.reserved);
    let entry = client.get(&prefix().subnet(&held.subnets)).await.unwrap().unwrap();
    assert_eq!((entry.lease, entry.create_revision), (held.lease, held.create_revision));
    assert_eq!(LeaseValue::parse(&entry.value).unwrap().public_ip, Some([192, 0, 2, 1].into()));
    let ttl = client.time_to_live(held.lease).await.unwrap();
    assert!((3590..=3600).contains(&ttl));
    assert!(held.expires.unwrap() <= Instant::now() + Duration::from_secs(3600));
    assert_eq!(keeper.held(), Some(&held));
}

#[tokio::test]
async fn a_restart_finds_the_subnet_and_the_lease_again() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let node = Node::named("a", [192, 0, 2, 1]);
    let first = keeper(&client, &small(), &node).acquire().await.unwrap();
    for _ in 0..5 {
        let again = keeper(&client, &small(), &node).acquire().await.unwrap();
        assert_eq!(Held { expires: first.expires, ..again }, first);
    }
    assert_eq!((keys(&client).await.len(), lease_count(&etcd).await), (1, 1));
    // Another length of life is another lease.
    let longer = keeper_for(&client, &small(), &node, Duration::from_secs(7200), &[]).acquire().await.unwrap();
    assert_eq!((longer.subnets, longer.create_revision), (first.subnets, first.create_revision));
    assert!(client.time_to_live(longer.lease).await.unwrap() > 7000);
}

#[tokio::test]
async fn the_former_subnet_is_preferred_if_it_is_free_and_fits() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let (a, b) = (Node::named("a", [192, 0, 2, 1]), Node::named("b", [192, 0, 2, 2]));
    let ttl = support_etcd::node::TTL;
    let held = keeper_for(&client, &small(), &a, ttl, &["10.9.9.0-24", "10.3.2.0-24"]).acquire().await.unwrap();
    assert_eq!(held.subnets, subnets("10.3.2.0-24"));
    let other = keeper_for(&client, &small(), &b, ttl, &["10.3.2.0-24"]).acquire().await.unwrap();
    assert_ne!(other.subnets, held.subnets);
}

#[tokio::test]
async fn a_configuration_that_changed_gives_another_subnet_and_gives_up_the_old_one() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let node = Node::named("a", [192, 0, 2, 1]);
    keeper(&client, &small(), &node).acquire().await.unwrap();
    let other = config(r#"{"Network":"10.7.0.0/16","SubnetLen":26}"#);
    let held = keeper(&client, &other, &node).acquire().await.unwrap();
    assert_eq!(keys(&client).await, [held.subnets.to_key()]);
    assert!(other.permits(&held.subnets));
}

#[tokio::test]
async fn both_families_and_ipv6_alone() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let both = config(r#"{"EnableIPv6":true,"Network":"10.3.0.0/22","IPv6Network":"fd00:42::/62"}"#);
    let mut all = std::collections::BTreeSet::new();
    for name in ["a", "b", "c"] {
        let held = keeper(&client, &both, &Node::named(name, [192, 0, 2, 1])).acquire().await.unwrap();
        assert!(both.permits(&held.subnets));
        all.extend(held.subnets.iter());
    }
    assert_eq!(all.len(), 6);
    let d = Node::named("d", [192, 0, 2, 1]);
    assert!(matches!(keeper(&client, &both, &d).acquire().await, Err(LeaseError::OutOfSubnets(_))));
    let v6 = config(r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:43::/62"}"#);
    let held = keeper(&client, &v6, &d).acquire().await.unwrap();
    assert!(held.subnets.v4.is_none() && keys(&client).await.contains(&held.subnets.to_key()));
    assert_eq!(keeper(&client, &v6, &d).acquire().await.unwrap().subnets, held.subnets);
}

#[tokio::test]
async fn when_none_is_left_the_error_says_what_to_do_and_nothing_is_left_behind() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    for name in ["a", "b", "c"] {
        keeper(&client, &small(), &Node::named(name, [192, 0, 2, 1])).acquire().await.unwrap();
    }
    let error = keeper(&client, &small(), &Node::named("d", [192, 0, 2, 1])).acquire().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("10.3.0.0/22") && text.contains("set a larger Network or a longer SubnetLen"), "{text}");
    assert_eq!((keys(&client).await.len(), lease_count(&etcd).await), (3, 3));
}

#[tokio::test]
async fn two_that_race_for_the_last_subnet_never_both_get_it() {
    let etcd = Etcd::single().await;
    let races = std::env::var("ADIT_RACES").map_or(50, |races| races.parse().unwrap());
    let (one, other) = (etcd.client(), etcd.client());
    let last = config(r#"{"Network":"10.3.0.0/22","SubnetMin":"10.3.3.0"}"#);
    let (a, b) = (Node::named("a", [192, 0, 2, 1]), Node::named("b", [192, 0, 2, 2]));
    for _ in 0..races {
        let (mut first, mut second) = (keeper(&one, &last, &a), keeper(&other, &last, &b));
        let (won, lost) = match tokio::join!(first.acquire(), second.acquire()) {
            (Ok(held), Err(error)) => ((held, &mut first), error),
            (Err(error), Ok(held)) => ((held, &mut second), error),
            both => panic!("{both:?}"),
        };
        assert!(matches!(lost, LeaseError::OutOfSubnets(_)), "{lost}");
        let (held, winner) = won;
        let entry = one.get(&key("10.3.3.0-24")).await.unwrap().unwrap();
        assert_eq!((entry.lease, entry.create_revision), (held.lease, held.create_revision));
        winner.release().await.unwrap();
        assert_eq!(keys(&one).await, [""; 0]);
    }
    assert_eq!(lease_count(&etcd).await, 0);
}

#[tokio::test]
async fn twenty_that_come_together_get_twenty_subnets() {
    let etcd = Etcd::single().await;
    let wide = config(r#"{"Network":"10.3.0.0/16","SubnetMax":"10.3.20.0"}"#);
    let mut tasks = Vec::new();
    for number in 0..20 {
        let mut keeper = keeper(&etcd.client(), &wide, &Node::named(&number.to_string(), [192, 0, 2, 1]));
        tasks.push(tokio::spawn(async move { keeper.acquire().await.map(|held| held.subnets) }));
    }
    let mut all = std::collections::BTreeSet::new();
    for task in tasks {
        all.insert(task.await.unwrap().unwrap());
    }
    assert_eq!((all.len(), lease_count(&etcd).await), (20, 20));
}

#[tokio::test]
async fn an_answer_that_was_lost_leaves_one_subnet_and_it_is_ours() {
    let etcd = Etcd::single().await;
    let proxy = Proxy::new(etcd.members[0].client, Mode::Swallow).await;
    for _ in 0..4 {
        let endpoints = vec![proxy.endpoint(), etcd.endpoint(0)];
        let request_timeout = Duration::from_millis(300);
        let client = Client::new(Options { request_timeout, ..options(&endpoints) }).unwrap();
        let mut keeper = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1]));
        let held = keeper.acquire().await.unwrap();
        assert_eq!(keys(&etcd.client()).await, [held.subnets.to_key()]);
        proxy.set(Mode::Forward);
        assert!(client.get("/").await.is_ok());
        proxy.set(Mode::Swallow);
        assert!(!matches!(keeper.republish().await, Change::Taken { .. }));
        let entry = etcd.client().get(&prefix().subnet(&held.subnets)).await.unwrap().unwrap();
        assert_eq!(entry.create_revision, held.create_revision);
        keeper.release().await.unwrap();
        assert_eq!(keys(&etcd.client()).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_revoked_lease_and_a_deleted_entry_are_reclaimed_at_once() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let (mut keeper, mut watcher) = (keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1])), watch(&client));
    let mut held = keeper.acquire().await.unwrap();
    for round in 0..4 {
        if round % 2 == 0 {
            client.revoke(held.lease).await.unwrap();
        } else {
            client.delete(&prefix().subnet(&held.subnets)).await.unwrap();
        }
        let start = Instant::now();
        let Change::Reclaimed(again) = next_change(&mut keeper, &mut watcher).await else { panic!("not reclaimed") };
        assert!(start.elapsed() < Duration::from_secs(2));
        assert_eq!(again.subnets, held.subnets);
        assert!(again.create_revision > held.create_revision);
        held = again;
    }
}

#[tokio::test]
async fn a_lease_that_ends_is_noticed_by_renewal_alone() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut keeper = keeper_for(&client, &small(), &Node::named("a", [192, 0, 2, 1]), SHORT, &[]);
    let held = keeper.acquire().await.unwrap();
    client.revoke(held.lease).await.unwrap();
    assert!(keeper.due() <= Instant::now() + SHORT);
    tokio::time::sleep_until(keeper.due()).await;
    assert!(matches!(keeper.maintain().await, Change::Reclaimed(again) if again.subnets == held.subnets));
}

#[tokio::test]
async fn renewal_keeps_the_lease_for_many_times_its_life() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let (node, mut watcher) = (Node::named("a", [192, 0, 2, 1]), watch(&client));
    let mut keeper = keeper_for(&client, &small(), &node, SHORT, &[]);
    let held = keeper.acquire().await.unwrap();
    let end = Instant::now() + SHORT * 4;
    let mut renewals = 0;
    while Instant::now() < end {
        tokio::select! {
            update = watcher.next() => keeper.observe(&update),
            () = tokio::time::sleep_until(keeper.due()) => {
                assert_eq!(keeper.maintain().await, Change::Nothing);
                renewals += 1;
            }
        }
    }
    let after = keeper.held().unwrap();
    assert_eq!(Held { expires: held.expires, ..after.clone() }, held);
    assert!(after.expires > held.expires);
    assert!((12..60).contains(&renewals), "{renewals}");
}

/// Our lease ended while we slept, and somebody else writes where we were.
async fn usurp(client: &Client, held: &Held) -> i64 {
    client.revoke(held.lease).await.unwrap();
    write_over(client, &held.subnets.to_key()).await
}

async fn write_over(client: &Client, subnets: &str) -> i64 {
    let (lease, _) = client.grant(600).await.unwrap();
    client.put(&key(subnets), &flannels_value("198.51.100.9"), lease).await.unwrap();
    lease
}

#[tokio::test]
async fn who_slept_past_the_end_of_its_lease_steps_back_from_what_another_took() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let last = config(r#"{"Network":"10.3.0.0/22","SubnetMin":"10.3.3.0"}"#);
    let mut sleeper = keeper_for(&client, &last, &Node::named("a", [192, 0, 2, 1]), SHORT, &[]);
    let mut other = keeper(&client, &last, &Node::named("b", [192, 0, 2, 2]));
    let mine = sleeper.acquire().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let theirs = loop {
        match other.acquire().await {
            Ok(held) => break held,
            Err(LeaseError::OutOfSubnets(_)) if Instant::now() < deadline => sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(theirs.create_revision > mine.create_revision);
    let entry = client.get(&key("10.3.3.0-24")).await.unwrap();
    assert!(sleeper.due() < Instant::now(), "it is to look as soon as it wakes");
    let change = sleeper.maintain().await;
    assert!(matches!(&change, Change::Taken { by } if Some(by) == entry.as_ref()), "{change:?}");
    assert_eq!(sleeper.held(), None);
    assert_eq!(client.get(&key("10.3.3.0-24")).await.unwrap(), entry, "and was not overwritten");
    assert!(matches!(sleeper.acquire().await, Err(LeaseError::OutOfSubnets(_))));
    assert_eq!(sleeper.release().await, Ok(()));
    assert_eq!(client.get(&key("10.3.3.0-24")).await.unwrap(), entry);
}

#[tokio::test]
async fn who_slept_and_was_not_missed_has_its_subnet_again() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut keeper = keeper_for(&client, &small(), &Node::named("a", [192, 0, 2, 1]), SHORT, &[]);
    let held = keeper.acquire().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while client.get(&prefix().subnet(&held.subnets)).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "etcd ends leases");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(matches!(keeper.maintain().await, Change::Reclaimed(again) if again.subnets == held.subnets));
}

#[tokio::test]
async fn no_word_of_ours_overwrites_another_owner() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    for way in 0..3 {
        let mut keeper = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1]));
        let held = keeper.acquire().await.unwrap();
        let at = held.subnets.to_key();
        let lease = usurp(&client, &held).await;
        let change = match way {
            0 => keeper.maintain().await,
            1 => keeper.republish().await,
            _ => {
                keeper.release().await.unwrap();
                Change::Nothing
            }
        };
        assert_eq!(matches!(change, Change::Taken { .. }), way < 2, "{change:?}");
        assert_eq!(client.get(&key(&at)).await.unwrap().unwrap().lease, lease);
        client.revoke(lease).await.unwrap();
    }
}

#[tokio::test]
async fn who_writes_over_a_lease_that_lives_gets_nothing_by_it() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut keeper = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1]));
    let held = keeper.acquire().await.unwrap();
    let at = held.subnets.to_key();
    for _ in 0..3 {
        write_over(&client, &at).await;
        let change = keeper.maintain().await;
        assert!(matches!(&change, Change::Reclaimed(again) if again.subnets == held.subnets), "{change:?}");
        let entry = client.get(&key(&at)).await.unwrap().unwrap();
        assert_eq!((entry.lease, entry.create_revision), (held.lease, held.create_revision));
        assert!(String::from_utf8_lossy(&entry.value).contains(r#""node":"a""#));
        assert_eq!(keeper.maintain().await, Change::Nothing);
    }
    // Where our entry was deleted and somebody made one in its place, two would go by the rules: the one whose entry stands has the subnet.
    assert_eq!(client.delete(&key(&at)).await, Ok(true));
    write_over(&client, &at).await;
    assert!(matches!(keeper.maintain().await, Change::Taken { .. }));
}

#[tokio::test]
async fn an_owner_of_overlapping_subnets_that_was_there_first_counts() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let coarse = config(r#"{"Network":"10.3.0.0/16","SubnetLen":18,"SubnetMin":"10.3.64.0","SubnetMax":"10.3.64.0"}"#);
    let fine = config(r#"{"Network":"10.3.0.0/16","SubnetLen":24,"SubnetMin":"10.3.65.0","SubnetMax":"10.3.66.0"}"#);
    // Both read the registry before either writes, as often as chance will have it; one of them steps back.
    for _ in 0..20 {
        let mut one = keeper(&client, &coarse, &Node::named("a", [192, 0, 2, 1]));
        let mut other = keeper(&client, &fine, &Node::named("b", [192, 0, 2, 2]));
        let (first, second) = tokio::join!(one.acquire(), other.acquire());
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        assert_eq!(keys(&client).await.len(), 1);
        one.release().await.unwrap();
        other.release().await.unwrap();
    }
    assert_eq!(lease_count(&etcd).await, 0);

    // One that slept comes back to a network whose subnets have another length.
    let mut sleeper = keeper(&client, &fine, &Node::named("a", [192, 0, 2, 1]));
    let held = sleeper.acquire().await.unwrap();
    client.revoke(held.lease).await.unwrap();
    let mut other = keeper(&client, &coarse, &Node::named("b", [192, 0, 2, 2]));
    other.acquire().await.unwrap();
    assert!(matches!(sleeper.maintain().await, Change::Taken { by } if by.key == key("10.3.64.0-18")));
    assert_eq!(keys(&client).await, ["10.3.64.0-18"]);
}

#[tokio::test]
async fn a_removed_nodes_subnet_is_free() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let last = config(r#"{"Network":"10.3.0.0/22","SubnetMin":"10.3.3.0"}"#);
    let before = keeper(&client, &last, &Node::named("gone", [192, 0, 2, 1])).acquire().await.unwrap();
    let b = Node::named("b", [192, 0, 2, 2]);
    let mut keeper = keeper(&client, &last, &b);
    assert!(keeper.acquire().await.is_err());
    b.removed.lock().unwrap().insert("gone".into());
    let held = keeper.acquire().await.unwrap();
    assert!(held.subnets == before.subnets && held.create_revision > before.create_revision);

    // It cannot take it back behind our back either.
    client.put(&key("10.3.3.0-24"), br#"{"PublicIP":"192.0.2.1","BackendData":{"node":"gone"}}"#, 0).await.unwrap();
    assert!(matches!(keeper.maintain().await, Change::Reclaimed(_)));
}

#[tokio::test]
async fn what_is_to_be_avoided_is_taken_last() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut got = Vec::new();
    for name in ["a", "b", "c"] {
        let mut keeper = keeper(&client, &small(), &Node::named(name, [192, 0, 2, 1]));
        keeper.avoid(vec![subnets("10.3.2.0-24")]);
        got.push(keeper.acquire().await.unwrap().subnets);
    }
    assert_eq!(got[2], subnets("10.3.2.0-24"));
}

#[tokio::test]
async fn an_outage_is_said_once_and_the_lease_goes_on_after_it() {
    let etcd = Etcd::single().await;
    let proxy = Proxy::new(etcd.members[0].client, Mode::Forward).await;
    let client = support_etcd::client(&[proxy.endpoint()]);
    let mut keeper = keeper_for(&client, &small(), &Node::named("a", [192, 0, 2, 1]), SHORT, &[]);
    let held = keeper.acquire().await.unwrap();
    proxy.set(Mode::Refuse);
    let before = proxy.connections();
    let (mut failing, end) = (0, Instant::now() + SHORT * 4);
    while Instant::now() < end {
        tokio::time::sleep_until(keeper.due().min(end)).await;
        match keeper.maintain().await {
            Change::Failing(LeaseError::Registry(ClientError::Unreachable(_))) => failing += 1,
            Change::Nothing => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failing, 1);
    assert!(proxy.connections() - before < 15, "{}", proxy.connections() - before);
    assert_eq!(keeper.held().unwrap().subnets, held.subnets, "it is ours until somebody says otherwise");

    proxy.set(Mode::Forward);
    let change = loop {
        tokio::time::sleep_until(keeper.due()).await;
        match keeper.maintain().await {
            Change::Nothing => {}
            other => break other,
        }
    };
    assert!(matches!(&change, Change::Reclaimed(again) if again.subnets == held.subnets), "{change:?}");
}

#[tokio::test]
async fn another_value_is_published_and_it_is_no_news_to_ourselves() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut keeper = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1]));
    let held = keeper.acquire().await.unwrap();
    let at = prefix().subnet(&held.subnets);
    let before = client.get(&at).await.unwrap().unwrap();
    assert_eq!(keeper.republish().await, Change::Nothing);
    let after = client.get(&at).await.unwrap().unwrap();
    assert!(after.value != before.value && after.lease == before.lease && after.version == 2);
    let due = keeper.due();
    keeper.observe(&Update::Listing(client.list(&prefix().all()).await.unwrap()));
    assert_eq!(keeper.due(), due);

    // A former value of ours that somebody puts back does not stay.
    client.put(&at, &before.value, before.lease).await.unwrap();
    keeper.observe(&Update::Listing(client.list(&prefix().all()).await.unwrap()));
    assert!(keeper.due() <= Instant::now() + Duration::from_secs(1));
    assert_eq!(keeper.maintain().await, Change::Nothing);
    let value = client.get(&at).await.unwrap().unwrap().value;
    assert!(value != before.value && value != after.value);
}

#[tokio::test]
async fn what_is_given_back_is_gone_with_its_lease() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut keeper = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1]));
    keeper.acquire().await.unwrap();
    keeper.republish().await;
    keeper.release().await.unwrap();
    assert_eq!((keeper.held(), keys(&client).await.len(), lease_count(&etcd).await), (None, 0, 0));
    assert_eq!(keeper.release().await, Ok(()));
    assert_eq!(keeper.maintain().await, Change::Nothing);
}

async fn reserve(client: &Client, subnets: &str, value: &[u8]) {
    client.put(&key(subnets), value, 0).await.unwrap();
}

#[tokio::test]
async fn a_reservation_is_used_and_stays_one() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    reserve(&client, "10.3.2.0-24", br#"{"PublicIP":"192.0.2.1"}"#).await;
    let node = Node::named("a", [192, 0, 2, 1]);
    let other = keeper(&client, &small(), &Node::named("b", [192, 0, 2, 2])).acquire().await.unwrap();
    assert_ne!(other.subnets, subnets("10.3.2.0-24"), "it is kept for whom it is");
    for _ in 0..3 {
        let mut keeper = keeper(&client, &small(), &node);
        let held = keeper.acquire().await.unwrap();
        assert_eq!((held.subnets, held.reserved, held.lease, held.expires), (subnets("10.3.2.0-24"), true, 0, None));
        assert_eq!(keeper.maintain().await, Change::Nothing);
        assert_eq!(keeper.republish().await, Change::Nothing);
        let entry = client.get(&key("10.3.2.0-24")).await.unwrap().unwrap();
        assert_eq!(entry.lease, 0);
        assert!(LeaseValue::parse(&entry.value).unwrap().backend_data.is_some(), "it says who is there");
        keeper.release().await.unwrap();
        let entry = client.get(&key("10.3.2.0-24")).await.unwrap().unwrap();
        assert_eq!((entry.lease, entry.value), (0, flannels_value("192.0.2.1")), "and, later, that nobody is");
    }
    assert_eq!(lease_count(&etcd).await, 1, "no lease was made for it");
}

#[tokio::test]
async fn a_lease_that_an_administrator_makes_a_reservation_is_one_from_then_on() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let mut keeper = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1]));
    let held = keeper.acquire().await.unwrap();
    reserve(&client, &held.subnets.to_key(), br#"{"PublicIP":"192.0.2.1"}"#).await;
    let change = keeper.maintain().await;
    assert!(matches!(&change, Change::Reclaimed(now) if now.reserved && now.subnets == held.subnets), "{change:?}");
    client.revoke(held.lease).await.unwrap();
    assert_eq!(keeper.maintain().await, Change::Nothing);
}

#[tokio::test]
async fn a_reservation_that_does_not_fit_is_left_to_the_administrator() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    reserve(&client, "10.9.2.0-24", br#"{"PublicIP":"192.0.2.1"}"#).await;
    let held = keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1])).acquire().await.unwrap();
    assert!(!held.reserved);
    assert!(client.get(&key("10.9.2.0-24")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_cluster_that_loses_members_loses_no_lease() {
    let mut etcd = Etcd::cluster().await;
    let client = etcd.client();
    let mut keeper = keeper_for(&client, &small(), &Node::named("a", [192, 0, 2, 1]), Duration::from_secs(6), &[]);
    let mut watcher = watch(&client);
    let held = keeper.acquire().await.unwrap();
    let end = Instant::now() + Duration::from_secs(14);
    let mut victim = 0;
    let mut next = Instant::now();
    while Instant::now() < end {
        tokio::select! {
            update = watcher.next() => keeper.observe(&update),
            () = tokio::time::sleep_until(keeper.due()) => match keeper.maintain().await {
                Change::Nothing | Change::Failing(_) | Change::Working => {}
                other => panic!("{other:?}"),
            },
            () = tokio::time::sleep_until(next) => {
                if victim > 0 {
                    etcd.members[(victim - 1) % 3].start();
                    etcd.ready().await;
                }
                etcd.members[victim % 3].kill();
                victim += 1;
                next = Instant::now() + Duration::from_secs(3);
            }
        }
    }
    etcd.members[(victim - 1) % 3].start();
    etcd.ready().await;
    let entry = client.get(&prefix().subnet(&held.subnets)).await.unwrap().unwrap();
    assert_eq!((entry.create_revision, entry.lease), (held.create_revision, held.lease));
}

#[tokio::test]
async fn a_registry_that_was_set_back_gets_our_entry_again() {
    let mut etcd = Etcd::single().await;
    let client = etcd.client();
    client.put("/before", b"", 0).await.unwrap();
    let saved = etcd.path().join("saved");
    etcd.members[0].stop();
    etcd.members[0].save(&saved);
    etcd.members[0].start();
    etcd.ready().await;
    let (mut keeper, mut watcher) = (keeper(&client, &small(), &Node::named("a", [192, 0, 2, 1])), watch(&client));
    let held = keeper.acquire().await.unwrap();
    etcd.members[0].kill();
    etcd.members[0].restore(&saved);
    etcd.members[0].start();
    let change = loop {
        match next_change(&mut keeper, &mut watcher).await {
            Change::Failing(_) | Change::Working => {}
            other => break other,
        }
    };
    assert!(matches!(&change, Change::Reclaimed(again) if again.subnets == held.subnets), "{change:?}");
    assert!(client.get(&prefix().subnet(&held.subnets)).await.unwrap().is_some());
}

#[tokio::test]
async fn what_a_registry_does_not_permit_is_an_error_after_some_tries() {
    let etcd = Etcd::single().await;
    for args in [
        "user add root:r",
        "user grant-role root root",
        "role add readers",
        "role grant-permission readers --prefix=true read /",
        "user add node:n",
        "user grant-role node readers",
        "auth enable",
    ] {
        etcd.ctl(&args.split(' ').collect::<Vec<_>>());
    }
    let user = Some(("node".to_owned(), zeroize::Zeroizing::new("n".to_owned())));
    let request_timeout = Duration::from_secs(10);
    let client = Client::new(Options { user, request_timeout, ..options(&etcd.endpoints()) }).unwrap();
    let wide: NetworkConfig = config(r#"{"Network":"10.3.0.0/16"}"#);
    let error = keeper(&client, &wide, &Node::named("a", [192, 0, 2, 1])).acquire().await.unwrap_err();
    assert!(matches!(error, LeaseError::Registry(ClientError::Denied { .. })), "{error}");
    assert!(error.to_string().contains("does not permit"));
    // The request itself, as a reminder of what it is made of.
    assert!(client.txn(pb::TxnRequest::default()).await.is_ok());
}

#[tokio::test]
async fn two_hosts_that_are_the_same_node_quarrel_slowly() {
    let etcd = Etcd::single().await;
    let client = etcd.client();
    let node = Node::named("a", [192, 0, 2, 1]);
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let (mut keeper, mut watcher) = (keeper(&client, &small(), &node), watch(&client));
        keeper.acquire().await.unwrap();
        tasks.push(tokio::spawn(async move {
            loop {
                next_change(&mut keeper, &mut watcher).await;
            }
        }));
    }
    sleep(Duration::from_secs(10)).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let at = keys(&client).await;
    assert_eq!(at.len(), 1);
    let version = client.get(&key(&at[0])).await.unwrap().unwrap().version;
    assert!((3..40).contains(&version), "{version}");
}
