//! A few operators at every level of vector instructions, beside the ceilings of that level.

use criterion::Criterion;
use spillway_kernel_dsl::simd::{Isa, active, set_active};

use super::ceilings::Ceilings;
use super::clock::Clock;
use super::report::KernelReport;
use super::{Failure, Kernel, delta_rule, linear, recurrence, run_group, selective_scan, wkv4};

/// Form and shape of the kernels that stand for their operators: [`linear`]'s by the names of its weights.
const CHOSEN: [(&str, &str); 11] = [
    ("chunked", "mamba2_130m_t2048"),
    ("backward", "mamba2_130m_t2048"),
    ("chunked", "gla_h8_64x64_t2048"),
    ("backward", "gla_h8_64x64_t2048"),
    ("chunked", "deltanet_h8_64x64_t2048"),
    ("backward", "deltanet_h8_64x64_t2048"),
    ("sequential", "mamba_130m_t2048"),
    ("backward", "mamba_130m_t2048"),
    ("sequential", "rwkv4_169m_t2048"),
    ("f32", "768x3352_rows1"),
    ("f32", "768x3352_rows512"),
];

fn kernels() -> Vec<Kernel> {
    [
        recurrence::kernels(),
        delta_rule::kernels(),
        selective_scan::kernels(),
        wkv4::kernels(),
        linear::kernels(),
    ]
    .into_iter()
    .flatten()
    .filter(|kernel| CHOSEN.contains(&(kernel.form, &kernel.shape)))
    .collect()
}

/// Runs them as groups `kernels/level_NAME`, and goes back to the level before.
///
/// # Errors
/// When a level cannot be used after all.
pub fn run(
    criterion: &mut Criterion,
    clock: Clock,
    mut report: Option<&mut KernelReport>,
) -> Result<(), Failure> {
    let before = active();
    // Levels above their base differ in products by bf16, int8 and int4 weights alone.
    for isa in Isa::available().filter(|isa| isa.base() == *isa) {
        set_active(isa)?;
        let operator = format!("level_{isa}");
        let timed = run_group(criterion, clock, &operator, kernels());
        if let (Some(report), false) = (report.as_deref_mut(), timed.is_empty()) {
            report.add_beside(&mut Ceilings::of_host(), &operator, &timed);
        }
    }
    set_active(before)?;
    Ok(())
}
