//! `spillway bench`: prefill and decode speed, memory and load time, for every weight type and thread count.
//!
//! Each configuration runs in a fresh process, so that its peak memory is its own. Before and after each, this process
//! measures what the machine can do with as many threads, and the better of the two counts: a fraction of the machine's own
//! limit survives a busy neighbour, a bare time does not. The limits are those of [`crate::costs`].

pub mod child;

use crate::context::{Context, MOST_THREADS};
use crate::error::ProgramError;
use crate::kit::format::bytes;
use crate::values::Dtype;
use child::{Child, Measured};
use clap::Args;
use serde::Serialize;
use spillway_kernel_dsl::roofline::{fma_peak, read_bandwidth};
use spillway_kernel_dsl::simd;
use spillway_models::evaluation::quantile::median;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Bytes read to measure memory: several times any last-level cache that one machine's share of it has.
const BANDWIDTH_BYTES: usize = 512 << 20;

/// Version of the JSON.
const VERSION: u32 = 1;

/// Options of `spillway bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every weight type and thread count runs in a process of its own. Speeds are medians over the repeats, with the slowest and the
fastest; the fraction is that of the machine's memory bandwidth (decode) or multiply-add peak (prefill), measured in the
same run. SPILLWAY_ISA=avx2, or another level, measures what a processor without more would do.

Examples:
  spillway init --arch mamba2 --shape 130m --out mamba2-130m-random
  spillway bench mamba2-130m-random --json > speed.json
  spillway bench mamba2-130m-random --dtype int8 --threads 1 --prefill 512 --repeats 1")]
pub struct BenchArgs {
    /// Folder with config.json and model.safetensors, or a .safetensors file [default: the small model that comes with
    /// Spillway]
    pub checkpoint: Option<PathBuf>,
    /// Types to keep the weights in
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Dtype::F32, Dtype::Bf16, Dtype::Int8])]
    pub dtype: Vec<Dtype>,
    /// Prompt lengths in tokens
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "512,2048", value_parser = prompt_length)]
    pub prefill: Vec<usize>,
    /// Tokens to decode; 0 leaves decoding out
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub decode: usize,
    /// Repetitions of each measurement, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub repeats: u16,
}

fn prompt_length(text: &str) -> Result<usize, String> {
    match crate::values::parse_tokens(text)? {
        0 => Err("expected prompt lengths of at least 1 token".into()),
        length => usize::try_from(length).map_err(|error| error.to_string()),
    }
}

/// The JSON document that `spillway bench --json` prints.
#[derive(Debug, Serialize)]
struct SpeedReport {
    version: u32,
    checkpoint: String,
    /// The level of vector instructions, which the limits are measured with too.
    instructions: &'static str,
    repeats: u16,
    configurations: Vec<Configuration>,
}

/// One weight type with one thread count.
#[derive(Debug, Serialize)]
struct Configuration {
    dtype: Dtype,
    threads: usize,
    /// GB/s, with these threads.
    read_bandwidth: f64,
    /// GFLOP/s, with these threads.
    fma_peak: f64,
    speeds: Vec<Speed>,
    measured: Child,
}

/// The speed of one test: a line of the table.
#[derive(Debug, Serialize)]
struct Speed {
    /// `prefill 512` or `decode 64`.
    test: String,
    tokens_per_second: f64,
    slowest: f64,
    fastest: f64,
    /// Tokens per second of processor time, all threads together: what a machine busy with other things still tells.
    tokens_per_cpu_second: Option<f64>,
    /// Speed as a share of that which the machine's bandwidth or multiply-add peak allows.
    fraction_of_limit: f64,
}

/// Runs `spillway bench` with each of these numbers of threads; with 1 and 2 if there are none.
///
/// # Errors
/// [`ProgramError`] for a checkpoint that cannot be used and for a file that cannot be written.
pub fn run(args: &BenchArgs, threads: &[usize], context: &Context) -> Result<(), ProgramError> {
    let threads = if threads.is_empty() { &[1, 2] } else { threads };
    if let Some(count) = threads.iter().find(|count| !(1..=MOST_THREADS).contains(*count)) {
        let expected = format!("numbers from 1 to {MOST_THREADS}");
        return Err(ProgramError::usage("--threads", expected, count.to_string()));
    }
    let checkpoint = args
        .checkpoint
        .as_ref()
        .map_or_else(|| "the shipped model".into(), |path| path.display().to_string());
    context.print_line(format_args!(
        "{checkpoint}: tokens per second with {} instructions, median of {} (slowest to fastest), and share of the machine's \
         limit with them",
        simd::active(),
        args.repeats
    ))?;
    let mut report = SpeedReport {
        version: VERSION,
        checkpoint,
        instructions: simd::active().name(),
        repeats: args.repeats,
        configurations: Vec::new(),
    };
    for &dtype in &args.dtype {
        for &threads in threads {
            let waiting = context.waiting(&format!("measuring {dtype} with {threads} threads"));
            let configuration = measure(args, dtype, threads)?;
            drop(waiting);
            context.print_line(configuration.table())?;
            report.configurations.push(configuration);
        }
    }
    context.print_json(&report)
}

fn measure(args: &BenchArgs, dtype: Dtype, threads: usize) -> Result<Configuration, ProgramError> {
    let limits = || (read_bandwidth(threads, BANDWIDTH_BYTES), fma_peak(threads));
    let before = limits();
    let measured = run_child(args, dtype, threads)?;
    let after = limits();
    let (read_bandwidth, fma_peak) = (before.0.max(after.0), before.1.max(after.1));
    let costs = measured.costs;
    let prefill_limit = 1e9 * fma_peak / costs.prefill_flops as f64;
    let decode_limit = 1e9 * read_bandwidth / costs.decode_bytes as f64;
    let prefill = measured
        .prefill
        .iter()
        .map(|m| Speed::new("prefill", m, prefill_limit));
    let decode = measured
        .decode
        .iter()
        .map(|m| Speed::new("decode", m, decode_limit));
    let speeds = prefill.chain(decode).collect();
    Ok(Configuration {
        dtype,
        threads,
        read_bandwidth,
        fma_peak,
        speeds,
        measured,
    })
}

/// Runs this program again for one configuration, and reads what it prints.
fn run_child(args: &BenchArgs, dtype: Dtype, threads: usize) -> Result<Child, ProgramError> {
    let failed = |what: &str, cause: String| {
        ProgramError::Failed(format!("{dtype} with {threads} threads: {what}{cause}"))
    };
    let program =
        std::env::current_exe().map_err(|error| failed("cannot find this program: ", error.to_string()))?;
    let lengths: Vec<String> = args.prefill.iter().map(usize::to_string).collect();
    let mut command = Command::new(program);
    command.args(["bench-one", "--json"]).args([
        "--dtype",
        &dtype.to_string(),
        "--threads",
        &threads.to_string(),
    ]);
    command.args([
        "--prefill",
        &lengths.join(","),
        "--decode",
        &args.decode.to_string(),
    ]);
    command.args(["--repeats", &args.repeats.to_string()]);
    if let Some(path) = &args.checkpoint {
        command.arg("--").arg(path);
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| failed("cannot start a process: ", error.to_string()))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let message = message.trim().trim_start_matches("spillway: ");
        return Err(match message.is_empty() {
            true => failed("the process ended with ", output.status.to_string()),
            false => ProgramError::Failed(message.to_string()),
        });
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| failed("unreadable measurement: ", error.to_string()))
}

impl Speed {
    /// `limit` is in tokens per second.
    fn new(test: &str, measured: &Measured, limit: f64) -> Self {
        let speeds = measured.speeds();
        let median = median(&speeds);
        let cpu: Option<f64> = measured.cpu_seconds.iter().copied().sum();
        // Below a few steps of the system's clock the figure says nothing.
        let cpu = cpu.filter(|seconds| *seconds > 0.1);
        let all = (measured.tokens * measured.seconds.len()) as f64;
        Self {
            test: format!("{test} {}", measured.tokens),
            tokens_per_second: median,
            slowest: speeds.first().copied().unwrap_or(f64::NAN),
            fastest: speeds.last().copied().unwrap_or(f64::NAN),
            tokens_per_cpu_second: cpu.map(|seconds| all / seconds),
            fraction_of_limit: median / limit,
        }
    }
}

impl Configuration {
    fn table(&self) -> String {
        let child = &self.measured;
        let peak = child
            .peak_memory_bytes
            .map_or("peak memory not known".into(), |peak| {
                let share = peak as f64 / (child.weight_bytes + child.state_bytes).max(1) as f64;
                format!("peak {} ({share:.2} × weights and state)", bytes(peak))
            });
        let mut lines = vec![format!(
            "\n{}, {} thread{}: loaded in {:.2} s, {peak}; machine reads {:.1} GB/s, computes {:.0} GFLOP/s",
            self.dtype,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            child.load_seconds,
            self.read_bandwidth,
            self.fma_peak
        )];
        lines.extend(self.speeds.iter().map(|speed| {
            let range = format!("({:.1} to {:.1})", speed.slowest, speed.fastest);
            let limit = if speed.test.starts_with("decode") {
                "bandwidth"
            } else {
                "FMA peak"
            };
            let share = 100.0 * speed.fraction_of_limit;
            format!(
                "  {:<14}{:>10.1}  {range:<22} {share:>4.0} % of {limit}",
                speed.test, speed.tokens_per_second
            )
        }));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_the_median_and_a_share_of_the_limit() {
        let measured = Measured {
            tokens: 100,
            seconds: vec![1.0, 4.0, 2.0],
            cpu_seconds: vec![Some(2.0), Some(4.0), Some(4.0)],
        };
        let speed = Speed::new("prefill", &measured, 200.0);
        assert_eq!(
            (speed.slowest, speed.tokens_per_second, speed.fastest),
            (25.0, 50.0, 100.0)
        );
        assert_eq!(
            (speed.fraction_of_limit, speed.tokens_per_cpu_second),
            (0.25, Some(30.0))
        );
        assert_eq!(median(&[1.0, 2.0]), 1.5);
    }
}
