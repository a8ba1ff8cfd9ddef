//! What Docker's packet filters have to let through. dockerd sets the policy of the host's forwarding to drop, and has a chain `DOCKER-USER` for
//! those who want something else. While this server runs, our rules stand in it, each marked by a comment; they are brought back where somebody takes
//! them out, as dockerd does when it starts, and are taken out at the end.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use linux::netlink::Monitor;
use linux::poll::{Waker, readable};

use super::program::{self, Failed};
use crate::container::Node;
use crate::{Directories, Failure, Result};

/// How long to go on without a look, where nobody told of a change.
const PERIOD: Duration = Duration::from_secs(60);

/// How long to wait for further changes, since they come in groups.
const GROUP: Duration = Duration::from_millis(200);

/// Docker's chain for the administrator's rules.
const CHAIN: &str = "DOCKER-USER";

/// Both families: the program that lists, and the one that changes.
const PROGRAMS: [(&str, &str); 2] = [("iptables", "iptables-restore"), ("ip6tables", "ip6tables-restore")];

/// A thread that keeps our rules where Docker asks for them. Dropping it takes them out.
pub(super) struct Firewall {
    nudge: Nudge,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Has the rules looked at soon.
#[derive(Debug, Clone)]
pub(super) struct Nudge(Arc<Waker>);

impl Nudge {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Arc::new(Waker::new()?)))
    }

    pub(super) fn wake(&self) {
        self.0.wake();
    }
}

impl Firewall {
    /// Begins, for the node of this device.
    ///
    /// # Errors
    /// The kernel does not tell of changes, or gives no thread.
    pub(super) fn keep(directories: &Directories, device: &str, nudge: Nudge) -> Result<Self> {
        let mut monitor = Monitor::open()?;
        monitor.watch_filters()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (directories, device) = (directories.clone(), device.to_owned());
        let (woken, is_stopping) = (nudge.clone(), Arc::clone(&stopping));
        let work = move || {
            let mut chains = PROGRAMS.map(|programs| Chain::of(programs, &device));
            while !is_stopping.load(Ordering::Acquire) {
                if let Ok(node) = Node::read(&directories, &device) {
                    for (chain, v6) in chains.iter_mut().zip([false, true]) {
                        let has = node.subnets.iter().any(|subnet| subnet.addr().is_ipv6() == v6);
                        chain.keep(&if has { rules(&node) } else { Vec::new() });
                    }
                }
                wait(&mut monitor, &woken.0);
            }
            chains.iter_mut().for_each(|chain| chain.keep(&[]));
        };
        let thread = thread::Builder::new().name("docker-user".into()).spawn(work);
        let thread = thread.map_err(|e| Failure::failed(format!("cannot start the thread \"docker-user\": {e}")))?;
        Ok(Self { nudge, stopping, thread: Some(thread) })
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.nudge.wake();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Waits until something has changed, or somebody says so.
fn wait(monitor: &mut Monitor, waker: &Waker) {
    let told = readable([monitor.as_fd(), waker.as_fd()], Some(PERIOD));
    if let Ok([true, false]) = told {
        let _ = readable([waker.as_fd()], Some(GROUP));
    }
    if let Err(e) = told.and_then(|_| monitor.drain()) {
        tracing::debug!("changes of packet filters are not told: {e}");
        thread::sleep(GROUP);
    }
    waker.reset();
}

/// What is let through, each rule as its words.
///
/// | From | To | |
/// |---|---|---|
/// | the bridge | itself | where the host filters what a bridge carries (`bridge-nf-call-iptables`) |
/// | the bridge | the device, and back | containers of other nodes, nodes, clients |
/// | elsewhere | the bridge | answers, and published ports |
/// | the bridge | Docker's own bridges | is Docker's to decide |
/// | the bridge | elsewhere | |
fn rules(node: &Node) -> Vec<Vec<&str>> {
    let (bridge, device) = (node.bridge.as_str(), node.device.as_str());
    vec![
        vec!["-i", bridge, "-o", bridge, "-j", "ACCEPT"],
        vec!["-i", bridge, "-o", device, "-j", "ACCEPT"],
        vec!["-i", device, "-o", bridge, "-j", "ACCEPT"],
        vec!["-o", bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT", "-j", "ACCEPT"],
        vec!["-i", bridge, "-o", "docker+", "-j", "RETURN"],
        vec!["-i", bridge, "-o", "br-+", "-j", "RETURN"],
        vec!["-i", bridge, "-j", "ACCEPT"],
    ]
}

/// The chain of one family.
struct Chain {
    list: &'static str,
    restore: &'static str,
    comment: String,
    /// Our rules as the program listed them after they were put there, and what they were made of.
    put: Option<(Vec<String>, String)>,
    /// What was said of a failure, so that it is said once.
    said: String,
}

impl Chain {
    fn of((list, restore): (&'static str, &'static str), device: &str) -> Self {
        Self { list, restore, comment: format!("adit-{device}"), put: None, said: String::new() }
    }

    /// Has these rules of ours stand in it, and no others of ours; what cannot be done is told.
    fn keep(&mut self, rules: &[Vec<&str>]) {
        match self.try_keep(rules) {
            Ok(()) => self.said.clear(),
            Err(Failed::Missing) => tracing::debug!("{} is not installed, so Docker filters nothing by it", self.list),
            Err(Failed::Refused(why)) if why == self.said => {}
            // A host without this family.
            Err(Failed::Refused(why)) if rules.is_empty() && self.put.is_none() => tracing::debug!("{why}"),
            Err(Failed::Refused(why)) => {
                tracing::warn!(
                    "cannot let this network through Docker's packet filters: {why}; have a look at `{} -S {CHAIN}`",
                    self.list
                );
                self.said = why;
            }
        }
    }

    fn try_keep(&mut self, rules: &[Vec<&str>]) -> std::result::Result<(), Failed> {
        let Some((present, before)) = self.stand()? else {
            // Docker does not filter this family, or not yet.
            self.put = None;
            return Ok(());
        };
        let made_of = format!("{rules:?}");
        let is_so = self.put.as_ref().is_some_and(|(lines, of)| *lines == present && *of == made_of);
        if is_so || (rules.is_empty() && present.is_empty()) {
            return Ok(());
        }
        program::run(
            self.restore,
            &["--noflush", "--wait", "5"],
            &transaction(&present, rules, before, &self.comment),
        )?;
        self.put = Some((self.stand()?.unwrap_or_default().0, made_of));
        Ok(())
    }

    /// Our rules in it, as lines, and how many of others' they are to stand behind; nothing if there is no such chain.
    fn stand(&self) -> std::result::Result<Option<(Vec<String>, usize)>, Failed> {
        match program::run(self.list, &["--wait", "5", "-S", CHAIN], "") {
            Ok(text) => Ok(Some(read(&text, &self.comment))),
            // That there is no chain is said in several ways.
            Err(Failed::Refused(why)) if ["No chain", "does not exist"].iter().any(|part| why.contains(part)) => {
                Ok(None)
            }
            Err(failed) => Err(failed),
        }
    }
}

/// What a listing of the chain says: our rules, and how many of others' decide something. What an administrator drops there counts before we let anything
/// through; Docker's own last rule, which only ends the chain, does not.
fn read(listing: &str, comment: &str) -> (Vec<String>, usize) {
    let rules = listing.lines().filter(|line| line.starts_with("-A "));
    let (ours, others): (Vec<_>, Vec<_>) = rules.map(str::to_owned).partition(|line| is_ours(line, comment));
    let before = others.iter().rposition(|line| *line != format!("-A {CHAIN} -j RETURN")).map_or(0, |last| last + 1);
    (ours, before)
}

/// Whether a listed rule has our comment.
fn is_ours(line: &str, comment: &str) -> bool {
    let mut words = line.split_whitespace().skip_while(|word| *word != "--comment");
    words.nth(1).is_some_and(|word| word == comment || *word == format!("\"{comment}\""))
}

/// Takes these rules out and puts others behind the first `before` rules, in one step, as iptables-restore(8) reads it.
fn transaction(present: &[String], rules: &[Vec<&str>], before: usize, comment: &str) -> String {
    let mut text = String::from("*filter\n");
    for line in present {
        text += &format!("{}\n", line.replacen("-A ", "-D ", 1));
    }
    for (n, rule) in rules.iter().enumerate() {
        let (jump, matches) = (&rule[rule.len().saturating_sub(2)..], &rule[..rule.len().saturating_sub(2)]);
        text += &format!(
            "-I {CHAIN} {} {} -m comment --comment {comment} {}\n",
            before + n + 1,
            matches.join(" "),
            jump.join(" ")
        );
    }
    text + "COMMIT\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_rules_are_taken_for_ours() {
        let ours = "-A DOCKER-USER -i adit-br0 -m comment --comment adit-adit0 -j ACCEPT";
        assert!(is_ours(ours, "adit-adit0"));
        assert!(is_ours(&ours.replace("adit-adit0", "\"adit-adit0\""), "adit-adit0"));
        for line in [
            "-N DOCKER-USER",
            "-A DOCKER-USER -j RETURN",
            "-A DOCKER-USER -i adit-br0 -m comment --comment adit-adit1 -j ACCEPT",
            "-A DOCKER-USER -m comment --comment \"adit-adit0 is mine\" -j ACCEPT",
            "-A DOCKER-USER -i adit-adit0 -j ACCEPT",
        ] {
            assert!(!is_ours(line, "adit-adit0"), "{line}");
        }
    }

    #[test]
    fn what_an_administrator_says_comes_first() {
        let ours = "-A DOCKER-USER -i x -m comment --comment adit-adit0 -j ACCEPT";
        for (listing, before) in [
            ("-N DOCKER-USER\n-A DOCKER-USER -j RETURN\n", 0),
            ("-N DOCKER-USER\n", 0),
            ("-N DOCKER-USER\n-A DOCKER-USER -i eth0 ! -s 192.0.2.0/24 -j DROP\n-A DOCKER-USER -j RETURN\n", 1),
            ("-N DOCKER-USER\n-A DOCKER-USER -s 192.0.2.7/32 -j RETURN\n-A DOCKER-USER -i eth0 -j DROP\n", 2),
        ] {
            assert_eq!(read(listing, "adit-adit0"), (Vec::new(), before), "{listing}");
            let (header, rest) = listing.split_once('\n').unwrap();
            assert_eq!(read(&format!("{header}\n{ours}\n{rest}"), "adit-adit0"), (vec![ours.to_owned()], before));
        }
    }

    #[test]
    fn rules_are_replaced_in_one_step() {
        let present = ["-A DOCKER-USER -i x -m comment --comment adit-adit0 -j ACCEPT".to_owned()];
        assert_eq!(
            transaction(&present, &[vec!["-i", "a", "-j", "ACCEPT"], vec!["-o", "b", "-j", "RETURN"]], 2, "adit-adit0"),
            "*filter\n\
             -D DOCKER-USER -i x -m comment --comment adit-adit0 -j ACCEPT\n\
             -I DOCKER-USER 3 -i a -m comment --comment adit-adit0 -j ACCEPT\n\
             -I DOCKER-USER 4 -o b -m comment --comment adit-adit0 -j RETURN\n\
             COMMIT\n"
        );
    }
}
