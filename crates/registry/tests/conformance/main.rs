//! One list of cases, run on Debian's etcd 3.4 and on the registry of ours: both must tell the same.
//!
//! A case asks by the raw calls, by `etcdctl`, or by the `etcd-client` crate, and what it is told is written down line by line: revisions relative to
//! where the case began, keys under a prefix of the case's own. Where etcd 3.4 is known to be wrong, a comment says so and the case asks
//! something else; what we do instead stands in `tests/server.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod auth;
mod keys;
mod leases;
mod servers;
mod told;
mod tools;
mod txns;
mod watches;

use std::time::Duration;

use servers::{Etcd, Ours, runtime};
use told::{Case, Told};

/// How long a case may take.
const CASE: Duration = Duration::from_secs(30);

/// Runs the cases on both, and shows where they differ.
fn compare(cases: &[(&'static str, Case)], etcd: &str, ours: &str) {
    let runtime = runtime();
    let mut differing = Vec::new();
    for (name, case) in cases {
        let ask = |endpoint: &str| {
            let told = Told::new(name, endpoint);
            runtime.block_on(async {
                let mut told = told.await;
                if tokio::time::timeout(CASE, case(&mut told)).await.is_err() {
                    told.say(format!("{endpoint} says nothing more"));
                }
                told.lines
            })
        };
        let (theirs, ours) = (ask(etcd), ask(ours));
        assert!(!theirs.is_empty(), "{name} asks nothing");
        if theirs != ours {
            let lines = theirs.len().max(ours.len());
            let line = |side: &[String], at: usize| side.get(at).cloned().unwrap_or_else(|| "(nothing)".into());
            for at in (0..lines).filter(|at| line(&theirs, *at) != line(&ours, *at)) {
                differing.push(format!(
                    "{name}, line {at}\n  etcd: {}\n  ours: {}",
                    line(&theirs, at),
                    line(&ours, at)
                ));
            }
        }
    }
    assert!(differing.is_empty(), "{} differences:\n{}", differing.len(), differing.join("\n"));
}

#[test]
fn etcd_and_the_registry_tell_the_same() {
    let (etcd, ours) = (Etcd::start(), Ours::start(servers::open()));
    let cases: Vec<_> = [keys::CASES, txns::CASES, watches::CASES, leases::CASES, tools::CASES].concat();
    compare(&cases, &etcd.endpoint, &ours.endpoint);
}

#[test]
fn etcd_and_the_registry_refuse_the_same_people() {
    let (etcd, ours) = (Etcd::start(), Ours::start(servers::guarded()));
    etcd.enable_auth();
    compare(auth::CASES, &etcd.endpoint, &ours.endpoint);
}
