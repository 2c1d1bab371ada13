//! What every kernel becomes on devices that are not here, and whether their compilers accept it.
//!
//! ```text
//! .ci/test lowering                                              # fetches NVRTC and CUDA's headers, which need no driver
//! cargo test -p spillway-kernel-dsl --features lowering --test lowering   # where they are
//! ```

#[cfg(feature = "lowering")]
#[path = "../support/calls/mod.rs"]
mod calls;
#[cfg(feature = "lowering")]
mod kernels;
#[cfg(feature = "lowering")]
mod models;
#[cfg(feature = "lowering")]
mod nvrtc;

/// Past the test harness, which keeps to itself what a test prints that passes.
#[cfg(not(feature = "lowering"))]
#[test]
fn what_needs_nvrtc_is_left_out_and_said() {
    use std::io::Write;

    let line = "left out: lowering: no kernel is compiled for CUDA, HIP or Metal without kernel-dsl's feature `lowering`, \
                which needs NVRTC: `.ci/test` fetches it and runs everything\n";
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("standard error takes text");
}
