//! Who is slow, or wants much, costs little, and others nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::bed::daemon::Place;
use crate::bed::{Bed, PATIENCE, wait_for};
use crate::visitor::{Events, configuration, connect, get};

/// As many may listen to events, and as many be connected.
const LISTENERS: usize = 16;
const CONNECTIONS: usize = 32;

/// The server's patience, and what a busy machine may add.
const SERVERS: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(18);

/// Reads until the other end has enough; answers how much came.
fn read_to_end(stream: &mut TcpStream) -> usize {
    let (mut bytes, mut total) = ([0; 65536], 0);
    // A reset is an end as well.
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        total += length;
    }
    total
}

#[test]
fn who_says_nothing_or_little_by_little_is_sent_away() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let _daemon = place.start();
    let begun = Instant::now();
    let mut silent: Vec<TcpStream> = (0..CONNECTIONS - 3).map(|_| connect(host)).collect();
    let mut idle = connect(host);
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut drip = connect(host);
    drip.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").unwrap();
    drip.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut last = connect(host);
    last.write_all(b"G").unwrap();
    // All seats are taken: who comes now gets one when the first of them is sent away.
    assert_eq!(get(host, "/healthz").status, 200);
    assert!(begun.elapsed() < LONGEST, "{:?}", begun.elapsed());
    assert!(begun.elapsed() > SERVERS / 2, "the seats were not taken");
    wait_for("the end of one who goes on and on", || {
        let sent = drip.write_all(b"A: b\r\n");
        (sent.is_err() || matches!(drip.read(&mut [0; 512]), Ok(0))).then_some(())
    });
    for stream in silent.iter_mut().chain([&mut last]) {
        read_to_end(stream);
    }
    assert!(read_to_end(&mut idle) > 0, "its request was answered");
    assert!(begun.elapsed() < 2 * LONGEST, "{:?}", begun.elapsed());
}

#[test]
fn who_takes_nothing_of_what_was_asked_for_is_sent_away() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let daemon = place.start();
    let before = daemon.memory();
    let mut greedy = connect(host);
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    // The answers fill all buffers between us, then ours stay there as well.
    greedy.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut asked = 0;
    while let Ok(length @ 1..) = greedy.write(&request) {
        asked += length;
    }
    assert!(asked > 10 * request.len(), "{asked}");
    assert_eq!(get(host, "/healthz").status, 200, "others are answered meanwhile");
    let grown = daemon.memory().saturating_sub(before);
    assert!(grown < 2 << 20, "{grown} bytes are held for who takes nothing");
    let begun = Instant::now();
    wait_for("its end", || {
        // Without taking anything: writing fails once the other end is gone.
        let gone = matches!(greedy.take_error(), Ok(Some(_)))
            || greedy.write(b"\r\n").is_err_and(|e| e.raw_os_error() != Some(11));
        gone.then_some(())
    });
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn so_many_may_look_and_questions_with_an_end_are_answered_all_the_same() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let daemon = place.start();
    let mut all: Vec<Events> =
        (0..LISTENERS).map(|_| Events::listen(connect(host)).unwrap_or_else(|status| panic!("{status}"))).collect();
    assert_eq!(Events::listen(connect(host)).err(), Some(503));
    assert_eq!(get(host, "/healthz").status, 200);
    for events in &mut all {
        assert_eq!(events.next()["status"]["pid"], daemon.pid());
    }
    all.pop();
    // That somebody is gone is noticed when there is something to tell.
    wait_for("a place", || Events::listen(connect(host)).ok());
    // An end does not wait for those who look.
    let begun = Instant::now();
    daemon.terminate();
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
}
