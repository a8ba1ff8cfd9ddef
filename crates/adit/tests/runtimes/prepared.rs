//! runc in namespaces that were prepared by hand, with the plugin called as its specification says.

use std::time::Instant;

use serde_json::{Value, json};

use crate::bed::fake::FakeHost;
use crate::bed::image::Image;
use crate::bed::{Bed, wait_for};
use crate::story::{FEW_MIB, Two, tell_speed};

/// A container of runc in the namespace `c1` of its host.
struct Container<'h, 'a> {
    host: &'h FakeHost<'a>,
    address: String,
}

/// Calls the plugin from a shell, with a configuration of one plugin as it is read by it.
fn call(host: &FakeHost<'_>, verb: &str, namespace: &str) -> String {
    host.write("/etc/cni/by-hand.json", r#"{"cniVersion": "1.0.0", "name": "by-hand", "type": "adit"}"#);
    host.shell(&format!(
        "CNI_COMMAND={verb} CNI_CONTAINERID=c1 CNI_NETNS={namespace} CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \
         /opt/cni/bin/adit </etc/cni/by-hand.json"
    ))
}

impl<'h, 'a> Container<'h, 'a> {
    fn start(host: &'h FakeHost<'a>, image: &Image, command: &[&str]) -> Self {
        host.adit(&["cni", "install"]);
        host.run("ip", &["netns", "add", "c1"]);
        let result: Value = serde_json::from_str(&call(host, "ADD", "/run/netns/c1")).unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();

        host.shell("mkdir /run/c1; cd /run/c1; runc spec");
        let path = host.path("/run/c1/config.json");
        let mut spec: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(command);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_NET_RAW"));
        }
        spec["root"]["path"] = json!(image.rootfs());
        let tmp = json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"});
        spec["mounts"].as_array_mut().unwrap().push(tmp);
        spec["linux"]["cgroupsPath"] = json!(format!("/{}/c1", host.cgroup()));
        for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "network" {
                namespace["path"] = json!("/run/netns/c1");
            }
        }
        std::fs::write(&path, spec.to_string()).unwrap();
        host.shell(
            "runc run --detach --bundle /run/c1 c1 </dev/null >/run/c1/log 2>&1 || { cat /run/c1/log >&2; exit 1; }",
        );
        Self { host, address }
    }

    fn shell(&self, line: &str) -> String {
        self.host.run("runc", &["exec", "c1", "sh", "-ec", line])
    }

    fn reaches(&self, other: &Self) {
        let ping = format!("ping -c 1 -W 1 {}", other.address);
        wait_for(&format!("an answer of {} to {}", other.address, self.address), || {
            self.host.try_run("runc", &["exec", "c1", "sh", "-c", &ping]).status.success().then_some(())
        });
    }

    /// Ends it and its namespace, and says nothing to the plugin.
    fn lose(&self) {
        self.host.run("runc", &["delete", "--force", "c1"]);
        self.host.shell("rm -r /run/c1; ip netns delete c1");
        // The kernel takes a namespace down a moment after its name.
        wait_for("the end of the veth", || {
            self.host.run("ip", &["-o", "link", "show", "master", "adit-br0"]).is_empty().then_some(())
        });
    }

    /// Ends it, and takes its namespace away before the plugin hears of it, as a host does that was restarted.
    fn remove(&self) {
        self.lose();
        assert_eq!(call(self.host, "DEL", ""), "");
        assert_eq!(call(self.host, "DEL", "/run/netns/c1"), "");
    }
}

#[test]
fn runc_in_a_prepared_namespace_on_two_hosts() {
    let bed = Bed::new(2);
    let two = Two::new(&bed);
    let _daemons = two.up(&["--ipv6-network", "fd42::/48"]);
    let image = Image::new();
    let before = two.hosts.each_ref().map(FakeHost::traces);
    let web = Container::start(&two.hosts[0], &image, &["httpd", "-f", "-p", "80", "-h", "/tmp"]);
    let far = Container::start(&two.hosts[1], &image, &["sleep", "600"]);
    web.reaches(&far);
    far.reaches(&web);
    // Of both families, though the plugin said only the first above.
    let listed = far.shell("ip -6 address show dev eth0 scope global");
    let address =
        listed.split_whitespace().find_map(|word| word.strip_suffix("/64")).unwrap_or_else(|| panic!("{listed}"));
    web.shell(&format!("ping -6 -c 1 -W 5 {address}"));
    let line = format!("dd if=/dev/urandom of=/tmp/big bs=1M count={FEW_MIB} 2>/dev/null; md5sum </tmp/big");
    let sum = web.shell(&line);
    let start = Instant::now();
    assert_eq!(far.shell(&format!("wget -qO- http://{}/big | md5sum", web.address)), sum);
    tell_speed("runc, to the other host", FEW_MIB, start);
    // One of the same name takes the place of one that was lost.
    web.lose();
    let web = Container::start(&two.hosts[0], &image, &["sleep", "600"]);
    far.reaches(&web);
    web.remove();
    far.remove();
    two.hosts.iter().zip(&before).for_each(|(host, before)| host.await_traces(before));
}
