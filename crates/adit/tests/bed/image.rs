//! Images of containers without a registry: busybox, and what a program expects around it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
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

    /// An archive as `docker save` writes it, with two images of these files: `localhost/bb:1`, whose command is a shell, and
    /// `localhost/pause:1`, which does nothing, as the sandbox of a pod.
    pub(crate) fn saved(&self) -> PathBuf {
        let directory = self.directory.path().join("saved");
        fs::create_dir(&directory).unwrap();
        fs::hard_link(self.archive(), directory.join("layer.tar")).unwrap();
        let sum = text(Command::new("sha256sum").arg(self.archive()));
        let layer = format!("sha256:{}", sum.split_whitespace().next().unwrap());
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let images = [("bb", json!({"Cmd": ["/bin/sh"]})), ("pause", json!({"Entrypoint": ["/bin/sleep", "1000000"]}))];
        let manifests = images.map(|(name, mut config)| {
            config["Env"] = json!(["PATH=/bin"]);
            let rootfs = json!({"type": "layers", "diff_ids": [layer]});
            let image = json!({"architecture": architecture, "os": "linux", "config": config, "rootfs": rootfs});
            let file = format!("{name}.json");
            fs::write(directory.join(&file), image.to_string()).unwrap();
            json!({"Config": file, "RepoTags": [format!("localhost/{name}:1")], "Layers": ["layer.tar"]})
        });
        fs::write(directory.join("manifest.json"), json!(manifests).to_string()).unwrap();
        let archive = self.directory.path().join("saved.tar");
        text(Command::new("tar").arg("-C").arg(&directory).arg("-cf").arg(&archive).arg("."));
        archive
    }
}

/// What a program prints that succeeds.
fn text(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
