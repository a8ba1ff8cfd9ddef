//! Two hosts with containers, built in network namespaces, to see what a tunnel does: real traffic on the real kernel.
//!
//! [`run`] goes through the parts in order, tells each as it happens, and removes everything again, whatever happens:
//!
//! 1. rights: root, or root of a user namespace of its own
//! 2. one demo at a time; what a killed one left is removed (`place`, `topology`)
//! 3. hosts, daemons, containers (`layout`, `topology`, `daemon`)
//! 4. round trips (`reach`), throughput (`throughput`, `load`), the journey of one packet (`journey`)
//! 5. removal, and a look that nothing is left
//!
//! Nothing is made in the caller's own network namespace, and no other program is needed.

mod journey;
mod layout;
mod reach;
mod report;
mod throughput;
mod topology;

use std::time::{Duration, Instant};

use crate::api::Status;
use crate::lab::daemon::{Daemon, Keys, Way};
use crate::lab::namespace::Namespace;
use crate::lab::place::{Lock, Place};
use crate::lab::screen::Screen;
use crate::lab::watch::Watch;
use crate::lab::{become_able, net, new_key, print_json};
use crate::{Failure, Result};
use layout::{ADIT, BRIDGE, CARD, HOSTS, UNDERLAY_MTU};
use report::{Buffers, Pairs, Removed, Report, drawing, text};
use topology::Topology;

/// What names the lock and the files of a run.
const KIND: &str = "demo";

/// What `adit demo` was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// One JSON document on standard output in place of the text.
    pub json: bool,
    /// Keep everything until a key is pressed, and print how to enter each container.
    pub keep: bool,
    /// Short measurements: under ten seconds in all.
    pub quick: bool,
}

/// How much is measured.
struct Effort {
    pings: usize,
    load: throughput::Plan,
}

impl Effort {
    fn of(options: Options) -> Self {
        if options.quick {
            Self { pings: 5, load: throughput::Plan { duration: Duration::from_millis(700), rounds: 1 } }
        } else {
            Self { pings: 20, load: throughput::Plan { duration: Duration::from_secs(2), rounds: 2 } }
        }
    }
}

/// Builds the demo, shows it, and removes it again.
///
/// # Errors
/// The step that failed, after everything was removed.
pub fn run(options: Options) -> Result<()> {
    // Signals and namespaces of this process can be arranged only while it has a single thread.
    let watch = Watch::new()?;
    let lock = Lock::take(KIND)?;
    let start = Instant::now();
    let rootless = become_able()?;
    let screen = Screen::new(options.json);
    let (place, had_files) = Place::make(KIND)?;
    let repaired = Namespace::remove_leftovers(layout::PREFIX)?;
    if had_files || !repaired.is_empty() {
        screen.say("Removed what an earlier run left behind.");
    }

    let mut stage = Stage { topology: None, daemons: Vec::new(), place };
    let told = tell(&mut stage, options, rootless, (&screen, &watch));
    screen.progress("removing everything");
    let removed = stage.remove();
    drop(lock);
    match (told, removed) {
        (Ok(mut report), Ok(removed)) => {
            let (namespaces, daemons) = (removed.namespaces.len(), removed.daemons.len());
            screen.heading(5, "Removed");
            screen.say(&format!(
                "   {namespaces} namespaces with all devices and routes in them, {daemons} daemons, all files. {}\n",
                screen.style().good("Nothing is left.")
            ));
            report.removed = removed;
            report.repaired = repaired;
            report.seconds = start.elapsed().as_secs_f64();
            if options.json { print_json(&report) } else { Ok(()) }
        }
        (Err(failure), Ok(_)) => Err(failure.with_remedy("everything was removed")),
        (Ok(_), Err(failure)) => Err(failure),
        (Err(failure), Err(removal)) => Err(failure.with_remedy(removal)),
    }
}

/// What is built and has to go.
struct Stage {
    topology: Option<Topology>,
    /// In the order of the hosts.
    daemons: Vec<Daemon>,
    place: Place,
}

impl Stage {
    /// Builds it; answers what the daemons say of themselves.
    fn build(&mut self, watch: &Watch) -> Result<Vec<Status>> {
        let topology = self.topology.insert(Topology::hosts()?);
        let [berlin, paris] = [new_key()?, new_key()?];
        for (host, own, other) in HOSTS.iter().zip([(&berlin, &paris), (&paris, &berlin)]).map(|(h, (o, p))| (h, o, p))
        {
            watch.check()?;
            let end = ADIT.end(host, Way::Sealed(Keys { own, other: other.public_key() }));
            self.daemons.push(Daemon::start(&end, topology.host(host)?.net(), self.place.path())?);
        }
        self.daemons.iter_mut().try_for_each(|daemon| daemon.wait_ready(watch))?;
        let states = self.daemons.iter().map(|daemon| daemon.wait_session(watch)).collect::<Result<Vec<_>>>()?;
        // What fits into the tunnel on every host.
        let mtu = states.iter().map(|status| status.device.mtu).min().unwrap_or(UNDERLAY_MTU);
        topology.add_containers(mtu)?;
        Ok(states)
    }

    /// Removes all of it, and looks whether anything is left.
    fn remove(self) -> Result<Removed> {
        let Self { topology, daemons, place } = self;
        let pids = daemons.iter().map(Daemon::pid).collect();
        // Each step is tried whether or not those before it worked.
        let stopped = Daemon::stop_all(daemons);
        let namespaces = topology.map_or_else(|| Ok(Vec::new()), Topology::remove);
        let files = place.remove();
        stopped?;
        let namespaces = namespaces?;
        files?;
        let left = Namespace::present(layout::PREFIX)?;
        if left.is_empty() {
            Ok(Removed { complete: true, namespaces, daemons: pids })
        } else {
            Err(Failure::failed(format!("namespaces are left: {}", left.join(", "))))
        }
    }
}

fn tell(stage: &mut Stage, options: Options, rootless: bool, (screen, watch): (&Screen, &Watch)) -> Result<Report> {
    let effort = Effort::of(options);
    let style = screen.style();
    screen.say(&format!(
        "{}: two hosts with containers, joined by an encrypted tunnel that runs in user space.",
        style.bold("adit demo")
    ));
    screen.progress("building hosts, daemons and containers");
    let states = stage.build(watch)?;
    let Stage { topology: Some(topology), daemons, place } = stage else {
        return Err(Failure::failed("the demo has no topology"));
    };
    let drawn = describe(&states);
    let buffers = buffers(&states);
    screen.heading(1, "What was built, each box a network namespace");
    screen.say(&drawing::draw(&drawn));
    screen.say("");
    screen.say(&text::under_drawing(&drawn, &buffers, rootless));

    screen.heading(2, &format!("Round trips (ICMP echo, {} each)", effort.pings));
    screen.say(&text::reach_head(style));
    let mut reachability = Vec::new();
    for attempt in &reach::paths(topology)? {
        screen.progress(attempt.path);
        let reach = reach::measure(attempt, effort.pings, watch)?;
        screen.say(&text::reach(&reach, style));
        reachability.push(reach);
    }
    screen.progress("every container to every other");
    let pairs: Pairs = reach::all_pairs(topology, watch)?;
    screen.say(&format!("\n{}", text::pairs(pairs, style)));

    screen.heading(3, "Throughput");
    let throughput = throughput::measure(topology, daemons, place.path(), effort.load, (screen, watch))?;
    screen.say(&text::throughput(&throughput, style));
    let (seconds, rounds) = (effort.load.duration.as_secs_f64(), effort.load.rounds);
    screen.say(&format!("\n{}", text::throughput_notes(&throughput, seconds, rounds)));

    let (packet, hops) = journey::follow(topology, watch)?;
    let (from, to, size) = (&packet.from, &packet.to, packet.payload_bytes);
    screen.heading(4, &format!("The journey of one packet: UDP, {size} bytes, from web {from} to app {to}"));
    let per_call = throughput.iter().find(|row| row.encrypted).and_then(|row| row.packets_per_call);
    screen.say(&text::journey(&packet, &hops, style));
    screen.say(&format!("\n{}", text::journey_notes(&packet, per_call)));

    if options.keep {
        keep(rootless, options.json, (screen, watch))?;
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        rootless,
        seconds: 0.0,
        repaired: Vec::new(),
        topology: drawn,
        reachability,
        pairs,
        throughput,
        journey: hops,
        packet,
        buffers,
        removed: Removed::default(),
    })
}

/// Holds everything until somebody presses Enter or Ctrl-C.
fn keep(rootless: bool, json: bool, (screen, watch): (&Screen, &Watch)) -> Result<()> {
    let names = HOSTS.iter().flat_map(|host| host.containers).map(|container| container.namespace());
    let names: Vec<_> = names.chain(HOSTS.iter().map(layout::Host::namespace)).collect();
    let enter = |name: &String| {
        if rootless {
            // The names live in our own mount namespace, so that has to be entered first.
            let pid = std::process::id();
            format!("nsenter -t {pid} -U -m --preserve-credentials nsenter --net=/run/netns/{name} sh")
        } else {
            format!("ip netns exec {name} sh")
        }
    };
    let commands: Vec<_> = names.iter().map(|name| format!("   {}", enter(name))).collect();
    let [_, paris] = &HOSTS;
    let ([app, _], title) = (&paris.containers, "Kept. To enter a container or a host, type in another terminal:");
    let text = format!(
        "\n{}\n\n{}\n\n   In web, for instance: ping {}, which is {} on {}.\n   Press Enter or Ctrl-C to remove everything.",
        screen.style().bold(title),
        commands.join("\n"),
        ADIT.address(paris, app),
        app.name,
        paris.name
    );
    if json {
        eprintln!("{text}")
    } else {
        screen.say(&text)
    }
    watch.enter_or_signal()
}

fn describe(states: &[Status]) -> report::Topology {
    let host = |(host, status): (&layout::Host, &Status)| report::Host {
        name: host.name,
        namespace: host.namespace(),
        underlay: net(host.underlay(), 24).to_string(),
        bridge: BRIDGE,
        gateway: net(ADIT.gateway(host), 24).to_string(),
        device: status.device.name.clone(),
        addresses: status.device.addresses.iter().map(ToString::to_string).collect(),
        mtu: status.device.mtu,
        offloads: status.device.offloads.clone(),
        listen: status.transport.listen.to_string(),
        transport: status.peers.first().map(|peer| peer.transport.clone()).unwrap_or_default(),
        encrypted: status.peers.iter().all(|peer| peer.secure),
        suite: status.peers.first().and_then(|peer| peer.suite.clone()),
        routed: ADIT.subnet(host.other()).to_string(),
        containers: host
            .containers
            .iter()
            .map(|container| report::Container {
                name: container.name,
                namespace: container.namespace(),
                device: CARD,
                address: ADIT.address(host, container).to_string(),
                port: container.port,
            })
            .collect(),
    };
    report::Topology {
        underlay: "veth pair",
        underlay_mtu: UNDERLAY_MTU,
        hosts: HOSTS.iter().zip(states).map(host).collect(),
    }
}

fn buffers(states: &[Status]) -> Vec<Buffers> {
    let granted = |(host, status): (&layout::Host, &Status)| Buffers {
        host: host.name,
        receive: status.transport.receive_buffer,
        send: status.transport.send_buffer,
    };
    HOSTS.iter().zip(states).map(granted).collect()
}
