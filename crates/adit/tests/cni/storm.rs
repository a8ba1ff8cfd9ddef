//! Many containers at once, and plugins that are killed at any moment: no address is given out twice, and GC removes all that is left.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::world::{Answer, Ask, Container, Host, addresses};

/// How many runtimes call plugins at the same time.
const AT_ONCE: usize = 16;

/// How many containers there are in all, unless `ADIT_CNI_ROUNDS` says another number.
const ROUNDS: usize = 100;

/// Numbers that nobody foresees, from a seed that a failing test tells.
struct Dice(AtomicU64);

impl Dice {
    fn new() -> Self {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
        println!("the seed is {seed}");
        Self(AtomicU64::new(seed))
    }

    /// A number below `end`.
    fn below(&self, end: u64) -> u64 {
        // An odd step through all numbers, stirred (splitmix64).
        let mut x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }
}

/// What is known of all containers.
#[derive(Default)]
struct Book {
    /// Who has an address, as far as runtimes were told.
    owners: HashMap<IpAddr, String>,
    /// Containers that are to stay, with their results.
    kept: Vec<(Container, Value)>,
    /// Containers whose plugin was killed, and which nobody has looked after.
    left: Vec<Container>,
}

struct Storm<'a> {
    host: &'a Host,
    dice: Dice,
    book: Mutex<Book>,
    /// How long an undisturbed ADD takes.
    usual: Duration,
    killed: AtomicUsize,
}

impl Storm<'_> {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a plugin, which is killed by chance at some moment of its life; nothing is said then.
    fn call(&self, ask: &Ask<'_>) -> Option<Answer> {
        let mut child = ask.start();
        if self.dice.below(3) == 0 {
            // Not a wait for anything to happen: where in its work it is hit is what is drawn.
            thread::sleep(Duration::from_micros(self.dice.below(self.usual.as_micros() as u64 * 2)));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
            }
        }
        let answer = Answer::of(child, false);
        if answer.exit_code.is_none() {
            self.killed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        assert_eq!(answer.exit_code, Some(0), "{answer:?}");
        Some(answer)
    }

    /// The life of one container.
    fn round(&self, number: usize) {
        let container = Container::new(&format!("c{number}"));
        let ports = json!([{"hostPort": 10_000 + number, "containerPort": 80, "protocol": "tcp"}]);
        let add = self.host.ours("ADD", &container).version("1.1.0");
        let add =
            if number.is_multiple_of(4) { add.with("runtimeConfig", json!({"portMappings": ports})) } else { add };
        let Some(answer) = self.call(&add) else {
            if self.dice.below(2) == 0 {
                return self.remove(container);
            }
            return self.book().left.push(container);
        };
        let result: Value = serde_json::from_str(&answer.text).unwrap();
        {
            let mut book = self.book();
            for ip in addresses(&result) {
                let other = book.owners.insert(ip, container.id.clone());
                assert_eq!(other, None, "{ip} is given to {} too", container.id);
            }
        }
        self.host.ours("CHECK", &container).version("1.1.0").previous(&result).done();
        if self.dice.below(3) == 0 {
            return self.book().kept.push((container, result));
        }
        for ip in addresses(&result) {
            self.book().owners.remove(&ip);
        }
        self.remove(container);
    }

    /// Calls DEL until it has had its way, or leaves what is left to GC.
    fn remove(&self, container: Container) {
        while self.call(&self.host.ours("DEL", &container)).is_none() {
            if self.dice.below(3) == 0 {
                return self.book().left.push(container);
            }
        }
        assert!(container.link("eth0").is_none(), "{} has its device still", container.id);
    }
}

#[test]
fn no_address_is_given_twice_and_nothing_is_left_after_gc() {
    let rounds = std::env::var("ADIT_CNI_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let host = Host::with(&["10.42.64.0/20", "fd42:0:0:7::/64"]);
    let first = Container::new("first");
    let start = Instant::now();
    host.ours("ADD", &first).result();
    let usual = start.elapsed();
    host.ours("DEL", &first).done();
    let storm = Storm { host: &host, dice: Dice::new(), book: Mutex::default(), usual, killed: AtomicUsize::new(0) };
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= rounds {
                        break;
                    }
                    storm.round(number);
                }
            });
        }
    });
    let killed = storm.killed.load(Ordering::Relaxed);
    let Book { kept, left, .. } = storm.book.into_inner().unwrap();
    println!("{rounds} containers, {killed} plugins killed, {} kept, {} left to GC", kept.len(), left.len());
    assert!(killed >= rounds / 20, "the storm killed {killed} plugins in {rounds} rounds");

    // What containers have in fact, those included of whom nobody was told.
    let mut owners = HashMap::new();
    for container in kept.iter().map(|(container, _)| container).chain(&left) {
        if container.link("eth0").is_some() {
            for net in container.addresses("eth0") {
                let other = owners.insert(net.addr(), &container.id);
                assert_eq!(other, None, "{net} is given to {} too", container.id);
            }
        }
    }

    let valid = |of: &[(Container, Value)]| {
        let valid = of.iter().map(|(container, _)| json!({"containerID": container.id, "ifname": "eth0"}));
        host.of_all("GC").with("cni.dev/valid-attachments", valid.collect::<Vec<_>>())
    };
    valid(&kept).done();
    let mut recorded: Vec<_> = host.records().into_iter().map(|record| record.key.container).collect();
    let mut expected: Vec<_> = kept.iter().map(|(container, _)| container.id.clone()).collect();
    recorded.sort();
    expected.sort();
    assert_eq!(recorded, expected);
    assert_eq!(host.files().len(), kept.len(), "{:?}", host.files());
    let ends = host.netlink().links().unwrap().into_iter().filter(|link| link.kind.as_deref() == Some("veth")).count();
    assert_eq!(ends, kept.len(), "ends of veth pairs on the host");
    for (container, result) in &kept {
        host.ours("CHECK", container).version("1.1.0").previous(result).done();
    }
    assert!(left.iter().all(|container| container.link("eth0").is_none()));
    valid(&[]).done();
    host.assert_clean();
}
