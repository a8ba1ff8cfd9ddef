//! The process that captures: what it may do, when it does, and when it ends. And how much peers may ask for.

use std::fs;

use adit::api;
use adit::observe::trace::Wish;
use adit::observe::trace::observation::Protocol;

use crate::bed::{PATIENCE, wait_for};
use crate::scene::Scene;

/// The process that a daemon has started.
fn child(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let [only] = children.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{children}") };
    only.parse().unwrap()
}

fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

/// What it has open: sockets, as the kernel names them.
fn sockets(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(Result::ok);
    let name = |entry: fs::DirEntry| fs::read_link(entry.path()).ok().map(|to| to.display().to_string());
    entries.filter_map(name).filter(|to| to.starts_with("socket:")).count()
}

#[test]
fn the_process_that_captures_may_do_nothing_else_and_ends_with_its_daemon() {
    let mut scene = Scene::pair("sealed", true);
    let pid = scene.daemons[0].pid();
    let helper = child(pid);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        // CAP_NET_RAW (linux/capability.h).
        assert_eq!(u64::from_str_radix(&status(helper, set), 16).unwrap() & !(1 << 13), 0, "{set}");
    }
    assert_eq!(status(helper, "NoNewPrivs:"), "1");
    assert_eq!(u64::from_str_radix(&status(pid, "CapEff:"), 16).unwrap() & 1 << 13, 0, "the daemon has not kept it");
    let idle = sockets(helper);
    assert_eq!(scene.trace(1, &["10.42.0.2", "--count", "1"]).answered(), [true]);
    assert_eq!(sockets(helper), idle, "nothing is open when nobody traces");
    scene.daemons.remove(0).crash();
    wait_for("the end of the process that captures", || {
        (!fs::exists(format!("/proc/{helper}")).unwrap()).then_some(())
    });
}

#[test]
fn without_it_the_tunnel_works_and_a_trace_says_what_is_missing() {
    let scene = Scene::pair("sealed", true);
    let helper = child(scene.daemons[0].pid());
    let kill = format!("kill -KILL {helper}");
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let told = scene.run(1, &["trace", "10.42.0.2", "--count", "1"]);
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(said.contains("restart adit") && told.status.code() == Some(1), "{said}");
    assert!(scene.daemons[0].status().peers.iter().all(|peer| peer.session == "up"));
    // The other host is not harmed by it, and says what it could not see.
    let traced = scene.trace(2, &["10.41.0.2", "--count", "1"]);
    assert_eq!(traced.answered(), [true], "{}", traced.json);
}

#[test]
fn a_hosts_own_operator_does_not_wait_for_a_peers_trace() {
    let scene = Scene::pair("sealed", true);
    // It is begun, and nobody collects it: the other host is asked, and would watch for ten seconds.
    let wish = Wish {
        destination: "10.42.0.2".parse().unwrap(),
        protocol: Protocol::Icmp,
        port: 0,
        size: None,
        super_packet: false,
        count: 1,
    };
    let socket = api::control_socket(&scene.daemons[0].place.runtime(), "adit0");
    let begin = || api::call_within(&socket, api::Request::TraceBegin(wish), PATIENCE).unwrap();
    assert!(matches!(begin(), api::Response::Tracing { .. }));
    let api::Response::Error { sentence } = begin() else { panic!("two at once") };
    assert!(sentence.contains("another trace is under way"), "{sentence}");
    let traced = scene.trace(2, &["10.41.0.2", "--count", "1"]);
    assert_eq!(traced.answered(), [true]);
    let steps = traced.places(0, "there", "host2");
    assert!(steps.contains(&"host2 sealed".to_owned()) && steps.contains(&"host2 under0 out".to_owned()), "{steps:?}");
    // The first host watches for somebody else meanwhile, and says so.
    let unseen = traced.json["hosts"][1]["unseen"].as_str();
    assert!(unseen.is_some_and(|why| why.contains("busy with another trace")), "{}", traced.json);
}

#[test]
fn peers_may_ask_for_so_many_traces_in_a_minute() {
    let scene = Scene::pair("sealed", true);
    let mut seen = 0;
    for _ in 0..14 {
        let traced = scene.trace(1, &["10.42.0.2", "--count", "1"]);
        assert_eq!(traced.answered(), [true]);
        seen += usize::from(traced.places(0, "there", "host1").iter().any(|place| place.starts_with("host2")));
    }
    assert_eq!(seen, 12);
}
