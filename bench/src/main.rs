//! The `spillway` program. Everything it does lives in the library of this crate; here is only its way in and out.

use std::process::ExitCode;

fn main() -> ExitCode {
    keep_freed_memory();
    bench::main_with(std::env::args_os())
}

/// Has glibc keep what one layer frees for the next to use.
///
/// It would give blocks of a few megabytes, as every layer's tensors of a prompt are, back to the system at once, and the pages
/// would be cleared anew for each: a fifth of the time that a prompt takes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    // SAFETY: no other thread runs yet; whatever is refused leaves the default.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}
