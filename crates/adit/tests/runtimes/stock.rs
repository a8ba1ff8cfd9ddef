//! Plugins of others with our subnet: `bridge` and `host-local`, set up from `subnet.env`.

use std::time::Instant;

use crate::bed::Bed;
use crate::bed::image::Image;
use crate::podman::Podman;
use crate::story::{MIB, Two, stock_conflist, tell_speed};

#[test]
fn podman_with_the_stock_bridge_in_our_subnet() {
    let bed = Bed::new(2);
    let two = Two::new(&bed);
    let _daemons = two.up(&[]);
    let image = Image::new();
    let [first, second] = two.hosts.each_ref().map(|host| {
        host.write("/etc/cni/net.d/50-subnet.conflist", &stock_conflist(host, "subnet"));
        Podman::new(host, &image, "subnet")
    });
    let web = first.start("web", &["-p", "8080:80"], &["httpd", "-f", "-p", "80", "-h", "/www"]);
    let other = second.start("other", &[], &["sleep", "600"]);
    first.reaches("web", &other);
    second.reaches("other", &web);
    let sum =
        first.shell("web", &format!("dd if=/dev/urandom of=/www/big bs=1M count={MIB} 2>/dev/null; md5sum </www/big"));
    let start = Instant::now();
    assert_eq!(second.shell("other", &format!("wget -qO- http://{web}/big | md5sum")), sum);
    tell_speed("podman, stock bridge", start);
    let page = two.hosts[1].shell("busybox wget -qO- http://192.0.2.1:8080/big | head -c 100 | wc -c");
    assert_eq!(page.trim(), "100");
}
