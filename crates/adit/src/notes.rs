//! Notes: what daemons tell each other inside their sessions, beside packets.
//!
//! A note travels as a control message of a sealed session, so that it also arrives where packets inside are dropped; it comes from a peer
//! that is known, and may be lost as any datagram. Who waits for notes of a topic subscribes to it; control hands them out.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use tunnel::PeerId;

/// Bytes of the longest body.
pub const MAX_BODY: usize = wire::message::Note::MAX_BODY;

/// What notes are about.
pub mod topic {
    /// Whether two nodes hear each other without the tunnel: `control/segment.rs`.
    pub const LOOP: u8 = 1;
    /// Where probes passed.
    pub const TRACE: u8 = 16;
    /// How fast the way is.
    pub const BENCH: u8 = 32;
    /// Where a peer sees us, and what time it has: `observe/doctor/examine.rs`.
    pub const DOCTOR: u8 = 48;
}

/// Notes of one topic that wait for who subscribed; more are lost.
const QUEUE: usize = 256;

/// What a peer told us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Who.
    pub peer: PeerId,
    /// What that peer is called.
    pub name: String,
    /// One of [`topic`].
    pub topic: u8,
    /// What.
    pub body: Vec<u8>,
}

/// Who waits for what.
#[derive(Default)]
pub struct Notes {
    subscribers: Mutex<HashMap<u8, Vec<SyncSender<Note>>>>,
}

impl Notes {
    /// The notes of a topic from now on, until the receiver is dropped.
    pub fn subscribe(&self, topic: u8) -> Receiver<Note> {
        let (sender, receiver) = sync_channel(QUEUE);
        self.lock().entry(topic).or_default().push(sender);
        receiver
    }

    /// Hands a note to whoever waits for its topic.
    pub(crate) fn hand_out(&self, note: &Note) {
        let mut all = self.lock();
        let Some(subscribers) = all.get_mut(&note.topic) else { return };
        // One that is full misses this note, one that has ended all others too.
        subscribers.retain(|subscriber| {
            !matches!(subscriber.try_send(note.clone()), Err(std::sync::mpsc::TrySendError::Disconnected(_)))
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u8, Vec<SyncSender<Note>>>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(topic: u8) -> Note {
        Note { peer: PeerId(3), name: "berlin".into(), topic, body: vec![topic] }
    }

    #[test]
    fn whoever_waits_for_a_topic_gets_its_notes_and_no_others() {
        let notes = Notes::default();
        let (first, second, other) = (notes.subscribe(7), notes.subscribe(7), notes.subscribe(8));
        notes.hand_out(&note(7));
        notes.hand_out(&note(9));
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(note(7)), Ok(note(7))));
        assert!(first.try_recv().is_err() && other.try_recv().is_err());
        drop(first);
        notes.hand_out(&note(7));
        assert_eq!(second.try_recv(), Ok(note(7)));
        assert_eq!(notes.lock().get(&7).map(Vec::len), Some(1));
    }

    #[test]
    fn what_finds_no_room_is_lost_and_the_rest_is_not() {
        let notes = Notes::default();
        let all = notes.subscribe(7);
        (0..QUEUE + 9).for_each(|_| notes.hand_out(&note(7)));
        assert_eq!(all.try_iter().count(), QUEUE);
        notes.hand_out(&note(7));
        assert!(all.try_recv().is_ok());
    }
}
