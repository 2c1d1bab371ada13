//! PyTorch files from arbitrary bytes: `.ci/fuzz 60 pth`.
//!
//! The input is read as a whole file, as the pickle of a good archive, and as changes to a good file.

#![no_main]

#[path = "../../models/tests/common/archive.rs"]
mod archive;

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use spillway_models::checkpoint::Header;

fn read(file: &[u8]) {
    if let Ok(header) = Header::parse_pth(Path::new("fuzz"), file) {
        for tensor in header.tensors.values() {
            assert!(tensor.begin <= tensor.end && tensor.end <= file.len());
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    read(&archive::pth(bytes, &[&[0; 24]]));
    let mut file = archive::good();
    for change in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % file.len();
        file[at] = change[2];
    }
    read(&file);
});
