//! What a run measured: a table for each operator, and all of it as JSON.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::ceilings::Ceilings;
use super::clock::Clock;
use super::work::Work;

/// A kernel that was timed, with its work and its fastest sample.
pub struct Timed {
    /// Name of the kernel within its operator: `form/shape`.
    pub name: String,
    /// Name of the function that computes the kernel, such as `step` or `backward`.
    pub form: &'static str,
    /// The shape's name, and its sizes.
    pub shape: String,
    /// What the shape consists of.
    pub sizes: Value,
    /// What one call does.
    pub work: Work,
    /// Seconds of the fastest sample, or why there is none.
    pub seconds: Result<f64, String>,
}

/// Collects what is timed and writes it where `SPILLWAY_BENCH_JSON` says.
pub struct KernelReport {
    ceilings: Ceilings,
    clock: Clock,
    kernels: Vec<Value>,
}

impl KernelReport {
    /// A report of nothing yet.
    pub fn new(ceilings: Ceilings, clock: Clock) -> Self {
        Self {
            ceilings,
            clock,
            kernels: Vec::new(),
        }
    }

    /// Prints the table of an operator and keeps its figures.
    ///
    /// Small kernels run on one thread while the ceilings are those of all threads, and int8 products are bound by another
    /// instruction than f32 multiply-adds.
    pub fn add(&mut self, operator: &str, timed: &[Timed]) {
        Self::table(&mut self.ceilings, &mut self.kernels, operator, timed);
    }

    /// As [`Self::add`], beside other ceilings than the report's own.
    pub fn add_beside(&mut self, ceilings: &mut Ceilings, operator: &str, timed: &[Timed]) {
        Self::table(ceilings, &mut self.kernels, operator, timed);
    }

    fn table(ceilings: &mut Ceilings, kernels: &mut Vec<Value>, operator: &str, timed: &[Timed]) {
        if timed.is_empty() {
            return;
        }
        println!(
            "\n{:<52}{:>12}{:>14}{:>10}{:>10}  of the ceiling",
            format!("kernels/{operator}"),
            "µs",
            "tokens/s",
            "GFLOP/s",
            "GB/s"
        );
        for kernel in timed {
            let Timed {
                name, work, seconds, ..
            } = kernel;
            let mut row = json!({
                "operator": operator,
                "form": kernel.form,
                "shape": kernel.shape,
                "sizes": kernel.sizes,
            });
            match seconds {
                Ok(seconds) => {
                    let (bound, ceiling) = ceilings.bound(*work);
                    let speed = |amount: usize| amount as f64 / seconds;
                    let (tokens, flops, bytes) = (speed(work.tokens), speed(work.flops), speed(work.bytes));
                    println!(
                        "{name:<52}{:>12.2}{tokens:>14.0}{:>10.1}{:>10.1}  {:>4.0} % {ceiling}",
                        seconds * 1e6,
                        flops / 1e9,
                        bytes / 1e9,
                        100.0 * bound / seconds
                    );
                    row["seconds"] = json!(seconds);
                    row["tokens_per_second"] = json!(tokens);
                    row["gflops"] = json!(flops / 1e9);
                    row["gb_per_s"] = json!(bytes / 1e9);
                    row["ceiling"] = json!(ceiling);
                    row["fraction_of_ceiling"] = json!(bound / seconds);
                }
                Err(error) => {
                    println!("{name:<52}  {error}");
                    row["error"] = json!(error);
                }
            }
            kernels.push(row);
        }
        println!();
    }

    /// Writes what there is so far to the file, if one is asked for.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> std::io::Result<()> {
        let Some(path) = std::env::var_os("SPILLWAY_BENCH_JSON").map(PathBuf::from) else {
            return Ok(());
        };
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
        let report = json!({
            "version": 1,
            "unix_time": seconds,
            "processor": processor(),
            "threads": rayon::current_num_threads(),
            "instructions": spillway_kernel_dsl::simd::active().name(),
            "clock": self.clock.name(),
            "load_average": load.split_whitespace().next(),
            "ceilings": self.ceilings.json(),
            "kernels": self.kernels,
        });
        let partial = path.with_extension("partial");
        std::fs::write(&partial, format!("{report:#}\n"))?;
        std::fs::rename(&partial, &path)?;
        Ok(())
    }
}

/// The processor's name as the system gives it.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
