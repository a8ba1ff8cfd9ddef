//! What matches of iptables ask, as far as it can be said of a packet that does not exist. Numbers are in the order of the machine.

use super::walk::Packet;

/// `XT_ADDRTYPE_UNICAST` and `XT_ADDRTYPE_LOCAL` (linux/netfilter/xt_addrtype.h).
const UNICAST: u16 = 1 << 1;
const LOCAL: u16 = 1 << 2;

/// `XT_CONNTRACK_STATE` (linux/netfilter/xt_conntrack.h).
const STATE: u16 = 1;

/// Where the flags are in `struct xt_conntrack_mtinfo2` and 3: behind eight addresses, two times and five ports.
const CONNTRACK_FLAGS: usize = 8 * 16 + 2 * 4 + 5 * 2;

/// Whether the match `name` holds for the packet; nothing if that cannot be said.
pub(crate) fn holds(name: &str, revision: u32, info: &[u8], packet: &Packet) -> Option<bool> {
    let word = |at: usize| info.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes);
    match (name, revision) {
        ("comment", _) => Some(true),
        ("udp" | "tcp", _) => {
            // `struct xt_udp`, with which `struct xt_tcp` begins: ports from and to, of the source and of the destination.
            let within = |port: Option<u16>, at: usize| {
                let (first, last) = (word(at)?, word(at + 2)?);
                match port {
                    Some(port) => Some(port >= first && port <= last),
                    None => (first == 0 && last == u16::MAX).then_some(true),
                }
            };
            // What is inverted is behind the ports; of TCP behind options and flags too.
            let inverted = *info.get(if name == "udp" { 8 } else { 11 })?;
            let of_flags = name == "udp" || info.get(9) == Some(&0);
            match (within(packet.source_port, 0), within(packet.port, 4), inverted, of_flags) {
                (Some(source), Some(port), 0, true) => Some(source && port),
                _ => None,
            }
        }
        ("multiport", 1) => {
            let (flags, count) = (*info.first()?, usize::from(*info.get(1)?));
            let port = match flags {
                0 => packet.source_port,
                1 => packet.port,
                _ => None,
            }?;
            let mut found = false;
            let mut at = 0;
            while at < count.min(15) {
                let first = word(2 + 2 * at)?;
                let is_range = *info.get(32 + at)? != 0;
                let last = if is_range { word(2 + 2 * (at + 1))? } else { first };
                found |= port >= first && port <= last;
                at += if is_range { 2 } else { 1 };
            }
            Some(found != (*info.get(47)? != 0))
        }
        ("conntrack", 2 | 3) => {
            let (flags, inverted, states) =
                (word(CONNTRACK_FLAGS)?, word(CONNTRACK_FLAGS + 2)?, word(CONNTRACK_FLAGS + 4)?);
            (flags == STATE).then_some((states & packet.state() != 0) != (inverted & STATE != 0))
        }
        ("state", _) => {
            let states = info.first_chunk().copied().map(u32::from_ne_bytes)?;
            Some(states & u32::from(packet.state()) != 0)
        }
        ("addrtype", 1) => {
            let (source, destination) = (word(0)?, word(2)?);
            let flags = info.get(4..)?.first_chunk().copied().map(u32::from_ne_bytes)?;
            let (from, to) = match (packet.input.is_some(), packet.output.is_some()) {
                (true, false) => (UNICAST, LOCAL),
                (false, _) => (LOCAL, UNICAST),
                (true, true) => (UNICAST, UNICAST),
            };
            let one = |wanted: u16, is: u16, inverted: bool| wanted == 0 || (wanted & is != 0) != inverted;
            (flags & !3 == 0).then_some(one(source, from, flags & 1 != 0) && one(destination, to, flags & 2 != 0))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(port: u16) -> Packet {
        Packet {
            v6: false,
            established: false,
            input: Some(("eth0".into(), 2)),
            output: None,
            from: None,
            to: None,
            protocol: 17,
            source_port: None,
            port: Some(port),
            icmp: None,
        }
    }

    #[test]
    fn ports_are_asked_for() {
        let ports = |first: u16, last: u16| {
            let words = [0, u16::MAX, first, last].map(u16::to_ne_bytes);
            [words.concat(), vec![0, 0]].concat()
        };
        assert_eq!(holds("udp", 0, &ports(7000, 8000), &packet(7777)), Some(true));
        assert_eq!(holds("udp", 0, &ports(7000, 7776), &packet(7777)), Some(false));
        let mut list = vec![0; 48];
        (list[0], list[1], list[32]) = (1, 3, 1);
        for (at, port) in [7000u16, 7010, 7777].into_iter().enumerate() {
            list[2 + 2 * at..4 + 2 * at].copy_from_slice(&port.to_ne_bytes());
        }
        for (port, found) in [(7005, true), (7011, false), (7777, true)] {
            assert_eq!(holds("multiport", 1, &list, &packet(port)), Some(found), "{port}");
        }
    }

    #[test]
    fn states_and_sorts_of_addresses_are_asked_for() {
        let mut info = vec![0; 160];
        info[CONNTRACK_FLAGS] = 1;
        info[CONNTRACK_FLAGS + 4..CONNTRACK_FLAGS + 6].copy_from_slice(&6u16.to_ne_bytes());
        assert_eq!(holds("conntrack", 3, &info, &packet(1)), Some(false), "established and related");
        info[CONNTRACK_FLAGS + 4] = 8;
        assert_eq!(holds("conntrack", 3, &info, &packet(1)), Some(true));
        let local = [0u16.to_ne_bytes(), LOCAL.to_ne_bytes(), [0; 2], [0; 2]].concat();
        assert_eq!(holds("addrtype", 1, &local, &packet(1)), Some(true));
        assert_eq!(holds("comment", 0, b"x", &packet(1)), Some(true));
        assert_eq!(holds("limit", 0, b"x", &packet(1)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(info in prop::collection::vec(any::<u8>(), 0..200), port: u16) {
            for name in ["udp", "tcp", "multiport", "conntrack", "state", "addrtype"] {
                for revision in 0..4 {
                    let _ = holds(name, revision, &info, &packet(port));
                }
            }
        }
    }
}
