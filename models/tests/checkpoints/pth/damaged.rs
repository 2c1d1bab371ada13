//! Whatever bytes a file holds, reading it ends without a panic.

use super::archive::{good, pth};
use super::parse;
use proptest::prelude::*;

/// Whatever a file holds, reading it ends, and tensors lie inside it.
fn never_panics(file: &[u8]) {
    if let Ok(header) = parse(file) {
        for tensor in header.tensors.values() {
            assert!(tensor.begin <= tensor.end && tensor.end <= file.len());
        }
    }
}

#[test]
fn every_beginning_of_a_file_is_refused() {
    let file = good();
    assert!(parse(&file).is_ok());
    for length in 0..file.len() {
        assert!(parse(&file[..length]).is_err(), "{length} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn arbitrary_pickles_never_panic(pickle in proptest::collection::vec(any::<u8>(), 0..200)) {
        never_panics(&pth(&pickle, &[&[0; 24]]));
    }

    /// Instructions that are all known get further than random bytes do.
    #[test]
    fn arbitrary_known_opcodes_never_panic(
        pieces in proptest::collection::vec(proptest::sample::select(vec![
            "(", ")", "N", "t", "}", "]", "u", "s", "a", "e", "b", "R", "Q", "q\u{1}", "h\u{1}", "K\u{6}", "K\u{0}",
            "X\u{7}\0\0\0storage", "X\u{1}\0\0\x000", "ctorch\nFloatStorage\n", "ccollections\nOrderedDict\n",
            "ctorch._utils\n_rebuild_tensor_v2\n", "ctorch._utils\n_rebuild_parameter\n", ".",
        ]), 0..60)
    ) {
        never_panics(&pth(pieces.concat().as_bytes(), &[&[0; 24]]));
    }

    #[test]
    fn damaged_files_never_panic(changes in proptest::collection::vec(any::<(usize, u8)>(), 1..6)) {
        let mut file = good();
        for (at, value) in changes {
            let at = at % file.len();
            file[at] = value;
        }
        never_panics(&file);
    }
}
