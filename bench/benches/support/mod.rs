//! Kernels with their work counted, and the ceilings that bound them.

pub mod linear;
pub mod recurrence;
pub mod tokenwise;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use criterion::Criterion;
use kernel_dsl::{roofline, simd::Isa};

/// What setting up a kernel can fail with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Floating-point operations that an exponential counts as: what its range reduction and polynomial take.
pub const EXPONENTIAL: usize = 20;

/// What one call of a kernel does at least.
#[derive(Clone, Copy)]
pub struct Work {
    /// Floating-point operations of the definition; a multiply-add is two.
    pub flops: usize,
    /// Bytes that are read or written, each once.
    pub bytes: usize,
    /// Bytes that come round before a call meets the same ones again: says from which memory they come.
    pub working_set: usize,
}

impl Work {
    /// Work whose calls all read and write the same bytes.
    pub fn in_place(flops: usize, bytes: usize) -> Self {
        Self {
            flops,
            bytes,
            working_set: bytes,
        }
    }
}

/// One line of a group.
pub struct Kernel {
    /// Name within the group.
    pub name: String,
    /// What one call does.
    pub work: Work,
    /// One call.
    pub run: Box<dyn FnMut()>,
}

/// What this machine does at most, with all its threads.
pub struct Ceilings {
    threads: usize,
    /// GFLOP/s.
    multiply_add: f64,
    /// GB/s by size of the working set in bytes.
    bandwidth: HashMap<usize, f64>,
}

impl Ceilings {
    /// Working sets from here on count as memory.
    const MEMORY: usize = 256 << 20;
    /// Smaller working sets than this are all the same to the first cache.
    const SMALLEST: usize = 16 << 10;

    /// Measures and prints the ceilings.
    pub fn measure() -> Self {
        let threads = rayon::current_num_threads();
        let mut ceilings = Self {
            threads,
            multiply_add: roofline::fma_peak(threads),
            bandwidth: HashMap::new(),
        };
        let memory = ceilings.bandwidth(Self::MEMORY);
        println!(
            "{threads} threads, {} instructions: multiply-adds {:.0} GFLOP/s, memory reads {memory:.1} GB/s",
            Isa::detect(),
            ceilings.multiply_add
        );
        ceilings
    }

    /// Read bandwidth in GB/s of a working set of `bytes`, measured when first asked for.
    fn bandwidth(&mut self, bytes: usize) -> f64 {
        let size = bytes.clamp(Self::SMALLEST, Self::MEMORY).next_power_of_two();
        let threads = self.threads;
        *self
            .bandwidth
            .entry(size)
            .or_insert_with(|| roofline::read_bandwidth(threads, size))
    }

    /// Shortest time in seconds that the work can take, and what binds it.
    fn bound(&mut self, work: Work) -> (f64, &'static str) {
        let computing = work.flops as f64 / self.multiply_add / 1e9;
        let moving = work.bytes as f64 / self.bandwidth(work.working_set) / 1e9;
        if computing > moving {
            (computing, "multiply-adds")
        } else {
            (moving, "bandwidth")
        }
    }
}

/// Runs the kernels as criterion group `kernels/OPERATOR`, then prints their table.
pub fn run_group(
    criterion: &mut Criterion,
    ceilings: Option<&mut Ceilings>,
    operator: &str,
    kernels: Vec<Kernel>,
) {
    let mut group = criterion.benchmark_group(format!("kernels/{operator}"));
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    let mut timed = Vec::new();
    for Kernel { name, work, mut run } in kernels {
        let mut best = f64::INFINITY;
        group.bench_function(&name, |bencher| {
            bencher.iter_custom(|iterations| {
                let begin = Instant::now();
                for _ in 0..iterations {
                    run();
                }
                let elapsed = begin.elapsed();
                best = best.min(elapsed.as_secs_f64() / iterations as f64);
                elapsed
            });
        });
        timed.push((name, work, best));
    }
    group.finish();
    if let Some(ceilings) = ceilings {
        print_table(operator, ceilings, &timed);
    }
}

/// Fastest sample of each kernel that the command line selected. Small kernels run on one thread while the ceilings are
/// those of all threads, and int8 products are bound by another instruction than f32 multiply-adds.
fn print_table(operator: &str, ceilings: &mut Ceilings, timed: &[(String, Work, f64)]) {
    let ran: Vec<_> = timed
        .iter()
        .filter(|(_, _, seconds)| seconds.is_finite())
        .collect();
    if ran.is_empty() {
        return;
    }
    println!(
        "\n{:<44}{:>12}{:>10}{:>10}  of the ceiling",
        format!("kernels/{operator}"),
        "µs",
        "GFLOP/s",
        "GB/s"
    );
    for (name, work, seconds) in ran {
        let (bound, ceiling) = ceilings.bound(*work);
        println!(
            "{name:<44}{:>12.2}{:>10.1}{:>10.1}  {:>4.0} % {ceiling}",
            seconds * 1e6,
            work.flops as f64 / seconds / 1e9,
            work.bytes as f64 / seconds / 1e9,
            100.0 * bound / seconds
        );
    }
    println!();
}

/// `len` values in [−0.5, 0.5), without a period that a kernel could meet.
pub fn values(len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_u32;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}
