//! `spillway doctor`: what this machine has, what of it the program uses, and why not the rest.

use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::format::bytes;
use crate::machine::{self, Cores, MachineMemory, Processor};
use clap::Args;
use serde::Serialize;
use spillway_kernel_dsl::roofline::{fma_peak, read_bandwidth};
use spillway_kernel_dsl::simd;
use spillway_models::device::Runtime;
use std::time::Instant;

/// Version of the JSON.
const VERSION: u32 = 1;
/// Bytes read to measure memory: more than a last-level cache, and read often within a second.
const BANDWIDTH_BYTES: usize = 192 << 20;
/// The tensor library and its kernels, pinned in the workspace's Cargo.toml.
const BURN: &str = "0.22.1";
const CUBECL: &str = "0.11.3";

/// Options of `spillway doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Figures are measured with --threads threads, within about two seconds; they are the better the quieter the machine is.

Examples:
  spillway doctor
  spillway doctor --threads 1 --json
  SPILLWAY_ISA=avx2 spillway doctor")]
pub struct DoctorArgs {}

/// The JSON document that `spillway doctor --json` prints.
#[derive(Debug, Serialize)]
struct DoctorReport {
    version: u32,
    program: Program,
    processor: Processor,
    instructions: Instructions,
    cores: Cores,
    memory: MachineMemory,
    measured: Measured,
    devices: Vec<DeviceKind>,
}

/// Versions of the program and of what it was built with.
#[derive(Debug, Serialize)]
struct Program {
    version: &'static str,
    /// `None` where the build was not told.
    commit: Option<&'static str>,
    rust: Option<&'static str>,
    burn: &'static str,
    cubecl: &'static str,
    /// Whether the program was built with optimisations.
    optimised: bool,
}

/// Levels of vector instructions.
#[derive(Debug, Serialize)]
struct Instructions {
    /// Levels that this processor has, the least capable first.
    available: Vec<String>,
    /// The one in use.
    active: String,
    /// What decided which level is in use: the environment variable with its value, or the processor.
    why: String,
    /// What each part uses.
    parts: Vec<Computation>,
}

/// A part of the computation.
#[derive(Debug, Serialize)]
struct Computation {
    name: &'static str,
    level: String,
    /// Whether `SPILLWAY_ISA` caps it.
    follows: bool,
    about: &'static str,
}

/// What the machine can do with `threads` threads, measured: GB/s of reading, GFLOP/s of multiply-adds.
#[derive(Debug, Serialize)]
struct Measured {
    threads: usize,
    read_gigabytes_per_second: f64,
    fma_gigaflops: f64,
    seconds: f64,
}

/// A kind of devices.
#[derive(Debug, Serialize)]
struct DeviceKind {
    kind: String,
    /// Whether the program was built for it.
    built: bool,
    found: Vec<Device>,
    /// What to do where there is none.
    advice: Option<String>,
}

/// A device that was found.
#[derive(Debug, Serialize)]
struct Device {
    /// How `--device` names the device: `wgpu:0`.
    device: String,
    name: String,
}

/// Runs `spillway doctor`.
///
/// # Errors
/// [`ProgramError::Usage`] for an instruction set that this processor does not have, [`ProgramError::Stdout`].
pub fn run(_args: &DoctorArgs, context: &Context) -> Result<(), ProgramError> {
    let report = DoctorReport {
        version: VERSION,
        program: Program {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("SPILLWAY_COMMIT"),
            rust: option_env!("SPILLWAY_RUSTC"),
            burn: BURN,
            cubecl: CUBECL,
            optimised: !cfg!(debug_assertions),
        },
        processor: machine::processor(),
        instructions: instructions(),
        cores: machine::cores(context.threads()),
        memory: machine::memory(),
        measured: measure(context.threads()),
        devices: Runtime::ALL.into_iter().map(devices).collect(),
    };
    context.print_json(&report)?;
    context.print_line(report.text())
}

/// Reports an instruction set that [`simd::VARIABLE`] names and this processor cannot run.
///
/// # Errors
/// [`ProgramError::Usage`].
pub fn check_instructions() -> Result<(), ProgramError> {
    match simd::from_environment() {
        Ok(_) => Ok(()),
        Err(error) => Err(ProgramError::BadVariable(format!("{}: {error}", simd::VARIABLE))),
    }
}

fn instructions() -> Instructions {
    let why = match std::env::var(simd::VARIABLE) {
        Ok(value) if !value.is_empty() => format!("{}={value}", simd::VARIABLE),
        _ => "the best that this processor has".into(),
    };
    let part = |part: simd::Component| Computation {
        name: part.name,
        level: part.isa.to_string(),
        follows: part.follows,
        about: part.about,
    };
    Instructions {
        available: simd::Isa::available().map(|isa| isa.to_string()).collect(),
        active: simd::active().to_string(),
        why,
        parts: simd::components().into_iter().map(part).collect(),
    }
}

fn measure(threads: usize) -> Measured {
    let begin = Instant::now();
    Measured {
        threads,
        fma_gigaflops: fma_peak(threads),
        read_gigabytes_per_second: read_bandwidth(threads, BANDWIDTH_BYTES),
        seconds: begin.elapsed().as_secs_f64(),
    }
}

fn devices(runtime: Runtime) -> DeviceKind {
    let found: Vec<Device> = runtime
        .found()
        .into_iter()
        .map(|device| Device {
            device: device.choice.to_string(),
            name: device.name,
        })
        .collect();
    let advice = match (runtime, runtime.is_built(), found.is_empty()) {
        (_, false, _) => Some(format!(
            "built without {runtime}: cargo install --path bench --features {runtime}"
        )),
        (Runtime::Wgpu, true, true) => {
            Some("no adapter: install a Vulkan driver (in software: mesa-vulkan-drivers)".into())
        }
        (Runtime::Cuda, true, true) => Some("no device: is there an NVIDIA driver? (nvidia-smi)".into()),
        _ => None,
    };
    DeviceKind {
        kind: runtime.to_string(),
        built: runtime.is_built(),
        found,
        advice,
    }
}

impl DoctorReport {
    fn text(&self) -> String {
        let mut rows = Vec::new();
        self.of_program(&mut rows);
        self.of_processor(&mut rows);
        self.of_limits(&mut rows);
        for kind in &self.devices {
            let mut lines: Vec<String> = kind
                .found
                .iter()
                .map(|found| format!("{} ({})", found.device, found.name))
                .collect();
            lines.extend(kind.advice.clone());
            for line in lines {
                rows.push((if kind.kind == "cpu" { "devices" } else { "" }, line));
            }
        }
        let lines = rows
            .iter()
            .map(|(name, value)| format!("{name:<14}{value}").trim_end().to_string());
        lines.collect::<Vec<_>>().join("\n")
    }

    fn of_program(&self, rows: &mut Vec<(&'static str, String)>) {
        let program = &self.program;
        let commit = program
            .commit
            .map_or(String::new(), |commit| format!(", commit {commit}"));
        let built = if program.optimised {
            ""
        } else {
            ", built without --release, so that it is slow"
        };
        rows.push(("spillway", format!("{}{commit}{built}", program.version)));
        let rust = program.rust.unwrap_or("rustc of unknown version");
        rows.push((
            "built with",
            format!("{rust}, burn {}, cubecl {}", program.burn, program.cubecl),
        ));
    }

    fn of_processor(&self, rows: &mut Vec<(&'static str, String)>) {
        let name = self.processor.name.as_deref().unwrap_or("unknown");
        rows.push(("processor", format!("{name} ({})", self.processor.architecture)));
        let instructions = &self.instructions;
        rows.push((
            "instructions",
            format!("{}, {}", instructions.active, instructions.why),
        ));
        rows.push(("", format!("available: {}", instructions.available.join(", "))));
        for part in &instructions.parts {
            let own = if part.follows {
                ""
            } else {
                "; not capped by SPILLWAY_ISA"
            };
            rows.push((
                "",
                format!("{:<22}{:<13}{}{own}", part.name, part.level, part.about),
            ));
        }
    }

    fn of_limits(&self, rows: &mut Vec<(&'static str, String)>) {
        let cores = &self.cores;
        let online = cores
            .online
            .map_or("an unknown number".into(), |online| online.to_string());
        let quota = cores.cgroup_quota.map_or("no cgroup limit".into(), |quota| {
            format!("cgroup limit {quota:.2}")
        });
        rows.push((
            "threads",
            format!(
                "{}; {} cores available of {online}, {quota}",
                cores.threads, cores.available
            ),
        ));
        let or_unknown = |number: Option<u64>| number.map_or("unknown".into(), bytes);
        let memory = &self.memory;
        let limit = match memory.cgroup_limit_bytes {
            None => "no cgroup limit".into(),
            Some(limit) => format!(
                "cgroup limit {}, of which {} are used",
                bytes(limit),
                or_unknown(memory.cgroup_used_bytes)
            ),
        };
        rows.push((
            "memory",
            format!(
                "{}, {} available; {limit}",
                or_unknown(memory.total_bytes),
                or_unknown(memory.available_bytes)
            ),
        ));
        let measured = &self.measured;
        let threads = if measured.threads == 1 {
            "thread"
        } else {
            "threads"
        };
        rows.push((
            "measured",
            format!(
                "reads {:.1} GB/s, computes {:.0} GFLOP/s (f32 multiply-adds) with {} {threads}, in {:.1} s",
                measured.read_gigabytes_per_second,
                measured.fma_gigaflops,
                measured.threads,
                measured.seconds
            ),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_are_those_of_the_lock_file() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"))
            .expect("Cargo.lock");
        for (name, version) in [("burn", BURN), ("cubecl", CUBECL)] {
            let entry = format!("name = \"{name}\"\nversion = \"{version}\"");
            assert!(lock.contains(&entry), "{entry}");
        }
    }
}
