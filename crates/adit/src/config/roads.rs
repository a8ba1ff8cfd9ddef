//! What both kinds of file say about roads: routing tables, marks, resolvers.

use std::{net::IpAddr, num::NonZero};

use super::{
    endpoint,
    resolved::{Dns, Table},
};

/// Why a text is none of them, as the end of a sentence that began with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RoadError {
    #[error(
        "is not a routing table: write auto, off, main, or its number (/etc/iproute2/rt_tables knows those of names)"
    )]
    Table,
    #[error("is a table that the kernel keeps for itself: write auto, off, main, or a number of your own")]
    Kernel,
    #[error("is not a mark: write a number from 1 to 0xffffffff, or off")]
    Mark,
    #[error("is not the address of a DNS server: write one such as 10.0.0.53 or fd00::53")]
    Server,
    #[error("can be no DNS server's address")]
    NoServer,
    #[error("is neither the address of a DNS server nor a domain: letters, digits, '-', '_' and '.' only")]
    Domain,
}

/// The tables that the kernel names (`rt_class_t` of linux/rtnetlink.h).
const DEFAULT: u32 = 253;
const MAIN: u32 = 254;
const LOCAL: u32 = 255;

/// `auto`, `off`, a number, or a name that every host has.
pub(super) fn table(text: &str) -> Result<Table, RoadError> {
    let number = match text.to_ascii_lowercase().as_str() {
        "auto" => return Ok(Table::Auto),
        "off" => return Ok(Table::Off),
        "default" => DEFAULT,
        "main" => MAIN,
        "local" => LOCAL,
        word => number(word).and_then(|number| u32::try_from(number).ok()).ok_or(RoadError::Table)?,
    };
    table_number(number)
}

/// A table by its number.
pub(super) fn table_number(number: u32) -> Result<Table, RoadError> {
    match NonZero::new(number) {
        Some(number) if number.get() != LOCAL => Ok(Table::Number(number)),
        _ => Err(RoadError::Kernel),
    }
}

/// `off`, or a number, decimal or hexadecimal; 0 is off.
pub(super) fn mark(text: &str) -> Result<Option<NonZero<u32>>, RoadError> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let number = number(text).and_then(|number| u32::try_from(number).ok()).ok_or(RoadError::Mark)?;
    Ok(NonZero::new(number))
}

/// Adds a server or a search domain. One that is there already is not added again.
pub(super) fn resolver(text: &str, dns: &mut Dns) -> Result<(), RoadError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_multicast() || address == IpAddr::from([255; 4]) {
            return Err(RoadError::NoServer);
        }
        if !dns.servers.contains(&address) {
            dns.servers.push(address);
        }
        return Ok(());
    }
    // As wg-quick tells them apart; no domain ends in a number.
    if text.contains(':') || text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(RoadError::Server);
    }
    // systemd's word for "all questions", which these servers are asked anyway.
    if text == "~." {
        return Ok(());
    }
    let domain = endpoint::parse_name(text).map_err(|_| RoadError::Domain)?;
    if !dns.domains.contains(&domain) {
        dns.domains.push(domain);
    }
    Ok(())
}

/// Digits only: Rust would also take `+7`.
pub(super) fn decimal(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Decimal, or hexadecimal after `0x`. A leading zero, which is octal to some programs and decimal to others, is refused.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => u64::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None if text.len() > 1 && text.starts_with('0') => None,
        None => decimal(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(number: u32) -> Table {
        Table::Number(NonZero::new(number).unwrap())
    }

    #[test]
    fn tables() {
        for (text, table) in [
            ("auto", Ok(Table::Auto)),
            ("Off", Ok(Table::Off)),
            ("main", Ok(at(254))),
            ("51820", Ok(at(51820))),
            ("0xca6c", Ok(at(51820))),
            ("4294967295", Ok(at(u32::MAX))),
            ("0", Err(RoadError::Kernel)),
            ("local", Err(RoadError::Kernel)),
            ("255", Err(RoadError::Kernel)),
            ("4294967296", Err(RoadError::Table)),
            ("-1", Err(RoadError::Table)),
            ("vpn", Err(RoadError::Table)),
            ("010", Err(RoadError::Table)),
            ("", Err(RoadError::Table)),
        ] {
            assert_eq!(self::table(text), table, "{text}");
        }
    }

    #[test]
    fn marks() {
        for (text, mark) in [
            ("off", Ok(None)),
            ("OFF", Ok(None)),
            ("0", Ok(None)),
            ("0x0", Ok(None)),
            ("51820", Ok(NonZero::new(51820))),
            ("0xFFFFFFFF", Ok(NonZero::new(u32::MAX))),
            ("0x100000000", Err(RoadError::Mark)),
            ("0x", Err(RoadError::Mark)),
            ("0x+1", Err(RoadError::Mark)),
            ("010", Err(RoadError::Mark)),
            ("1/0xff", Err(RoadError::Mark)),
        ] {
            assert_eq!(self::mark(text), mark, "{text}");
        }
    }

    #[test]
    fn servers_and_domains_are_told_apart() {
        let mut dns = Dns::default();
        for text in ["10.0.0.53", "fd00::53", "Example.org.", "lan", "~.", "10.0.0.53", "::ffff:10.0.0.54"] {
            resolver(text, &mut dns).unwrap();
        }
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(dns.servers, [address("10.0.0.53"), address("fd00::53"), address("10.0.0.54")]);
        assert_eq!(dns.domains, ["example.org", "lan"]);
        for (text, fault) in [
            ("10.0.0.300", RoadError::Server),
            ("10.0.0.53:53", RoadError::Server),
            ("53", RoadError::Server),
            ("fe80::1%eth0", RoadError::Server),
            ("0.0.0.0", RoadError::NoServer),
            ("224.0.0.251", RoadError::NoServer),
            ("exa mple", RoadError::Domain),
            ("~lan", RoadError::Domain),
            ("https://dns.example/", RoadError::Server),
            ("a/b", RoadError::Domain),
        ] {
            assert_eq!(resolver(text, &mut dns), Err(fault), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,40}") {
            let _ = (table(&text), mark(&text), resolver(&text, &mut Dns::default()));
        }

        #[test]
        fn numbers_are_read_as_they_are_written(number in 1_u32..) {
            prop_assert_eq!(mark(&number.to_string()), Ok(NonZero::new(number)));
            prop_assert_eq!(mark(&format!("{number:#x}")), Ok(NonZero::new(number)));
        }
    }
}
