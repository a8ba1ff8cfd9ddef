//! One trace on this host: whoever asks for it, this host's own operator or a peer, the same is armed, watched and gathered.
//!
//! | question | where |
//! |---|---|
//! | what may be asked, and how often | `reserve` |
//! | which host is asked next | `ask_further` |
//! | what is put together and handed over | `gather.rs` |
//! | what peers ask | `serve.rs` |

mod gather;
mod serve;

use std::collections::VecDeque;
use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use linux::clock;
use linux::netlink::Netlink;
use linux::nft::{Header, Match, Tracer};
use tunnel::switch::Owner;
use tunnel::{PeerId, Time};

use super::blob::Gathered;
use super::helper::Helper;
use super::observation::{ClockOffset, Protocol, Unseen};
use super::probe::{NUMBERS, Sought};
use super::remote::{Begin, HOPS, LONGEST, Message, Verdict};
use super::report::Counters;
use super::send::Wish;
use super::talk::Replies;
use super::watch::{Gate, Tap};
use crate::config::TransportKind;
use crate::request::Handle;
use crate::worker::View;
use crate::{Failure, Result};

/// Traces that peers may begin here in a minute, all together.
const PER_MINUTE: u8 = 12;

/// How long a further host may take to hand over what it has, per host behind it.
const COLLECT_PATIENCE: Duration = Duration::from_secs(4);

/// How long after its end a trace may still be collected, and keeps others out.
const GRACE: Duration = Duration::from_secs(5);

/// Where traces of this host are asked for.
pub struct Desk {
    helper: Option<Helper>,
    gate: Arc<Gate>,
    view: Arc<ArcSwap<View>>,
    current: Mutex<Current>,
    replies: Replies,
}

#[derive(Default)]
struct Current {
    /// That which is being begun.
    starting: Option<(u64, Option<PeerId>)>,
    running: Option<Arc<Running>>,
    /// When peers began others.
    begun: VecDeque<Instant>,
}

/// A trace that is under way here.
struct Running {
    id: u64,
    asker: Option<PeerId>,
    begin: Begin,
    until: Instant,
    tap: Arc<Tap>,
    before: Counters,
    tracer: Mutex<Option<Tracer>>,
    further: Option<Further>,
    /// What is handed to the peer that asked, once it has been gathered.
    handed: Mutex<Handing>,
}

#[derive(Default)]
enum Handing {
    #[default]
    NotYet,
    Gathering,
    Ready(Arc<Vec<u8>>),
}

/// The next host, and what it said.
struct Further {
    peer: PeerId,
    name: String,
    outcome: Outcome,
}

enum Outcome {
    Ready(ClockOffset),
    Forbidden,
    Unseen(Unseen),
}

/// Why a trace does not begin.
#[derive(Debug)]
pub(super) enum Denied {
    Busy,
    Often,
    Unable(Failure),
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Busy => {
                Self::failed("another trace is under way on this host").with_remedy("try again in ten seconds")
            }
            Denied::Often => Self::failed(format!("this host is asked for no more than {PER_MINUTE} traces a minute"))
                .with_remedy("try again in a minute"),
            Denied::Unable(failure) => failure,
        }
    }
}

impl Desk {
    /// A desk with the process that captures, if there is one.
    #[must_use]
    pub fn new(helper: Option<Helper>, gate: Arc<Gate>, view: Arc<ArcSwap<View>>) -> Self {
        Self { helper, gate, view, current: Mutex::default(), replies: Replies::default() }
    }

    /// What this host is called: as a node, or as a host.
    pub fn own_name(&self, handle: &Handle) -> String {
        let host = || fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
        let node = handle.facts().tunnel().network.as_ref().map(|network| network.node_name.clone());
        node.or_else(|| host().ok()).unwrap_or_else(|| "this host".into())
    }

    /// Whether workers look for probes.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        lock(&self.current)
    }

    // ---- what this host's operator asks --------------------------------------------------------------------------------

    /// Begins a trace for this host's own operator; answers its number and what its probes look like.
    ///
    /// # Errors
    /// Another is under way; this host cannot capture.
    pub fn begin(self: &Arc<Self>, handle: &Handle, wish: &Wish) -> Result<(u64, Sought)> {
        let (id, marker) = (random()?, random()?);
        let &Wish { destination, protocol, port, .. } = wish;
        let sought = Sought { protocol, marker, port, only: None };
        let ms = u32::try_from(LONGEST.as_millis()).unwrap_or(u32::MAX);
        self.start(handle, id, None, Begin { sought, destination, ms, ttl: HOPS })?;
        Ok((id, sought))
    }

    /// Ends it; answers what was seen here and further on.
    ///
    /// # Errors
    /// There is no such trace; the process that captures is gone.
    pub fn collect(&self, handle: &Handle, id: u64) -> Result<Gathered> {
        let running = self.current().running.clone().filter(|running| running.id == id && running.asker.is_none());
        let running = running.ok_or_else(|| {
            Failure::failed("the trace is over: it was not collected in time").with_remedy("begin another")
        })?;
        let gathered = self.gather(handle, &running, &[]);
        self.finish(&running);
        gathered
    }

    // ---- the same for both -----------------------------------------------------------------------------------------------

    fn start(
        self: &Arc<Self>,
        handle: &Handle,
        id: u64,
        asker: Option<PeerId>,
        begin: Begin,
    ) -> std::result::Result<(), Denied> {
        self.reserve(id, asker)?;
        let outcome = self.arm(handle, id, asker, begin);
        let mut current = self.current();
        current.starting = None;
        match outcome {
            Ok(running) => {
                let running = Arc::new(running);
                current.running = Some(Arc::clone(&running));
                drop(current);
                self.end_in_time(running);
                Ok(())
            }
            Err(denied) => Err(denied),
        }
    }

    /// One at a time; and of peers only so many in a minute. This host's own operator need not wait for a peer's to end, which is over then.
    fn reserve(&self, id: u64, asker: Option<PeerId>) -> std::result::Result<(), Denied> {
        let mut current = self.current();
        let now = Instant::now();
        let is_over = |running: &Running| {
            let handed = matches!(*lock(&running.handed), Handing::Ready(_));
            now > running.until + if handed { Duration::ZERO } else { GRACE }
        };
        let gives_way = |running: &Running| asker.is_none() && running.asker.is_some();
        let busy = |running: &Running| !is_over(running) && !gives_way(running);
        if current.starting.is_some() || current.running.as_deref().is_some_and(busy) {
            return Err(Denied::Busy);
        }
        if asker.is_some() {
            current.begun.retain(|at| now.saturating_duration_since(*at) < Duration::from_secs(60));
            if current.begun.len() >= usize::from(PER_MINUTE) {
                return Err(Denied::Often);
            }
            current.begun.push_back(now);
        }
        current.starting = Some((id, asker));
        let former = current.running.take();
        // Whatever becomes of the next one, nobody looks for the former's probes any more.
        self.gate.close();
        drop(current);
        // Its rules are in the table that the next one makes.
        let tracer = former.and_then(|running| lock(&running.tracer).take());
        drop(tracer);
        Ok(())
    }

    fn arm(
        &self,
        handle: &Handle,
        id: u64,
        asker: Option<PeerId>,
        begin: Begin,
    ) -> std::result::Result<Running, Denied> {
        let time = Duration::from_millis(begin.ms.into()).min(LONGEST);
        let helper = self.helper.as_ref().ok_or_else(|| {
            Denied::Unable(
                Failure::failed("this daemon has no process that captures")
                    .with_remedy("its log says why; restart adit"),
            )
        })?;
        // First, since it may take a while: what we watch ourselves begins when all others do.
        let further = self.ask_further(handle, id, asker, begin);
        let before = Counters::read(handle.facts());
        if let Err(failure) = helper.arm(begin.sought, handle.facts().listen().port(), time) {
            if let Some(Further { peer, outcome: Outcome::Ready(_), .. }) = further {
                self.replies.talk(handle, id, peer).tell(&Message::Finish);
            }
            return Err(Denied::Unable(failure));
        }
        let table = format!("adit-trace-{}", handle.facts().device_name());
        let tracer = Tracer::start(&table, &matches(&begin.sought));
        if let Err(error) = &tracer {
            tracing::debug!("which rule drops a probe is not seen: {error}");
        }
        let tap = self.gate.open(begin.sought);
        Ok(Running {
            id,
            asker,
            begin,
            until: Instant::now() + time,
            tap,
            before,
            tracer: Mutex::new(tracer.ok()),
            further,
            handed: Mutex::default(),
        })
    }

    /// Nothing is watched for longer than was said, whether or not somebody collects it.
    fn end_in_time(self: &Arc<Self>, running: Arc<Running>) {
        let desk = Arc::clone(self);
        let wait = move || {
            thread::sleep(running.until.saturating_duration_since(Instant::now()));
            desk.stop_watching(&running);
        };
        if thread::Builder::new().name("trace-end".into()).spawn(wait).is_err() {
            // Without a thread to end it, it ends now.
            self.gate.close();
        }
    }

    /// Workers look no longer, rules trace no longer. What was seen stays.
    fn stop_watching(&self, running: &Running) {
        let is_current = self.current().running.as_ref().is_some_and(|current| current.id == running.id);
        if is_current {
            self.gate.close();
        }
        let tracer = lock(&running.tracer).take();
        drop(tracer);
    }

    fn finish(&self, running: &Running) {
        self.stop_watching(running);
        let mut current = self.current();
        if current.running.as_ref().is_some_and(|current| current.id == running.id) {
            current.running = None;
            if let Some(helper) = &self.helper {
                helper.disarm();
            }
        }
    }

    /// Asks the peer that the probes go to next, if they do, for the same; not the one that asks us.
    fn ask_further(&self, handle: &Handle, id: u64, asker: Option<PeerId>, begin: Begin) -> Option<Further> {
        let peer = self.next_peer(begin.destination).filter(|peer| Some(*peer) != asker)?;
        let known = handle.facts().peer(peer)?;
        let name = known.name.clone();
        if begin.ttl == 0 {
            return None;
        }
        let silent = |problem| Outcome::Unseen(Unseen::Silent { problem });
        let further = |outcome| Some(Further { peer, name: name.clone(), outcome });
        if known.transport != TransportKind::Sealed {
            let transport = known.transport.to_string();
            return further(Outcome::Unseen(Unseen::Unasked { transport }));
        }
        let talk = self.replies.talk(handle, id, peer);
        if let Err(problem) = talk.await_session(known.public_key) {
            return further(silent(problem));
        }

        let next = Begin { ttl: begin.ttl.min(HOPS) - 1, ..begin };
        let verdict = talk.ask(&Message::Begin(next), |answer| match answer {
            Message::Verdict(verdict) => Some(verdict),
            _ => None,
        });
        further(match verdict {
            Some(Verdict::Ready) => Outcome::Ready(talk.compare_clocks()),
            Some(Verdict::Forbidden) => Outcome::Forbidden,
            Some(Verdict::Busy) => Outcome::Unseen(Unseen::Busy),
            Some(Verdict::Often(times)) => Outcome::Unseen(Unseen::Often { times }),
            Some(Verdict::Unable) => Outcome::Unseen(Unseen::Unable),
            None => silent("its daemon does not answer; it is down, or does not hear us".into()),
        })
    }

    /// The peer that probes to this address go to, if they do.
    fn next_peer(&self, destination: IpAddr) -> Option<PeerId> {
        let view = self.view.load_full();
        let Some(frames) = &view.frames else {
            return view.snapshot.egress(destination).ok().map(|(peer, _)| peer);
        };
        // Frames go by the link-layer address of the next hop.
        let mut netlink = Netlink::open().ok()?;
        let hop = netlink.route_to(destination).ok().and_then(|route| route.gateway).unwrap_or(destination);
        let neighbours = netlink.neighbours(None).unwrap_or_default();
        let mac = neighbours.iter().find(|neighbour| neighbour.address == hop).and_then(|neighbour| neighbour.mac);
        let entries = frames.switch.entries(Time::from_nanos(clock::boottime()));
        let learned = entries.iter().find(|(address, _)| mac == Some(address.0)).map(|(_, owner)| *owner);
        match (learned, frames.members.all()) {
            (Some(Owner::Peer(peer)), _) => Some(peer),
            // Whoever it is that has not been heard of yet.
            (None, [only]) => Some(*only),
            _ => None,
        }
    }
}

/// What rules of packet filters know probes and their answers by.
fn matches(sought: &Sought) -> Vec<Vec<Match>> {
    let at = |offset: u32, value: &[u8], mask: &[u8]| Match::Bytes {
        header: Header::Transport,
        offset,
        value: value.to_vec(),
        mask: mask.to_vec(),
    };
    match sought.protocol {
        Protocol::Icmp | Protocol::Udp => vec![vec![at(8, &sought.marker.to_be_bytes(), &[])]],
        Protocol::Tcp => {
            let (first, mask) = (sought.sequence().to_be_bytes(), (!(NUMBERS - 1)).to_be_bytes());
            let tcp = || Match::Protocol(wire::ip::protocol::TCP);
            // Sequence number, and acknowledgement number.
            vec![vec![tcp(), at(4, &first, &mask)], vec![tcp(), at(8, &first, &mask)]]
        }
    }
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).map_err(|_| Failure::failed("the random generator failed"))?;
    Ok(u64::from_ne_bytes(bytes))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
