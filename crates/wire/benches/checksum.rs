//! The sums that every byte of a tunnel passes through. In cache they should run at 15 GB/s or more; a fused copy should
//! not be slower than a copy and a sum.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wire::checksum::Sum;

fn sums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for size in [64usize, 1432, 1448, 65_483] {
        let source: Vec<u8> = (0..size).map(|i| i as u8).collect();
        let mut target = vec![0; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("add", size), &source, |b, source| {
            b.iter(|| Sum::default().add(black_box(source)).fold());
        });
        group.bench_function(BenchmarkId::new("copy", size), |b| {
            b.iter(|| Sum::default().copy(black_box(&mut target), black_box(&source)).fold());
        });
        group.bench_function(BenchmarkId::new("copy_then_add", size), |b| {
            b.iter(|| {
                let target = black_box(&mut target[..]);
                target.copy_from_slice(black_box(&source));
                Sum::default().add(target).fold()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sums);
criterion_main!(benches);
