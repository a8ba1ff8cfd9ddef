//! `adit trace`

use std::fs;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux::netns::NetNs;

use super::{Network, output};
use crate::api::{self, Request, Response};
use crate::config;
use crate::container::{Door, Node, Record, Store, run};
use crate::observe::trace::journey::Journey;
use crate::observe::trace::observation::{Observation, Place, Protocol, Trace};
use crate::observe::trace::send::{self, Sent};
use crate::observe::trace::{Sought, Wish, drawing, json, pcapng, svg, told};
use crate::resolver::lookup;
use crate::{Directories, Failure, Result};

const AFTER_HELP: &str = "\
Examples:
  adit trace 10.42.1.2                      from this host, by three echo requests
  adit trace 10.42.1.2 --from web           from the container web
  adit trace web2 --tcp 443                 to a container of this host, by TCP SYNs
  adit trace 10.42.1.2 --size 1400          whether packets of that size pass
  adit trace 10.42.1.2 --super --svg a.svg  one super-packet of 32 KiB, as a figure
  adit trace 10.42.1.2 --pcap a.pcapng      what was seen, for Wireshark

Hosts on the way are asked inside their sealed sessions, and look if their configuration says
[observe] allow = [\"trace\"]. The exit code is 1 if no probe was answered. See docs/TRACE.md.";

/// How long the daemon may take to ask hosts on the way, and to have what they saw.
const PATIENCE: Duration = Duration::from_secs(40);

/// Columns of a drawing that is not for a terminal.
const COLUMNS: usize = 100;

/// Send probes, and show where they pass on every host that permits it
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// An address, the name of a container of this host, a name of the network, or any that resolves here
    #[arg(value_name = "DEST")]
    destination: String,

    /// Send from the network of this container instead of this host
    #[arg(long, value_name = "CONTAINER")]
    from: Option<String>,

    /// Send ICMP echo requests (the default)
    #[arg(long, group = "kind")]
    icmp: bool,

    /// Send UDP datagrams to this port
    #[arg(long, value_name = "PORT", group = "kind", value_parser = clap::value_parser!(u16).range(1..))]
    udp: Option<u16>,

    /// Send TCP SYNs to this port
    #[arg(long, value_name = "PORT", group = "kind", value_parser = clap::value_parser!(u16).range(1..))]
    tcp: Option<u16>,

    /// The size of each packet in bytes, its IP header included
    #[arg(long, value_name = "BYTES")]
    size: Option<u32>,

    /// Let the first probe be a super-packet of 32 KiB (UDP)
    #[arg(long = "super")]
    super_packet: bool,

    /// How many probes
    #[arg(long, value_name = "N", default_value_t = 3)]
    count: u32,

    /// Print the journey as JSON
    #[arg(long)]
    json: bool,

    /// Write the journey as a figure
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Write what was seen as pcapng
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,

    #[command(flatten)]
    network: Network,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let Network { device, places } = &self.network;
        config::check_device(device).map_err(|fault| Failure::usage(format!("{device:?} {fault}")))?;
        if self.from.is_some() {
            // Whose networks are entered, and records read, by root alone.
            run::check(device)?;
        }
        let directories = places.clone().directories();
        let containers = Store::of(&directories, device).read_all().unwrap_or_default();
        let destination = self.destination(&directories, &containers)?;
        let mut wish = self.wish(destination);
        wish.check()?;
        if !self.icmp && self.from.is_none() && !send::may_send(&wish) {
            wish = wish.by_udp();
        }
        let from = self.from.as_deref().map(|name| namespace(&containers, name)).transpose()?;
        let trace = trace(&wish, from, &directories, device)?;
        let journey = Journey::of(&trace);
        if let Some(path) = &self.svg {
            write(path, svg::svg(&journey).as_bytes())?;
        }
        if let Some(path) = &self.pcap {
            write(path, &pcapng::pcapng(&trace))?;
        }
        let text = if self.json { json::json(&journey).to_string() } else { drawing::drawing(&journey, columns()) };
        output::print(&format!("{text}\n"))?;
        // One more, that is small, may have been sent to find out why. The drawing says why.
        let asked = trace.answered.iter().take(wish.count as usize);
        if asked.flatten().next().is_some() { Ok(()) } else { Err(Failure::told(1)) }
    }

    fn wish(&self, destination: IpAddr) -> Wish {
        let (protocol, port) = match (self.udp, self.tcp) {
            (Some(port), _) => (Protocol::Udp, port),
            (None, Some(port)) => (Protocol::Tcp, port),
            (None, None) if self.super_packet && !self.icmp => (Protocol::Udp, send::TRACEROUTE),
            (None, None) => (Protocol::Icmp, 0),
        };
        Wish { destination, protocol, port, size: self.size, super_packet: self.super_packet, count: self.count }
    }

    /// The address that is meant: as it is, or by the name of a container of this host, of the network, or of whatever the host resolves.
    fn destination(&self, directories: &Directories, containers: &[Record]) -> Result<IpAddr> {
        let (text, device) = (self.destination.as_str(), &self.network.device);
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.to_canonical());
        }
        if let Some(address) = find(containers, text).and_then(|record| record.addresses.first()) {
            return Ok(address.addr());
        }
        // Who may not read the records is told of them by the daemon.
        let network = api::status(&directories.runtime, device).ok().and_then(|status| status.network);
        let shown = network.iter().flat_map(|network| &network.containers).find(|shown| shown.name == text);
        if let Some(address) = shown.and_then(|shown| shown.addresses.first()) {
            return Ok(address.addr());
        }
        if let Ok(node) = Node::read(directories, device)
            && lookup::is_ours(&node, text)
        {
            return in_network(&node, text);
        }
        resolved(text)
    }
}

/// The trace: the daemon watches, we send.
fn trace(wish: &Wish, from: Option<(String, NetNs)>, directories: &Directories, device: &str) -> Result<Trace> {
    let path = api::control_socket(&directories.runtime, device);
    let (id, sought, host) = match api::call_within(&path, Request::TraceBegin(*wish), PATIENCE)? {
        Response::Tracing { id, sought, host } => (id, sought, host),
        other => return Err(unexpected(device, other)),
    };
    let sent = match &from {
        None => send::run(wish, &sought).map(|sent| (sent, Vec::new())),
        Some((name, namespace)) => send_from(wish, &sought, (name, namespace), &host),
    };
    // Also where nothing could be sent: it is to end.
    let mut gathered = match api::call_within(&path, Request::TraceCollect(id), PATIENCE)? {
        Response::Traced(gathered) => *gathered,
        other => return Err(unexpected(device, other)),
    };
    let (sent, seen) = sent?;
    gathered.observations.extend(seen);
    let from = from.map_or_else(|| host.clone(), |(name, _)| format!("{name} on {host}"));
    Ok(told(wish, from, sent, gathered))
}

/// Sends from a container, and watches its own devices meanwhile, which the daemon does not see.
fn send_from(
    wish: &Wish,
    sought: &Sought,
    (name, namespace): (&str, &NetNs),
    host: &str,
) -> Result<(Sent, Vec<Observation>)> {
    let sent = namespace.run(|| send::run_and_watch(wish, sought));
    let (sent, seen) = sent.map_err(|e| Failure::from(e).with_remedy("run as root"))??;
    let ours = seen.into_iter().map(|mut seen| {
        host.clone_into(&mut seen.host);
        if let Place::Device { name: device, .. } = &mut seen.place {
            // Another namespace, whose `eth0` is not the host's.
            *device = format!("{name}:{device}");
        }
        seen
    });
    Ok((sent, ours.collect()))
}

fn unexpected(device: &str, response: Response) -> Failure {
    match response {
        Response::Error { sentence } | Response::Fault { sentence } => Failure::failed(sentence),
        _ => Failure::failed(format!("the daemon of {device} answered something else")),
    }
}

/// The container that is meant, and its network.
fn namespace(containers: &[Record], name: &str) -> Result<(String, NetNs)> {
    let record = find(containers, name)
        .ok_or_else(|| Failure::failed(format!("there is no container {name} on this node; see `adit ps`")))?;
    let path = match (record.process, &record.netns) {
        (Some(process), _) => PathBuf::from(format!("/proc/{}/ns/net", process.pid)),
        (None, Some(path)) => path.clone(),
        (None, None) => return Err(cannot_enter(record)),
    };
    let ended = |_| Failure::failed(format!("the network of {name} at {} cannot be entered", path.display()));
    let namespace =
        NetNs::open(&path).map_err(|e| ended(e).with_remedy("see whether it still runs, and run as root"))?;
    match record.process {
        // The number may have become another's.
        Some(process) if !process.is_alive() => Err(Failure::failed(format!("the container {name} has ended"))),
        _ => Ok((record.title(), namespace)),
    }
}

/// Why probes cannot leave from there, and what to do.
fn cannot_enter(record: &Record) -> Failure {
    let title = record.title();
    match record.key.door {
        Door::Vm => Failure::failed(format!("{title} is a virtual machine, which nobody enters from outside")).with_remedy(format!(
            "send from its own console, or by ssh; or trace the other way, `adit trace {title}`, whose answers take its way"
        )),
        Door::Docker => Failure::failed(format!("{title} is a container of Docker, which tells nobody its network")).with_remedy(format!(
            "trace the other way, `adit trace {title}`, whose answers take its way"
        )),
        Door::Cni | Door::Run => Failure::failed(format!("nothing is known of the network of {title}"))
            .with_remedy("see whether it still runs: `adit ps`"),
    }
}

/// By its name, as of any door; or by its number, or the beginning of that as Docker and Podman show it.
fn find<'r>(containers: &'r [Record], name: &str) -> Option<&'r Record> {
    let named = containers.iter().find(|record| record.name.as_deref() == Some(name));
    named.or_else(|| {
        let mut numbered = containers.iter().filter(|record| name.len() >= 4 && record.key.container.starts_with(name));
        numbered.next().filter(|_| numbered.next().is_none())
    })
}

/// A name of the network, which this node's own resolver answers.
fn in_network(node: &Node, text: &str) -> Result<IpAddr> {
    match lookup::lookup(node, text).as_deref() {
        Ok([address, ..]) => Ok(*address),
        Ok([]) => Err(Failure::usage(format!("nobody in the network is called {text:?}"))
            .with_remedy("see `adit node list` for nodes, and `adit ps` on a node for its containers")),
        Err(e) => Err(Failure::failed(format!("the resolver of this node does not say who {text:?} is: {e}"))
            .with_remedy("see `adit status`, or give an address")),
    }
}

fn resolved(text: &str) -> Result<IpAddr> {
    let resolved = (text, 0).to_socket_addrs().ok().and_then(|mut all| all.next());
    resolved.map(|address| address.ip().to_canonical()).ok_or_else(|| {
        Failure::usage(format!(
            "{text:?} is no address, no name that resolves here, and no container of this host (see `adit ps`)"
        ))
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|e| Failure::failed(format!("cannot write {}: {e}", path.display())))
}

/// As the shell says, if it does.
fn columns() -> usize {
    let wide = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    wide.map_or(COLUMNS, |columns: usize| columns.clamp(60, 200))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::record::tests::record;

    #[test]
    fn containers_are_found_by_name_and_by_number() {
        let mut web = record("0123456789abcdef", &["10.42.7.2/24"]);
        web.name = Some("web".into());
        let records = [web, record("0123aaaa", &["10.42.7.3/24"])];
        let found = |name: &str| find(&records, name).map(|record| record.key.container.as_str());
        assert_eq!(found("web"), Some("0123456789abcdef"));
        assert_eq!(found("01234"), Some("0123456789abcdef"));
        assert_eq!(found("0123"), None, "which of both?");
        assert_eq!(found("012"), None);
        let failure = resolved("no such host").unwrap_err();
        assert!(failure.exit_code() == 2 && failure.sentence().contains("adit ps"), "{failure}");
    }
}
