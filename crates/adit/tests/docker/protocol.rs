//! What an engine may ask our server, also what no engine asks in a good order: over its socket, without an engine.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use adit::container::Stage;
use serde_json::{Value, json};

use crate::bed::{Bed, wait_for};
use crate::place::{Place, endpoint};

#[test]
fn the_way_of_a_container_in_both_families() {
    let bed = Bed::new(1);
    let place = Place::new(bed.host(1));
    let server = place.start(&[]);
    assert_eq!(fs::metadata(place.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(server.ask("Plugin.Activate", Value::Null)["Implements"], json!(["NetworkDriver", "IpamDriver"]));
    assert_eq!(server.ask("NetworkDriver.GetCapabilities", Value::Null)["Scope"], "local");
    assert_eq!(server.ask("IpamDriver.GetDefaultAddressSpaces", Value::Null)["LocalDefaultAddressSpace"], "adit");
    assert_eq!(server.ask("IpamDriver.GetCapabilities", json!({}))["RequiresMACAddress"], false);
    for (pool, gateway, v6) in [("10.42.7.0/24", "10.42.7.1/24", false), ("fd77:0:0:7::/64", "fd77:0:0:7::1/64", true)]
    {
        let request = json!({ "AddressSpace": "adit", "Pool": "", "SubPool": "", "Options": null, "V6": v6 });
        let answer = server.ask("IpamDriver.RequestPool", request);
        assert_eq!((&answer["Pool"], &answer["PoolID"]), (&json!(pool), &json!(pool)));
        let options = json!({ "RequestAddressType": "com.docker.network.gateway" });
        let request = json!({ "PoolID": pool, "Address": "", "Options": options });
        assert_eq!(server.ask("IpamDriver.RequestAddress", request)["Address"], gateway);
    }
    assert_eq!(place.records(), 0, "the gateway is the node's");
    server.network("n1", true);

    let (v4, v6) = (server.address("10.42.7.0/24"), server.address("fd77:0:0:7::/64"));
    assert_eq!((v4.as_str(), v6.as_str(), place.records()), ("10.42.7.2/24", "fd77:0:0:7::2/64", 2));
    let made = server.endpoint("n1", "e1", &v4, &v6);
    assert_eq!(made["Interface"], json!({ "MacAddress": "0a:58:0a:2a:07:02" }), "what was given is not said again");
    // An engine that did not hear the answer asks once more.
    assert_eq!(server.endpoint("n1", "e1", &v4, &v6), made);
    let [record] = &place.store().read_all().unwrap()[..] else { panic!("one record has both addresses") };
    assert_eq!((record.stage, record.addresses.len()), (Stage::Made, 2));

    let joined = server
        .ask("NetworkDriver.Join", json!({ "NetworkID": "n1", "EndpointID": "e1", "SandboxKey": "/x", "Options": {} }));
    let device = joined["InterfaceName"]["SrcName"].as_str().unwrap();
    assert!(place.host.netlink().link(device).unwrap().is_some(), "{device}");
    assert_eq!((&joined["Gateway"], &joined["GatewayIPv6"]), (&json!("10.42.7.1"), &json!("fd77:0:0:7::1")));
    assert_eq!(
        (&joined["InterfaceName"]["DstPrefix"], &joined["DisableGatewayService"]),
        (&json!("eth"), &json!(false))
    );
    assert_eq!(server.ask("NetworkDriver.EndpointOperInfo", endpoint("n1", "e1"))["Value"], json!({}));

    let ports = json!([{ "Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080 },
        { "Proto": 17, "IP": "", "Port": 53, "HostIP": "192.0.2.1", "HostPort": 0, "HostPortEnd": 0 }]);
    let external = json!({ "NetworkID": "n1", "EndpointID": "e1", "Options": { "com.docker.network.portmap": ports } });
    let published = || place.store().read_all().unwrap()[0].ports.clone();
    server.ask("NetworkDriver.ProgramExternalConnectivity", external.clone());
    let first = published();
    assert_eq!(first.len(), 2);
    server.ask("NetworkDriver.ProgramExternalConnectivity", external);
    assert_eq!(published(), first, "a port that was left to us stays");
    server.ask("NetworkDriver.RevokeExternalConnectivity", endpoint("n1", "e1"));
    assert!(published().is_empty());

    for _ in 0..2 {
        server.ask("NetworkDriver.Leave", endpoint("n1", "e1"));
        server.ask("NetworkDriver.DeleteEndpoint", endpoint("n1", "e1"));
        server.ask("IpamDriver.ReleaseAddress", json!({ "PoolID": "10.42.7.0/24", "Address": "10.42.7.2" }));
        server.ask("NetworkDriver.DeleteNetwork", json!({ "NetworkID": "n1" }));
        server.ask("IpamDriver.ReleasePool", json!({ "PoolID": "10.42.7.0/24" }));
    }
    assert_eq!(place.records(), 0);
    let links = place.host.netlink().links().unwrap();
    assert!(links.iter().all(|link| matches!(link.name.as_str(), "lo" | "under0")), "{links:?}");
    server.end();
    assert!(!place.socket().exists() && !place.directory.path().join("state/adit0.docker.json").exists());
}

#[test]
fn an_engine_that_compares_pools_with_routes_gets_one_that_it_takes() {
    let bed = Bed::new(1);
    let place = Place::new(bed.host(1));
    let server = place.start(&[]);
    let pool = |v6: bool| {
        let request = json!({ "AddressSpace": "adit", "Pool": "", "SubPool": "", "Options": {}, "V6": v6 });
        server.ask("IpamDriver.RequestPool", request)
    };
    for (v6, real, any) in [(false, "10.42.7.0/24", "0.0.0.0/0"), (true, "fd77:0:0:7::/64", "::/0")] {
        assert_eq!(pool(v6)["Pool"], real);
        assert_eq!(pool(v6), json!({ "PoolID": real, "Pool": any, "Data": {} }), "the first one was not taken");
        // It gives back what it did not take, and goes on.
        server.ask("IpamDriver.ReleasePool", json!({ "PoolID": real }));
        assert_eq!(pool(v6)["Pool"], real, "the next network");
        let options = json!({ "RequestAddressType": "com.docker.network.gateway" });
        server.ask("IpamDriver.RequestAddress", json!({ "PoolID": real, "Options": options }));
        assert_eq!(pool(v6)["Pool"], real, "the next but one");
    }
}

#[test]
fn what_an_engine_forgot_is_removed_when_it_starts() {
    let bed = Bed::new(1);
    let place = Place::new(bed.host(1));
    let server = place.start(&[]);
    // One address that no container is to get, one of a container that never came, and a container.
    let request = json!({ "PoolID": "10.42.7.0/24", "Address": "10.42.7.9", "Options": null });
    server.ask("IpamDriver.RequestAddress", request);
    let aux = json!({ "router": "10.42.7.9/24" });
    let data = json!([{ "AddressSpace": "adit", "Pool": "10.42.7.0/24", "AuxAddresses": aux }]);
    server.ask(
        "NetworkDriver.CreateNetwork",
        json!({ "NetworkID": "n1", "Options": {}, "IPv4Data": data, "IPv6Data": [] }),
    );
    let address = server.address("10.42.7.0/24");
    server.endpoint("n1", "e1", &address, "");
    server.address("10.42.7.0/24");
    assert_eq!(place.records(), 3);
    server.ask("Plugin.Activate", Value::Null);
    assert_eq!(place.records(), 2);
    // Its device went with its namespace, as at a restart of the host.
    let record = place.store().read_all().unwrap().into_iter().find(|record| record.stage == Stage::Made).unwrap();
    let link = place.host.netlink().existing_link(&record.host_interface).unwrap();
    place.host.netlink().delete_link(link.index).unwrap();
    drop(server);
    let server = place.start(&[]);
    wait_for("one record", || (place.records() == 1).then_some(()));
    server.ask("NetworkDriver.DeleteEndpoint", endpoint("n1", "e1"));
    server.ask("IpamDriver.ReleaseAddress", json!({ "PoolID": "10.42.7.0/24", "Address": "10.42.7.9" }));
    assert_eq!(place.records(), 0);
}

#[test]
fn a_node_that_has_moved_says_how_to_make_the_network_anew() {
    let bed = Bed::new(1);
    let place = Place::new(bed.host(1));
    let server = place.start(&[]);
    server.network("n1", false);
    place.write(&["10.42.9.0/24"]);
    let said = server.refused("IpamDriver.RequestAddress", json!({ "PoolID": "10.42.7.0/24", "Address": "" }));
    assert!(
        said.contains("had 10.42.7.0/24, and now it has 10.42.9.0/24") && said.contains("docker network rm"),
        "{said}"
    );
    let interface = json!({ "Address": "10.42.7.2/24" });
    let request = json!({ "NetworkID": "n1", "EndpointID": "e1", "Interface": interface });
    let said = server.refused("NetworkDriver.CreateEndpoint", request.clone());
    assert!(said.contains("now it has 10.42.9.0/24"), "{said}");
    fs::remove_file(place.directories().runtime.join("adit0.node")).unwrap();
    let said = server.refused("NetworkDriver.CreateEndpoint", request);
    assert!(said.contains("no node of a network runs here"), "{said}");
    // What is removed needs no node.
    server.ask("NetworkDriver.DeleteEndpoint", endpoint("n1", "e1"));
    server.ask("NetworkDriver.DeleteNetwork", json!({ "NetworkID": "n1" }));
}

#[test]
fn a_node_that_goes_for_good_takes_all_of_it_along() {
    let bed = Bed::new(1);
    let place = Place::new(bed.host(1));
    let server = place.start(&[]);
    server.network("n1", false);
    let address = server.address("10.42.7.0/24");
    server.endpoint("n1", "e1", &address, "");
    server.address("10.42.7.0/24");
    drop(server);
    let removed = place.host.namespace.run(|| adit::container::remove_all(&place.directories(), "adit0"));
    assert!(!removed.unwrap().unwrap().is_empty());
    assert_eq!(fs::read_dir(place.directories().state).unwrap().count(), 0);
    assert!(place.host.netlink().link("adit-br0").unwrap().is_none());
    let server = place.start(&[]);
    let request = json!({ "NetworkID": "n1", "EndpointID": "e2", "Interface": { "Address": address } });
    let said = server.refused("NetworkDriver.CreateEndpoint", request);
    assert!(said.contains("docker network create -d adit --ipam-driver adit NAME"), "{said}");
}

#[test]
fn what_no_engine_asks_harms_nothing() {
    let bed = Bed::new(1);
    let place = Place::new(bed.host(1));
    let server = place.start(&[]);
    server.network("n1", false);
    let address = |text: &str| json!({ "NetworkID": "n1", "EndpointID": "e", "Interface": { "Address": text } });
    let mac = |text: &str| json!({ "NetworkID": "n1", "EndpointID": "e", "Interface": { "Address": "10.42.7.5/24", "MacAddress": text } });
    for (method, request, part) in [
        (
            "NetworkDriver.CreateEndpoint",
            json!({ "NetworkID": "n2", "EndpointID": "e" }),
            "is not known to adit any more",
        ),
        ("NetworkDriver.CreateEndpoint", json!({ "NetworkID": "n1", "EndpointID": "e" }), "no address"),
        ("NetworkDriver.CreateEndpoint", json!({ "EndpointID": "e" }), "is not understood"),
        ("NetworkDriver.CreateEndpoint", address("172.17.0.2/16"), "now it has"),
        ("NetworkDriver.CreateEndpoint", address("10.42.7.1/24"), "is no container's"),
        ("NetworkDriver.CreateEndpoint", mac("01:00:5e:00:00:01"), "that of a group"),
        ("NetworkDriver.CreateEndpoint", mac("zz:00:00:00:00:01"), "is no link-layer address"),
        ("NetworkDriver.Join", endpoint("n1", "none"), "start the container again"),
        ("NetworkDriver.ProgramExternalConnectivity", endpoint("n1", "none"), "start the container again"),
        ("IpamDriver.RequestAddress", json!({ "PoolID": "../x", "Address": "" }), "is no pool of adit's"),
        ("IpamDriver.RequestAddress", json!({ "PoolID": "10.42.7.0/24", "Address": "ten" }), "is no address"),
        ("IpamDriver.RequestPool", json!({ "Pool": "not a pool" }), "is not this node's"),
        (
            "NetworkDriver.CreateNetwork",
            json!({ "NetworkID": "n3", "IPv4Data": [], "IPv6Data": null }),
            "are not of this node",
        ),
    ] {
        let said = server.refused(method, request);
        assert!(said.contains(part), "{method}: {said}");
    }
    // Nothing half-made; what an engine reserved it gives back itself.
    for ip in ["10.42.7.5", "10.42.7.2", "nonsense"] {
        server.ask("IpamDriver.ReleaseAddress", json!({ "PoolID": "10.42.7.0/24", "Address": ip }));
    }
    assert_eq!(place.records(), 0);
    assert!(place.host.netlink().link("adit-br0").unwrap().is_none());

    for body in ["", "{", "[]", "null", "\u{0}", &"[".repeat(100_000)] {
        let (status, answer) = server.post("NetworkDriver.Join", body);
        assert!(status == 200 && answer.contains("is not understood"), "{answer}");
    }
    assert_eq!(server.post("NetworkDriver.Join", &" ".repeat((1 << 20) + 1)).0, 413);
    // By that Docker knows that a driver does not have it.
    assert_eq!(server.post("NetworkDriver.AllocateNetwork", "{}").0, 404);
    assert_eq!(server.post("../../etc/passwd", "").0, 404);
    assert_eq!(server.ask("NetworkDriver.DiscoverNew", json!({ "DiscoveryType": 1 })), json!({}));

    // Many at once, none of which gets another's.
    let addresses: HashSet<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..40).map(|_| scope.spawn(|| server.address("10.42.7.0/24"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!((addresses.len(), place.records()), (40, 40));

    let output = place.host.namespace.run(|| place.command(&[]).output()).unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("another program serves"), "{said}");
    assert_eq!(server.ask("NetworkDriver.Leave", endpoint("n1", "e")), json!({}), "the first one serves still");
}

#[test]
fn rules_stand_in_dockers_chain_while_the_server_runs() {
    let bed = Bed::new(1);
    let place = Place::new(bed.host(1));
    let listed = |program: &str| place.shell(&format!("{program} --wait 5 -S DOCKER-USER"));
    let make = "--wait 5 -N DOCKER-USER; iptables --wait 5 -A DOCKER-USER -s 203.0.113.7 -j DROP";
    place.shell(&format!("iptables {make}"));
    let before = listed("iptables");

    let server = place.start(&["--no-docker-user"]);
    server.network("n1", false);
    server.end();
    assert_eq!(listed("iptables"), before);

    let server = place.start(&[]);
    let rules =
        wait_for("rules of ours", || Some(listed("iptables")).filter(|rules| rules.matches("adit-adit0").count() == 7));
    let lines: Vec<&str> = rules.lines().collect();
    assert!(rules.starts_with(before.trim_end()) && lines.len() == 9, "the administrator's comes first: {rules}");
    // The other family, whose chain comes later.
    place.shell("ip6tables --wait 5 -N DOCKER-USER");
    wait_for("rules of IPv6", || (listed("ip6tables").matches("adit-adit0").count() == 7).then_some(()));
    // Somebody takes one of them out.
    place.shell("iptables --wait 5 -D DOCKER-USER 3");
    wait_for("the same rules again", || (listed("iptables") == rules).then_some(()));
    // Another bridge.
    let path = place.directories().runtime.join("adit0.node");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("adit-br0", "other-br0")).unwrap();
    server.ask("Plugin.Activate", Value::Null);
    wait_for("rules for the other bridge", || {
        let rules = listed("iptables");
        (rules.matches("other-br0").count() == 8 && !rules.contains("adit-br0")).then_some(())
    });
    // A server that was killed leaves them, and the next one takes them over.
    drop(server);
    assert!(listed("iptables").contains("adit-adit0"));
    let server = place.start(&[]);
    server.ask("Plugin.Activate", Value::Null);
    server.end();
    assert_eq!(listed("iptables"), before);
    assert_eq!(listed("ip6tables").trim(), "-N DOCKER-USER");
}
