//! Questions and answers (RFC 1035, section 4; EDNS: RFC 6891), as far as a resolver that keeps nothing needs them: the header, the one question,
//! and the records of an answer, which are looked at and never put together anew where they come from outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::Name;

/// How long others may keep an answer of ours, in seconds.
pub const TTL: u32 = 5;

/// The largest answer by UDP for who says nothing of it, in bytes.
pub const PLAIN: usize = 512;

/// The largest datagram that is taken and sent, in bytes.
pub const DATAGRAM: usize = 4096;

/// How large an answer may be that we say we take (the recommendation of the DNS flag day of 2020).
const OURS: u16 = 1232;

const HEADER: usize = 12;

/// Types of records.
pub const A: u16 = 1;
/// A name for an address.
pub const PTR: u16 = 12;
/// IPv6.
pub const AAAA: u16 = 28;
/// Whatever there is.
pub const ANY: u16 = 255;
const OPT: u16 = 41;

/// The internet, the one class that is used.
pub const IN: u16 = 1;

/// Codes of answers.
pub const NO_ERROR: u8 = 0;
/// The question cannot be read.
pub const FORMAT: u8 = 1;
/// Nobody could be asked.
pub const SERVER_FAILURE: u8 = 2;
/// There is no such name.
pub const NO_NAME: u8 = 3;
/// That kind of question is not answered.
pub const NOT_IMPLEMENTED: u8 = 4;
/// Not for who asks.
pub const REFUSED: u8 = 5;
/// The upper bits of "bad version of EDNS", whose lower ones are 0.
const BAD_VERSION: u8 = 1;

/// Bits of the third and fourth byte.
const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const CHECKING_DISABLED: u16 = 0x0010;

/// A question as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// By which its answer is known.
    pub id: u16,
    flags: u16,
    /// The question's bytes, which an answer repeats.
    question: Vec<u8>,
    /// About what.
    pub name: Name,
    /// The type.
    pub kind: u16,
    /// The class.
    pub class: u16,
    /// With EDNS: the largest answer.
    edns: Option<u16>,
}

/// What a record of ours says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// The name has this address.
    Address(IpAddr),
    /// The address has this name.
    Name(Name),
}

impl Data {
    fn kind(&self) -> u16 {
        match self {
            Self::Address(IpAddr::V4(_)) => A,
            Self::Address(IpAddr::V6(_)) => AAAA,
            Self::Name(_) => PTR,
        }
    }
}

impl Query {
    /// Reads a question.
    ///
    /// # Errors
    /// What is none: with the answer that says so, or without one, since answers must never be answered.
    pub fn parse(bytes: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let (Some(id), Some(flags)) = (half(bytes, 0), half(bytes, 2)) else { return Err(None) };
        if bytes.len() < HEADER || flags & RESPONSE != 0 {
            return Err(None);
        }
        let refuse = |code: u8| Some(header(id, RESPONSE | flags & (OPCODE | RECURSION_DESIRED), code, [0; 4]));
        if flags & OPCODE != 0 {
            return Err(refuse(NOT_IMPLEMENTED));
        }
        let Some((query, version)) = Self::read(bytes, id, flags) else { return Err(refuse(FORMAT)) };
        if version > 0 {
            return Err(Some(query.finish(NO_ERROR, false, &[], BAD_VERSION, PLAIN)));
        }
        Ok(query)
    }

    /// The question, and the version of EDNS.
    fn read(bytes: &[u8], id: u16, flags: u16) -> Option<(Self, u8)> {
        let [questions, answers, authorities, more] = [4, 6, 8, 10].map(|at| half(bytes, at).unwrap_or(u16::MAX));
        if (questions, answers) != (1, 0) {
            return None;
        }
        let (name, end) = Name::read(bytes, HEADER)?;
        // Before the first name there is none to point to.
        if end - HEADER != name.length() {
            return None;
        }
        let (kind, class) = (half(bytes, end)?, half(bytes, end + 2)?);
        let question = bytes.get(HEADER..end + 4)?.to_vec();
        let (mut at, mut edns, mut version) = (end + 4, None, 0);
        for _ in 0..u32::from(authorities) + u32::from(more) {
            let record = RawRecord::read(bytes, at)?;
            at = record.end;
            if record.kind == OPT {
                // One, of the root.
                if edns.is_some() || !record.owner.is_root() {
                    return None;
                }
                edns = Some(record.class);
                version = (record.ttl >> 16) as u8;
            }
        }
        (at == bytes.len()).then_some((Self { id, flags, question, name, kind, class, edns }, version))
    }

    /// A question of our own, which asks for no recursion.
    pub fn new(id: u16, name: &Name, kind: u16) -> Self {
        let mut question = Vec::new();
        name.write(&mut question);
        question.extend([kind.to_be_bytes(), IN.to_be_bytes()].concat());
        Self { id, flags: 0, question, name: name.clone(), kind, class: IN, edns: None }
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = header(self.id, self.flags, NO_ERROR, [1, 0, 0, 0]);
        bytes.extend_from_slice(&self.question);
        bytes
    }

    /// How large an answer by UDP may be, in bytes.
    pub fn limit(&self) -> usize {
        self.edns.map_or(PLAIN, |size| usize::from(size).clamp(PLAIN, DATAGRAM))
    }

    /// An answer of ours, of at most `limit` bytes: what does not fit is left out, and the answer says so. `certain`: the names are ours to give.
    pub fn answer(&self, code: u8, certain: bool, answers: &[Data], limit: usize) -> Vec<u8> {
        let whole = self.finish(code, certain, answers, 0, limit);
        if whole.len() <= limit { whole } else { self.truncated(limit) }
    }

    /// The answer that there is one, but too large for a datagram.
    pub fn truncated(&self, limit: usize) -> Vec<u8> {
        let mut bytes = self.finish(NO_ERROR, false, &[], 0, limit);
        if let Some(byte) = bytes.get_mut(2) {
            *byte |= (TRUNCATED >> 8) as u8;
        }
        bytes
    }

    fn finish(&self, code: u8, certain: bool, answers: &[Data], upper: u8, limit: usize) -> Vec<u8> {
        let certain = if certain { AUTHORITATIVE } else { 0 };
        let kept = self.flags & (RECURSION_DESIRED | CHECKING_DISABLED);
        let counts = [1, answers.len() as u16, 0, u16::from(self.edns.is_some())];
        let mut bytes = header(self.id, RESPONSE | certain | RECURSION_AVAILABLE | kept, code, counts);
        bytes.extend_from_slice(&self.question);
        for data in answers {
            // The name of the question, behind the header.
            bytes.extend([0xc0, HEADER as u8]);
            bytes.extend(data.kind().to_be_bytes());
            bytes.extend(IN.to_be_bytes());
            bytes.extend(TTL.to_be_bytes());
            let mut value = Vec::new();
            match data {
                Data::Address(IpAddr::V4(ip)) => value.extend(ip.octets()),
                Data::Address(IpAddr::V6(ip)) => value.extend(ip.octets()),
                Data::Name(name) => name.write(&mut value),
            }
            bytes.extend((value.len() as u16).to_be_bytes());
            bytes.extend(value);
            if bytes.len() > limit {
                return bytes;
            }
        }
        if self.edns.is_some() {
            bytes.push(0);
            bytes.extend([OPT.to_be_bytes(), OURS.to_be_bytes()].concat());
            bytes.extend([upper, 0, 0, 0, 0, 0]);
        }
        bytes
    }

    /// Whether this answers this question, which was asked by `id`: its number, its kind, and the question repeated. Who cannot read a question
    /// repeats none.
    pub fn is_answered_by(&self, id: u16, bytes: &[u8]) -> bool {
        let [Some(number), Some(flags), Some(questions), Some(answers)] = [0, 2, 4, 6].map(|at| half(bytes, at)) else {
            return false;
        };
        let repeated = match questions {
            1 => {
                let at = HEADER..HEADER + self.question.len();
                bytes.get(at).is_some_and(|question| question.eq_ignore_ascii_case(&self.question))
            }
            0 => answers == 0 && code(bytes) != NO_ERROR && bytes.len() >= HEADER,
            _ => false,
        };
        number == id && flags & (RESPONSE | OPCODE) == RESPONSE && repeated
    }
}

/// What another resolver answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The code.
    pub code: u8,
    /// Addresses and names, each with whose it is said to be. Other records are not among them.
    pub records: Vec<(Name, Data)>,
}

impl Answer {
    /// Reads the answers of a message. None where it cannot be read to the end of them.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [questions, answers] = [4, 6].map(|at| half(bytes, at));
        let mut at = HEADER;
        for _ in 0..questions? {
            at = Name::read(bytes, at)?.1 + 4;
        }
        let mut records = Vec::new();
        for _ in 0..answers? {
            let record = RawRecord::read(bytes, at)?;
            at = record.end;
            let value = bytes.get(record.value..record.end)?;
            let data = match (record.kind, record.class) {
                (A, IN) => Data::Address(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
                (AAAA, IN) => Data::Address(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
                (PTR, IN) => {
                    let (name, end) = Name::read(bytes, record.value)?;
                    (end == record.end).then_some(Data::Name(name))?
                }
                _ => continue,
            };
            records.push((record.owner, data));
        }
        (at <= bytes.len()).then_some(Self { code: code(bytes), records })
    }

    /// The addresses that it gives to anything.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.records.iter().filter_map(|(_, data)| match data {
            Data::Address(ip) => Some(*ip),
            Data::Name(_) => None,
        })
    }
}

/// A record where it stands in a message.
struct RawRecord {
    owner: Name,
    kind: u16,
    class: u16,
    ttl: u32,
    value: usize,
    end: usize,
}

impl RawRecord {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let (owner, at) = Name::read(bytes, at)?;
        let (kind, class) = (half(bytes, at)?, half(bytes, at + 2)?);
        let ttl = u32::from(half(bytes, at + 4)?) << 16 | u32::from(half(bytes, at + 6)?);
        let value = at + 10;
        let end = value + usize::from(half(bytes, at + 8)?);
        (end <= bytes.len()).then_some(Self { owner, kind, class, ttl, value, end })
    }
}

/// The code of an answer.
pub fn code(bytes: &[u8]) -> u8 {
    bytes.get(3).map_or(SERVER_FAILURE, |byte| byte & 15)
}

/// Whether an answer says that there is more than fits a datagram.
pub fn is_truncated(bytes: &[u8]) -> bool {
    half(bytes, 2).is_some_and(|flags| flags & TRUNCATED != 0)
}

/// Gives a message another number.
pub fn set_id(bytes: &mut [u8], id: u16) {
    if let Some(place) = bytes.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn header(id: u16, flags: u16, code: u8, counts: [u16; 4]) -> Vec<u8> {
    let halves = [[id, flags | u16::from(code)].as_slice(), &counts].concat();
    halves.into_iter().flat_map(u16::to_be_bytes).collect()
}

#[cfg(test)]
mod tests;
