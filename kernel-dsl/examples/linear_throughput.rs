//! Throughput of `linear` beside what the machine can do at most.
//!
//! ```text
//! cargo run --release -p spillway-kernel-dsl --example linear_throughput [THREADS...]
//! ```
//!
//! Weights rotate through enough copies that they come from memory, as a model's layers do. A cell is
//! `GFLOP/s (fraction of the multiply-add peak) GB/s (fraction of the read bandwidth)`; the larger fraction says what binds.

use std::time::{Duration, Instant};

use spillway_kernel_dsl::linear::{PackedMatrix, WeightType, linear};
use spillway_kernel_dsl::{Rows, roofline, simd};

/// More than the last cache holds.
const COLD_BYTES: usize = 192 << 20;
/// `[out_features, in_features]` of the projections of a 130M model, and its head.
const SHAPES: [(usize, usize); 3] = [(3352, 768), (768, 1536), (50288, 768)];
const ROWS: [usize; 11] = [1, 2, 4, 8, 16, 17, 32, 64, 128, 512, 2048];

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut threads: Vec<usize> = Vec::new();
    for argument in std::env::args().skip(1) {
        threads.push(argument.parse()?);
    }
    if threads.is_empty() {
        threads = vec![1, rayon::current_num_threads()];
    }
    println!("{} instructions", simd::active());
    for threads in threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| report(threads))?;
    }
    Ok(())
}

fn report(threads: usize) -> Result<(), Failure> {
    let bandwidth = roofline::read_bandwidth(threads, COLD_BYTES);
    let peak = roofline::fma_peak(threads);
    println!("\n{threads} threads: reads {bandwidth:.1} GB/s, multiply-adds {peak:.0} GFLOP/s");
    for (out_features, in_features) in SHAPES {
        for weight_type in [
            WeightType::F32,
            WeightType::Bf16,
            WeightType::Int8,
            WeightType::Q8_0,
            WeightType::Int4,
        ] {
            print!("[{out_features}, {in_features}] {weight_type}:");
            let values: Vec<f32> = (0..out_features * in_features)
                .map(|i| (i % 251) as f32 / 251.0 - 0.5)
                .collect();
            let first = PackedMatrix::pack(&values, out_features, in_features, weight_type)?;
            let copies = COLD_BYTES.div_ceil(first.bytes());
            let mut weights = vec![first];
            for _ in 1..copies {
                weights.push(PackedMatrix::pack(
                    &values,
                    out_features,
                    in_features,
                    weight_type,
                )?);
            }
            for rows in ROWS.into_iter().filter(|rows| rows * out_features <= 1 << 23) {
                let seconds = fastest(rows, in_features, &weights)?.as_secs_f64();
                let gflops = (2 * rows * in_features * out_features) as f64 / seconds / 1e9;
                let gigabytes = weights[0].bytes() as f64 / seconds / 1e9;
                print!(
                    "\n  {rows:4} rows {:8.1} us  {gflops:6.1} ({:.2})  {gigabytes:5.1} ({:.2})",
                    seconds * 1e6,
                    gflops / peak,
                    gigabytes / bandwidth
                );
            }
            println!();
        }
    }
    Ok(())
}

/// Shortest mean time of a product over a pass through all copies of the weights.
fn fastest(rows: usize, in_features: usize, weights: &[PackedMatrix]) -> Result<Duration, Failure> {
    let x: Vec<f32> = (0..rows * in_features)
        .map(|i| (i % 127) as f32 / 127.0 - 0.5)
        .collect();
    let x = Rows::contiguous(&x, rows, in_features)?;
    let mut out = vec![0.0; rows * weights[0].out_features()];
    let pass = if rows > 64 {
        weights.len().min(3)
    } else {
        weights.len().min(20)
    };
    let mut best = Duration::MAX;
    let mut next = 0;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(400) {
        let start = Instant::now();
        for _ in 0..pass {
            linear(x, &weights[next % weights.len()], None, &mut out)?;
            next += 1;
        }
        best = best.min(start.elapsed() / pass as u32);
    }
    Ok(best)
}
