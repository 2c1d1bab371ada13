//! Every kernel, for each of the targets.
//!
//! The registers, shared memory and spills of each CUDA kernel go straight to standard output.

use std::io::Write;
use std::time::Instant;

use rayon::prelude::*;
use spillway_kernel_dsl::cube::lowering::{KernelSource, Language, LoweringTarget};

use crate::models::{self, Call};
use crate::nvrtc::{Nvrtc, Usage};

/// Bytes that a thread may spill, written and read together. A kernel that spills more runs at the pace of its cache.
const SPILL_LIMIT: usize = 64;

/// Kernels that may spill more, by the start of their names, and how much: NVRTC 13.0 spills 80 bytes of this one
/// for sm_80, and fewer for sm_90a.
const SPILL_EXCEPTIONS: [(&str, usize); 1] = [("delta_rule/backward/gated_deltanet", 80)];

/// Bytes that the kernel of this name may spill.
fn spill_limit(name: &str) -> usize {
    let exception = SPILL_EXCEPTIONS.iter().find(|(start, _)| name.starts_with(start));
    exception.map_or(SPILL_LIMIT, |(_, limit)| *limit)
}

/// A kernel's name, cube and source.
struct Lowered {
    name: String,
    units: u32,
    source: KernelSource,
}

/// Every kernel that the calls launch; a call or a kernel that fails is named.
fn sources(target: &LoweringTarget) -> Vec<Lowered> {
    let (mut sources, mut failures) = (Vec::new(), Vec::new());
    let recorder = target.recorder();
    for models::Call { name, launch } in models::calls() {
        if let Err(error) = launch(recorder.client()) {
            failures.push(format!("{name}: {error}"));
        }
        for kernel in recorder.take() {
            let name = format!("{name}: {}", kernel.name);
            match kernel.source {
                Ok(source) => sources.push(Lowered {
                    name,
                    units: kernel.cube_dim.iter().product(),
                    source,
                }),
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        }
    }
    let architecture = target.architecture();
    assert!(
        failures.is_empty(),
        "for {architecture}:\n{}",
        failures.join("\n")
    );
    assert!(!sources.is_empty(), "no call launches a kernel");
    sources
}

/// Compiles every kernel for a target and prints what each takes.
fn compile_all(target: &LoweringTarget) {
    let nvrtc = Nvrtc::get().unwrap_or_else(|missing| panic!("{missing}"));
    let architecture = target.architecture();
    let compiled: Vec<_> = sources(target)
        .into_par_iter()
        .map(|kernel| {
            let begin = Instant::now();
            let usage = nvrtc.compile(&kernel.source.text, architecture);
            (kernel, begin.elapsed().as_millis(), usage)
        })
        .collect();
    let mut table = format!(
        "\n{architecture:<68}{:>6}{:>10}{:>14}{:>9}{:>8}\n",
        "units", "registers", "shared bytes", "spilled", "ms"
    );
    let mut failures = Vec::new();
    for (Lowered { name, units, source }, ms, usage) in compiled {
        let Usage {
            registers,
            shared_memory,
            spills,
        } = match usage {
            Ok(usage) => usage,
            Err(log) => {
                failures.push(format!("{name}: {log}"));
                continue;
            }
        };
        // CubeCL asks for its shared memory at the launch, so that the compiler sees none of it.
        let shared = shared_memory.max(source.shared_memory);
        table += &format!("{name:<68}{units:>6}{registers:>10}{shared:>14}{spills:>9}{ms:>8}\n");
        let limit = spill_limit(&name);
        if spills > limit {
            failures.push(format!("{name} spills {spills} bytes of at most {limit}"));
        }
        if shared > target.max_shared_memory() {
            let most = target.max_shared_memory();
            failures.push(format!(
                "{name} takes {shared} bytes of shared memory of at most {most}"
            ));
        }
        // A multiprocessor has 65536 registers, given out to planes by the 8.
        if registers.next_multiple_of(8) * units as usize > 65536 {
            failures.push(format!(
                "{name}: {units} units of {registers} registers do not fit a multiprocessor"
            ));
        }
    }
    // Past the test harness, which keeps to itself what a test prints that passes.
    let mut out = std::io::stdout().lock();
    out.write_all(table.as_bytes())
        .and_then(|()| out.flush())
        .expect("standard output takes text");
    assert!(failures.is_empty(), "{architecture}:\n{}", failures.join("\n"));
}

#[test]
fn every_kernel_compiles_for_ampere_with_few_spills() {
    compile_all(&LoweringTarget::a100());
}

#[test]
fn every_kernel_compiles_for_hopper_with_few_spills() {
    compile_all(&LoweringTarget::h100());
}

/// Kernels of an operator that multiply tiles are those that have a tensor core to do it, where all that is read is bf16.
#[test]
fn products_of_bf16_are_on_tensor_cores() {
    let all = sources(&LoweringTarget::h100());
    for (operator, kernels) in [
        (
            "recurrence/chunked/mamba2",
            &["scores", "chunk_updates", "read_values"][..],
        ),
        ("taylor_attention/chunked/based", &["updates", "read"]),
        ("taylor_attention/backward/based", &["updates", "read", "keys"]),
        ("taylor_attention/chunked/jrt", &["sum"]),
    ] {
        for kernel in kernels {
            for (dtype, expected) in [("BF16", true), ("F32", false)] {
                let name = format!("{operator}/{dtype}: {kernel}");
                let found = all.iter().filter(|lowered| lowered.name == name);
                let on_tensor_cores: Vec<bool> = found
                    .map(|lowered| lowered.source.text.contains("wmma::mma_sync"))
                    .collect();
                // Prefixes are lowered in bf16 alone.
                let is_there = !on_tensor_cores.is_empty() || (operator.ends_with("jrt") && !expected);
                assert!(is_there, "no kernel {name}");
                assert!(on_tensor_cores.iter().all(|found| *found == expected), "{name}");
            }
        }
    }
}

#[test]
fn every_kernel_has_a_hip_and_a_metal_source() {
    for (target, entry) in [
        (LoweringTarget::mi300(), "__global__ void"),
        (LoweringTarget::apple(), "[[kernel]]"),
    ] {
        for Lowered { name, source, .. } in sources(&target) {
            let text = &source.text;
            assert!(
                text.matches(entry).count() == 1,
                "{name} needs one entry point `{entry}`:\n{text}"
            );
            assert_eq!(
                text.matches('{').count(),
                text.matches('}').count(),
                "{name}: braces do not match"
            );
            if target.language() == Language::Metal {
                assert!(!text.contains("double"), "{name}: Metal has no f64");
            }
        }
    }
}

/// No buffer of that size fits on the devices that run the other tests.
#[test]
fn buffers_beyond_32_bits_are_indexed_by_64() {
    let nvrtc = Nvrtc::get().unwrap_or_else(|missing| panic!("{missing}"));
    let target = LoweringTarget::h100();
    for (batch, wide) in [(1, false), (2048, true)] {
        let recorder = target.recorder();
        for Call { name, launch } in models::long_recurrences(batch) {
            launch(recorder.client()).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        // Small tables keep 32 bits; the kernel that reads values and writes outputs meets the large buffers.
        let mut with_64_bits = 0;
        for kernel in recorder.take() {
            let source = kernel
                .source
                .unwrap_or_else(|error| panic!("{}: {error}", kernel.name));
            // Once where the type is defined.
            let has_64_bits = source.text.matches("uint64").count() > 1;
            if wide && kernel.name.contains("read_values") {
                assert!(has_64_bits, "{}:\n{}", kernel.name, source.text);
            }
            with_64_bits += usize::from(has_64_bits);
            if let Err(log) = nvrtc.compile(&source.text, target.architecture()) {
                panic!("{}: {log}", kernel.name);
            }
        }
        assert_eq!(with_64_bits > 0, wide, "{batch} sequences");
    }
}

#[test]
fn a_kernel_that_the_compiler_refuses_is_an_error_with_its_log() {
    let nvrtc = Nvrtc::get().unwrap_or_else(|missing| panic!("{missing}"));
    let log = nvrtc
        .compile(
            "extern \"C\" __global__ void f(float *x) { x[0] = undeclared; }",
            "sm_80",
        )
        .expect_err("the name is not declared");
    assert!(log.contains("undeclared"), "{log}");
}

#[test]
fn spills_are_seen() {
    let nvrtc = Nvrtc::get().unwrap_or_else(|missing| panic!("{missing}"));
    // 128 live values a thread, where 1024 threads leave each 64 registers.
    let source = "extern \"C\" __global__ void __launch_bounds__(1024) f(float *x, int n) {
        float v[128];
        #pragma unroll
        for (int i = 0; i < 128; i++) v[i] = x[i * 1024 + threadIdx.x];
        for (int j = 0; j < n; j++) {
            #pragma unroll
            for (int i = 0; i < 128; i++) v[i] = v[i] * v[(i + 37) % 128] + 1.0f;
        }
        #pragma unroll
        for (int i = 0; i < 128; i++) x[i * 1024 + threadIdx.x] = v[i];
    }";
    let usage = nvrtc.compile(source, "sm_90a").expect("the source is right");
    assert!(usage.spills > SPILL_LIMIT, "{usage:?}");
}
