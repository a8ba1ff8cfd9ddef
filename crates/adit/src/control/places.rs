//! Where peers are: those that move are followed, and names are resolved again while nobody answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use linux::netlink::Netlink;
use tunnel::PeerId;
use tunnel::peer::{Problem, Standing};

use super::Control;
use crate::config::{Endpoint, Host};
use crate::names::{Answer, choose};
use crate::switchboard::Change;
use crate::underlay::{self, Survey};

/// How often is looked whether a name is to be resolved again: while one is, and while all is well.
const ASKING: Duration = Duration::from_secs(1);
const WELL: Duration = Duration::from_secs(5);

/// Between two questions for one peer at first, while its address is not known, and where nobody answers at the one that is.
const UNKNOWN: Duration = Duration::from_secs(1);
const UNANSWERED: Duration = Duration::from_secs(5);

impl Control {
    /// Follows what the encrypted peers have done. Answers whether the host is to be looked at.
    pub(super) fn follow(&mut self, netlink: &mut Netlink) -> bool {
        let mut changed = false;
        while let Some(change) = self.switchboard.next_change() {
            match change {
                Change::Path(id, mtu) => {
                    if let Some(member) = self.roster.get_mut(id) {
                        member.found = Some(mtu);
                        changed = true;
                    }
                }
                Change::Moved(id, endpoint) => changed |= self.moved(netlink, id, endpoint),
                Change::GaveUp(_) => self.names_due = self.names_due.map(|_| Instant::now()),
            }
        }
        if changed {
            self.publish();
        }
        false
    }

    /// A peer is at another address. Answers whether the way there takes packets of another size.
    pub(super) fn moved(&mut self, netlink: &mut Netlink, id: PeerId, endpoint: SocketAddr) -> bool {
        let Some(member) = self.roster.get_mut(id) else { return false };
        member.endpoint = Some(endpoint);
        let width = Survey::new(netlink, &self.tunnel).width(member.peer.transport, Some(endpoint));
        let before = std::mem::replace(&mut member.width, width);
        if before == width {
            return false;
        }
        self.switchboard.set_path(id, self.path(width));
        true
    }

    /// Asks for the addresses of names where it is time to, and follows the answers. Answers whether the host is to be looked at.
    pub(super) fn look_at_names(&mut self, netlink: &mut Netlink) -> bool {
        let mut changed = false;
        while let Some(answer) = self.names.next_answer() {
            changed |= self.named(netlink, answer);
        }
        if changed {
            self.publish();
            self.switchboard.follow_up(&self.roster);
        }
        let now = Instant::now();
        if self.names_due.is_some_and(|due| due <= now) {
            self.names_due = self.ask_for_names(now);
        }
        changed
    }

    fn ask_for_names(&mut self, now: Instant) -> Option<Instant> {
        let mut due = None;
        for (id, member) in self.roster.iter().filter(|(_, member)| member.peer.transport.is_secure()) {
            let Some(endpoint) = member.peer.endpoint.as_ref().filter(|endpoint| is_name(endpoint)) else { continue };
            let state = self.switchboard.state(id);
            let pause = if member.configured.is_none() {
                Some(UNKNOWN)
            } else if state.is_some_and(|state| state.problem == Some(Problem::NoAnswer)) {
                Some(UNANSWERED)
            } else {
                None
            };
            match pause {
                Some(pause) => self.names.ask(id, endpoint, pause, now),
                None if state.is_some_and(|state| state.standing == Standing::Up) => self.names.settle(id),
                None => {}
            }
            let look = now + if pause.is_some() { ASKING } else { WELL };
            due = Some(due.map_or(look, |due: Instant| due.min(look)));
        }
        due
    }

    /// A name was resolved. Answers whether a peer is elsewhere by that.
    fn named(&mut self, netlink: &mut Netlink, answer: Answer) -> bool {
        let Answer { id, endpoint, addresses, again } = answer;
        let listen = self.listen();
        let unanswered = self.switchboard.state(id).is_some_and(|state| state.problem == Some(Problem::NoAnswer));
        let Some(member) = self.roster.get_mut(id).filter(|m| m.peer.endpoint.as_ref() == Some(&endpoint)) else {
            return false;
        };
        let name = &member.peer.name;
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(e) if again => {
                tracing::debug!("the endpoint {endpoint} of peer {name} does not resolve: {e}");
                return false;
            }
            Err(e) => {
                tracing::warn!("the endpoint {endpoint} of peer {name} does not resolve: {e}; it is tried again");
                return false;
            }
        };
        let former = member.configured.filter(|_| unanswered);
        let Some(address) = choose(&addresses, |address| underlay::is_usable(address, listen), former) else {
            if !again {
                tracing::warn!(
                    "the endpoint {endpoint} of peer {name} has no address that a socket on {listen} can send to"
                );
            }
            return false;
        };
        if member.configured == Some(address) {
            return false;
        }
        tracing::info!("peer {name} is at {address} ({endpoint})");
        (member.configured, member.endpoint) = (Some(address), Some(address));
        member.width = Survey::new(netlink, &self.tunnel).width(member.peer.transport, member.endpoint);
        let width = member.width;
        self.switchboard.set_endpoint(id, Some(address));
        self.switchboard.set_path(id, self.path(width));
        true
    }

    /// Where the sockets listen.
    pub(super) fn listen(&self) -> SocketAddr {
        let first = self.surroundings.sockets.first();
        first.map_or(self.tunnel.transport.listen, |socket| socket.local_address())
    }
}

fn is_name(endpoint: &Endpoint) -> bool {
    matches!(endpoint.host, Host::Name(_))
}
