//! An image of a container without a registry: busybox, and what a program expects around it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// Debian's, which is linked statically.
const BUSYBOX: &str = "/bin/busybox";

/// A root directory, and the same as an archive that runtimes import. It vanishes with this value.
pub(crate) struct Image {
    directory: TempDir,
}

impl Image {
    pub(crate) fn new() -> Self {
        let image = Self { directory: tempfile::tempdir().unwrap() };
        let root = image.rootfs();
        for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "www"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
        fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        for name in text(Command::new(BUSYBOX).arg("--list")).lines().filter(|name| *name != "busybox") {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        text(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(image.archive()).arg("."));
        image
    }

    /// Where it lies open.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    /// Where it is a tar file.
    pub(crate) fn archive(&self) -> PathBuf {
        self.directory.path().join("busybox.tar")
    }
}

/// What a program prints that succeeds.
fn text(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
