//! The `spillway` program. Everything it does lives in the library of this crate; here is only its way in and out.

use std::process::ExitCode;

fn main() -> ExitCode {
    keep_freed_memory();
    hear_of_files_too_large();
    spillway::main_with(std::env::args_os())
}

/// A file that grows beyond what is allowed is an error like that of a full disk, which is reported; by default it would end the
/// program without a word.
#[cfg(unix)]
fn hear_of_files_too_large() {
    // SAFETY: no other thread runs yet, and ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(not(unix))]
fn hear_of_files_too_large() {}

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
