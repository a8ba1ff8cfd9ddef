//! What many peers cost: making the picture that workers read, and finding the owner of an address in it.
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipnet::IpNet;
use tunnel::{Peer, Snapshot, Way};

/// An IPv4 and an IPv6 prefix for each, as in a network of containers.
fn prefixes(number: u32) -> [IpNet; 2] {
    let four = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | (number << 8)));
    let six = IpAddr::V6(Ipv6Addr::from((0xfd42_u128 << 112) | (u128::from(number) << 64)));
    [IpNet::new(four, 24).unwrap(), IpNet::new(six, 64).unwrap()]
}

fn peers(count: u32) -> Vec<Option<Peer>> {
    let peer = |number: u32| Peer {
        way: Way::Plain(SocketAddr::from((Ipv4Addr::from(0xc633_0000 | number), 7777))),
        mtu: 1440,
        allowed_ips: prefixes(number).to_vec(),
    };
    (0..count).map(peer).map(Some).collect()
}

fn many(c: &mut Criterion) {
    let mut group = c.benchmark_group("peers");
    for count in [1_u32, 100, 10_000] {
        let all = peers(count);
        group.throughput(Throughput::Elements(u64::from(count)));
        group.sample_size(20).bench_function(format!("publish/{count}"), |b| {
            b.iter(|| Snapshot::new(black_box(all.clone()), &[]));
        });
        // A node of a network, whose subnets are two more prefixes.
        let subnets = prefixes(count);
        group.sample_size(20).bench_function(format!("publish-serving/{count}"), |b| {
            b.iter(|| Snapshot::new(black_box(all.clone()), &[]).serving(&subnets));
        });
        let snapshot = Snapshot::new(all, &[]);
        group.throughput(Throughput::Elements(1));
        for (kind, snapshot) in [("owner", snapshot.clone()), ("owner-serving", snapshot.serving(&subnets))] {
            for (family, at) in [("IPv4", 0), ("IPv6", 1)] {
                // A stride without a common divisor: each look-up another peer, so that caches help as little as they can.
                let mut number = 0;
                group.bench_function(format!("{kind}/{family}/{count}"), |b| {
                    b.iter(|| {
                        number = (number + 7919) % count;
                        let [four, six] = prefixes(number);
                        let address = if at == 0 { four } else { six }.addr();
                        snapshot.egress(black_box(address)).unwrap().0
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, many);
criterion_main!(benches);
