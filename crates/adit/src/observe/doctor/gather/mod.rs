//! The part that looks: kernel, daemons, registry. It changes nothing on the host. What it may not see is told as such, and never guessed.

mod daemon;
mod segmentation;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use linux::netlink::{Link, Netlink};
use linux::nft::{Listing, Nft, is_legacy_table_idle};
use linux::privilege::{self, Capability};
use linux::{clock, cpu, sysctl};

use super::facts::{Daemon, Facts, Host, Seen};
use crate::{Directories, Result, api};

/// What our own tables of packet filters begin with.
const OUR_TABLES: &str = "adit";

/// Looks at everything: at all daemons, or at that of `device`.
///
/// # Errors
/// The kernel does not even list devices; the runtime directory cannot be read.
pub fn gather(directories: &Directories, device: Option<&str>) -> Result<Facts> {
    let mut netlink = Netlink::open()?;
    let devices = match device {
        Some(device) => vec![device.to_owned()],
        None => api::daemons(&directories.runtime)?,
    };
    let before = reverse_filtered();
    let daemons: Vec<Daemon> =
        devices.iter().filter_map(|device| daemon::look(&mut netlink, directories, device)).collect();
    let after = reverse_filtered();
    let mut host = look(&mut netlink)?;
    host.reverse_filtered = before.zip(after);
    Ok(Facts { host, daemons })
}

fn look(netlink: &mut Netlink) -> Result<Host> {
    let links = netlink.links()?;
    Ok(Host {
        name: fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        root: privilege::has_capability(Capability::NetAdmin),
        tun: privilege::check_tun().map_err(|e| (e.errno().unwrap_or(0), e.to_string())),
        addresses: netlink.addresses(None)?,
        routes: netlink.routes(None)?,
        rules: netlink.rules()?,
        neighbours: netlink.neighbours(None).unwrap_or_default(),
        filters: filters(),
        legacy_tables: legacy_tables(),
        settings: settings(&links),
        links,
        synchronised: clock::is_synchronised(),
        now: clock::realtime(),
        aes: cpu::has_aes(),
        reverse_filtered: None,
        segmentation: segmentation::try_out(),
    })
}

/// The rules of others. Ours let through what they should: their own tests see to that.
fn filters() -> Seen<Listing> {
    if !privilege::has_capability(Capability::NetAdmin) {
        return Err("reading packet filters needs CAP_NET_ADMIN".into());
    }
    let mut listing = Nft::open().and_then(|mut nft| nft.listing()).map_err(|e| e.to_string())?;
    listing.chains.retain(|chain| !chain.table.starts_with(OUR_TABLES));
    listing.sets.retain(|set| !set.table.starts_with(OUR_TABLES));
    Ok(listing)
}

/// Tables of the former iptables that do something, or of which that is not known. One that is only registered, as listing it is enough for, has no rule.
fn legacy_tables() -> Vec<String> {
    let mut tables = Vec::new();
    for (v6, file, program) in [(false, "ip_tables_names", "iptables"), (true, "ip6_tables_names", "ip6tables")] {
        let text = fs::read_to_string(Path::new("/proc/thread-self/net").join(file)).unwrap_or_default();
        let in_use = text.lines().filter(|table| !is_legacy_table_idle(v6, table).unwrap_or(false));
        tables.extend(in_use.map(|table| format!("{program} {table}")));
    }
    tables
}

/// The settings that checks ask for, of all devices.
fn settings(links: &[Link]) -> BTreeMap<String, i64> {
    let mut all = BTreeMap::new();
    let mut note = |path: &[&str]| {
        // Where there is none, this host has no such family, device or switch.
        if let Some(value) = sysctl::get(path).ok().and_then(|text| text.parse().ok()) {
            all.insert(path.join("."), value);
        }
    };
    for device in links.iter().map(|link| link.name.as_str()).chain(["all", "default"]) {
        note(&["net", "ipv4", "conf", device, "rp_filter"]);
        note(&["net", "ipv4", "conf", device, "forwarding"]);
        note(&["net", "ipv6", "conf", device, "force_forwarding"]);
    }
    note(&["net", "ipv6", "conf", "all", "forwarding"]);
    note(&["net", "bridge", "bridge-nf-call-iptables"]);
    note(&["net", "bridge", "bridge-nf-call-ip6tables"]);
    all
}

/// How many packets the reverse-path filter has dropped.
fn reverse_filtered() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").ok()?;
    counter(&text, "TcpExt:", "IPReversePathFilter")
}

/// A counter of a file whose lines come in pairs, names and then values.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|word| word == name)?;
    values.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_name() {
        let text = "TcpExt: A B C\nTcpExt: 1 2 3\nIpExt: A\nIpExt: 9\n";
        assert_eq!(counter(text, "TcpExt:", "B"), Some(2));
        assert_eq!(counter(text, "IpExt:", "A"), Some(9));
        assert_eq!((counter(text, "TcpExt:", "D"), counter("", "TcpExt:", "A")), (None, None));
        assert!(reverse_filtered().is_some());
    }
}
