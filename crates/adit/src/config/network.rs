//! `[network]`: how this host takes part in a network of nodes, from what was written to what it means; and the file that
//! `adit init` and `adit join` write.

use std::{
    fmt::{Display, Write},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use linux::{netlink, sysctl};

use super::{
    document::{Document, Located},
    endpoint::Endpoint,
    error::Error,
    names,
    prefix::parse_network,
    raw,
    resolve::{self, refuse},
    resolved::{Network, PublicIp, RegistryAt},
};

/// The shortest life of a lease: a node that renews it at two thirds has seconds left for that.
const SHORTEST_TTL: Duration = Duration::from_secs(5);

/// The longest: a subnet of a node that is gone comes back within ten years.
const LONGEST_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A signed record has room for as many addresses.
const MOST_ADDRESSES: usize = 8;

/// As many registries are tried in turn.
const MOST_ENDPOINTS: usize = 32;

/// The longest prefix of the registry's keys, in bytes.
const LONGEST_PREFIX: usize = 255;

/// Why a text is not the URL of a registry, as the end of a sentence that began with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// `192.0.2.1:2379`, `ftp://192.0.2.1:2379`
    #[error(
        "is not a URL of a registry: write https:// or http:// before host and port, such as \"https://192.0.2.1:2379\""
    )]
    Scheme,
    /// `https://192.0.2.1`
    #[error("has no host and port that can be called: write both, such as \"https://192.0.2.1:2379\"")]
    Endpoint,
    /// `https://192.0.2.1:2379/v3`
    #[error("has more than scheme, host and port: write these alone, such as \"https://192.0.2.1:2379\"")]
    More,
}

/// Why a text is no prefix of the registry's keys, as the end of a sentence that began with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a prefix of keys: write one that begins with '/' and does not end with it, of letters, digits, '/', '-', '_' and '.', \
     such as \"/coreos.com/network\""
)]
pub struct PrefixError;

/// The URL of a registry as it is called: scheme, host and port.
///
/// # Errors
/// Anything else, and anything beyond these.
pub fn registry_url(text: &str) -> Result<String, RegistryError> {
    let (scheme, rest) = text.split_once("://").ok_or(RegistryError::Scheme)?;
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err(RegistryError::Scheme);
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err(RegistryError::More);
    }
    let endpoint: Endpoint = rest.parse().map_err(|_| RegistryError::Endpoint)?;
    Ok(format!("{scheme}://{endpoint}"))
}

/// Checks a prefix of the registry's keys.
///
/// # Errors
/// One that keys could not be made with, or told apart by.
pub fn check_key_prefix(text: &str) -> Result<(), PrefixError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.');
    let sound = text.len() <= LONGEST_PREFIX
        && text.starts_with('/')
        && !text.ends_with('/')
        && !text.contains("//")
        && text.bytes().all(is_plain);
    if sound { Ok(()) } else { Err(PrefixError) }
}

/// The name of this host, which is that of the node where the file gives none.
///
/// # Errors
/// A name that no node can have, with what to do.
pub fn host_name() -> Result<String, String> {
    let name = sysctl::get(&["kernel", "hostname"]).map_err(|error| error.to_string())?;
    names::check_peer(&name).map_err(|_| {
        format!(
            "this host is called {name:?}, which is no name for a node: write node-name = \"berlin\" under [network]"
        )
    })?;
    Ok(name)
}

/// Resolves the section. `device` is the name of the device.
pub(super) fn network(document: &Document, raw: raw::Network, device: &str) -> Result<Network, Error> {
    let Some(typed) = &raw.registry else {
        let needed = "[network] has no registry: write registry = \"embedded\" to hold it here, or the URL of one, such as \
                      \"https://192.0.2.1:2379\"";
        return Err(document.error(&raw.span, needed));
    };
    let registry = registry(document, typed)?;
    check_pairs(document, &raw, &registry)?;
    let path = |file: &raw::Text| file.as_ref().map(|file| beside(document, &file.value));
    let node_name = match &raw.node_name {
        Some(name) => {
            names::check_peer(&name.value).map_err(|_| {
                refuse(document, name, "is not a node name: it must have 1 to 63 letters, digits, '-', '_' or '.'")
            })?;
            name.value.clone()
        }
        None => host_name().map_err(|sentence| document.error(&raw.span, sentence))?,
    };
    let plain = raw.plain.as_ref().is_some_and(|plain| plain.value);
    let mut network = Network {
        public_ip: public_ip(document, &raw)?,
        tls_ca: path(&raw.tls_ca),
        tls_cert: path(&raw.tls_cert),
        tls_key: path(&raw.tls_key),
        user: raw.user.as_ref().map(|user| user.value.clone()),
        password_file: path(&raw.password_file),
        secret_file: path(&raw.secret_file),
        plain,
        plain_from: plain_from(document, &raw, plain)?,
        ip_masq: raw.ip_masq.is_none_or(|typed| typed.value),
        forward_rules: raw.forward_rules.is_none_or(|typed| typed.value),
        subnet_files: raw.subnet_files.map_or(Ok(Vec::new()), |typed| subnet_files(document, &typed))?,
        bridge: Network::bridge_of(device),
        ..Network::new(registry, node_name)
    };
    if let Some(prefix) = raw.prefix {
        check_key_prefix(&prefix.value).map_err(|fault| refuse(document, &prefix, fault))?;
        network.prefix = prefix.value;
    }
    if let Some(ttl) = raw.lease_ttl {
        network.lease_ttl = lease_ttl(document, &ttl)?;
    }
    if let Some(bridge) = raw.bridge {
        names::check_device(&bridge.value).map_err(|fault| refuse(document, &bridge, fault))?;
        if bridge.value == device {
            return Err(refuse(document, &bridge, "is the name of the device itself: choose another for the bridge"));
        }
        network.bridge = bridge.value;
    }
    if let Some(text) = raw.domain {
        network.domain = names::domain(&text.value).map_err(|fault| refuse(document, &text, fault))?;
    }
    if let Some(listen) = raw.registry_listen {
        network.registry_listen = resolve::listen(document, &listen, Network::REGISTRY_LISTEN.port())?;
    }
    Ok(network)
}

fn registry(document: &Document, typed: &Located<Vec<Located<String>>>) -> Result<RegistryAt, Error> {
    let mut endpoints: Vec<String> = Vec::new();
    for text in &typed.value {
        if text.value == "embedded" {
            if typed.value.len() == 1 {
                return Ok(RegistryAt::Embedded);
            }
            return Err(refuse(document, text, "cannot stand beside URLs: the registry is here or there"));
        }
        let url = registry_url(&text.value).map_err(|fault| match fault {
            RegistryError::Scheme => refuse(
                document,
                text,
                "is not a registry: write \"embedded\", or a URL with host and port, such as \"https://192.0.2.1:2379\"",
            ),
            fault => refuse(document, text, fault),
        })?;
        if endpoints.contains(&url) {
            return Err(refuse(document, text, "is there already: remove one of them"));
        }
        endpoints.push(url);
    }
    if endpoints.is_empty() || endpoints.len() > MOST_ENDPOINTS {
        let sentence =
            format!("registry is a list of {} URLs: write 1 to {MOST_ENDPOINTS}, or \"embedded\"", endpoints.len());
        return Err(document.error(&typed.span, sentence));
    }
    Ok(RegistryAt::Endpoints(endpoints))
}

/// What means nothing without another key, or beside another.
fn check_pairs(document: &Document, raw: &raw::Network, registry: &RegistryAt) -> Result<(), Error> {
    let needs = |has: &raw::Text, needed: &raw::Text, sentence: &str| match (has, needed) {
        (Some(text), None) => Err(document.error(&text.span, sentence)),
        _ => Ok(()),
    };
    needs(&raw.tls_cert, &raw.tls_key, "tls-cert has no key: write tls-key = \"…\" with the file of its private key")?;
    needs(&raw.tls_key, &raw.tls_cert, "tls-key has no certificate: write tls-cert = \"…\" with the file of it")?;
    needs(&raw.user, &raw.password_file, "user has no password: write password-file = \"…\" with the file of it")?;
    needs(&raw.password_file, &raw.user, "password-file has no user: write user = \"…\" with whose password it is")?;
    if let Some(user) = raw.user.as_ref().filter(|user| user.value.is_empty() || user.value.contains(char::is_control))
    {
        return Err(refuse(document, user, "is not a user of etcd: write the name of one"));
    }
    if *registry == RegistryAt::Embedded {
        let meaningless = [
            ("tls-ca", &raw.tls_ca),
            ("tls-cert", &raw.tls_cert),
            ("tls-key", &raw.tls_key),
            ("user", &raw.user),
            ("password-file", &raw.password_file),
        ];
        if let Some((key, text)) = meaningless.into_iter().find_map(|(key, text)| Some((key, text.as_ref()?))) {
            let sentence = format!("{key} is for a registry elsewhere, and this one is embedded: remove it");
            return Err(document.error(&text.span, sentence));
        }
        if let Some(text) = &raw.secret_file {
            let sentence = "secret-file is for a network without an authority, and one with an embedded registry has one: remove it";
            return Err(document.error(&text.span, sentence));
        }
    }
    Ok(())
}

fn public_ip(document: &Document, raw: &raw::Network) -> Result<PublicIp, Error> {
    let is_auto = |typed: &Located<Vec<Located<String>>>| matches!(&typed.value[..], [one] if one.value == "auto");
    let typed = raw.public_ip.as_ref().filter(|typed| !is_auto(typed));
    if let Some(card) = &raw.interface {
        if typed.is_some() {
            return Err(refuse(document, card, "stands beside addresses in public-ip: write one of the two"));
        }
        if !netlink::is_valid_name(&card.value) {
            return Err(refuse(document, card, "is not the name of a card: `ip link` shows those there are"));
        }
        return Ok(PublicIp::Interface(card.value.clone()));
    }
    let Some(typed) = typed else { return Ok(PublicIp::Auto) };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in &typed.value {
        let address: IpAddr = text
            .value
            .parse()
            .map_err(|_| refuse(document, text, "is not an address: write \"auto\", or one such as \"192.0.2.1\""))?;
        let address = address.to_canonical();
        let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let is_broadcast = address == IpAddr::from([255; 4]);
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_link_local || is_broadcast
        {
            return Err(refuse(document, text, "is no address where others reach this host: write one of those"));
        }
        if addresses.contains(&address) {
            return Err(refuse(document, text, "is there already: remove one of them"));
        }
        addresses.push(address);
    }
    if addresses.is_empty() || addresses.len() > MOST_ADDRESSES {
        let sentence =
            format!("public-ip is a list of {} addresses: write 1 to {MOST_ADDRESSES}, or \"auto\"", addresses.len());
        return Err(document.error(&typed.span, sentence));
    }
    Ok(PublicIp::Addresses(addresses))
}

fn plain_from(document: &Document, raw: &raw::Network, plain: bool) -> Result<Vec<IpNet>, Error> {
    match (&raw.plain_from, &raw.plain) {
        (Some(typed), _) if !plain => {
            let sentence = "plain-from has no meaning without plain = true: write that too, or remove this";
            Err(document.error(&typed.span, sentence))
        }
        (Some(typed), _) if !typed.value.is_empty() => typed
            .value
            .iter()
            .map(|text| parse_network(&text.value).map_err(|fault| refuse(document, text, fault)))
            .collect(),
        (_, Some(typed)) if plain => {
            let sentence = "plain = true needs to know whom to believe, since nothing proves who sent a datagram: write \
                            plain-from = [\"192.0.2.0/24\"], with the network that flannel's nodes are in";
            Err(document.error(&typed.span, sentence))
        }
        _ => Ok(Vec::new()),
    }
}

fn lease_ttl(document: &Document, text: &Located<String>) -> Result<Duration, Error> {
    let ttl = humantime::parse_duration(&text.value)
        .map_err(|_| refuse(document, text, "is not a duration: write a number and its unit, such as \"24h\""))?;
    if ttl.subsec_nanos() != 0 {
        Err(refuse(document, text, "is not the life of a lease: write whole seconds, such as \"24h\""))
    } else if ttl < SHORTEST_TTL {
        Err(refuse(document, text, "is too short for a lease: write \"5s\" or more"))
    } else if ttl > LONGEST_TTL {
        Err(refuse(document, text, "is too long for a lease: write \"3650days\" or less"))
    } else {
        Ok(ttl)
    }
}

fn subnet_files(document: &Document, typed: &Located<Vec<Located<String>>>) -> Result<Vec<PathBuf>, Error> {
    if typed.value.is_empty() {
        let sentence = "subnet-files is empty: write a path, or leave it out for /run/adit/subnet.env";
        return Err(document.error(&typed.span, sentence));
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for text in &typed.value {
        let file = beside(document, &text.value);
        if file.file_name().is_none() || text.value.ends_with('/') || text.value.contains('\0') {
            return Err(refuse(
                document,
                text,
                "is not the path of a file: write one such as \"/run/flannel/subnet.env\"",
            ));
        }
        if files.contains(&file) {
            return Err(refuse(document, text, "is there already: remove one of them"));
        }
        files.push(file);
    }
    Ok(files)
}

/// Relative paths start where the configuration is.
fn beside(document: &Document, file: &str) -> PathBuf {
    document.path.parent().unwrap_or(Path::new("")).join(file)
}

/// The text of the file that makes this host a node: what differs from the defaults, and the node's name, which is to outlive the
/// host's. `listen` is where datagrams arrive, if that is not the default.
pub fn network_file(device: &str, listen: Option<SocketAddr>, network: &Network) -> String {
    let mut file = Text(
        "# A node of an adit network. `adit status` shows what it does; docs/CONFIGURATION.md explains every key.\n"
            .into(),
    );
    if device != resolve::DEVICE_NAME {
        file.section("device");
        file.line("name", quoted(device));
    }
    if let Some(listen) = listen.filter(|listen| *listen != resolve::LISTEN) {
        file.section("transport");
        file.line("listen", quoted(listen));
    }
    file.section("network");
    let defaults = Network::new(network.registry.clone(), network.node_name.clone());
    match &network.registry {
        RegistryAt::Embedded => {
            file.comment("This host holds the registry. Others call it at `registry-listen`, by default [::]:7780.");
            file.line("registry", quoted("embedded"));
        }
        RegistryAt::Endpoints(endpoints) => {
            file.comment("Where the registry is. It is needed for changes only, not for packets.");
            match &endpoints[..] {
                [one] => file.line("registry", quoted(one)),
                several => file.line("registry", list(several)),
            }
        }
    }
    file.comment("What others call this node.");
    file.line("node-name", quoted(&network.node_name));
    if network.prefix != defaults.prefix {
        file.line("prefix", quoted(&network.prefix));
    }
    match &network.public_ip {
        PublicIp::Auto => {}
        PublicIp::Addresses(addresses) => file.line("public-ip", list(addresses)),
        PublicIp::Interface(card) => file.line("interface", quoted(card)),
    }
    if network.lease_ttl != defaults.lease_ttl {
        file.line("lease-ttl", quoted(humantime::format_duration(network.lease_ttl)));
    }
    if network.bridge != Network::bridge_of(device) {
        file.line("bridge", quoted(&network.bridge));
    }
    if network.domain != defaults.domain {
        file.line("domain", quoted(network.domain.as_deref().unwrap_or_default()));
    }
    let files = [
        ("tls-ca", &network.tls_ca),
        ("tls-cert", &network.tls_cert),
        ("tls-key", &network.tls_key),
        ("password-file", &network.password_file),
        ("secret-file", &network.secret_file),
    ];
    if let Some(user) = &network.user {
        file.line("user", quoted(user));
    }
    for (key, path) in files {
        if let Some(path) = path {
            file.line(key, quoted(path.display()));
        }
    }
    if network.plain {
        file.comment("flannel's own nodes are spoken to in the clear, and believed if they send from here.");
        file.line("plain", "true");
        file.line("plain-from", list(&network.plain_from));
    }
    for (key, value, default) in [
        ("ip-masq", network.ip_masq, defaults.ip_masq),
        ("forward-rules", network.forward_rules, defaults.forward_rules),
    ] {
        if value != default {
            file.line(key, value.to_string());
        }
    }
    if !network.subnet_files.is_empty() {
        let files: Vec<_> = network.subnet_files.iter().map(|path| path.display()).collect();
        file.line("subnet-files", list(&files));
    }
    if network.registry_listen != defaults.registry_listen {
        file.line("registry-listen", quoted(network.registry_listen));
    }
    file.0
}

/// The text so far.
struct Text(String);

impl Text {
    fn section(&mut self, name: &str) {
        self.push(format_args!("\n[{name}]\n"));
    }

    fn comment(&mut self, text: &str) {
        self.push(format_args!("# {text}\n"));
    }

    fn line(&mut self, key: &str, value: impl Display) {
        self.push(format_args!("{key} = {value}\n"));
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to memory does not fail.
        let _ = self.0.write_fmt(text);
    }
}

/// A string of TOML.
fn quoted(value: impl Display) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn list<T: Display>(values: &[T]) -> String {
    let values: Vec<_> = values.iter().map(quoted).collect();
    format!("[{}]", values.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_of_registries() {
        for (text, url) in [
            ("http://127.0.0.1:2379", Ok("http://127.0.0.1:2379")),
            ("HTTPS://[2001:db8::1]:2379/", Ok("https://[2001:db8::1]:2379")),
            ("https://Etcd.Example.org:2379", Ok("https://etcd.example.org:2379")),
            ("192.0.2.1:2379", Err(RegistryError::Scheme)),
            ("unix:///run/etcd", Err(RegistryError::Scheme)),
            ("https://192.0.2.1", Err(RegistryError::Endpoint)),
            ("https://:2379", Err(RegistryError::Endpoint)),
            ("https://192.0.2.1:0", Err(RegistryError::Endpoint)),
            ("https://192.0.2.1:2379/v3", Err(RegistryError::More)),
            ("https://root:secret@192.0.2.1:2379", Err(RegistryError::More)),
        ] {
            assert_eq!(registry_url(text).as_deref(), url.as_deref(), "{text}");
        }
    }

    #[test]
    fn prefixes_of_keys() {
        for good in ["/coreos.com/network", "/a", "/vxlan/network-2"] {
            assert_eq!(check_key_prefix(good), Ok(()), "{good}");
        }
        for bad in ["", "/", "coreos.com/network", "/a/", "/a//b", "/a b", "/a\0b", &format!("/{}", "x".repeat(255))] {
            assert_eq!(check_key_prefix(bad), Err(PrefixError), "{bad}");
        }
    }

    fn parsed(text: &str) -> super::super::Tunnel {
        super::super::parse(Path::new("/etc/adit/adit.toml"), text.to_owned()).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    #[test]
    fn the_least_that_init_writes_is_short() {
        let network = Network::new(RegistryAt::Embedded, "berlin".into());
        let text = network_file("adit0", None, &network);
        let keys: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert_eq!(keys, ["[network]", "registry = \"embedded\"", "node-name = \"berlin\""]);
        assert_eq!(parsed(&text).network, Some(network));
    }

    fn networks() -> impl Strategy<Value = Network> {
        let urls = prop::collection::hash_set("https?://[a-z]{1,8}\\.example:[1-9][0-9]{0,3}", 1..4);
        let registry =
            prop_oneof![Just(RegistryAt::Embedded), urls.prop_map(|u| RegistryAt::Endpoints(u.into_iter().collect()))];
        let addresses = prop::collection::hash_set(1_u32..0x7f00_0000, 1..=8).prop_map(|set| {
            PublicIp::Addresses(set.into_iter().map(|bits| IpAddr::from(bits.to_be_bytes())).collect())
        });
        let public =
            prop_oneof![Just(PublicIp::Auto), addresses, "[a-z][a-z0-9.@\"\\\\]{0,14}".prop_map(PublicIp::Interface)];
        let files = prop::collection::vec(prop::option::of("/[a-z\"'\\\\ ö]{1,12}"), 4);
        let subnets = prop::collection::hash_set("/run/[a-z \"\\\\]{1,8}[a-z]", 0..3);
        let plain = prop::option::of(prop::collection::vec(0_u8..=32, 1..3));
        let domain = prop::option::of("[a-z][a-z0-9]{4,9}(\\.[a-z0-9]{1,5})?");
        let names = ("[a-zA-Z0-9._-]{1,63}", "[a-z][a-z0-9]{1,5}-br[0-9]", domain);
        let more = (any::<bool>(), any::<bool>(), 5_u64..1_000_000, 1_u16.., names, plain);
        (registry, public, files, subnets, more).prop_map(|(registry, public_ip, files, subnets, more)| {
            let (ip_masq, forward_rules, ttl, port, (node_name, bridge, domain), plain) = more;
            let elsewhere = registry != RegistryAt::Embedded;
            let file = |at: usize| files[at].clone().filter(|_| elsewhere).map(PathBuf::from);
            let (tls_cert, tls_key) = file(1).zip(file(2)).unzip();
            let network = |length: u8| IpNet::new([198, 51, 100, 0].into(), length).unwrap().trunc();
            Network {
                prefix: format!("/{}", node_name.replace('.', "x")),
                public_ip,
                lease_ttl: Duration::from_secs(ttl),
                bridge,
                domain,
                tls_ca: file(0),
                user: file(3).map(|_| "root \"\\".into()),
                password_file: file(3),
                // It comes with a key, which is under [device].
                secret_file: None,
                tls_cert,
                tls_key,
                plain: plain.is_some(),
                plain_from: plain.unwrap_or_default().into_iter().map(network).collect(),
                ip_masq,
                forward_rules,
                subnet_files: subnets.into_iter().map(PathBuf::from).collect(),
                registry_listen: SocketAddr::from(([192, 0, 2, 1], port)),
                ..Network::new(registry, node_name)
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_it_was(network in networks(), port in 1_u16.., other in any::<bool>()) {
            let listen = SocketAddr::from(([0; 4], port));
            let (device, listen) = if other { ("adit7", Some(listen)) } else { ("adit0", None) };
            let text = network_file(device, listen, &network);
            let read = parsed(&text);
            prop_assert_eq!(read.network.as_ref(), Some(&network), "{}", text);
            prop_assert_eq!(&read.device.name, device);
            prop_assert_eq!(read.transport.listen_is_default, listen.is_none());
            prop_assert_eq!(read.transport.listen, listen.unwrap_or(resolve::LISTEN));
        }

        #[test]
        fn any_text_is_a_url_or_not(text in ".{0,60}") {
            if let Ok(url) = registry_url(&text) {
                prop_assert_eq!(registry_url(&url), Ok(url.clone()));
            }
            let _ = check_key_prefix(&text);
        }
    }
}
