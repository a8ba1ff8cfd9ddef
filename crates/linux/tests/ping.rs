//! Echoes over a real veth pair.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::net::Ipv4Addr;
use std::time::Duration;

use linux::netlink::{Netlink, VethEnd};
use linux::ping::Pinger;

const TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn the_other_end_of_a_pair_answers_and_an_absent_host_does_not() {
    let (a, mut netlink) = support::fresh();
    let (b, _) = support::fresh();
    let end = |netns| VethEnd { name: "eth0", netns: Some(netns), ..VethEnd::default() };
    netlink.create_veth(&end(&a), &end(&b)).unwrap();
    for (namespace, address) in [(&a, "192.0.2.1/24"), (&b, "192.0.2.2/24")] {
        let mut netlink = Netlink::open_in(namespace).unwrap();
        let index = netlink.existing_link("eth0").unwrap().index;
        netlink.add_address(index, address.parse().unwrap(), true).unwrap();
        netlink.set_up(index, true).unwrap();
    }
    a.run(|| {
        let mut pinger = Pinger::open(Ipv4Addr::new(192, 0, 2, 2), 7).unwrap();
        // The pair's carrier may need a moment, so the first ones may be lost.
        support::wait_for("an echo", || pinger.round_trip(Duration::from_millis(100)).unwrap());
        for _ in 0..3 {
            assert!(pinger.round_trip(TIMEOUT).unwrap().unwrap() < TIMEOUT);
        }
        let mut absent = Pinger::open(Ipv4Addr::new(192, 0, 2, 3), 7).unwrap();
        assert_eq!(absent.round_trip(Duration::from_millis(50)).unwrap(), None);
        let no_route = Pinger::open(Ipv4Addr::new(198, 51, 100, 1), 7).unwrap_err();
        assert_eq!(no_route.operation(), "open a socket to ping 198.51.100.1");
    })
    .unwrap();
}
