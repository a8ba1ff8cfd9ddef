//! Section 5, "Result Types", and section 2 on `prevResult`.

use serde_json::{Value, json};

use crate::world::{Container, Host, VERSIONS, key};

/// "`cniVersion`: The same version supplied on input"
#[test]
fn a_result_is_of_the_version_that_was_asked_in() {
    let host = Host::new();
    for (n, version) in VERSIONS.iter().enumerate() {
        let result = host.ours("ADD", &Container::new(&format!("c{n}"))).version(version).result();
        assert_eq!(result["cniVersion"], *version);
        let is_old = version.starts_with("0.");
        for (ip, family) in result["ips"].as_array().unwrap().iter().zip(["4", "6"]) {
            assert_eq!(ip.get("version"), is_old.then_some(&family.into()), "{version}");
        }
    }
}

/// "`interfaces`: An array of all interfaces created by the attachment, including any host-level interfaces", with `name`, `mac`, `mtu` and `sandbox`
#[test]
fn interfaces_are_those_that_there_are() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let result = host.ours("ADD", &container).version("1.1.0").result();
    let interfaces = result["interfaces"].as_array().unwrap();
    let end = key(&container, "eth0").host_interface();
    assert_eq!(interfaces.len(), 3);
    for (interface, name) in interfaces.iter().zip(["adit-br0", &end, "eth0"]) {
        let link = if name == "eth0" { container.link(name) } else { host.netlink().link(name).unwrap() }.unwrap();
        let mac = link.mac.unwrap().map(|octet| format!("{octet:02x}")).join(":");
        assert_eq!(interface["name"], name);
        assert_eq!(interface["mac"], mac, "{name}");
        assert_eq!(interface["mtu"], link.mtu, "{name}");
        let sandbox = interface.get("sandbox").and_then(Value::as_str);
        // "For interfaces created inside the container, this should be the value passed via `CNI_NETNS`"
        assert_eq!(sandbox, (name == "eth0").then_some(container.path().as_str()));
    }
}

/// "`address`: an IP address in CIDR notation", "`gateway`: the default gateway for this subnet", "`interface`: the index into the `interfaces` list"
#[test]
fn addresses_lead_to_their_interface_and_gateway() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let result = host.ours("ADD", &container).result();
    let expected = json!([
        {"address": "10.42.7.2/24", "gateway": "10.42.7.1", "interface": 2},
        {"address": "fd42:0:0:7::2/64", "gateway": "fd42:0:0:7::1", "interface": 2},
    ]);
    assert_eq!(result["ips"], expected);
    assert_eq!(
        result["routes"],
        json!([{"dst": "0.0.0.0/0", "gw": "10.42.7.1"}, {"dst": "::/0", "gw": "fd42:0:0:7::1"}])
    );
}

/// "If the plugin was supplied a `prevResult` ... it MUST handle `prevResult` by either passing it through, or modifying it appropriately"; "must output it as
/// their result, with any possible modifications made by that plugin included"
#[test]
fn what_plugins_before_us_made_is_in_the_result() {
    let host = Host::new();
    for (n, version) in VERSIONS.iter().enumerate() {
        let container = Container::new(&format!("c{n}"));
        let mut previous = json!({
            "cniVersion": version,
            "interfaces": [{"name": "net0", "mac": "02:00:00:00:00:01", "sandbox": container.path()}],
            "ips": [{"address": "192.0.2.7/24", "gateway": "192.0.2.1", "interface": 0}],
            "routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.1"}],
            "dns": {"nameservers": ["192.0.2.53"]},
        });
        if version.starts_with("0.") {
            previous["ips"][0]["version"] = "4".into();
        }
        let result = host.ours("ADD", &container).version(version).previous(&previous).result();
        assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
        assert_eq!(result["interfaces"][3]["name"], "eth0");
        assert_eq!(result["ips"][0], previous["ips"][0]);
        assert_eq!(result["ips"][1]["interface"], 3);
        assert_eq!(result["routes"][0], previous["routes"][0]);
        assert_eq!(result["dns"], previous["dns"]);
        // And CHECK knows its own among them.
        if *version != "0.3.1" {
            host.ours("CHECK", &container).version(version).previous(&result).done();
        }
    }
}

/// What is no result is not gone on with, before anything is made.
#[test]
fn an_earlier_result_of_another_form_is_an_error() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let before = host.state();
    for previous in [json!(1), json!({"interfaces": 1}), json!({"ips": [1]}), json!({"routes": {}}), json!([])] {
        assert_eq!(host.ours("ADD", &container).previous(&previous).error().0, 6, "{previous}");
    }
    assert_eq!(host.state(), before);
}

/// "Plugins should output a JSON object with the following keys if they encounter an error"
#[test]
fn errors_have_all_their_keys() {
    let (host, container) = (Host::new(), Container::new("c1"));
    for version in VERSIONS {
        let answer = host.ours("ADD", &container).version(version).with("mtu", 70000).run();
        let error: Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(error["cniVersion"], version);
        assert_eq!(error["code"], 7);
        assert!(error["msg"].is_string() && error["details"].is_string());
        assert_eq!(error.as_object().unwrap().len(), 4);
    }
}
