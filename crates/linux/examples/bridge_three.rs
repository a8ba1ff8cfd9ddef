//! Lesson 4: a bridge is a switch.
//!
//! Three hosts, each with a cable (a veth pair) to one bridge. The bridge passes frames between its ports; where a host is it
//! learns from the frames that come from there. This is how the containers of one machine reach each other.
//!
//! `cargo run -p linux --example bridge_three`, as any user.

use std::error::Error;
use std::net::UdpSocket;
use std::time::Duration;

use linux::netlink::{LinkChange, Netlink, VethEnd};
use linux::netns::NetNs;
use linux::privilege::{self, Capability};

const NAMES: [&str; 3] = ["red", "green", "blue"];

fn main() -> Result<(), String> {
    lesson().map_err(|error| error.to_string())
}

fn lesson() -> Result<(), Box<dyn Error>> {
    if !privilege::has_capability(Capability::SysAdmin) {
        privilege::reenter_user_namespace()?;
    }

    // The switch, in a place of its own. It needs no address: it only passes frames on.
    let place = NetNs::anonymous()?;
    let mut switch = Netlink::open_in(&place)?;
    switch.create_bridge("switch", Some([0x02, 0, 0, 0, 0, 0xff]))?;
    let bridge = switch.existing_link("switch")?;
    switch.set_up(bridge.index, true)?;

    // Three hosts, plugged in: one end of each cable is a card in the host, the other a port of the switch.
    let mut hosts = Vec::new();
    for (number, name) in (1u8..).zip(NAMES) {
        let host = NetNs::anonymous()?;
        let card = VethEnd { name: "eth0", netns: Some(&host), mac: Some([0x02, 0, 0, 0, 0, number]), mtu: None };
        let port = VethEnd { name, netns: Some(&place), ..VethEnd::default() };
        switch.create_veth(&card, &port)?;
        let port = switch.existing_link(name)?;
        let plug = LinkChange { controller: Some(Some(bridge.index)), up: Some(true), ..LinkChange::default() };
        switch.change_link(port.index, &plug)?;

        let mut netlink = Netlink::open_in(&host)?;
        let card = netlink.existing_link("eth0")?;
        netlink.add_address(card.index, format!("10.7.0.{number}/24").parse()?, true)?;
        netlink.set_up(card.index, true)?;
        let socket = host.run(|| UdpSocket::bind(format!("10.7.0.{number}:4000")))??;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        println!("{name:<6} 10.7.0.{number} ──eth0── port {name} of the switch");
        hosts.push((name, socket));
    }

    // Everybody greets everybody else.
    for (from, socket) in &hosts {
        for (to, other) in hosts.iter().filter(|(to, _)| to != from) {
            socket.send_to(from.as_bytes(), other.local_addr()?)?;
            let mut buffer = [0; 16];
            let (length, address) = other.recv_from(&mut buffer)?;
            println!("{to:<6} was greeted by {} ({address})", String::from_utf8_lossy(&buffer[..length]));
            if &buffer[..length] != from.as_bytes() || address != socket.local_addr()? {
                return Err(format!("{to} should have been greeted by {from}").into());
            }
        }
    }

    // The switch has learned which card is behind which port.
    for (number, name) in (1u8..).zip(NAMES) {
        let port = switch.existing_link(name)?;
        let learned = switch.forwarding(port.index)?.into_iter().any(|entry| entry.mac == [0x02, 0, 0, 0, 0, number]);
        println!(
            "02:00:00:00:00:{number:02x} is behind port {name}: {}",
            if learned { "learned" } else { "not learned" }
        );
        if !learned {
            return Err("the switch should have learned it".into());
        }
    }
    Ok(())
}
