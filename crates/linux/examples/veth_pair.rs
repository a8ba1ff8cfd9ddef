//! Lesson 3: a veth pair is a cable with a network card at each end.
//!
//! What enters one end comes out of the other. Put the ends into two network namespaces, and they are two hosts that are
//! connected: this is how a container gets its network.
//!
//! `cargo run -p linux --example veth_pair`, as any user.

use std::error::Error;
use std::net::UdpSocket;
use std::time::Duration;

use linux::netlink::{Netlink, VethEnd};
use linux::netns::NetNs;
use linux::privilege::{self, Capability};

fn main() -> Result<(), String> {
    lesson().map_err(|error| error.to_string())
}

fn lesson() -> Result<(), Box<dyn Error>> {
    if !privilege::has_capability(Capability::SysAdmin) {
        privilege::reenter_user_namespace()?;
    }

    // Two hosts without a name: each is a network stack of its own, and ends when we let go of it.
    let (left, right) = (NetNs::anonymous()?, NetNs::anonymous()?);

    // The cable. Both cards may have the same name, since they are in different hosts.
    let card = |host| VethEnd { name: "eth0", netns: Some(host), ..VethEnd::default() };
    Netlink::open()?.create_veth(&card(&left), &card(&right))?;
    configure(&left, "10.8.0.1/24")?;
    configure(&right, "10.8.0.2/24")?;
    println!("left 10.8.0.1 ──eth0── a veth pair ──eth0── 10.8.0.2 right");

    // A socket belongs to the host where it was opened. After that any thread may use it.
    let a = left.run(|| UdpSocket::bind("10.8.0.1:4000"))??;
    let b = right.run(|| UdpSocket::bind("10.8.0.2:4000"))??;
    for socket in [&a, &b] {
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    a.send_to(b"hello from the left", "10.8.0.2:4000")?;
    let (text, from) = receive(&b)?;
    println!("right heard from {from}: {text}");
    b.send_to(b"hello from the right", from)?;
    let (text, from) = receive(&a)?;
    println!("left heard from {from}: {text}");

    // The cards have counted it: each datagram, and ARP's question for the other card's address.
    let counted = Netlink::open_in(&left)?.existing_link("eth0")?.statistics;
    println!("left's eth0 sent {} packets and received {}", counted.tx_packets, counted.rx_packets);
    if text == "hello from the right" && counted.tx_packets >= 2 { Ok(()) } else { Err("that was not the plan".into()) }
}

fn configure(host: &NetNs, address: &str) -> Result<(), Box<dyn Error>> {
    let mut netlink = Netlink::open_in(host)?;
    let card = netlink.existing_link("eth0")?;
    netlink.add_address(card.index, address.parse()?, true)?;
    netlink.set_up(card.index, true)?;
    Ok(())
}

fn receive(socket: &UdpSocket) -> Result<(String, std::net::SocketAddr), Box<dyn Error>> {
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}
