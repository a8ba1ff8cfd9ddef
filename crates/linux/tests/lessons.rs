//! Runs the lessons of `examples/` as a reader would.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::process::Command;

/// Runs a lesson and checks that it succeeds and says each of these things.
fn run(name: &str, says: &[&str]) {
    support::enter();
    // target/PROFILE/deps/THIS-TEST: the lessons are in target/PROFILE/examples.
    let this = std::env::current_exe().unwrap();
    let lesson = this.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(lesson.exists(), "{} is not built: type `cargo build -p linux --examples`", lesson.display());
    let output = Command::new(lesson).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for words in says {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
}

#[test]
fn a_whole_subnet_behind_a_tun_device_answers() {
    run("tun_ping", &["ping 10.9.0.2:", "ping 10.9.0.254:", "the far end answered 3 pings"]);
}

#[test]
fn a_host_behind_a_tap_device_says_where_it_is_and_answers() {
    run("tap_ping", &["who has 10.9.0.77? 10.9.0.1 asks", "ping 10.9.0.77:", "10.9.0.77 is at 02:00:00:00:00:02"]);
}

#[test]
fn two_namespaces_talk_over_a_veth_pair() {
    run("veth_pair", &["right heard from 10.8.0.1:4000: hello from the left", "left heard from 10.8.0.2:4000"]);
}

#[test]
fn three_hosts_talk_over_a_bridge() {
    run(
        "bridge_three",
        &["blue   was greeted by red (10.7.0.1:4000)", "02:00:00:00:00:03 is behind port blue: learned"],
    );
}
