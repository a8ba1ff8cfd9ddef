//! `wg-quick`, with adit in the place of its kernel module.

use std::fs;

use crate::bed::{Bed, Family, wait_for};
use crate::scene::{Machine, Pair, Program, keys};

/// A host with files of wg-quick, and another end that answers.
struct Scene {
    // What runs ends before the bed does.
    machine: Machine,
    other: Machine,
    private: String,
    other_public: String,
    bed: Bed,
}

impl Scene {
    /// The other end has 10.77.0.2, fd77::2, and 198.51.100.1 and 2001:db8:99::1 far behind it.
    fn new(program: Program) -> Self {
        let bed = Bed::new(2);
        let [machine, other] = [1, 2].map(|number| Machine::new(bed.host(number)));
        let [(private, public), (other_private, other_public)] = [keys(), keys()];
        other.ok(&format!("{} wg0", program.name()));
        wait_for("the socket", || other.run("wg show wg0").status.success().then_some(()));
        let file = other.write(
            "wg0.conf",
            &format!(
                "[Interface]\nPrivateKey = {other_private}\nListenPort = 51820\n[Peer]\nPublicKey = {public}\n\
                 AllowedIPs = 10.77.0.1/32, fd77::1/128\n"
            ),
        );
        other.wg(&format!("setconf wg0 {file}"));
        other.ok("ip addr add 10.77.0.2/24 dev wg0; ip addr add fd77::2/64 dev wg0 nodad; ip link set wg0 up mtu 1420");
        other.ok("ip addr add 198.51.100.1/32 dev lo; ip addr add 2001:db8:99::1/128 dev lo nodad");
        bed.host(2).await_address("2001:db8:99::1".parse().unwrap());
        Self { machine, other, private, other_public, bed }
    }

    /// The file `wg0.conf`, with these lines for the device and for the peer.
    fn write(&self, device: &str, peer: &str) -> String {
        let Self { private, other_public, .. } = self;
        self.machine.write(
            "wg0.conf",
            &format!(
                "[Interface]\nPrivateKey = {private}\nAddress = 10.77.0.1/24, fd77::1/64\n{device}\n\n[Peer]\n\
                 PublicKey = {other_public}\nEndpoint = 192.0.2.2:51820\n{peer}\n"
            ),
        )
    }

    /// Runs wg-quick, which is to succeed; answers what it did.
    #[track_caller]
    fn quick(&self, verb: &str, file: &str) -> String {
        self.machine
            .ok(&format!("export WG_QUICK_USERSPACE_IMPLEMENTATION=adit-wireguard; wg-quick {verb} {file} 2>&1"))
    }

    fn state(&self) -> String {
        self.machine.ok(
            "ip link show | grep -v wg0 | sed 's/state.*//'; ip addr | grep inet; ip rule; ip -6 rule; ip route show table all; \
             ip -6 route show table all; nft list ruleset; ls /run/wireguard 2> /dev/null || true; ls /run/adit 2> /dev/null || true",
        )
    }
}

fn carries(program: Program) {
    let scene = Scene::new(program);
    let machine = &scene.machine;
    let before = scene.state();
    let file =
        scene.write("ListenPort = 51821", "AllowedIPs = 10.77.0.0/24, fd77::/64, 198.51.100.0/24, 2001:db8:99::/64");
    let said = scene.quick("up", &file);
    assert!(said.contains("adit-wireguard wg0"), "{said}");
    machine.ok("ping -c 3 -i 0.2 -W 5 10.77.0.2; ping -c 3 -i 0.2 -W 5 fd77::2");
    machine.ok("ping -c 1 -W 5 198.51.100.1; ping -c 1 -W 5 2001:db8:99::1");
    scene.other.ok("ping -c 3 -i 0.2 -W 5 10.77.0.1; ping -c 3 -i 0.2 -W 5 fd77::1");
    // wg-quick asks where the peer is for the largest packet: 1500 - 80.
    assert!(machine.ok("ip link show wg0").contains(" mtu 1420 "));
    let again = machine.run(&format!("WG_QUICK_USERSPACE_IMPLEMENTATION=adit-wireguard wg-quick up {file}"));
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("already exists"));
    scene.quick("down", &file);
    machine.await_gone("wg0");
    wait_for("everything to be as it was", || (scene.state() == before).then_some(()));
}

#[test]
fn up_and_down_between_two_of_ours() {
    carries(Program::Adit);
}

#[test]
fn up_and_down_with_another_implementation() {
    carries(Program::WireguardGo);
}

#[test]
fn a_table_of_its_own_or_none() {
    let scene = Scene::new(Program::Adit);
    let machine = &scene.machine;
    let nets = "AllowedIPs = 10.77.0.0/24, 198.51.100.0/24";
    let file = scene.write("Table = off\nMTU = 1300", nets);
    scene.quick("up", &file);
    assert!(!machine.ok("ip route show table all dev wg0").contains("198.51.100.0/24"));
    assert!(machine.ok("ip link show wg0").contains(" mtu 1300 "));
    machine.ok("ping -c 1 -W 5 10.77.0.2");
    scene.quick("down", &file);
    machine.await_gone("wg0");
    let file = scene.write("Table = 1234", nets);
    scene.quick("up", &file);
    assert!(machine.ok("ip route show table 1234").contains("198.51.100.0/24 dev wg0"));
    scene.quick("down", &file);
    machine.await_gone("wg0");
}

/// Everything goes through the tunnel but its own datagrams, which the mark tells by.
fn takes_everything(program: Program) {
    let scene = Scene::new(program);
    let machine = &scene.machine;
    machine.ok("ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2");
    // Without the tunnel this would go there in the clear, and be answered.
    let before = scene.state();
    let file = scene.write("", "AllowedIPs = 0.0.0.0/0, ::/0");
    let said = scene.quick("up", &file);
    assert!(said.contains("wg set wg0 fwmark 51820"), "{said}");
    assert_eq!(machine.wg("show wg0 fwmark"), "0xca6c");
    let count = || machine.table("show wg0 transfer")[0][2].parse::<u64>().unwrap();
    for address in ["198.51.100.1", "2001:db8:99::1", "10.77.0.2", "fd77::2"] {
        let sent = count();
        machine.ok(&format!("ping -c 5 -i 0.2 -W 5 {address}"));
        assert!(count() - sent >= 5 * 96, "{address} goes through the tunnel");
    }
    machine.flood("wg0", 100, "198.51.100.1");
    machine.flood("wg0", 100, "2001:db8:99::1");
    scene.quick("down", &file);
    machine.await_gone("wg0");
    wait_for("everything to be as it was", || (scene.state() == before).then_some(()));
    drop(scene.bed);
}

#[test]
fn a_default_route_between_two_of_ours() {
    takes_everything(Program::Adit);
}

#[test]
fn a_default_route_with_another_implementation() {
    takes_everything(Program::WireguardGo);
}

#[test]
fn what_changed_is_saved() {
    let scene = Scene::new(Program::Adit);
    let machine = &scene.machine;
    let file = scene.write("SaveConfig = true\nListenPort = 51821", "AllowedIPs = 10.77.0.0/24");
    scene.quick("up", &file);
    let (_, stranger) = keys();
    machine.wg(&format!("set wg0 listen-port 5555 peer {stranger} allowed-ips 10.9.0.0/16 persistent-keepalive 7"));
    scene.quick("save", &file);
    let text = fs::read_to_string(&file).unwrap();
    for line in [
        "Address = 10.77.0.1/24",
        "Address = fd77::1/64",
        "SaveConfig = true",
        "ListenPort = 5555",
        &format!("PrivateKey = {}", scene.private),
        &format!("PublicKey = {stranger}"),
        "AllowedIPs = 10.9.0.0/16",
        "PersistentKeepalive = 7",
        "Endpoint = 192.0.2.2:51820",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    // What the file says is also what `down` saves, and `strip` leaves what `wg` reads.
    machine.wg(&format!("set wg0 peer {stranger} remove"));
    scene.quick("down", &file);
    machine.await_gone("wg0");
    assert!(!fs::read_to_string(&file).unwrap().contains(&stranger));
    let stripped = scene.quick("strip", &file);
    assert!(stripped.contains("PrivateKey") && !stripped.contains("Address"), "{stripped}");
    scene.quick("up", &file);
    let path = machine.write("stripped", &stripped);
    machine.wg(&format!("syncconf wg0 {path}"));
    machine.ok("ping -c 1 -W 5 10.77.0.2");
    scene.quick("down", &file);
    machine.await_gone("wg0");
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let scene = Scene::new(Program::Adit);
    let machine = &scene.machine;
    let before = scene.state();
    let file = scene.write("ListenPort = 51821", "AllowedIPs = 10.77.0.0/24");
    let text = fs::read_to_string(&file).unwrap().replace("Address = 10.77.0.1/24", "Address = 10.77.0.1/240");
    fs::write(&file, text).unwrap();
    machine.fails(&format!("WG_QUICK_USERSPACE_IMPLEMENTATION=adit-wireguard wg-quick up {file}"));
    machine.await_gone("wg0");
    wait_for("everything to be as it was", || (scene.state() == before).then_some(()));
}

#[test]
fn up_and_down_many_times() {
    let scene = Scene::new(Program::Adit);
    let file = scene.write("", "AllowedIPs = 10.77.0.0/24, 0.0.0.0/0");
    for _ in 0..10 {
        scene.quick("up", &file);
        scene.machine.ok("ping -c 1 -W 5 10.77.0.2");
        scene.quick("down", &file);
        // As wg-quick has it, the name is free at once for the next.
    }
    scene.machine.await_gone("wg0");
}

#[test]
fn family_of_the_underlay_may_be_either() {
    let pair = Pair::new(Program::Adit, Family::V6);
    pair.ping(1, Family::V4);
    pair.ping(2, Family::V6);
    assert_eq!(pair.shown_endpoint(1), "[2001:db8::2]:51822");
}
