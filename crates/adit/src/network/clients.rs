//! Phones and laptops that reach the network through this node, with the stock WireGuard apps.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use qrcodegen::{QrCode, QrCodeEcc};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::{Failure, Result, config};

/// How often a client says something, so that the mapping of a NAT before it lives.
const KEEPALIVE: u16 = 25;

/// The most clients of a node.
const MOST: usize = 1000;

/// A client.
#[derive(Clone)]
pub struct Client {
    /// Its name, unique on this node.
    pub name: String,
    /// Its key; the private half is with the client alone.
    pub public_key: PublicKey,
    /// A secret between it and this node.
    pub preshared_key: PresharedKey,
    /// Its addresses: one of each subnet of this node.
    pub addresses: Vec<IpNet>,
}

/// A client in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    public_key: String,
    preshared_key: String,
    addresses: Vec<IpNet>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.preshared_key.zeroize();
    }
}

/// Reads the clients of a file's text.
///
/// # Errors
/// What is wrong with it, as a clause.
pub fn read(text: &[u8]) -> std::result::Result<Vec<Client>, String> {
    let lines: Vec<Line> = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    if lines.len() > MOST {
        return Err(format!("there are more than {MOST} clients"));
    }
    let clients = lines.iter().map(|line| {
        let key = line.public_key.parse().map_err(|_| format!("the key of {} is none", line.name))?;
        let preshared = crate::key::secret_from_text(&line.preshared_key)
            .and_then(PresharedKey::from_bytes)
            .map_err(|_| format!("the preshared key of {} is none", line.name))?;
        Ok(Client {
            name: line.name.clone(),
            public_key: key,
            preshared_key: preshared,
            addresses: line.addresses.clone(),
        })
    });
    clients.collect()
}

/// The text of a file of clients.
pub fn write(clients: &[Client]) -> Zeroizing<Vec<u8>> {
    let lines: Vec<Line> = clients
        .iter()
        .map(|client| {
            let mut text = Zeroizing::new(Vec::new());
            // Into memory: this cannot fail.
            let _ = client.preshared_key.write(&mut *text);
            Line {
                name: client.name.clone(),
                public_key: client.public_key.to_string(),
                preshared_key: String::from_utf8_lossy(&text).trim().to_owned(),
                addresses: client.addresses.clone(),
            }
        })
        .collect();
    Zeroizing::new(serde_json::to_vec_pretty(&lines).unwrap_or_default())
}

/// Makes a client, and the key that only it shall have. Its addresses are none of the containers'.
///
/// # Errors
/// A name that is none or is taken; no free address; no randomness.
pub fn make(name: &str, clients: &[Client], containers: &[IpAddr], subnets: &[IpNet]) -> Result<(Client, PrivateKey)> {
    config::check_peer(name).map_err(|fault| Failure::usage(format!("{name:?} {fault}")))?;
    if clients.iter().any(|client| client.name.eq_ignore_ascii_case(name)) {
        return Err(Failure::failed(format!("there is a client {name} already"))
            .with_remedy(format!("choose another name, or remove it with `adit client remove {name}`")));
    }
    if clients.len() >= MOST {
        return Err(Failure::failed(format!("this node has {MOST} clients, which is the most")));
    }
    let of_clients = clients.iter().flat_map(|client| &client.addresses).map(IpNet::addr);
    let taken: HashSet<IpAddr> = of_clients.chain(containers.iter().copied()).collect();
    let addresses = subnets
        .iter()
        .map(|subnet| {
            free_address(subnet, &taken)
                .ok_or_else(|| Failure::failed(format!("no address of {subnet} is left for another client")))
        })
        .collect::<Result<Vec<_>>>()?;
    if addresses.is_empty() {
        return Err(
            Failure::failed("this node has no subnet yet").with_remedy("start it with `adit up`, and try again")
        );
    }
    let failed = |e| Failure::failed(format!("cannot make a key: {e}"));
    let (key, preshared_key) = (PrivateKey::generate().map_err(failed)?, PresharedKey::generate().map_err(failed)?);
    Ok((Client { name: name.to_owned(), public_key: key.public_key(), preshared_key, addresses }, key))
}

/// The highest free address: containers are given addresses from below. At most a quarter of the subnet goes to clients.
fn free_address(subnet: &IpNet, taken: &HashSet<IpAddr>) -> Option<IpNet> {
    match subnet {
        IpNet::V4(net) => {
            let last = u32::from(net.broadcast()).checked_sub(1)?;
            let size = u32::from(net.broadcast()) - u32::from(net.network());
            let mut candidates = (0..size / 4).map(|below| IpAddr::from(Ipv4Addr::from(last - below)));
            candidates.find(|address| !taken.contains(address)).map(IpNet::from)
        }
        IpNet::V6(net) => {
            let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()).checked_sub(1)?);
            let most = ((last - first) / 4).min(MOST as u128 * 2);
            let mut candidates = (0..most).map(|below| IpAddr::from(Ipv6Addr::from(last - below)));
            candidates.find(|address| !taken.contains(address)).map(IpNet::from)
        }
    }
}

/// What the client's app is told.
pub struct Introduction<'a> {
    /// The client.
    pub client: &'a Client,
    /// Its key.
    pub key: &'a PrivateKey,
    /// The key of this node towards clients.
    pub node: &'a PublicKey,
    /// Where this node is reached.
    pub endpoint: &'a str,
    /// What is reached through it.
    pub networks: &'a [IpNet],
}

impl Introduction<'_> {
    /// As a file of wg-quick.
    pub fn conf(&self) -> Zeroizing<String> {
        let secret = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut text = Zeroizing::new(Vec::new());
            write(&mut text);
            Zeroizing::new(String::from_utf8_lossy(&text).trim().to_owned())
        };
        let key = secret(&|out| drop(self.key.write(out)));
        let preshared = secret(&|out| drop(self.client.preshared_key.write(out)));
        let list = |nets: &[IpNet]| nets.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ");
        let mut text = Zeroizing::new(String::with_capacity(512));
        let _ = write!(
            text,
            "[Interface]\nPrivateKey = {}\nAddress = {}\n\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nEndpoint = {}\nAllowedIPs = {}\n\
             PersistentKeepalive = {KEEPALIVE}\n",
            *key,
            list(&self.client.addresses),
            self.node,
            *preshared,
            self.endpoint,
            list(self.networks),
        );
        text
    }

    /// As a code that the app scans from a terminal.
    ///
    /// # Errors
    /// There is more to say than a code holds.
    pub fn qr(&self) -> Result<Zeroizing<String>> {
        let code = QrCode::encode_text(&self.conf(), QrCodeEcc::Low)
            .map_err(|_| Failure::failed("the configuration is too long for a QR code").with_remedy("use --conf"))?;
        Ok(draw(&code))
    }
}

/// Two rows of modules in one line of text, light on dark, with the quiet zone that scanners need.
fn draw(code: &QrCode) -> Zeroizing<String> {
    const QUIET: i32 = 2;
    let mut text = Zeroizing::new(String::new());
    let range = -QUIET..code.size() + QUIET;
    for y in range.clone().step_by(2) {
        for x in range.clone() {
            let is_light = |y| !code.get_module(x, y);
            text.push(match (is_light(y), is_light(y + 1)) {
                (true, true) => '\u{2588}',
                (true, false) => '\u{2580}',
                (false, true) => '\u{2584}',
                (false, false) => ' ',
            });
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnets() -> Vec<IpNet> {
        ["10.42.7.0/24", "fd00:0:0:7::/64"].map(|text| text.parse().unwrap()).to_vec()
    }

    #[test]
    fn clients_have_addresses_from_above_and_keep_them() {
        let mut clients = Vec::new();
        for (name, v4) in [("phone", "10.42.7.254/32"), ("laptop", "10.42.7.253/32")] {
            let (client, _) = make(name, &clients, &[], &subnets()).unwrap();
            assert_eq!(client.addresses[0].to_string(), v4);
            clients.push(client);
        }
        assert_eq!(clients[1].addresses[1].to_string(), "fd00::7:ffff:ffff:ffff:fffd/128");
        let again = read(&write(&clients)).unwrap();
        assert_eq!(again[0].name, "phone");
        assert_eq!(again[1].addresses, clients[1].addresses);
        assert!(again[0].preshared_key == clients[0].preshared_key);
        clients.remove(0);
        assert_eq!(make("tablet", &clients, &[], &subnets()).unwrap().0.addresses[0].to_string(), "10.42.7.254/32");
        assert!(make("LAPTOP", &clients, &[], &subnets()).is_err());
        assert!(make("a b", &clients, &[], &subnets()).is_err());
    }

    #[test]
    fn no_client_has_the_address_of_a_container() {
        let containers = ["10.42.7.254", "10.42.7.253", "fd00::7:ffff:ffff:ffff:fffe"].map(|ip| ip.parse().unwrap());
        let (client, _) = make("phone", &[], &containers, &subnets()).unwrap();
        let given: Vec<_> = client.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(given, ["10.42.7.252/32", "fd00::7:ffff:ffff:ffff:fffd/128"]);
    }

    #[test]
    fn a_quarter_of_a_small_subnet_is_theirs() {
        let small: Vec<IpNet> = vec!["10.0.0.0/29".parse().unwrap()];
        let (first, _) = make("a", &[], &[], &small).unwrap();
        assert_eq!(first.addresses[0].to_string(), "10.0.0.6/32");
        assert!(make("b", &[first], &[], &small).is_err());
    }

    #[test]
    fn the_configuration_is_one_that_we_read_too() {
        let (client, key) = make("phone", &[], &[], &subnets()).unwrap();
        let node = PrivateKey::generate().unwrap().public_key();
        let networks = ["10.42.0.0/16".parse().unwrap()];
        let introduction =
            Introduction { client: &client, key: &key, node: &node, endpoint: "192.0.2.1:7777", networks: &networks };
        let conf = introduction.conf();
        let tunnel = config::parse("/tmp/phone.conf".as_ref(), conf.to_string()).unwrap();
        assert_eq!(tunnel.peers[0].public_key, Some(node));
        assert_eq!(tunnel.peers[0].allowed_ips, networks);
        assert!(introduction.qr().unwrap().lines().count() > 20);
    }
}
