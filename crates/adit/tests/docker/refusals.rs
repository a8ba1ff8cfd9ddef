//! What cannot be, said with what to type.

use std::net::TcpListener;

use crate::bed::Bed;
use crate::bed::fake::FakeHost;
use crate::bed::image::Image;
use crate::engine::{Engine, await_traces, plugin, records, traces};

#[test]
fn what_is_not_the_nodes_is_refused_with_what_to_type() {
    let bed = Bed::new(1);
    let host = FakeHost::new(bed.host(1));
    host.init(&[]);
    let engine = Engine::start(&host, &[]);
    engine.import(&Image::new());
    let create = |options: &[&str]| engine.refused(&[&["network", "create", "-d", "adit"], options, &["web"]].concat());
    let _plugin = plugin(&host, &[]);
    let said = create(&["--ipam-driver", "adit"]);
    assert!(said.contains("no node of a network runs here") && said.contains("adit up"), "{said}");

    let _node = host.up();
    let subnet = host.subnet_env("FLANNEL_SUBNET").replace(".1/24", ".0/24");
    let command = "`docker network create -d adit --ipam-driver adit NAME`";
    for (options, part) in [
        (&["--ipam-driver", "adit", "--subnet", "10.99.0.0/24"][..], "10.99.0.0/24 is not this node's"),
        (&[], "are not of this node"),
        (&["--subnet", &subnet], "are not of this node"),
        (&["--ipam-driver", "adit", "--ipv6"], "leave --ipv6 out"),
        (
            &["--ipam-driver", "adit", "--subnet", &subnet, "--ip-range", &subnet.replace("/24", "/28")],
            "leave --ip-range out",
        ),
        (&["--ipam-driver", "adit", "--ipam-opt", "x=y"], "leave --ipam-opt out"),
        (
            &["--ipam-driver", "adit", "--subnet", &subnet, "--gateway", &subnet.replace(".0/24", ".9")],
            "leave --gateway out",
        ),
    ] {
        let said = create(options);
        assert!(said.contains(part) && said.contains(command) && said.lines().count() == 1, "{options:?}: {said}");
    }
    for (options, part) in [
        (&["-o", "colour=red"][..], "there are isolated and mtu"),
        (&["-o", "isolated=maybe"], "write -o isolated=true"),
        (&["-o", "mtu=9000"], "write a number from 1280 to"),
    ] {
        let said = create(&[&["--ipam-driver", "adit"], options].concat());
        assert!(said.contains(part), "{options:?}: {said}");
    }
    assert_eq!(records(&host), 0, "nothing is kept of what was refused");

    // Several networks share the subnet; a container may ask for an address where the network named the subnet.
    engine.network("web", &[]);
    engine.network(
        "fixed",
        &["--subnet", &subnet, "--aux-address", &format!("router={}", subnet.replace(".0/24", ".8"))],
    );
    let before = traces(&host);
    let refused =
        |options: &[&str]| engine.refused(&[&["run", "--rm"], options, &["localhost/busybox:1", "true"]].concat());
    let held = subnet.replace(".0/24", ".77");
    let fixed = engine.container("fixed", &["--network", "fixed", "--ip", &held, "-p", "7000:80"]);
    assert_eq!(fixed.address().to_string(), held);
    for (options, part) in [
        (&["--network", "fixed", "--ip", &held][..], "is another's already"),
        (&["--network", "fixed", "--ip", &subnet.replace(".0/24", ".8")], "is another's already"),
        (&["--network", "fixed", "--ip", &subnet.replace(".0/24", ".255")], "is no container's"),
        (&["--network", "web", "-p", "7000:80"], "the container"),
        (&["--network", "web", "-p", "7001:80/sctp"], "sctp"),
    ] {
        let said = refused(options);
        assert!(said.contains(part), "{options:?}: {said}");
    }
    let bound = bed.host(1).namespace.run(|| TcpListener::bind("0.0.0.0:7002")).unwrap().unwrap();
    let said = refused(&["--network", "web", "-p", "7002:80"]);
    assert!(said.contains("a program of this host has it"), "{said}");
    drop(bound);
    fixed.remove();
    await_traces(&host, &before);
    assert_eq!(records(&host), 1, "the address that no container is to get");
    engine.docker(&["network", "rm", "web", "fixed"]);
    assert_eq!(records(&host), 0);
}
