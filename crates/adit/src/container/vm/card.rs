//! What is said of the card of a virtual machine: to a person, to a program, to QEMU.

use std::net::IpAddr;

use ipnet::IpNet;
use linux::privilege;
use serde_json::{Value, json};

use super::super::Record;

/// The name that most machines give their only card.
const GUEST: &str = "eth0";

/// The card of a virtual machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    /// The name of the machine.
    pub name: String,
    /// The TAP.
    pub device: String,
    /// The link-layer address that the machine is to have.
    pub mac: [u8; 6],
    /// The bridge that the TAP is a port of.
    pub bridge: String,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Who may open the TAP besides root: a name, or a number.
    pub owner: String,
    /// Pairs of queues.
    pub queues: u16,
    /// The addresses that are the machine's, with the prefix length of their network.
    pub addresses: Vec<IpNet>,
    /// By way of whom it reaches what is not in these networks.
    pub gateways: Vec<IpAddr>,
    /// Whom it asks for names.
    pub resolvers: Vec<IpAddr>,
    /// The domains in which it looks for names.
    pub search: Vec<String>,
    /// By what names others find it.
    pub names: Vec<String>,
    /// What else is to be known, each a sentence.
    pub notes: Vec<String>,
}

/// A user as a person knows him.
pub(super) fn user_title(uid: u32) -> String {
    privilege::user_name(uid).ok().flatten().unwrap_or_else(|| uid.to_string())
}

impl Card {
    /// As far as the record goes.
    pub(super) fn of(record: &Record) -> Self {
        let tap = record.tap.as_ref();
        Self {
            name: record.title(),
            device: record.host_interface.clone(),
            mac: record.mac,
            bridge: record.bridge.clone(),
            mtu: tap.map_or(0, |tap| tap.mtu),
            owner: user_title(tap.map_or(0, |tap| tap.owner)),
            queues: tap.map_or(1, |tap| tap.queues),
            addresses: record.addresses.clone(),
            ..Self::default()
        }
    }

    fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// The arguments of QEMU that give the machine this card.
    pub fn arguments(&self) -> Vec<String> {
        let Self { device, mtu, queues, .. } = self;
        let (back, front) = match queues {
            1 => (String::new(), String::new()),
            // An interrupt for each queue, for configuration, and for control.
            n => (format!(",queues={n}"), format!(",mq=on,vectors={}", 2 * u32::from(*n) + 2)),
        };
        vec![
            "-netdev".into(),
            format!("tap,id={device},ifname={device},script=no,downscript=no{back}"),
            "-device".into(),
            format!("virtio-net-pci,netdev={device},mac={},host_mtu={mtu}{front}", self.mac_text()),
        ]
    }

    /// A whole line for a shell; disk and memory are examples.
    pub fn qemu(&self) -> String {
        format!(
            "qemu-system-x86_64 -accel kvm -m 1024 -drive file={}.qcow2,if=virtio {}",
            self.name,
            self.arguments().join(" ")
        )
    }

    /// What is to be typed in the machine, by root.
    pub fn guest(&self) -> Vec<String> {
        let mut lines = vec![format!("ip link set {GUEST} mtu {} up", self.mtu)];
        lines.extend(self.addresses.iter().map(|net| format!("ip address add {net} dev {GUEST}")));
        lines.extend(self.gateways.iter().map(|ip| {
            let family = if ip.is_ipv4() { "" } else { " -6" };
            format!("ip{family} route add default via {ip} dev {GUEST}")
        }));
        if !self.resolvers.is_empty() {
            let mut text: String = self.resolvers.iter().map(|ip| format!("nameserver {ip}\\n")).collect();
            text.push_str(&format!("search {}\\n", self.search.join(" ")));
            lines.push(format!("printf '{text}' >/etc/resolv.conf"));
        }
        lines
    }

    /// For a person.
    pub fn text(&self) -> String {
        let list = |texts: Vec<String>| if texts.is_empty() { "-".to_owned() } else { texts.join(" ") };
        let queues = if self.queues == 1 { "1 queue".to_owned() } else { format!("{} queues", self.queues) };
        let mut text = format!("{}: the card of a virtual machine\n", self.name);
        let nets = self.addresses.iter().map(ToString::to_string).collect();
        let gateways = self.gateways.iter().map(ToString::to_string).collect();
        for (what, value) in [
            ("device", format!("{}, TAP of {queues}, for user {}", self.device, self.owner)),
            ("MAC", self.mac_text()),
            ("bridge", format!("{}, MTU {}", self.bridge, self.mtu)),
            ("address", list(nets)),
            ("gateway", list(gateways)),
            ("names", list(self.names.clone())),
        ] {
            text.push_str(&format!("  {what:<8} {value}\n"));
        }
        for note in &self.notes {
            text.push_str(&format!("\n{note}\n"));
        }
        text.push_str(&format!("\nStart it with, and whatever else it needs:\n  {}\n", self.qemu()));
        text.push_str("\nIn it, as root, and in its own configuration for the next start:\n");
        for line in self.guest() {
            text.push_str(&format!("  {line}\n"));
        }
        text
    }

    /// For a program.
    pub fn json(&self) -> Value {
        json!({
            "name": self.name,
            "device": self.device,
            "mac": self.mac_text(),
            "bridge": self.bridge,
            "mtu": self.mtu,
            "owner": self.owner,
            "queues": self.queues,
            "addresses": self.addresses,
            "gateways": self.gateways,
            "resolvers": self.resolvers,
            "search": self.search,
            "names": self.names,
            "notes": self.notes,
            "guest": self.guest(),
            "qemu": self.qemu(),
            "qemu_arguments": self.arguments(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        Card {
            name: "db".into(),
            device: "ad0123456789ab".into(),
            mac: [0x0a, 0x58, 10, 42, 7, 2],
            bridge: "adit-br0".into(),
            mtu: 1440,
            owner: "alice".into(),
            queues: 1,
            addresses: vec!["10.42.7.2/24".parse().unwrap(), "fd42:0:0:7::2/64".parse().unwrap()],
            gateways: vec!["10.42.7.1".parse().unwrap(), "fd42:0:0:7::1".parse().unwrap()],
            resolvers: vec!["10.42.7.1".parse().unwrap()],
            search: vec!["berlin.adit".into(), "adit".into()],
            names: vec!["db.berlin.adit".into()],
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_person_reads_what_to_type() {
        let text = card().text();
        assert_eq!(
            text,
            "db: the card of a virtual machine\n  \
             device   ad0123456789ab, TAP of 1 queue, for user alice\n  \
             MAC      0a:58:0a:2a:07:02\n  \
             bridge   adit-br0, MTU 1440\n  \
             address  10.42.7.2/24 fd42:0:0:7::2/64\n  \
             gateway  10.42.7.1 fd42:0:0:7::1\n  \
             names    db.berlin.adit\n\n\
             Start it with, and whatever else it needs:\n  \
             qemu-system-x86_64 -accel kvm -m 1024 -drive file=db.qcow2,if=virtio -netdev \
             tap,id=ad0123456789ab,ifname=ad0123456789ab,script=no,downscript=no -device \
             virtio-net-pci,netdev=ad0123456789ab,mac=0a:58:0a:2a:07:02,host_mtu=1440\n\n\
             In it, as root, and in its own configuration for the next start:\n  \
             ip link set eth0 mtu 1440 up\n  \
             ip address add 10.42.7.2/24 dev eth0\n  \
             ip address add fd42:0:0:7::2/64 dev eth0\n  \
             ip route add default via 10.42.7.1 dev eth0\n  \
             ip -6 route add default via fd42:0:0:7::1 dev eth0\n  \
             printf 'nameserver 10.42.7.1\\nsearch berlin.adit adit\\n' >/etc/resolv.conf\n"
        );
    }

    #[test]
    fn several_queues_are_said_to_both_ends() {
        let card = Card { queues: 4, ..card() };
        let [_, back, _, front] = card.arguments().try_into().unwrap();
        assert!(back.ends_with(",queues=4") && front.ends_with(",mq=on,vectors=10"), "{back} {front}");
        assert!(card.text().contains("TAP of 4 queues"));
    }

    #[test]
    fn a_program_reads_the_same() {
        let json = card().json();
        assert_eq!((&json["mac"], &json["addresses"][1]), (&"0a:58:0a:2a:07:02".into(), &"fd42:0:0:7::2/64".into()));
        assert_eq!(json["qemu_arguments"].as_array().unwrap().len(), 4);
        let bare = Card { addresses: Vec::new(), gateways: Vec::new(), resolvers: Vec::new(), ..card() };
        assert_eq!(bare.json()["guest"].as_array().unwrap().len(), 1);
        assert!(bare.text().contains("  address  -\n"));
    }
}
