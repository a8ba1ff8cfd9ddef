//! Where each question is looked at: who asks, what becomes of it, and the answer.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Instant;

use ipnet::IpNet;
use tokio::time::sleep_until;

use super::ask::{self, Way};
use super::budget::{Place, Places, Rates};
use super::containers::{Containers, Look};
use super::message::{self, Answer, NO_ERROR, NO_NAME, Query, REFUSED, SERVER_FAILURE};
use super::name::Name;
use super::outside::Outside;
use super::zone::{self, Asker, Decision, Member, Wanted, Zone};
use crate::api::status::NetworkStatus;
use crate::config::Tunnel;
use crate::container::Store;
use crate::observe::facts::Facts;

/// Questions of one address per second, and at once. All strangers together are one.
const RATE: u32 = 1000;

/// Those of the resolver of another node, for which many ask.
const RATE_OF_NODE: u32 = 8000;

/// Those of one address that are passed on to another node: fewer, so that no container uses up what that node grants us.
const RATE_TO_NODES: u32 = 250;

/// Questions of all that wait for others' answers, and of one address. Each takes up to three sockets, of the thousand that a daemon has as a rule.
const WAITING: usize = 96;
const WAITING_OF_ONE: usize = 24;

/// The largest answer by TCP, in bytes.
const STREAM: usize = 65_535;

/// See the module.
pub(super) struct Desk {
    facts: Arc<Facts>,
    zone: RefCell<Option<Made>>,
    containers: RefCell<Containers>,
    outside: RefCell<Outside>,
    rates: RefCell<Rates>,
    of_nodes: RefCell<Rates>,
    to_nodes: RefCell<Rates>,
    places: Places,
}

/// The zone, and what it was made from, which is not kept from being freed.
struct Made {
    tunnel: Weak<Tunnel>,
    network: Weak<NetworkStatus>,
    zone: Rc<Zone>,
}

/// What became of a question at once.
pub(super) enum Outcome {
    /// It is passed over.
    Nothing,
    /// The answer.
    Answer(Vec<u8>),
    /// There is an answer later.
    Later(Box<Job>),
}

/// A question that waits for somebody else.
pub(super) struct Job {
    query: Rc<Query>,
    bytes: Rc<[u8]>,
    asker: Asker,
    decision: Decision,
    zone: Rc<Zone>,
    way: Way,
    /// A question by TCP has its connection instead.
    _place: Option<Place>,
}

impl Desk {
    pub(super) fn new(facts: Arc<Facts>, store: Store, resolvers: PathBuf) -> Self {
        Self {
            facts,
            zone: RefCell::default(),
            containers: RefCell::new(Containers::of(store)),
            outside: RefCell::new(Outside::of(resolvers)),
            rates: RefCell::new(Rates::new(RATE, RATE)),
            of_nodes: RefCell::new(Rates::new(RATE_OF_NODE, RATE_OF_NODE)),
            to_nodes: RefCell::new(Rates::new(RATE_TO_NODES, RATE_TO_NODES)),
            places: Places::new(WAITING, WAITING_OF_ONE),
        }
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Names as they are now; none while there is no lease, and where no names are wanted.
    pub(super) fn zone(&self) -> Option<Rc<Zone>> {
        let (tunnel, network) = (self.facts.tunnel(), self.facts.network()?);
        let mut made = self.zone.borrow_mut();
        if let Some(made) = &*made
            && made.tunnel.as_ptr() == Arc::as_ptr(&tunnel)
            && made.network.as_ptr() == Arc::as_ptr(&network)
        {
            return Some(Rc::clone(&made.zone));
        }
        *made = None;
        let domain = Name::from_text(tunnel.network.as_ref()?.domain.as_deref()?)?;
        let zone = Rc::new(of_network(domain, &network)?);
        let (tunnel, network) = (Arc::downgrade(&tunnel), Arc::downgrade(&network));
        *made = Some(Made { tunnel, network, zone: Rc::clone(&zone) });
        Some(zone)
    }

    /// The addresses to listen at, and those of the network.
    pub(super) fn addresses(&self) -> (Vec<IpAddr>, Vec<IpNet>) {
        let has_names = self.facts.tunnel().network.as_ref().is_some_and(|network| network.domain.is_some());
        let Some(network) = self.facts.network().filter(|_| has_names) else { return <_>::default() };
        (zone::addresses(&network.subnets).collect(), network.networks.clone())
    }

    /// Whether somebody may keep a connection.
    pub(super) fn knows(&self, from: IpAddr) -> bool {
        self.zone().is_some_and(|zone| zone.who(from) != Asker::Stranger)
    }

    /// Takes a question.
    pub(super) fn take(&self, bytes: &[u8], from: SocketAddr, way: Way) -> Outcome {
        let outcome = self.look_at(bytes, from, way);
        match &outcome {
            Outcome::Nothing => self.facts.names().passed_over.add(1),
            Outcome::Answer(answer) => self.count(answer),
            Outcome::Later(_) => {}
        }
        outcome
    }

    fn count(&self, answer: &[u8]) {
        let names = self.facts.names();
        let counter = match message::code(answer) {
            NO_ERROR => &names.answered,
            NO_NAME => &names.no_name,
            REFUSED => &names.refused,
            _ => &names.failed,
        };
        counter.add(1);
    }

    fn look_at(&self, bytes: &[u8], from: SocketAddr, way: Way) -> Outcome {
        let Some(zone) = self.zone() else { return Outcome::Nothing };
        let (asker, now) = (zone.who(from.ip()), Instant::now());
        let allowed = match asker {
            Asker::Host | Asker::Own => self.rates.borrow_mut().allow(from.ip(), now),
            Asker::Stranger => self.rates.borrow_mut().allow(Ipv4Addr::BROADCAST.into(), now),
            Asker::Node => self.of_nodes.borrow_mut().allow(from.ip(), now),
        };
        if !allowed {
            return Outcome::Nothing;
        }
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Some(answer)) if asker != Asker::Stranger => return Outcome::Answer(answer),
            Err(_) => return Outcome::Nothing,
        };
        let limit = limit(&query, way);
        let decision = zone.decide(asker, &query);
        match &decision {
            Decision::Refuse => return Outcome::Answer(query.answer(REFUSED, false, &[], limit)),
            Decision::Answer(code, data) => return Outcome::Answer(query.answer(*code, true, data, limit)),
            Decision::Container(wanted) => {
                if let Ok(answer) = self.look(&zone, wanted, &query, limit) {
                    return Outcome::Answer(answer);
                }
            }
            Decision::Ask(_) if !self.to_nodes.borrow_mut().allow(from.ip(), now) => return Outcome::Nothing,
            Decision::Ask(_) | Decision::Forward => {}
        }
        let place = match way {
            Way::Udp => match self.places.take(from, query.id) {
                Some(place) => Some(place),
                None => return Outcome::Nothing,
            },
            Way::Tcp => None,
        };
        let (query, bytes) = (Rc::new(query), Rc::from(bytes));
        Outcome::Later(Box::new(Job { query, bytes, asker, decision, zone, way, _place: place }))
    }

    /// The answer from our containers, or the moment to look again.
    fn look(&self, zone: &Zone, wanted: &Wanted, query: &Query, limit: usize) -> Result<Vec<u8>, Instant> {
        match self.containers.borrow_mut().look() {
            Look::Known(containers) => {
                let (code, data) = zone.find(wanted, query.kind, &containers);
                Ok(query.answer(code, true, &data, limit))
            }
            Look::Later(at) => Err(at),
            Look::Failed => Ok(query.answer(SERVER_FAILURE, false, &[], limit)),
        }
    }

    /// The answer to a question that waits.
    pub(super) async fn finish(&self, job: Job) -> Vec<u8> {
        let Job { query, zone, .. } = &job;
        let limit = limit(query, job.way);
        let answer = match &job.decision {
            Decision::Container(wanted) => loop {
                match self.look(zone, wanted, query, limit) {
                    Ok(answer) => break Some(answer),
                    Err(at) => sleep_until(at.into()).await,
                }
            },
            Decision::Ask(member) => ask_node(zone, member, query, limit).await,
            Decision::Forward => self.forward(&job, limit).await,
            Decision::Answer(..) | Decision::Refuse => None,
        };
        let answer = answer.unwrap_or_else(|| query.answer(SERVER_FAILURE, false, &[], limit));
        self.count(&answer);
        answer
    }

    async fn forward(&self, job: &Job, limit: usize) -> Option<Vec<u8>> {
        let Job { query, bytes, zone, .. } = job;
        let servers = self.outside.borrow_mut().servers(zone.own_addresses());
        let of = Rc::clone(zone);
        let is_sound = Rc::new(move |answer: &[u8]| is_sound(&of, answer));
        let asked_by_host = job.asker == Asker::Host;
        let (server, mut answer) = ask::outside(&servers, (query, bytes), job.way, asked_by_host, is_sound).await?;
        self.outside.borrow_mut().prefer(server);
        if answer.len() > limit || message::is_truncated(&answer) {
            return Some(query.truncated(limit));
        }
        message::set_id(&mut answer, query.id);
        Some(answer)
    }
}

fn limit(query: &Query, way: Way) -> usize {
    match way {
        Way::Udp => query.limit(),
        Way::Tcp => STREAM,
    }
}

/// Whether what a resolver outside says may be passed on. No name of others leads into the network: it would be a way around what looks at names
/// to keep strangers' away from it (DNS rebinding).
fn is_sound(zone: &Zone, answer: &[u8]) -> bool {
    // What is cut off is not passed on, and asked for again by TCP.
    if message::is_truncated(answer) {
        return true;
    }
    let Some(answer) = Answer::parse(answer) else { return false };
    !answer.addresses().any(|ip| zone.is_of_network(&ip.to_canonical()))
}

async fn ask_node(zone: &Zone, member: &Member, query: &Query, limit: usize) -> Option<Vec<u8>> {
    let (ours, theirs) = zone.way_to(member)?;
    let answer = ask::node(ours, theirs, query).await?;
    if !matches!(answer.code, NO_ERROR | NO_NAME) {
        tracing::debug!("the node {} answers {} for {}", member.name, answer.code, query.name);
        return None;
    }
    let data = zone.admit(member, query, answer.records);
    let code = if data.is_empty() { answer.code } else { NO_ERROR };
    Some(query.answer(code, true, &data, limit))
}

/// The zone of this network; none without a subnet.
fn of_network(domain: Name, network: &NetworkStatus) -> Option<Zone> {
    let own = Member {
        name: Name::from_text(&network.node)?,
        // Without an authority nobody is first.
        serial: network.serial.unwrap_or(u64::MAX),
        subnets: network.subnets.clone(),
    };
    if own.subnets.is_empty() {
        return None;
    }
    let others = network.nodes.iter().filter_map(|node| {
        // Nodes of flannel's own have none.
        let serial = node.serial?;
        Some(Member { name: Name::from_text(&node.name)?, serial, subnets: node.subnets.clone() })
    });
    Some(Zone::new(domain, network.networks.clone(), own, others))
}
