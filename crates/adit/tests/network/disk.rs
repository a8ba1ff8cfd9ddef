//! A disk that is full, under the host that has the registry.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::bed::Bed;
use crate::world::{Node, all_talk, network};

/// A small disk of its own for the state of a node.
struct Disk(PathBuf);

impl Disk {
    fn of(node: &Node<'_>) -> Self {
        let path = node.path("state");
        fs::create_dir(&path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m,mode=755", "tmpfs"]).arg(&path).status();
        assert!(mounted.unwrap().success());
        Self(path)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves no byte.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filler()).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_holds_up_changes_and_ends_nothing() {
    let bed = Bed::new(3);
    let nodes: Vec<_> = bed.hosts.iter().map(Node::new).collect();
    let disk = Disk::of(&nodes[0]);
    let mut daemons = network(&nodes[..2], &["--network", "10.42.0.0/16"]);
    let containers: Vec<_> = nodes[..2].iter().map(Node::container).collect();
    all_talk(&containers);
    let token = nodes[0].token(&[]);

    disk.fill();
    // What cannot be written is refused, and said.
    let sentence = nodes[0].refused(&["token", "create"]);
    assert!(sentence.contains("No space left on device"), "{sentence}");
    // A node that starts writes its record, and the registry's file has room for a few of them.
    for _ in 0..100 {
        if nodes[0].log().contains("it begins anew") {
            break;
        }
        daemons.remove(1).crash();
        nodes[1].await_no_reader();
        daemons.push(nodes[1].up());
        disk.fill();
    }
    assert!(nodes[0].log().contains("it begins anew"), "{}", nodes[0].log());
    all_talk(&containers);

    disk.empty();
    nodes[2].join(&token);
    daemons.push(nodes[2].up());
    daemons.iter().for_each(|daemon| daemon.await_nodes(2));
}
