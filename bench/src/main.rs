//! The `spillway` program. Everything it does lives in the library of this crate; here is only its way in and out.

use std::process::ExitCode;

fn main() -> ExitCode {
    bench::main_with(std::env::args_os())
}
