//! The program that chooses a socket of a group by what a datagram carries.
//!
//! The classic BPF machine sees the UDP payload from offset 0. Encrypted data (first byte 0xa4 of `sealed`, 0x04 of
//! `wireguard`) goes by its lane: the low 4 bits of the receiver index, which stands at offset 4 in little endian. Handshakes
//! go to socket 0. For an inner TCP or UDP packet that travels plain the program spreads source port XOR
//! destination port over the sockets: the same in both directions of a flow. Fragments, other protocols and what cannot be
//! read go to socket 0 (a load beyond the end of the payload ends the program with 0). A sender keeps datagrams of different
//! `wire::ip::IpPacket::flow_hash` in different trains, because a train is steered by its first datagram.

/// One instruction of the classic BPF machine (include/uapi/linux/filter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

const LOAD_BYTE: u16 = 0x30; // A = payload[k]
const LOAD_HALF: u16 = 0x28; // A = payload[k..k + 2]
const LOAD_HALF_X: u16 = 0x48; // A = payload[X + k..X + k + 2]
const LOAD_HEADER_X: u16 = 0xb1; // X = 4 * (payload[k] & 15)
const LOAD_MEMORY: u16 = 0x60; // A = M[k]
const STORE: u16 = 0x02; // M[k] = A
const SHIFT_RIGHT: u16 = 0x74; // A >>= k
const AND: u16 = 0x54; // A &= k
const MULTIPLY: u16 = 0x24; // A *= k
const MODULO: u16 = 0x94; // A %= k
const XOR_X: u16 = 0xac; // A ^= X
const TO_X: u16 = 0x07; // X = A
const EQUAL: u16 = 0x15; // skip jt instructions if A == k, else jf
const SKIP: u16 = 0x05; // skip k instructions
const RETURN: u16 = 0x06; // answer k
const RETURN_A: u16 = 0x16; // answer A

/// Multiplying by 2^32 divided by the golden ratio and taking the upper half spreads ports that differ in few bits: Linux gives
/// connections of one client ports of one parity (__inet_hash_connect in net/ipv4/inet_hashtables.c).
const SPREAD: u32 = 0x9e37_79b1;

const fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn equal(k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: EQUAL, jt, jf, k }
}

pub(super) const fn program(sockets: u32) -> [Instruction; 35] {
    [
        op(LOAD_BYTE, 0),
        // sealed or WireGuard's data: the lane
        equal(0xa4, 1, 0),
        equal(0x04, 0, 4), // to "plain"
        op(LOAD_BYTE, 4),
        op(AND, 0x0f),
        op(MODULO, sockets),
        op(RETURN_A, 0),
        // plain
        op(SHIFT_RIGHT, 4),
        equal(4, 1, 0),
        equal(6, 11, 24), // to "IPv6", or to the end
        // IPv4: TCP or UDP, neither more fragments nor an offset, ports after the header
        op(LOAD_BYTE, 9),
        equal(6, 1, 0),
        equal(17, 0, 21),
        op(LOAD_HALF, 6),
        op(AND, 0x3fff),
        equal(0, 0, 18),
        op(LOAD_HEADER_X, 0),
        op(LOAD_HALF_X, 0),
        op(STORE, 0),
        op(LOAD_HALF_X, 2),
        op(SKIP, 6),
        // IPv6: TCP or UDP right after the fixed header
        op(LOAD_BYTE, 6),
        equal(6, 1, 0),
        equal(17, 0, 10),
        op(LOAD_HALF, 40),
        op(STORE, 0),
        op(LOAD_HALF, 42),
        // M[0] and A are the ports
        op(TO_X, 0),
        op(LOAD_MEMORY, 0),
        op(XOR_X, 0),
        op(MULTIPLY, SPREAD),
        op(SHIFT_RIGHT, 16),
        op(MODULO, sockets),
        op(RETURN_A, 0),
        op(RETURN, 0),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The machine, as far as the program uses it; `None` is a load beyond the end, which the kernel answers with 0.
    fn run(program: &[Instruction], payload: &[u8]) -> u32 {
        fn half(payload: &[u8], at: usize) -> Option<u32> {
            Some(u32::from(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?])))
        }
        let (mut a, mut x, mut memory, mut next) = (0u32, 0u32, 0u32, 0usize);
        let mut step = || -> Option<u32> {
            loop {
                let i = program[next];
                next += 1;
                let k = i.k as usize;
                match i.code {
                    LOAD_BYTE => a = (*payload.get(k)?).into(),
                    LOAD_HALF => a = half(payload, k)?,
                    LOAD_HALF_X => a = half(payload, x as usize + k)?,
                    LOAD_HEADER_X => x = 4 * u32::from(*payload.get(k)? & 15),
                    LOAD_MEMORY => a = memory,
                    STORE => memory = a,
                    SHIFT_RIGHT => a >>= i.k,
                    AND => a &= i.k,
                    MULTIPLY => a = a.wrapping_mul(i.k),
                    MODULO => a %= i.k,
                    XOR_X => a ^= x,
                    TO_X => x = a,
                    EQUAL => next += usize::from(if a == i.k { i.jt } else { i.jf }),
                    SKIP => next += k,
                    RETURN => return Some(i.k),
                    RETURN_A => return Some(a),
                    other => unreachable!("instruction {other:#x}"),
                }
            }
        };
        step().unwrap_or(0)
    }

    fn expected(payload: &[u8], sockets: u32) -> u32 {
        if let [0xa4 | 0x04, _, _, _, lane, ..] = payload {
            return u32::from(lane & 15) % sockets;
        }
        let hash = wire::ip::IpPacket::parse(payload).map_or(0, |p| p.flow_hash());
        (hash.wrapping_mul(SPREAD) >> 16) % sockets
    }

    fn udp(source: u16, destination: u16) -> Vec<u8> {
        let mut p = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        p.extend(source.to_be_bytes());
        p.extend(destination.to_be_bytes());
        p.extend([0, 8, 0, 0]);
        p
    }

    #[test]
    fn both_directions_of_a_flow_meet_and_even_ports_spread() {
        let program = program(4);
        let mut seen = [0; 4];
        for port in (32_768..33_768).step_by(2) {
            let there = run(&program, &udp(port, 5201));
            assert_eq!(there, run(&program, &udp(5201, port)));
            assert_eq!(there, expected(&udp(port, 5201), 4));
            seen[there as usize] += 1;
        }
        assert!(seen.iter().all(|&n| n > 60), "{seen:?}");
    }

    #[test]
    fn a_fragment_and_a_stranger_go_to_socket_0() {
        let program = program(64);
        let mut fragment = udp(1, 2);
        fragment[6] = 0x20;
        assert_eq!(run(&program, &fragment), 0);
        for stranger in [&[][..], &[0x45], &[0xa1; 64], &[0x65; 20]] {
            assert_eq!(run(&program, stranger), 0);
        }
    }

    #[test]
    fn encrypted_data_goes_by_its_lane_and_handshakes_go_to_socket_0() {
        for sockets in [1, 3, 4, 16, 64] {
            let program = program(sockets);
            for first in 0..=255 {
                for lane in 0..=255u8 {
                    let datagram = [first, 0, 0, 0, lane, 7, 7, 7, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0];
                    let data = matches!(first, 0xa4 | 0x04);
                    let socket = if data { u32::from(lane & 15) % sockets } else { 0 };
                    // As a packet this has no ports.
                    assert_eq!(run(&program, &datagram), socket, "{first:#x} {lane}");
                }
            }
            assert_eq!(run(&program, &[0xa4, 0, 0, 0]), 0);
        }
    }

    proptest! {
        #[test]
        fn the_program_always_answers_a_socket(payload in prop::collection::vec(any::<u8>(), 0..100), sockets in 1u32..65) {
            prop_assert!(run(&program(sockets), &payload) < sockets);
        }

        #[test]
        fn lanes_are_read_from_little_endian_indices(first in prop::sample::select(vec![0xa4u8, 0x04]), index: u32, sockets in 1u32..65) {
            let datagram = [&[first, 0, 0, 0][..], &index.to_le_bytes(), &[0; 24]].concat();
            prop_assert_eq!(run(&program(sockets), &datagram), index % 16 % sockets);
            prop_assert_eq!(expected(&datagram, sockets), index % 16 % sockets);
        }

        #[test]
        fn the_program_and_the_flow_hash_agree_on_ipv6(next in prop::sample::select(vec![6u8, 17, 58]), source: u16, destination: u16) {
            let mut p = vec![0u8; 60];
            p[0] = 0x60;
            p[5] = 20;
            p[6] = next;
            p[40..42].copy_from_slice(&source.to_be_bytes());
            p[42..44].copy_from_slice(&destination.to_be_bytes());
            p[52] = 0x50;
            prop_assert_eq!(run(&program(8), &p), expected(&p, 8));
        }
    }
}
