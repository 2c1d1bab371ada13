//! PyTorch files: real ones beside the same tensors in safetensors, and every way in which one can be wrong or hostile.

mod damaged;
mod refused;

use crate::archive;

use std::fs;
use std::path::Path;

use archive::{Described, Entry, archive, dictionary, global, good, int, program, pth, text, tuple};
use half::{bf16, f16};
use spillway_models::checkpoint::{Checkpoint, CheckpointError, Header, PthError};
use tempfile::TempDir;

fn parse(file: &[u8]) -> Result<Header, PthError> {
    Header::parse_pth(Path::new("model.pth"), file).map_err(|error| match error {
        CheckpointError::Pth { source, .. } => source,
        other => panic!("{other}"),
    })
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
