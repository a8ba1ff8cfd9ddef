//! From a rule to the expressions that the kernel runs: loads into a register, comparisons that end the rule, and effects.
//!
//! Numbers within attributes are in network order; what is compared with a register is in the order in which the kernel loads
//! that: network order from packets, host order from metadata.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::number::*;
use super::ruleset::{Action, AddressType, Family, Header, Match, Mss, Rejection, Rule, Ruleset, Transport};
use crate::netlink::{Writer, is_valid_name};

/// Why a rule cannot be.
type Refusal = String;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const ICMPV6: u8 = libc::IPPROTO_ICMPV6 as u8;

/// `IPS_DST_NAT` (linux/netfilter/nf_conntrack_common.h).
const DST_NAT: u32 = 1 << 5;

/// `TCPOPT_MAXSEG`, and where in it the size is (RFC 9293, section 3.2).
const MSS_OPTION: (u8, u32) = (2, 2);

/// The list of expressions of a rule.
pub(super) fn encode(ruleset: &Ruleset, rule: &Rule) -> Result<Writer, Refusal> {
    let mut program = Program { ruleset, list: Writer::new(), version: None, transport: None, ethernet: false };
    for item in &rule.matches {
        match item {
            Match::Not(inner) => program.add_match(inner, true)?,
            item => program.add_match(item, false)?,
        }
    }
    for action in &rule.actions {
        program.add_action(action)?;
    }
    Ok(program.list)
}

/// The expressions so far, and what they have made sure of, which need not be asked twice.
struct Program<'a> {
    ruleset: &'a Ruleset,
    list: Writer,
    version: Option<Version>,
    transport: Option<u8>,
    ethernet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

impl Version {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn family(self) -> Family {
        match self {
            Self::V4 => Family::Ip,
            Self::V6 => Family::Ip6,
        }
    }

    /// Where the source address is in the IP header, and how long an address is. The destination follows it.
    fn source(self) -> (u32, u32) {
        match self {
            Self::V4 => (12, 4),
            Self::V6 => (8, 16),
        }
    }
}

impl Program<'_> {
    fn add_match(&mut self, item: &Match, negated: bool) -> Result<(), Refusal> {
        match item {
            Match::Not(_) => return Err("a negation of a negation".into()),
            Match::InputDevice(name) => self.device(META_IIFNAME, name, negated)?,
            Match::OutputDevice(name) => self.device(META_OIFNAME, name, negated)?,
            Match::Source(prefix) => self.prefix(prefix, 0, negated)?,
            Match::Destination(prefix) => self.prefix(prefix, 1, negated)?,
            Match::SourceIn(set) => self.set(set, 0, negated)?,
            Match::DestinationIn(set) => self.set(set, 1, negated)?,
            Match::SourceMac(mac) => self.mac(6, mac, negated),
            Match::DestinationMac(mac) => self.mac(0, mac, negated),
            Match::EtherType(number) => {
                self.load_meta(META_PROTOCOL);
                self.compare(negated, &number.to_be_bytes());
            }
            Match::Protocol(number) if negated => {
                self.load_meta(META_L4PROTO);
                self.compare(true, &[*number]);
            }
            Match::Protocol(number) => self.need_transport(*number)?,
            Match::SourcePort(transport, ports) => self.port(*transport, 0, ports, negated)?,
            Match::DestinationPort(transport, ports) => self.port(*transport, 2, ports, negated)?,
            Match::TcpSyn => {
                // Byte 13 of the TCP header holds the flags: 2 is SYN, 4 is RST.
                self.need_transport(TCP)?;
                self.load_payload(PAYLOAD_TRANSPORT, 13, 1);
                self.mask(&[6], &[0]);
                self.compare(negated, &[2]);
            }
            Match::Icmpv6Type(number) => {
                self.need_transport(ICMPV6)?;
                self.load_payload(PAYLOAD_TRANSPORT, 0, 1);
                self.compare(negated, &[*number]);
            }
            Match::Connection(state) => {
                self.expression("ct", |data| {
                    data.u32_be(CT_KEY, CT_STATE).u32_be(CT_DREG, REG_1);
                });
                self.mask(&state.0.to_ne_bytes(), &[0; 4]);
                self.compare(!negated, &[0; 4]);
            }
            Match::Redirected => {
                self.expression("ct", |data| {
                    data.u32_be(CT_KEY, CT_STATUS).u32_be(CT_DREG, REG_1);
                });
                self.mask(&DST_NAT.to_ne_bytes(), &[0; 4]);
                self.compare(!negated, &[0; 4]);
            }
            Match::DestinationType(kind) => {
                let number = match kind {
                    AddressType::Unicast => libc::RTN_UNICAST,
                    AddressType::Local => libc::RTN_LOCAL,
                    AddressType::Broadcast => libc::RTN_BROADCAST,
                    AddressType::Multicast => libc::RTN_MULTICAST,
                };
                self.expression("fib", |data| {
                    data.u32_be(FIB_DREG, REG_1).u32_be(FIB_RESULT, FIB_RESULT_ADDRTYPE).u32_be(FIB_FLAGS, FIB_DADDR);
                });
                self.compare(negated, &u32::from(number).to_ne_bytes());
            }
            Match::WayBack => {
                self.expression("fib", |data| {
                    data.u32_be(FIB_DREG, REG_1).u32_be(FIB_RESULT, FIB_RESULT_OIF);
                    data.u32_be(FIB_FLAGS, FIB_SADDR | FIB_IIF | FIB_PRESENT);
                });
                // The kernel stores a byte, and zeros in the rest of the register, which the nft program compares as well.
                self.compare(false, &u32::from(!negated).to_le_bytes());
            }
            Match::WayBackBy(name) => {
                let register = device_register(name)?;
                self.expression("fib", |data| {
                    data.u32_be(FIB_DREG, REG_1).u32_be(FIB_RESULT, FIB_RESULT_OIFNAME).u32_be(FIB_FLAGS, FIB_SADDR);
                });
                self.compare(negated, &register);
            }
            Match::Mark(value, mask) => {
                self.load_meta(META_MARK);
                if *mask != u32::MAX {
                    self.mask(&mask.to_ne_bytes(), &[0; 4]);
                }
                self.compare(negated, &(value & mask).to_ne_bytes());
            }
            Match::Bytes { header, offset, value, mask } => self.raw((*header, *offset), value, mask, negated)?,
        }
        Ok(())
    }

    fn add_action(&mut self, action: &Action) -> Result<(), Refusal> {
        match action {
            Action::Counter => self.expression("counter", |data| {
                data.u64_be(COUNTER_BYTES, 0).u64_be(COUNTER_PACKETS, 0);
            }),
            Action::Accept => self.verdict(VERDICT_ACCEPT, None),
            Action::Drop => self.verdict(VERDICT_DROP, None),
            Action::Return => self.verdict(VERDICT_RETURN, None),
            Action::Jump(chain) => self.verdict(VERDICT_JUMP, Some(chain)),
            Action::Goto(chain) => self.verdict(VERDICT_GOTO, Some(chain)),
            Action::Reject(rejection) => self.reject(*rejection),
            Action::SetMark(value, mask) => {
                if *mask == u32::MAX {
                    self.immediate(REG_1, &value.to_ne_bytes());
                } else {
                    self.load_meta(META_MARK);
                    self.mask(&(!mask).to_ne_bytes(), &(value & mask).to_ne_bytes());
                }
                self.expression("meta", |data| {
                    data.u32_be(META_KEY, META_MARK).u32_be(META_SREG, REG_1);
                });
            }
            Action::Masquerade { random_fully } => {
                let flags = if *random_fully { RANDOM_FULLY } else { 0 };
                self.expression("masq", |data| {
                    data.u32_be(MASQ_FLAGS, flags);
                });
            }
            Action::SourceNat(address) => self.nat(NAT_SOURCE, *address, None)?,
            Action::DestinationNat(address, port) => self.nat(NAT_DESTINATION, *address, *port)?,
            Action::ClampMss(mss) => self.clamp(*mss),
            Action::Trace => {
                self.immediate(REG_1, &[1]);
                self.expression("meta", |data| {
                    data.u32_be(META_KEY, META_NFTRACE).u32_be(META_SREG, REG_1);
                });
            }
            Action::NoTrack => self.expression("notrack", |_| ()),
        }
        Ok(())
    }

    // What several matches share.

    /// Makes sure that the packet is of this IP version.
    fn need_version(&mut self, version: Version) -> Result<(), Refusal> {
        let family = self.ruleset.family;
        match (family, self.version) {
            (_, Some(known)) if known == version => return Ok(()),
            (_, Some(_)) => return Err("no packet is both IPv4 and IPv6".into()),
            (Family::Ip | Family::Ip6, None) if family != version.family() => {
                return Err(format!("a table of family {family} never sees {}", version.family()));
            }
            (Family::Ip | Family::Ip6, None) => {}
            (Family::Arp, None) => return Err("a table of family arp sees no IP packets".into()),
            (Family::Inet, None) => {
                self.load_meta(META_NFPROTO);
                self.compare(false, &[version.family().number()]);
            }
            (Family::Bridge | Family::Netdev, None) => {
                let number = if version == Version::V4 { IPV4 } else { IPV6 };
                self.load_meta(META_PROTOCOL);
                self.compare(false, &number.to_be_bytes());
            }
        }
        self.version = Some(version);
        Ok(())
    }

    /// Makes sure that the packet is of this transport protocol.
    fn need_transport(&mut self, protocol: u8) -> Result<(), Refusal> {
        match self.transport {
            Some(known) if known == protocol => return Ok(()),
            Some(known) => return Err(format!("no packet is both of transport protocol {known} and {protocol}")),
            None => {}
        }
        self.transport = Some(protocol);
        self.load_meta(META_L4PROTO);
        self.compare(false, &[protocol]);
        Ok(())
    }

    /// Compares a name: with a `*` at its end only the bytes before it, otherwise with the NULs that fill the register.
    fn device(&mut self, key: u32, name: &str, negated: bool) -> Result<(), Refusal> {
        match name.strip_suffix('*') {
            Some(beginning) if is_valid_name(beginning) => {
                self.load_meta(key);
                self.compare(negated, beginning.as_bytes());
            }
            _ => {
                let register = device_register(name)?;
                self.load_meta(key);
                self.compare(negated, &register);
            }
        }
        Ok(())
    }

    fn prefix(&mut self, prefix: &IpNet, which: u32, negated: bool) -> Result<(), Refusal> {
        let version = Version::of(prefix.addr());
        self.need_version(version)?;
        if prefix.prefix_len() == 0 {
            // Every address of the version is in it.
            return if negated { Err("no address is outside of all".into()) } else { Ok(()) };
        }
        let (source, length) = version.source();
        self.load_payload(PAYLOAD_NETWORK, source + which * length, length);
        if prefix.prefix_len() < prefix.max_prefix_len() {
            let zero = [0; 16];
            self.mask(&octets(prefix.netmask()), zero.get(..length as usize).unwrap_or(&zero));
        }
        self.compare(negated, &octets(prefix.network()));
        Ok(())
    }

    fn set(&mut self, name: &str, which: u32, negated: bool) -> Result<(), Refusal> {
        let set =
            self.ruleset.sets.iter().find(|set| set.name == name).ok_or_else(|| format!("there is no set {name}"))?;
        let version = if set.v6 { Version::V6 } else { Version::V4 };
        self.need_version(version)?;
        let (source, length) = version.source();
        self.load_payload(PAYLOAD_NETWORK, source + which * length, length);
        self.expression("lookup", |data| {
            data.text(LOOKUP_SET, name).u32_be(LOOKUP_SREG, REG_1);
            if negated {
                data.u32_be(LOOKUP_FLAGS, LOOKUP_INVERTED);
            }
        });
        Ok(())
    }

    fn mac(&mut self, offset: u32, mac: &[u8; 6], negated: bool) {
        if !self.ethernet && self.ruleset.family != Family::Bridge {
            // Only a packet that came in by an Ethernet device has this header.
            self.load_meta(META_IIFTYPE);
            self.compare(false, &libc::ARPHRD_ETHER.to_ne_bytes());
        }
        self.ethernet = true;
        self.load_payload(PAYLOAD_LINK, offset, 6);
        self.compare(negated, mac);
    }

    fn port(
        &mut self,
        transport: Transport,
        offset: u32,
        ports: &RangeInclusive<u16>,
        negated: bool,
    ) -> Result<(), Refusal> {
        let (first, last) = (ports.start().to_be_bytes(), ports.end().to_be_bytes());
        if ports.is_empty() {
            return Err("a range of no ports".into());
        }
        self.need_transport(match transport {
            Transport::Tcp => TCP,
            Transport::Udp => UDP,
        })?;
        self.load_payload(PAYLOAD_TRANSPORT, offset, 2);
        if first == last {
            self.compare(negated, &first);
        } else if negated {
            self.expression("range", |data| {
                data.u32_be(RANGE_SREG, REG_1).u32_be(RANGE_OP, RANGE_NEQ);
                value(data, RANGE_FROM_DATA, &first);
                value(data, RANGE_TO_DATA, &last);
            });
        } else {
            self.compare_by(CMP_GTE, &first);
            self.compare_by(CMP_LTE, &last);
        }
        Ok(())
    }

    fn raw(
        &mut self,
        (header, offset): (Header, u32),
        bytes: &[u8],
        mask: &[u8],
        negated: bool,
    ) -> Result<(), Refusal> {
        let length = bytes.len();
        if !(1..=16).contains(&length) || !(mask.is_empty() || mask.len() == length) {
            return Err("1 to 16 bytes can be compared, with a mask as long or none".into());
        }
        let base = match header {
            Header::Link => PAYLOAD_LINK,
            Header::Network => PAYLOAD_NETWORK,
            Header::Transport => PAYLOAD_TRANSPORT,
        };
        self.load_payload(base, offset, length as u32);
        if mask.is_empty() {
            self.compare(negated, bytes);
        } else {
            self.mask(mask, &vec![0; length]);
            let masked: Vec<u8> = bytes.iter().zip(mask).map(|(byte, mask)| byte & mask).collect();
            self.compare(negated, &masked);
        }
        Ok(())
    }

    // What several actions share.

    /// ICMP's own numbers in the families of one IP version (RFC 792, RFC 4443), the kernel's neutral ones in the others.
    fn reject(&mut self, rejection: Rejection) {
        let (kind, code) = match (rejection, self.ruleset.family) {
            (Rejection::TcpReset, _) => (REJECT_TCP_RESET, 0),
            (Rejection::PortUnreachable, Family::Ip) => (REJECT_ICMP, 3),
            (Rejection::PortUnreachable, Family::Ip6) => (REJECT_ICMP, 4),
            (Rejection::PortUnreachable, _) => (REJECT_ICMPX, 1),
            (Rejection::Prohibited, Family::Ip) => (REJECT_ICMP, 13),
            (Rejection::Prohibited, Family::Ip6) => (REJECT_ICMP, 1),
            (Rejection::Prohibited, _) => (REJECT_ICMPX, 3),
        };
        self.expression("reject", |data| {
            data.u32_be(REJECT_TYPE, kind).u8(REJECT_ICMP_CODE, code);
        });
    }

    fn nat(&mut self, kind: u32, address: IpAddr, port: Option<u16>) -> Result<(), Refusal> {
        let version = Version::of(address);
        self.need_version(version)?;
        self.immediate(REG_1, &octets(address));
        if let Some(port) = port {
            if self.transport.is_none() {
                return Err("a port is changed, but the rule matches no transport protocol".into());
            }
            self.immediate(REG_2, &port.to_be_bytes());
        }
        self.expression("nat", |data| {
            data.u32_be(NAT_TYPE, kind)
                .u32_be(NAT_FAMILY, version.family().number().into())
                .u32_be(NAT_REG_ADDR_MIN, REG_1);
            if port.is_some() {
                data.u32_be(NAT_REG_PROTO_MIN, REG_2);
            }
        });
        Ok(())
    }

    /// The kernel lowers a size that is greater and leaves others alone.
    fn clamp(&mut self, mss: Mss) {
        match mss {
            Mss::Fixed(size) => self.immediate(REG_1, &size.to_be_bytes()),
            Mss::PathMtu => {
                self.expression("rt", |data| {
                    data.u32_be(RT_KEY, RT_TCPMSS).u32_be(RT_DREG, REG_1);
                });
                self.expression("byteorder", |data| {
                    data.u32_be(BYTEORDER_SREG, REG_1)
                        .u32_be(BYTEORDER_DREG, REG_1)
                        .u32_be(BYTEORDER_OP, BYTEORDER_HTON);
                    data.u32_be(BYTEORDER_LEN, 2).u32_be(BYTEORDER_SIZE, 2);
                });
            }
        }
        let (option, offset) = MSS_OPTION;
        self.expression("exthdr", |data| {
            data.u8(EXTHDR_TYPE, option).u32_be(EXTHDR_OFFSET, offset).u32_be(EXTHDR_LEN, 2);
            data.u32_be(EXTHDR_OP, EXTHDR_TCP_OPTION).u32_be(EXTHDR_SREG, REG_1);
        });
    }

    fn verdict(&mut self, code: u32, chain: Option<&str>) {
        self.expression("immediate", |data| {
            data.u32_be(IMMEDIATE_DREG, REG_VERDICT).nest(IMMEDIATE_DATA, |data| {
                data.nest(DATA_VERDICT, |verdict| {
                    verdict.u32_be(VERDICT_CODE, code);
                    if let Some(chain) = chain {
                        verdict.text(VERDICT_CHAIN, chain);
                    }
                });
            });
        });
    }

    // Single expressions.

    fn load_meta(&mut self, key: u32) {
        self.expression("meta", |data| {
            data.u32_be(META_KEY, key).u32_be(META_DREG, REG_1);
        });
    }

    fn load_payload(&mut self, base: u32, offset: u32, length: u32) {
        self.expression("payload", |data| {
            data.u32_be(PAYLOAD_DREG, REG_1).u32_be(PAYLOAD_BASE, base);
            data.u32_be(PAYLOAD_OFFSET, offset).u32_be(PAYLOAD_LEN, length);
        });
    }

    /// The register becomes (register & mask) ^ flip.
    fn mask(&mut self, mask: &[u8], flip: &[u8]) {
        self.expression("bitwise", |data| {
            data.u32_be(BITWISE_SREG, REG_1).u32_be(BITWISE_DREG, REG_1).u32_be(BITWISE_LEN, mask.len() as u32);
            value(data, BITWISE_MASK, mask);
            value(data, BITWISE_XOR, flip);
        });
    }

    fn compare(&mut self, negated: bool, with: &[u8]) {
        self.compare_by(if negated { CMP_NEQ } else { CMP_EQ }, with);
    }

    fn compare_by(&mut self, operator: u32, with: &[u8]) {
        self.expression("cmp", |data| {
            data.u32_be(CMP_SREG, REG_1).u32_be(CMP_OP, operator);
            value(data, CMP_DATA, with);
        });
    }

    fn immediate(&mut self, register: u32, bytes: &[u8]) {
        self.expression("immediate", |data| {
            data.u32_be(IMMEDIATE_DREG, register);
            value(data, IMMEDIATE_DATA, bytes);
        });
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Writer)) {
        self.list.nest(LIST_ELEM, |element| {
            element.text(EXPR_NAME, name).nest(EXPR_DATA, fill);
        });
    }
}

/// A device's name as the kernel loads it.
fn device_register(name: &str) -> Result<[u8; libc::IFNAMSIZ], Refusal> {
    if !is_valid_name(name) || name.ends_with('*') {
        return Err(format!("{name:?} is not a device name, nor the beginning of one with a '*'"));
    }
    let mut register = [0; libc::IFNAMSIZ];
    register.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    Ok(register)
}

fn value(data: &mut Writer, kind: u16, bytes: &[u8]) {
    data.nest(kind, |data| {
        data.bytes(DATA_VALUE, bytes);
    });
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
