//! A host that is looked at, and what was found.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::bed::daemon::{ADIT, Configuration, Daemon, Place};
use crate::bed::{Bed, Family, Host, wait_for};
use crate::world::Node;

/// A host with the directories of its daemon.
pub(crate) struct Patient<'a> {
    pub(crate) host: &'a Host,
    runtime: PathBuf,
    state: PathBuf,
}

impl<'a> Patient<'a> {
    pub(crate) fn of(host: &'a Host, place: &Place) -> Self {
        Self { host, runtime: place.runtime(), state: place.path("state") }
    }

    pub(crate) fn node(node: &Node<'a>) -> Self {
        Self { host: node.host, runtime: node.path("run"), state: node.path("state") }
    }

    /// A program on this host, for which `adit` is ours, with these directories.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut path = OsString::from(Path::new(ADIT).parent().unwrap());
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        command.env("PATH", path).env("ADIT_RUNTIME_DIR", &self.runtime).env("ADIT_STATE_DIR", &self.state);
        command
    }

    fn run(&self, mut command: Command) -> Output {
        self.host.namespace.run(|| command.output()).unwrap().unwrap()
    }

    /// What the doctor says to a program.
    pub(crate) fn examine(&self) -> Report {
        let mut command = self.command(ADIT);
        command.args(["doctor", "--json"]);
        Report::read(&self.run(command))
    }

    /// What it says to a person, and its exit code.
    pub(crate) fn examine_aloud(&self) -> (String, i32) {
        let mut command = self.command(ADIT);
        command.arg("doctor");
        let output = self.run(command);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    }

    /// What it says in another surrounding, which a shell makes before it runs `"$@"`.
    pub(crate) fn examine_within(&self, script: &str) -> Report {
        let mut command = self.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", ADIT, "doctor", "--json"]);
        Report::read(&self.run(command))
    }

    /// Types a command as a person does.
    pub(crate) fn type_in(&self, line: &str) {
        let mut command = self.command("sh");
        command.args(["-c", line]);
        let output = self.run(command);
        assert!(output.status.success(), "{line}: {output:?}");
    }

    /// Waits until a fault is found, which is the doctor's business to see soon and not at once; answers it.
    pub(crate) fn await_finding(&self, id: &str) -> Finding {
        wait_for(&format!("the finding {id}"), || self.examine().find(id))
    }

    /// Types what a finding says, and waits until it is found no more.
    pub(crate) fn mend(&self, finding: &Finding) -> Report {
        assert!(!finding.commands.is_empty(), "{finding:?}");
        finding.commands.iter().for_each(|line| self.type_in(line));
        self.await_mended(&finding.id)
    }

    /// Waits until something is found no more.
    pub(crate) fn await_mended(&self, id: &str) -> Report {
        wait_for(&format!("no finding {id}"), || Some(self.examine()).filter(|report| report.find(id).is_none()))
    }
}

/// What was found.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) json: Value,
}

/// One thing of it.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) id: String,
    pub(crate) severity: String,
    pub(crate) sentence: String,
    pub(crate) evidence: String,
    pub(crate) advice: String,
    pub(crate) commands: Vec<String>,
}

impl Report {
    fn read(output: &Output) -> Self {
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        let broken = json["broken"].as_bool().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(broken)), "{json:#}");
        Self { json }
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().unwrap().iter().map(text).collect::<Vec<_>>();
        let one = |value: &Value| Finding {
            id: text(&value["id"]),
            severity: text(&value["severity"]),
            sentence: text(&value["sentence"]),
            evidence: list(&value["evidence"]).join("\n"),
            advice: text(&value["advice"]),
            commands: list(&value["commands"]),
        };
        self.json["findings"].as_array().unwrap().iter().map(one).collect()
    }

    pub(crate) fn find(&self, id: &str) -> Option<Finding> {
        self.findings().into_iter().find(|finding| finding.id == id)
    }

    /// The ids of all that was found.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.findings().into_iter().map(|finding| finding.id).collect()
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.json["broken"].as_bool().unwrap()
    }
}

/// Two hosts with the ends of a tunnel between them.
pub(crate) fn pair(transport: &'static str, change: impl FnOnce(&mut [Configuration; 2])) -> (Bed, [Place; 2]) {
    let bed = Bed::new(2);
    let mut ends = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, transport);
    change(&mut ends);
    let places = [1, 2].map(|n| Place::new(bed.host(n), &ends[n - 1]));
    (bed, places)
}

/// Waits until a daemon has a session with its first peer.
pub(crate) fn await_session(daemon: &Daemon<'_>) {
    wait_for("a session", || (daemon.status().peers[0].session == "up").then_some(()));
}
