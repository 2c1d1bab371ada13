//! The operators on the CPU: all forms against the f64 definition and each other, against what other people's software
//! computed, and what they refuse. One binary, because each would compile the same kernels again.

#[path = "../support/based.rs"]
mod based;
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
#[path = "../support/long_convolution_nd.rs"]
mod long_convolution_nd;
#[path = "../support/shift_state_space.rs"]
mod shift_state_space;
#[path = "../support/ssm_kernel.rs"]
mod ssm_kernel;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/taylor.rs"]
mod taylor;
#[path = "../support/tokenwise.rs"]
mod tokenwise;

// By their paths, so that the modules within them lie in the folders beside them.
#[path = "delta_errors.rs"]
mod delta_errors;
#[path = "equivalence_conv_norm.rs"]
mod equivalence_conv_norm;
#[path = "equivalence_delta.rs"]
mod equivalence_delta;
#[path = "equivalence_dense.rs"]
mod equivalence_dense;
#[path = "equivalence_ggml.rs"]
mod equivalence_ggml;
#[path = "equivalence_int4.rs"]
mod equivalence_int4;
#[path = "equivalence_linear.rs"]
mod equivalence_linear;
#[path = "equivalence_linear_state_space.rs"]
mod equivalence_linear_state_space;
#[path = "equivalence_long_convolution.rs"]
mod equivalence_long_convolution;
#[path = "equivalence_long_convolution_nd.rs"]
mod equivalence_long_convolution_nd;
#[path = "equivalence_recurrence.rs"]
mod equivalence_recurrence;
#[path = "equivalence_scan.rs"]
mod equivalence_scan;
#[path = "equivalence_shift_state_space.rs"]
mod equivalence_shift_state_space;
#[path = "equivalence_softmax.rs"]
mod equivalence_softmax;
#[path = "equivalence_ssm_kernel.rs"]
mod equivalence_ssm_kernel;
#[path = "equivalence_taylor.rs"]
mod equivalence_taylor;
#[path = "equivalence_tokenwise.rs"]
mod equivalence_tokenwise;
#[path = "golden_conv_norm.rs"]
mod golden_conv_norm;
#[path = "golden_delta.rs"]
mod golden_delta;
#[path = "golden_linear_state_space.rs"]
mod golden_linear_state_space;
#[path = "golden_long_convolution.rs"]
mod golden_long_convolution;
#[path = "golden_prefix.rs"]
mod golden_prefix;
#[path = "golden_recurrence.rs"]
mod golden_recurrence;
#[path = "golden_scan.rs"]
mod golden_scan;
#[path = "golden_shift_state_space.rs"]
mod golden_shift_state_space;
#[path = "golden_ssm_kernel.rs"]
mod golden_ssm_kernel;
#[path = "golden_taylor.rs"]
mod golden_taylor;
#[path = "linear_state_space_errors.rs"]
mod linear_state_space_errors;
#[path = "misfit.rs"]
mod misfit;
#[path = "recurrence_errors.rs"]
mod recurrence_errors;
#[path = "recurrence_gradient_errors.rs"]
mod recurrence_gradient_errors;
