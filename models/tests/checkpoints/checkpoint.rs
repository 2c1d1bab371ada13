//! Every way in which a checkpoint can be wrong, each with a file made by hand.

use std::fs;
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use spillway_models::checkpoint::{
    Checkpoint, CheckpointError, Header, TensorPlan, WriteDtype, parse_object, tag_bare_non_finite,
    write_safetensors,
};
use spillway_models::init::{preset, write_random};
use spillway_models::output::{NewFile, NewFolder};
use spillway_models::registry::layouts_of;
use spillway_models::{LoadOptions, Model};
use tempfile::TempDir;

/// Length, header, data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn folder(config: &str, weights: &[u8]) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::write(folder.path().join("model.safetensors"), weights).unwrap();
    folder
}

fn parse(bytes: &[u8]) -> Result<Header, CheckpointError> {
    Header::parse(Path::new("model.safetensors"), bytes)
}

/// The message of an error: one line, naming the file and each of `parts`.
#[track_caller]
fn expect_message(error: &CheckpointError, parts: &[&str]) {
    let message = error.to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not named in: {message}");
    }
}

#[test]
fn values_of_every_type_come_out_as_stored() {
    let values = [1.5f32, -0.25, 3e-5, 65504.0, 0.0, -2.0];
    let header = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
        "b":{"dtype":"F16","shape":[6],"data_offsets":[24,36]},
        "c":{"dtype":"BF16","shape":[3,1,2],"data_offsets":[36,48]},
        "d":{"dtype":"F32","shape":[0,7],"data_offsets":[48,48]},
        "e":{"dtype":"F64","shape":[6],"data_offsets":[48,96]},"__metadata__":{"format":"pt"}}"#;
    let mut data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    data.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
    data.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()));
    data.extend(
        values
            .iter()
            .flat_map(|v| (f64::from(*v) * (1.0 + 1e-12)).to_le_bytes()),
    );
    let folder = folder(r#"{"limit": [0.0, Infinity]}"#, &file(header, &data));
    for path in [
        folder.path().to_path_buf(),
        folder.path().join("model.safetensors"),
    ] {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
        assert_eq!(checkpoint.tensor("a", &[2, 3]).unwrap().to_vec().unwrap(), values);
        assert_eq!(checkpoint.tensor("e", &[6]).unwrap().to_vec().unwrap(), values);
        let halves: Vec<f32> = values.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
        assert_eq!(checkpoint.tensor("b", &[6]).unwrap().to_vec().unwrap(), halves);
        let brains: Vec<f32> = values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
        assert_eq!(
            checkpoint.tensor("c", &[3, 1, 2]).unwrap().to_vec().unwrap(),
            brains
        );
        assert!(
            checkpoint
                .tensor("d", &[0, 7])
                .unwrap()
                .to_vec()
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            checkpoint.config().interval_or("limit", (1.0, 2.0)).unwrap(),
            (0.0, f32::INFINITY)
        );
    }
}

#[test]
fn blocks_are_whole_rows_and_make_up_the_tensor() {
    let (rows, width) = (700, 1000);
    let plan = TensorPlan {
        name: "w".into(),
        shape: vec![rows, width],
    };
    let values: Vec<f32> = (0..rows * width).map(|i| i as f32).collect();
    let mut bytes = Vec::new();
    write_safetensors(
        Path::new("w"),
        &mut bytes,
        WriteDtype::F32,
        &[plan],
        &Default::default(),
        |_, sink| values.chunks(999).try_for_each(sink),
    )
    .unwrap();
    let folder = folder("{}", &bytes);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let (mut read, mut blocks) = (Vec::new(), 0);
    let tensor = checkpoint.tensor("w", &[rows, width]).unwrap();
    tensor
        .for_each_block(|block| {
            assert!(block.len().is_multiple_of(width));
            blocks += 1;
            read.extend_from_slice(block);
            Ok::<_, CheckpointError>(())
        })
        .unwrap();
    assert!(blocks > 1);
    assert_eq!(read, values);
    // Pages that were given back come again.
    assert_eq!(tensor.to_vec().unwrap(), values);
}

#[test]
fn shards_are_found_through_their_index() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("config.json", b"{}");
    write(
        "s1.safetensors",
        &file(
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            &1f32.to_le_bytes(),
        ),
    );
    write(
        "s2.safetensors",
        &file(
            r#"{"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            &2f32.to_le_bytes(),
        ),
    );
    let index = |map: &str| {
        write(
            "model.safetensors.index.json",
            format!(r#"{{"weight_map":{map}}}"#).as_bytes(),
        )
    };
    let open = || Checkpoint::open(folder.path());

    index(r#"{"a":"s1.safetensors","b":"s2.safetensors"}"#);
    let checkpoint = open().unwrap();
    assert_eq!(checkpoint.tensor("b", &[1]).unwrap().to_vec().unwrap(), [2.0]);
    index(r#"{"a":"s1.safetensors","b":"s3.safetensors"}"#);
    let error = open().unwrap_err();
    assert!(matches!(error, CheckpointError::ShardMissing { .. }));
    expect_message(
        &error,
        &["model.safetensors.index.json", "s3.safetensors", "tensor b"],
    );
    index(r#"{"a":"s2.safetensors"}"#);
    let error = open().unwrap_err();
    assert!(matches!(error, CheckpointError::NotInShard { .. }));
    expect_message(&error, &["s2.safetensors", "tensor a"]);
    for shard in [r#""../s1.safetensors""#, r#""/etc/passwd""#, "3", "null"] {
        index(&format!(r#"{{"a":{shard}}}"#));
        expect_message(
            &open().unwrap_err(),
            &["weight_map.a", "a file name in the same folder"],
        );
    }
    index("[]");
    expect_message(&open().unwrap_err(), &["weight_map", "array of 0"]);
}

#[test]
fn headers_that_are_wrong_name_what_is_wrong() {
    let tensor = |fields: &str| file(&format!(r#"{{"w":{{{fields}}}}}"#), &[0; 8]);
    let cases: [(Vec<u8>, &[&str]); 16] = [
        (vec![], &["8 bytes expected", "found 0"]),
        (vec![1, 2, 3], &["8 bytes expected", "found 3"]),
        (file("{", &[]), &["not valid JSON", "line 1"]),
        (
            [&100u64.to_le_bytes()[..], b"{}"].concat(),
            &["108 bytes expected", "found 10"],
        ),
        (
            b"{\"config\": true}".to_vec(),
            &["not a safetensors file", "at most 100000000"],
        ),
        (
            file("\u{00e9}", &[])[..9].to_vec(),
            &["10 bytes expected", "found 9"],
        ),
        (
            [&2u64.to_le_bytes()[..], &[0xFF, 0xFE]].concat(),
            &["not valid JSON", "utf-8"],
        ),
        (file("[]", &[]), &["expected an object", "array of 0"]),
        (
            file(r#"{"w":7}"#, &[]),
            &["`w`", "an object with dtype", "number 7"],
        ),
        (
            tensor(r#""dtype":4,"shape":[2],"data_offsets":[0,8]"#),
            &["w.dtype", "a string", "number 4"],
        ),
        (
            tensor(r#""dtype":"F31","shape":[2],"data_offsets":[0,8]"#),
            &["tensor w", "F31", "accepted: F32"],
        ),
        (
            tensor(r#""dtype":"F32","shape":[-2],"data_offsets":[0,8]"#),
            &["w.shape", "whole numbers"],
        ),
        (
            tensor(r#""dtype":"F32","shape":[2]"#),
            &["w.data_offsets", "two whole numbers", "nothing"],
        ),
        (
            tensor(r#""dtype":"F32","shape":[2],"data_offsets":[8,0]"#),
            &["tensor w", "[8, 0]"],
        ),
        (
            tensor(r#""dtype":"F32","shape":[3],"data_offsets":[0,12]"#),
            &["tensor w", "[0, 12]", "8 data bytes", "truncated"],
        ),
        (
            file(r#"{"__metadata__":{"a":1}}"#, &[]),
            &["__metadata__.a", "a string"],
        ),
    ];
    for (bytes, parts) in cases {
        let error = parse(&bytes).unwrap_err();
        expect_message(&error, &[&["model.safetensors"], parts].concat());
    }
}

#[test]
fn shapes_and_offsets_must_agree() {
    let tensor = |shape: &str| {
        let header = format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":[0,8]}}}}"#);
        parse(&file(&header, &[0; 8])).unwrap_err()
    };
    expect_message(&tensor("[3]"), &["tensor w", "F32 [3] needs 12 bytes, found 8"]);
    expect_message(&tensor("[1]"), &["needs 4 bytes, found 8"]);
    // A product beyond 64 bits must not wrap around to 8.
    expect_message(
        &tensor("[9223372036854775809,2,1]"),
        &["needs over 2^61 bytes, found 8"],
    );
    expect_message(&tensor("[4294967296,4294967296,0]"), &["needs"]);
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let error = parse(&file(header, &[0; 12])).unwrap_err();
    assert!(matches!(error, CheckpointError::Overlap { .. }));
    expect_message(&error, &["tensors a and b overlap"]);
}

#[test]
fn absent_and_foreign_files_are_named() {
    let error = Checkpoint::open("no/such/place").unwrap_err();
    assert!(matches!(error, CheckpointError::Missing { .. }));
    expect_message(
        &error,
        &[
            "no/such/place",
            "expected a folder with config.json and model.safetensors",
        ],
    );
    let folder = TempDir::new().unwrap();
    let open = || Checkpoint::open(folder.path()).unwrap_err();
    expect_message(&open(), &["model.safetensors", "no such file"]);
    fs::write(folder.path().join("pytorch_model.bin"), b"PK").unwrap();
    let error = open();
    assert!(matches!(error, CheckpointError::Pth { .. }));
    expect_message(&error, &["pytorch_model.bin", "not a zip archive", "torch.save"]);
    fs::write(folder.path().join("other.safetensors"), file("{}", &[])).unwrap();
    expect_message(&open(), &["config.json", "no such file"]);
    fs::write(folder.path().join("another.safetensors"), file("{}", &[])).unwrap();
    expect_message(
        &open(),
        &["found another.safetensors, other.safetensors", "give one"],
    );
    fs::remove_file(folder.path().join("another.safetensors")).unwrap();
    fs::write(folder.path().join("config.json"), "{").unwrap();
    expect_message(&open(), &["config.json", "not valid JSON"]);
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert!(Checkpoint::open(folder.path()).is_ok());
    fs::write(folder.path().join("model.safetensors"), b"").unwrap();
    expect_message(&open(), &["model.safetensors", "truncated", "found 0"]);
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let header = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "n":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"i":{"dtype":"I64","shape":[1],"data_offsets":[16,24]}}"#;
    let data: Vec<u8> = [1.0f32, 2.0, 3.0, f32::NAN]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .chain([0; 8])
        .collect();
    let folder = folder("{}", &file(header, &data));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let error = |name: &str, shape: &[usize]| checkpoint.tensor(name, shape).unwrap_err();
    expect_message(
        &error("v", &[2, 3]),
        &["model.safetensors", "tensor v is missing", "[2, 3]"],
    );
    expect_message(&error("w", &[3]), &["tensor w", "shape [3], found [2]"]);
    expect_message(&error("i", &[1]), &["tensor i", "dtype I64", "F32, F16, BF16"]);
    let error = checkpoint.tensor("n", &[2]).unwrap().to_vec().unwrap_err();
    assert!(matches!(error, CheckpointError::NonFinite { index: 1, .. }));
    expect_message(&error, &["tensor n", "value 1 is NaN"]);
}

#[test]
fn metadata_may_be_null() {
    let header = Header::parse(Path::new("x"), &file(r#"{"__metadata__": null}"#, &[])).expect("a header");
    assert!(header.metadata.is_empty());
}

#[test]
fn bare_infinity_and_nan_are_tagged_outside_strings_only() {
    let text = r#"{"a": [0.0, Infinity, -Infinity, NaN], "NaN \" Infinity": "Infinity \\", "b":NaN}"#;
    let tagged = r#"{"a": [0.0, {"__float__":"Infinity"}, {"__float__":"-Infinity"}, {"__float__":"NaN"}], "NaN \" Infinity": "Infinity \\", "b":{"__float__":"NaN"}}"#;
    assert_eq!(tag_bare_non_finite(text), (tagged.to_string(), 4));
    assert_eq!(tag_bare_non_finite("é \"é"), ("é \"é".to_string(), 0));
}

/// Python's bare token, transformers' object and the quoted word are one number, and what is written has the bare token.
#[test]
fn a_number_that_is_not_finite_may_be_spelt_in_three_ways_and_is_written_in_pythons() {
    let layout = layouts_of("mamba2").find(|layout| layout.name == "Hugging Face");
    let layout = layout.expect("a layout");
    let preset = preset(layout, "tiny").expect("a preset").config;
    for spelling in ["Infinity", r#"{"__float__": "Infinity"}"#, r#""Infinity""#] {
        let text = preset.replacen('{', &format!(r#"{{"time_step_limit": [0.0, {spelling}], "#), 1);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        write_random(&path, layout, &text, WriteDtype::F32, 1).expect("written");
        Model::load(&path, &LoadOptions::default()).expect("loads");
        let written = fs::read_to_string(path.join("config.json")).expect("a configuration");
        let expected = match spelling.starts_with('"') {
            true => r#""Infinity""#,
            false => "Infinity",
        };
        let limit: String = written.split_whitespace().collect();
        assert!(
            limit.contains(&format!(r#""time_step_limit":[0.0,{expected}]"#)),
            "{written}"
        );
    }
    let many = format!(r#"{{"a": [{}0]}}"#, "NaN,".repeat(4097));
    let error = parse_object(Path::new("x"), &many).expect_err("too many");
    expect_message(&error, &["at most 4096 of NaN", "4097"]);
}

/// A sink that runs full after a number of bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_and_a_wrong_number_of_values_are_errors() {
    let plan = [TensorPlan {
        name: "w".into(),
        shape: vec![100],
    }];
    let write = |out: &mut dyn Write, count: usize| {
        write_safetensors(
            Path::new("out"),
            out,
            WriteDtype::F32,
            &plan,
            &Default::default(),
            |_, sink| sink(&vec![0.0; count]),
        )
    };
    expect_message(&write(&mut Full(200), 100).unwrap_err(), &["out: writing failed"]);
    expect_message(
        &write(&mut Vec::new(), 99).unwrap_err(),
        &["tensor w", "needs 400 bytes, found 396"],
    );
    write(&mut Full(1000), 100).unwrap();
}

#[test]
fn nothing_half_written_is_left_behind() {
    let folder = TempDir::new().unwrap();
    let names = || fs::read_dir(folder.path()).unwrap().count();
    {
        let mut file = NewFile::create(&folder.path().join("state")).unwrap();
        file.writer().write_all(b"half").unwrap();
        let inner = NewFolder::create(&folder.path().join("model")).unwrap();
        fs::write(inner.temporary_path().join("config.json"), "{}").unwrap();
        assert_eq!(names(), 2);
    }
    assert_eq!(names(), 0);
    let inner = NewFolder::create(&folder.path().join("model")).unwrap();
    fs::write(inner.temporary_path().join("config.json"), "{}").unwrap();
    inner.commit().unwrap();
    let error = NewFolder::create(&folder.path().join("model")).unwrap_err();
    let error = CheckpointError::from(error);
    assert!(matches!(error, CheckpointError::Exists { .. }));
    expect_message(&error, &["model", "exists already"]);
    let error = NewFile::create(&folder.path().join("none/state")).unwrap_err();
    expect_message(&error.into(), &["none/state", "creating failed"]);
}
