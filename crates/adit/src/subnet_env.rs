//! `subnet.env`: what a node holds, in flannel's format (`WriteSubnetFile` of flannel's pkg/subnet/subnet.go), for its CNI plugin, its script
//! for Docker, and whatever else reads it.
//!
//! Which files were written, and what was in them, is noted in the state directory: they go at `adit down` unless they are somebody else's by
//! then.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::Overlay;
use crate::{Failure, Result, files};

/// The largest file that is read back, in bytes; one of ours has less than 300.
const MAX_FILE: u64 = 64 * 1024;

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The network and our subnet of it, of IPv4.
    pub v4: Option<(Ipv4Net, Ipv4Net)>,
    /// The same of IPv6.
    pub v6: Option<(Ipv6Net, Ipv6Net)>,
    /// Largest packet of the device, in bytes.
    pub mtu: u32,
    /// Whether what leaves the network is masqueraded; who reads it then does not do so once more.
    pub masquerade: bool,
}

impl SubnetEnv {
    /// What a node holds by its lease.
    pub fn new(overlay: &Overlay, mtu: u32) -> Self {
        let v4 = |nets: &[IpNet]| nets.iter().find_map(|net| if let IpNet::V4(net) = net { Some(*net) } else { None });
        let v6 = |nets: &[IpNet]| nets.iter().find_map(|net| if let IpNet::V6(net) = net { Some(*net) } else { None });
        Self {
            v4: v4(&overlay.networks).zip(v4(&overlay.subnets)),
            v6: v6(&overlay.networks).zip(v6(&overlay.subnets)),
            mtu,
            masquerade: overlay.masquerade,
        }
    }
}

impl fmt::Display for SubnetEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((network, subnet)) = &self.v4 {
            let first = Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1));
            writeln!(f, "FLANNEL_NETWORK={}", network.trunc())?;
            writeln!(f, "FLANNEL_SUBNET={first}/{}", subnet.prefix_len())?;
        }
        if let Some((network, subnet)) = &self.v6 {
            let first = Ipv6Addr::from(u128::from(subnet.network()).saturating_add(1));
            writeln!(f, "FLANNEL_IPV6_NETWORK={}", network.trunc())?;
            writeln!(f, "FLANNEL_IPV6_SUBNET={first}/{}", subnet.prefix_len())?;
        }
        writeln!(f, "FLANNEL_MTU={}", self.mtu)?;
        writeln!(f, "FLANNEL_IPMASQ={}", self.masquerade)
    }
}

/// The subnets that a file of an earlier run names, which a node asks for again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Previous {
    /// Of IPv4.
    pub v4: Option<Ipv4Net>,
    /// Of IPv6.
    pub v6: Option<Ipv6Net>,
}

impl Previous {
    /// Reads a text as flannel reads it: lists with commas are taken, what is no prefix in them is passed over, and of more than one none
    /// counts.
    pub fn parse(text: &str) -> Self {
        let mut previous = Self::default();
        for line in text.lines() {
            let line = line.trim_start();
            let line = line.strip_prefix("export ").unwrap_or(line);
            let Some((key, value)) = line.split_once('=') else { continue };
            let value = value.trim().trim_matches(['"', '\'']);
            match key.trim() {
                "FLANNEL_SUBNET" => previous.v4 = only(value).map(|net: Ipv4Net| net.trunc()),
                "FLANNEL_IPV6_SUBNET" => previous.v6 = only(value).map(|net: Ipv6Net| net.trunc()),
                _ => {}
            }
        }
        previous
    }

    /// What a file names; nothing if it is not there or cannot be read.
    pub fn read(path: &Path) -> Self {
        let is_small = fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_FILE);
        let text = is_small.then(|| fs::read(path).ok()).flatten().unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&text))
    }
}

fn only<T: std::str::FromStr>(value: &str) -> Option<T> {
    let mut all = value.split(',').filter_map(|text| text.trim().parse().ok());
    all.next().filter(|_| all.next().is_none())
}

/// The files that a node writes.
#[derive(Debug)]
pub struct SubnetFiles {
    /// Where it is noted what was written where.
    note: PathBuf,
}

/// What was written where.
type Written = BTreeMap<PathBuf, String>;

impl SubnetFiles {
    /// Those of the node of `device`.
    pub fn of(device: &str, state_dir: &Path) -> Self {
        Self { note: state_dir.join(format!("{device}.subnet-files")) }
    }

    /// Writes what the node holds to these files, each replaced as a whole, with the rights of flannel's (0644), and removes those that were
    /// written before and are not among them.
    ///
    /// # Errors
    /// The first file that could not be written; the others were.
    pub fn write(&self, paths: &[PathBuf], env: &SubnetEnv) -> Result<()> {
        let text = env.to_string();
        let before = self.noted()?;
        let now: Written = paths.iter().map(|path| (path.clone(), text.clone())).collect();
        // What is there and what will be: both can be told from others' files after a crash.
        let obsolete: Written = before.into_iter().filter(|(path, _)| !now.contains_key(path)).collect();
        self.note(&now.iter().chain(&obsolete).map(|(path, text)| (path.clone(), text.clone())).collect())?;
        let mut outcome = Ok(());
        for path in paths {
            let is_so = fs::read_to_string(path).is_ok_and(|present| present == text);
            if !is_so && let Err(e) = files::replace(path, text.as_bytes(), 0o644) {
                outcome = outcome
                    .and(Err(Failure::failed(format!("cannot write {}: {e}", path.display())).with_remedy(
                        "make its directory writable, or name another file in `subnet-files` under [network]",
                    )));
            }
        }
        if !obsolete.is_empty() {
            outcome = outcome.and(remove(&obsolete)).and_then(|()| self.note(&now));
        }
        outcome
    }

    /// Removes what was written, unless it is other than it was then. Without a note of it nothing is touched.
    ///
    /// # Errors
    /// What could not be removed; the rest was.
    pub fn remove(&self) -> Result<()> {
        let written = self.noted()?;
        remove(&written)?;
        match fs::remove_file(&self.note) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Failure::failed(format!("cannot remove {}: {e}", self.note.display())))
            }
            _ => Ok(()),
        }
    }

    fn noted(&self) -> Result<Written> {
        match fs::read(&self.note) {
            // One that is damaged tells nothing, and what nobody can tell from others' files stays.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Written::new()),
            Err(e) => Err(Failure::failed(format!("cannot read {}: {e}", self.note.display()))),
        }
    }

    fn note(&self, written: &Written) -> Result<()> {
        let failed = |e: &dyn fmt::Display| Failure::failed(format!("cannot write {}: {e}", self.note.display()));
        let text = serde_json::to_string(written).map_err(|e| failed(&e))?;
        files::replace(&self.note, text.as_bytes(), 0o644)
            .map_err(|e| failed(&e).with_remedy("make the directory writable, or choose another with --state-dir"))
    }
}

fn remove(written: &Written) -> Result<()> {
    let mut outcome = Ok(());
    for (path, text) in written {
        let is_ours = fs::read_to_string(path).is_ok_and(|present| present == *text);
        if is_ours && let Err(e) = fs::remove_file(path) {
            outcome = outcome.and(Err(Failure::failed(format!("cannot remove {}: {e}", path.display()))));
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use proptest::prelude::*;

    fn env() -> SubnetEnv {
        SubnetEnv {
            v4: Some(("10.5.0.0/16".parse().unwrap(), "10.5.72.0/24".parse().unwrap())),
            v6: None,
            mtu: 1472,
            masquerade: true,
        }
    }

    #[test]
    fn the_text_is_flannels() {
        let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";
        assert_eq!(env().to_string(), text);
        let six = ("fd00:12::/32".parse().unwrap(), "fd00:12:13::/56".parse().unwrap());
        let dual = SubnetEnv { v6: Some(six), masquerade: false, ..env() };
        assert_eq!(
            dual.to_string(),
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_IPV6_NETWORK=fd00:12::/32\n\
             FLANNEL_IPV6_SUBNET=fd00:12:13::1/56\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
        );
        let only = SubnetEnv { v4: None, ..dual };
        assert!(only.to_string().starts_with("FLANNEL_IPV6_NETWORK="));
    }

    #[test]
    fn it_is_read_as_flannel_reads_it() {
        let v4 = |text: &str| Previous::parse(text).v4.map(|net| net.to_string());
        for (text, subnet) in [
            ("FLANNEL_SUBNET=10.5.72.1/24\n", Some("10.5.72.0/24")),
            ("# a comment\nexport FLANNEL_SUBNET='10.5.72.1/24'", Some("10.5.72.0/24")),
            ("FLANNEL_SUBNET=10.5.72.1/24,\n", Some("10.5.72.0/24")),
            ("FLANNEL_SUBNET=nonsense,10.5.72.1/24\n", Some("10.5.72.0/24")),
            ("FLANNEL_SUBNET=10.5.72.1/24,10.5.73.1/24\n", None),
            ("FLANNEL_SUBNET=10.5.72.1\n", None),
            ("FLANNEL_SUBNET=\n", None),
            ("FLANNEL_NETWORK=10.5.0.0/16\n", None),
            ("", None),
        ] {
            assert_eq!(v4(text).as_deref(), subnet, "{text}");
        }
        let both = Previous::parse("FLANNEL_SUBNET=10.5.72.1/24\r\nFLANNEL_IPV6_SUBNET=fd00:12:13::1/56\r\n");
        assert_eq!(both.v6, Some("fd00:12:13::/56".parse().unwrap()));
        assert!(both.v4.is_some());
        assert_eq!(Previous::read(Path::new("/dev/zero")), Previous::default());
        assert_eq!(Previous::read(Path::new("/nowhere")), Previous::default());
    }

    #[test]
    fn files_are_written_and_removed_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let files = SubnetFiles::of("adit0", &at("state"));
        files.remove().unwrap();
        let [one, two] = [at("run/adit/subnet.env"), at("run/flannel/subnet.env")];
        files.write(&[one.clone(), two.clone()], &env()).unwrap();
        for path in [&one, &two] {
            assert_eq!(fs::read_to_string(path).unwrap(), env().to_string());
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o644);
            assert_eq!(Previous::read(path).v4, Some("10.5.72.0/24".parse().unwrap()));
        }
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let (before, changed) = (inode(&one), SubnetEnv { mtu: 1400, ..env() });
        files.write(&[one.clone(), two.clone()], &env()).unwrap();
        assert_eq!(inode(&one), before, "nothing changed");
        // Another lease; one of the files is not asked for any more, and another program has the other by now.
        files.write(&[one.clone(), two.clone()], &changed).unwrap();
        assert!(fs::read_to_string(&one).unwrap().contains("MTU=1400"));
        files.write(std::slice::from_ref(&two), &changed).unwrap();
        assert!(!one.exists());
        fs::write(&two, "FLANNEL_NETWORK=10.244.0.0/16\n").unwrap();
        files.remove().unwrap();
        assert!(two.exists() && !at("state/adit0.subnet-files").exists());
        assert_eq!(fs::read_dir(at("run/flannel")).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_keeps_no_other_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "").unwrap();
        let files = SubnetFiles::of("adit0", directory.path());
        let failure = files.write(&[at("file/subnet.env"), at("subnet.env")], &env()).unwrap_err();
        assert!(failure.sentence().contains("file/subnet.env"), "{failure}");
        assert!(at("subnet.env").exists());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(?s).{0,200}") {
            Previous::parse(&text);
        }

        #[test]
        fn what_is_written_is_read(v4: (u32, u8), v6: (u128, u8), has: (bool, bool), mtu: u32, masquerade: bool) {
            let (v4, v6) = (
                Ipv4Net::new(v4.0.into(), v4.1 % 31).unwrap().trunc(),
                Ipv6Net::new(v6.0.into(), v6.1 % 127).unwrap().trunc(),
            );
            let env = SubnetEnv { v4: has.0.then_some((v4, v4)), v6: has.1.then_some((v6, v6)), mtu, masquerade };
            let read = Previous::parse(&env.to_string());
            prop_assert_eq!((read.v4, read.v6), (has.0.then_some(v4), has.1.then_some(v6)));
        }
    }
}
