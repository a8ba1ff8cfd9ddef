//! What of a change can be put into force, where the whole cannot: one bad peer keeps nobody else away.

use std::collections::HashMap;

use super::peers::Wanted;
use crate::config::Peer;

/// As many changes are tried; who has not had his turn by then has it the next time.
const TRIES: usize = 64;

/// What became of a change.
pub(super) struct Outcome {
    /// What is in force.
    pub(super) good: Wanted,
    /// Who is left out, and why: sentences.
    pub(super) left_out: Vec<String>,
}

/// Puts as much as possible of `wanted` into force by `put`, where `before` is. Who is not wanted any more is out first, and no peer keeps addresses that
/// it is not wanted to have; then the others come in, by halves. Nothing if not even the first step can be made.
pub(super) async fn put<E: std::fmt::Display>(
    before: Option<&Wanted>,
    wanted: &Wanted,
    mut put: impl AsyncFnMut(&Wanted) -> Result<(), E>,
) -> Option<Outcome> {
    let mut good = staying(before, wanted);
    if put(&good).await.is_err() {
        good.overlay.clone_from(&before?.overlay);
        put(&good).await.ok()?;
    }
    let present: HashMap<&str, &Peer> = good.peers.iter().map(|peer| (peer.name.as_str(), peer)).collect();
    let coming: Vec<&Peer> = wanted.peers.iter().filter(|peer| present.get(peer.name.as_str()) != Some(peer)).collect();
    let mut parts = vec![coming];
    let (mut left_out, mut tries) = (Vec::new(), 0);
    while let Some(part) = parts.pop().filter(|part| !part.is_empty()) {
        if tries == TRIES {
            let waiting = part.len() + parts.iter().map(Vec::len).sum::<usize>();
            left_out.push(format!("{waiting} others wait"));
            break;
        }
        tries += 1;
        let next = with(&good, &part);
        match (put(&next).await, part.as_slice()) {
            (Ok(()), _) => good = next,
            (Err(e), [peer]) => left_out.push(format!("{} is left out: {e}", peer.name)),
            (Err(_), _) => {
                let (one, other) = part.split_at(part.len() / 2);
                parts.extend([other.to_vec(), one.to_vec()]);
            }
        }
    }
    Some(Outcome { good, left_out })
}

/// Those who are there and are wanted, with what they had before and may keep.
fn staying(before: Option<&Wanted>, wanted: &Wanted) -> Wanted {
    let mut good = Wanted { overlay: wanted.overlay.clone(), peers: Vec::new() };
    let there: HashMap<&str, &Peer> =
        before.iter().flat_map(|before| &before.peers).map(|peer| (peer.name.as_str(), peer)).collect();
    for peer in &wanted.peers {
        let same = |old: &&&Peer| old.public_key == peer.public_key && old.transport == peer.transport;
        let Some(old) = there.get(peer.name.as_str()).filter(same) else { continue };
        let mut old = Peer::clone(old);
        old.allowed_ips.retain(|net| peer.allowed_ips.contains(net));
        if !old.allowed_ips.is_empty() {
            good.peers.push(old);
        }
    }
    good
}

/// These peers beside, or in place of, those who are there.
fn with(good: &Wanted, part: &[&Peer]) -> Wanted {
    let coming: HashMap<&str, &Peer> = part.iter().map(|peer| (peer.name.as_str(), *peer)).collect();
    let mut next = good.clone();
    next.peers.retain(|peer| !coming.contains_key(peer.name.as_str()));
    next.peers.extend(part.iter().copied().cloned());
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Origin, Overlay, TransportKind};
    use crate::key::PublicKey;

    fn peer(number: u32, prefix: &str) -> Peer {
        let mut key = [1; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        Peer {
            name: format!("n{number}"),
            public_key: Some(PublicKey::from_bytes(key)),
            endpoint: None,
            allowed_ips: prefix.split(' ').map(|net| net.parse().unwrap()).collect(),
            transport: TransportKind::Sealed,
            preshared_key: None,
            keepalive: None,
            macs: Vec::new(),
            origin: Origin::Network,
        }
    }

    fn wanted(masquerade: bool, peers: Vec<Peer>) -> Wanted {
        let overlay = Overlay {
            networks: Vec::new(),
            subnets: Vec::new(),
            masquerade,
            forward: true,
            port: None,
            membership: None,
        };
        Wanted { overlay, peers }
    }

    fn names(wanted: &Wanted) -> Vec<&str> {
        let mut names: Vec<&str> = wanted.peers.iter().map(|peer| peer.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Puts with a daemon that takes no peer of these names; what it has in the end, and how often it was asked.
    fn outcome(
        before: Option<&Wanted>,
        wanted: &Wanted,
        bad: &[&str],
        takes_overlay: bool,
    ) -> (Option<Outcome>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut asked = 0;
        let outcome = runtime.block_on(put(before, wanted, async |next: &Wanted| {
            asked += 1;
            if before.is_some_and(|before| before.overlay != next.overlay) && !takes_overlay {
                return Err("no such overlay".to_owned());
            }
            match next.peers.iter().find(|peer| bad.contains(&peer.name.as_str())) {
                Some(peer) => Err(format!("{} is bad", peer.name)),
                None => Ok(()),
            }
        }));
        (outcome, asked)
    }

    #[test]
    fn one_bad_peer_among_a_thousand_keeps_nobody_away() {
        let before = wanted(true, (0..10).map(|n| peer(n, &format!("10.0.{n}.0/24"))).collect());
        let all = wanted(true, (5..1000).map(|n| peer(n, &format!("10.{}.{}.0/24", n / 256, n % 256))).collect());
        let (outcome, asked) = outcome(Some(&before), &all, &["n77"], true);
        let Outcome { good, left_out } = outcome.unwrap();
        assert_eq!(left_out, ["n77 is left out: n77 is bad"]);
        assert_eq!(good.peers.len(), 994);
        assert!(!names(&good).contains(&"n4"), "who is not wanted is out");
        assert!(asked <= 24, "{asked}");
    }

    #[test]
    fn many_bad_peers_cost_no_more_than_so_many_tries() {
        let all = wanted(true, (0..500).map(|n| peer(n, &format!("10.{}.{}.0/24", n / 256, n % 256))).collect());
        let bad: Vec<String> = (0..500).map(|n| format!("n{n}")).collect();
        let bad: Vec<&str> = bad.iter().map(String::as_str).collect();
        let (outcome, asked) = outcome(None, &all, &bad, true);
        assert!(asked <= TRIES + 2 && outcome.unwrap().left_out.iter().any(|said| said.ends_with("others wait")));
    }

    #[test]
    fn who_lost_addresses_has_lost_them_whatever_else_fails() {
        let before =
            wanted(true, vec![peer(1, "10.0.1.0/24 fd00:1::/64"), peer(2, "10.0.2.0/24"), peer(3, "10.0.3.0/24")]);
        let after = wanted(false, vec![peer(1, "10.0.1.0/24"), peer(2, "10.0.9.0/24")]);
        let (outcome, _) = outcome(Some(&before), &after, &["n2"], false);
        let Outcome { good, left_out } = outcome.unwrap();
        assert_eq!(names(&good), ["n1"]);
        assert_eq!(good.peers[0].allowed_ips, after.peers[0].allowed_ips);
        assert!(good.overlay == before.overlay, "the former one stays");
        assert_eq!(left_out.len(), 1);
    }
}
