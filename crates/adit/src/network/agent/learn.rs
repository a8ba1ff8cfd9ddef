//! What the registry says, taken in.

use std::fmt;
use std::time::Instant;

use registry::client::{Event, KeyValue, Update};
use registry::schema::{Key, NetworkConfig};
use registry::trust::Serial;
use registry::view::{self};

use super::super::lease::{self};
use super::{Agent, Topic};
use crate::{Failure, Result};

impl Agent {
    /// Takes in what the registry says; answers whether anything follows from it.
    pub(super) fn learn(&mut self, update: Update) -> Result<bool> {
        let news = self.take_in(update);
        self.look_for_removal();
        news
    }

    fn take_in(&mut self, update: Update) -> Result<bool> {
        match &update {
            Update::Lost { reason, is_stranger, farewell } => {
                let is_given = self.host.is_none() && self.settings.user.is_none() && self.member.has_credential();
                self.is_stranger |= is_given && *is_stranger;
                if self.lost.is_none() {
                    match (&self.handle, is_stranger) {
                        (_, true) => tracing::warn!("{reason}"),
                        (Some(_), _) => tracing::warn!("the registry cannot be reached: {reason}; traffic goes on"),
                        (None, _) => tracing::warn!("the registry cannot be reached: {reason}; waiting for it"),
                    }
                }
                self.lost = Some(reason.clone());
                if let (Some(farewell), Some(view)) = (farewell, &mut self.view)
                    && let Err(e) = view.bury(farewell)
                {
                    tracing::warn!("the registry says without proof that this node was removed: {e}");
                }
            }
            Update::Back => {
                self.is_stranger = false;
                if self.lost.take().is_some() {
                    tracing::info!("the registry is reached again");
                }
            }
            Update::Listing(listing) => {
                (self.lost, self.is_stranger) = (None, false);
                self.said = Some((listing.revision, Instant::now()));
                if let Some(publisher) = &self.publisher {
                    publisher.compare(listing);
                }
                self.learn_network(&listing.entries)?;
                self.learn_secrets(&listing.entries);
            }
            Update::Events { events, revision } => {
                self.said = Some((*revision, Instant::now()));
                // What the authority said is not for others to take away.
                let is_decision = |event: &Event| {
                    matches!(event, Event::Delete { key, .. }
                        if matches!(self.member.prefix.read(key), Some(Key::Config | Key::Removed(_) | Key::Epoch(_))))
                };
                if let Some(publisher) = self.publisher.as_ref().filter(|_| events.iter().any(is_decision)) {
                    publisher.look();
                }
                let put: Vec<KeyValue> = events
                    .iter()
                    .filter_map(|event| match event {
                        Event::Put(entry) => Some(entry.clone()),
                        Event::Delete { .. } => None,
                    })
                    .collect();
                self.learn_network(&put)?;
                self.learn_secrets(&put);
            }
        }
        // What we have signed comes before what the registry makes of it.
        self.take_signed();
        let now = self.began.elapsed();
        let heard = &self.heard;
        let when = |serial: Serial| heard.get(&serial).filter(|heard| heard.ever).map(|heard| heard.at);
        let Some(view) = &mut self.view else { return Ok(true) };
        let mut news = view.handle(&update, now, &when);
        news |= matches!(update, Update::Lost { .. } | Update::Back | Update::Listing(_));
        if let Some(lease) = &self.lease {
            lease.set_known(view.removals(), view.sequences());
            lease.observe(&update);
        }
        self.tell_alarms();
        Ok(news)
    }

    /// Takes in the records that we have signed. Other changes of the lease wait for their turn.
    pub(super) fn take_signed(&mut self) {
        while let Some(Ok(change)) = self.lease.as_mut().map(|lease| lease.changes().try_recv()) {
            match change {
                lease::Change::Signed(record) => self.know_own(&record),
                other => self.waiting.push_back(other),
            }
        }
    }

    pub(super) fn know_own(&mut self, record: &[u8]) {
        if let Some(Err(e)) = self.view.as_mut().map(|view| view.publish(record)) {
            self.alarm(Topic::Record, format!("our own record is not believed: {e}"));
        }
    }

    /// What network this is. The first word counts; another one later is an alarm.
    pub(super) fn learn_network(&mut self, entries: &[KeyValue]) -> Result<()> {
        let key = self.member.prefix.config();
        let Some(entry) = entries.iter().find(|entry| entry.key == key) else { return Ok(()) };
        let said = match NetworkConfig::parse(&entry.value) {
            Ok(said) => said,
            // The view says so too.
            Err(_) if self.view.is_some() => return Ok(()),
            Err(e) => {
                return Err(Failure::failed(format!("{key} in the registry is no network configuration: it {e}")));
            }
        };
        let before = match (&self.network, &self.notes.network) {
            (Some(before), _) => Some(before.clone()),
            (None, Some(text)) => NetworkConfig::parse(text.as_bytes()).ok(),
            (None, None) => None,
        };
        if let Some(contradiction) = before.as_ref().and_then(|before| view::contradiction(before, &said)) {
            if self.handle.is_some() {
                // The view says so too.
                return Ok(());
            }
            return Err(Failure::failed(format!("the registry contradicts what this node goes by: {contradiction}"))
                .with_remedy("if the network was really made anew, run `adit down --purge` here and join again"));
        }
        self.alarms.remove(&Topic::Configuration);
        if self.network.is_none() {
            self.go_by(said, Some(String::from_utf8_lossy(&entry.value).into_owned()))?;
        }
        Ok(())
    }

    pub(super) fn go_by(&mut self, network: NetworkConfig, text: Option<String>) -> Result<()> {
        self.member.check(&network, &self.settings)?;
        if self.view.is_none() {
            self.view = Some(self.member.view(&network, &self.settings));
        }
        // All of flannel's nodes have the same port.
        if let (Some(port), true, None) = (network.backend.port(), self.listen_is_default, &self.handle) {
            self.listen.set_port(port);
        }
        self.network = Some(network);
        if text.is_some() && self.notes.network != text {
            self.notes.network = text;
            self.write_notes();
        }
        Ok(())
    }

    pub(super) fn learn_secrets(&mut self, entries: &[KeyValue]) {
        for entry in entries {
            if let Some(Key::Epoch(number)) = self.member.prefix.read(&entry.key) {
                let learned = self.member.learn_secret(number, &entry.value);
                if learned != Ok(false) {
                    self.follow(Topic::Secret, learned.map(drop));
                }
            }
        }
    }

    /// What an earlier run knew; answers whether that is enough to go on with.
    pub(super) fn recall(&mut self) -> bool {
        let Some(network) = self.notes.network.as_ref().and_then(|text| NetworkConfig::parse(text.as_bytes()).ok())
        else {
            return false;
        };
        if self.notes.subnets.is_empty() {
            return false;
        }
        let is_enough = self.go_by(network, None).is_ok();
        self.look_for_removal();
        is_enough
    }

    /// Whether we are in the network no more. The authority's word is among what is remembered; that the registry does not know us is taken for a
    /// hint, and for as long as it says so.
    fn look_for_removal(&mut self) {
        let own = self.member.serial();
        let is_out = || self.view.as_ref().is_some_and(|view| view.removals().any(|serial| Some(serial) == own));
        let what = if self.member.is_left_out() || is_out() {
            "this node has been removed from the network by its authority"
        } else if self.is_stranger {
            "this node has probably been removed from the network: the registry does not know it any more"
        } else {
            self.removed = None;
            return;
        };
        let sentence = format!(
            "{what}; run `adit down --device {} --purge` here, and then `adit join TOKEN` with a fresh token",
            self.device
        );
        if self.removed.as_ref() != Some(&sentence) {
            tracing::error!("{sentence}");
            self.removed = Some(sentence);
        }
    }

    /// Something is wrong: said once, and shown until it is not any more.
    pub(super) fn alarm(&mut self, topic: Topic, sentence: String) {
        if self.alarms.get(&topic) != Some(&sentence) {
            tracing::error!("{sentence}");
            self.alarms.insert(topic, sentence);
        }
    }

    /// As [`alarm`](Self::alarm) for a failure, and the end of it for a success.
    pub(super) fn follow<E: fmt::Display>(&mut self, topic: Topic, outcome: std::result::Result<(), E>) {
        match outcome {
            Ok(()) => drop(self.alarms.remove(&topic)),
            Err(e) => self.alarm(topic, e.to_string()),
        }
    }

    /// Logs what the view raises, each once.
    pub(super) fn tell_alarms(&mut self) {
        let Some(view) = &self.view else { return };
        let raised: Vec<String> = view.alarms().iter().map(ToString::to_string).collect();
        for sentence in raised.iter().filter(|sentence| !self.raised.contains(sentence)) {
            tracing::error!("{sentence}");
        }
        self.raised = raised;
    }
}
