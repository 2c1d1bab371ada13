//! The operators of kernel-dsl beside what this machine can do at most.
//!
//! ```text
//! cargo bench kernels                      # all
//! cargo bench kernels/recurrence           # one operator
//! ```
//!
//! Read bandwidth and multiply-add peak are measured in the same run. After each group a table gives every kernel as a
//! fraction of the ceiling that binds it: such a fraction survives a change of machine, a time does not.

mod support;

use criterion::Criterion;
use support::{Ceilings, linear, recurrence, run_group, tokenwise};

fn main() -> Result<(), support::Failure> {
    let mut criterion = Criterion::default().configure_from_args();
    // Without this flag (`cargo test --benches`) every kernel runs once, and ceilings would be of no use.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let mut ceilings = measuring.then(Ceilings::measure);
    // A group is built when its turn comes, so that only its own inputs are in memory.
    run_group(
        &mut criterion,
        ceilings.as_mut(),
        "recurrence",
        recurrence::kernels()?,
    );
    run_group(&mut criterion, ceilings.as_mut(), "linear", linear::kernels()?);
    let convolution = tokenwise::causal_conv1d();
    run_group(&mut criterion, ceilings.as_mut(), "causal_conv1d", convolution);
    run_group(
        &mut criterion,
        ceilings.as_mut(),
        "gated_norm",
        tokenwise::gated_norm(),
    );
    run_group(
        &mut criterion,
        ceilings.as_mut(),
        "cross_entropy",
        tokenwise::cross_entropy(),
    );
    criterion.final_summary();
    Ok(())
}
