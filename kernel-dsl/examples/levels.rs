//! Prints the levels of vector instructions that this processor has, one a line, the least capable first: for loops such as
//!
//! ```text
//! for level in $(cargo run -q -p spillway-kernel-dsl --example levels); do
//!     SPILLWAY_ISA=$level cargo test -p spillway-kernel-dsl equivalence
//! done
//! ```
//!
//! With `base`, only those that all kernels differ by: without the dot products that only products by bf16, int8 and int4 weights use.
//! With `missing`, those that it does not have instead.

use std::process::ExitCode;

use spillway_kernel_dsl::simd::Isa;

fn main() -> ExitCode {
    let wanted: fn(Isa) -> bool = match std::env::args().nth(1).as_deref() {
        None => Isa::is_available,
        Some("base") => |isa| isa.is_available() && isa.base() == isa,
        Some("missing") => |isa| !isa.is_available(),
        Some(other) => {
            eprintln!("levels: expected nothing, `base` or `missing`, found {other:?}");
            return ExitCode::FAILURE;
        }
    };
    for isa in Isa::ALL.into_iter().filter(|isa| wanted(*isa)) {
        println!("{isa}");
    }
    ExitCode::SUCCESS
}
