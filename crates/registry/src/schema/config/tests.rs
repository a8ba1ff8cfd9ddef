use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<NetworkConfig, ConfigError> {
    NetworkConfig::parse(text.as_bytes())
}

fn ends(text: &str) -> (u8, String, String) {
    let config = parse(text).unwrap();
    let pool = config.v4.or(config.v6).unwrap();
    (pool.subnet_len, pool.min.to_string(), pool.max.to_string())
}

#[test]
fn flannels_defaults() {
    let expect =
        |text: &str, len, min: &str, max: &str| assert_eq!(ends(text), (len, min.into(), max.into()), "{text}");
    expect(r#"{"Network":"10.3.0.0/16"}"#, 24, "10.3.1.0", "10.3.255.0");
    expect(r#"{"Network":"10.3.9.9/16"}"#, 24, "10.3.1.0", "10.3.255.0");
    expect(r#"{"network":"10.3.0.0/16","SUBNETLEN":28}"#, 28, "10.3.0.16", "10.3.255.240");
    expect(r#"{"Network":"10.3.0.0/16","SubnetLen":0,"SubnetMin":"0.0.0.0"}"#, 24, "10.3.1.0", "10.3.255.0");
    expect(r#"{"Network":"10.3.0.0/22"}"#, 24, "10.3.1.0", "10.3.3.0");
    expect(r#"{"Network":"10.3.0.0/23"}"#, 25, "10.3.0.128", "10.3.1.128");
    expect(r#"{"Network":"10.3.0.0/28"}"#, 30, "10.3.0.4", "10.3.0.12");
    expect(r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.0"}"#, 24, "10.3.5.0", "10.3.8.0");
    expect(r#"{"Network":"255.0.0.0/8"}"#, 24, "255.0.1.0", "255.255.255.0");
    let v6 = r#""EnableIPv4":false,"EnableIPv6":true"#;
    expect(&format!(r#"{{{v6},"IPv6Network":"fc00::/48"}}"#), 64, "fc00:0:0:1::", "fc00:0:0:ffff::");
    expect(&format!(r#"{{{v6},"IPv6Network":"fc00::/62"}}"#), 64, "fc00:0:0:1::", "fc00:0:0:3::");
    expect(&format!(r#"{{{v6},"IPv6Network":"fc00::/63"}}"#), 65, "fc00::8000:0:0:0", "fc00:0:0:1:8000::");
    expect(&format!(r#"{{{v6},"IPv6Network":"fc00::/124"}}"#), 126, "fc00::4", "fc00::c");
}

#[test]
fn families_are_switched() {
    let both = parse(r#"{"EnableIPv6":true,"Network":"10.3.0.0/16","IPv6Network":"fc00::/48","Unknown":[1]}"#).unwrap();
    assert_eq!(both.networks(), ["10.3.0.0/16".parse().unwrap(), "fc00::/48".parse().unwrap()]);
    let v4 = parse(r#"{"EnableIPv6":null,"Network":"10.3.0.0/16","IPv6Network":"junk"}"#).unwrap();
    assert!(v4.v4.is_some() && v4.v6.is_none());
    assert_eq!(parse(r#"{"EnableIPv4":false}"#), Err(ConfigError::NoFamily));
}

#[test]
fn backends() {
    let backend = |written: &str| parse(&format!(r#"{{"Network":"10.3.0.0/16"{written}}}"#));
    let kind = |written: &str| backend(written).map(|config| (config.backend, config.backend_is_written));
    assert_eq!(kind(""), Ok((Backend::Udp { port: 8285 }, false)));
    assert_eq!(kind(r#","Backend":{"Type":"adit"}"#), Ok((Backend::Adit, true)));
    assert_eq!(kind(r#","backend":{"type":"UDP"}"#), Ok((Backend::Udp { port: 8285 }, true)));
    assert_eq!(kind(r#","Backend":{"Type":"udp","Port":7890}"#), Ok((Backend::Udp { port: 7890 }, true)));
    assert_eq!(kind(r#","Backend":{"Type":"VXLAN","VNI":1}"#), Ok((Backend::Other("vxlan".into()), true)));
    for without in [r#","Backend":null"#, r#","Backend":{}"#, r#","Backend":"udp""#, r#","Backend":{"Type":""}"#] {
        assert_eq!(kind(without), Err(ConfigError::NoBackendType), "{without}");
    }
    for port in ["0", "65536", "-1", "\"8285\"", "1.5"] {
        assert_eq!(kind(&format!(r#","Backend":{{"Type":"udp","Port":{port}}}"#)), Err(ConfigError::Port), "{port}");
    }
}

#[test]
fn what_flannel_refuses_is_refused() {
    for (text, part) in [
        ("", "not a JSON object"),
        ("{}", "has no \"Network\""),
        (r#"{"Network":""}"#, "has no \"Network\""),
        (r#"{"Network":7}"#, "not a network"),
        (r#"{"Network":"10.3.0.0"}"#, "not a network"),
        (r#"{"Network":"fc00::/48"}"#, "not a network"),
        (r#"{"Network":"10.3.0.0/16","EnableIPv6":true}"#, "has no \"IPv6Network\""),
        (r#"{"Network":"0.0.0.0/0"}"#, "no host can be"),
        (r#"{"Network":"127.0.0.0/8"}"#, "no host can be"),
        (r#"{"Network":"224.0.0.0/8"}"#, "no host can be"),
        (r#"{"Network":"10.3.0.0/29"}"#, "too small"),
        (r#"{"Network":"10.3.0.0/16","SubnetLen":31}"#, "/30 is the longest"),
        (r#"{"Network":"10.3.0.0/16","SubnetLen":999999}"#, "/30 is the longest"),
        (r#"{"Network":"10.3.0.0/16","SubnetLen":17}"#, "room for four"),
        (r#"{"Network":"10.3.0.0/16","SubnetLen":-1}"#, "not a whole number"),
        (r#"{"Network":"10.3.0.0/16","SubnetLen":"24"}"#, "not a whole number"),
        (r#"{"Network":"10.3.0.0/16","SubnetMin":"10.4.1.0"}"#, "not in 10.3.0.0/16"),
        (r#"{"Network":"10.3.0.0/16","SubnetMax":"10.2.1.0"}"#, "not in 10.3.0.0/16"),
        (r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.1.1"}"#, "not the beginning of a /24"),
        (r#"{"Network":"10.3.0.0/16","SubnetMax":"10.3.1.128"}"#, "not the beginning of a /24"),
        (r#"{"Network":"10.3.0.0/16","SubnetMin":"fc00::"}"#, "not an IPv4 address"),
        (r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0"}"#, "before it begins"),
        (r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/125"}"#, "too small"),
        (
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":127}"#,
            "/126 is the longest",
        ),
        (r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":49}"#, "room for four"),
        (r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"::ffff/0"}"#, "no host can be"),
        (r#"{"EnableIPv4":1,"Network":"10.3.0.0/16"}"#, "not true or false"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn subnets_that_a_node_may_have() {
    let config = parse(r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.0"}"#).unwrap();
    for (key, expected) in [
        ("10.3.5.0-24", true),
        ("10.3.8.0-24", true),
        ("10.3.4.0-24", false),
        ("10.3.9.0-24", false),
        ("10.3.6.0-25", false),
        ("10.3.0.0-16", false),
        ("10.4.6.0-24", false),
        ("10.3.6.0-24&fc00::-64", false),
        ("0.0.0.0-0&fc00::-64", false),
    ] {
        assert_eq!(config.permits(&Subnets::from_key(key).unwrap()), expected, "{key}");
    }
    let both = parse(r#"{"EnableIPv6":true,"Network":"10.3.0.0/16","IPv6Network":"fc00::/48"}"#).unwrap();
    assert!(both.permits(&Subnets::from_key("10.3.6.0-24&fc00:0:0:7::-64").unwrap()));
    assert!(!both.permits(&Subnets::from_key("10.3.6.0-24").unwrap()));
    let pool = config.v4.unwrap();
    let all: Vec<_> = pool.subnets().map(|net| net.to_string()).collect();
    assert_eq!(all, ["10.3.5.0/24", "10.3.6.0/24", "10.3.7.0/24", "10.3.8.0/24"]);
}

#[test]
fn written_plainly() {
    let v4 = Pool::new("10.42.0.0/16".parse().unwrap(), None, None, None).ok();
    let config = NetworkConfig { v4, v6: None, backend: Backend::Adit, backend_is_written: true };
    assert_eq!(config.to_json(), br#"{"Network":"10.42.0.0/16","SubnetLen":24,"Backend":{"Type":"adit"}}"#);
}

fn any_pool(is_v4: bool) -> impl Strategy<Value = Pool> {
    (any::<u128>(), any::<u8>(), any::<u8>(), any::<[u16; 2]>()).prop_filter_map(
        "not a pool",
        move |(bits, len, subnet, cuts)| {
            let family = if is_v4 { &V4 } else { &V6 };
            let network = IpNet::new(family.address(bits), len % family.bits).ok()?.trunc();
            let pool = Pool::new(network, (subnet % 3 != 0).then_some(u64::from(subnet) / 2), None, None).ok()?;
            let mut at: Vec<_> = cuts
                .iter()
                .filter_map(|cut| pool.subnets().take(200).nth(usize::from(cut % 200)))
                .map(|net| net.addr())
                .collect();
            at.sort_unstable();
            Pool::new(network, Some(pool.subnet_len.into()), at.first().copied(), at.get(1).copied()).ok()
        },
    )
}

proptest! {
    #[test]
    fn configurations_come_back(
        v4 in prop::option::of(any_pool(true)), v6 in prop::option::of(any_pool(false)), port in 1u16.., kind in "[b-t]{1,9}", which in 0..4,
    ) {
        prop_assume!(v4.is_some() || v6.is_some());
        let backend = match which { 0 => Backend::Adit, 1 => Backend::Other(kind), _ => Backend::Udp { port: if which == 3 { 8285 } else { port } } };
        prop_assume!(backend != Backend::Other("udp".into()));
        let config = NetworkConfig { v4, v6, backend, backend_is_written: which != 3 };
        let text = config.to_json();
        prop_assert_eq!(NetworkConfig::parse(&text), Ok(config), "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn what_a_pool_gives_out_it_holds(pool in prop_oneof![any_pool(true), any_pool(false)]) {
        let mut before = None;
        for subnet in pool.subnets().take(50) {
            prop_assert!(pool.holds(&subnet) && pool.network.contains(&subnet));
            prop_assert!(before < Some(subnet));
            before = Some(subnet);
        }
        prop_assert!(before.is_some());
    }

    #[test]
    fn any_bytes_are_judged(
        bytes in prop::collection::vec(any::<u8>(), 0..200), network in "[0-9a-f.:/]{0,20}", len in any::<i64>(), min in "[0-9a-f.:]{0,20}",
    ) {
        let _ = NetworkConfig::parse(&bytes);
        let _ = parse(&format!(r#"{{"Network":"{network}","SubnetLen":{len},"SubnetMin":"{min}"}}"#));
        let _ = parse(&format!(r#"{{"Network":"10.0.0.0/{}","SubnetLen":{},"SubnetMin":"{min}"}}"#, len % 33, len % 40));
    }
}
