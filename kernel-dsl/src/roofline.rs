//! What this machine can do at most: how fast memory can be read, and how many multiply-adds it completes.
//!
//! Kernels are reported as fractions of these figures, measured in the same run: a fraction survives a change of machine
//! and a neighbour's load, a time does not.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::linear::fma_burst;
use crate::simd;

/// Repetitions of a few milliseconds, of which the fastest counts: whatever else runs can only slow one down.
const REPETITIONS: usize = 40;
/// They end earlier after this, on a slow processor or under an emulator.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// Fastest reading of `bytes` of memory by `threads` threads together, in GB/s.
///
/// Give several times the size of the last cache to measure memory, or little to measure a cache.
pub fn read_bandwidth(threads: usize, bytes: usize) -> f64 {
    let threads = threads.max(1);
    let words = (bytes / 8 / threads).max(1);
    // Written, because pages never written may all be the same page of zeros.
    let shares: Vec<Vec<u64>> = (0..threads).map(|i| vec![i as u64 + 1; words]).collect();
    let repeats = ((64 << 20) / (words * 8)).max(1);
    let best = fastest(threads, |thread| {
        for _ in 0..repeats {
            black_box(sum(black_box(&shares[thread])));
        }
    });
    (threads * repeats * words * 8) as f64 / best.as_secs_f64() / 1e9
}

/// Most f32 multiply-adds that `threads` threads complete together, in GFLOP/s (two operations each).
pub fn fma_peak(threads: usize) -> f64 {
    const ITERATIONS: usize = 2_000_000;
    let threads = threads.max(1);
    let isa = simd::active();
    let best = fastest(threads, |_| {
        black_box(fma_burst(isa, black_box(ITERATIONS)));
    });
    let (flops, _) = fma_burst(isa, ITERATIONS);
    threads as f64 * flops / best.as_secs_f64() / 1e9
}

/// Shortest time in which all threads finish `work`, which is called with the thread's number.
fn fastest(threads: usize, work: impl Fn(usize) + Sync) -> Duration {
    let started = Instant::now();
    let mut best = Duration::MAX;
    for _ in 0..REPETITIONS {
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for thread in 1..threads {
                let work = &work;
                let spawned = std::thread::Builder::new().spawn_scoped(scope, move || work(thread));
                if spawned.is_err() {
                    // The system gives no more threads: this one does it too, which takes longer, as it would a kernel.
                    work(thread);
                }
            }
            work(0);
        });
        best = best.min(begin.elapsed());
        if started.elapsed() > LONG_ENOUGH {
            break;
        }
    }
    best
}

/// Words of the lines that are read, and asked for, together.
const GROUP_WORDS: usize = 64;
/// How far ahead lines are asked for, in words: as far as `linear` asks.
#[cfg(target_arch = "x86_64")]
const AHEAD_WORDS: usize = 2048;

/// Wrapping sum, read with the widest registers there are, asking for later pages meanwhile as kernels do.
fn sum(data: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    use crate::simd::Isa;
    #[cfg(target_arch = "x86_64")]
    match simd::active() {
        // SAFETY: the instruction set was detected.
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 => return unsafe { x86::sum_avx512(data) },
        // SAFETY: the instruction set was detected.
        Isa::Avx2 | Isa::AvxVnni => return unsafe { x86::sum_avx2(data) },
        _ => {}
    }
    sum_plain(data)
}

#[inline(always)]
fn sum_plain(data: &[u64]) -> u64 {
    let mut sums = [0u64; GROUP_WORDS];
    let (groups, rest) = data.as_chunks::<GROUP_WORDS>();
    for group in groups {
        #[cfg(target_arch = "x86_64")]
        for line in group.chunks_exact(crate::aligned::CACHE_LINE / 8) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: every x86-64 processor has the instruction, and it accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(AHEAD_WORDS).cast()) };
        }
        for (sum, &word) in sums.iter_mut().zip(group) {
            *sum = sum.wrapping_add(word);
        }
    }
    sums.iter()
        .chain(rest)
        .fold(0, |sum: u64, &word| sum.wrapping_add(word))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    /// # Safety
    /// The processor must have AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn sum_avx512(data: &[u64]) -> u64 {
        super::sum_plain(data)
    }

    /// # Safety
    /// The processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn sum_avx2(data: &[u64]) -> u64 {
        super::sum_plain(data)
    }
}
