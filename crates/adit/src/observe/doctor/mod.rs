//! `adit doctor`: what is wrong with this host, as far as its tunnels go, and what to type so that it is not.
//!
//! 1. [`gather`] looks: it is the only part that asks the kernel, daemons, the registry. What it may not see is told as such.
//! 2. [`CHECKS`] judge: each is a function of the [`Facts`] alone, in a file of its own.
//! 3. [`report`] says it.
//!
//! What a check can find is a list of [`Kind`]s, from which docs/DOCTOR.md and the help are tested, so that nothing is found that is not
//! documented.

pub mod checks;
pub mod examine;
pub mod facts;
mod firewall;
pub mod gather;
mod policy;
pub mod report;

pub use facts::Facts;

use serde::Serialize;

use facts::Daemon;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work. The exit code is 1 then.
    Broken,
    /// It works, and worse than it could, or not for long.
    Warning,
    /// Good to know.
    Note,
    /// It could not be looked at.
    Unseen,
}

impl Severity {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Warning => "warning",
            Self::Note => "note",
            Self::Unseen => "unseen",
        }
    }
}

/// Something that a check can find.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// A name for programs; it stays.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What it means, for the documentation.
    pub what: &'static str,
}

impl Kind {
    const fn broken(id: &'static str, what: &'static str) -> Self {
        Self { id, severity: Severity::Broken, what }
    }

    const fn warning(id: &'static str, what: &'static str) -> Self {
        Self { id, severity: Severity::Warning, what }
    }

    const fn note(id: &'static str, what: &'static str) -> Self {
        Self { id, severity: Severity::Note, what }
    }

    const fn unseen(id: &'static str, what: &'static str) -> Self {
        Self { id, severity: Severity::Unseen, what }
    }

    /// It was found, and this is said of it: a sentence without its full stop.
    fn found(&'static self, sentence: impl Into<String>) -> Finding {
        Finding {
            kind: self,
            device: None,
            sentence: sentence.into(),
            evidence: Vec::new(),
            advice: String::new(),
            commands: Vec::new(),
        }
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which of what its check can find.
    pub kind: &'static Kind,
    /// The device whose daemon it is about; none: the host.
    pub device: Option<String>,
    /// What is wrong, without a full stop.
    pub sentence: String,
    /// By what one sees it, each as one line.
    pub evidence: Vec<String>,
    /// What to do where no command does it, or which of the commands to choose; may be empty.
    pub advice: String,
    /// What to type, one after the other.
    pub commands: Vec<String>,
}

impl Finding {
    #[must_use]
    fn on(mut self, device: &str) -> Self {
        self.device = Some(device.to_owned());
        self
    }

    #[must_use]
    fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    #[must_use]
    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    #[must_use]
    fn run(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }

    /// The daemon is to be started again: by its unit, or else by hand.
    #[must_use]
    fn restart(self, facts: &Facts, daemon: &Daemon) -> Self {
        if let Some(unit) = &daemon.unit {
            return self.run(facts.as_root(format!("systemctl restart {}", word(unit))));
        }
        let stopped = self.run(facts.as_root(format!("adit down --device {}", word(&daemon.device))));
        match daemon.source() {
            Some(source) => {
                stopped.run(facts.as_root(format!("adit up --config {}", word(&source.display().to_string()))))
            }
            None => stopped.run(facts.as_root("adit up")),
        }
    }
}

/// Text of others as one word of a command: a device may be called whatever has no slash and no space.
fn word(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Whether text is the same word in a shell, and in the languages of packet filters.
fn is_plain(text: &str) -> bool {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | ':' | '/');
    !text.is_empty() && !text.starts_with('-') && text.chars().all(is_safe)
}

/// One subject.
#[derive(Debug)]
pub struct Check {
    /// A name for programs; it stays.
    pub id: &'static str,
    /// What is looked at, for people.
    pub title: &'static str,
    /// All that it can find.
    pub kinds: &'static [&'static Kind],
    /// Judges.
    pub check: fn(&Facts) -> Vec<Finding>,
}

/// All checks, in the order in which they are reported.
pub static CHECKS: &[Check] = &[
    checks::daemons::CHECK,
    checks::tun::CHECK,
    checks::rights::CHECK,
    checks::peers::CHECK,
    checks::firewall::CHECK,
    checks::forwarding::CHECK,
    checks::rp_filter::CHECK,
    checks::br_netfilter::CHECK,
    checks::switch::CHECK,
    checks::subnets::CHECK,
    checks::neighbours::CHECK,
    checks::path_mtu::CHECK,
    checks::offloads::CHECK,
    checks::segmentation::CHECK,
    checks::buffers::CHECK,
    checks::clock::CHECK,
    checks::registry::CHECK,
    checks::duplicates::CHECK,
    checks::nat::CHECK,
    checks::cpu::CHECK,
];

/// What came of one check.
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub check: &'static Check,
    /// What it found; nothing where all is well.
    pub findings: Vec<Finding>,
}

/// Judges the facts by all checks.
pub fn judge(facts: &Facts) -> Vec<Outcome> {
    CHECKS.iter().map(|check| Outcome { check, findings: (check.check)(facts) }).collect()
}

/// Whether something is broken.
pub fn is_broken(outcomes: &[Outcome]) -> bool {
    outcomes.iter().flat_map(|outcome| &outcome.findings).any(|finding| finding.kind.severity == Severity::Broken)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_of_others_stay_words_in_a_shell() {
        for text in ["eth0.7", "vm@2", "/etc/adit/adit.toml"] {
            assert_eq!(word(text), text);
        }
        for text in ["b\u{1b}[31m;$(id)", "a'b", "`id`", "x y", "\\", ""] {
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", word(text))]).output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), text);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut seen = HashSet::new();
        for check in CHECKS {
            assert!(seen.insert(check.id), "{}", check.id);
            assert!(!check.kinds.is_empty(), "{}", check.id);
        }
        let mut seen = HashSet::new();
        for kind in CHECKS.iter().flat_map(|check| check.kinds) {
            assert!(seen.insert(kind.id), "{}", kind.id);
        }
    }

    #[test]
    fn everything_that_can_be_found_is_documented() {
        let text = include_str!("../../../../../docs/DOCTOR.md");
        for check in CHECKS {
            let line = format!("| `{}` | {} |", check.id, check.title);
            assert!(text.contains(&line), "docs/DOCTOR.md lacks the line\n{line}");
            for kind in check.kinds {
                let line = format!("| `{}` | {} | {} |", kind.id, kind.severity.as_str(), kind.what);
                assert!(text.contains(&line), "docs/DOCTOR.md lacks the line\n{line}");
            }
        }
        let ids: HashSet<_> = CHECKS.iter().flat_map(|c| c.kinds.iter().map(|k| k.id).chain([c.id])).collect();
        for line in text.lines().take_while(|line| *line != "## For programs") {
            let Some(id) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) else { continue };
            assert!(ids.contains(id), "docs/DOCTOR.md tells of {id}, which nothing finds");
        }
    }

    #[test]
    fn a_healthy_host_has_no_findings() {
        for facts in [facts::tests::tunnel(), facts::tests::node()] {
            for outcome in judge(&facts) {
                assert_eq!(outcome.findings, [], "{}", outcome.check.id);
            }
        }
    }
}
