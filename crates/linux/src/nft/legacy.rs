//! Tables of the former iptables (linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h): whether one of them does anything.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;

use crate::syscall::syscall;
use crate::{Error, Result};

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; those of IPv6 are the same.
const INFO: libc::c_int = 64;
const ENTRIES: libc::c_int = 65;

/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;

/// Places (`NF_INET_*`).
const PLACES: usize = 5;

/// `struct ipt_getinfo`: the name, a mask of places, two offsets per place (of the first rule, and of the policy), the number of entries, and their size.
const INFO_SIZE: usize = NAME + 4 * (1 + 2 * PLACES + 2);

/// Where the entries are in `struct ipt_get_entries`: behind the name and their size, at a multiple of eight.
const ENTRIES_AT: usize = NAME + 8;

/// `struct ipt_entry` and `struct ip6t_entry`, and `struct xt_entry_target`, behind which a verdict is.
const ENTRY: usize = 112;
const ENTRY6: usize = 168;
const TARGET: usize = 32;

/// A verdict is stored as one less than its negative: this is `NF_ACCEPT`.
const ACCEPT: i32 = -2;

/// Whether a table of the former iptables that is registered has no rule, and policies that let everything through. Needs CAP_NET_ADMIN.
pub fn is_legacy_table_idle(v6: bool, table: &str) -> Result<bool> {
    read(v6, table).map_err(|source| Error::new(format!("read the table {table} of the former iptables"), source))
}

fn read(v6: bool, table: &str) -> io::Result<bool> {
    // Any socket of the family will do.
    let socket =
        if v6 { UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) } else { UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) }?;
    let level = if v6 { libc::SOL_IPV6 } else { libc::SOL_IP };
    let mut info = vec![0; INFO_SIZE];
    // The kernel wants a NUL behind the name.
    let name = table.as_bytes();
    info.get_mut(..NAME - 1)
        .and_then(|place| place.get_mut(..name.len()))
        .ok_or(io::ErrorKind::InvalidInput)?
        .copy_from_slice(name);
    let mut all = info.get(..NAME).unwrap_or_default().to_vec();
    ask(&socket, (level, INFO), &mut info)?;
    let size = word(&info, NAME + 4 * (2 + 2 * PLACES)).ok_or(io::ErrorKind::InvalidData)?;
    all.extend(size.to_ne_bytes());
    all.resize(ENTRIES_AT + size as usize, 0);
    // EAGAIN where somebody has changed the table since.
    ask(&socket, (level, ENTRIES), &mut all)?;
    is_idle(v6, &info, all.get(ENTRIES_AT..).unwrap_or_default()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn ask(socket: &UdpSocket, (level, option): (libc::c_int, libc::c_int), buffer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let pointer = buffer.as_mut_ptr().cast();
    // Sound: the buffer is as long as the length says, and the kernel writes no more.
    syscall!(getsockopt(socket.as_raw_fd(), level, option, pointer, &raw mut length)).map(drop)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn is_idle(v6: bool, info: &[u8], entries: &[u8]) -> Option<bool> {
    let places = word(info, NAME)?;
    // One entry is the policy of each place, and one the end.
    let has_rules = word(info, NAME + 4 * (1 + 2 * PLACES))? != places.count_ones() + 1;
    let verdict_at = if v6 { ENTRY6 } else { ENTRY } + TARGET;
    let mut idle = !has_rules;
    for place in (0..PLACES).filter(|place| places & (1 << place) != 0) {
        let policy = word(info, NAME + 4 * (1 + PLACES + place))? as usize;
        idle &= word(entries, policy.checked_add(verdict_at)?)?.cast_signed() == ACCEPT;
    }
    Some(idle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A table with input (1) and output (3), so many entries, and these policies.
    fn table(count: u32, verdicts: [i32; 2]) -> (Vec<u8>, Vec<u8>) {
        let size = ENTRY + TARGET + 8;
        let mut words = [0u32; 1 + 2 * PLACES + 2];
        (words[0], words[1 + PLACES + 1], words[1 + PLACES + 3], words[1 + 2 * PLACES]) =
            (0b1010, 0, size as u32, count);
        let info = [vec![0; NAME], words.iter().flat_map(|word| word.to_ne_bytes()).collect()].concat();
        let mut entries = vec![0; 3 * size];
        for (place, verdict) in verdicts.into_iter().enumerate() {
            let at = place * size + ENTRY + TARGET;
            entries[at..at + 4].copy_from_slice(&verdict.to_ne_bytes());
        }
        (info, entries)
    }

    #[test]
    fn a_table_is_idle_without_rules_and_policies() {
        for (count, verdicts, expected) in [(3, [-2, -2], true), (4, [-2, -2], false), (3, [-2, -1], false)] {
            let (info, entries) = table(count, verdicts);
            assert_eq!(is_idle(false, &info, &entries), Some(expected), "{count} {verdicts:?}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(
            info in proptest::collection::vec(any::<u8>(), 0..100), entries in proptest::collection::vec(any::<u8>(), 0..400), v6: bool,
        ) {
            is_idle(v6, &info, &entries);
        }
    }
}
