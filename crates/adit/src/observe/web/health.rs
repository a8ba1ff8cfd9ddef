//! Whether the daemon lives, and whether it does its work: what health checks ask.
//!
//! *Healthy* is about the process alone: restarting it would mend what is wrong. *Ready* is about its work, for which others are needed.

use std::time::Duration;

use linux::netlink::Netlink;

use crate::api::status::NetworkStatus;
use crate::observe::facts::Facts;

/// Control looks at the host once a minute at the latest; three times that is a defect.
const TURN_PATIENCE: Duration = Duration::from_secs(180);

/// Why the daemon is to be started anew, if so.
pub(super) fn illness(facts: &Facts) -> Option<String> {
    let silent = facts.since_turn();
    (silent > TURN_PATIENCE).then(|| format!("the thread control has done nothing for {} s", silent.as_secs()))
}

/// Why it does not do its work, each as a sentence without its full stop; nothing if it does.
pub(super) fn hindrances(facts: &Facts) -> Vec<String> {
    let mut reasons: Vec<String> = illness(facts).into_iter().collect();
    let device = device(facts.device_name());
    reasons.extend(device);
    if !facts.is_working() {
        reasons.push("no worker runs".into());
    }
    if facts.tunnel().network.is_some() {
        reasons.extend(network(facts.network().as_deref()).map(str::to_owned));
    }
    reasons
}

fn device(name: &str) -> Option<String> {
    let link = Netlink::open().and_then(|mut netlink| netlink.link(name));
    match link {
        Err(e) => Some(format!("cannot see the device {name}: {e}")),
        Ok(None) => Some(format!("there is no device {name}")),
        Ok(Some(link)) if !link.up => Some(format!("the device {name} is down: run `ip link set {name} up`")),
        Ok(Some(link)) if !link.running => Some(format!("nobody reads from the device {name}")),
        Ok(Some(_)) => None,
    }
}

/// A node that knows its network works, though the registry may be away.
fn network(status: Option<&NetworkStatus>) -> Option<&'static str> {
    let Some(status) = status else { return Some("nothing was heard of the registry yet") };
    match status.lease.as_str() {
        "taken" => Some("another node has the subnet of this one"),
        _ if status.subnets.is_empty() => Some("the registry has given this node no subnet yet"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::tests::node;

    #[test]
    fn a_node_is_ready_once_it_has_its_subnet() {
        let mut status = node().network.unwrap();
        assert_eq!(network(Some(&status)), None);
        status.registry_problem = Some("connection refused".into());
        assert_eq!(network(Some(&status)), None, "it works without the registry");
        status.lease = "taken".into();
        assert!(network(Some(&status)).unwrap().contains("another node"));
        status.lease = "waiting".into();
        status.subnets.clear();
        assert!(network(Some(&status)).unwrap().contains("no subnet"));
        assert!(network(None).unwrap().contains("nothing was heard"));
    }
}
