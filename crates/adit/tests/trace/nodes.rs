//! Traces between containers of nodes, of every door.

use std::process::{Child, Stdio};

use crate::bed::Bed;
use crate::bed::attached::{attach, directories};
use crate::bed::wait_for;
use crate::scene::{Traced, observe};
use crate::world::Node;

/// A container of `adit run`, which ends with this.
struct Sleeping(Child);

impl Drop for Sleeping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_probe_goes_from_container_to_container() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let token = nodes[0].init(&["--uses", "2"]);
    nodes[0].configure(observe(true));
    let mut daemons = vec![nodes[0].up()];
    nodes[1].join(&token);
    nodes[1].configure(observe(true));
    daemons.push(nodes[1].up());
    daemons.iter().for_each(|daemon| daemon.await_nodes(1));
    let web = attach(nodes[0].host, &directories(nodes[0].directory.path()), "web");
    let other = attach(nodes[1].host, &directories(nodes[1].directory.path()), "other");
    let destination = other.ip(false).to_string();
    let mut run = nodes[0].command(&["run", "--name", "shell", "--", "sleep", "1000"]);
    run.stdout(Stdio::null()).stderr(Stdio::null());
    let _shell = Sleeping(nodes[0].host.namespace.run(|| run.spawn()).unwrap().unwrap());
    wait_for("the container shell", || nodes[0].adit(&["ps"]).contains("shell").then_some(()));

    for from in ["web", "shell", "id-of-web"] {
        let told = nodes[0].try_adit(&["trace", &destination, "--from", from, "--json", "--count", "2"]);
        let traced = Traced::of(&told);
        assert_eq!(traced.answered(), [true; 2], "{from}: {}", traced.json);
        let name = if from == "id-of-web" { "web" } else { from };
        let there = traced.places(1, "there", "host1");
        // Out of the container, by its veth and the bridge into the stack, through the tunnel, and by bridge and veth into the other.
        assert_eq!(there[0], format!("host1 {name}:eth0 out"), "{there:?}");
        let bridge = |host: &str, way: &str| format!("{host} adit0-br {way}");
        let veth = |host: &str, way: &str| {
            there.iter().position(|place| place.starts_with(&format!("{host} ad")) && place.ends_with(way))
        };
        assert!(veth("host1", " in").is_some() && veth("host2", " out").is_some(), "{there:?}");
        let _ = bridge;
        for step in ["read", "sealed", "sent"] {
            assert!(there.contains(&format!("host1 {step}")), "{there:?}");
        }
        for step in ["received", "opened", "written"] {
            assert!(there.contains(&format!("host2 {step}")), "{there:?}");
        }
        assert_eq!(traced.json["from"], format!("{name} on host1"));
    }
    // A container of this host is known by its name.
    let told = nodes[0].try_adit(&["trace", "web", "--json", "--count", "1"]);
    assert_eq!(Traced::of(&told).answered(), [true]);
    drop((web, other));
}
