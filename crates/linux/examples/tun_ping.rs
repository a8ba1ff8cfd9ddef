//! Lesson 1: a TUN device is a network card whose wire is a file.
//!
//! The kernel thinks that 10.9.0.0/24 is a network behind the card `lesson0`. Behind it is only this program: each packet that
//! the kernel sends there comes out of a `read`, and each packet that we `write` arrives as if it had come over a cable. We
//! answer every ping, so a whole subnet of hosts seems to be alive that does not exist.
//!
//! `cargo run -p linux --example tun_ping`, as any user. It happens in a network namespace of its own.

use std::error::Error;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use linux::netlink::Netlink;
use linux::netns::NetNs;
use linux::ping::Pinger;
use linux::poll::{Waker, readable};
use linux::privilege::{self, Capability};
use linux::tun::{Device, Layer, MAX_PACKET, Options, Queue};
use wire::icmp::echo_reply;
use wire::ip::IpPacket;
use wire::vnet::VnetHdr;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> Result<(), String> {
    start().map_err(|error| error.to_string())
}

fn start() -> Outcome {
    if !privilege::has_capability(Capability::SysAdmin) {
        privilege::reenter_user_namespace()?;
    }
    privilege::check_tun()?;
    NetNs::anonymous()?.run(lesson)?
}

fn lesson() -> Outcome {
    // The card. Without offload each read is one plain IP packet, beginning with its IP header.
    let device = Device::open(Options { layer: Layer::Packets, offload: false, ..Options::new("lesson0") })?;
    let wire = device.queues.first().ok_or("one queue was asked for")?;

    // The kernel's side of the card: an address, and with it the route to the rest of the subnet.
    let mut netlink = Netlink::open()?;
    let link = netlink.existing_link("lesson0")?;
    netlink.add_address(link.index, "10.9.0.1/24".parse()?, true)?;
    netlink.set_up(link.index, true)?;
    println!("lesson0 is up with 10.9.0.1/24; its wire ends in this program");

    let stop = Waker::new()?;
    thread::scope(|scope| {
        let far_end = scope.spawn(|| answer_pings(wire, &stop));
        let pings = ping_some();
        stop.wake();
        let answered = far_end.join().map_err(|_| "the far end panicked")??;
        pings?;
        println!("the far end answered {answered} pings");
        if answered == 3 { Ok(()) } else { Err("it should have been 3".into()) }
    })
}

/// The far end of the wire: reads what the kernel sends into the card and writes back what should come out of it.
fn answer_pings(wire: &Queue, stop: &Waker) -> Result<u32, Box<dyn Error + Send + Sync>> {
    let (mut packet, mut answer) = (vec![0; MAX_PACKET], vec![0; MAX_PACKET]);
    let mut answered = 0;
    while readable([wire.as_fd(), stop.as_fd()], None)? != [false, true] {
        let Ok((_, length)) = wire.recv(&mut packet) else { continue };
        // What is no ping (the kernel looks for IPv6 routers, for one) gets no answer.
        let Ok(request) = IpPacket::parse(&packet[..length]) else { continue };
        let Some(length) = echo_reply(&request, &mut answer) else { continue };
        println!(
            "  out of the wire: {} bytes from {} to {}",
            request.total_len(),
            request.source(),
            request.destination()
        );
        wire.send(&VnetHdr::NONE, &answer[..length])?;
        answered += 1;
    }
    Ok(answered)
}

fn ping_some() -> Outcome {
    for host in [2, 77, 254] {
        let address = Ipv4Addr::new(10, 9, 0, host);
        let time = Pinger::open(address, 1)?.round_trip(Duration::from_secs(5))?;
        let time = time.ok_or_else(|| format!("{address} did not answer"))?;
        println!("ping {address}: {} µs", time.as_micros());
    }
    Ok(())
}
