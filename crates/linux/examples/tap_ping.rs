//! Lesson 2: a TAP device is the same with an Ethernet cable.
//!
//! On a TUN device (lesson 1) packets travel bare. On a TAP device each is in an Ethernet frame, and before the kernel can
//! address one it asks everybody on the cable who has the IP address: ARP. So the far end must answer that question first.
//! `cargo run -p linux --example tap_ping`, as any user. It happens in a network namespace of its own.

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
use wire::arp::ArpPacket;
use wire::ethernet::{EthernetFrame, EthernetHeader, HEADER_LEN, MacAddress, ethertype};
use wire::icmp::echo_reply;
use wire::ip::IpPacket;
use wire::vnet::VnetHdr;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// One of the hosts that do not exist.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 77);

/// Where all of them are. The second bit of the first byte marks an address that nobody registered.
const FAR_END: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0x02]);

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
    let device = Device::open(Options { layer: Layer::Frames, offload: false, ..Options::new("lesson0") })?;
    let cable = device.queues.first().ok_or("one queue was asked for")?;
    let mut netlink = Netlink::open()?;
    let link = netlink.existing_link("lesson0")?;
    netlink.add_address(link.index, "10.9.0.1/24".parse()?, true)?;
    netlink.set_up(link.index, true)?;

    let stop = Waker::new()?;
    thread::scope(|scope| {
        let far_end = scope.spawn(|| answer(cable, &stop));
        let ping = Pinger::open(HOST, 1).and_then(|mut host| host.round_trip(Duration::from_secs(5)));
        stop.wake();
        far_end.join().map_err(|_| "the far end panicked")??;
        println!("ping {HOST}: {} µs", ping?.ok_or("no answer")?.as_micros());
        let mut known = netlink.neighbours(Some(link.index))?.into_iter();
        let learned = known.find(|host| host.mac == Some(FAR_END.0)).ok_or("the kernel learned nothing")?;
        println!("the kernel now knows: {} is at {FAR_END}", learned.address);
        Ok(())
    })
}

/// The far end of the cable: answers who has an address, then what is asked of it.
fn answer(cable: &Queue, stop: &Waker) -> Outcome {
    let (mut bytes, mut reply) = (vec![0; MAX_PACKET], vec![0; MAX_PACKET]);
    while readable([cable.as_fd(), stop.as_fd()], None)? != [false, true] {
        let Ok((_, length)) = cable.recv(&mut bytes) else { continue };
        let Ok(frame) = EthernetFrame::parse(&bytes[..length]) else { continue };
        match frame.ethertype() {
            ethertype::ARP => {
                let question = ArpPacket::parse(frame.payload());
                let Some(reply) = question.ok().and_then(|question| question.reply(FAR_END)) else { continue };
                println!("  who has {}? {} asks. It is at {FAR_END}", reply.sender, reply.target);
                cable.send(&VnetHdr::NONE, &reply.emit_frame())?;
            }
            ethertype::IPV4 => {
                let Ok(request) = IpPacket::parse(frame.payload()) else { continue };
                let Some(length) = echo_reply(&request, &mut reply[HEADER_LEN..]) else { continue };
                println!(
                    "  a ping for {}, in a frame from {} to {}",
                    request.destination(),
                    frame.source(),
                    frame.destination()
                );
                let header =
                    EthernetHeader { destination: frame.source(), source: FAR_END, ethertype: ethertype::IPV4 };
                let _ = header.emit(&mut reply);
                cable.send(&VnetHdr::NONE, &reply[..HEADER_LEN + length])?;
            }
            _ => {}
        }
    }
    Ok(())
}
