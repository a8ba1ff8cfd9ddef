//! Daemons: this same program as `adit up`, in a host's namespace, on a configuration that we write.
//!
//! Each ends by itself when its standard input closes, so none outlives the run, whatever ends that.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use linux::netns::NetNs;
use linux::poll::readable;

use super::watch::Watch;
use crate::api::status::PeerStatus;
use crate::api::{self, Status};
use crate::key::{PrivateKey, PublicKey};
use crate::{Failure, Result};

/// How long a daemon may take until it is ready.
const READY: Duration = Duration::from_secs(10);
/// How long two daemons may take until they have a session: the first call of one may come before the other is there, and the next
/// goes out five seconds later.
const SESSION: Duration = Duration::from_secs(15);
/// How long it may take to remove what it has set up.
const STOP: Duration = Duration::from_secs(5);
/// How much of a daemon's log a failure quotes, in lines.
const QUOTED: usize = 3;

/// How a daemon carries packets.
#[derive(Clone, Copy)]
pub(crate) enum Way<'a> {
    /// Encrypted.
    Sealed(Keys<'a>),
    /// Encrypted as WireGuard does.
    WireGuard(Keys<'a>),
    /// Encrypted, and frames in place of packets: the device is a TAP.
    Tap(Keys<'a>),
    /// As they are, in super-packets.
    Plain,
    /// As they are, one by one.
    Classic,
}

/// Who speaks to whom.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    /// Its own key.
    pub(crate) own: &'a PrivateKey,
    /// Who the other end is.
    pub(crate) other: PublicKey,
}

impl<'a> Way<'a> {
    fn keys(self) -> Option<Keys<'a>> {
        match self {
            Self::Sealed(keys) | Self::WireGuard(keys) | Self::Tap(keys) => Some(keys),
            Self::Plain | Self::Classic => None,
        }
    }
}

/// One end of a tunnel between two hosts.
pub(crate) struct End<'a> {
    /// The host it is on.
    pub(crate) host: &'static str,
    /// Its tunnel device, which names it together with the host.
    pub(crate) device: &'static str,
    /// The device's address.
    pub(crate) own: IpNet,
    /// Where it takes datagrams.
    pub(crate) listen: SocketAddr,
    /// The host of the other end.
    pub(crate) peer: &'static str,
    /// Where that takes datagrams.
    pub(crate) endpoint: SocketAddr,
    /// What lives behind it.
    pub(crate) allowed: Vec<IpNet>,
    pub(crate) way: Way<'a>,
}

/// A running daemon; stopped with this value.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    device: &'static str,
    host: &'static str,
    runtime: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts the daemon of `end` in the namespace of its host. `place` is a directory for the files of this run, its key among them.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn start(end: &End<'_>, net: &NetNs, place: &Path) -> Result<Self> {
        let directory = place.join(format!("{}-{}", end.host, end.device));
        let failed =
            |what: &str, error| Failure::failed(format!("cannot {what} for the daemon on {}: {error}", end.host));
        DirBuilder::new().mode(0o700).create(&directory).map_err(|error| failed("make a directory", error))?;
        let (file, log) = (directory.join("adit.toml"), directory.join("log"));
        let (runtime, state) = (directory.join("run"), directory.join("state"));
        let written = create_private(&file).and_then(|mut file| file.write_all(configuration(end).as_bytes()));
        written.map_err(|error| failed("write a file", error))?;
        if let Some(Keys { own, .. }) = end.way.keys() {
            let written = create_private(&directory.join(KEY)).and_then(|file| own.write(file));
            written.map_err(|error| failed("write a key", error))?;
        }
        let errors = File::create(&log).map_err(|error| failed("open a log", error))?;
        let program = std::env::current_exe().map_err(|error| failed("find this program", error))?;
        let mut command = Command::new(program);
        command.arg("up").arg("--until-stdin-closes").arg("--config").arg(&file);
        command.arg("--runtime-dir").arg(&runtime).arg("--state-dir").arg(&state);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        // A Ctrl-C on the terminal is for us: its own group keeps the daemon out of it.
        command.process_group(0);
        // It inherits our signal mask, which blocks just what a daemon blocks anyway; to unblock it here for the child would
        // expose ourselves for that moment.
        let spawned = net.run(|| command.spawn())?;
        let child = spawned.map_err(|error| failed("start a process", error))?;
        Ok(Self { child, device: end.device, host: end.host, runtime, log })
    }

    /// Waits for the line that says that it is ready.
    ///
    /// # Errors
    /// It ended, or is not ready in time; what it wrote last is quoted.
    pub(crate) fn wait_ready(&mut self, watch: &Watch) -> Result<()> {
        let deadline = Instant::now() + READY;
        let mut byte = [0];
        while byte != *b"\n" {
            watch.check()?;
            let Some(output) = &mut self.child.stdout else { break };
            let [ready] = readable([output.as_fd()], Some(Duration::from_millis(20)))?;
            if ready && matches!(output.read(&mut byte), Ok(0) | Err(_)) {
                return Err(self.failure("ended before it was ready"));
            }
            if Instant::now() > deadline {
                return Err(self.failure("is not ready after 10 seconds"));
            }
        }
        Ok(())
    }

    /// Waits until it has a session with the other end, and answers what it says of itself then.
    ///
    /// # Errors
    /// There is none in time; what the daemon says about it is quoted.
    pub(crate) fn wait_session(&self, watch: &Watch) -> Result<Status> {
        let up = |peer: &PeerStatus| peer.session == "up";
        let status = watch.until(SESSION, || Ok(Some(self.status()?).filter(|status| status.peers.iter().all(up))))?;
        match status {
            Some(status) => Ok(status),
            None => {
                let problem = self.status()?.peers.into_iter().find_map(|peer| peer.problem);
                let problem = problem.map_or_else(String::new, |problem| format!(" ({problem})"));
                Err(self.failure(&format!("has no session after {} seconds{problem}", SESSION.as_secs())))
            }
        }
    }

    fn failure(&self, what: &str) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines.get(lines.len().saturating_sub(QUOTED)..).unwrap_or_default().join(" / ");
        let quoted = if last.is_empty() { String::new() } else { format!(": {last}") };
        Failure::failed(format!("the daemon for {} on {} {what}{quoted}", self.device, self.host))
    }

    /// What the daemon says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) fn status(&self) -> Result<Status> {
        Ok(api::status(&self.runtime, self.device)?)
    }

    /// Asks it to stop, without waiting.
    pub(crate) fn ask_to_stop(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Its process id, as seen from here.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn stop(&mut self) -> Result<()> {
        self.ask_to_stop();
        let deadline = Instant::now() + STOP;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.failure(&format!("did not stop cleanly ({status})"))),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                Ok(None) | Err(_) => break,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        Err(self.failure("did not stop when asked and was killed"))
    }

    /// Stops several, all at once.
    ///
    /// # Errors
    /// The first that did not stop cleanly. None of them runs any more.
    pub(crate) fn stop_all(mut daemons: Vec<Self>) -> Result<()> {
        daemons.iter_mut().for_each(Self::ask_to_stop);
        daemons.iter_mut().map(Self::stop).fold(Ok(()), Result::and)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Without effect on one that was waited for.
        let _ = self.stop();
    }
}

/// The name of its key file, beside the configuration.
const KEY: &str = "private.key";

fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// What a person would write for this host.
fn configuration(end: &End<'_>) -> String {
    let End { device, own, listen, peer, endpoint, .. } = end;
    let offload = !matches!(end.way, Way::Classic);
    let transport = match end.way {
        Way::Sealed { .. } | Way::Tap { .. } => "sealed",
        Way::WireGuard { .. } => "wireguard",
        Way::Plain | Way::Classic => "plain",
    };
    let (key_file, public_key) = match end.way.keys() {
        Some(Keys { other, .. }) => (format!("private-key-file = \"{KEY}\"\n"), format!("public-key = \"{other}\"\n")),
        None => (String::new(), String::new()),
    };
    let allowed: Vec<_> = end.allowed.iter().map(|prefix| format!("\"{prefix}\"")).collect();
    // A switch learns where addresses are: its peers have no prefixes.
    let (mode, allowed) = match end.way {
        Way::Tap(_) => ("mode = \"tap\"\n", String::new()),
        _ => ("", format!("allowed-ips = [{}]\n", allowed.join(", "))),
    };
    format!(
        r#"[device]
name = "{device}"
{mode}addresses = ["{own}"]
{key_file}
[transport]
listen = "{listen}"
offload = {offload}

[[peer]]
name = "{peer}"
endpoint = "{endpoint}"
{allowed}transport = "{transport}"
{public_key}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{ip_net, new_key};

    #[test]
    fn our_configurations_are_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let (own, other) = (new_key().unwrap(), new_key().unwrap().public_key());
        own.write(create_private(&directory.path().join(KEY)).unwrap()).unwrap();
        let keys = Keys { own: &own, other };
        for (way, offload) in [
            (Way::Sealed(keys), true),
            (Way::Tap(keys), true),
            (Way::WireGuard(keys), true),
            (Way::Plain, true),
            (Way::Classic, false),
        ] {
            let end = End {
                host: "berlin",
                device: "adit0",
                own: ip_net([10, 77, 0, 1].into(), 24),
                listen: "192.0.2.1:7777".parse().unwrap(),
                peer: "paris",
                endpoint: "192.0.2.2:7777".parse().unwrap(),
                allowed: vec![ip_net([10, 77, 0, 2].into(), 32), ip_net([10, 42, 2, 0].into(), 24)],
                way,
            };
            let tunnel = crate::config::parse(&directory.path().join("adit.toml"), configuration(&end)).unwrap();
            assert_eq!(tunnel.transport.offload, offload);
            assert_eq!(tunnel.device.name, "adit0");
            let peer = tunnel.peers.first().unwrap();
            assert_eq!(peer.transport != crate::config::TransportKind::Plain, way.keys().is_some());
        }
    }
}
