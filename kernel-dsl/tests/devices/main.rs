//! The operators on every device: against the f64 definition and against what other people's software computed.

#[path = "../support/based.rs"]
mod based;
#[path = "../support/device.rs"]
mod device;
#[path = "../support/golden_convolution.rs"]
mod golden_convolution;
#[path = "../support/golden_prefix.rs"]
mod golden_prefix_cases;
#[path = "../support/layouts.rs"]
mod layouts;
#[path = "../support/linear_state_space.rs"]
mod linear_state_space;
#[path = "../support/long_convolution.rs"]
mod long_convolution;
#[path = "../support/ssm_kernel.rs"]
mod ssm_kernel;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/taylor.rs"]
mod taylor;
#[path = "../support/tokenwise.rs"]
mod tokenwise;

mod equivalence {
    mod common;
    mod delta_rule;
    mod selective_scan;
    mod wkv4;
}

mod golden {
    mod delta_rule;
    mod selective_scan;
    mod wkv4;
}

// By their paths, so that the modules within them lie in the folders beside them.
#[path = "equivalence_linear_state_space.rs"]
mod equivalence_linear_state_space;
#[path = "equivalence_long_convolution.rs"]
mod equivalence_long_convolution;
#[path = "equivalence_recurrence.rs"]
mod equivalence_recurrence;
#[path = "equivalence_taylor.rs"]
mod equivalence_taylor;
#[path = "equivalence_tokenwise.rs"]
mod equivalence_tokenwise;
#[path = "golden_long_convolution.rs"]
mod golden_long_convolution;
#[path = "golden_prefix.rs"]
mod golden_prefix;
#[path = "golden_recurrence.rs"]
mod golden_recurrence;
#[path = "golden_tokenwise.rs"]
mod golden_tokenwise;
#[path = "rotary.rs"]
mod rotary;
#[path = "ssm_kernel.rs"]
mod ssm_kernel_devices;
