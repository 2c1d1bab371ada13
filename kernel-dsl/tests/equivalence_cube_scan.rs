//! The selective scan and WKV-4 on every device equal their references, forward and backward.

#[path = "support/device.rs"]
mod device;
mod support;

mod equivalence {
    #[path = "../equivalence_cube/common.rs"]
    mod common;
    #[path = "../equivalence_cube/selective_scan.rs"]
    mod selective_scan;
    #[path = "../equivalence_cube/wkv4.rs"]
    mod wkv4;
}
