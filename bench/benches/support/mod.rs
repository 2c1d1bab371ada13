//! Kernels with their work counted, timed by criterion, beside the ceilings that bound them.

pub mod ceilings;
pub mod clock;
pub mod delta_rule;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub mod device;
pub mod levels;
pub mod linear;
pub mod linear_state_space;
pub mod long_convolution;
pub mod long_convolution_nd;
pub mod recurrence;
pub mod report;
pub mod selective_scan;
pub mod ssm_kernel;
pub mod taylor_attention;
pub mod tokenwise;
pub mod wkv4;
pub mod work;

use std::time::Duration;

use criterion::Criterion;
use serde_json::Value;

use clock::Clock;
use report::Timed;
pub use work::{EXPONENTIAL, Work};

/// What setting up a kernel can fail with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs a kernel a number of times in a row, and waits for the last.
pub type Run = Box<dyn FnMut(u64)>;

/// A kernel to be timed: one line of a group, `kernels/OPERATOR/form/shape`.
pub struct Kernel {
    /// Name of the function that computes the kernel, such as `step` or `backward`.
    pub form: &'static str,
    /// Name of the shape that the kernel runs at, such as `mamba2_130m_t2048`.
    pub shape: String,
    /// What the shape consists of; peers are given the same.
    pub sizes: Value,
    /// What one call does.
    pub work: Work,
    /// Makes the inputs, runs the kernel once, and gives the function that runs it again.
    pub build: Box<dyn FnOnce() -> Result<Run, Failure>>,
}

impl Kernel {
    /// A kernel on the host: `build` makes the inputs and gives a single call.
    pub fn on_host<C>(
        form: &'static str,
        shape: impl Into<String>,
        sizes: Value,
        work: Work,
        build: impl FnOnce() -> Result<C, Failure> + 'static,
    ) -> Self
    where
        C: FnMut() -> Result<(), Failure> + 'static,
    {
        Self {
            form,
            shape: shape.into(),
            sizes,
            work,
            build: Box::new(move || {
                let mut call = build()?;
                call()?;
                Ok(Box::new(move |iterations| {
                    for _ in 0..iterations {
                        call().expect("the first call succeeded");
                    }
                }))
            }),
        }
    }
}

/// Runs the kernels that the command line selects as criterion group `kernels/OPERATOR`.
///
/// A kernel's inputs are made when its turn comes, so that only its own are in memory.
pub fn run_group(
    criterion: &mut Criterion,
    clock: Clock,
    operator: &str,
    kernels: Vec<Kernel>,
) -> Vec<Timed> {
    let mut group = criterion.benchmark_group(format!("kernels/{operator}"));
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    let mut all = Vec::new();
    for kernel in kernels {
        let Kernel {
            form,
            shape,
            sizes,
            work,
            build,
        } = kernel;
        let name = format!("{form}/{shape}");
        // Criterion calls the closure for the kernels that it selects, once for every sample.
        let mut build = Some(build);
        let mut run: Result<Run, String> = Err(String::new());
        let mut seconds: Option<Result<f64, String>> = None;
        group.bench_function(&name, |bencher| {
            if let Some(build) = build.take() {
                run = build().map_err(|error| error.to_string());
            }
            bencher.iter_custom(|iterations| match &mut run {
                Ok(run) => {
                    let begin = clock.now();
                    run(iterations);
                    let elapsed = clock.now() - begin;
                    let best = seconds.take().and_then(Result::ok).unwrap_or(f64::INFINITY);
                    seconds = Some(Ok(best.min(elapsed.as_secs_f64() / iterations as f64)));
                    elapsed
                }
                // Criterion must be given some time; the report says that there is none.
                Err(error) => {
                    seconds = Some(Err(error.clone()));
                    Duration::from_micros(iterations)
                }
            });
        });
        if let Some(seconds) = seconds {
            all.push(Timed {
                name,
                form,
                shape,
                sizes,
                work,
                seconds,
            });
        }
    }
    group.finish();
    all
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
