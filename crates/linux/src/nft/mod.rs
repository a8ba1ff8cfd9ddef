//! nf_tables over netlink: one's own table, replaced as a whole in one transaction, without running a program.
//!
//! A [`Ruleset`] is one table with all that is in it. [`Nft::apply`] puts it in the place of what the kernel has under that
//! name, so that between two packets the old rules end and the new ones begin; if the kernel refuses any part, nothing has
//! changed, and the error names the part. Tables of other names are never touched.
//!
//! ```no_run
//! # fn main() -> linux::Result<()> {
//! # use linux::nft::*;
//! let masquerade = Rule::new("containers reach the world under our address")
//!     .when(Match::OutputDevice("eth0".into()))
//!     .then(Action::Masquerade { random_fully: true });
//! let base = Base { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 100, device: None, policy: Policy::Accept };
//! let chain = Chain { name: "source".into(), base: Some(base), rules: vec![masquerade] };
//! Nft::open()?.apply(&Ruleset { family: Family::Inet, table: "adit".into(), sets: vec![], chains: vec![chain] })?;
//! # Ok(()) }
//! ```
//!
//! `listing` reads what others have there. `ruleset` has the types, `expression` turns a rule into the small programs that the kernel runs (linux/netfilter/nf_tables.h;
//! they come out as those of the `nft` program do, which therefore can show them), this file speaks with the kernel.

mod expression;
mod legacy;
mod listing;
mod number;
mod ruleset;
mod trace;

pub use legacy::is_legacy_table_idle;
pub use listing::{
    Decision, Element, Expression, ListedBase, ListedChain, ListedRule, ListedSet, ListedTable, Listing,
};
pub use ruleset::{
    Action, AddressType, Base, Chain, ChainKind, ConnectionState, Family, Header, Hook, Match, Mss, Policy, Rejection,
    Rule, Ruleset, Set, Transport,
};
pub use trace::{Refused, Tracer};

use ipnet::IpNet;

use self::number::*;
use crate::netlink::{Attribute, NESTED, Socket, Verdict, Writer, append_message, attributes, messages};
use crate::netns::NetNs;
use crate::{Error, Result};

const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
const BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const EXCLUSIVE: u16 = libc::NLM_F_CREATE as u16 | libc::NLM_F_EXCL as u16;
const APPEND: u16 = libc::NLM_F_CREATE as u16 | libc::NLM_F_APPEND as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;

/// Elements of a set in one message, whose list counts its length in 16 bits.
const ELEMENTS_PER_MESSAGE: usize = 1000;

/// In a rule's user data: a comment (`NFTNL_UDATA_RULE_COMMENT` of libnftnl), then its length, then text with a NUL.
const COMMENT: u8 = 0;

/// What the kernel has of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledRule {
    /// The chain it is in.
    pub chain: String,
    /// Its comment, by which a rule is known again.
    pub comment: String,
    /// Packets and bytes that reached its counter, if it has one.
    pub counter: Option<(u64, u64)>,
}

/// A connection to nf_tables, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
}

impl Nft {
    /// Opens a connection in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(libc::NETLINK_NETFILTER)? })
    }

    /// Opens a connection in another network namespace.
    pub fn open_in(namespace: &NetNs) -> Result<Self> {
        namespace.run(Self::open)?
    }

    /// Puts the rule set in the place of the table of its family and name, in one transaction. Counters start over.
    pub fn apply(&mut self, ruleset: &Ruleset) -> Result<()> {
        self.put(ruleset, Batch::clear_table)
    }

    /// The same where there is no such table yet; EEXIST if there is one, which stays as it is.
    ///
    /// It takes a millisecond. After a table was replaced or deleted, closing the connection takes ten and more: the kernel waits then until
    /// no packet can see the old rules (`nft_rcv_nl_event` in net/netfilter/nf_tables_api.c).
    pub fn create(&mut self, ruleset: &Ruleset) -> Result<()> {
        self.put(ruleset, Batch::create_table)
    }

    /// The same for a table that goes with this connection, however that ends, and that nobody else may change (kernel 5.12 and later).
    fn create_owned(&mut self, ruleset: &Ruleset) -> Result<()> {
        self.put(ruleset, Batch::create_owned_table)
    }

    fn put(&mut self, ruleset: &Ruleset, begin: impl FnOnce(&mut Batch)) -> Result<()> {
        ruleset.check()?;
        let mut batch = Batch::new(ruleset.family, &ruleset.table);
        begin(&mut batch);
        // The kernel adds an element only to a set that is there, a rule only if its set and its target chain are.
        for set in &ruleset.sets {
            batch.add_set(set);
        }
        for chain in &ruleset.chains {
            batch.add_chain(chain);
        }
        for chain in &ruleset.chains {
            for (number, rule) in chain.rules.iter().enumerate() {
                batch.add_rule(ruleset, chain, number, rule)?;
            }
        }
        self.commit(batch)
    }

    /// Deletes a table with all that is in it; ENOENT if there is none.
    pub fn delete(&mut self, family: Family, table: &str) -> Result<()> {
        let mut batch = Batch::new(family, table);
        batch.delete_table();
        self.commit(batch)
    }

    /// Whether there is such a table.
    pub fn exists(&mut self, family: Family, table: &str) -> Result<bool> {
        let mut body = general(family.number(), 0);
        body.extend_from_slice(Writer::new().text(TABLE_NAME, table).as_bytes());
        let operation = format_args!("look for table {family} {table}");
        match self.socket.request(operation, (message_type(GETTABLE), 0), &body, |_| ()) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The rules of a table in order, chain by chain; none if there is no such table.
    pub fn rules(&mut self, family: Family, table: &str) -> Result<Vec<InstalledRule>> {
        let mut body = general(family.number(), 0);
        body.extend_from_slice(Writer::new().text(RULE_TABLE, table).as_bytes());
        let operation = format_args!("list the rules of table {family} {table}");
        let kind = message_type(GETRULE);
        // A kernel before 4.15 ignores the filter.
        let all = self.socket.dump(operation, kind, &body, |message| parse_rule(message.body, table));
        match all {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
            all => all,
        }
    }

    /// Sends the batch and collects the verdicts. Only its last object asks to be acknowledged, since errors come anyway: a
    /// thousand acknowledgements would not fit the socket.
    fn commit(&mut self, batch: Batch) -> Result<()> {
        let (datagram, first, last) = batch.seal(&mut self.socket)?;
        let operation = |sequence: u32| batch.operation(sequence.wrapping_sub(first));
        self.socket.make_room(datagram.len());
        self.socket.send(&datagram).map_err(|source| Error::new(operation(first), source))?;
        let mut refused = None;
        loop {
            let received = match self.socket.receive() {
                Ok(received) => received,
                // More errors than the socket holds; those that it holds are still to come.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(error) => return Err(refused.unwrap_or_else(|| Error::new(operation(first), error))),
            };
            for message in messages(received) {
                let place = message.sequence.wrapping_sub(first);
                if place > last.wrapping_sub(first) {
                    continue;
                }
                let Some(verdict) = Verdict::parse(&message) else { continue };
                let verdict = verdict.check(format_args!("{}", operation(message.sequence)));
                refused = refused.or(verdict.err());
                // An error of the batch as a whole is that of its first message.
                if message.sequence == last || (place == 0 && refused.is_some()) {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }
}

/// The messages of one transaction, and what each of them is for.
struct Batch {
    family: Family,
    table: String,
    messages: Vec<(u16, u16, Vec<u8>)>,
    purposes: Vec<String>,
    overlong: bool,
}

impl Batch {
    fn new(family: Family, table: &str) -> Self {
        Self { family, table: table.to_owned(), messages: Vec::new(), purposes: Vec::new(), overlong: false }
    }

    fn push(&mut self, kind: u16, flags: u16, purpose: String, list: &Writer) {
        let mut body = general(self.family.number(), 0);
        body.extend_from_slice(list.as_bytes());
        self.overlong |= list.overlong();
        self.messages.push((message_type(kind), flags, body));
        self.purposes.push(purpose);
    }

    /// What the message at `place` is for; 0 is the beginning of the batch.
    fn operation(&self, place: u32) -> String {
        let table = format!("table {} {}", self.family, self.table);
        match usize::try_from(place).ok().and_then(|place| self.purposes.get(place.checked_sub(1)?)) {
            Some(purpose) => format!("{purpose} of {table}"),
            None => format!("replace {table}"),
        }
    }

    /// Numbers the messages; answers the datagram and the first and last number.
    fn seal(&self, socket: &mut Socket) -> Result<(Vec<u8>, u32, u32)> {
        if self.overlong {
            return Err(Error::from_errno(self.operation(0), libc::E2BIG).with_detail("a rule is too long"));
        }
        let mut datagram = Vec::new();
        let frame = general(libc::NFPROTO_UNSPEC as u8, SUBSYSTEM);
        let first = socket.next_sequence();
        append_message(&mut datagram, BATCH_BEGIN, 0, first, &frame);
        let mut last = first;
        for (place, (kind, flags, body)) in self.messages.iter().enumerate() {
            last = socket.next_sequence();
            let ack = if place + 1 == self.messages.len() { ACK } else { 0 };
            append_message(&mut datagram, *kind, flags | ack, last, body);
        }
        append_message(&mut datagram, BATCH_END, 0, socket.next_sequence(), &frame);
        Ok((datagram, first, last))
    }

    /// Leaves an empty table, whether there was one or not: deleting needs one to be there.
    fn clear_table(&mut self) {
        let mut list = Writer::new();
        list.text(TABLE_NAME, &self.table);
        for (kind, purpose) in
            [(NEWTABLE, "make sure"), (DELTABLE, "clear away the old content"), (NEWTABLE, "begin anew")]
        {
            let flags = if kind == NEWTABLE { CREATE } else { 0 };
            self.push(kind, flags, purpose.to_owned(), &list);
        }
    }

    /// Makes the table, which must not be there.
    fn create_table(&mut self) {
        let mut list = Writer::new();
        list.text(TABLE_NAME, &self.table);
        self.push(NEWTABLE, EXCLUSIVE, "make the table".to_owned(), &list);
    }

    /// Makes the table, which must not be there, and ends with the connection.
    fn create_owned_table(&mut self) {
        let mut list = Writer::new();
        list.text(TABLE_NAME, &self.table).u32_be(TABLE_FLAGS, TABLE_OWNED);
        self.push(NEWTABLE, EXCLUSIVE, "make the table".to_owned(), &list);
    }

    fn delete_table(&mut self) {
        let mut list = Writer::new();
        list.text(TABLE_NAME, &self.table);
        self.push(DELTABLE, 0, "delete all".to_owned(), &list);
    }

    fn add_chain(&mut self, chain: &Chain) {
        let mut list = Writer::new();
        list.text(CHAIN_TABLE, &self.table).text(CHAIN_NAME, &chain.name);
        if let Some(base) = &chain.base {
            list.nest(CHAIN_HOOK, |hook| {
                hook.u32_be(HOOK_HOOKNUM, base.hook.number(self.family));
                hook.u32_be(HOOK_PRIORITY, base.priority.cast_unsigned());
                if let Some(device) = &base.device {
                    hook.text(HOOK_DEV, device);
                }
            });
            let policy = match base.policy {
                Policy::Accept => VERDICT_ACCEPT,
                Policy::Drop => VERDICT_DROP,
            };
            list.u32_be(CHAIN_POLICY, policy);
            list.text(CHAIN_TYPE, base.kind.name());
        }
        self.push(NEWCHAIN, CREATE, format!("add chain {}", chain.name), &list);
    }

    fn add_rule(&mut self, ruleset: &Ruleset, chain: &Chain, number: usize, rule: &Rule) -> Result<()> {
        let purpose = format!("add rule {} ({}) to chain {}", number + 1, rule.comment, chain.name);
        let expressions = expression::encode(ruleset, rule).map_err(|reason| {
            let operation = format!("{purpose} of table {} {}", self.family, self.table);
            Error::from_errno(operation, libc::EINVAL).with_detail(reason)
        })?;
        let mut list = Writer::new();
        list.text(RULE_TABLE, &self.table).text(RULE_CHAIN, &chain.name);
        self.overlong |= expressions.overlong();
        list.bytes(RULE_EXPRESSIONS | NESTED, expressions.as_bytes());
        if !rule.comment.is_empty() {
            // `check` has made sure that the length fits.
            let length = u8::try_from(rule.comment.len() + 1).unwrap_or(u8::MAX);
            let mut data = vec![COMMENT, length];
            data.extend_from_slice(rule.comment.as_bytes());
            data.push(0);
            list.bytes(RULE_USERDATA, &data);
        }
        self.push(NEWRULE, APPEND, purpose, &list);
        Ok(())
    }

    fn add_set(&mut self, set: &Set) {
        // Types of keys as the `nft` program numbers them; to the kernel they are opaque.
        let (key_type, key_length) = if set.v6 { (8, 16) } else { (7, 4) };
        let mut list = Writer::new();
        list.text(SET_TABLE, &self.table)
            .text(SET_NAME, &set.name)
            .u32_be(SET_FLAGS, SET_INTERVAL)
            .u32_be(SET_KEY_TYPE, key_type)
            .u32_be(SET_KEY_LEN, key_length)
            .u32_be(SET_ID, 1 + u32::try_from(self.messages.len()).unwrap_or(0));
        self.push(NEWSET, CREATE, format!("add set {}", set.name), &list);
        let bounds = bounds(&set.prefixes, set.v6);
        for part in bounds.chunks(ELEMENTS_PER_MESSAGE) {
            let mut list = Writer::new();
            list.text(SET_ELEM_LIST_TABLE, &self.table).text(SET_ELEM_LIST_SET, &set.name).nest(
                SET_ELEM_LIST_ELEMENTS,
                |elements| {
                    for (bound, end) in part {
                        elements.nest(LIST_ELEM, |element| {
                            let bytes = bound.to_be_bytes();
                            let key =
                                if set.v6 { &bytes[..] } else { bytes.last_chunk::<4>().map_or(&[][..], |v4| v4) };
                            element.nest(SET_ELEM_KEY, |data| {
                                data.bytes(DATA_VALUE, key);
                            });
                            if *end {
                                element.u32_be(SET_ELEM_FLAGS, ELEM_INTERVAL_END);
                            }
                        });
                    }
                },
            );
            self.push(NEWSETELEM, CREATE, format!("fill set {}", set.name), &list);
        }
    }
}

/// The bounds of a set of prefixes as the kernel wants them: the first address of each run, and (`true`) the first one after
/// it. Prefixes that touch or overlap become one run; one up to the last address of all has no end.
fn bounds(prefixes: &[IpNet], v6: bool) -> Vec<(u128, bool)> {
    let width = if v6 { 128u32 } else { 32 };
    let mut runs: Vec<(u128, u128)> = prefixes
        .iter()
        .map(|prefix| match prefix {
            IpNet::V4(prefix) => (prefix.network().to_bits().into(), prefix.broadcast().to_bits().into()),
            IpNet::V6(prefix) => (prefix.network().to_bits(), prefix.broadcast().to_bits()),
        })
        .collect();
    runs.sort_unstable();
    let last_of_all = u128::MAX >> (128 - width);
    let mut bounds: Vec<(u128, bool)> = Vec::with_capacity(runs.len() * 2);
    let mut open: Option<(u128, u128)> = None;
    for (first, last) in runs {
        open = match open {
            Some((from, to)) if first <= to.saturating_add(1) => Some((from, to.max(last))),
            Some((from, to)) => {
                bounds.extend([(from, false), (to.saturating_add(1), true)]);
                Some((first, last))
            }
            None => Some((first, last)),
        };
    }
    if let Some((from, to)) = open {
        bounds.push((from, false));
        bounds.extend((to < last_of_all).then(|| (to + 1, true)));
    }
    bounds
}

/// `struct nfgenmsg` (linux/netfilter/nfnetlink.h): family, version, and a number in network order.
fn general(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

fn message_type(number: u16) -> u16 {
    SUBSYSTEM << 8 | number
}

fn parse_rule(body: &[u8], table: &str) -> Option<InstalledRule> {
    let mut rule = InstalledRule { chain: String::new(), comment: String::new(), counter: None };
    for attribute in attributes(body.get(4..)?) {
        match attribute.kind {
            RULE_TABLE if attribute.text() != table => return None,
            RULE_CHAIN => rule.chain = attribute.text(),
            RULE_USERDATA => rule.comment = parse_comment(attribute.value),
            RULE_EXPRESSIONS => rule.counter = attribute.nested().find_map(|element| parse_counter(&element)),
            _ => {}
        }
    }
    Some(rule)
}

fn parse_comment(mut data: &[u8]) -> String {
    while let [kind, length, rest @ ..] = data {
        let Some((value, after)) = rest.split_at_checked(usize::from(*length)) else { break };
        if *kind == COMMENT {
            return Attribute { kind: 0, value }.text();
        }
        data = after;
    }
    String::new()
}

fn parse_counter(expression: &Attribute<'_>) -> Option<(u64, u64)> {
    fn find<'a>(list: &Attribute<'a>, kind: u16) -> Option<Attribute<'a>> {
        list.nested().find(|item| item.kind == kind)
    }
    if find(expression, EXPR_NAME)?.text() != "counter" {
        return None;
    }
    let data = find(expression, EXPR_DATA)?;
    Some((find(&data, COUNTER_PACKETS)?.u64_be()?, find(&data, COUNTER_BYTES)?.u64_be()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn prefixes_that_touch_become_one_run() {
        let one = u128::from(Ipv4Addr::new(10, 0, 0, 0).to_bits());
        assert_eq!(
            bounds(&nets(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32"]), false),
            [(one, false), (one + 512, true)]
        );
        assert_eq!(bounds(&nets(&["10.0.0.0/24", "10.0.2.0/24"]), false).len(), 4);
        assert_eq!(bounds(&[], false), []);
    }

    #[test]
    fn a_run_to_the_last_address_has_no_end() {
        assert_eq!(bounds(&nets(&["0.0.0.0/0"]), false), [(0, false)]);
        assert_eq!(bounds(&nets(&["::/0"]), true), [(0, false)]);
        assert_eq!(bounds(&nets(&["ff00::/8"]), true).len(), 1);
    }

    #[test]
    fn a_comment_is_found_among_other_user_data() {
        assert_eq!(parse_comment(&[9, 2, 1, 1, COMMENT, 3, b'h', b'i', 0]), "hi");
        assert_eq!(parse_comment(&[COMMENT, 200, b'h']), "");
    }

    proptest! {
        #[test]
        fn bounds_hold_what_the_prefixes_hold(
            list in proptest::collection::vec((any::<u8>(), 24u8..=32), 0..8), probe: u8,
        ) {
            let at = |last| Ipv4Addr::new(10, 0, 0, last);
            let prefixes: Vec<_> =
                list.iter().map(|(last, length)| IpNet::new(at(*last).into(), *length).unwrap().trunc()).collect();
            let bounds = bounds(&prefixes, false);
            let address = u128::from(at(probe).to_bits());
            let inside = bounds.iter().rev().find(|(bound, _)| *bound <= address).is_some_and(|(_, end)| !end);
            prop_assert_eq!(inside, prefixes.iter().any(|prefix| prefix.contains(&std::net::IpAddr::from(at(probe)))));
            prop_assert!(bounds.is_sorted_by(|a, b| a.0 < b.0));
        }

        #[test]
        fn any_rule_is_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..256)) {
            parse_rule(&body, "");
            parse_comment(&body);
        }
    }
}
