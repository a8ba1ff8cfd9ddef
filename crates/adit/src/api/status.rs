//! The state of a daemon at one moment: the schema of `adit status --json`.
//!
//! Fields are added, never renamed, removed or given another meaning or unit; docs/STATUS.md documents each. Counters start
//! at zero with the daemon and only grow.

use std::{collections::BTreeMap, net::SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// One daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the daemon (which may be older than the program that asks).
    pub version: String,
    /// The daemon's process id, in its own namespace.
    pub pid: u32,
    /// Seconds since the daemon began to set up.
    pub uptime_s: u64,
    /// The virtual network card.
    pub device: DeviceStatus,
    /// The socket and the threads.
    pub transport: TransportStatus,
    /// The other ends, in the order of the configuration.
    pub peers: Vec<PeerStatus>,
    /// The worker threads, by number.
    pub workers: Vec<WorkerStatus>,
    /// Packets dropped, by reason; a reason that never occurred may be absent.
    pub drops: BTreeMap<String, u64>,
    /// The network that the host is a node of; absent for a tunnel from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkStatus>,
    /// The switch of a device that carries frames; absent with mode `tun`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<SwitchStatus>,
}

/// A switch between the device and the peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SwitchStatus {
    /// The bridge that the device is a port of, if it is one's.
    pub bridge: Option<String>,
    /// Ranges of addresses for virtual machines of this host.
    pub reserve: Vec<IpNet>,
    /// Link-layer addresses known to be on this host's side.
    pub local_macs: u64,
    /// Those known to be with peers.
    pub peer_macs: u64,
    /// IP addresses whose link-layer address is known.
    pub neighbours: u64,
    /// How often an address went from one side or peer to another.
    pub moves: u64,
    /// How often there was no room for an address.
    pub refused: u64,
    /// Frames of this side that went to all peers.
    pub flooded: u64,
    /// Questions for addresses (ARP, neighbour discovery) that were answered from what is known.
    pub answered: u64,
    /// Addresses of each peer that has some, by its name.
    pub peers: BTreeMap<String, u64>,
    /// What is wrong with the network behind the device: a loop.
    pub problem: Option<String>,
}

/// A node's part in its network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStatus {
    /// 32 hexadecimal digits that name the network.
    pub id: String,
    /// What this node is called.
    pub node: String,
    /// The number of its certificate, if an authority gave it one.
    pub serial: Option<u64>,
    /// Why nodes are believed: `authority`, `shared secret` (members can impersonate each other), or `nothing` (plain only).
    pub trust: String,
    /// All addresses of the network.
    pub networks: Vec<IpNet>,
    /// The subnets that this node holds.
    pub subnets: Vec<IpNet>,
    /// `waiting`, `held`, `reserved`, `lost` (being reclaimed) or `taken` (another node has the subnet).
    pub lease: String,
    /// Seconds until the lease ends if the registry is not reached again.
    pub lease_s: Option<u64>,
    /// Seconds since the subnets are ours by this lease.
    pub lease_age_s: Option<u64>,
    /// URLs of the registry.
    pub registry: Vec<String>,
    /// Whether the registry is in this daemon.
    pub embedded: bool,
    /// Why the registry cannot be reached, if so.
    pub registry_problem: Option<String>,
    /// That this node is in the network no more, by the authority's word or probably, and what to do; also the first of the problems.
    pub removed: Option<String>,
    /// The newest revision of the registry that is known.
    pub registry_revision: Option<i64>,
    /// Seconds since the registry last said something: a change, or all there is.
    pub registry_age_s: Option<u64>,
    /// The epoch of the network's secret.
    pub epoch: Option<u32>,
    /// Where others are told to reach us.
    pub public: Vec<String>,
    /// Whether others cannot call us.
    pub behind_nat: bool,
    /// The other nodes, by name.
    pub nodes: Vec<NodeStatus>,
    /// The clients that this node serves, by name.
    pub clients: Vec<ClientStatus>,
    /// The containers of this node, the oldest first.
    pub containers: Vec<ContainerStatus>,
    /// Records of the registry that are not used.
    pub skipped: u64,
    /// What is wrong, each as a sentence without its full stop.
    pub problems: Vec<String>,
}

/// Another node of the network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its name in its certificate.
    pub name: String,
    /// The number of its certificate.
    pub serial: Option<u64>,
    /// The subnets it holds.
    pub subnets: Vec<IpNet>,
    /// Where it says that it is reached.
    pub endpoints: Vec<String>,
    /// Whether it cannot be called.
    pub behind_nat: bool,
    /// `sealed`, or `plain` (not encrypted).
    pub transport: String,
}

/// A phone or laptop that reaches the network through this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientStatus {
    /// Its name.
    pub name: String,
    /// Its addresses in the network.
    pub addresses: Vec<IpNet>,
    /// Its public key in base64.
    pub public_key: String,
}

/// A container on this host, by one of its devices in the network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    /// Its name, or the first 12 characters of its id where it has none.
    pub name: String,
    /// As whoever made it calls it.
    pub id: String,
    /// By which door it came: `cni`, `docker`, `run` or `vm`.
    pub door: String,
    /// The device inside; of a virtual machine its TAP on the host.
    pub interface: String,
    /// Its addresses, with the prefix length of the node's subnet.
    pub addresses: Vec<IpNet>,
    /// Ports of the host that lead to it, as `192.0.2.1:8080:80/tcp`.
    pub ports: Vec<String>,
    /// Whether it may speak to no other isolated container of this host.
    pub isolated: bool,
    /// When it was made, in seconds since 1970-01-01.
    pub since: u64,
}

/// The virtual network card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// `tun` or `tap`.
    pub mode: String,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Host addresses with the prefix length of their network.
    pub addresses: Vec<IpNet>,
    /// What the kernel leaves to us: `csum`, `tso4`, `tso6`, `uso4`, `uso6`.
    pub offloads: Vec<String>,
    /// Why an offload is missing, if one is.
    pub reason: Option<String>,
}

/// The socket and the threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransportStatus {
    /// The UDP address and port.
    pub listen: SocketAddr,
    /// Pairs of device queue and socket.
    pub workers: usize,
    /// Whether super-packets are used.
    pub offload: bool,
    /// Whether trains of datagrams leave as one message; the kernel may refuse them on a route.
    #[serde(default)]
    pub segmentation: bool,
    /// Microseconds that a worker looks again before it sleeps.
    pub busy_poll_us: u64,
    /// Bytes that the kernel granted each socket for datagrams not yet read.
    pub receive_buffer: u64,
    /// Bytes that the kernel granted each socket for datagrams not yet sent.
    pub send_buffer: u64,
}

/// Another end of the tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its key in base64, if it has one.
    pub public_key: Option<String>,
    /// Where its datagrams go now: address and port.
    pub endpoint: Option<String>,
    /// `sealed`, `wireguard` or `plain`.
    pub transport: String,
    /// Whether packets are encrypted and authenticated on the way.
    pub secure: bool,
    /// `none` (there is none, also because the peer is plain), `handshaking` (we called and have none yet), `up`, or `refused` (the
    /// peer answered that it will have none).
    #[serde(default = "no_session")]
    pub session: String,
    /// Seconds since a handshake was completed, if one ever was.
    #[serde(default)]
    pub handshake_s: Option<u64>,
    /// What encrypts now: `AES-256-GCM` or `ChaCha20-Poly1305`.
    #[serde(default)]
    pub suite: Option<String>,
    /// Why nothing gets through, as a sentence without its full stop.
    #[serde(default)]
    pub problem: Option<String>,
    /// Whether a preshared key protects the session beside the keys.
    #[serde(default)]
    pub preshared_key: bool,
    /// Seconds after which a silent session sends something.
    #[serde(default)]
    pub keepalive_s: Option<u64>,
    /// The longest inner packet that the way to it takes now, in bytes.
    #[serde(default)]
    pub path_mtu: Option<u64>,
    /// Microseconds until it answered the last of our probes that it did answer.
    #[serde(default)]
    pub round_trip_us: Option<u64>,
    /// What lives behind it.
    pub allowed_ips: Vec<IpNet>,
    /// Bytes of inner packets received.
    pub rx_bytes: u64,
    /// Bytes of inner packets sent.
    pub tx_bytes: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
}

/// What a daemon means that knows of no sessions.
fn no_session() -> String {
    "none".into()
}

/// One worker thread.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStatus {
    /// Inner packets from the wire to the device.
    pub rx_packets: u64,
    /// Inner packets from the device to the wire.
    pub tx_packets: u64,
    /// Reads from the socket that brought something.
    pub rx_batches: u64,
    /// Messages given to the socket: datagrams, or trains of them.
    pub tx_batches: u64,
    /// Packets and super-packets read from the device.
    pub device_reads: u64,
    /// Packets and super-packets written to the device.
    pub device_writes: u64,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A daemon with two peers.
    pub(crate) fn sample() -> Status {
        let peer = |name: &str, endpoint: &str, allowed_ip: &str, rx_bytes| PeerStatus {
            name: name.into(),
            public_key: None,
            endpoint: Some(endpoint.into()),
            transport: "plain".into(),
            secure: false,
            session: "none".into(),
            handshake_s: None,
            suite: None,
            problem: None,
            preshared_key: false,
            keepalive_s: None,
            path_mtu: Some(1472),
            round_trip_us: Some(350),
            allowed_ips: vec![allowed_ip.parse().unwrap()],
            rx_bytes,
            tx_bytes: 2 * rx_bytes,
            rx_packets: rx_bytes / 1000,
            tx_packets: rx_bytes / 500,
        };
        Status {
            version: "0.1.0".into(),
            pid: 4711,
            uptime_s: 11_520,
            device: DeviceStatus {
                name: "adit0".into(),
                mode: "tun".into(),
                mtu: 1472,
                addresses: vec!["10.77.0.1/24".parse().unwrap()],
                offloads: vec!["csum".into(), "tso4".into()],
                reason: Some("USO needs Linux 6.2".into()),
            },
            transport: TransportStatus {
                listen: "[::]:7777".parse().unwrap(),
                workers: 2,
                offload: true,
                segmentation: true,
                busy_poll_us: 0,
                receive_buffer: 8 << 20,
                send_buffer: 4 << 20,
            },
            peers: vec![
                peer("berlin", "192.0.2.2:7777", "10.77.0.2/32", 1_288_490_189),
                peer("oslo", "198.51.100.3:7777", "10.42.0.0/16", 0),
            ],
            workers: vec![WorkerStatus { rx_packets: 1, ..WorkerStatus::default() }; 2],
            drops: [("no_route".to_owned(), 17)].into(),
            network: None,
            switch: None,
        }
    }

    /// A node of a network.
    pub(crate) fn node() -> Status {
        let net = |text: &str| vec![text.parse().unwrap()];
        let network = NetworkStatus {
            id: "00112233445566778899aabbccddeeff".into(),
            node: "oslo".into(),
            serial: Some(1),
            trust: "authority".into(),
            networks: net("10.42.0.0/16"),
            subnets: net("10.42.7.0/24"),
            lease: "held".into(),
            lease_s: Some(86_000),
            registry: vec!["https://192.0.2.1:7780".into()],
            epoch: Some(2),
            public: vec!["192.0.2.7:7777".into()],
            nodes: vec![NodeStatus {
                name: "berlin".into(),
                serial: Some(2),
                subnets: net("10.42.8.0/24"),
                endpoints: vec!["192.0.2.2:7777".into()],
                behind_nat: false,
                transport: "sealed".into(),
            }],
            clients: vec![ClientStatus {
                name: "phone".into(),
                addresses: net("10.42.7.254/32"),
                public_key: "x".into(),
            }],
            containers: vec![ContainerStatus {
                name: "web".into(),
                id: "0123456789abcdef".into(),
                door: "cni".into(),
                interface: "eth0".into(),
                addresses: net("10.42.7.2/24"),
                ports: vec!["8080:80/tcp".into(), "192.0.2.1:53:53/udp".into()],
                isolated: false,
                since: 1_795_000_000,
            }],
            ..NetworkStatus::default()
        };
        Status { network: Some(network), ..sample() }
    }

    #[test]
    fn the_schema_is_stable() {
        let json = serde_json::to_value(sample()).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&json), ["device", "drops", "peers", "pid", "transport", "uptime_s", "version", "workers"],);
        assert_eq!(keys(&json["device"]), ["addresses", "mode", "mtu", "name", "offloads", "reason"]);
        assert_eq!(
            keys(&json["transport"]),
            ["busy_poll_us", "listen", "offload", "receive_buffer", "segmentation", "send_buffer", "workers"],
        );
        assert_eq!(
            keys(&json["peers"][0]),
            [
                "allowed_ips",
                "endpoint",
                "handshake_s",
                "keepalive_s",
                "name",
                "path_mtu",
                "preshared_key",
                "problem",
                "public_key",
                "round_trip_us",
                "rx_bytes",
                "rx_packets",
                "secure",
                "session",
                "suite",
                "transport",
                "tx_bytes",
                "tx_packets",
            ],
        );
        assert_eq!(
            keys(&json["workers"][0]),
            ["device_reads", "device_writes", "rx_batches", "rx_packets", "tx_batches", "tx_packets"]
        );
        assert_eq!(json["transport"]["listen"], "[::]:7777");
        assert_eq!(json["device"]["addresses"][0], "10.77.0.1/24");
        assert_eq!(json["drops"]["no_route"], 17);
    }

    #[test]
    fn a_newer_daemon_may_say_more() {
        let mut json = serde_json::to_value(sample()).unwrap();
        json["peers"][0]["colour"] = 5.into();
        json["later"] = true.into();
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), sample());
    }

    #[test]
    fn an_older_daemon_may_say_less() {
        let mut json = serde_json::to_value(sample()).unwrap();
        json["transport"].as_object_mut().unwrap().remove("segmentation");
        let added =
            ["session", "handshake_s", "suite", "problem", "preshared_key", "keepalive_s", "path_mtu", "round_trip_us"];
        for peer in json["peers"].as_array_mut().unwrap() {
            peer.as_object_mut().unwrap().retain(|key, _| !added.contains(&key.as_str()));
        }
        let mut expected = sample();
        expected.transport.segmentation = false;
        expected.peers.iter_mut().for_each(|peer| (peer.path_mtu, peer.round_trip_us) = (None, None));
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), expected);
    }

    #[test]
    fn the_schema_is_documented() {
        let text = include_str!("../../../../docs/STATUS.md");
        fn check(text: &str, value: &serde_json::Value) {
            match value {
                serde_json::Value::Object(fields) => {
                    for (key, value) in fields {
                        assert!(key == "no_route" || text.contains(&format!("`{key}`")), "{key} is not documented");
                        check(text, value);
                    }
                }
                serde_json::Value::Array(items) => items.iter().for_each(|item| check(text, item)),
                _ => {}
            }
        }
        check(text, &serde_json::to_value(node()).unwrap());
        for reason in tunnel::Reason::ALL {
            assert!(text.contains(&format!("`{reason}`")), "{reason} is not documented");
        }
    }
}
