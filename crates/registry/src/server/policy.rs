//! Who may do what: the question is asked here, and answered by whoever runs the registry.

use std::sync::Arc;

use super::refusal::Refusal;
use crate::api::mvccpb::KeyValue;

/// What `root` may put as a value, in bytes.
const ROOT_VALUE: usize = 1024 * 1024;

/// What everybody else may put as a value, in bytes: a record of a node has under 1 KiB.
const VALUE: usize = 16 * 1024;

/// Who asks. `root` may everything, and no policy is asked about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(pub String);

impl Principal {
    /// The one who may everything.
    #[must_use]
    pub fn root() -> Self {
        Self("root".into())
    }

    /// Whether this is the one who may everything.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0 == "root"
    }
}

/// One change that somebody wants made.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// A value for a key, bound to a lease (0: to none).
    Put {
        /// The key.
        key: &'a str,
        /// Its value; with `ignore_value` the one that is there.
        value: &'a [u8],
        /// The lease, 0 for none; with `ignore_lease` the one that is there.
        lease: i64,
    },
    /// A key that exists is to go.
    Delete {
        /// The key.
        key: &'a str,
    },
}

/// What the registry's owner says of who may come and what they may do. Called from several threads, also while a write waits: answers
/// must come fast.
pub trait Policy: Send + Sync + 'static {
    /// Whose name and password these are.
    fn authenticate(&self, user: &str, password: &str) -> Option<Principal>;

    /// Whether this change is theirs to make; `present` is what the key holds at that moment. Deletions are asked about for every key that is there,
    /// and for one alone that is not. The reason of a refusal goes to whoever asked.
    ///
    /// # Errors
    /// The reason, in a few words.
    fn permit(&self, who: &Principal, write: &Write<'_>, present: Option<&KeyValue>) -> Result<(), String>;

    /// Whether they may read and watch this range, whose ends are as in etcd's requests: ask [`lies_under`] about a prefix.
    fn may_read(&self, who: &Principal, key: &[u8], range_end: &[u8]) -> bool;

    /// Whether they are still welcome. Once this is no, their tokens are void, and their watches end within a second.
    fn still_valid(&self, who: &Principal) -> bool;

    /// What goes with the refusal of a user who was put out, so that they know for certain: bytes that prove it by themselves, and that anybody may see.
    fn farewell(&self, _user: &str) -> Option<Vec<u8>> {
        None
    }

    /// Who it is that comes without a token. None: nobody may.
    fn anonymous(&self) -> Option<Principal> {
        None
    }
}

/// Whether a range, whose ends are as in etcd's requests, has no keys but those with this prefix. An empty end means one key, and an end of one zero
/// byte all keys there are from the first.
#[must_use]
pub fn lies_under(prefix: &[u8], key: &[u8], range_end: &[u8]) -> bool {
    key.starts_with(prefix)
        && match range_end {
            [] => true,
            [0] => false,
            _ => {
                range_end.starts_with(prefix)
                    || range_end <= key
                    || after(prefix).is_some_and(|after| range_end <= after.as_slice())
            }
        }
}

/// The first key after all that have this prefix, if there is one.
fn after(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut after = prefix.to_vec();
    while let Some(last) = after.pop() {
        if let Some(next) = last.checked_add(1) {
            after.push(next);
            return Some(after);
        }
    }
    None
}

/// Somebody, and the policy that knows what they may.
#[derive(Clone)]
pub(super) struct Mandate {
    pub(super) who: Principal,
    pub(super) policy: Arc<dyn Policy>,
}

impl Mandate {
    pub(super) fn may_put(&self, new: &KeyValue, present: Option<&KeyValue>) -> Result<(), Refusal> {
        if new.value.len() > if self.who.is_root() { ROOT_VALUE } else { VALUE } {
            return Err(Refusal::TooLarge);
        }
        if self.who.is_root() {
            return Ok(());
        }
        let write = Write::Put { key: text(&new.key)?, value: &new.value, lease: new.lease };
        self.policy.permit(&self.who, &write, present).map_err(Refusal::Denied)
    }

    pub(super) fn may_delete(&self, key: &[u8], present: Option<&KeyValue>) -> Result<(), Refusal> {
        if self.who.is_root() {
            return Ok(());
        }
        self.policy.permit(&self.who, &Write::Delete { key: text(key)? }, present).map_err(Refusal::Denied)
    }

    pub(super) fn may_read(&self, key: &[u8], range_end: &[u8]) -> Result<(), Refusal> {
        if self.who.is_root() || self.policy.may_read(&self.who, key, range_end) {
            return Ok(());
        }
        Err(Refusal::Denied(String::new()))
    }

    pub(super) fn is_root(&self) -> Result<(), Refusal> {
        if self.who.is_root() { Ok(()) } else { Err(Refusal::Denied(String::new())) }
    }
}

/// Keys of a network are text; others are `root`'s alone.
fn text(key: &[u8]) -> Result<&str, Refusal> {
    str::from_utf8(key).map_err(|_| Refusal::Denied("the key is no text".into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::txn::within;

    proptest! {
        #[test]
        fn a_range_that_lies_under_a_prefix_has_no_key_without_it(
            prefix in "[a-b]{0,2}",
            key in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'c'), Just(0), Just(255)], 0..4),
            end in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'c'), Just(0), Just(255)], 0..4),
            other in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'c'), Just(0), Just(255)], 0..4),
        ) {
            if lies_under(prefix.as_bytes(), &key, &end) && within(&other, &key, &end) {
                prop_assert!(other.starts_with(prefix.as_bytes()), "{other:?}");
            }
        }
    }

    #[test]
    fn a_prefix_and_what_is_in_it_lie_under_it() {
        for (key, end) in [("/a/", ""), ("/a/", "/a0"), ("/a/x", "/a/y"), ("/a/x", ""), ("/a/y", "/a/x")] {
            assert!(lies_under(b"/a/", key.as_bytes(), end.as_bytes()), "{key} {end}");
        }
        for (key, end) in [("/a", ""), ("/a", "/a0"), ("/a/", "/a1"), ("/a/", "\0"), ("/", "0"), ("", "\0")] {
            assert!(!lies_under(b"/a/", key.as_bytes(), end.as_bytes()), "{key} {end}");
        }
    }

    impl Mandate {
        pub(in crate::server) fn of_root() -> Self {
            Self { who: Principal::root(), policy: Arc::new(Closed) }
        }
    }

    /// Lets nobody do anything.
    struct Closed;

    impl Policy for Closed {
        fn authenticate(&self, _: &str, _: &str) -> Option<Principal> {
            None
        }

        fn permit(&self, _: &Principal, _: &Write<'_>, _: Option<&KeyValue>) -> Result<(), String> {
            Err("closed".into())
        }

        fn may_read(&self, _: &Principal, _: &[u8], _: &[u8]) -> bool {
            false
        }

        fn still_valid(&self, _: &Principal) -> bool {
            true
        }
    }
}
