//! A small reader of the format, written from the draft and not from the writer; and Wireshark's own.

use std::process::Command;

use proptest::prelude::*;

use super::super::{testing, tests::any_trace};
use super::*;

/// What was read of a file.
#[derive(Debug, Default)]
pub(in crate::observe::trace) struct Read {
    pub(in crate::observe::trace) interfaces: Vec<(u16, String)>,
    pub(in crate::observe::trace) packets: Vec<Packet>,
}

#[derive(Debug)]
pub(in crate::observe::trace) struct Packet {
    interface: usize,
    at: u64,
    bytes: Vec<u8>,
    whole: usize,
    comments: Vec<String>,
    direction: u32,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn options(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut options = Vec::new();
    loop {
        let (code, length) = (u16_at(bytes, 0), usize::from(u16_at(bytes, 2)));
        if code == 0 {
            assert_eq!((length, bytes.len()), (0, 4), "options end with the block");
            return options;
        }
        options.push((code, bytes[4..4 + length].to_vec()));
        bytes = &bytes[4 + length.next_multiple_of(4)..];
    }
}

/// Reads a file, or panics.
pub(in crate::observe::trace) fn read(file: &[u8]) -> Read {
    let mut read = Read::default();
    let mut rest = file;
    let mut first = true;
    while !rest.is_empty() {
        let (kind, length) = (u32_at(rest, 0), u32_at(rest, 4) as usize);
        assert_eq!(length % 4, 0);
        let block = &rest[..length];
        assert_eq!(u32_at(block, length - 4) as usize, length, "a block tells its length at both ends");
        let body = &block[8..length - 4];
        match kind {
            0x0a0d_0d0a => {
                assert!(first);
                assert_eq!((u32_at(body, 0), u16_at(body, 4), u16_at(body, 6)), (0x1a2b_3c4d, 1, 0));
                options(&body[16..]);
            }
            1 => {
                assert!(read.packets.is_empty(), "interfaces come before their packets");
                let options = options(&body[8..]);
                let find = |code| options.iter().find(|(of, _)| *of == code).map(|(_, value)| value.clone()).unwrap();
                assert_eq!(find(9), [9]);
                read.interfaces.push((u16_at(body, 0), String::from_utf8(find(2)).unwrap()));
            }
            6 => {
                let captured = u32_at(body, 12) as usize;
                let options = options(&body[20 + captured.next_multiple_of(4)..]);
                let comments = options.iter().filter(|(code, _)| *code == 1);
                let flags: Vec<u32> =
                    options.iter().filter(|(code, _)| *code == 2).map(|(_, value)| u32_at(value, 0)).collect();
                assert_eq!(flags.len(), 1);
                read.packets.push(Packet {
                    interface: u32_at(body, 0) as usize,
                    at: u64::from(u32_at(body, 4)) << 32 | u64::from(u32_at(body, 8)),
                    bytes: body[20..20 + captured].to_vec(),
                    whole: u32_at(body, 16) as usize,
                    comments: comments.map(|(_, value)| String::from_utf8(value.clone()).unwrap()).collect(),
                    direction: flags[0],
                });
            }
            other => panic!("block {other}"),
        }
        first = false;
        rest = &rest[length..];
    }
    read
}

#[test]
fn each_device_is_an_interface_and_each_sighting_a_frame() {
    let trace = testing::trace(testing::way(), Some(91_000));
    let read = read(&pcapng(&trace));
    let names: Vec<_> = read.interfaces.iter().map(|(link, name)| (*link, name.as_str())).collect();
    assert_eq!(
        names,
        [
            (1, "berlin:veth-web"),
            (1, "berlin:adit-br0"),
            (101, "berlin:adit0"),
            (1, "berlin:eth0"),
            (1, "paris:eth0"),
            (101, "paris:adit0"),
            (1, "paris:adit-br0"),
            (1, "paris:veth-app"),
        ]
    );
    let directions: Vec<_> = read.packets.iter().map(|packet| packet.direction).collect();
    assert_eq!(directions, [1, 1, 2, 2, 1, 1, 2, 2]);
    assert!(read.packets.is_sorted_by_key(|packet| packet.at));
    assert_eq!(read.packets[0].at, u64::try_from(testing::START).unwrap());
    let linked = |frame: usize, text: &str| {
        let comment = &read.packets[frame - 1].comments[0];
        assert!(comment.contains(text), "{comment}");
    };
    linked(3, "hop 3 on berlin: adit0, TUN, L3 out; goes on in frame 4");
    linked(
        4,
        "hop 7 on berlin: eth0, card, L2 out; sealed for receiver 0x01223340, counter 9; carries the packet of frame 3",
    );
    linked(4, "comes out as frame 6");
    linked(6, "hop 12 on paris: adit0, TUN, L3 in; came in frame 5");
}

#[test]
fn wireshark_reads_it() {
    let trace = testing::trace(testing::super_packet(), Some(91_000));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.pcapng");
    std::fs::write(&file, pcapng(&trace)).unwrap();
    let fields =
        ["frame.interface_name", "frame.len", "frame.packet_flags_direction", "frame.protocols", "frame.comment"];
    let mut tshark = Command::new("tshark");
    // Names of addresses are not looked up, and no configuration of whoever runs this counts.
    tshark.args(["-n", "-T", "fields", "-E", "separator=|", "-r"]).arg(&file).env("HOME", folder.path());
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().expect("tshark, which packaging/test-packages names");
    let (text, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaints}");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('|').collect()).collect();
    assert_eq!(lines.len(), 8, "{text}");
    let shown: Vec<_> = lines.iter().map(|line| (line[0], line[1])).collect();
    assert_eq!(shown[0], ("berlin:veth-web", "62062"), "{text}");
    assert_eq!(shown[3], ("berlin:eth0", "65362"), "{text}");
    // Inside it is TCP, outside a datagram of which Wireshark knows no more.
    assert!(lines[2][3].starts_with("raw:ip:tcp"), "{text}");
    assert!(lines[3][3].starts_with("eth:ethertype:ip:udp"), "{text}");
    assert!(
        lines[2][4].contains("goes on in frame 4") && lines[3][4].contains("carries the packet of frame 3"),
        "{text}"
    );
    assert!(lines[0][4].contains("a super-packet: stands for 46"), "{text}");
}

proptest! {
    #[test]
    fn whatever_was_seen_is_a_file_that_can_be_read(trace in any_trace()) {
        let read = read(&pcapng(&trace));
        let on_devices = trace.observations.iter().filter(|o| matches!(o.place, Place::Device { .. })).count();
        prop_assert_eq!(read.packets.len(), on_devices);
        for packet in &read.packets {
            prop_assert!(packet.interface < read.interfaces.len());
            prop_assert!(packet.whole >= packet.bytes.len());
            prop_assert!(!packet.comments.is_empty());
        }
        prop_assert!(read.packets.is_sorted_by_key(|packet| packet.at));
    }
}
