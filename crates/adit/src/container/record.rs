//! What a node has given to containers: a file per attachment, on disk before anything is made, so that whatever a killed program left behind can be
//! found and removed. The directory `<state>/<device>.containers` is also what gives addresses out: one is taken if a record has it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::leftovers::Damaged;
use super::{Fault, FaultKind, Node, Published};
use crate::{Directories, files};

/// The largest record that is read, in bytes: one with a thousand ports has about 80 KiB.
const MAX_FILE: u64 = 1 << 20;

/// The first process, which is always there.
const FIRST: u32 = 1;

/// The file that programs lock while they give addresses out.
const LOCK: &str = "lock";

/// The file that says which addresses were given out last.
const LAST: &str = "last";

/// By which door a container came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// A runtime that calls CNI plugins: Podman, containerd, CRI-O.
    Cni,
    /// Docker.
    Docker,
    /// `adit run`.
    Run,
    /// `adit vm-tap`: no container, but a virtual machine.
    Vm,
}

impl Door {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cni => "cni",
            Self::Docker => "docker",
            Self::Run => "run",
            Self::Vm => "vm",
        }
    }
}

/// What tells attachments of containers to networks apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// By which door it came.
    pub door: Door,
    /// The network, as the door calls it; empty where there is but one.
    pub network: String,
    /// The container, as the door calls it.
    pub container: String,
    /// Its device inside.
    pub interface: String,
}

impl Key {
    /// A number that stands for the key, as 16 hexadecimal digits.
    fn digest(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [self.door.as_str(), &self.network, &self.container, &self.interface] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The name of the veth end, or of the TAP, on the host: `ad` and 12 hexadecimal digits.
    pub fn host_interface(&self) -> String {
        format!("ad{:.12}", self.digest())
    }

    /// The name of the other end while it is on the host, for Docker to take: `ai` and 12 hexadecimal digits.
    pub fn inner_interface(&self) -> String {
        format!("ai{:.12}", self.digest())
    }

    fn file(&self) -> String {
        format!("{}.json", self.digest())
    }
}

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Only its address is given out.
    Reserved,
    /// It is being made; whoever makes it may have been killed.
    Making,
    /// It is there.
    Made,
}

/// A process, told apart from a later one with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in ticks since the host did (proc_pid_stat(5), field 22).
    pub started: u64,
}

impl Process {
    /// That with this number, if there is one.
    pub fn find(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is a name, which may contain anything.
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        // A dead one that nobody has asked about yet is none.
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X" | "x")).then_some(Self { pid, started })
    }

    /// Ourselves.
    pub fn current() -> Option<Self> {
        Self::find(std::process::id())
    }

    /// Whether there may be one with this number.
    pub fn may_be_there(pid: u32) -> bool {
        Self::find(pid).is_some() || Self::find(FIRST).is_none()
    }

    /// Whether it still runs. Whoever is not shown the processes of others (`hidepid` of proc(5)) cannot tell that one has ended.
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid) == Some(*self) || Self::find(FIRST).is_none()
    }
}

/// The card of a virtual machine, which is a TAP instead of a veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// The number of the user that may open it without rights over the network.
    pub owner: u32,
    /// As many pairs of queues; with one it is no multi-queue device.
    pub queues: u16,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether its bridge is a LAN, where it may say what it likes; else it is held to its own addresses, as containers are.
    pub lan: bool,
}

/// An attachment of a container to the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What tells it apart.
    #[serde(flatten)]
    pub key: Key,
    /// How far it has come.
    pub stage: Stage,
    /// Who makes it, or made it.
    pub maker: Option<Process>,
    /// The name under which others find it.
    pub name: Option<String>,
    /// The path of its network namespace, as it was given.
    pub netns: Option<PathBuf>,
    /// Device and inode of the namespace.
    pub netns_id: Option<(u64, u64)>,
    /// The bridge that it hangs on.
    pub bridge: String,
    /// Largest packet of that bridge in bytes. Records of earlier versions do not say it, nor do those of a LAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge_mtu: Option<u32>,
    /// The veth end, or the TAP, on the host.
    pub host_interface: String,
    /// The link-layer address inside.
    pub mac: [u8; 6],
    /// Its addresses, at most one per family, with the prefix length of the node's subnet.
    pub addresses: Vec<IpNet>,
    /// Ports of the host that lead to it.
    #[serde(default)]
    pub ports: Vec<Published>,
    /// Whether it may speak to no other isolated container of this host.
    #[serde(default)]
    pub isolated: bool,
    /// Of `adit run`: the first process inside.
    #[serde(default)]
    pub process: Option<Process>,
    /// Of a virtual machine: its card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<Tap>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

impl Record {
    /// How a person knows it: its name, or as much of its number as Docker and Podman show.
    pub fn title(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.key.container.chars().take(12).collect())
    }

    /// Largest packet of its own device in bytes, where `asked` was asked for: never more than the bridge's.
    pub fn mtu(&self, node: &Node, asked: Option<u32>) -> u32 {
        let most = self.bridge_mtu.unwrap_or(node.mtu);
        asked.map_or(most, |asked| asked.min(most))
    }

    /// The kernel's word for what its device on the host is.
    pub fn kind(&self) -> &'static str {
        if self.tap.is_some() { "tun" } else { "veth" }
    }

    /// Whether nobody will finish or undo it: its maker was killed before it was told of. One that was read a moment ago may have been finished since;
    /// [`Store::survey`] knows.
    pub fn is_abandoned(&self) -> bool {
        match self.stage {
            Stage::Making => self.maker.is_none_or(|maker| !maker.is_alive()),
            Stage::Reserved => false,
            // Its namespace ended with it.
            Stage::Made => self.key.door == Door::Run && self.process.is_some_and(|process| !process.is_alive()),
        }
    }
}

/// What is in the directory of the records.
#[derive(Debug, Default)]
pub struct Found {
    /// The records, the oldest first.
    pub records: Vec<Record>,
    /// Those that nobody will finish or undo.
    pub abandoned: Vec<Record>,
    /// Those that cannot be read.
    pub damaged: Vec<Damaged>,
    /// Files that somebody writes, or was killed while writing.
    pub unfinished: Vec<PathBuf>,
}

/// The records of a node.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    device: String,
}

impl Store {
    /// Its directory by one name, whatever it was given by; nothing where that above is not there.
    pub fn whole_directory(&self) -> Option<PathBuf> {
        let above = fs::canonicalize(self.directory.parent()?).ok()?;
        Some(above.join(self.directory.file_name()?))
    }

    /// Those of the node of `device`. Nothing is made yet.
    pub fn of(directories: &Directories, device: &str) -> Self {
        Self { directory: directories.state.join(format!("{device}.containers")), device: device.to_owned() }
    }

    /// The device of the node.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Those of the other nodes of this host.
    pub fn others(&self) -> Vec<Self> {
        let of = |path: PathBuf| {
            let device = path.file_name()?.to_str()?.strip_suffix(".containers")?.to_owned();
            (device != self.device).then_some(Self { directory: path, device })
        };
        let entries = self.directory.parent().and_then(|state| fs::read_dir(state).ok());
        entries.into_iter().flatten().flatten().filter_map(|entry| of(entry.path())).collect()
    }

    /// The device of another node of this host that has containers on this bridge.
    pub fn other_on(&self, bridge: &str) -> Option<String> {
        let hangs = |record: &Record| record.stage != Stage::Reserved && record.bridge == bridge;
        let has = |store: &Self| store.survey().is_ok_and(|found| found.records.iter().any(hangs));
        self.others().into_iter().find(has).map(|store| store.device)
    }

    /// The record of this key.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn read(&self, key: &Key) -> Result<Option<Record>, Fault> {
        read(&self.directory.join(key.file()))
    }

    /// All records, as they are at this moment. Ones that are damaged are named in the log, and passed over.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn read_all(&self) -> Result<Vec<Record>, Fault> {
        let (records, damaged) = self.read_each()?;
        damaged.iter().for_each(|fault| tracing::warn!("{fault}"));
        Ok(records)
    }

    /// All that is in the directory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn survey(&self) -> Result<Found, Fault> {
        let mut found = Found::default();
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(e) => return Err(self.failed("read", &e)),
        };
        for entry in entries {
            let path = entry.map_err(|e| self.failed("read", &e))?.path();
            if is_hidden(&path) {
                found.unfinished.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                match read(&path) {
                    // Its maker may have finished it, and then ended, since it was read. Now that it has ended, the record stays as it is.
                    Ok(Some(record)) if record.is_abandoned() => match read(&path) {
                        Ok(Some(again)) if again == record => found.abandoned.push(again),
                        Ok(again) => found.records.extend(again),
                        Err(fault) => found.damaged.push(Damaged { path, fault }),
                    },
                    Ok(record) => found.records.extend(record),
                    Err(fault) => found.damaged.push(Damaged { path, fault }),
                }
            }
        }
        sort(&mut found.records);
        Ok(found)
    }

    /// All records, as they are at this moment, and what is wrong with the others.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn read_each(&self) -> Result<(Vec<Record>, Vec<Fault>), Fault> {
        let mut found = self.survey()?;
        found.records.append(&mut found.abandoned);
        sort(&mut found.records);
        Ok((found.records, found.damaged.into_iter().map(|damaged| damaged.fault).collect()))
    }

    /// Waits until nobody else gives addresses out, and keeps others from it while the answer lives.
    ///
    /// # Errors
    /// The directory cannot be made, or the file not be locked.
    pub fn lock(&self) -> Result<Locked<'_>, Fault> {
        let locked = self.lock_file().and_then(|file| file.lock().map(|()| file));
        Ok(Locked { store: self, _file: locked.map_err(|e| self.failed("lock", &e))? })
    }

    /// The same without waiting: nothing while somebody else gives addresses out.
    ///
    /// # Errors
    /// As [`Store::lock`].
    pub fn try_lock(&self) -> Result<Option<Locked<'_>>, Fault> {
        let file = self.lock_file().map_err(|e| self.failed("lock", &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Locked { store: self, _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(self.failed("lock", &e)),
        }
    }

    fn lock_file(&self) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        OpenOptions::new().create(true).truncate(false).write(true).open(self.directory.join(LOCK))
    }

    /// Notes how far an attachment has come.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn update(&self, record: &Record) -> Result<(), Fault> {
        let text = serde_json::to_vec(record).map_err(|e| self.failed("write", &e.into()))?;
        let path = self.directory.join(record.key.file());
        files::replace_lightly(&path, &text, 0o600).map_err(|e| self.failed("write", &e))
    }

    /// Waits until a record is on disk, so that it survives a crash of the host too. Without the lock: those that come at once wait together.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn settle(&self, key: &Key) -> Result<(), Fault> {
        let settle = || {
            File::open(self.directory.join(key.file()))?.sync_all()?;
            File::open(&self.directory)?.sync_all()
        };
        settle().map_err(|e| self.failed("write", &e))
    }

    fn failed(&self, verb: &str, error: &io::Error) -> Fault {
        let directory = self.directory.display();
        Fault::new(
            FaultKind::Storage,
            format!("cannot {verb} {directory}: {error}; make the directory writable for root, with room on its disk"),
        )
    }
}

/// The records while nobody else gives addresses out.
#[derive(Debug)]
pub struct Locked<'a> {
    store: &'a Store,
    _file: File,
}

impl Locked<'_> {
    /// The device of the node.
    pub fn device(&self) -> &str {
        &self.store.device
    }

    /// All records.
    ///
    /// # Errors
    /// As [`Store::read_all`].
    pub fn records(&self) -> Result<Vec<Record>, Fault> {
        self.store.read_all()
    }

    /// Writes a record, which whoever takes the lock next will see. [`Store::settle`] waits for the disk.
    ///
    /// # Errors
    /// It cannot be written: then it is not there.
    pub fn put(&self, record: &Record) -> Result<(), Fault> {
        self.store.update(record)
    }

    /// All that is in the directory.
    ///
    /// # Errors
    /// As [`Store::survey`].
    pub fn survey(&self) -> Result<Found, Fault> {
        self.store.survey()
    }

    /// Removes a record; one that is not there is removed already.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, key: &Key) -> Result<(), Fault> {
        match fs::remove_file(self.store.directory.join(key.file())) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.store.failed("change", &e)),
            _ => Ok(()),
        }
    }

    /// Which addresses were given out last; a hint, so that one that cannot be read is none.
    pub fn last(&self) -> Vec<IpAddr> {
        let text = fs::read(self.store.directory.join(LAST)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Notes which addresses were given out last; of a family without one it is as it was.
    pub fn note_last(&self, addresses: &[IpNet]) {
        let mut ips: Vec<IpAddr> = addresses.iter().map(IpNet::addr).collect();
        let others =
            self.last().into_iter().filter(|last| !addresses.iter().any(|new| new.addr().is_ipv4() == last.is_ipv4()));
        ips.extend(others.collect::<Vec<_>>());
        let noted = serde_json::to_vec(&ips)
            .map_err(io::Error::from)
            .and_then(|text| files::replace_lightly(&self.store.directory.join(LAST), &text, 0o600));
        if let Err(e) = noted {
            tracing::debug!("{}", self.store.failed("write", &e));
        }
    }
}

fn sort(records: &mut [Record]) {
    records.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.key.cmp(&b.key)));
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn read(path: &Path) -> Result<Option<Record>, Fault> {
    let failed = |what: &dyn std::fmt::Display| {
        Fault::new(
            FaultKind::Storage,
            format!("the record {} is passed over: {what}; remove it if nothing uses it", path.display()),
        )
    };
    let length = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(failed(&"it is no file")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(&e)),
    };
    if length > MAX_FILE {
        return Err(failed(&"it is too long"));
    }
    let text = match fs::read(path) {
        Ok(text) => text,
        // Removed in this moment.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(&e)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| failed(&e))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn record(container: &str, addresses: &[&str]) -> Record {
        let key =
            Key { door: Door::Cni, network: "overlay".into(), container: container.into(), interface: "eth0".into() };
        Record {
            host_interface: key.host_interface(),
            key,
            stage: Stage::Made,
            bridge: "adit-br0".into(),
            bridge_mtu: None,
            maker: Process::current(),
            name: None,
            netns: Some("/run/netns/c1".into()),
            netns_id: Some((4, 4_026_532_000)),
            mac: [0x0a, 0x58, 10, 42, 7, 2],
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ports: super::super::ports::parse("8080:80").unwrap(),
            isolated: false,
            process: None,
            tap: None,
            created: 1_795_000_000,
        }
    }

    fn store(directory: &Path) -> Store {
        let directories = Directories { state: directory.into(), ..Directories::default() };
        Store::of(&directories, "adit0")
    }

    #[test]
    fn records_are_kept_and_a_damaged_one_keeps_none_of_the_others_from_being_read() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        assert!(store.read_all().unwrap().is_empty());
        let [one, two] = [record("c1", &["10.42.7.2/24"]), record("c2", &["10.42.7.3/24", "fd77::3/64"])];
        let locked = store.lock().unwrap();
        locked.put(&one).unwrap();
        locked.put(&two).unwrap();
        assert_eq!(locked.records().unwrap(), [one.clone(), two.clone()]);
        assert_eq!(store.read(&one.key).unwrap(), Some(one.clone()));
        let path = store.directory().join(one.key.file());
        let text = fs::read(&path).unwrap();
        for cut in 0..text.len() {
            fs::write(&path, &text[..cut]).unwrap();
            assert_eq!(store.read_all().unwrap(), std::slice::from_ref(&two));
        }
        locked.remove(&two.key).unwrap();
        locked.remove(&two.key).unwrap();
        assert!(store.read_all().unwrap().is_empty());
        assert_eq!(locked.last(), Vec::<IpAddr>::new());
        locked.note_last(&two.addresses);
        assert_eq!(locked.last(), ["10.42.7.3".parse::<IpAddr>().unwrap(), "fd77::3".parse().unwrap()]);
        locked.note_last(&one.addresses);
        assert_eq!(locked.last(), ["10.42.7.2".parse::<IpAddr>().unwrap(), "fd77::3".parse().unwrap()]);
    }

    #[test]
    fn keys_are_told_apart_by_all_of_their_parts() {
        let key = record("c1", &[]).key;
        let others = [
            Key { door: Door::Run, ..key.clone() },
            Key { network: "other".into(), ..key.clone() },
            Key { container: "c2".into(), ..key.clone() },
            Key { interface: "eth1".into(), ..key.clone() },
            Key { network: "overlayc".into(), container: "1".into(), ..key.clone() },
        ];
        for other in others {
            assert_ne!(other.host_interface(), key.host_interface());
        }
        assert!(linux::netlink::is_valid_name(&key.host_interface()));
    }

    #[test]
    fn a_maker_that_is_gone_is_told_from_one_that_is_not() {
        let mut record = Record { stage: Stage::Making, ..record("c1", &[]) };
        assert!(!record.is_abandoned());
        record.maker = Some(Process { started: 1, ..Process::current().unwrap() });
        assert!(record.is_abandoned());
        record.stage = Stage::Made;
        assert!(!record.is_abandoned());
    }

    proptest! {
        #[test]
        fn any_key_has_a_name_for_a_file_and_a_device(network: String, container: String, interface: String) {
            let key = Key { door: Door::Docker, network, container, interface };
            prop_assert!(linux::netlink::is_valid_name(&key.host_interface()));
            prop_assert_eq!(key.file().len(), 21);
        }
    }
}
