//! A packet that does not exist, led through rules as the kernel would lead it, so that one can say where it would end.
//!
//! Of the packet some is known (its ports, the devices, that it opens a connection) and some is not (what it carries). A step that depends on
//! what is not known may hold or not, so an end that is reached behind such a step is not [`certain`](End::certain).

use std::net::IpAddr;

use linux::nft::{Decision, Element, Expression, Family, ListedChain, ListedRule, Listing};

use super::foreign;

/// Chains that lead to chains that lead to chains: the kernel allows 16 (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// Bytes of all registers (`NFT_REG32_COUNT` times four).
const REGISTERS: usize = 80;

// Keys and numbers of linux/netfilter/nf_tables.h.
const META_PROTOCOL: u32 = 1;
const META_MARK: u32 = 3;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const FIB_ADDRTYPE: u32 = 3;
const FIB_SADDR: u32 = 1;
const FIB_DADDR: u32 = 2;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// Connection tracking's words for the first packet of a connection, and for those after the first answer (`NF_CT_STATE_BIT`;
/// `XT_CONNTRACK_STATE_BIT` is the same).
const NEW: u16 = 8;
const ESTABLISHED: u16 = 2;

/// `RTN_LOCAL` and `RTN_UNICAST`.
const LOCAL: u32 = 2;
const UNICAST: u32 = 1;

/// A place where packets pass (`NF_INET_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Place {
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// A packet that opens a connection, or goes on with one.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) v6: bool,
    /// Whether it belongs to a connection on which there were answers.
    pub(crate) established: bool,
    /// By which device it comes; name and number. None: this host made it.
    pub(crate) input: Option<(String, u32)>,
    /// By which device it leaves.
    pub(crate) output: Option<(String, u32)>,
    pub(crate) from: Option<IpAddr>,
    pub(crate) to: Option<IpAddr>,
    /// `IPPROTO_*`
    pub(crate) protocol: u8,
    /// Where not known, any.
    pub(crate) source_port: Option<u16>,
    pub(crate) port: Option<u16>,
    /// Of an ICMP message.
    pub(crate) icmp: Option<u8>,
}

impl Packet {
    /// What connection tracking calls it.
    pub(super) fn state(&self) -> u16 {
        if self.established { ESTABLISHED } else { NEW }
    }
}

/// Where a packet was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) family: Family,
    pub(crate) table: String,
    pub(crate) chain: String,
    /// The base chain that led there.
    pub(crate) base: String,
    /// By which rule, by its handle and its comment; none: the policy of the chain.
    pub(crate) rule: Option<(u64, String)>,
    /// Whether nothing on the way there depended on what is not known.
    pub(crate) certain: bool,
    /// The chains passed on the way.
    pub(crate) passed: Vec<String>,
}

/// Leads the packet through all filtering chains of these places, in the kernel's order. Answers where it is dropped, if it is.
pub(crate) fn walk(listing: &Listing, packet: &Packet, places: &[Place]) -> Option<End> {
    through(listing, packet, places, |family| match family {
        Family::Inet => true,
        Family::Ip => !packet.v6,
        Family::Ip6 => packet.v6,
        Family::Bridge | Family::Netdev | Family::Arp => false,
    })
}

/// Leads the packet, in its frame, through the chains that a bridge has for what it passes on from one port to another.
pub(crate) fn walk_bridge(listing: &Listing, packet: &Packet) -> Option<End> {
    // The places of a bridge have the same numbers (`NF_BR_*` of linux/netfilter_bridge.h).
    let places = [Place::Prerouting, Place::Forward, Place::Postrouting];
    through(listing, packet, &places, |family| family == Family::Bridge)
}

fn through(listing: &Listing, packet: &Packet, places: &[Place], sees: impl Fn(Family) -> bool) -> Option<End> {
    for place in places {
        let is_there = |chain: &&ListedChain| {
            chain.base.as_ref().is_some_and(|base| base.hook == place.number() && base.kind != "nat")
        };
        let is_on = |chain: &&ListedChain| listing.table(chain.family, &chain.table).is_none_or(|table| !table.dormant);
        let mut chains: Vec<&ListedChain> =
            listing.chains.iter().filter(|chain| sees(chain.family)).filter(is_there).filter(is_on).collect();
        chains.sort_by_key(|chain| chain.base.as_ref().map_or(0, |base| base.priority));
        for chain in chains {
            let mut walker = Walker { listing, packet, base: chain, certain: true, passed: Vec::new() };
            if let Some(end) = walker.enter() {
                return Some(end);
            }
        }
    }
    None
}

struct Walker<'a> {
    listing: &'a Listing,
    packet: &'a Packet,
    base: &'a ListedChain,
    certain: bool,
    passed: Vec<String>,
}

/// What became of the packet in a chain.
enum Outcome {
    Accepted,
    Dropped(End),
    /// It came to the end.
    Through,
}

impl<'a> Walker<'a> {
    fn enter(&mut self) -> Option<End> {
        match self.chain(self.base, 0) {
            Outcome::Dropped(end) => Some(end),
            Outcome::Through if self.base.base.as_ref().is_some_and(|base| base.drops) => {
                Some(self.end(self.base, None))
            }
            Outcome::Accepted | Outcome::Through => None,
        }
    }

    fn end(&self, chain: &ListedChain, rule: Option<&ListedRule>) -> End {
        End {
            family: chain.family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            base: self.base.name.clone(),
            rule: rule.map(|rule| (rule.handle, rule.comment.clone())),
            certain: self.certain,
            passed: self.passed.clone(),
        }
    }

    fn chain(&mut self, chain: &'a ListedChain, depth: usize) -> Outcome {
        if !self.passed.contains(&chain.name) {
            self.passed.push(chain.name.clone());
        }
        for rule in &chain.rules {
            let (decision, sure) = self.rule(chain, rule);
            let Some(decision) = decision else { continue };
            let target = match &decision {
                Decision::Jump(name) | Decision::Goto(name) if depth < DEPTH => {
                    let same = |other: &&ListedChain| (other.family, &other.table) == (chain.family, &chain.table);
                    self.listing.chains.iter().filter(same).find(|other| other.name == *name)
                }
                _ => None,
            };
            if !sure {
                // It may go there or on. What accepts it there, or ends the chain, makes all that follows uncertain; a drop that may be is none.
                let lets_go = match (&decision, target) {
                    (Decision::Accept | Decision::Return | Decision::Goto(_) | Decision::Queue, _) => true,
                    (Decision::Jump(_), Some(target)) => {
                        let before = self.certain;
                        let outcome = self.chain(target, depth + 1);
                        let may = matches!(outcome, Outcome::Accepted) || self.certain != before;
                        self.certain = before;
                        may
                    }
                    _ => false,
                };
                self.certain &= !lets_go;
                continue;
            }
            match (decision, target) {
                (Decision::Accept | Decision::Queue, _) => return Outcome::Accepted,
                (Decision::Drop, _) => return Outcome::Dropped(self.end(chain, Some(rule))),
                (Decision::Return, _) => return Outcome::Through,
                (Decision::Jump(_), Some(target)) => match self.chain(target, depth + 1) {
                    Outcome::Through => {}
                    outcome => return outcome,
                },
                (Decision::Goto(_), Some(target)) => return self.chain(target, depth + 1),
                (Decision::Continue | Decision::Jump(_) | Decision::Goto(_), _) => {}
            }
        }
        Outcome::Through
    }

    /// What a rule decides, if it may hold for the packet, and whether it surely does.
    fn rule(&self, chain: &ListedChain, rule: &ListedRule) -> (Option<Decision>, bool) {
        let mut registers = Registers([None; REGISTERS]);
        let mut sure = true;
        for step in &rule.program {
            let holds = match step {
                Expression::Decide(decision) => return (Some(decision.clone()), sure),
                Expression::Reject => return (Some(Decision::Drop), sure),
                Expression::Foreign { target, name, revision, info } => {
                    if *target {
                        match name.as_str() {
                            "REJECT" | "TARPIT" | "DROP" => return (Some(Decision::Drop), sure),
                            // A target that only changes or tells something goes on to the next rule.
                            _ => return (None, sure),
                        }
                    }
                    foreign::holds(name, *revision, info, self.packet)
                }
                Expression::Meta { key, to } => registers.store(*to, &self.meta(*key)),
                Expression::Payload { base, offset, length, to } => {
                    registers.store(*to, &self.payload(*base, *offset as usize, *length as usize))
                }
                Expression::Connection { key, to } => registers.store(*to, &self.connection(*key)),
                Expression::Fib { result, flags, to } => registers.store(*to, &self.fib(*result, *flags)),
                Expression::Immediate { to, value } => registers.store(*to, &known(value)),
                Expression::Bitwise { from, to, mask, xor } => {
                    let value = registers.load(*from, mask.len());
                    let apply = |(byte, (mask, xor)): (&Option<u8>, (&u8, &u8))| match (byte, mask) {
                        (_, 0) => Some(*xor),
                        (byte, _) => byte.map(|byte| byte & mask ^ xor),
                    };
                    let value: Vec<_> = value.iter().zip(mask.iter().zip(xor)).map(apply).collect();
                    registers.store(*to, &value)
                }
                Expression::Compare { from, operation, value } => {
                    compare(&registers.load(*from, value.len()), *operation, value)
                }
                Expression::Range { from, outside, low, high } => {
                    registers.value(*from, low.len()).map(|value| (value >= *low && value <= *high) != *outside)
                }
                Expression::Lookup { set, from, to, inverted } => {
                    let same = |set: &&linux::nft::ListedSet| (set.family, &set.table) == (chain.family, &chain.table);
                    let elements = self.listing.sets.iter().filter(same).find(|known| known.name == *set);
                    match elements.and_then(|set| set.elements.as_deref()) {
                        None => None,
                        Some(elements) => {
                            let found = find(elements, &registers, *from);
                            match (to, found) {
                                (Some(0), Some(Some(element))) if element.decision.is_some() => {
                                    return (element.decision.clone(), sure);
                                }
                                (_, found) => found.map(|found| found.is_some() != *inverted),
                            }
                        }
                    }
                }
                Expression::Aside(_) => Some(true),
                Expression::Other(_) => None,
            };
            match holds {
                Some(true) => {}
                Some(false) => return (None, sure),
                None => sure = false,
            }
        }
        (None, sure)
    }

    fn meta(&self, key: u32) -> Vec<Option<u8>> {
        let packet = self.packet;
        let name = |device: &Option<(String, u32)>| {
            let mut bytes = device.as_ref().map_or(Vec::new(), |(name, _)| name.clone().into_bytes());
            bytes.resize(16, 0);
            known(&bytes)
        };
        let number = |device: &Option<(String, u32)>| known(&device.as_ref().map_or(0, |(_, n)| *n).to_ne_bytes());
        match key {
            META_PROTOCOL => known(&(if packet.v6 { 0x86ddu16 } else { 0x0800 }).to_be_bytes()),
            META_MARK => known(&[0; 4]),
            META_IIF => number(&packet.input),
            META_OIF => number(&packet.output),
            META_IIFNAME => name(&packet.input),
            META_OIFNAME => name(&packet.output),
            META_NFPROTO => known(&[match (self.base.family, packet.v6) {
                (Family::Bridge, _) => libc::NFPROTO_BRIDGE,
                (_, true) => libc::NFPROTO_IPV6,
                (_, false) => libc::NFPROTO_IPV4,
            } as u8]),
            META_L4PROTO => known(&[packet.protocol]),
            _ => vec![None; 16],
        }
    }

    fn payload(&self, base: u32, offset: usize, length: usize) -> Vec<Option<u8>> {
        let packet = self.packet;
        let mut header = vec![None; 64];
        let mut put = |at: usize, bytes: &[u8]| {
            for (place, byte) in header.iter_mut().skip(at).zip(bytes) {
                *place = Some(*byte);
            }
        };
        let address = |address: Option<IpAddr>| match address {
            Some(IpAddr::V4(ip)) => ip.octets().to_vec(),
            Some(IpAddr::V6(ip)) => ip.octets().to_vec(),
            None => Vec::new(),
        };
        match (base, packet.v6) {
            (NETWORK, false) => {
                put(0, &[0x45]);
                // No fragment.
                put(6, &[0x40, 0]);
                put(9, &[packet.protocol]);
                put(12, &address(packet.from));
                put(16, &address(packet.to));
            }
            (NETWORK, true) => {
                put(0, &[0x60]);
                put(6, &[packet.protocol]);
                put(8, &address(packet.from));
                put(24, &address(packet.to));
            }
            (TRANSPORT, _) => {
                put(0, &packet.source_port.map_or(Vec::new(), |port| port.to_be_bytes().to_vec()));
                put(2, &packet.port.map_or(Vec::new(), |port| port.to_be_bytes().to_vec()));
                if let Some(kind) = packet.icmp {
                    put(0, &[kind, 0]);
                }
                if packet.protocol == libc::IPPROTO_TCP as u8 {
                    // SYN alone.
                    put(13, &[2]);
                }
            }
            _ => {}
        }
        header.into_iter().skip(offset).chain(std::iter::repeat(None)).take(length).collect()
    }

    fn connection(&self, key: u32) -> Vec<Option<u8>> {
        match key {
            CT_STATE => known(&u32::from(self.packet.state()).to_ne_bytes()),
            // Of a connection that has just begun nothing is true yet.
            CT_STATUS if !self.packet.established => known(&[0; 4]),
            _ => vec![None; 16],
        }
    }

    fn fib(&self, result: u32, flags: u32) -> Vec<Option<u8>> {
        let kind = match (result, self.packet.input.is_some(), self.packet.output.is_some()) {
            // Into this host, or out of it.
            (FIB_ADDRTYPE, true, false) if flags & FIB_DADDR != 0 => LOCAL,
            (FIB_ADDRTYPE, true, false) if flags & FIB_SADDR != 0 => UNICAST,
            (FIB_ADDRTYPE, true, true) => UNICAST,
            (FIB_ADDRTYPE, false, true) if flags & FIB_SADDR != 0 => LOCAL,
            (FIB_ADDRTYPE, false, true) if flags & FIB_DADDR != 0 => UNICAST,
            _ => return vec![None; 16],
        };
        known(&kind.to_ne_bytes())
    }
}

fn known(bytes: &[u8]) -> Vec<Option<u8>> {
    bytes.iter().copied().map(Some).collect()
}

/// The registers, each byte known or not.
struct Registers([Option<u8>; REGISTERS]);

impl Registers {
    fn place(number: u32) -> usize {
        match number {
            0..=4 => number as usize * 16,
            // `NFT_REG32_00` is 8, and stands for the first four bytes behind the decision.
            _ => 16 + (number as usize).saturating_sub(8) * 4,
        }
    }

    fn store(&mut self, number: u32, value: &[Option<u8>]) -> Option<bool> {
        for (place, byte) in self.0.iter_mut().skip(Self::place(number)).zip(value) {
            *place = *byte;
        }
        Some(true)
    }

    fn load(&self, number: u32, length: usize) -> Vec<Option<u8>> {
        self.0.iter().skip(Self::place(number)).take(length).copied().collect()
    }

    fn value(&self, number: u32, length: usize) -> Option<Vec<u8>> {
        self.load(number, length).into_iter().collect()
    }
}

/// Whether what a register has stands so to `value` (`NFT_CMP_*`).
fn compare(register: &[Option<u8>], operation: u32, value: &[u8]) -> Option<bool> {
    // One byte that differs decides, however little is known of the others.
    let differs = register.iter().zip(value).any(|(byte, value)| byte.is_some_and(|byte| byte != *value));
    let whole: Option<Vec<u8>> = register.iter().copied().collect();
    match (operation, whole) {
        (0, _) if differs => Some(false),
        (1, _) if differs => Some(true),
        (0, Some(_)) => Some(true),
        (1, Some(_)) => Some(false),
        (2, Some(whole)) => Some(whole.as_slice() < value),
        (3, Some(whole)) => Some(whole.as_slice() <= value),
        (4, Some(whole)) => Some(whole.as_slice() > value),
        (5, Some(whole)) => Some(whole.as_slice() >= value),
        _ => None,
    }
}

/// Looks a value up: nothing if that cannot be said, otherwise the element that it is in, if there is one.
fn find<'e>(elements: &'e [Element], registers: &Registers, from: u32) -> Option<Option<&'e Element>> {
    let Some(first) = elements.first() else { return Some(None) };
    let value = registers.load(from, first.key.len());
    let Some(whole) = value.iter().copied().collect::<Option<Vec<u8>>>() else {
        // Of a value that is known in part: whether no element can be it.
        let may_be = |element: &&Element| compare(&value, 0, &element.key) != Some(false);
        let runs = elements.iter().any(|element| element.ends || element.last.is_some());
        return if runs || elements.iter().any(|element| may_be(&element)) { None } else { Some(None) };
    };
    if elements.iter().any(|element| element.last.is_some()) {
        let within = |element: &&Element| {
            element.key <= whole && element.last.as_ref().unwrap_or(&element.key).as_slice() >= whole.as_slice()
        };
        return Some(elements.iter().find(within));
    }
    if elements.iter().any(|element| element.ends) {
        let below = elements.iter().filter(|element| element.key <= whole);
        let nearest = below.max_by(|a, b| a.key.cmp(&b.key).then(b.ends.cmp(&a.ends)));
        return Some(nearest.filter(|element| !element.ends));
    }
    Some(elements.iter().find(|element| element.key == whole))
}
