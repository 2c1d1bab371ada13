//! The operators of kernel-dsl beside what this machine, or a device of it, can do at most.
//!
//! ```text
//! cargo bench kernels                                             # all, on the host
//! cargo bench kernels/recurrence/chunked                          # one form of one operator
//! cargo bench kernels/level                                       # a few operators at every level of instructions
//! SPILLWAY_BENCH_DEVICE=wgpu cargo bench --features wgpu kernels  # on a device: wgpu or cuda
//! ```
//!
//! | variable | meaning |
//! |---|---|
//! | `SPILLWAY_BENCH_DEVICE` | `host` (default), `wgpu` or `cuda` |
//! | `SPILLWAY_BENCH_JSON` | a file that everything measured is written to |
//! | `SPILLWAY_BENCH_CLOCK` | `cpu` counts processor time, for one thread on a busy machine |
//! | `SPILLWAY_ISA` | caps the level of instructions: `portable`, `sse4.2`, `avx2`, `avx512`, .. |
//! | `RAYON_NUM_THREADS` | threads of the host's kernels and ceilings |
//!
//! Ceilings are measured in the same run. After each group a table gives every kernel as a fraction of the ceiling that
//! binds it: such a fraction survives a change of machine, a time does not.

mod support;

use criterion::Criterion;
use support::ceilings::Ceilings;
use support::clock::Clock;
use support::report::KernelReport;
use support::{
    Failure, Kernel, delta_rule, levels, linear, linear_state_space, long_convolution, long_convolution_nd,
    recurrence, run_group, selective_scan, ssm_kernel, taylor_attention, tokenwise, wkv4,
};

/// Measures the ceilings of the machine or device; called once, and only when kernels are timed.
type Measure = Box<dyn FnOnce() -> Result<Ceilings, Failure>>;

/// An operator and its kernels.
type Group = (&'static str, Vec<Kernel>);

fn main() -> Result<(), Failure> {
    let clock = Clock::from_env()?;
    spillway_kernel_dsl::simd::from_environment()?;
    let mut criterion = Criterion::default().configure_from_args();
    // Without this flag (`cargo test --benches`) every kernel runs once, and ceilings would be of no use.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let on_host = matches!(
        std::env::var("SPILLWAY_BENCH_DEVICE").as_deref(),
        Err(_) | Ok("" | "host")
    );
    let (ceilings, groups) = device_from_env()?;
    let mut report = if measuring {
        Some(KernelReport::new(ceilings()?, clock))
    } else {
        None
    };
    for (operator, kernels) in groups {
        let timed = run_group(&mut criterion, clock, operator, kernels);
        if let Some(report) = &mut report {
            report.add(operator, &timed);
            report.write()?;
        }
    }
    if on_host {
        levels::run(&mut criterion, clock, report.as_mut())?;
    }
    criterion.final_summary();
    Ok(())
}

/// What measures the ceilings of the device that `SPILLWAY_BENCH_DEVICE` names, and its groups.
fn device_from_env() -> Result<(Measure, Vec<Group>), Failure> {
    let name = std::env::var("SPILLWAY_BENCH_DEVICE").unwrap_or_default();
    match name.as_str() {
        "" | "host" => Ok((Box::new(|| Ok(Ceilings::of_host())), host_groups())),
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        _ => {
            let device = support::device::Device::named(&name)?;
            let groups = device.groups();
            Ok((Box::new(move || device.ceilings()), groups))
        }
        #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
        _ => Err(
            format!("SPILLWAY_BENCH_DEVICE={name} needs the feature wgpu or cuda of the bench crate").into(),
        ),
    }
}

fn host_groups() -> Vec<Group> {
    vec![
        ("recurrence", recurrence::kernels()),
        ("selective_scan", selective_scan::kernels()),
        ("wkv4", wkv4::kernels()),
        ("delta_rule", delta_rule::kernels()),
        ("taylor_attention", taylor_attention::kernels()),
        ("prefix_attention", taylor_attention::prefix_kernels()),
        ("vandermonde", ssm_kernel::vandermonde()),
        ("cauchy", ssm_kernel::cauchy()),
        ("linear_state_space", linear_state_space::kernels()),
        ("shift_state_space", linear_state_space::shift_kernels()),
        ("linear", linear::kernels()),
        ("causal_conv1d", tokenwise::causal_conv1d()),
        ("long_convolution", long_convolution::kernels()),
        ("long_convolution_nd", long_convolution_nd::kernels()),
        ("gated_norm", tokenwise::gated_norm()),
        ("cross_entropy", tokenwise::cross_entropy()),
    ]
}
