//! Section 1 (what is in a configuration), section 2, "Parameters", "Errors" and "ADD".

use linux::netlink::Netlink;
use serde_json::json;

use crate::world::{Container, Host, SUBNETS, VERSIONS, addresses, ips, key};

/// "create the interface defined by `CNI_IFNAME` inside the container at `CNI_NETNS`"
#[test]
fn add_creates_the_interface_inside_the_container() {
    for version in VERSIONS {
        let (host, container) = (Host::new(), Container::new("c1"));
        let result = host.ours("ADD", &container).env("CNI_IFNAME", "net1").version(version).result();
        let link = container.link("net1").unwrap();
        assert!(link.up && link.kind.as_deref() == Some("veth"));
        assert_eq!(container.addresses("net1"), ["10.42.7.2/24", "fd42:0:0:7::2/64"].map(|net| net.parse().unwrap()));
        assert_eq!(container.gateway("0.0.0.0/0"), Some("10.42.7.1".parse().unwrap()));
        assert_eq!(container.gateway("::/0"), Some("fd42:0:0:7::1".parse().unwrap()));
        assert_eq!(ips(&result, "address"), ["10.42.7.2/24", "fd42:0:0:7::2/64"]);
    }
}

/// "ensure it has connectivity"
#[test]
fn containers_reach_their_host_and_each_other() {
    let (host, one, two) = (Host::new(), Container::new("c1"), Container::new("c2"));
    let [_, second] = [&one, &two].map(|container| host.ours("ADD", container).result());
    for ip in addresses(&second) {
        one.reaches(ip);
    }
    one.reaches("10.42.7.1".parse().unwrap());
    one.reaches("fd42:0:0:7::1".parse().unwrap());
}

/// "The runtime must execute the plugin in the runtime's networking domain": what is made on the host is made there.
#[test]
fn the_other_end_is_where_the_runtime_is() {
    let (host, container) = (Host::new(), Container::new("c1"));
    host.ours("ADD", &container).result();
    let mut netlink = host.netlink();
    let bridge = netlink.existing_link("adit-br0").unwrap();
    let end = netlink.existing_link(&key(&container, "eth0").host_interface()).unwrap();
    assert_eq!(end.controller, Some(bridge.index));
    assert!(Netlink::open().unwrap().link(&end.name).unwrap().is_none());
}

/// "If an interface of the requested name already exists in the container, the CNI plugin MUST return with an error"
#[test]
fn add_fails_if_there_is_such_an_interface() {
    let (host, container) = (Host::new(), Container::new("c1"));
    container.netlink().create_bridge("eth0", None).unwrap();
    let before = host.state();
    let (code, _, details) = host.ours("ADD", &container).error();
    assert_eq!(code, 103);
    assert!(details.contains("eth0"), "{details}");
    assert_eq!(container.link("eth0").unwrap().kind.as_deref(), Some("bridge"), "that of somebody else stays");
    assert_eq!(host.state(), before);
    // Also where it is of another network.
    let other = Container::new("c2");
    host.ours("ADD", &other).result();
    assert_eq!(host.ours("ADD", &other).with("name", "another").error().0, 103);
}

/// "A runtime should not call ADD twice (without an intervening DEL)": the second is an error, and the first stays.
#[test]
fn add_twice_is_an_error_and_spoils_nothing() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let result = host.ours("ADD", &container).version("1.1.0").result();
    let before = host.state();
    assert_eq!(host.ours("ADD", &container).error().0, 103);
    assert_eq!(host.state(), before);
    host.ours("CHECK", &container).version("1.1.0").previous(&result).done();
}

/// "a given container ID may be added to a specific network more than once only if each addition is done with a different interface name"
#[test]
fn a_container_may_be_added_again_by_another_interface() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let first = host.ours("ADD", &container).result();
    let second = host.ours("ADD", &container).env("CNI_IFNAME", "eth1").result();
    assert_ne!(addresses(&first), addresses(&second));
    assert!(container.link("eth0").is_some() && container.link("eth1").is_some());
    host.ours("DEL", &container).env("CNI_IFNAME", "eth1").done();
    assert!(container.link("eth0").is_some() && container.link("eth1").is_none());
}

/// "must output a result structure on standard out"; "A plugin must exit with a return code of 0 on success"
#[test]
fn the_result_is_all_that_is_on_standard_output() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let answer = host.ours("ADD", &container).run();
    assert_eq!(answer.exit_code, Some(0), "{answer:?}");
    assert!(answer.log.is_empty(), "{answer:?}");
    let mut values = serde_json::Deserializer::from_str(&answer.text).into_iter::<serde_json::Value>();
    assert!(values.next().unwrap().is_ok() && values.next().is_none());
}

/// "non-zero on failure"; "it should output an "error" result structure"
#[test]
fn errors_are_a_structure_and_an_exit_code() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let answer = host.ours("ADD", &container).with("ipam", json!({"type": "host-local"})).run();
    assert_eq!(answer.exit_code, Some(1));
    let (code, message, details) = answer.error();
    assert_eq!(code, 7);
    assert!(!message.is_empty() && details.contains("ipam"), "{details}");
}

/// "Required environment parameters" of ADD; "The error message must contain the names of invalid variables"
#[test]
fn add_names_the_variable_that_is_missing() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let before = host.state();
    for variable in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        for ask in [host.ours("ADD", &container).without(variable), host.ours("ADD", &container).env(variable, "")] {
            let (code, message, _) = ask.error();
            assert_eq!(code, 4);
            assert!(message.contains(variable), "{message}");
        }
    }
    assert_eq!(host.state(), before);
}

/// "Optional environment parameters: `CNI_ARGS`, `CNI_PATH`"
#[test]
fn arguments_and_path_may_be_missing() {
    let (host, container) = (Host::new(), Container::new("c1"));
    host.ours("ADD", &container).without("CNI_ARGS").without("CNI_PATH").result();
    host.ours("DEL", &container).without("CNI_ARGS").without("CNI_PATH").done();
}

/// "Must start with an alphanumeric character, optionally followed by any combination of one or more alphanumeric characters, underscore, dot or hyphen"
#[test]
fn container_ids_have_their_form() {
    let host = Host::new();
    for id in ["c", "0", "Az09_.-", "a..b", &"f".repeat(300)] {
        let container = Container::new(id);
        host.ours("ADD", &container).result();
        host.ours("DEL", &container).done();
    }
    let before = host.state();
    for id in ["-c", ".c", "_c", "..", "../c", "c/d", "c d", "c\n", "ç", "c;d"] {
        for verb in ["ADD", "DEL", "CHECK"] {
            let (code, message, _) = host.ours(verb, &Container::new(id)).error();
            assert_eq!((code, message.contains("CNI_CONTAINERID")), (4, true), "{verb} {id:?}");
        }
    }
    assert_eq!(host.state(), before);
}

/// "if the plugin is unable to use this interface name it must return an error"
#[test]
fn an_interface_name_that_cannot_be_is_an_error() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let before = host.state();
    for name in [
        ".",
        "..",
        "a/b",
        "../eth0",
        "a b",
        "a:b",
        "sixteen-letters-",
        "\u{e9}th0\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
    ] {
        let (code, message, _) = host.ours("ADD", &container).env("CNI_IFNAME", name).error();
        assert_eq!((code, message.contains("CNI_IFNAME")), (4, true), "{name:?}");
    }
    // The loopback device of every namespace.
    assert_eq!(host.ours("ADD", &container).env("CNI_IFNAME", "lo").error().0, 103);
    assert_eq!(host.state(), before);
    host.ours("ADD", &container).env("CNI_IFNAME", "fifteen-letters").result();
}

/// Section 1, `name`: "Must start with an alphanumeric character ... Must not contain characters disallowed in file paths"
#[test]
fn network_names_have_their_form() {
    let (host, container) = (Host::new(), Container::new("c1"));
    for name in ["", "..", "../adit", "a/b", "-a", "a b"] {
        assert_eq!(host.ours("ADD", &container).with("name", name).error().0, 7, "{name:?}");
    }
    host.ours("ADD", &container).with("name", "Net_1.a-b").result();
}

/// Section 1: "Plugins may define additional fields ... and may generate an error if called with unknown fields"; reserved keys are no fault either.
#[test]
fn what_others_want_in_the_configuration_is_passed_over() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let ask = host.ours("ADD", &container).with("keyA", json!(["some more"])).with("cni.dev/future", 1);
    ask.with("args", json!({"cni": {"labels": [{"key": "app", "value": "x"}]}, "org.example": 1})).result();
}

/// Section 1: "Plugins that consume any of these configuration keys should respect their intended semantics": `dns`
#[test]
fn dns_of_the_configuration_is_in_the_result() {
    let host = Host::new();
    let dns = json!({"nameservers": ["192.0.2.53"], "domain": "example.org", "search": ["a.example"], "options": ["ndots:5"]});
    let result = host.ours("ADD", &Container::new("c1")).with("dns", dns.clone()).result();
    assert_eq!(result["dns"], dns);
    let result = host.ours("ADD", &Container::new("c2")).result();
    assert_eq!(result["dns"], json!({"nameservers": ["10.42.7.1", "fd42:0:0:7::1"], "search": ["berlin.adit"]}));
}

/// "Unsupported field in network configuration. The error message must contain the key and value of the unsupported field": `ipMasq`
#[test]
fn what_cannot_be_followed_is_named_with_its_value() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let (code, message, _) = host.ours("ADD", &container).with("ipMasq", true).error();
    assert_eq!((code, message.contains("ipMasq: true")), (2, true), "{message}");
}

/// Conventions, `ips`, `mac`, and their precedence: "the plugin must ignore the CNI_ARGS Field" if `args` say the same.
#[test]
fn addresses_that_are_asked_for_are_given() {
    let host = Host::new();
    let by_variable = Container::new("c1");
    let args = "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.42.7.77;MAC=02:00:00:00:00:07";
    let result = host.ours("ADD", &by_variable).env("CNI_ARGS", args).result();
    assert_eq!(ips(&result, "address"), ["10.42.7.77/24", "fd42:0:0:7::2/64"]);
    assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:07");
    assert_eq!(by_variable.link("eth0").unwrap().mac, Some([2, 0, 0, 0, 0, 7]));
    assert_eq!(host.records()[0].name.as_deref(), Some("web"));
    let [second, third] = ["c2", "c3"].map(Container::new);
    let by_args = host.ours("ADD", &second).env("CNI_ARGS", "IP=10.42.7.88");
    let result = by_args.with("args", json!({"cni": {"ips": ["10.42.7.99/24"]}})).result();
    assert_eq!(ips(&result, "address")[0], "10.42.7.99/24");
    let both = json!({"ips": ["10.42.7.100", "fd42:0:0:7::100"], "mac": "02:00:00:00:00:08"});
    let result = host.ours("ADD", &third).with("runtimeConfig", both).result();
    assert_eq!(ips(&result, "address"), ["10.42.7.100/24", "fd42:0:0:7::100/64"]);
}

/// What `isDefaultGateway`, `portIsolation` and `mtu` promise.
#[test]
fn keys_of_our_own_do_what_they_say() {
    let host = Host::new();
    let [plain, apart, other] = ["c1", "c2", "c3"].map(Container::new);
    let result = host.ours("ADD", &plain).with("isDefaultGateway", false).with("mtu", 1300).version("1.1.0").result();
    assert_eq!(plain.gateway("0.0.0.0/0"), None);
    assert_eq!(plain.gateway("10.42.0.0/16"), Some("10.42.7.1".parse().unwrap()));
    assert_eq!(result["routes"][0], json!({"dst": "10.42.0.0/16", "gw": "10.42.7.1"}));
    assert_eq!(plain.link("eth0").unwrap().mtu, 1300);
    assert_eq!((&result["interfaces"][0]["mtu"], &result["interfaces"][2]["mtu"]), (&1420.into(), &1300.into()));
    for container in [&apart, &other] {
        host.ours("ADD", container).with("portIsolation", true).result();
        let end = host.netlink().existing_link(&key(container, "eth0").host_interface()).unwrap();
        assert!(end.port.unwrap().isolated);
    }
}

/// A network of one family has one address.
#[test]
fn a_node_of_one_family_gives_one_address() {
    for (subnet, n) in SUBNETS.iter().zip([0, 1]) {
        let (host, container) = (Host::with(&[subnet]), Container::new("c1"));
        let result = host.ours("ADD", &container).result();
        assert_eq!(ips(&result, "address"), [["10.42.7.2/24", "fd42:0:0:7::2/64"][n]]);
        assert_eq!(result["routes"].as_array().unwrap().len(), 1);
    }
}

/// A `hostIP` that the host does not have may come later, and is warned of.
#[test]
fn a_host_ip_that_is_not_there_is_warned_of() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let port = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "203.0.113.77"});
    let answer = host.ours("ADD", &container).with("runtimeConfig", json!({"portMappings": [port]})).run();
    assert_eq!(answer.exit_code, Some(0), "{answer:?}");
    assert!(answer.log.contains("does not have the address 203.0.113.77"), "{answer:?}");
}
