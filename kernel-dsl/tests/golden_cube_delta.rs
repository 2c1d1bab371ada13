//! The delta rule on every device, against what other people's software computed.

#[path = "support/device.rs"]
mod device;
mod support;

mod golden {
    #[path = "../golden_cube/delta_rule.rs"]
    mod delta_rule;
}
