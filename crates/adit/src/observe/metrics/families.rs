//! All metrics that there are. docs/METRICS.md explains each, and a test sees to it that it does.

use super::exposition::{Family, Kind};

/// Makes a family of each line, and a list of them all.
macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal $([$unit:literal])? ($($label:literal)*) $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $constant: Family = Family {
                name: $name,
                kind: Kind::$kind,
                unit: families!(@ $($unit)?),
                help: $help,
                labels: &[$($label),*],
            };
        )*
        /// In the order in which they are told.
        pub static ALL: &[&Family] = &[$(&$constant),*];
    };
    (@ $unit:literal) => { Some($unit) };
    (@) => { None };
}

families! {
    // ---- the daemon ----
    BUILD: Info "adit_build" ("version") "The version of the daemon";
    START_TIME: Gauge "adit_start_time_seconds" ["seconds"] () "When the daemon began to set up, since 1970-01-01";
    DEVICE: Info "adit_device" ("device" "mode" "node") "The virtual network card, and what this node is called in its network";
    DEVICE_MTU: Gauge "adit_device_mtu_bytes" ["bytes"] () "The largest packet of the device";
    DEVICE_OFFLOAD: Gauge "adit_device_offload" ("offload") "Whether the kernel leaves this to us (1) or not (0)";
    SOCKET_BUFFER: Gauge "adit_socket_buffer_bytes" ["bytes"] ("direction") "What the kernel granted each socket for datagrams that wait";
    // ---- what was moved, by worker ----
    WORKER_PACKETS: Counter "adit_worker_packets" ("worker" "direction") "Packets inside the tunnel that a worker moved";
    WORKER_BYTES: Counter "adit_worker_bytes" ["bytes"] ("worker" "direction") "Bytes of packets inside the tunnel that a worker moved";
    WORKER_DEVICE_READS: Counter "adit_worker_device_reads" ("worker") "Packets and super-packets read from the device";
    WORKER_DEVICE_WRITES: Counter "adit_worker_device_writes" ("worker") "Packets and super-packets written to the device";
    WORKER_RECEIVES: Counter "adit_worker_socket_receives" ("worker") "Datagrams and runs of them read from the socket";
    WORKER_SENDS: Counter "adit_worker_socket_sends" ("worker") "Datagrams and trains of them given to the socket";
    DEVICE_BATCH: Histogram "adit_worker_device_batch_packets" ("worker") "Packets and super-packets that one turn read from the device";
    RECEIVE_BATCH: Histogram "adit_worker_receive_batch_datagrams" ("worker") "Datagrams that one system call read from the socket";
    SEND_BATCH: Histogram "adit_worker_send_batch_datagrams" ("worker") "Datagrams that were given to the socket at once";
    TURN: Histogram "adit_worker_turn_seconds" ["seconds"] ("worker") "How long a turn of a worker took in which something came";
    DROPPED: Counter "adit_dropped_packets" ("reason") "Packets that were dropped";
    // ---- by peer ----
    PEERS: Gauge "adit_peers" ("session") "Peers, by what there is with them";
    PEER: Info "adit_peer" ("peer" "transport") "How packets travel to a peer";
    PEER_PACKETS: Counter "adit_peer_packets" ("peer" "direction") "Packets inside the tunnel from and to a peer";
    PEER_BYTES: Counter "adit_peer_bytes" ["bytes"] ("peer" "direction") "Bytes of packets inside the tunnel from and to a peer";
    PEER_WIRE_BYTES: Counter "adit_peer_wire_bytes" ["bytes"] ("peer" "direction") "Bytes of authentic datagrams from a peer, and of datagrams to it, without IP and UDP headers";
    PEER_SESSION: Gauge "adit_peer_session" ("peer" "session") "Whether this is what there is with an encrypted peer (1) or not (0)";
    PEER_HANDSHAKE: Gauge "adit_peer_last_handshake_seconds" ["seconds"] ("peer") "When the last handshake with a peer was complete, since 1970-01-01";
    PEER_MTU: Gauge "adit_peer_path_mtu_bytes" ["bytes"] ("peer") "The longest packet inside the tunnel that the way to a peer takes";
    PEER_ROUND_TRIP: Gauge "adit_peer_round_trip_seconds" ["seconds"] ("peer") "How long a peer took to answer the last of our probes that it answered";
    // ---- sessions ----
    HANDSHAKES: Counter "adit_handshakes" () "Handshakes after which there was a session";
    HANDSHAKE_FAILURES: Counter "adit_handshake_failures" ("cause") "Handshakes that came to nothing";
    ROUND_TRIP: Histogram "adit_round_trip_seconds" ["seconds"] () "How long peers took to answer our probes";
    GAPS: Counter "adit_clock_gaps" () "Times that the machine slept or its clock was set, which ends all sessions";
    // ---- keeping things as they should be ----
    REPAIRS: Counter "adit_repairs" ("what") "Changes that brought something back that somebody had changed";
    CHANGES: Counter "adit_configuration_changes" () "Other configurations that were put into force, also as nodes come and go";
    PROBLEMS: Gauge "adit_problems" () "Problems that adit status names";
    LOG_LINES: Counter "adit_log_lines" ("level") "Lines written to the log";
    LOG_WITHHELD: Counter "adit_log_withheld_lines" ("level") "Lines not written since their cause had written enough";
    // ---- the switch of mode tap ----
    SWITCH_MACS: Gauge "adit_switch_macs" ("side") "Link-layer addresses that are known, by where they are";
    SWITCH_NEIGHBOURS: Gauge "adit_switch_neighbours" () "IP addresses whose link-layer address is known";
    SWITCH_MOVES: Counter "adit_switch_moves" () "Times that a link-layer address went from one side or peer to another";
    SWITCH_REFUSED: Counter "adit_switch_refused_macs" () "Times that there was no room for a link-layer address";
    SWITCH_FLOODED: Counter "adit_switch_flooded_frames" () "Frames of this side that went to all peers";
    SWITCH_ANSWERED: Counter "adit_switch_answered_questions" () "Questions for link-layer addresses that were answered from what is known";
    // ---- the network ----
    REGISTRY_CONNECTED: Gauge "adit_registry_connected" () "Whether the registry is reached (1) or not (0)";
    REGISTRY_REVISION: Gauge "adit_registry_revision" () "The newest revision of the registry that is known here";
    REGISTRY_AGE: Gauge "adit_registry_age_seconds" ["seconds"] () "Time since the registry last said something";
    REGISTRY_SKIPPED: Gauge "adit_registry_skipped_records" () "Records of the registry that are not used";
    LEASE: Gauge "adit_lease" ("state") "Whether this is what is with the subnet (1) or not (0)";
    LEASE_AGE: Gauge "adit_lease_age_seconds" ["seconds"] () "Time since the subnet is ours by this lease";
    LEASE_LEFT: Gauge "adit_lease_remaining_seconds" ["seconds"] () "Time until the lease ends if the registry is not reached again";
    NODES: Gauge "adit_nodes" () "Other nodes of the network";
    CLIENTS: Gauge "adit_clients" () "Clients that this node serves";
    CONTAINERS: Gauge "adit_containers" ("door") "Devices of containers on this node, by the door that they came through";
    SECRET_EPOCH: Gauge "adit_secret_epoch" () "The epoch of the network's secret";
    NAMES: Counter "adit_names_questions" ("result") "Questions for names, by what became of them";
}
