//! The delta rule on every device equals its reference, forward and backward.

#[path = "support/device.rs"]
mod device;
mod support;

mod equivalence {
    #[path = "../equivalence_cube/common.rs"]
    mod common;
    #[path = "../equivalence_cube/delta_rule.rs"]
    mod delta_rule;
}
