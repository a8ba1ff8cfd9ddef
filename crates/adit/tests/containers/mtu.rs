//! What packets containers may send, and their bridge, when the device's MTU becomes another.

use adit::container;
use linux::netlink::{LinkChange, Netlink};

use crate::world::{Container, World};

const DUAL: &[&str] = &["10.42.7.0/24", "fd42:0:0:7::/64"];

fn mtu(world: &World, device: &str) -> u32 {
    world.netlink().existing_link(device).unwrap().mtu
}

#[test]
fn the_bridge_keeps_its_mtu_while_anything_hangs_on_it() {
    let mut world = World::new(DUAL);
    let inside = |container: &Container| {
        let mut netlink = Netlink::open_in(&container.namespace).unwrap();
        netlink.existing_link("eth0").unwrap().mtu
    };
    let first = world.container();
    let repair = |world: &World| world.on_host(|| container::repair(&world.node, &world.store)).unwrap();
    for of_device in [1440, 1380] {
        world.node.mtu = of_device;
        let next = world.container();
        // As much as the device takes may be asked for, and no container is refused for those that are there.
        let asking = world.container_with(|request| request.mtu = Some(of_device));
        let small = world.container_with(|request| request.mtu = Some(1300));
        let expected = [1420, 1420, of_device.min(1420), 1300];
        assert_eq!([&first, &next, &asking, &small].map(inside), expected);
        assert_eq!(mtu(&world, "adit-br0"), 1420);
        assert_eq!(repair(&world), (0, Vec::new()), "nothing is amiss");
        world.on_host(|| container::check(&world.node, &next.record)).unwrap();
        [&next, &asking, &small].into_iter().for_each(|container| assert!(world.detach(&container.record.key)));
    }
    assert!(world.detach(&first.record.key));
    assert_eq!(inside(&world.container()), 1380);
    assert_eq!(mtu(&world, "adit-br0"), 1380);
}

#[test]
fn containers_of_an_earlier_version_get_a_bridge_that_fits_them() {
    let mut world = World::new(DUAL);
    let old = world.container();
    let record = container::Record { bridge_mtu: None, ..old.record.clone() };
    world.store.lock().unwrap().put(&record).unwrap();
    // Its bridge has followed the device.
    world.node.mtu = 1440;
    let bridge = world.netlink().existing_link("adit-br0").unwrap().index;
    world.netlink().change_link(bridge, &LinkChange { mtu: Some(1440), ..LinkChange::default() }).unwrap();
    let repair = || world.on_host(|| container::repair(&world.node, &world.store)).unwrap();
    assert_eq!((repair(), mtu(&world, "adit-br0")), ((1, Vec::new()), 1420));
    assert_eq!(repair(), (0, Vec::new()));
    assert_eq!(world.container().record.bridge_mtu, Some(1420));
}
