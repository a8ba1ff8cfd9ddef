//! Where the page is served, from when to when.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use crate::bed::daemon::{Configuration, Place, exists};
use crate::bed::{Bed, Family, wait_for};
use crate::visitor::{Events, PAGE, ask, configuration, connect, connect_to, connect_unix, get, with_page};

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[test]
fn nobody_is_served_unless_the_configuration_says_so() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &Configuration::new(host, &[2], Family::V4));
    let _daemon = place.start();
    let listening = host.run("ss", &["-Htln"]);
    assert_eq!(listening, "", "a socket of TCP that nobody asked for");
}

#[test]
fn the_page_is_for_this_host_alone() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let daemon = place.start();
    assert_eq!(get(host, "/healthz").status, 200);
    let other = connect_to(bed.host(2), "192.0.2.1:7790");
    assert!(other.is_err(), "another host reaches it");
    for address in ["192.0.2.1:7790", "0.0.0.0:7790", "localhost:7790", "127.0.0.1"] {
        place.configure(&with_page(host, &[2], address));
        let output = place.run("reload", &[]);
        assert_eq!(output.status.code(), Some(2), "{address}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:7790"), "{output:?}");
    }
    assert_eq!(get(host, "/healthz").status, 200, "nothing has changed");
    daemon.terminate();
    assert!(connect_to(host, PAGE).is_err(), "it is there after the daemon");
}

#[test]
fn a_reload_begins_moves_and_ends_it() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let without = Configuration::new(host, &[2], Family::V4);
    let place = Place::new(host, &without);
    let daemon = place.start();
    assert!(connect_to(host, PAGE).is_err());
    place.configure(&configuration(host, &[2]));
    assert_eq!(daemon.reload(), "changed: observe");
    let mut events = Events::listen(connect(host)).ok().unwrap();
    events.next();
    // What has not moved goes on.
    assert_eq!(daemon.reload(), "nothing changed");
    events.next();
    place.configure(&with_page(host, &[2], "[::1]:7791"));
    assert_eq!(daemon.reload(), "changed: observe");
    assert!(connect_to(host, PAGE).is_err());
    assert_eq!(ask(connect_to(host, "[::1]:7791").unwrap(), HEALTH).status, 200);
    // A place that cannot be had changes nothing.
    let taken = host.namespace.run(|| TcpListener::bind("127.0.0.1:7792")).unwrap().unwrap();
    place.configure(&with_page(host, &[2], "127.0.0.1:7792"));
    let output = place.run("reload", &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("another program listens on TCP port 7792") && said.contains("[observe]"), "{said}");
    assert_eq!(ask(connect_to(host, "[::1]:7791").unwrap(), HEALTH).status, 200);
    drop(taken);
    place.configure(&without);
    assert_eq!(daemon.reload(), "changed: observe");
    assert!(connect_to(host, "[::1]:7791").is_err());
    assert_eq!(daemon.status().peers.len(), 1);
}

#[test]
fn a_place_that_is_taken_at_the_start_is_tried_again() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let taken = host.namespace.run(|| TcpListener::bind(PAGE)).unwrap().unwrap();
    // The tunnel does its work without.
    let daemon = place.start();
    assert!(daemon.log().contains("another program listens on TCP port 7790"), "{}", daemon.log());
    drop(taken);
    wait_for("the page", || {
        // What happens to the host makes the daemon look at it, which it does once a minute anyway.
        host.run("ip", &["address", "add", "127.0.0.2/32", "dev", "lo"]);
        host.run("ip", &["address", "delete", "127.0.0.2/32", "dev", "lo"]);
        connect_to(host, PAGE).ok()
    });
    assert_eq!(get(host, "/healthz").status, 200);
}

#[test]
fn a_unix_socket_is_closed_to_others_and_goes_with_the_daemon() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &Configuration::new(host, &[2], Family::V4));
    let path = place.path("page.sock");
    place.configure(&with_page(host, &[2], &format!("unix:{}", path.display())));
    // What a daemon left that was killed is replaced.
    drop(UnixListener::bind(&path).unwrap());
    let daemon = place.start();
    let there = fs::metadata(&path).unwrap();
    assert_eq!(there.permissions().mode() & 0o777, 0o660);
    assert_eq!(there.uid(), 0);
    assert_eq!(ask(connect_unix(&path).unwrap(), HEALTH).status, 200);
    let mut events = Events::listen(connect_unix(&path).unwrap()).ok().unwrap();
    assert_eq!(events.next()["status"]["pid"], daemon.pid());
    daemon.terminate();
    assert!(!exists(&path) && !exists(&place.path("page.sock.new")));
}

#[test]
fn a_socket_beside_those_of_the_daemon_is_taken_for_no_daemon() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &Configuration::new(host, &[2], Family::V4));
    let path = place.runtime().join("page.sock");
    place.configure(&with_page(host, &[2], &format!("unix:{}", path.display())));
    let daemon = place.start();
    wait_for("the page", || connect_unix(&path).ok());
    for verb in ["status", "reload", "down"] {
        let output = place.run(verb, &[]);
        assert!(output.status.success(), "{verb}: {output:?}");
    }
    drop(daemon);
    assert!(!exists(&place.runtime()), "something stays behind");
}

#[test]
fn what_is_no_socket_of_ours_stays() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &Configuration::new(host, &[2], Family::V4));
    let (file, socket) = (place.path("letter.txt"), place.path("theirs.sock"));
    fs::write(&file, "dear reader").unwrap();
    let _theirs = UnixListener::bind(&socket).unwrap();
    let daemon = place.start();
    for (path, part) in [
        (&file, "is there and no socket"),
        (&socket, "another program serves"),
        (&place.path("none/page.sock"), "cannot make the socket"),
    ] {
        place.configure(&with_page(host, &[2], &format!("unix:{}", path.display())));
        let output = place.run("reload", &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part) && said.contains("[observe]"), "{said}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "dear reader");
    assert!(connect_unix(&socket).is_ok());
    daemon.terminate();
    assert!(exists(&socket));
}
