//! What the first bytes of an observation say: its headers in words, which way it goes, and how often it may still be routed.

use std::net::IpAddr;

use wire::describe::{self, LinkLayer, TunnelPorts};
use wire::ethernet::{EthernetFrame, ethertype};
use wire::ip::{IpPacket, protocol};
use wire::message::{self, Message};
use wire::udp::UdpDatagram;

use super::journey::Way;
use super::observation::{Layer, Observation, Place, Step};

/// A head of at least so many bytes has all the headers that we know, so that what was cut off is payload.
const WHOLE_HEADERS: usize = 128;

/// One header, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The protocol's name.
    pub name: &'static str,
    /// Its fields.
    pub summary: String,
    /// 0, or 1 for what a tunnel carries: from an encrypted message on, or from the second IP header.
    pub depth: usize,
}

/// What a head says.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// The headers, outermost first.
    pub(super) headers: Vec<Header>,
    /// Which way the probe's own packet goes; `None` if it is not to be read here.
    pub(super) way: Option<Way>,
    /// The hop limit of the probe's own packet. Each time it is routed it is one less, so it tells the passes of a loop apart.
    pub(super) ttl: Option<u8>,
}

/// Reads the head of `observation`, of a probe to `destination`.
pub(super) fn look(observation: &Observation, destination: IpAddr) -> Look {
    let head = observation.head.as_slice();
    let link = link(observation);
    let carried = match link {
        LinkLayer::Ethernet => EthernetFrame::parse(head).ok().map(|frame| frame.payload()),
        LinkLayer::Ip => Some(head),
        LinkLayer::Message => plain(head),
    };
    let own = carried.and_then(|bytes| IpPacket::parse_cut(bytes).ok());
    let datagram = own.as_ref().and_then(|packet| {
        let udp = (packet.protocol() == protocol::UDP).then(|| UdpDatagram::parse_cut(packet.payload()).ok())?;
        udp.map(|udp| (udp.destination_port(), udp.payload()))
    });
    // What is in a datagram of a plain tunnel is known by its destination only.
    let within = datagram.and_then(|(_, payload)| plain(payload)).and_then(|bytes| IpPacket::parse_cut(bytes).ok());
    let within = within.filter(|packet| way(packet, destination).is_some());
    let sealed = observation.outer.is_some();
    let tunnel = datagram.filter(|_| sealed || within.is_some()).map(|(port, _)| port);
    let probe = if tunnel.is_some() { within } else { own };
    let bytes = restored(observation, datagram.filter(|_| sealed).map(|(_, payload)| payload));
    let layers = describe::describe(link, &bytes, &TunnelPorts { adit: tunnel, vxlan: None });
    Look {
        headers: stacked(layers),
        way: probe.as_ref().and_then(|packet| way(packet, destination)),
        ttl: probe.map(|packet| packet.ttl()),
    }
}

/// What the head begins with.
fn link(observation: &Observation) -> LinkLayer {
    match &observation.place {
        Place::Device { layer: Layer::Frames, .. } => LinkLayer::Ethernet,
        Place::Device { layer: Layer::Packets, .. } => LinkLayer::Ip,
        Place::Worker { step: Step::Sent | Step::Received, .. } => LinkLayer::Message,
        Place::Worker { .. } => {
            let frame = EthernetFrame::parse(&observation.head).ok().map(|frame| frame.ethertype());
            match (IpPacket::parse_cut(&observation.head), frame) {
                (Err(_), Some(ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP)) => LinkLayer::Ethernet,
                // A packet of a plain tunnel is its own message.
                _ => LinkLayer::Message,
            }
        }
    }
}

fn plain(message: &[u8]) -> Option<&[u8]> {
    match message::classify(message) {
        Message::Plain(packet) => Some(packet),
        _ => None,
    }
}

fn way(packet: &IpPacket<'_>, destination: IpAddr) -> Option<Way> {
    if packet.destination() == destination {
        Some(Way::There)
    } else if packet.source() == destination {
        Some(Way::Back)
    } else {
        None
    }
}

/// The head with zeros for the payload that was cut off, so that lengths which are told are those of the packet. Of a train, the
/// first datagram.
fn restored(observation: &Observation, message: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = observation.head.clone();
    if bytes.len() >= WHOLE_HEADERS {
        let around = message.map_or(0, |message| bytes.len().saturating_sub(message.len()));
        let whole = if observation.outer.is_some() && observation.segments > 1 && observation.segment_size > 0 {
            around + usize::from(observation.segment_size)
        } else {
            usize::try_from(observation.size).unwrap_or(usize::MAX).min(wire::ip::MAX_LEN + 64)
        };
        bytes.resize(whole.max(bytes.len()), 0);
    }
    bytes
}

fn stacked(layers: Vec<describe::Layer>) -> Vec<Header> {
    let mut begun = 0usize;
    layers
        .into_iter()
        .map(|layer| {
            begun += usize::from(matches!(layer.name, "IPv4" | "IPv6" | "sealed" | "WireGuard"));
            Header { name: layer.name, summary: layer.summary, depth: begun.saturating_sub(1).min(1) }
        })
        .collect()
}

impl Header {
    /// The header in few words: who speaks to whom, and the hop limit, which shows where it was routed; of what is encrypted its number
    /// and its length, as there is no more to be seen.
    #[must_use]
    pub fn brief(&self) -> String {
        let parts: Vec<_> = self.summary.split(", ").collect();
        let first = parts.first().copied().unwrap_or_default();
        match self.name {
            "Ethernet" => "Eth".to_owned(),
            "sealed" | "WireGuard" => {
                let told = |part: &&&str| part.starts_with("counter ") || part.starts_with("encrypted ");
                let told: Vec<_> = parts.iter().filter(told).copied().collect();
                let told = if told.is_empty() { first.to_owned() } else { told.join(", ") };
                format!("{} {told}", self.name)
            }
            name => {
                let ttl = parts.iter().find(|part| part.starts_with("ttl "));
                format!("{name} {first}{}", ttl.map_or_else(String::new, |ttl| format!(" {ttl}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, frame, packet};
    use super::*;

    #[test]
    fn the_way_is_read_from_the_packet_itself() {
        let destination = testing::DESTINATION.into();
        let there = look(&testing::at("berlin", 0, testing::tun("adit0", true)), destination);
        assert_eq!((there.way, there.ttl), (Some(Way::There), Some(63)));
        let mut back = testing::at("berlin", 0, testing::tun("adit0", false));
        back.head = packet(testing::DESTINATION, testing::SOURCE, 61);
        let back = look(&back, destination);
        assert_eq!((back.way, back.ttl), (Some(Way::Back), Some(61)));
        assert_eq!(back.headers.iter().map(|header| header.name).collect::<Vec<_>>(), ["IPv4", "ICMP"]);
    }

    #[test]
    fn a_datagram_of_a_plain_tunnel_is_looked_into() {
        let mut card = testing::at("berlin", 0, testing::card("eth0", true));
        card.head = frame(&testing::datagram(&packet(testing::SOURCE, testing::DESTINATION, 63)));
        let look = look(&card, testing::DESTINATION.into());
        assert_eq!((look.way, look.ttl), (Some(Way::There), Some(63)));
        let depths: Vec<_> = look.headers.iter().map(|header| (header.name, header.depth)).collect();
        assert_eq!(depths, [("Ethernet", 0), ("IPv4", 0), ("UDP", 0), ("IPv4", 1), ("ICMP", 1)]);
    }

    #[test]
    fn what_is_sealed_tells_its_number_and_its_whole_length() {
        let mut card = testing::at("berlin", 0, testing::card("eth0", true));
        testing::seal(&mut card, 9, 1000);
        let look = look(&card, testing::DESTINATION.into());
        assert_eq!((look.way, look.ttl), (None, None));
        let last = look.headers.last().unwrap();
        assert_eq!((last.name, last.depth), ("sealed", 1));
        assert_eq!(last.brief(), "sealed counter 9, encrypted 1000 B");
    }
}
