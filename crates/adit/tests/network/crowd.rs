//! A network of many nodes: what they cost one of them. Most are in the registry alone; `ADIT_NODES=1000` makes it the size that is promised.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bed::{Bed, wait_at_most};
use crate::world::{Daemon, Node, all_talk};

#[path = "../../../registry/examples/crowd/maker.rs"]
mod maker;

use maker::Crowd;

/// How many there are unless it is said.
const NODES: usize = 100;

/// In how long what a thousand nodes wrote at once is in force.
const STORM: Duration = Duration::from_secs(10);

/// In how long one node more is, among a thousand.
const ONE_MORE: Duration = Duration::from_secs(1);

/// In how long a node is ready that remembers a thousand.
const READY: Duration = Duration::from_secs(5);

fn nodes() -> usize {
    std::env::var("ADIT_NODES").map_or(NODES, |text| text.parse().unwrap())
}

/// Waits until so many others are peers; answers for how long.
fn await_peers(daemon: &Daemon<'_, '_>, count: usize, since: Instant) -> Duration {
    wait_at_most(Duration::from_secs(60), &format!("{count} peers"), || {
        // Asking costs the daemon as well.
        std::thread::sleep(Duration::from_millis(50));
        let status = daemon.status();
        (status.peers.len() == count && status.network.is_some_and(|n| n.nodes.len() == count)).then_some(())
    });
    since.elapsed()
}

/// Memory in use, in MiB, and processor time, in seconds, of a process.
fn cost(daemon: &Daemon<'_, '_>) -> (f64, f64) {
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", daemon.child.id())).unwrap();
    let status = read("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0;
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime of proc_pid_stat(5), in hundredths.
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    (memory, ticks / 100.0)
}

#[test]
fn a_thousand_nodes_are_known_at_once_and_one_more_is_no_trouble() {
    let count = nodes();
    let bed = Bed::new(2);
    let (first, second) = (Node::new(&bed.hosts[0]), Node::new(&bed.hosts[1]));
    let token = first.init(&["--network", "10.64.0.0/12", "--subnet-len", "24"]);
    let mut one = first.up();
    second.join(&token);
    let two = second.up();
    one.await_nodes(1);
    let containers = [first.container(), second.container()];
    all_talk(&containers);
    let (few, _) = cost(&one);

    // The others are made, and then all come at once, but for the last one.
    let authority = first.path("state/adit0.network/authority");
    let enroller = format!("{}:7780", first.underlay());
    let made = Instant::now();
    let run = |to: usize, crowd: Option<Arc<Crowd>>| {
        first.host.namespace.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                match crowd {
                    None => Arc::new(Crowd::admit(&authority, &enroller, to, to.min(10)).await),
                    Some(crowd) => {
                        crowd.publish(if to == count { to - 1 } else { 0 }, to, 16).await;
                        crowd
                    }
                }
            })
        })
    };
    let crowd = run(count, None).unwrap();
    let made = made.elapsed();
    let (since, (_, before)) = (Instant::now(), cost(&one));
    let crowd = run(count - 1, Some(crowd)).unwrap();
    let written = since.elapsed();
    let settled = await_peers(&one, count, since);
    await_peers(&two, count, since);
    let (_, after) = cost(&one);
    let storm = after - before;

    // Nothing happens any more.
    let idle = Duration::from_secs(6);
    let (_, before) = cost(&one);
    std::thread::sleep(idle);
    let (many, after) = cost(&one);
    let share = (after - before) / idle.as_secs_f64();

    let (since, (_, before)) = (Instant::now(), cost(&one));
    run(count, Some(crowd)).unwrap();
    let wrote = since.elapsed();
    let one_more = await_peers(&one, count + 1, since);
    let (_, after) = cost(&one);
    let joined = after - before;
    await_peers(&two, count + 1, since);
    all_talk(&containers);

    // Both know them again; the second one without the registry.
    one.terminate();
    two.terminate();
    let since = Instant::now();
    let two = second.up();
    let alone = since.elapsed();
    assert_eq!(two.status().peers.len(), count + 1);
    let since = Instant::now();
    one = first.up();
    let ready = since.elapsed();
    assert_eq!(one.status().peers.len(), count + 1);
    all_talk(&containers);

    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!(
        "{count} nodes ({build}): made in {made:.1?}; written by 16 at once in {written:.1?}, in force at the registry's host after {settled:.1?} \
         ({storm:.1} s of processor time); memory {few:.0} MiB with 2 nodes, {many:.0} MiB with all; idle {:.1} % of a processor; one more: written \
         in {wrote:.1?}, in force after {one_more:.1?} ({joined:.2} s); ready after a restart in {ready:.1?}, without the registry in {alone:.1?}",
        100.0 * share,
    );
    assert!(settled <= STORM, "in force after {settled:?}");
    assert!(one_more <= ONE_MORE + wrote, "one more in force after {one_more:?}");
    assert!(ready <= READY && alone <= READY, "ready after {ready:?} and {alone:?}");
    assert!(share < 0.25, "idle, it takes {share} of a processor");
}
