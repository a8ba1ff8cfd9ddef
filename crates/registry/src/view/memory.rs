//! What outlives a restart: nodes, so that traffic goes on while the registry is away, and all that must not go back.

use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::known::{Sequences, Standing};
use super::read::{Entry, What};
use super::{PlainNode, View};
use crate::schema::{NetworkConfig, Subnets};
use crate::trust::{Record, Serial, Tombstone};

const VERSION: u32 = 1;

/// Why bytes are no memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Not the JSON that was written.
    #[error("what was remembered of the network cannot be understood: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a newer adit.
    #[error("what was remembered of the network has version {0}, and only version {VERSION} is known here")]
    Version(u32),
}

/// What a view remembers. It holds no secret; signatures are checked again when it is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memory {
    version: u32,
    /// The network configuration that we ran with, as JSON: what to start with while the registry is away.
    config: String,
    nodes: Vec<RememberedNode>,
    sequences: Vec<RememberedSequences>,
    /// Tombstones, in base64.
    removals: Vec<String>,
    /// How many tombstones there are, by the word of a bundle.
    removals_claimed: u64,
    plain: Vec<RememberedPlain>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RememberedNode {
    /// In base64.
    record: String,
    order: i64,
    /// Whether it held what it claimed.
    holds: bool,
    /// For how long it had no record.
    absent_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RememberedSequences {
    serial: Serial,
    highest: u64,
    released: Option<(u64, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RememberedPlain {
    subnets: String,
    public_ip: Ipv4Addr,
    order: i64,
}

impl Memory {
    /// What was written.
    ///
    /// # Errors
    /// It is damaged, or from a newer adit.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MemoryError> {
        let memory: Self = serde_json::from_slice(bytes)?;
        if memory.version == VERSION { Ok(memory) } else { Err(MemoryError::Version(memory.version)) }
    }

    /// What is to be written.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Nothing in it can fail to be written to memory.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The network configuration that we ran with.
    pub fn config(&self) -> Option<NetworkConfig> {
        NetworkConfig::parse(self.config.as_bytes()).ok()
    }
}

impl View {
    /// What is to be remembered.
    pub fn memory(&self) -> Memory {
        let config = String::from_utf8(self.setting.network.to_json()).unwrap_or_default();
        let nodes = self.nodes.iter().map(|(_, known)| RememberedNode {
            record: STANDARD.encode(&known.signed),
            order: known.order,
            holds: known.standing == Standing::Holds,
            absent_seconds: known.absent_for.as_secs(),
        });
        let sequences = self.nodes.sequences().iter().map(|(serial, sequences)| RememberedSequences {
            serial: *serial,
            highest: sequences.highest,
            released: sequences.released.map(|(sequence, subnets)| (sequence, subnets.to_key())),
        });
        let plain = self.leases.values().filter_map(|entry| match entry.what {
            What::Plain(node) => Some(RememberedPlain {
                subnets: node.subnets.to_key(),
                public_ip: node.public_ip,
                order: entry.create_revision,
            }),
            _ => None,
        });
        Memory {
            version: VERSION,
            config,
            nodes: nodes.collect(),
            sequences: sequences.collect(),
            removals: self.removals.known().map(|(_, signed)| STANDARD.encode(signed)).collect(),
            removals_claimed: self.removals.claimed(),
            plain: plain.collect(),
        }
    }

    /// Whether there is something new to remember since this was last asked. Times of absence alone are not.
    pub fn is_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }

    /// Begins with what was remembered. Whatever is not signed for this network, or not permitted in it, is left out.
    pub(super) fn recall(&mut self, memory: Memory) {
        for text in &memory.removals {
            let Ok(signed) = STANDARD.decode(text) else { continue };
            if let Ok(tombstone) = Tombstone::open(&signed, &self.setting.anchor) {
                self.removals.add(tombstone, signed);
            }
        }
        self.removals.claim(memory.removals_claimed);
        for RememberedSequences { serial, highest, released } in memory.sequences {
            let released = released.and_then(|(sequence, key)| Some((sequence, Subnets::from_key(&key)?)));
            self.nodes.recall_sequences(serial, Sequences { highest, released });
        }
        // Those who held what they claimed go first, and so hold it again.
        let (holders, others): (Vec<_>, Vec<_>) = memory.nodes.into_iter().partition(|node| node.holds);
        for nodes in [holders, others] {
            for node in nodes {
                let Ok(signed) = STANDARD.decode(&node.record) else { continue };
                let Ok(record) = Record::open(&signed, &self.setting.anchor) else { continue };
                let is_out = self.removals.is_removed(record.certificate.serial);
                if !is_out && self.setting.network.permits(&record.subnets) {
                    let absent_for = Duration::from_secs(node.absent_seconds);
                    self.nodes.recall(record, signed, node.order, node.holds, absent_for);
                }
            }
            self.settle_all_heard();
        }
        for RememberedPlain { subnets, public_ip, order } in memory.plain {
            let Some(subnets) = Subnets::from_key(&subnets) else { continue };
            if self.setting.network.permits(&subnets) {
                let what = What::Plain(PlainNode { subnets, public_ip });
                self.leases.insert(subnets, Entry { create_revision: order, hash: [0; 32], what });
            }
        }
        self.changed = false;
        self.unsaved = false;
    }
}
