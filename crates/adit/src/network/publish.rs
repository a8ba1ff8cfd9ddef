//! What the authority decided, in the registry: the network's configuration, tombstones, wrapped secrets. A task of its own puts there what is not
//! there, for as long as that takes: a removal is not to wait for the next listing because a leader was elected just now.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::client::{Client, Event, KeyValue, Listing, Update};
use registry::schema::{Key, LeaseValue, Prefix};
use registry::trust::{Ledger, Record, Serial};
use tokio::sync::Notify;

/// How often a registry that did not take something is asked to again.
const AGAIN: Duration = Duration::from_millis(500);

/// What is to be in the registry.
pub(super) struct Decisions {
    ledger: Arc<Ledger>,
    /// The network's configuration as it was founded.
    network: Vec<u8>,
    prefix: Prefix,
}

impl Decisions {
    pub(super) fn new(ledger: Arc<Ledger>, network: Vec<u8>, prefix: Prefix) -> Self {
        Self { ledger, network, prefix }
    }

    /// Tombstones: keys and values.
    fn tombstones(&self) -> Result<Vec<(String, Vec<u8>)>, String> {
        let tombstones = self.ledger.tombstones().map_err(|e| e.to_string())?.into_iter();
        Ok(tombstones.map(|(number, bytes)| (self.prefix.removed_at(number), encoded(&bytes))).collect())
    }

    /// What is missing, or is there with another value than the authority gave it: keys and values.
    fn missing(&self, listing: &Listing) -> Result<Vec<(String, Vec<u8>)>, String> {
        let bundles = self.ledger.bundles().map_err(|e| e.to_string())?.into_iter();
        let mut all = self.tombstones()?;
        all.extend(bundles.map(|(epoch, bytes)| (self.prefix.epoch_at(epoch), encoded(&bytes))));
        let present: HashMap<&str, &[u8]> =
            listing.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_slice())).collect();
        all.retain(|(key, value)| present.get(key.as_str()) != Some(&value.as_slice()));
        if !present.contains_key(self.prefix.config().as_str()) {
            all.insert(0, (self.prefix.config(), self.network.clone()));
        }
        Ok(all)
    }

    /// The leases of nodes that were removed, which cannot give them back themselves: their keys.
    fn leftovers(&self, listing: &Listing) -> Result<Vec<String>, String> {
        let members = self.ledger.members().map_err(|e| e.to_string())?;
        let removed: HashSet<Serial> =
            members.iter().filter(|member| member.removed.is_some()).map(|member| member.serial).collect();
        if removed.is_empty() {
            return Ok(Vec::new());
        }
        let anchor = self.ledger.anchor();
        let is_removed = |value: &[u8]| {
            let signed = STANDARD.decode(LeaseValue::parse(value).ok()?.signed()?).ok()?;
            // Signatures are dear, and most records are of others.
            Record::claimed_serial(&signed).filter(|serial| removed.contains(serial))?;
            Some(removed.contains(&Record::open(&signed, &anchor).ok()?.certificate.serial))
        };
        let leases =
            listing.entries.iter().filter(|entry| matches!(self.prefix.read(&entry.key), Some(Key::Subnets(_))));
        Ok(leases.filter(|entry| is_removed(&entry.value) == Some(true)).map(|entry| entry.key.clone()).collect())
    }

    /// Whether the registry is as it should be.
    fn stand(&self, listing: &Listing) -> Result<bool, String> {
        Ok(self.missing(listing)?.is_empty() && self.leftovers(listing)?.is_empty())
    }

    async fn publish(&self, client: &Client) -> Result<(), String> {
        let listing = client.list(&self.prefix.all()).await.map_err(|e| e.to_string())?;
        for (key, value) in self.missing(&listing)? {
            client.put(&key, &value, 0).await.map_err(|e| format!("{key}: {e}"))?;
        }
        for key in self.leftovers(&listing)? {
            client.delete(&key).await.map_err(|e| format!("{key}: {e}"))?;
        }
        Ok(())
    }
}

fn encoded(bytes: &[u8]) -> Vec<u8> {
    STANDARD.encode(bytes).into_bytes()
}

/// Puts decisions into the registry.
pub(super) struct Publisher {
    decisions: Arc<Decisions>,
    wake: Arc<Notify>,
    /// Why it is not done, if so.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Publisher {
    /// Begins, within a runtime of tokio.
    pub(super) fn start(decisions: Decisions, client: Client) -> Self {
        let this = Self { decisions: Arc::new(decisions), wake: Arc::default(), trouble: Arc::default() };
        let (decisions, wake, trouble) =
            (Arc::clone(&this.decisions), Arc::clone(&this.wake), Arc::clone(&this.trouble));
        tokio::spawn(async move {
            loop {
                wake.notified().await;
                loop {
                    match decisions.publish(&client).await {
                        Ok(()) => {
                            lock(&trouble).take();
                            break;
                        }
                        // The first word of it, so that it is said once.
                        Err(e) => drop(lock(&trouble).get_or_insert(e)),
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        });
        this
    }

    /// Whether all is there.
    ///
    /// # Errors
    /// Why something is not: it goes on being tried.
    pub(super) fn outcome(&self) -> Result<(), String> {
        match &*lock(&self.trouble) {
            None => Ok(()),
            Some(e) => Err(format!("what the authority decided is not published yet: {e}")),
        }
    }

    /// Something may have been decided.
    pub(super) fn look(&self) {
        self.wake.notify_one();
    }

    /// Who was removed, as the registry will say it once it was told.
    pub(super) fn removals(&self) -> Result<Update, String> {
        let entry = |(key, value)| {
            Event::Put(KeyValue { key, value, create_revision: 0, mod_revision: 0, version: 0, lease: 0 })
        };
        Ok(Update::Events { revision: 0, events: self.decisions.tombstones()?.into_iter().map(entry).collect() })
    }

    /// The registry may have lost something.
    pub(super) fn compare(&self, listing: &Listing) {
        match self.decisions.stand(listing) {
            Ok(true) => {}
            Ok(false) => self.look(),
            Err(e) => tracing::error!("the authority's ledger: {e}"),
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
