//! The selective scan and WKV-4 on every device, against what other people's software computed.

#[path = "support/device.rs"]
mod device;
mod support;

mod golden {
    #[path = "../golden_cube/selective_scan.rs"]
    mod selective_scan;
    #[path = "../golden_cube/wkv4.rs"]
    mod wkv4;
}
