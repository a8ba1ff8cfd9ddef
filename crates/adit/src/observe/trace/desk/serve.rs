//! What peers ask, and what they are answered.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread;

use tunnel::PeerId;

use super::{Denied, Desk, Handing, PER_MINUTE, Running, lock};
use crate::notes::{Note, topic};
use crate::observe::trace::blob::{self, Gathered};
use crate::observe::trace::capture::Run;
use crate::observe::trace::probe::Sought;
use crate::observe::trace::remote::{Begin, Message, PART, Verdict};
use crate::observe::trace::watch::now;
use crate::request::Handle;
use crate::{Failure, Result};

impl Desk {
    /// Serves peers' questions and hands out their answers, in a thread of its own that lasts as long as the daemon.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn serve(self: &Arc<Self>, handle: Handle) -> Result<()> {
        let notes = handle.notes().subscribe(topic::TRACE);
        let desk = Arc::clone(self);
        let serve = move || {
            for note in notes {
                let received = now();
                desk.hear(&handle, note, received);
            }
        };
        let started = thread::Builder::new().name("trace".into()).spawn(serve);
        started.map(drop).map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))
    }

    fn hear(self: &Arc<Self>, handle: &Handle, note: Note, received: i64) {
        let Some((id, message)) = Message::parse(&note.body) else { return };
        let permitted = handle.facts().tunnel().observe.trace;
        let tell = |message: &Message| {
            // What is lost is asked for again.
            let _ = handle.tell(note.peer, topic::TRACE, message.emit(id));
        };
        match message {
            Message::Time(_) | Message::Verdict(_) | Message::Part(..) => {
                self.replies.hand_over(id, note.peer, message);
            }
            Message::Begin(_) if !permitted => tell(&Message::Verdict(Verdict::Forbidden)),
            _ if !permitted => {}
            Message::Clock(asked) => tell(&Message::Time([asked, received, now()])),
            Message::Begin(begin) => self.hear_begin(handle, note.peer, id, begin),
            Message::Collect(part, runs) => {
                if let Some(answer) = self.part(handle, note.peer, (id, part), runs) {
                    tell(&answer);
                }
            }
            Message::Finish => {
                if let Some(running) = self.of_peer(note.peer, id) {
                    self.finish(&running);
                }
            }
        }
    }

    fn of_peer(&self, peer: PeerId, id: u64) -> Option<Arc<Running>> {
        self.current().running.clone().filter(|running| running.id == id && running.asker == Some(peer))
    }

    fn hear_begin(self: &Arc<Self>, handle: &Handle, peer: PeerId, id: u64, begin: Begin) {
        let tell = move |handle: &Handle, verdict| {
            let _ = handle.tell(peer, topic::TRACE, Message::Verdict(verdict).emit(id));
        };
        if self.of_peer(peer, id).is_some() {
            return tell(handle, Verdict::Ready);
        }
        if self.current().starting == Some((id, Some(peer))) {
            return;
        }
        let to = begin.destination;
        if to.is_multicast() || to.is_unspecified() || to == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return tell(handle, Verdict::Forbidden);
        }
        let begin = Begin { sought: Sought { only: Some(to), ..begin.sought }, ..begin };
        // Another host may have to be asked first, and this thread hands out its answers.
        let (desk, handle) = (Arc::clone(self), handle.clone());
        let begin = move || {
            let verdict = match desk.start(&handle, id, Some(peer), begin) {
                Ok(()) => Verdict::Ready,
                Err(Denied::Busy) => Verdict::Busy,
                Err(Denied::Often) => Verdict::Often(PER_MINUTE),
                Err(Denied::Unable(failure)) => {
                    tracing::warn!("a trace of a peer cannot begin: {failure}");
                    Verdict::Unable
                }
            };
            tell(&handle, verdict);
        };
        // Without a thread there is no answer, and the peer asks again.
        let _ = thread::Builder::new().name("trace-begin".into()).spawn(begin);
    }

    /// A part of what was gathered; none of any while that is being done.
    fn part(
        self: &Arc<Self>,
        handle: &Handle,
        peer: PeerId,
        (id, part): (u64, u16),
        runs: Vec<Run>,
    ) -> Option<Message> {
        let running = self.of_peer(peer, id)?;
        let mut handed = lock(&running.handed);
        match &*handed {
            Handing::Ready(blob) => {
                let parts = u16::try_from(blob.len().div_ceil(PART)).ok()?;
                let bytes = blob.chunks(PART).nth(part.into())?;
                Some(Message::Part(part, parts, bytes.to_vec()))
            }
            Handing::Gathering => Some(Message::Part(part, 0, Vec::new())),
            Handing::NotYet => {
                *handed = Handing::Gathering;
                drop(handed);
                let (desk, handle) = (Arc::clone(self), handle.clone());
                let gather = move || {
                    let gathered = desk.gather(&handle, &running, &runs).unwrap_or_else(|failure| {
                        tracing::warn!("a trace of a peer cannot be handed over: {failure}");
                        Gathered::default()
                    });
                    *lock(&running.handed) = Handing::Ready(Arc::new(blob::pack(&gathered)));
                    desk.stop_watching(&running);
                };
                let _ = thread::Builder::new().name("trace-gather".into()).spawn(gather);
                Some(Message::Part(part, 0, Vec::new()))
            }
        }
    }
}
