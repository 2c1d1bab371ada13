//! `spillway train CONFIG --time N`: how long a step takes and how much memory; nothing is trained on and nothing kept.

use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::format::bytes;
use crate::process::{peak_memory_bytes, resident_bytes};
use serde::Serialize;
use spillway_models::evaluation::quantile::median;
use spillway_models::train::log::{Seconds, StepEvent};
use spillway_models::train::{TrainConfig, Trainer};
use std::path::Path;

/// Version of the JSON.
const VERSION: u32 = 1;

/// The JSON document that `spillway train CONFIG --time N --json` prints.
#[derive(Debug, Serialize)]
struct Timing {
    version: u32,
    threads: usize,
    tokens_per_step: u64,
    parameters: usize,
    /// Resident memory before the first step, `None` where the system does not tell.
    memory_before_bytes: Option<u64>,
    /// Largest resident memory of the process after the last.
    peak_memory_bytes: Option<u64>,
    /// The step that is not counted, and those that are.
    steps: Vec<StepEvent>,
}

/// Times `steps` steps after one that is not counted, in which memory is asked for and moments begin.
///
/// # Errors
/// [`ProgramError`]: a configuration that cannot be used, a loss that is not finite, a file that cannot be written.
pub(super) fn run(
    (config, path): (TrainConfig, &Path),
    steps: u16,
    context: &Context,
) -> Result<(), ProgramError> {
    let mut trainer = Trainer::new(config).map_err(|error| error.in_file(path))?;
    let parameters = trainer.parameters().list().iter();
    let mut timing = Timing {
        version: VERSION,
        threads: rayon::current_num_threads(),
        tokens_per_step: trainer.config().tokens_per_step(),
        parameters: parameters
            .map(|parameter| parameter.shape.iter().product::<usize>())
            .sum(),
        memory_before_bytes: resident_bytes(),
        peak_memory_bytes: None,
        steps: Vec::new(),
    };
    for _ in 0..=steps {
        timing.steps.push(trainer.step()?);
    }
    timing.peak_memory_bytes = peak_memory_bytes();
    context.print_json(&timing)?;
    context.print_line(timing.sentences().join("\n"))
}

impl Timing {
    /// What the terminal shows of the timing: speed, parts of a step, memory.
    fn sentences(&self) -> Vec<String> {
        let counted = self.steps.get(1..).unwrap_or_default();
        let of = |part: fn(&Seconds) -> f64| {
            let mut seconds: Vec<f64> = counted.iter().map(|step| part(&step.seconds)).collect();
            seconds.sort_by(f64::total_cmp);
            seconds
        };
        let whole = of(Seconds::sum);
        let speed = |seconds: f64| self.tokens_per_step as f64 / seconds;
        let (fastest, slowest) = (whole.first(), whole.last());
        let [fastest, slowest] = [fastest, slowest].map(|seconds| seconds.map_or(f64::NAN, |s| speed(*s)));
        let parts = [
            ("data", of(|seconds| seconds.data)),
            ("forward", of(|seconds| seconds.forward)),
            ("backward", of(|seconds| seconds.backward)),
            ("optimiser", of(|seconds| seconds.optimizer)),
        ];
        let parts = parts.map(|(name, seconds)| format!("{name} {:.4} s", median(&seconds)));
        let memory = |peak: Option<u64>| peak.map_or("not known".into(), bytes);
        vec![
            format!(
                "{:.1} tokens per second, median of {} steps of {} tokens ({slowest:.1} to {fastest:.1}); {} parameters, {} threads",
                speed(median(&whole)),
                counted.len(),
                self.tokens_per_step,
                self.parameters,
                self.threads,
            ),
            format!("a step: {}", parts.join(", ")),
            format!(
                "peak memory {}, before the first step {}",
                memory(self.peak_memory_bytes),
                memory(self.memory_before_bytes)
            ),
        ]
    }
}
