//! How it is said: one screen for a person, or one JSON object.

use serde::Serialize;

use super::{Facts, Finding, Outcome, Severity, is_broken};
use crate::api::status::PeerStatus;
use crate::observe::human;
use crate::observe::table::clean;

/// Columns of a screen that everybody has.
const WIDTH: usize = 100;

/// Under the sentence of a finding.
const INDENT: &str = "           ";

/// For a person: what was found, the worst first, then what is well.
pub fn text(facts: &Facts, outcomes: &[Outcome]) -> String {
    let mut text = format!("adit {} on {}\n", env!("CARGO_PKG_VERSION"), clean(&facts.host.name));
    for (daemon, status) in facts.up() {
        text += &format!(
            "  {}: up for {}, {}{}\n",
            clean(&daemon.device),
            human::duration(status.uptime_s),
            peers(&status.peers),
            status.network.as_ref().map_or(String::new(), |network| format!(
                ", node {} with {}",
                network.node,
                human::several(network.containers.len(), "container")
            )),
        );
    }
    for severity in [Severity::Broken, Severity::Warning, Severity::Note, Severity::Unseen] {
        let found = outcomes.iter().flat_map(|outcome| &outcome.findings).filter(|f| f.kind.severity == severity);
        for finding in found {
            text += "\n";
            text += &one(finding);
        }
    }
    let well: Vec<&str> = outcomes.iter().filter(|o| o.findings.is_empty()).map(|o| o.check.id).collect();
    if !well.is_empty() {
        text += "\n";
        text += &wrap("found nothing: ", &well.join(", "), INDENT);
    }
    text += &format!("\n{}\n", verdict(outcomes));
    text
}

/// How many peers have a session, and how many cannot have one.
fn peers(all: &[PeerStatus]) -> String {
    let (secure, plain): (Vec<_>, Vec<_>) = all.iter().partition(|peer| peer.secure);
    let up = secure.iter().filter(|peer| peer.session == "up").count();
    let sessions = format!("{up} of {} peers with a session", secure.len());
    // Nothing asks a plain peer whether it is there.
    let untested = format!("{} plain {}, not tested", plain.len(), if plain.len() == 1 { "peer" } else { "peers" });
    match (secure.len(), plain.len()) {
        (_, 0) => sessions,
        (0, _) => untested,
        _ => format!("{sessions}, {untested}"),
    }
}

fn one(finding: &Finding) -> String {
    let word = match finding.kind.severity {
        Severity::Broken => "BROKEN",
        Severity::Warning => "WARNING",
        Severity::Note => "note",
        Severity::Unseen => "not seen",
    };
    let device = finding.device.as_ref().map_or(String::new(), |device| format!("{device}: "));
    let mut text =
        wrap(&format!("{word:<9}  "), &format!("{device}{} [{}]", finding.sentence, finding.kind.id), INDENT);
    for evidence in &finding.evidence {
        text += &wrap(&format!("{INDENT}seen: "), evidence, &format!("{INDENT}      "));
    }
    if !finding.advice.is_empty() {
        text += &wrap(&format!("{INDENT}do:   "), &finding.advice, &format!("{INDENT}      "));
    }
    for command in &finding.commands {
        // Never wrapped: it is to be copied.
        text += &format!("{INDENT}type: {}\n", clean(command));
    }
    text
}

fn verdict(outcomes: &[Outcome]) -> String {
    let all = || outcomes.iter().flat_map(|outcome| &outcome.findings);
    let count = |severity| all().filter(|finding| finding.kind.severity == severity).count();
    let words = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let parts = [
        (count(Severity::Broken), "thing is broken", "things are broken"),
        (count(Severity::Warning), "warning", "warnings"),
        (count(Severity::Note), "note", "notes"),
        (count(Severity::Unseen), "thing was not looked at", "things were not looked at"),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|(n, ..)| *n > 0).map(|(n, one, many)| words(n, one, many)).collect();
    if parts.is_empty() { "nothing is wrong".into() } else { parts.join(", ") }
}

/// The text after `first`, in lines of [`WIDTH`] that begin with `indent`.
fn wrap(first: &str, text: &str, indent: &str) -> String {
    let mut out = first.to_owned();
    let mut column = first.chars().count();
    let mut begun = false;
    for word in clean(text).split(' ') {
        let length = word.chars().count();
        if begun && column + 1 + length > WIDTH {
            out = out.trim_end().to_owned() + "\n" + indent;
            column = indent.chars().count();
        } else if begun {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        begun = true;
    }
    out.trim_end().to_owned() + "\n"
}

/// The whole report for programs; docs/DOCTOR.md has all fields.
#[derive(Debug, Serialize)]
struct Report<'a> {
    version: &'a str,
    host: &'a str,
    devices: Vec<&'a str>,
    broken: bool,
    checks: Vec<Checked<'a>>,
    findings: Vec<Found<'a>>,
}

#[derive(Debug, Serialize)]
struct Checked<'a> {
    id: &'a str,
    title: &'a str,
    well: bool,
}

#[derive(Debug, Serialize)]
struct Found<'a> {
    id: &'a str,
    check: &'a str,
    severity: Severity,
    device: Option<&'a str>,
    sentence: &'a str,
    evidence: &'a [String],
    advice: Option<&'a str>,
    commands: &'a [String],
}

/// For programs: one line of JSON.
///
/// # Errors
/// It cannot be said in JSON.
pub fn json(facts: &Facts, outcomes: &[Outcome]) -> serde_json::Result<String> {
    let mut findings: Vec<Found<'_>> = Vec::new();
    for outcome in outcomes {
        findings.extend(outcome.findings.iter().map(|finding| Found {
            id: finding.kind.id,
            check: outcome.check.id,
            severity: finding.kind.severity,
            device: finding.device.as_deref(),
            sentence: &finding.sentence,
            evidence: &finding.evidence,
            advice: Some(finding.advice.as_str()).filter(|advice| !advice.is_empty()),
            commands: &finding.commands,
        }));
    }
    findings.sort_by_key(|found| found.severity);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        host: &facts.host.name,
        devices: facts.daemons.iter().map(|daemon| daemon.device.as_str()).collect(),
        broken: is_broken(outcomes),
        checks: outcomes
            .iter()
            .map(|o| Checked { id: o.check.id, title: o.check.title, well: o.findings.is_empty() })
            .collect(),
        findings,
    };
    serde_json::to_string(&report).map(|line| line + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{measured, status, tunnel};
    use super::super::judge;
    use super::*;

    fn sick() -> Facts {
        let mut facts = tunnel();
        measured(&mut facts).size = 1320;
        facts.host.aes = false;
        facts.host.segmentation = Err("no right".into());
        facts
    }

    #[test]
    fn a_healthy_host_is_a_few_lines() {
        let facts = tunnel();
        let text = text(&facts, &judge(&facts));
        assert!(text.ends_with("\nnothing is wrong\n"), "{text}");
        assert!(text.contains("found nothing: daemon, tun, ") && text.lines().count() < 10, "{text}");
    }

    #[test]
    fn plain_peers_have_no_session() {
        let mut facts = tunnel();
        let head = |facts: &Facts| text(facts, &[]).lines().nth(1).unwrap_or_default().to_owned();
        assert!(head(&facts).ends_with(", 1 of 1 peers with a session"), "{}", head(&facts));
        let mut plain = status(&mut facts).peers[0].clone();
        (plain.secure, plain.session) = (false, "none".into());
        status(&mut facts).peers.push(plain);
        assert!(head(&facts).ends_with(", 1 of 1 peers with a session, 1 plain peer, not tested"), "{}", head(&facts));
        status(&mut facts).peers.remove(0);
        assert!(head(&facts).ends_with(", 1 plain peer, not tested"), "{}", head(&facts));
    }

    #[test]
    fn a_sick_one_fits_a_screen_and_names_what_to_type() {
        let facts = sick();
        let text = text(&facts, &judge(&facts));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH || line.contains("type: ")), "{text}");
        let places: Vec<_> =
            ["BROKEN", "type: ip route replace 192.0.2.2 dev eth0 mtu 1380", "note ", "not seen", "found nothing"]
                .map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}")))
                .into();
        assert!(places.is_sorted(), "{text}");
        assert!(text.ends_with("\n1 thing is broken, 1 note, 1 thing was not looked at\n"), "{text}");
    }

    #[test]
    fn the_form_for_programs_is_stable_and_documented() {
        let facts = sick();
        let line = json(&facts, &judge(&facts)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&json), ["broken", "checks", "devices", "findings", "host", "version"]);
        assert_eq!(
            keys(&json["findings"][0]),
            ["advice", "check", "commands", "device", "evidence", "id", "sentence", "severity"]
        );
        assert_eq!(keys(&json["checks"][0]), ["id", "title", "well"]);
        assert_eq!((&json["broken"], &json["findings"][0]["id"]), (&true.into(), &"mtu-black-hole".into()));
        assert_eq!(json["findings"][0]["severity"], "broken");
        let docs = include_str!("../../../../../docs/DOCTOR.md");
        for key in keys(&json).iter().chain(&keys(&json["findings"][0])).chain(&keys(&json["checks"][0])) {
            assert!(docs.contains(&format!("`{key}`")), "{key} is not documented");
        }
    }

    #[test]
    fn what_others_wrote_does_nothing_to_a_terminal() {
        let mut facts = tunnel();
        facts.host.segmentation = Err("\u{1b}[2J\nx".into());
        let text = text(&facts, &judge(&facts));
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
