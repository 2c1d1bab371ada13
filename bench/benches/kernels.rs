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
use support::{Ceilings, Failure, Kernel, linear, recurrence, run_group, tokenwise};

/// Builds a group's kernels with their inputs.
type Build = fn() -> Result<Vec<Kernel>, Failure>;

/// The groups by operator.
const GROUPS: [(&str, Build); 5] = [
    ("recurrence", recurrence::kernels),
    ("linear", linear::kernels),
    ("causal_conv1d", || Ok(tokenwise::causal_conv1d())),
    ("gated_norm", || Ok(tokenwise::gated_norm())),
    ("cross_entropy", || Ok(tokenwise::cross_entropy())),
];

fn main() -> Result<(), Failure> {
    let mut criterion = Criterion::default().configure_from_args();
    // Without this flag (`cargo test --benches`) every kernel runs once, and ceilings would be of no use.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let mut ceilings = measuring.then(Ceilings::measure);
    // A group is built when its turn comes, so that only its own inputs are in memory, and not at all when the command
    // line names another one.
    for (operator, build) in GROUPS {
        if is_wanted(operator) {
            run_group(&mut criterion, ceilings.as_mut(), operator, build()?);
        }
    }
    criterion.final_summary();
    Ok(())
}

/// Whether the command line's filter can select a kernel of this operator: it names the operator, or none at all.
fn is_wanted(operator: &str) -> bool {
    let named: Vec<&str> = GROUPS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| std::env::args().skip(1).any(|argument| argument.contains(name)))
        .collect();
    named.is_empty() || named.contains(&operator)
}
