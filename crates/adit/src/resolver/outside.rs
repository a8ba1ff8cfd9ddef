//! The resolvers that the host itself asks (resolv.conf(5)).

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use linux::netlink::Netlink;

/// Where they stand.
pub(super) const FILE: &str = "/etc/resolv.conf";

/// As many are used, as by the C library (MAXNS).
const MOST: usize = 3;

/// As much of the file is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// How old what was read may be.
const FRESH: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(super) struct Outside {
    path: PathBuf,
    servers: Vec<SocketAddr>,
    read: Option<Instant>,
    /// The one that answered last.
    preferred: Option<SocketAddr>,
}

impl Outside {
    pub(super) fn of(path: PathBuf) -> Self {
        Self { path, servers: Vec::new(), read: None, preferred: None }
    }

    /// Whom to ask, in this order; never one of `own`, which are our own addresses.
    pub(super) fn servers(&mut self, own: impl Iterator<Item = IpAddr>) -> Vec<SocketAddr> {
        let now = Instant::now();
        if self.read.is_none_or(|read| now.saturating_duration_since(read) >= FRESH) {
            self.read = Some(now);
            self.servers = self.read();
        }
        let own: Vec<IpAddr> = own.collect();
        let mut servers: Vec<SocketAddr> = self.servers.iter().copied().filter(|at| !own.contains(&at.ip())).collect();
        // The others stay in the order of the file.
        servers.sort_by_key(|at| Some(*at) != self.preferred);
        servers
    }

    /// This one answers.
    pub(super) fn prefer(&mut self, server: SocketAddr) {
        self.preferred = Some(server);
    }

    fn read(&self) -> Vec<SocketAddr> {
        let mut text = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
        if let Err(e) = read {
            tracing::debug!("cannot read {}: {e}", self.path.display());
        }
        let index = |device: &str| {
            let link = Netlink::open().and_then(|mut netlink| netlink.link(device)).ok().flatten();
            link.map(|link| link.index)
        };
        parse(&String::from_utf8_lossy(&text), &index)
    }
}

/// The resolvers in the text of a file. `index` knows the numbers of devices.
fn parse(text: &str, index: &dyn Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("nameserver"), Some(word)) = (words.next(), words.next()) else { continue };
        let (word, device) = word.split_once('%').map_or((word, None), |(word, device)| (word, Some(device)));
        let Ok(ip) = word.parse::<IpAddr>() else { continue };
        let server = match (ip.to_canonical(), device) {
            // "This host", as the C library takes it.
            (IpAddr::V4(ip), _) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, 53)),
            (IpAddr::V6(ip), _) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, 53)),
            (IpAddr::V6(ip), Some(device)) => {
                let Some(scope) = device.parse().ok().or_else(|| index(device)) else { continue };
                SocketAddrV6::new(ip, 53, 0, scope).into()
            }
            (ip, _) => SocketAddr::new(ip, 53),
        };
        if !servers.contains(&server) && servers.len() < MOST {
            servers.push(server);
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_host_is_read_as_others_read_it() {
        let text = "# nameserver 1.1.1.1\n; nameserver 1.1.1.2\nnameserver 192.0.2.1 # first\n  nameserver\t2001:db8::1\nnameserver nonsense\n\
                    nameserver\nnameserver 192.0.2.1\nsearch example\nnameservers 192.0.2.9\nnameserver fe80::1%eth0\nnameserver 192.0.2.3\n";
        let index = |device: &str| (device == "eth0").then_some(7);
        let servers: Vec<String> = parse(text, &index).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53"]);
        let here: Vec<String> = parse("nameserver 0.0.0.0\nnameserver ::\nnameserver fe80::1%gone", &index)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(here, ["127.0.0.1:53", "[::1]:53"]);
        assert!(parse("", &index).is_empty());
    }

    #[test]
    fn we_never_ask_ourselves_and_who_answered_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let mut outside = Outside::of(path.clone());
        assert!(outside.servers([].into_iter()).is_empty());
        std::fs::write(&path, "nameserver 10.42.7.1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        outside.read = None;
        let own = || ["10.42.7.0", "10.42.7.1"].map(|text| text.parse::<IpAddr>().unwrap()).into_iter();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(outside.servers(own()), [at("192.0.2.1:53"), at("192.0.2.2:53")]);
        outside.prefer(at("192.0.2.2:53"));
        assert_eq!(outside.servers(own()), [at("192.0.2.2:53"), at("192.0.2.1:53")]);
        outside.prefer(at("10.42.7.1:53"));
        assert_eq!(outside.servers(own()), [at("192.0.2.1:53"), at("192.0.2.2:53")]);
    }
}
