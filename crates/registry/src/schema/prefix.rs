//! Where a network's keys stand.

use std::fmt;

use super::Subnets;

/// Why a text is no prefix, as the end of a sentence that began with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Nothing, or slashes alone.
    #[error("is empty: write a path such as \"/coreos.com/network\"")]
    Empty,
    /// More than 256 bytes.
    #[error("is longer than 256 bytes")]
    TooLong,
    /// An empty part, `.`, `..`, or a character that is not printed.
    #[error("is not a plain path: write one such as \"/coreos.com/network\"")]
    NotPlain,
}

/// The path that all keys of one network begin with, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(String);

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The network configuration.
    Config,
    /// A node's subnets.
    Subnets(Subnets),
    /// The tombstone with this number.
    Removed(u64),
    /// The secret of this epoch, wrapped.
    Epoch(u32),
    /// The release of a subnet by the node with this serial.
    Release(u64),
}

impl Prefix {
    /// # Errors
    /// [`PrefixError`].
    pub fn new(text: &str) -> Result<Self, PrefixError> {
        let path = text.trim_end_matches('/');
        if path.is_empty() {
            return Err(PrefixError::Empty);
        }
        if path.len() > 256 {
            return Err(PrefixError::TooLong);
        }
        let mut parts = path.strip_prefix('/').unwrap_or(path).split('/');
        if parts.any(|part| matches!(part, "" | "." | "..")) || path.chars().any(char::is_control) {
            return Err(PrefixError::NotPlain);
        }
        Ok(Self(path.to_owned()))
    }

    /// What every key of the network begins with, to list and watch all of it.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}/", self.0)
    }

    /// The key of the network configuration.
    #[must_use]
    pub fn config(&self) -> String {
        format!("{}/config", self.0)
    }

    /// What the keys of subnets begin with.
    #[must_use]
    pub fn subnets(&self) -> String {
        format!("{}/subnets/", self.0)
    }

    /// The key of a lease.
    #[must_use]
    pub fn subnet(&self, subnets: &Subnets) -> String {
        format!("{}/subnets/{}", self.0, subnets.to_key())
    }

    /// What the keys of tombstones begin with.
    #[must_use]
    pub fn removed(&self) -> String {
        format!("{}/adit/removed/", self.0)
    }

    /// The key of a tombstone.
    #[must_use]
    pub fn removed_at(&self, number: u64) -> String {
        format!("{}/adit/removed/{number:010}", self.0)
    }

    /// What the keys of epochs begin with.
    #[must_use]
    pub fn epochs(&self) -> String {
        format!("{}/adit/epochs/", self.0)
    }

    /// The key of an epoch.
    #[must_use]
    pub fn epoch_at(&self, epoch: u32) -> String {
        format!("{}/adit/epochs/{epoch:010}", self.0)
    }

    /// What the keys of releases begin with.
    #[must_use]
    pub fn releases(&self) -> String {
        format!("{}/adit/releases/", self.0)
    }

    /// The key of a node's release.
    #[must_use]
    pub fn release_of(&self, serial: u64) -> String {
        format!("{}/adit/releases/{serial:010}", self.0)
    }

    /// What a key stands for; none if it is not a key of this network. A thing has one key: whatever is written otherwise than the
    /// functions above write it is none.
    #[must_use]
    pub fn read(&self, key: &str) -> Option<Key> {
        let path = key.strip_prefix(self.0.as_str())?.strip_prefix('/')?;
        let read = if path == "config" {
            Key::Config
        } else if let Some(subnets) = path.strip_prefix("subnets/") {
            Key::Subnets(Subnets::from_key(subnets)?)
        } else if let Some(number) = path.strip_prefix("adit/removed/") {
            Key::Removed(number.parse().ok()?)
        } else if let Some(epoch) = path.strip_prefix("adit/epochs/") {
            Key::Epoch(epoch.parse().ok()?)
        } else {
            Key::Release(path.strip_prefix("adit/releases/")?.parse().ok()?)
        };
        let written = match &read {
            Key::Config => self.config(),
            Key::Subnets(subnets) => self.subnet(subnets),
            Key::Removed(number) => self.removed_at(*number),
            Key::Epoch(epoch) => self.epoch_at(*epoch),
            Key::Release(serial) => self.release_of(*serial),
        };
        (written == key).then_some(read)
    }
}

impl Default for Prefix {
    /// flannel's: `/coreos.com/network`.
    fn default() -> Self {
        Self("/coreos.com/network".to_owned())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_as_flannel_has_them() {
        let prefix = Prefix::new("/coreos.com/network/").unwrap();
        assert_eq!(prefix, Prefix::default());
        assert_eq!(prefix.config(), "/coreos.com/network/config");
        let subnets = Subnets::from_key("10.42.7.0-24").unwrap();
        assert_eq!(prefix.subnet(&subnets), "/coreos.com/network/subnets/10.42.7.0-24");
        assert_eq!(prefix.removed_at(7), "/coreos.com/network/adit/removed/0000000007");
        assert_eq!(prefix.epoch_at(u32::MAX), "/coreos.com/network/adit/epochs/4294967295");
        assert_eq!(prefix.release_of(u64::MAX), "/coreos.com/network/adit/releases/18446744073709551615");
        assert_eq!(Prefix::new("coreos.com").map(|prefix| prefix.config()).as_deref(), Ok("coreos.com/config"));
    }

    #[test]
    fn what_is_no_prefix() {
        for (text, error) in [
            ("", PrefixError::Empty),
            ("//", PrefixError::Empty),
            ("/a//b", PrefixError::NotPlain),
            ("//a", PrefixError::NotPlain),
            ("/a/../b", PrefixError::NotPlain),
            ("/a/.", PrefixError::NotPlain),
            ("/a\0b", PrefixError::NotPlain),
            (&"a".repeat(257), PrefixError::TooLong),
        ] {
            assert_eq!(Prefix::new(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn keys_of_others_are_none_of_ours() {
        let prefix = Prefix::new("/net").unwrap();
        for key in [
            "",
            "/net",
            "/net/",
            "/net2/config",
            "/net/config/",
            "/net/Config",
            "/net/subnets",
            "/net/subnets/",
            "/net/subnets/junk",
            "/net/subnets/x/10.42.7.0-24",
            "/net/subnets-old/10.42.7.0-24",
            "/net/adit/removed/7",
            "/net/adit/removed/00000000007",
            "/net/adit/removed/+000000007",
            "/net/adit/epochs/4294967296",
            "/net/adit/other/0000000001",
        ] {
            assert_eq!(prefix.read(key), None, "{key}");
        }
    }

    proptest! {
        #[test]
        fn keys_come_back(number in any::<u64>(), epoch in any::<u32>(), bits in any::<u32>(), len in 1u8..31) {
            let prefix = Prefix::default();
            let v4 = ipnet::Ipv4Net::new(bits.into(), len).unwrap();
            let subnets = Subnets::new(Some(v4), None).unwrap();
            prop_assert_eq!(prefix.read(&prefix.config()), Some(Key::Config));
            prop_assert_eq!(prefix.read(&prefix.subnet(&subnets)), Some(Key::Subnets(subnets)));
            prop_assert_eq!(prefix.read(&prefix.removed_at(number)), Some(Key::Removed(number)));
            prop_assert_eq!(prefix.read(&prefix.epoch_at(epoch)), Some(Key::Epoch(epoch)));
            prop_assert_eq!(prefix.read(&prefix.release_of(number)), Some(Key::Release(number)));
        }

        #[test]
        fn any_text_is_judged(text in any::<String>()) {
            let _ = Prefix::new(&text);
            let _ = Prefix::default().read(&text);
        }
    }
}
