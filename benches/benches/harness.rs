//! What the harness itself costs: the part of every figure of the bench that is not the bus.

use std::hint::black_box;

use bus_bench::clock::Clock;
use bus_bench::content::{check, fill};
use bus_bench::histogram::Nanos;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn content(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("content");
    for bytes in bus_bench::PAYLOAD_BYTES {
        let mut words = vec![0_u64; bytes / 8];
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut number = 0;
        group.bench_function(BenchmarkId::new("fill", bytes), |bencher| {
            bencher.iter(|| {
                number += 1;
                fill(black_box(&mut words), number, 0);
            });
        });
        group.bench_function(BenchmarkId::new("check", bytes), |bencher| {
            bencher.iter(|| {
                let words = black_box(&words);
                check(words.len(), |index| words[index])
            });
        });
    }
    group.finish();
}

fn clock(criterion: &mut Criterion) {
    let clock = Clock::calibrate();
    criterion.bench_function("clock/now", |bencher| bencher.iter(|| clock.now()));
    let mut histogram = Nanos::new();
    let mut ns = 0;
    criterion.bench_function("histogram/record", |bencher| {
        bencher.iter(|| {
            ns = (ns + 37) & 0xfff;
            histogram.record(black_box(ns));
        });
    });
}

criterion_group!(benches, content, clock);
criterion_main!(benches);
