//! What ADD answers (CNI specification 1.1.0, section 5, "ADD Success"), in the form of each version, behind what plugins before us answered.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::config::Dns;
use super::{Code, Error, Version};
use crate::container::{Node, Record};

/// What was made.
#[derive(Debug)]
pub(super) struct Made<'a> {
    /// On which node.
    pub(super) node: &'a Node,
    /// The attachment.
    pub(super) record: &'a Record,
    /// The path of the namespace, as it was given.
    pub(super) netns: &'a Path,
    /// The link-layer address of the end on the host.
    pub(super) host_mac: Option<[u8; 6]>,
    /// The largest packet of the container.
    pub(super) mtu: u32,
    /// Whether all that is nowhere else goes to the network.
    pub(super) default_route: bool,
    /// What the configuration says of name servers.
    pub(super) dns: Option<Dns>,
}

/// The result as a runtime reads it.
///
/// # Errors
/// The result of the plugins before us is not of its form.
pub(super) fn result(version: Version, made: &Made<'_>, previous: Option<Value>) -> Result<Value, Error> {
    let mut result = match previous {
        None => Map::new(),
        Some(Value::Object(previous)) => previous,
        Some(_) => return Err(malformed("it is no object")),
    };
    result.insert("cniVersion".into(), version.to_string().into());
    let interfaces = list(&mut result, "interfaces")?;
    interfaces.extend(made.interfaces(version));
    let inside = interfaces.len().saturating_sub(1);
    let ips = list(&mut result, "ips")?;
    for ip in ips.iter_mut() {
        fit(ip, version)?;
    }
    ips.extend(made.ips(version, inside));
    list(&mut result, "routes")?.extend(made.routes());
    // What was asked of us counts, then what plugins before us said of name servers, then what the node says.
    let said = result.get("dns").and_then(Value::as_object).is_some_and(|dns| !dns.is_empty());
    if made.dns.is_some() || !said {
        result.insert("dns".into(), serde_json::to_value(made.dns()).unwrap_or_default());
    }
    Ok(Value::Object(result))
}

/// Sees that the result of the plugins before us can be gone on with.
///
/// # Errors
/// As [`result`].
pub(super) fn check(version: Version, previous: &Value) -> Result<(), Error> {
    let mut previous = previous.as_object().ok_or_else(|| malformed("it is no object"))?.clone();
    list(&mut previous, "interfaces")?;
    list(&mut previous, "routes")?;
    list(&mut previous, "ips")?.iter_mut().try_for_each(|ip| fit(ip, version))
}

/// A list of a result, which has none yet if nobody put anything there.
fn list<'a>(result: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Vec<Value>, Error> {
    let value = result.entry(key).or_insert_with(|| json!([]));
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut().ok_or_else(|| malformed(&format!("{key} is no list")))
}

/// An address of another plugin in the form of this version: to 0.4.0 each says its family.
fn fit(ip: &mut Value, version: Version) -> Result<(), Error> {
    let ip = ip.as_object_mut().ok_or_else(|| malformed("an entry of ips is no object"))?;
    if version >= Version::V1_0_0 {
        ip.remove("version");
        return Ok(());
    }
    let address = ip.get("address").and_then(Value::as_str).and_then(|text| text.parse::<IpNet>().ok());
    let address = address.ok_or_else(|| malformed("an entry of ips has no address"))?;
    ip.insert("version".into(), family(address.addr()).into());
    Ok(())
}

fn malformed(why: &str) -> Error {
    Error::new(Code::Decode, format!("prevResult is no result of a plugin: {why}"))
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "4" } else { "6" }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

impl Made<'_> {
    /// The bridge, the end on the host, and the one inside, as the stock plugin bridge lists them.
    fn interfaces(&self, version: Version) -> Vec<Value> {
        let (node, record) = (self.node, self.record);
        let mut interfaces = vec![
            json!({"name": node.bridge, "mac": text(node.bridge_mac())}),
            json!({"name": record.host_interface}),
            json!({"name": record.key.interface, "mac": text(record.mac), "sandbox": self.netns}),
        ];
        if let (Some(mac), Some(outside)) = (self.host_mac, interfaces.get_mut(1)) {
            outside["mac"] = text(mac).into();
        }
        if version >= Version::V1_1_0 {
            for (interface, mtu) in interfaces.iter_mut().zip([record.mtu(node, None), self.mtu, self.mtu]) {
                interface["mtu"] = mtu.into();
            }
        }
        interfaces
    }

    fn ips(&self, version: Version, inside: usize) -> Vec<Value> {
        let gateway = |net: &IpNet| self.gateway(net.addr().is_ipv4());
        let addresses = self.record.addresses.iter().map(|net| {
            let mut ip = json!({"address": net.to_string(), "interface": inside});
            if let Some(gateway) = gateway(net) {
                ip["gateway"] = gateway.to_string().into();
            }
            if version < Version::V1_0_0 {
                ip["version"] = family(net.addr()).into();
            }
            ip
        });
        addresses.collect()
    }

    fn routes(&self) -> Vec<Value> {
        let route =
            |to: String, is_v4: bool| self.gateway(is_v4).map(|gateway| json!({"dst": to, "gw": gateway.to_string()}));
        if self.default_route {
            let families = self.record.addresses.iter().map(|net| net.addr().is_ipv4());
            return families
                .filter_map(|is_v4| route(if is_v4 { "0.0.0.0/0" } else { "::/0" }.into(), is_v4))
                .collect();
        }
        let has = |is_v4: bool| self.record.addresses.iter().any(|net| net.addr().is_ipv4() == is_v4);
        // Where the whole network is one subnet, nothing of it is behind the gateway.
        let is_beyond = |net: &IpNet| !self.node.subnets.iter().any(|subnet| subnet.trunc() == *net);
        let networks =
            self.node.networks.iter().map(IpNet::trunc).filter(|net| has(net.addr().is_ipv4()) && is_beyond(net));
        networks.filter_map(|net| route(net.to_string(), net.addr().is_ipv4())).collect()
    }

    fn gateway(&self, is_v4: bool) -> Option<IpAddr> {
        self.node.gateways().map(|net| net.addr()).find(|ip| ip.is_ipv4() == is_v4)
    }

    /// What the configuration says, or the node's own resolver if its network has names.
    fn dns(&self) -> Dns {
        if let Some(dns) = &self.dns {
            return dns.clone();
        }
        let Some(domain) = &self.node.domain else { return Dns::default() };
        Dns {
            nameservers: Some(self.node.gateways().map(|net| net.addr().to_string()).collect()),
            search: Some(vec![format!("{}.{domain}", self.node.name)]),
            ..Dns::default()
        }
    }
}

/// Sees that the result of ADD, as its runtime kept it, is that of this attachment.
///
/// # Errors
/// It has not this interface or these addresses.
pub(super) fn agrees(previous: &Value, record: &Record, netns: &Path) -> Result<(), Error> {
    let differs =
        |what: String| Error::new(Code::NotAsMade, format!("{what} is not in prevResult; attach the container anew"));
    let entries = |key: &str| previous.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_inside = |interface: &&Value| {
        let is = |key: &str, word: Option<&str>| interface.get(key).and_then(Value::as_str) == word;
        is("name", Some(&record.key.interface)) && is("sandbox", netns.to_str())
    };
    if !entries("interfaces").iter().any(|interface| is_inside(&interface)) {
        return Err(differs(format!("the interface {} of {}", record.key.interface, netns.display())));
    }
    let has = |net: &IpNet| {
        let mut addresses = entries("ips").iter().filter_map(|ip| ip.get("address")?.as_str()?.parse::<IpNet>().ok());
        addresses.any(|address| address == *net)
    };
    match record.addresses.iter().find(|net| !has(net)) {
        Some(net) => Err(differs(format!("the address {net}"))),
        None => Ok(()),
    }
}

/// The routes of a result that are ours: those by way of the bridge.
///
/// # Errors
/// One of them is no route.
pub(super) fn routes(previous: &Value, node: &Node) -> Result<Vec<(IpNet, IpAddr)>, Error> {
    let gateways: Vec<IpAddr> = node.gateways().map(|net| net.addr()).collect();
    let routes = previous.get("routes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut ours = Vec::new();
    for route in routes {
        let word = |key: &str| route.get(key).and_then(Value::as_str);
        let to = word("dst")
            .and_then(|text| text.parse::<IpNet>().ok())
            .ok_or_else(|| malformed("a route leads nowhere"))?;
        let by = word("gw").and_then(|text| text.parse::<IpAddr>().ok());
        ours.extend(by.filter(|by| gateways.contains(by)).map(|by| (to, by)));
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::record::tests::record;

    const BOTH: [&str; 2] = ["10.42.7.2/24", "fd77:0:0:7::2/64"];

    fn node() -> Node {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        Node {
            device: "adit0".into(),
            name: "berlin".into(),
            domain: Some("adit".into()),
            bridge: "adit-br0".into(),
            networks: nets(&["10.42.0.0/16", "fd77::/48"]),
            subnets: nets(&["10.42.7.0/24", "fd77:0:0:7::/64"]),
            mtu: 1420,
            clients: Vec::new(),
            containers: None,
        }
    }

    fn answer(
        version: Version,
        addresses: &[&str],
        change: impl FnOnce(&mut Made<'_>),
        previous: Option<Value>,
    ) -> Result<Value, Error> {
        let (node, record) = (node(), record("c1", addresses));
        let mut made = Made {
            node: &node,
            record: &record,
            netns: Path::new("/run/netns/c1"),
            host_mac: Some([2, 0, 0, 0, 0, 9]),
            mtu: 1300,
            default_route: true,
            dns: None,
        };
        change(&mut made);
        result(version, &made, previous)
    }

    #[test]
    fn each_version_has_its_form() {
        for version in Version::ALL {
            let result = answer(version, &BOTH, |_| {}, None).unwrap();
            assert_eq!(result["cniVersion"], version.to_string());
            assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
            assert_eq!(result["interfaces"][2]["sandbox"], "/run/netns/c1");
            assert_eq!(result["interfaces"][0].get("sandbox"), None);
            for (n, (address, family)) in BOTH.iter().zip(["4", "6"]).enumerate() {
                assert_eq!(result["ips"][n]["address"], *address);
                assert_eq!(result["ips"][n]["interface"], 2);
                let is = result["ips"][n].get("version").and_then(Value::as_str);
                assert_eq!(is, (version < Version::V1_0_0).then_some(family), "{version}");
            }
            let mtu: Vec<_> = (0..3).map(|n| result["interfaces"][n].get("mtu").and_then(Value::as_u64)).collect();
            let expected = if version == Version::V1_1_0 { [Some(1420), Some(1300), Some(1300)] } else { [None; 3] };
            assert_eq!(mtu, expected, "{version}");
            assert_eq!(
                result["routes"],
                json!([{"dst": "0.0.0.0/0", "gw": "10.42.7.1"}, {"dst": "::/0", "gw": "fd77:0:0:7::1"}])
            );
            assert_eq!(
                result["dns"],
                json!({"nameservers": ["10.42.7.1", "fd77:0:0:7::1"], "search": ["berlin.adit"]})
            );
        }
    }

    #[test]
    fn without_a_default_route_only_the_network_is_routed() {
        let result = answer(Version::LATEST, &BOTH[..1], |made| made.default_route = false, None).unwrap();
        assert_eq!(result["routes"], json!([{"dst": "10.42.0.0/16", "gw": "10.42.7.1"}]));
    }

    #[test]
    fn what_the_configuration_says_of_names_goes_first() {
        let dns = Dns { nameservers: Some(vec!["192.0.2.53".into()]), ..Dns::default() };
        for previous in [None, Some(json!({"dns": {"nameservers": ["192.0.2.1"]}}))] {
            let result = answer(Version::LATEST, &BOTH, |made| made.dns = Some(dns.clone()), previous).unwrap();
            assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"]}));
        }
    }

    #[test]
    fn what_plugins_before_us_made_stays_and_ours_comes_behind() {
        let previous = json!({
            "cniVersion": "0.4.0",
            "interfaces": [{"name": "other0", "sandbox": "/run/netns/c1", "pciID": "0000:00:1f.6"}],
            "ips": [{"version": "4", "address": "192.0.2.7/24", "interface": 0}],
            "routes": [{"dst": "198.51.100.0/24"}],
            "dns": {"nameservers": ["192.0.2.1"]},
            "future": 1,
        });
        for version in Version::ALL {
            let result = answer(version, &BOTH[..1], |_| {}, Some(previous.clone())).unwrap();
            assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
            assert_eq!(result["interfaces"].as_array().unwrap().len(), 4);
            assert_eq!(result["ips"][0]["address"], "192.0.2.7/24");
            assert_eq!(result["ips"][0].get("version").is_some(), version < Version::V1_0_0);
            assert_eq!(result["ips"][0]["interface"], 0);
            assert_eq!(result["ips"][1]["interface"], 3);
            assert_eq!(result["routes"][0], previous["routes"][0]);
            assert_eq!(result["routes"][1]["gw"], "10.42.7.1");
            assert_eq!(result["dns"], previous["dns"]);
            assert_eq!(result["future"], 1);
        }
        let newer = json!({"ips": [{"address": "fd00::1/64"}], "interfaces": null});
        let result = answer(Version::V0_3_1, &BOTH[..1], |_| {}, Some(newer)).unwrap();
        assert_eq!(result["ips"][0]["version"], "6");
    }

    #[test]
    fn a_result_of_another_form_is_refused() {
        for previous in [
            json!(1),
            json!([]),
            json!({"interfaces": {}}),
            json!({"ips": "10.42.7.2"}),
            json!({"ips": [1]}),
            json!({"routes": 1}),
        ] {
            let error = answer(Version::LATEST, &BOTH, |_| {}, Some(previous.clone())).unwrap_err();
            assert_eq!(error.code, Code::Decode, "{previous}");
        }
        let error = answer(Version::V0_4_0, &BOTH, |_| {}, Some(json!({"ips": [{"address": "here"}]}))).unwrap_err();
        assert_eq!(error.code, Code::Decode);
    }

    #[test]
    fn a_result_of_another_attachment_is_told() {
        let (record, netns) = (record("c1", &BOTH), Path::new("/run/netns/c1"));
        let kept = answer(Version::LATEST, &BOTH, |_| {}, None).unwrap();
        agrees(&kept, &record, netns).unwrap();
        let mut changed = kept.clone();
        changed["interfaces"][2]["mac"] = "02:00:00:00:00:ff".into();
        agrees(&changed, &record, netns).unwrap();
        let spoilt: [fn(&mut Value); 5] = [
            |result| result["interfaces"][2]["name"] = "eth1".into(),
            |result| result["interfaces"][2]["sandbox"] = "/run/netns/c2".into(),
            |result| result["ips"][1]["address"] = "fd77:0:0:7::3/64".into(),
            |result| result["ips"] = json!([]),
            |result| *result = json!({}),
        ];
        for spoil in spoilt {
            let mut result = kept.clone();
            spoil(&mut result);
            assert_eq!(agrees(&result, &record, netns).unwrap_err().code, Code::NotAsMade, "{result}");
        }
    }
}
