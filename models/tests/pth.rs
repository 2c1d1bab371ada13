//! PyTorch files: real ones beside the same tensors in safetensors, and every way in which one can be wrong or hostile.

#[path = "common/archive.rs"]
mod archive;

use std::fs;
use std::path::Path;

use archive::{Described, Entry, archive, dictionary, global, good, int, program, pth, text, tuple};
use half::{bf16, f16};
use proptest::prelude::*;
use spillway_models::checkpoint::{Checkpoint, CheckpointError, Header, PthError};
use tempfile::TempDir;

fn parse(file: &[u8]) -> Result<Header, PthError> {
    Header::parse_pth(Path::new("model.pth"), file).map_err(|error| match error {
        CheckpointError::Pth { source, .. } => source,
        other => panic!("{other}"),
    })
}

/// Why a file with this pickle and one storage of 24 bytes is refused.
fn refusal(pickle: &[u8]) -> PthError {
    parse(&pth(pickle, &[&[0; 24]])).unwrap_err()
}

/// A dictionary with one tensor of six singles.
fn described<'a>(offset: i32, shape: &'a [i32], strides: &'a [i32]) -> Described<'a> {
    Described {
        name: "w",
        class: "FloatStorage",
        key: "0",
        values: 6,
        offset,
        shape,
        strides,
    }
}

fn pickled(tensor: &Described<'_>) -> Vec<u8> {
    program(&dictionary(&[(tensor.name, tensor.pickle())]))
}

#[track_caller]
fn expect_message(error: &PthError, parts: &[&str]) {
    let message = error.to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not named in: {message}");
    }
}

mod golden {
    use super::*;
    use std::path::PathBuf;

    /// Files that PyTorch wrote hold the tensors that the safetensors file beside them holds, bit by bit.
    #[test]
    fn files_of_pytorch_hold_the_tensors_beside_them() {
        let folder = std::env::var_os("GOLDEN_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
            PathBuf::from,
        );
        let models = fs::read_dir(folder.join("models"))
            .unwrap()
            .map(|m| m.unwrap().path());
        let files = models.flat_map(|m| ["model.pth", "pytorch_model.bin"].map(|name| m.join(name)));
        let files: Vec<PathBuf> = files.filter(|file| file.exists()).collect();
        for file in &files {
            let ours = Checkpoint::open(file).unwrap();
            let theirs = Checkpoint::open(file.with_file_name("model.safetensors")).unwrap();
            assert!(ours.names().eq(theirs.names()), "{}", file.display());
            for name in theirs.names() {
                let shape = theirs.stored(name).unwrap().shape;
                let [a, b] = [&ours, &theirs].map(|c| c.tensor(name, shape).unwrap());
                assert_eq!(a.dtype(), b.dtype(), "{}: {name}", file.display());
                assert!(a.same_bytes(&b), "{}: {name}", file.display());
            }
        }
        assert!(!files.is_empty() || std::env::var_os("GOLDEN_DIR").is_some());
    }
}

#[test]
fn values_come_out_as_stored_in_every_type() {
    let values = [1.5f32, -0.25, 3e-5, 65504.0, 0.0, -2.0];
    let storages: [(&str, Vec<u8>); 5] = [
        (
            "FloatStorage",
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ),
        (
            "HalfStorage",
            values
                .iter()
                .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                .collect(),
        ),
        (
            "BFloat16Storage",
            values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                .collect(),
        ),
        (
            "DoubleStorage",
            values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
        ),
        ("LongStorage", (0..6i64).flat_map(|v| v.to_le_bytes()).collect()),
    ];
    let keys = ["0", "1", "2", "3", "4"];
    let tensors: Vec<(&str, Vec<u8>)> = storages
        .iter()
        .zip(keys)
        .map(|((class, _), key)| {
            let tensor = Described {
                class,
                key,
                ..described(0, &[3, 2], &[2, 1])
            };
            (*class, tensor.pickle())
        })
        .collect();
    let bytes: Vec<&[u8]> = storages.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    fs::write(
        folder.path().join("any name.pth"),
        pth(&program(&dictionary(&tensors)), &bytes),
    )
    .unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.dtypes(), ["BF16", "F16", "F32", "F64", "I64"]);
    let read = |name: &str| checkpoint.tensor(name, &[3, 2]).unwrap().to_vec().unwrap();
    assert_eq!(read("FloatStorage"), values);
    assert_eq!(read("DoubleStorage"), values);
    assert_eq!(read("HalfStorage"), values.map(|v| f16::from_f32(v).to_f32()));
    assert_eq!(
        read("BFloat16Storage"),
        values.map(|v| bf16::from_f32(v).to_f32())
    );
    let error = checkpoint.tensor("LongStorage", &[3, 2]).unwrap_err().to_string();
    assert!(error.contains("dtype I64"), "{error}");
    let stored = checkpoint.stored("LongStorage").unwrap();
    assert_eq!(
        (stored.dtype_name, stored.shape, stored.bytes),
        ("I64", &[3, 2][..], bytes[4])
    );
}

#[test]
fn views_lie_where_the_pickle_says() {
    let header = parse(&good()).unwrap();
    let (whole, row) = (&header.tensors["whole"], &header.tensors["row"]);
    assert_eq!(
        (whole.shape.as_slice(), whole.end - whole.begin),
        (&[2, 3][..], 24)
    );
    assert_eq!(
        (row.shape.as_slice(), row.begin, row.end),
        (&[1, 3][..], whole.begin + 12, whole.end)
    );
    // No values: anywhere, in any shape; one value: any stride.
    let place = |offset, shape: &[i32], strides: &[i32]| {
        parse(&pth(&pickled(&described(offset, shape, strides)), &[&[0; 24]])).map(|h| h.tensors["w"].clone())
    };
    assert_eq!(place(6, &[0, 7], &[7, 1]).unwrap().shape, [0, 7]);
    assert!(place(0, &[0, i32::MAX, i32::MAX, i32::MAX], &[1, 1, 1, 1]).is_ok());
    assert_eq!(place(5, &[], &[]).unwrap().shape, [] as [usize; 0]);
    assert_eq!(place(5, &[1, 1], &[9, 9]).unwrap().shape, [1, 1]);
}

#[test]
fn a_state_dict_with_parameters_and_attributes_is_read() {
    // OrderedDict(), its entries in a mark, a parameter around a tensor, and `_metadata` as an attribute; with memo and frame.
    let parameter = [
        global("torch._utils", "_rebuild_parameter"),
        tuple(&[
            described(0, &[6], &[1]).pickle(),
            vec![0x88],
            [global("collections", "OrderedDict"), b")R".to_vec()].concat(),
        ]),
        b"R".to_vec(),
    ];
    let metadata = dictionary(&[(
        "_metadata",
        dictionary(&[("", [b"]".to_vec(), int(1), b"a".to_vec()].concat())]),
    )]);
    let value = [
        b"\x95\0\0\0\0\0\0\0\0".to_vec(),
        global("collections", "OrderedDict"),
        b"q\x05)Rr\0\x01\0\0".to_vec(),
        text("w"),
        b"\x94".to_vec(),
        parameter.concat(),
        b"s".to_vec(),
        metadata,
        // The dictionary from the memo, so that it is the topmost operand twice.
        b"bj\0\x01\0\0".to_vec(),
    ]
    .concat();
    assert_eq!(
        parse(&pth(&program(&value), &[&[0; 24]])).unwrap().tensors["w"].shape,
        [6]
    );
}

#[test]
fn archives_beyond_four_gib_have_fields_of_64_bits() {
    let pickle = pickled(&described(0, &[6], &[1]));
    let entry = |name, bytes| Entry {
        wide: true,
        ..Entry::stored(name, bytes)
    };
    let file = archive(&[entry("x/data.pkl", &pickle), entry("x/data/0", &[0; 24])]);
    assert_eq!(parse(&file).unwrap().tensors["w"].shape, [6]);
}

#[test]
fn nothing_is_run_or_imported() {
    let call = |module: &str, name: &str| {
        let value = [global(module, name), tuple(&[text("echo")]), b"R".to_vec()].concat();
        refusal(&program(&value))
    };
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v3"),
        ("torch._utils._rebuild_tensor_v2", "__class__"),
        ("collections", "defaultdict"),
    ] {
        let error = call(module, name);
        assert!(matches!(error, PthError::Global { offset: 2, .. }), "{error}");
        expect_message(
            &error,
            &[&format!("\"{module}.{name}\""), "byte 2", "nothing is run"],
        );
    }
    let stacked = [text("os"), text("system"), vec![0x93]].concat();
    expect_message(&refusal(&program(&stacked)), &["\"os.system\"", "byte 20"]);
    // What is on the list may be called in one way only.
    let storage_class = global("torch", "FloatStorage");
    for (value, parts) in [
        (
            [storage_class, b")R".to_vec()].concat(),
            ["a function to call", "a storage class"],
        ),
        (
            [text("os.system"), b")R".to_vec()].concat(),
            ["a function to call", "a text"],
        ),
        (
            [global("collections", "OrderedDict"), int(1), b"R".to_vec()].concat(),
            ["a tuple of arguments", "a whole number"],
        ),
        (
            [
                global("collections", "OrderedDict"),
                tuple(&[int(1)]),
                b"R".to_vec(),
            ]
            .concat(),
            ["no arguments", "found 1"],
        ),
        (
            [
                global("torch._utils", "_rebuild_parameter"),
                tuple(&[int(1)]),
                b"R".to_vec(),
            ]
            .concat(),
            ["a tensor", "1 arguments"],
        ),
        (
            [
                global("torch._utils", "_rebuild_tensor_v2"),
                tuple(&[int(1)]),
                b"R".to_vec(),
            ]
            .concat(),
            ["a tensor: (", "1 other"],
        ),
        (
            [tuple(&[text("module"), text("x")]), b"Q".to_vec()].concat(),
            ["a storage: (", "another tuple of 2"],
        ),
    ] {
        expect_message(&refusal(&program(&value)), &parts);
    }
}

#[test]
fn every_opcode_that_is_not_needed_is_named() {
    let needed = b"\x80\x95(.N\x88\x89JKMG\x8aX\x8c)\x85\x86\x87t]ae}suqr\x94hjc\x93QRb";
    for opcode in (0..=255u8).filter(|opcode| !needed.contains(opcode)) {
        let error = refusal(&program(&[opcode]));
        assert_eq!(error, PthError::Opcode { opcode, offset: 2 });
        expect_message(&error, &[&format!("{opcode:#04x}"), "byte 2"]);
    }
}

#[test]
fn pickles_without_sense_name_the_byte() {
    let cases: [(&[u8], &[&str]); 18] = [
        (b"", &["truncated at byte 0"]),
        (b"\x80", &["truncated at byte 1"]),
        (b"\x80\x02}", &["truncated at byte 3"]),
        (b"X\xff\xff\0\0a", &["bytes of a text", "at most 4096"]),
        (b"X\x03\0\0\0ab.", &["truncated"]),
        (b"X\x01\0\0\0\xff.", &["UTF-8"]),
        (b"cos\nsystem", &["truncated"]),
        (b".", &["byte 0: expected an operand, found none"]),
        (b"t", &["expected a mark, found none"]),
        (b"K\x01(\x85", &["byte 3: expected an operand, found none"]),
        (b"q\0", &["an operand"]),
        (b"h\0", &["an entry of the memo", "no entry 0"]),
        (b"]r\xff\xff\xff\x7f", &["entries of the memo", "at most 1048576"]),
        (b"}(K\x01u", &["pairs of name and value", "1 operands"]),
        (b"](K\x01K\x02u", &["a dictionary to put entries into", "a list"]),
        (b"}K\x01a", &["a list to append to", "a dictionary"]),
        (
            b"K\x01}b",
            &["a dictionary to give attributes to", "a whole number"],
        ),
        (b"\x8a\x09123456789.", &["bytes of a whole number", "at most 8"]),
    ];
    for (pickle, parts) in cases {
        expect_message(&refusal(pickle), parts);
    }
    expect_message(
        &refusal(b"K\x01."),
        &["a dictionary of tensors", "a whole number"],
    );
    expect_message(
        &refusal(b"}K\x01K\x02s."),
        &["names of tensors", "a whole number"],
    );
    let error = refusal(&program(&dictionary(&[("epoch", int(3))])));
    assert!(matches!(error, PthError::NotATensor { .. }));
    expect_message(&error, &["entry \"epoch\"", "a whole number"]);
    expect_message(
        &refusal(&program(&dictionary(&[("state_dict", dictionary(&[]))]))),
        &["a dictionary;"],
    );
}

#[test]
fn nesting_and_repetition_are_bounded() {
    expect_message(&refusal(&[b'('; 1000]), &["nesting", "at most 64"]);
    // A tuple in a tuple, a million deep: refused for the number of values, with no recursion on the way out.
    let mut deep = b")".to_vec();
    deep.resize(2_000_000, 0x85);
    expect_message(&refusal(&deep), &["values", "at most 1048576"]);
    deep.truncate(1_000_000);
    expect_message(
        &refusal(&[deep, b".".to_vec()].concat()),
        &["a dictionary of tensors", "a tuple"],
    );
    // A dictionary within itself.
    expect_message(
        &refusal(b"}q\0X\x01\0\0\0ah\0s."),
        &["entry \"a\"", "a dictionary"],
    );
    // One value many times.
    let many = [b"Nq\0".to_vec(), b"h\0".repeat(2_000_000)].concat();
    expect_message(&refusal(&many), &["operands", "at most 1048576"]);
    let long = [b"(".to_vec(), b"N".repeat(1000), b"tQ.".to_vec()].concat();
    expect_message(&refusal(&long), &["elements of a tuple", "at most 7"]);
    let shape = [1; 20];
    expect_message(
        &refusal(&pickled(&described(0, &shape, &shape))),
        &["dimensions", "at most 16"],
    );
    let padding = vec![b'N'; (16 << 20) + 1];
    expect_message(&refusal(&padding), &["length in bytes", "at most 16777216"]);
}

#[test]
fn tensors_stay_inside_their_storage() {
    let refusal = |tensor: &Described<'_>| refusal(&pickled(tensor));
    for (offset, shape, strides) in [
        (1, &[6][..], &[1][..]),
        (7, &[0], &[1]),
        (0, &[7], &[1]),
        (i32::MAX, &[1], &[1]),
        (0, &[i32::MAX, i32::MAX, i32::MAX], &[1, 1, 1]),
    ] {
        let error = refusal(&described(offset, shape, strides));
        assert!(matches!(error, PthError::OutsideStorage { .. }), "{error}");
        expect_message(&error, &["tensor w", "within the 6 values"]);
    }
    expect_message(
        &refusal(&described(-1, &[1], &[1])),
        &["a whole number from 0", "-1"],
    );
    expect_message(
        &refusal(&described(0, &[-1], &[1])),
        &["a whole number from 0", "-1"],
    );
    expect_message(
        &refusal(&described(0, &[2, 3], &[1])),
        &["as many strides", "[2, 3] and [1]"],
    );
    for (shape, strides) in [(&[2, 3], &[1, 2]), (&[2, 3], &[0, 1]), (&[2, 2], &[3, 1])] {
        let error = refusal(&described(0, shape, strides));
        assert!(matches!(error, PthError::Strided { .. }), "{error}");
        expect_message(&error, &["tensor w", "strides", ".contiguous()"]);
    }
    let tensor = described(0, &[1], &[1]);
    let error = refusal(&Described {
        values: 7,
        ..tensor.clone()
    });
    expect_message(&error, &["tensor w", "\"m/data/0\"", "28 bytes, found 24"]);
    let error = refusal(&Described {
        class: "HalfStorage",
        ..tensor.clone()
    });
    expect_message(&error, &["12 bytes, found 24"]);
    for key in ["1", "../data.pkl", "", "0/"] {
        let error = refusal(&Described {
            key,
            ..tensor.clone()
        });
        assert!(matches!(error, PthError::EntryMissing { .. }), "{error}");
    }
}

#[test]
fn archives_that_are_wrong_are_refused() {
    let pickle = pickled(&described(0, &[6], &[1]));
    let stored = |name| Entry::stored(name, &pickle);
    let refusal = |entries: &[Entry<'_>]| parse(&archive(entries)).unwrap_err();
    let compressed = Entry {
        method: 8,
        ..stored("m/data.pkl")
    };
    expect_message(
        &refusal(&[compressed]),
        &["\"m/data.pkl\"", "compression method 8"],
    );
    let encrypted = Entry {
        flags: 1,
        ..stored("m/data.pkl")
    };
    expect_message(&refusal(&[encrypted]), &["encryption"]);
    for name in ["m/data/data.pkl", "mdata.pkl", "m/data.pickle"] {
        expect_message(&refusal(&[stored(name)]), &["\"data.pkl\" is missing"]);
    }
    let twice = [stored("m/data.pkl"), stored("m/data.pkl")];
    expect_message(&refusal(&twice), &["one of that name, found two"]);
    let big = Entry::stored("m/byteorder", b"big");
    expect_message(&refusal(&[stored("m/data.pkl"), big]), &["byte order", "\"big\""]);
    let file = archive(&[stored("m/data.pkl")]);
    expect_message(&parse(&file[1..]).unwrap_err(), &["not a zip archive"]);
    expect_message(
        &parse(&file[..file.len() - 1]).unwrap_err(),
        &["end record", "truncated"],
    );
    // A place beyond the file, a length beyond the file, another name in the local header.
    let damaged = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        parse(&file).unwrap_err()
    };
    let directory = file.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    expect_message(
        &damaged(directory + 42, &[0xFF, 0xFF, 0xFF, 0x7F]),
        &["its header at byte 2147483647"],
    );
    expect_message(
        &damaged(directory + 20, &[0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0x7F]),
        &["bytes before the directory"],
    );
    expect_message(&damaged(directory + 20, &[0; 4]), &["stored bytes, found 0"]);
    expect_message(
        &damaged(directory + 24, &[0xFF; 4]),
        &["sizes of 64 bits, found none"],
    );
    expect_message(&damaged(30, b"n"), &["its header at byte 0"]);
    expect_message(&damaged(directory, b"XX"), &["the signature of a record"]);
    let end = file.len() - 22;
    expect_message(&damaged(end + 10, &[9, 0]), &["entry 1", "a directory record"]);
    expect_message(
        &damaged(end + 16, &[0xFF, 0xFF, 0xFF, 0x7F]),
        &["before its end record"],
    );
    expect_message(&damaged(end + 10, &[0xFF, 0xFF]), &["an end record of 64 bits"]);
}

#[test]
fn shards_and_absent_configurations() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let named = |name: &str| {
        let tensor = described(0, &[6], &[1]).pickle();
        pth(&program(&dictionary(&[(name, tensor)])), &[&[0; 24]])
    };
    let open = || Checkpoint::open(folder.path());
    write("a.pth", &named("w"));
    let error = open().unwrap_err();
    assert!(matches!(error, CheckpointError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("config.json"), "{error}");
    write("a.pth", &named("blocks.0.ln0.weight"));
    assert!(open().unwrap().config().names().is_empty());
    write("b.pth", &named("w"));
    let error = open().unwrap_err().to_string();
    assert!(error.contains("a.pth, b.pth"), "{error}");
    write("config.json", b"{}");
    write(
        "pytorch_model.bin.index.json",
        br#"{"weight_map":{"v":"1.bin","w":"2.bin"}}"#,
    );
    write("1.bin", &named("v"));
    write("2.bin", &named("w"));
    assert!(open().unwrap().names().eq(["v", "w"]));
}

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
