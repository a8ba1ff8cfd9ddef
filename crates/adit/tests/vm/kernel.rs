//! A stock kernel for a machine of QEMU, and what it starts with. The kernel is Debian's, unpacked below `target`: installed as a package it would
//! rebuild what this host starts with.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package whose dependency is the newest kernel for machines in clouds.
const NEWEST: &str = "linux-image-cloud-amd64";

/// A kernel and its modules.
pub(crate) struct Kernel {
    directory: PathBuf,
    version: String,
}

fn run(directory: &Path, program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("timeout");
    let output =
        command.args(["90", program]).args(arguments).current_dir(directory).env("LC_ALL", "C").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{program} {arguments:?}: {output:?}")) }
}

impl Kernel {
    /// The newest one, downloaded once.
    pub(crate) fn get() -> Self {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel");
        fs::create_dir_all(&cache).unwrap();
        let lock = File::create(cache.join("lock")).unwrap();
        lock.lock().unwrap();
        // What this host knows of packages, and else what we ask for, with nothing of the host changed.
        let lists = cache.join("lists");
        fs::create_dir_all(lists.join("partial")).unwrap();
        let ours = format!("Dir::State::Lists={}", lists.display());
        let known = Self::download(&cache, &[]);
        known
            .or_else(|first| {
                let options = ["-o", &ours, "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="];
                let update = [&options[..], &["-o", "APT::Sandbox::User=root", "update"]].concat();
                run(&cache, "apt-get", &update)?;
                Self::download(&cache, &options).map_err(|second| format!("{first}; {second}"))
            })
            .unwrap_or_else(|fault| panic!("no kernel for the machine: {fault}"))
    }

    fn download(cache: &Path, options: &[&str]) -> Result<Self, String> {
        let depends = run(cache, "apt-cache", &[options, &["depends", NEWEST]].concat())?;
        let package = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-")))
            .ok_or_else(|| format!("{NEWEST} depends on no kernel: {depends}"))?;
        let version = package.trim_start_matches("linux-image-").to_owned();
        let (directory, stage) = (cache.join(&version), cache.join("stage"));
        if !directory.exists() {
            let _ = fs::remove_dir_all(&stage);
            fs::create_dir_all(&stage).unwrap();
            let quiet = ["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "download", package];
            run(&stage, "apt-get", &[options, &quiet].concat())?;
            let archive = fs::read_dir(&stage).unwrap().next().unwrap().unwrap().path();
            run(&stage, "dpkg-deb", &["-x", archive.to_str().unwrap(), "."])?;
            run(&stage, "depmod", &["-b", ".", &version])?;
            fs::remove_file(archive).unwrap();
            // As a whole or not at all.
            fs::rename(&stage, &directory).unwrap();
        }
        Ok(Self { directory, version })
    }

    /// The image of the kernel.
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join(format!("boot/vmlinuz-{}", self.version))
    }

    /// The files of these modules and of those that they need, in the order in which they are to be loaded.
    fn modules(&self, names: &[&str]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for name in names {
            let arguments = ["-D", "-d", ".", "-S", &self.version, name];
            let text = run(&self.directory, "modprobe", &arguments).unwrap();
            let paths = text.lines().filter_map(|line| line.trim().strip_prefix("insmod "));
            let paths = paths.map(|path| PathBuf::from(path.trim()));
            found.extend(paths.collect::<Vec<_>>());
        }
        let mut seen = std::collections::HashSet::new();
        found.retain(|path| seen.insert(path.clone()));
        found
    }

    /// Files that a machine starts with: busybox, modules for a network card, `script` as its first process, and others by name.
    pub(crate) fn files(&self, script: &str, others: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Archive::default();
        for directory in ["bin", "dev", "proc", "sys", "etc", "modules"] {
            archive.add(directory, 0o040_755, (0, 0), &[]);
        }
        archive.add("dev/console", 0o020_600, (5, 1), &[]);
        archive.add("bin/busybox", 0o100_755, (0, 0), &busybox());
        let mut load = String::new();
        for path in self.modules(&["virtio_pci", "virtio_net"]) {
            let name = format!("modules/{}", path.file_name().unwrap().to_str().unwrap());
            archive.add(&name, 0o100_644, (0, 0), &fs::read(&path).unwrap());
            load.push_str(&format!("busybox insmod /{name}\n"));
        }
        for (name, bytes) in others {
            archive.add(name, 0o100_644, (0, 0), bytes);
        }
        let first = format!(
            "#!/bin/busybox sh\nexport PATH=/bin\n/bin/busybox --install -s /bin\nmount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\n{load}{script}"
        );
        archive.add("init", 0o100_755, (0, 0), first.as_bytes());
        archive.end()
    }
}

/// The program, wherever this host has it.
fn busybox() -> Vec<u8> {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|directory| directory.join("busybox")).find(|path| path.is_file());
    fs::read(found.expect("busybox is in no directory of $PATH")).unwrap()
}

/// An archive of cpio's format newc (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.count += 1;
        let length = u32::try_from(content.len()).unwrap();
        let name_length = u32::try_from(name.len() + 1).unwrap();
        let fields = [self.count, mode, 0, 0, 1, 0, length, 0, 0, device.0, device.1, name_length, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08X}").bytes()));
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}
