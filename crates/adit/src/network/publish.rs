//! What the authority decided, in the registry: the network's configuration, tombstones, wrapped secrets. A task of its own puts there what is not
//! there, for as long as that takes: a removal is not to wait for the next listing because a leader was elected just now.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::client::{Client, Listing};
use registry::schema::{Key, LeaseValue, Prefix};
use registry::trust::{Ledger, Record, Serial};
use tokio::sync::Notify;

/// How often a registry that did not take something is asked to again.
const AGAIN: Duration = Duration::from_secs(1);

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

    /// What is missing: keys and values.
    fn missing(&self, listing: &Listing) -> Result<Vec<(String, Vec<u8>)>, String> {
        let encoded = |bytes: Vec<u8>| STANDARD.encode(bytes).into_bytes();
        let tombstones = self.ledger.tombstones().map_err(|e| e.to_string())?.into_iter();
        let bundles = self.ledger.bundles().map_err(|e| e.to_string())?.into_iter();
        let mut all: Vec<(String, Vec<u8>)> = vec![(self.prefix.config(), self.network.clone())];
        all.extend(tombstones.map(|(number, bytes)| (self.prefix.removed_at(number), encoded(bytes))));
        all.extend(bundles.map(|(epoch, bytes)| (self.prefix.epoch_at(epoch), encoded(bytes))));
        let present: HashSet<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
        all.retain(|(key, _)| !present.contains(key.as_str()));
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

/// Puts decisions into the registry.
pub(super) struct Publisher {
    decisions: Arc<Decisions>,
    wake: Arc<Notify>,
}

impl Publisher {
    /// Begins, within a runtime of tokio.
    pub(super) fn start(decisions: Decisions, client: Client) -> Self {
        let (decisions, wake) = (Arc::new(decisions), Arc::new(Notify::new()));
        let (decided, woken) = (Arc::clone(&decisions), Arc::clone(&wake));
        tokio::spawn(async move {
            loop {
                woken.notified().await;
                let mut is_said = false;
                while let Err(e) = decided.publish(&client).await {
                    if !std::mem::replace(&mut is_said, true) {
                        tracing::warn!("what the authority decided is not in the registry yet: {e}");
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                if is_said {
                    tracing::info!("what the authority decided is in the registry");
                }
            }
        });
        Self { decisions, wake }
    }

    /// Something may have been decided.
    pub(super) fn look(&self) {
        self.wake.notify_one();
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
