use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::container::ports::Protocol;

fn network(value: &Value) -> Result<Network, Error> {
    super::network(value.to_string().as_bytes())
}

fn wishes(value: &Value) -> Result<Wishes, Error> {
    let network = network(&json!({"name": "adit"})).unwrap();
    super::wishes(value.to_string().as_bytes(), &network, Arguments::default())
}

#[test]
fn a_name_is_all_that_has_to_be_said() {
    let network = network(&json!({"name": "adit", "type": "adit", "cniVersion": "1.0.0", "other": [1]})).unwrap();
    assert_eq!((network.name.as_str(), network.device.as_str()), ("adit", "adit0"));
    assert_eq!(network.directories, Directories::default());
    let wishes = wishes(&json!({})).unwrap();
    assert!(wishes.default_route && !wishes.isolated && wishes.mtu.is_none() && wishes.dns.is_none());
    assert!(wishes.ips.is_empty() && wishes.mac.is_none() && wishes.ports.is_empty() && wishes.name.is_none());
}

#[test]
fn nulls_are_as_if_they_were_not_there() {
    let keys = ["isDefaultGateway", "portIsolation", "mtu", "dns", "ipam", "ipMasq", "args", "runtimeConfig"];
    let nulls: serde_json::Map<_, _> = keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
    assert_eq!(wishes(&Value::Object(nulls)).unwrap(), wishes(&json!({})).unwrap());
    let runtime = json!({"runtimeConfig": {"portMappings": null, "ips": null, "mac": null, "aliases": null, "dns": null, "bandwidth": null}});
    assert_eq!(wishes(&runtime).unwrap(), wishes(&json!({})).unwrap());
    assert_eq!(wishes(&json!({"ipam": {}, "dns": {}, "mtu": 0})).unwrap(), wishes(&json!({})).unwrap());
}

#[test]
fn names_and_places_that_lead_astray_are_refused() {
    for (value, code) in [
        (json!({}), Code::InvalidConfiguration),
        (json!({"name": ""}), Code::InvalidConfiguration),
        (json!({"name": "../etc"}), Code::InvalidConfiguration),
        (json!({"name": ".."}), Code::InvalidConfiguration),
        (json!({"name": "a b"}), Code::InvalidConfiguration),
        (json!({"name": 1}), Code::Decode),
        (json!({"name": "adit", "device": "../x"}), Code::InvalidConfiguration),
        (json!({"name": "adit", "device": "sixteen-letters-"}), Code::InvalidConfiguration),
        (json!({"name": "adit", "stateDir": "var"}), Code::InvalidConfiguration),
        (json!({"name": "adit", "runtimeDir": ""}), Code::InvalidConfiguration),
        (json!([]), Code::Decode),
        (json!("adit"), Code::Decode),
    ] {
        assert_eq!(network(&value).unwrap_err().code, code, "{value}");
    }
}

#[test]
fn wishes_that_cannot_be_had_are_refused() {
    let runtime = |value: Value| json!({"runtimeConfig": value});
    let port = |value: Value| json!({"runtimeConfig": {"portMappings": [value]}});
    for (value, code) in [
        (json!({"ipam": {"type": "host-local"}}), Code::InvalidConfiguration),
        (json!({"ipam": "host-local"}), Code::InvalidConfiguration),
        (json!({"ipMasq": true}), Code::UnsupportedField),
        (json!({"ipMasq": false}), Code::UnsupportedField),
        (json!({"mtu": "1400"}), Code::Decode),
        (json!({"mtu": -1}), Code::Decode),
        (json!({"isDefaultGateway": "yes"}), Code::Decode),
        (runtime(json!({"bandwidth": {"ingressRate": 1}})), Code::UnsupportedField),
        (runtime(json!({"ipRanges": [[]]})), Code::UnsupportedField),
        (runtime(json!({"deviceID": "0000:04:00.5"})), Code::UnsupportedField),
        (runtime(json!({"ips": ["10.42.7"]})), Code::InvalidConfiguration),
        (runtime(json!({"ips": "10.42.7.9"})), Code::Decode),
        (runtime(json!({"mac": "02:00:00:00:00"})), Code::InvalidConfiguration),
        (runtime(json!({"mac": "01:00:5e:00:00:01"})), Code::InvalidConfiguration),
        (runtime(json!({"mac": "00:00:00:00:00:00"})), Code::InvalidConfiguration),
        (runtime(json!({"mac": "02:00:00:00:00:01:02"})), Code::InvalidConfiguration),
        (port(json!({"hostPort": 0, "containerPort": 80})), Code::InvalidConfiguration),
        (port(json!({"hostPort": 80, "containerPort": 65536})), Code::InvalidConfiguration),
        (port(json!({"hostPort": -80, "containerPort": 80})), Code::InvalidConfiguration),
        (port(json!({"hostPort": 80, "containerPort": 80, "protocol": "sctp"})), Code::InvalidConfiguration),
        (port(json!({"hostPort": 80, "containerPort": 80, "hostIP": "localhost"})), Code::InvalidConfiguration),
        (port(json!({"hostPort": 80})), Code::Decode),
    ] {
        let error = wishes(&value).unwrap_err();
        assert_eq!(error.code, code, "{value}: {}", error.details);
    }
}

#[test]
fn what_a_runtime_asks_for_is_understood() {
    let value = json!({
        "isDefaultGateway": false, "portIsolation": true, "mtu": 1300,
        "dns": {"nameservers": ["192.0.2.53"], "search": ["example.org"]},
        "runtimeConfig": {
            "ips": ["10.42.7.9/24", "fd77::9"],
            "mac": "02-00-00-00-00-0A",
            "aliases": {"other": ["no"], "adit": ["not_a_label", "Web"]},
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
                {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"},
                {"hostPort": 1, "containerPort": 1, "hostIP": "0.0.0.0"},
                {"HostPort": 81, "ContainerPort": 8, "Protocol": "udp", "HostIP": "192.0.2.2"},
            ],
        },
    });
    let wishes = wishes(&value).unwrap();
    assert!(!wishes.default_route && wishes.isolated);
    assert_eq!(wishes.mtu, Some(1300));
    assert_eq!(wishes.dns.unwrap().search.unwrap(), ["example.org"]);
    assert_eq!(wishes.ips, [("10.42.7.9".parse().unwrap(), Some(24)), ("fd77::9".parse().unwrap(), None)]);
    assert_eq!(wishes.mac.unwrap().0, [2, 0, 0, 0, 0, 10]);
    assert_eq!(wishes.name.as_deref(), Some("web"));
    let published = |ip: Option<&str>, host, container, protocol| Published {
        ip: ip.map(|ip| ip.parse().unwrap()),
        host,
        container,
        protocol,
    };
    let ports = [
        published(None, 8080, 80, Protocol::Tcp),
        published(Some("192.0.2.1"), 53, 5353, Protocol::Udp),
        published(None, 1, 1, Protocol::Tcp),
        published(Some("192.0.2.2"), 81, 8, Protocol::Udp),
    ];
    assert_eq!(wishes.ports, ports);
}

#[test]
fn the_deprecated_variable_counts_only_if_nothing_else_says_the_same() {
    let network = network(&json!({"name": "adit"})).unwrap();
    let arguments = Arguments { ips: vec![("10.42.7.1".parse().unwrap(), None)], mac: Some(Mac([2; 6])), name: None };
    let ip = |value: Value| {
        let wishes = super::wishes(value.to_string().as_bytes(), &network, arguments.clone()).unwrap();
        (wishes.ips[0].0.to_string(), wishes.mac.unwrap().0[5])
    };
    assert_eq!(ip(json!({})), ("10.42.7.1".to_owned(), 2));
    let args =
        json!({"cni": {"ips": ["10.42.7.2"], "mac": "02:00:00:00:00:03", "labels": [{"key": "app", "value": "x"}]}});
    assert_eq!(ip(json!({"args": args.clone()})), ("10.42.7.2".to_owned(), 3));
    let runtime = json!({"ips": ["10.42.7.3"], "mac": "02:00:00:00:00:04"});
    assert_eq!(ip(json!({"args": args, "runtimeConfig": runtime})), ("10.42.7.3".to_owned(), 4));
}

#[test]
fn collecting_without_a_word_of_what_is_to_stay_is_refused() {
    for text in ["{}", r#"{"cni.dev/valid-attachments": null}"#] {
        assert_eq!(valid(text.as_bytes()).unwrap_err().code, Code::InvalidConfiguration, "{text}");
    }
    assert_eq!(valid(br#"{"cni.dev/valid-attachments": []}"#).unwrap(), []);
    let one = valid(br#"{"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}"#).unwrap();
    assert_eq!(one, [Attachment { container: "c1".into(), interface: "eth0".into() }]);
    assert_eq!(valid(br#"{"cni.dev/valid-attachments": [{"containerID": "c1"}]}"#).unwrap_err().code, Code::Decode);
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    let deep = |levels: usize| format!(r#"{{"name":"adit","other":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    check(deep(100).as_bytes()).unwrap();
    for levels in [128, 1000, 100_000] {
        assert_eq!(check(deep(levels).as_bytes()).unwrap_err().code, Code::Decode);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(text: Vec<u8>) {
        let _ = check(&text);
        let _ = super::network(&text);
        let _ = previous(&text);
        let _ = valid(&text);
    }

    #[test]
    fn any_address_is_read_or_refused(text in "[0-9a-f.:/]{0,24}") {
        if let Ok((ip, length)) = wanted(&text) {
            prop_assert!(length.is_none_or(|length| ipnet::IpNet::new(ip, length).is_ok()));
        }
        if let Ok(mac) = text.parse::<Mac>() {
            prop_assert_eq!(mac.0[0] & 1, 0);
        }
    }
}
