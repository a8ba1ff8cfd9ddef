//! The stock plugins bridge and host-local beside ours on the same cases: where they can be compared, they agree.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::world::{Ask, Container, Host, Plugin, VERSIONS, addresses, ips};

/// Versions that Debian's stock plugins speak too.
const BOTH: &[&str] = VERSIONS.split_at(3).0;

/// What each of both says to the same question on a host of its own; the first is ours.
fn each<T>(question: impl Fn(&Host, Plugin) -> T) -> [T; 2] {
    [Plugin::Ours, Plugin::Stock].map(|plugin| question(&Host::new(), plugin))
}

/// The last part of an address, which does not depend on whose subnet it is of.
fn last(text: &str) -> String {
    text.rsplit_once(['.', ':']).unwrap().1.to_owned()
}

/// A result without what is each plugin's own: names of devices on the host, their addresses, subnets, name servers.
fn shape(result: &Value, container: &Container) -> Value {
    let interfaces = result["interfaces"].as_array().unwrap().iter();
    let interfaces: Vec<Value> = interfaces
        .map(|interface| {
            let keys: Vec<_> = interface.as_object().unwrap().keys().collect();
            let is_inside = interface.get("sandbox").is_some_and(|sandbox| *sandbox == container.path());
            json!({"keys": keys, "inside": is_inside, "name": is_inside.then(|| interface["name"].clone())})
        })
        .collect();
    let ips: Vec<Value> = result["ips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ip| {
            let mut ip = ip.clone();
            for key in ["address", "gateway"] {
                ip[key] = last(ip[key].as_str().unwrap()).into();
            }
            ip
        })
        .collect();
    let routes = result["routes"].as_array().unwrap().iter().map(|route| {
        let by = route.get("gw").and_then(Value::as_str).map(last);
        json!({"dst": route["dst"], "gw": by})
    });
    json!({"cniVersion": result["cniVersion"], "interfaces": interfaces, "ips": ips, "routes": routes.collect::<Vec<_>>()})
}

/// A container as its programs see it.
fn inside(container: &Container) -> Value {
    let link = container.link("eth0").unwrap();
    let addresses: Vec<_> = container.addresses("eth0").iter().map(|net| last(&net.to_string())).collect();
    let ways: Vec<_> = ["0.0.0.0/0", "::/0"].map(|net| container.gateway(net).map(|ip| last(&ip.to_string()))).into();
    json!({"kind": link.kind, "up": link.up, "mtu": link.mtu, "addresses": addresses, "ways": ways})
}

#[test]
fn results_have_the_same_form_in_every_version() {
    for version in BOTH {
        let [ours, stock] = each(|host, plugin| {
            let container = Container::new("c1");
            shape(&host.ask(plugin, "ADD", &container).version(version).result(), &container)
        });
        assert_eq!(ours, stock, "{version}");
    }
}

#[test]
fn containers_look_the_same_from_inside() {
    let [ours, stock] = each(|host, plugin| {
        let container = Container::new("c1");
        host.ask(plugin, "ADD", &container).result();
        inside(&container)
    });
    assert_eq!(ours, stock);
}

#[test]
fn containers_reach_each_other_and_their_gateway() {
    each(|host, plugin| {
        let [one, two] = ["c1", "c2"].map(Container::new);
        let [first, second] = [&one, &two].map(|container| host.ask(plugin, "ADD", container).result());
        let gateways = ips(&first, "gateway").into_iter().map(|text| text.parse::<IpAddr>().unwrap());
        for ip in addresses(&second).into_iter().chain(gateways) {
            one.reaches(ip);
        }
    });
}

#[test]
fn addresses_are_given_out_in_the_same_order() {
    let [ours, stock] = each(|host, plugin| {
        let containers = ["c1", "c2", "c3", "c4"].map(Container::new);
        let add = |n: usize| last(&ips(&host.ask(plugin, "ADD", &containers[n]).result(), "address")[0]);
        let mut given = vec![add(0), add(1), add(2)];
        host.ask(plugin, "DEL", &containers[1]).done();
        // An address rests before somebody else has it.
        given.push(add(3));
        host.ask(plugin, "DEL", &containers[0]).done();
        given.push(add(0));
        given
    });
    assert_eq!(ours, stock);
    assert_eq!(ours, ["2/24", "3/24", "4/24", "5/24", "6/24"]);
}

#[test]
fn addresses_that_are_asked_for_are_given() {
    each(|host, plugin| {
        let subnet: IpNet = if plugin == Plugin::Ours { "10.42.7.0/24" } else { "10.43.7.0/24" }.parse().unwrap();
        let wanted = subnet.hosts().nth(76).unwrap();
        let [one, two, three] = ["c1", "c2", "c3"].map(Container::new);
        let asking = |container: &Container| {
            host.ask(plugin, "ADD", container).env("CNI_ARGS", format!("IgnoreUnknown=1;IP={wanted}"))
        };
        assert_eq!(addresses(&asking(&one).result())[0], wanted);
        assert!(asking(&two).error().0 >= 100, "it is another's");
        host.ask(plugin, "DEL", &two).done();
        let elsewhere = host.ask(plugin, "ADD", &three).env("CNI_ARGS", "IP=198.51.100.7");
        elsewhere.error();
    });
}

#[test]
fn del_is_silent_however_often_and_without_a_namespace() {
    each(|host, plugin| {
        let container = Container::new("c1");
        host.ask(plugin, "DEL", &container).done();
        let result = host.ask(plugin, "ADD", &container).result();
        host.ask(plugin, "DEL", &container).previous(&result).done();
        assert!(container.link("eth0").is_none());
        for _ in 0..2 {
            host.ask(plugin, "DEL", &container).done();
            host.ask(plugin, "DEL", &container).without("CNI_NETNS").done();
            host.ask(plugin, "DEL", &container).env("CNI_NETNS", "").done();
        }
        host.ask(plugin, "ADD", &container).result();
    });
}

/// The first version with CHECK, and the last that both speak.
const CHECKED: [&str; 2] = ["0.4.0", "1.0.0"];

#[test]
fn check_agrees_with_what_was_made_and_tells_what_is_missing() {
    type Spoil = fn(&Container);
    let spoilt: [(&str, Spoil); 4] = [
        ("interface", |c| ip_in(c, "link delete eth0")),
        ("address", |c| ip_in(c, "address flush dev eth0 scope global")),
        ("route", |c| ip_in(c, "route delete default")),
        ("name", |c| {
            ip_in(c, "link set eth0 down");
            ip_in(c, "link set eth0 name eth9");
        }),
    ];
    for version in CHECKED {
        for (what, spoil) in spoilt {
            each(|host, plugin| {
                let container = Container::new("c1");
                let result = host.ask(plugin, "ADD", &container).version(version).result();
                let check = host.ask(plugin, "CHECK", &container).version(version);
                check.clone().previous(&result).done();
                check.error();
                spoil(&container);
                assert!(check.previous(&result).error().0 >= 100, "{plugin:?}: {what} in {version}");
            });
        }
    }
}

fn ip_in(container: &Container, arguments: &str) {
    crate::world::run(&container.namespace, "ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// The same wrong questions have the same codes, where the specification names one.
#[test]
fn wrong_questions_are_refused_with_the_same_codes() {
    type Change = for<'a> fn(Ask<'a>) -> Ask<'a>;
    let questions: [(&str, u64, Change); 10] = [
        ("no id", 4, |ask| ask.without("CNI_CONTAINERID")),
        ("no namespace", 4, |ask| ask.without("CNI_NETNS")),
        ("no interface", 4, |ask| ask.without("CNI_IFNAME")),
        ("an unknown command", 4, |ask| ask.env("CNI_COMMAND", "UPDATE")),
        ("a path for an id", 4, |ask| ask.env("CNI_CONTAINERID", "../c1")),
        ("an interface of 16 bytes", 4, |ask| ask.env("CNI_IFNAME", "sixteen-letters-")),
        ("an interface with a slash", 4, |ask| ask.env("CNI_IFNAME", "a/b")),
        ("a version of the future", 1, |ask| ask.version("9.9.9")),
        ("a name that is a path", 7, |ask| ask.with("name", "../adit")),
        ("a configuration that is none", 6, |ask| ask.with("cniVersion", 1)),
    ];
    for (what, code, change) in questions {
        each(|host, plugin| {
            let container = Container::new("c1");
            let ask = change(host.ask(plugin, "ADD", &container));
            assert_eq!(ask.error().0, code, "{plugin:?}: {what}");
            assert!(container.link("eth0").is_none());
        });
    }
}

/// And these are refused by both, though each has codes of its own for them.
#[test]
fn what_cannot_be_made_is_refused_by_both() {
    each(|host, plugin| {
        let container = Container::new("c1");
        host.ask(plugin, "ADD", &container).env("CNI_NETNS", "/run/netns/there-is-no-such").error();
        host.ask(plugin, "ADD", &container).env("CNI_NETNS", "/dev/null").error();
        host.ask(plugin, "ADD", &container).env("CNI_IFNAME", "lo").error();
        host.ask(plugin, "ADD", &container).env("CNI_ARGS", "UNKNOWN=1").error();
        assert_eq!(container.netlink().links().unwrap().len(), 1);
        container.netlink().create_bridge("eth0", None).unwrap();
        host.ask(plugin, "ADD", &container).error();
        assert_eq!(container.link("eth0").unwrap().kind.as_deref(), Some("bridge"));
    });
}

#[test]
fn both_say_which_versions_they_speak() {
    each(|host, plugin| {
        let ask = host.ask(plugin, "VERSION", &Container::new("c1"));
        let said: Value = serde_json::from_str(&ask.run_with(br#"{"cniVersion":"1.0.0"}"#).text).unwrap();
        let versions = said["supportedVersions"].as_array().unwrap();
        assert_eq!(said["cniVersion"], "1.0.0", "{plugin:?}");
        assert!(BOTH.iter().all(|version| versions.contains(&(*version).into())), "{plugin:?}: {versions:?}");
    });
}
