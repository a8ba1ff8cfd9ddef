//! What a trace has seen is put together: on this host, and on those that were asked in turn.

use std::time::Instant;

use super::{COLLECT_PATIENCE, Desk, Further, Outcome, Running, lock};
use crate::observe::trace::blob::{self, Gathered};
use crate::observe::trace::capture::Run;
use crate::observe::trace::observation::{ClockOffset, Fact, HostReport, Observation, Outer, Place, Step, Unseen};
use crate::observe::trace::remote::{HOPS, Message};
use crate::observe::trace::report::{self, Counters};
use crate::request::Handle;
use crate::{Failure, Result};

impl Desk {
    /// All that was seen here, of sealed datagrams those of these runs and those that our own workers saw; and what hosts further on have.
    pub(super) fn gather(&self, handle: &Handle, running: &Running, wanted: &[Run]) -> Result<Gathered> {
        let facts = handle.facts();
        let own = self.own_name(handle);
        running.tap.settle();
        let (mut observations, lost) = running.tap.take();
        let runs = [wanted, &Run::join(outers(&observations, |_| true))].concat();
        let helper = self.helper.as_ref().ok_or_else(|| Failure::failed("this daemon has no process that captures"))?;
        let captured = helper.collect(&runs)?;
        observations.extend(captured.observations);
        observations.iter_mut().for_each(|seen| own.clone_into(&mut seen.host));
        let name = running.further.as_ref().map(|further| further.name.as_str());
        let mut found = report::facts(facts, running.begin.destination, name, &observations);
        found.extend(captured.facts);
        found.extend(captured.about_datagrams.into_iter().map(|fact| report::about_peer(facts, fact)));
        if let Some(tracer) = lock(&running.tracer).as_mut() {
            found.extend(tracer.refusals().unwrap_or_default().into_iter().map(|refused| Fact::Firewall {
                table: refused.table,
                chain: refused.chain,
                handle: refused.handle.unwrap_or(0),
            }));
        }
        let mut report = HostReport {
            host: own,
            offset: Some(ClockOffset { ns: 0, uncertainty: 0 }),
            permitted: true,
            unseen: None,
            counters: Counters::read(facts).since(&running.before),
            facts: found,
            lost_records: lost + captured.lost,
        };
        let mut gathered = Gathered { observations, reports: Vec::new() };
        let mut others = Vec::new();
        if let Some(further) = &running.further {
            match &further.outcome {
                Outcome::Ready(offset) => {
                    let is_own = |seen: &Observation| matches!(seen.place, Place::Worker { step: Step::Sealed, .. });
                    let runs = Run::join(outers(&gathered.observations, is_own));
                    match self.collect_further(handle, running, further, &runs) {
                        Some(theirs) => {
                            others = shift(theirs, (&report.host, &further.name), *offset, &mut gathered.observations);
                        }
                        None => {
                            let problem = "it stopped to answer before it said what it saw".to_owned();
                            others.push(unseen(further, Unseen::Silent { problem }));
                        }
                    }
                }
                Outcome::Forbidden => {
                    others.push(HostReport { host: further.name.clone(), ..HostReport::default() });
                }
                Outcome::Unseen(why) => others.push(unseen(further, why.clone())),
            }
        }
        let next = others.iter().find(|other| Some(other.host.as_str()) == name);
        report.facts.extend(next.and_then(silence).filter(|fact| !is_told(&report.facts, fact)));
        gathered.reports.push(report);
        gathered.reports.extend(others);
        Ok(gathered)
    }

    fn collect_further(&self, handle: &Handle, running: &Running, further: &Further, runs: &[Run]) -> Option<Gathered> {
        let talk = self.replies.talk(handle, running.id, further.peer);
        let patience = COLLECT_PATIENCE * u32::from(running.begin.ttl.clamp(1, HOPS));
        let blob = talk.collect(runs, Instant::now() + patience)?;
        // If it is lost, it forgets by itself.
        talk.tell(&Message::Finish);
        blob::unpack(&blob)
    }
}

/// What is known of a host that was to look and did not.
fn unseen(further: &Further, why: Unseen) -> HostReport {
    HostReport { host: further.name.clone(), permitted: true, unseen: Some(why), ..HostReport::default() }
}

/// That a host did not answer says something of probes too; that it answered and did not look says nothing of them.
fn silence(report: &HostReport) -> Option<Fact> {
    match &report.unseen {
        Some(Unseen::Silent { problem }) => {
            Some(Fact::PeerDown { peer: report.host.clone(), problem: problem.clone() })
        }
        _ => None,
    }
}

/// Whether the daemon's own word for it is there already.
fn is_told(facts: &[Fact], fact: &Fact) -> bool {
    let Fact::PeerDown { peer, .. } = fact else { return false };
    facts.iter().any(|known| matches!(known, Fact::PeerDown { peer: other, .. } if other == peer))
}

/// What another host handed over, under the name that we have for it, and with times that can be read beside ours.
fn shift(
    theirs: Gathered,
    (own, name): (&str, &str),
    offset: ClockOffset,
    observations: &mut Vec<Observation>,
) -> Vec<HostReport> {
    let Gathered { observations: seen, mut reports } = theirs;
    let itself = reports.first().map(|report| report.host.clone());
    let rename = |host: &mut String| {
        if Some(&*host) == itself.as_ref() {
            name.clone_into(host);
        }
        if host == own {
            // Two hosts of one name would be taken for one.
            *host = format!("{own} beyond {name}");
        }
    };
    observations.extend(seen.into_iter().map(|mut seen| {
        rename(&mut seen.host);
        seen
    }));
    for report in &mut reports {
        rename(&mut report.host);
        report.offset = report.offset.map(|further| ClockOffset {
            ns: further.ns.saturating_add(offset.ns),
            uncertainty: further.uncertainty.saturating_add(offset.uncertainty),
        });
    }
    reports
}

/// Which datagrams workers saw at steps that count.
fn outers(observations: &[Observation], counts: impl Fn(&Observation) -> bool) -> Vec<Outer> {
    let mut outers: Vec<_> = observations.iter().filter(|seen| counts(seen)).filter_map(|seen| seen.outer).collect();
    outers.sort_unstable();
    outers.dedup();
    outers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_another_host_is_called_as_we_call_it() {
        let report = |host: &str| HostReport {
            host: host.into(),
            offset: Some(ClockOffset { ns: 5, uncertainty: 1 }),
            ..HostReport::default()
        };
        let theirs = Gathered { observations: Vec::new(), reports: vec![report("itself"), report("third")] };
        let reports = shift(theirs, ("third", "berlin"), ClockOffset { ns: -7, uncertainty: 2 }, &mut Vec::new());
        let told: Vec<_> = reports.iter().map(|report| (report.host.as_str(), report.offset)).collect();
        let offset = Some(ClockOffset { ns: -2, uncertainty: 3 });
        assert_eq!(told, [("berlin", offset), ("third beyond berlin", offset)]);
    }
}
