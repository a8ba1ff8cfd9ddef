//! What is judged, one file per subject. Each has the kinds of its findings, one function of the facts, and a table of made-up hosts.

pub mod br_netfilter;
pub mod buffers;
pub mod clock;
pub mod cpu;
pub mod daemons;
pub mod duplicates;
pub mod firewall;
pub mod forwarding;
pub mod nat;
pub mod neighbours;
pub mod offloads;
pub mod path_mtu;
pub mod peers;
pub mod registry;
pub mod rights;
pub mod rp_filter;
pub mod segmentation;
pub mod subnets;
pub mod switch;
pub mod tun;

#[cfg(test)]
pub(super) mod tests {
    use super::super::facts::tests::{node, tunnel};
    use super::super::{Check, Facts, Finding};

    /// What a check finds on a host with a tunnel after `change`, as `id: command`; it is all of its kinds, and the healthy host has none.
    pub(in super::super) fn found(check: &Check, change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
        of(check, tunnel(), change)
    }

    /// The same on a node of a network with a container.
    pub(in super::super) fn found_on_node(check: &Check, change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
        of(check, node(), change)
    }

    fn of(check: &Check, mut facts: Facts, change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
        assert_eq!((check.check)(&facts), [], "before the change");
        change(&mut facts);
        let findings = (check.check)(&facts);
        for finding in &findings {
            assert!(check.kinds.contains(&finding.kind), "{finding:?} is not among the kinds of {}", check.id);
            let sentence = &finding.sentence;
            assert!(!sentence.ends_with('.') && !sentence.is_empty(), "{sentence:?}");
        }
        findings
    }

    /// The ids of findings.
    pub(in super::super) fn ids(findings: &[Finding]) -> Vec<&'static str> {
        findings.iter().map(|finding| finding.kind.id).collect()
    }
}
