//! Pickles and archives that are refused, each with its reason.

use super::archive::{Described, Entry, archive, dictionary, global, int, program, pth, text, tuple};
use super::{described, parse, pickled};
use spillway_models::checkpoint::PthError;

/// Why a file with this pickle and one storage of 24 bytes is refused.
fn refusal(pickle: &[u8]) -> PthError {
    parse(&pth(pickle, &[&[0; 24]])).unwrap_err()
}

#[track_caller]
fn expect_message(error: &PthError, parts: &[&str]) {
    let message = error.to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not named in: {message}");
    }
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
    // What a trainer has put beside the tensors is passed over; within `state_dict` it is not, and a `state_dict` that is no
    // dictionary is an entry like any other.
    let wrapped = dictionary(&[("state_dict", dictionary(&[("epoch", int(3))]))]);
    expect_message(
        &refusal(&program(&wrapped)),
        &["entry \"epoch\"", "a whole number"],
    );
    let number = dictionary(&[("state_dict", int(3))]);
    expect_message(
        &refusal(&program(&number)),
        &["entry \"state_dict\"", "a whole number"],
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
