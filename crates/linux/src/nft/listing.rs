//! What is in the kernel's tables, whoever put it there: chains, sets, and rules as the small programs that they are.
//!
//! Nothing is judged here. `iptables` of today writes into the same tables; what it has no expression for is in a rule as the bytes of a match
//! (`xt_match`) or a target (`xt_target`) of its own, which [`Expression::Foreign`] hands on.

use super::number::*;
use super::ruleset::Family;
use super::{Nft, general, message_type};
use crate::Result;
use crate::netlink::{Attribute, Writer, attributes};

// Messages and attributes of linux/netfilter/nf_tables.h that only listings have, without the first part of their names.
const GETCHAIN: u16 = 4;
const GETSET: u16 = 10;
const GETSETELEM: u16 = 13;
const RULE_HANDLE: u16 = 3;
const HOOK_DEVS: u16 = 4;
const SET_ELEM_DATA: u16 = 2;
const SET_ELEM_KEY_END: u16 = 10;
const RANGE_TO: u16 = 4;
const LOOKUP_DREG: u16 = 3;
const COMPAT_NAME: u16 = 1;
const COMPAT_REVISION: u16 = 2;
const COMPAT_INFO: u16 = 3;

/// Elements of a set beyond which it is not read: lists of addresses that are shut out have many thousands.
const MAX_ELEMENTS: usize = 4096;

/// Everything that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The tables.
    pub tables: Vec<ListedTable>,
    /// The chains of all tables, with their rules.
    pub chains: Vec<ListedChain>,
    /// The sets of all tables.
    pub sets: Vec<ListedSet>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTable {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Whether it is switched off: no packet sees its chains.
    pub dormant: bool,
    /// Whether it belongs to a program that runs, and nobody else may change it.
    pub owned: bool,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedChain {
    /// The family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where packets enter it; none: only from other chains.
    pub base: Option<ListedBase>,
    /// First to last.
    pub rules: Vec<ListedRule>,
}

/// Where packets enter a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBase {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Which place: `NF_INET_*` (linux/netfilter.h) for [`Family::Inet`], [`Family::Ip`], [`Family::Ip6`] and [`Family::Bridge`].
    pub hook: u32,
    /// The lower comes first.
    pub priority: i32,
    /// Whether what no rule decides on is dropped.
    pub drops: bool,
    /// Of a chain of devices: which.
    pub devices: Vec<String>,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedRule {
    /// Its number in its table.
    pub handle: u64,
    /// Its comment; empty for none.
    pub comment: String,
    /// What it does, one after the other.
    pub program: Vec<Expression>,
}

/// What a rule, or an element of a set, decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The packet goes on.
    Accept,
    /// It does not.
    Drop,
    /// The chain ends.
    Return,
    /// The rule ends, the next one comes.
    Continue,
    /// Another chain, and back.
    Jump(String),
    /// Another chain, and not back.
    Goto(String),
    /// A program decides (`NF_QUEUE`).
    Queue,
}

/// One step of a rule. Registers are numbered as the kernel does: 0 is the decision, 1 to 4 have 16 bytes each, 8 and up 4 bytes of the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of linux/netfilter/nf_tables.h")]
pub enum Expression {
    Meta {
        key: u32,
        to: u32,
    },
    Payload {
        base: u32,
        offset: u32,
        length: u32,
        to: u32,
    },
    Connection {
        key: u32,
        to: u32,
    },
    Fib {
        result: u32,
        flags: u32,
        to: u32,
    },
    Compare {
        from: u32,
        operation: u32,
        value: Vec<u8>,
    },
    Range {
        from: u32,
        outside: bool,
        low: Vec<u8>,
        high: Vec<u8>,
    },
    Bitwise {
        from: u32,
        to: u32,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Lookup {
        set: String,
        from: u32,
        to: Option<u32>,
        inverted: bool,
    },
    Immediate {
        to: u32,
        value: Vec<u8>,
    },
    Decide(Decision),
    Reject,
    /// A match or a target of iptables.
    Foreign {
        target: bool,
        name: String,
        revision: u32,
        info: Vec<u8>,
    },
    /// Something that always goes on to the next step: it counts, logs, sets a mark.
    Aside(String),
    /// Anything else; it may go on or end the rule.
    Other(String),
}

/// A set of values, or a map from them to decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSet {
    /// The family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name; sets without one have one too.
    pub name: String,
    /// What is in it; none if it is too large, or could not be read.
    pub elements: Option<Vec<Element>>,
}

/// What is in a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The value, or the first of a run.
    pub key: Vec<u8>,
    /// The last of a run, where it has one.
    pub last: Option<Vec<u8>>,
    /// Whether it is the first value after a run instead.
    pub ends: bool,
    /// What a map says of it.
    pub decision: Option<Decision>,
}

impl Listing {
    /// A table by its family and name.
    pub fn table(&self, family: Family, name: &str) -> Option<&ListedTable> {
        self.tables.iter().find(|table| table.family == family && table.name == name)
    }
}

impl Nft {
    /// Everything in the tables of all families. Needs CAP_NET_ADMIN.
    pub fn listing(&mut self) -> Result<Listing> {
        let all = general(libc::NFPROTO_UNSPEC as u8, 0);
        let tables =
            self.socket.dump(format_args!("list all tables"), message_type(GETTABLE), &all, |m| parse_table(m.body))?;
        let mut chains =
            self.socket.dump(format_args!("list all chains"), message_type(GETCHAIN), &all, |m| parse_chain(m.body))?;
        let rules =
            self.socket.dump(format_args!("list all rules"), message_type(GETRULE), &all, |m| parse_listed(m.body))?;
        for (family, table, chain, rule) in rules {
            let its = |known: &&mut ListedChain| known.family == family && known.table == table && known.name == chain;
            if let Some(chain) = chains.iter_mut().find(its) {
                chain.rules.push(rule);
            }
        }
        let mut sets =
            self.socket.dump(format_args!("list all sets"), message_type(GETSET), &all, |m| parse_set(m.body))?;
        for set in &mut sets {
            set.elements = self.elements(set);
        }
        Ok(Listing { tables, chains, sets })
    }

    fn elements(&mut self, set: &ListedSet) -> Option<Vec<Element>> {
        let mut body = general(set.family.number(), 0);
        let mut list = Writer::new();
        list.text(SET_ELEM_LIST_TABLE, &set.table).text(SET_ELEM_LIST_SET, &set.name);
        body.extend_from_slice(list.as_bytes());
        let operation = format_args!("list set {} of table {} {}", set.name, set.family, set.table);
        let mut count = 0;
        let parts = self.socket.dump(operation, message_type(GETSETELEM), &body, |message| {
            let elements = parse_elements(message.body);
            count += elements.len();
            (count <= MAX_ELEMENTS).then_some(elements)
        });
        parts.ok().filter(|_| count <= MAX_ELEMENTS).map(|parts| parts.concat())
    }
}

fn family(number: u8) -> Option<Family> {
    use Family::{Arp, Bridge, Inet, Ip, Ip6, Netdev};
    [Inet, Ip, Ip6, Bridge, Netdev, Arp].into_iter().find(|family| family.number() == number)
}

/// `struct nfgenmsg`, then attributes.
fn split(body: &[u8]) -> Option<(Family, impl Iterator<Item = Attribute<'_>>)> {
    Some((family(*body.first()?)?, attributes(body.get(4..)?)))
}

fn u32_be(attribute: &Attribute<'_>) -> u32 {
    attribute.array().map_or(0, u32::from_be_bytes)
}

fn parse_table(body: &[u8]) -> Option<ListedTable> {
    let (family, list) = split(body)?;
    let (mut name, mut flags) = (String::new(), 0);
    for attribute in list {
        match attribute.kind {
            TABLE_NAME => name = attribute.text(),
            TABLE_FLAGS => flags = u32_be(&attribute),
            _ => {}
        }
    }
    Some(ListedTable { family, name, dormant: flags & TABLE_DORMANT != 0, owned: flags & TABLE_OWNED != 0 })
}

fn parse_chain(body: &[u8]) -> Option<ListedChain> {
    let (family, list) = split(body)?;
    let mut chain = ListedChain { family, table: String::new(), name: String::new(), base: None, rules: Vec::new() };
    let (mut kind, mut drops) = (String::new(), false);
    for attribute in list {
        match attribute.kind {
            CHAIN_TABLE => chain.table = attribute.text(),
            CHAIN_NAME => chain.name = attribute.text(),
            CHAIN_TYPE => kind = attribute.text(),
            CHAIN_POLICY => drops = u32_be(&attribute) == VERDICT_DROP,
            CHAIN_HOOK => {
                let mut base =
                    ListedBase { kind: String::new(), hook: 0, priority: 0, drops: false, devices: Vec::new() };
                for item in attribute.nested() {
                    match item.kind {
                        HOOK_HOOKNUM => base.hook = u32_be(&item),
                        HOOK_PRIORITY => base.priority = u32_be(&item).cast_signed(),
                        HOOK_DEV => base.devices.push(item.text()),
                        HOOK_DEVS => base.devices.extend(item.nested().map(|device| device.text())),
                        _ => {}
                    }
                }
                chain.base = Some(base);
            }
            _ => {}
        }
    }
    if let Some(base) = &mut chain.base {
        (base.kind, base.drops) = (kind, drops);
        base.devices.dedup();
    }
    Some(chain)
}

fn parse_listed(body: &[u8]) -> Option<(Family, String, String, ListedRule)> {
    let (family, list) = split(body)?;
    let (mut table, mut chain, mut rule) = (String::new(), String::new(), ListedRule::default());
    for attribute in list {
        match attribute.kind {
            RULE_TABLE => table = attribute.text(),
            RULE_CHAIN => chain = attribute.text(),
            RULE_HANDLE => rule.handle = attribute.u64_be().unwrap_or(0),
            RULE_USERDATA => rule.comment = super::parse_comment(attribute.value),
            RULE_EXPRESSIONS => rule.program = attribute.nested().map(|item| parse_expression(&item)).collect(),
            _ => {}
        }
    }
    Some((family, table, chain, rule))
}

fn parse_set(body: &[u8]) -> Option<ListedSet> {
    let (family, list) = split(body)?;
    let mut set = ListedSet { family, table: String::new(), name: String::new(), elements: None };
    for attribute in list {
        match attribute.kind {
            SET_TABLE => set.table = attribute.text(),
            SET_NAME => set.name = attribute.text(),
            _ => {}
        }
    }
    Some(set)
}

fn parse_elements(body: &[u8]) -> Vec<Element> {
    let Some((_, list)) = split(body) else { return Vec::new() };
    let elements = list.filter(|attribute| attribute.kind == SET_ELEM_LIST_ELEMENTS);
    elements.flat_map(|list| list.nested().map(|item| parse_element(&item)).collect::<Vec<_>>()).collect()
}

fn parse_element(attribute: &Attribute<'_>) -> Element {
    let mut element = Element { key: Vec::new(), last: None, ends: false, decision: None };
    for item in attribute.nested() {
        match item.kind {
            SET_ELEM_KEY => element.key = value(&item),
            SET_ELEM_KEY_END => element.last = Some(value(&item)),
            SET_ELEM_FLAGS => element.ends = u32_be(&item) & ELEM_INTERVAL_END != 0,
            SET_ELEM_DATA => element.decision = decision(&item),
            _ => {}
        }
    }
    element
}

/// The bytes of `struct nft_data`.
fn value(data: &Attribute<'_>) -> Vec<u8> {
    data.nested().find(|item| item.kind == DATA_VALUE).map_or_else(Vec::new, |item| item.value.to_vec())
}

/// The decision of `struct nft_data`, if it is one.
fn decision(data: &Attribute<'_>) -> Option<Decision> {
    let verdict = data.nested().find(|item| item.kind == DATA_VERDICT)?;
    let (mut code, mut chain) = (None, String::new());
    for item in verdict.nested() {
        match item.kind {
            VERDICT_CODE => code = Some(u32_be(&item)),
            VERDICT_CHAIN => chain = item.text(),
            _ => {}
        }
    }
    Some(match code? {
        VERDICT_DROP => Decision::Drop,
        VERDICT_ACCEPT => Decision::Accept,
        VERDICT_JUMP => Decision::Jump(chain),
        VERDICT_GOTO => Decision::Goto(chain),
        VERDICT_RETURN => Decision::Return,
        // The lower half is the verdict of linux/netfilter.h, of which 3 is NF_QUEUE.
        code if code & 0xffff == 3 => Decision::Queue,
        _ => Decision::Continue,
    })
}

/// The attributes of one expression, looked up by their numbers.
struct Fields<'a>(Vec<Attribute<'a>>);

impl Fields<'_> {
    fn find(&self, kind: u16) -> Option<&Attribute<'_>> {
        self.0.iter().find(|item| item.kind == kind)
    }

    fn number(&self, kind: u16) -> u32 {
        self.find(kind).map_or(0, u32_be)
    }

    fn value(&self, kind: u16) -> Vec<u8> {
        self.find(kind).map_or_else(Vec::new, value)
    }
}

fn parse_expression(attribute: &Attribute<'_>) -> Expression {
    let (mut name, mut data) = (String::new(), Fields(Vec::new()));
    for item in attribute.nested() {
        match item.kind {
            EXPR_NAME => name = item.text(),
            EXPR_DATA => data = Fields(item.nested().collect()),
            _ => {}
        }
    }
    let number = |kind| data.number(kind);
    match name.as_str() {
        // One that stores instead of loading.
        "meta" if data.find(META_SREG).is_some() => Expression::Aside(name),
        "meta" => Expression::Meta { key: number(META_KEY), to: number(META_DREG) },
        "payload" if data.find(PAYLOAD_DREG).is_none() => Expression::Aside(name),
        "payload" => Expression::Payload {
            base: number(PAYLOAD_BASE),
            offset: number(PAYLOAD_OFFSET),
            length: number(PAYLOAD_LEN),
            to: number(PAYLOAD_DREG),
        },
        "ct" if data.find(CT_DREG).is_none() => Expression::Aside(name),
        "ct" => Expression::Connection { key: number(CT_KEY), to: number(CT_DREG) },
        "fib" => Expression::Fib { result: number(FIB_RESULT), flags: number(FIB_FLAGS), to: number(FIB_DREG) },
        "cmp" => Expression::Compare { from: number(CMP_SREG), operation: number(CMP_OP), value: data.value(CMP_DATA) },
        "range" => Expression::Range {
            from: number(RANGE_SREG),
            outside: number(RANGE_OP) == RANGE_NEQ,
            low: data.value(RANGE_FROM_DATA),
            high: data.value(RANGE_TO),
        },
        "bitwise" if data.find(BITWISE_MASK).is_some() => Expression::Bitwise {
            from: number(BITWISE_SREG),
            to: number(BITWISE_DREG),
            mask: data.value(BITWISE_MASK),
            xor: data.value(BITWISE_XOR),
        },
        "lookup" => Expression::Lookup {
            set: data.find(LOOKUP_SET).map_or_else(String::new, Attribute::text),
            from: number(LOOKUP_SREG),
            to: data.find(LOOKUP_DREG).map(u32_be),
            inverted: number(LOOKUP_FLAGS) & LOOKUP_INVERTED != 0,
        },
        "immediate" => match data.find(IMMEDIATE_DATA).and_then(decision) {
            Some(decision) => Expression::Decide(decision),
            None => Expression::Immediate { to: number(IMMEDIATE_DREG), value: data.value(IMMEDIATE_DATA) },
        },
        "reject" => Expression::Reject,
        "match" | "target" => Expression::Foreign {
            target: name == "target",
            name: data.find(COMPAT_NAME).map_or_else(String::new, Attribute::text),
            revision: number(COMPAT_REVISION),
            info: data.find(COMPAT_INFO).map_or_else(Vec::new, |info| info.value.to_vec()),
        },
        "counter" | "log" | "notrack" | "last" | "dup" | "objref" => Expression::Aside(name),
        "queue" => Expression::Decide(Decision::Queue),
        _ => Expression::Other(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rule_is_taken_apart() {
        let mut list = Writer::new();
        list.text(RULE_TABLE, "filter").text(RULE_CHAIN, "input").u64_be(RULE_HANDLE, 7);
        list.nest(RULE_EXPRESSIONS, |all| {
            all.nest(LIST_ELEM, |one| {
                one.text(EXPR_NAME, "cmp").nest(EXPR_DATA, |data| {
                    data.u32_be(CMP_SREG, 1).u32_be(CMP_OP, 0).nest(CMP_DATA, |value| {
                        value.bytes(DATA_VALUE, &[17]);
                    });
                });
            });
            all.nest(LIST_ELEM, |one| {
                one.text(EXPR_NAME, "immediate").nest(EXPR_DATA, |data| {
                    data.u32_be(IMMEDIATE_DREG, 0).nest(IMMEDIATE_DATA, |value| {
                        value.nest(DATA_VERDICT, |verdict| {
                            verdict.u32_be(VERDICT_CODE, VERDICT_JUMP).text(VERDICT_CHAIN, "next");
                        });
                    });
                });
            });
        });
        let body = [&general(libc::NFPROTO_INET as u8, 0)[..], list.as_bytes()].concat();
        let (family, table, chain, rule) = parse_listed(&body).unwrap();
        assert_eq!((family, table.as_str(), chain.as_str(), rule.handle), (Family::Inet, "filter", "input", 7));
        assert_eq!(
            rule.program,
            [
                Expression::Compare { from: 1, operation: 0, value: vec![17] },
                Expression::Decide(Decision::Jump("next".into())),
            ]
        );
    }

    proptest! {
        #[test]
        fn any_listing_is_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = (parse_table(&body), parse_chain(&body), parse_listed(&body), parse_set(&body), parse_elements(&body));
        }
    }
}
