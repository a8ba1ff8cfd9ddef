//! Daemons: this same program as `adit up`, in a host's namespace, on a configuration that we write.
//!
//! Each ends by itself when its standard input closes, so none outlives the demo, whatever ends that.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use linux::netns::NetNs;
use linux::poll::readable;

use super::layout::{Host, Lane};
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
pub(super) enum Way<'a> {
    /// Encrypted.
    Sealed {
        /// Its own key.
        own: &'a PrivateKey,
        /// Who the other end is.
        other: PublicKey,
    },
    /// As they are, in super-packets.
    Plain,
    /// As they are, one by one.
    Classic,
}

/// A running daemon; stopped with this value.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    lane: Lane,
    name: &'static str,
    runtime: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon for `lane` in the namespace of `host`. `place` is a directory for the files of this run, its key among them.
    ///
    /// # Errors
    /// It could not be started.
    pub(super) fn start(host: &Host, net: &NetNs, lane: &Lane, way: Way<'_>, place: &Path) -> Result<Self> {
        let directory = place.join(format!("{}-{}", host.name, lane.device));
        let failed =
            |what: &str, error| Failure::failed(format!("cannot {what} for the daemon on {}: {error}", host.name));
        DirBuilder::new().mode(0o700).create(&directory).map_err(|error| failed("make a directory", error))?;
        let (file, log) = (directory.join("adit.toml"), directory.join("log"));
        let (runtime, state) = (directory.join("run"), directory.join("state"));
        let written =
            create_private(&file).and_then(|mut file| file.write_all(configuration(host, lane, way).as_bytes()));
        written.map_err(|error| failed("write a file", error))?;
        if let Way::Sealed { own, .. } = way {
            let written = create_private(&directory.join(KEY)).and_then(|file| own.write(file));
            written.map_err(|error| failed("write a key", error))?;
        }
        let errors = File::create(&log).map_err(|error| failed("open a log", error))?;
        let program = std::env::current_exe().map_err(|error| failed("find this program", error))?;
        let mut command = Command::new(program);
        command.arg("up").arg("--until-stdin-closes").arg("--config").arg(&file);
        command.arg("--runtime-dir").arg(&runtime).arg("--state-dir").arg(&state);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        // A Ctrl-C on the terminal is for the demo: its own group keeps the daemon out of it.
        command.process_group(0);
        // It inherits our signal mask, which blocks just what a daemon blocks anyway; to unblock it here for the child would
        // expose ourselves for that moment.
        let spawned = net.run(|| command.spawn())?;
        let child = spawned.map_err(|error| failed("start a process", error))?;
        Ok(Self { child, lane: *lane, name: host.name, runtime, log })
    }

    /// Waits for the line that says that it is ready.
    ///
    /// # Errors
    /// It ended, or is not ready in time; what it wrote last is quoted.
    pub(super) fn wait_ready(&mut self, watch: &Watch) -> Result<()> {
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
    pub(super) fn wait_session(&self, watch: &Watch) -> Result<Status> {
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
        Failure::failed(format!("the daemon for {} on {} {what}{quoted}", self.lane.device, self.name))
    }

    /// What the daemon says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn status(&self) -> Result<Status> {
        Ok(api::status(&self.runtime, self.lane.device)?)
    }

    /// Asks it to stop, without waiting.
    pub(super) fn ask_to_stop(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Its process id, as seen from here.
    pub(super) fn pid(&self) -> u32 {
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
    pub(super) fn stop_all(mut daemons: Vec<Self>) -> Result<()> {
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
fn configuration(host: &Host, lane: &Lane, way: Way<'_>) -> String {
    let other = host.other();
    let (own, listen) = (lane.node(host), lane.endpoint(host));
    let (node, subnet, endpoint) = (lane.node(other), lane.subnet(other), lane.endpoint(other));
    let offload = !matches!(way, Way::Classic);
    let (key_file, transport) = match way {
        Way::Sealed { other, .. } => {
            (format!("private-key-file = \"{KEY}\"\n"), format!("public-key = \"{other}\"\ntransport = \"sealed\""))
        }
        Way::Plain | Way::Classic => (String::new(), "transport = \"plain\"".to_owned()),
    };
    format!(
        r#"[device]
name = "{device}"
addresses = ["{own}/24"]
{key_file}
[transport]
listen = "{listen}"
offload = {offload}

[[peer]]
name = "{peer}"
endpoint = "{endpoint}"
allowed-ips = ["{node}/32", "{subnet}"]
{transport}
"#,
        device = lane.device,
        peer = other.name,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::layout::{ADIT, CLASSIC, HOSTS, PLAIN};

    #[test]
    fn our_configurations_are_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let [own, other] = [(); 2].map(|()| PrivateKey::generate().unwrap());
        own.write(create_private(&directory.path().join(KEY)).unwrap()).unwrap();
        let sealed = Way::Sealed { own: &own, other: other.public_key() };
        for host in HOSTS {
            for (lane, way, offload) in
                [(ADIT, sealed, true), (PLAIN, Way::Plain, true), (CLASSIC, Way::Classic, false)]
            {
                let text = configuration(&host, &lane, way);
                let tunnel = crate::config::parse(&directory.path().join("adit.toml"), text).unwrap();
                assert_eq!(tunnel.transport.offload, offload);
                assert_eq!(tunnel.device.name, lane.device);
            }
        }
    }
}
