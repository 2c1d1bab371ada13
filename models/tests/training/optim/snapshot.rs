//! Snapshots come back to the bit, or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use proptest::prelude::*;
use serde_json::json;
use spillway_models::train::{
    Optimizer, OptimizerConfig, Snapshot, SnapshotChoice, SnapshotError, Snapshots, config_hash,
};
use tempfile::TempDir;

use super::{bits, noise, parameter, tensor};

const CONFIG: &str = "steps = 10\nseed = 1\n\"checksum\":\"\n";

/// Bits that arithmetic would not keep: quiet and signalling NaNs with payloads, infinities, −0, subnormals.
const ODD: [u32; 8] = [
    0x7fc0_1234,
    0xffc0_0001,
    0x7f80_0001,
    0xff80_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x8000_0000,
    0x0000_0001,
];

fn data(bits: &[u32], shape: &[usize]) -> TensorData {
    let bytes = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    TensorData::from_bytes_vec(bytes, shape.to_vec(), DType::F32)
}

fn snapshot(step: u64) -> Snapshot {
    Snapshot {
        step,
        tokens: u64::MAX - step,
        config: CONFIG.into(),
        data: json!({"file": "a \"checksum\":\" b", "offset": u64::MAX, "rows": [1, 2, null]}),
        other: json!([step]),
        parameters: vec![
            ("b.weight".into(), data(&ODD, &[2, 4])),
            ("a.weight".into(), data(&[step as u32], &[1, 1])),
            ("scalar".into(), data(&ODD[..1], &[])),
            ("empty".into(), data(&[], &[0, 3])),
        ],
        optimizer: BTreeMap::from([
            ("moment_1.a.weight".to_string(), data(&ODD[..3], &[3])),
            ("time.a.weight".to_string(), TensorData::from([u64::MAX - 1])),
        ]),
        carried: BTreeMap::from([
            ("layers.0.mixer.state".to_string(), data(&ODD, &[1, 2, 2, 2])),
            ("rows".to_string(), TensorData::from([-1i64, 2])),
            ("doubles".to_string(), TensorData::from([f64::MIN_POSITIVE / 3.0])),
        ]),
    }
}

fn folder() -> (TempDir, Snapshots) {
    let folder = TempDir::new().unwrap();
    let snapshots = Snapshots::open(&folder.path().join("run")).unwrap();
    (folder, snapshots)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn latest(snapshots: &Snapshots) -> Result<(Snapshot, PathBuf), SnapshotError> {
    snapshots.read(SnapshotChoice::Latest, CONFIG)
}

#[test]
fn everything_comes_back_to_the_bit() {
    let (_folder, snapshots) = folder();
    let written = snapshot(7);
    let path = snapshots.write(&written).unwrap();
    let (read, from) = latest(&snapshots).unwrap();
    assert_eq!(
        (&read.step, &read.tokens, &read.config),
        (&written.step, &written.tokens, &written.config)
    );
    assert_eq!(
        (&read.data, &read.other, from),
        (&written.data, &written.other, path)
    );
    // Bytes, as NaN is not equal to itself.
    let raw = |data: &TensorData| (data.dtype(), data.shape().to_vec(), data.as_bytes().to_vec());
    let list = |list: &[(String, TensorData)]| {
        list.iter()
            .map(|(name, data)| (name.clone(), raw(data)))
            .collect::<Vec<_>>()
    };
    let map = |map: &BTreeMap<String, TensorData>| {
        map.iter()
            .map(|(name, data)| (name.clone(), raw(data)))
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&read.parameters), list(&written.parameters));
    assert_eq!(map(&read.optimizer), map(&written.optimizer));
    assert_eq!(map(&read.carried), map(&written.carried));
}

#[test]
fn the_two_latest_are_kept_and_a_future_that_did_not_come_is_forgotten() {
    let (_temporary, snapshots) = folder();
    let folder = snapshots.path(0).parent().unwrap().to_path_buf();
    for step in [0, 5, 10, 15] {
        snapshots.write(&snapshot(step)).unwrap();
    }
    assert_eq!(
        names(&folder),
        ["snapshot-000000010.safetensors", "snapshot-000000015.safetensors"]
    );
    let (previous, _) = snapshots.read(SnapshotChoice::Previous, CONFIG).unwrap();
    assert_eq!(previous.step, 10);
    // Training went back to step 10 and comes to 12.
    fs::write(folder.join("log.jsonl"), "").unwrap();
    fs::write(folder.join("snapshot-x.safetensors"), "").unwrap();
    snapshots.write(&snapshot(12)).unwrap();
    let expected = [
        "log.jsonl",
        "snapshot-000000010.safetensors",
        "snapshot-000000012.safetensors",
        "snapshot-x.safetensors",
    ];
    assert_eq!(names(&folder), expected);
    // Numbers with more digits than the names have are still numbers.
    snapshots.write(&snapshot(12_345_678_901)).unwrap();
    assert_eq!(latest(&snapshots).unwrap().0.step, 12_345_678_901);
}

#[test]
fn what_a_killed_writer_left_is_removed_and_never_read() {
    let (_temporary, snapshots) = folder();
    let path = snapshots.write(&snapshot(5)).unwrap();
    let folder = path.parent().unwrap();
    let half = fs::read(&path).unwrap();
    fs::write(folder.join(".spillway-0123456789ab.tmp"), &half[..half.len() / 2]).unwrap();
    fs::write(folder.join(".other.tmp"), "").unwrap();
    assert_eq!(latest(&snapshots).unwrap().0.step, 5);
    let again = Snapshots::open(folder).unwrap();
    assert_eq!(latest(&again).unwrap().0.step, 5);
    assert_eq!(names(folder), [".other.tmp", "snapshot-000000005.safetensors"]);
}

#[test]
fn a_snapshot_that_cannot_be_written_leaves_the_others() {
    let (_temporary, snapshots) = folder();
    snapshots.write(&snapshot(5)).unwrap();
    let mut bad = snapshot(10);
    bad.carried.insert("flags".into(), TensorData::from([true]));
    let error = snapshots.write(&bad).unwrap_err().to_string();
    assert!(
        error.contains("carried.flags: expected a type that snapshots have, found Bool"),
        "{error}"
    );
    assert_eq!(
        names(snapshots.path(0).parent().unwrap()),
        ["snapshot-000000005.safetensors"]
    );
}

/// No byte can change, and none be missing or too many, without the file being refused.
#[test]
fn every_flipped_byte_and_every_truncation_is_refused() {
    let (_temporary, snapshots) = folder();
    let path = snapshots.write(&snapshot(7)).unwrap();
    let whole = fs::read(&path).unwrap();
    let refuse = |bytes: &[u8], case: &str| {
        fs::write(&path, bytes).unwrap();
        assert!(latest(&snapshots).is_err(), "{case} accepted");
    };
    for at in 0..whole.len() {
        // One bit, the case of letters, and everything.
        for mask in [1 << (at % 8), 0x20, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            refuse(&bytes, &format!("byte {at} with {mask:#x}"));
        }
        refuse(&whole[..at], &format!("the first {at} bytes"));
    }
    refuse(&[&whole[..], b"\0"].concat(), "a further byte");
    refuse(&[&whole[..], &whole[..]].concat(), "twice the file");
    fs::write(&path, &whole).unwrap();
    latest(&snapshots).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn damage_anywhere_is_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let (_temporary, snapshots) = folder();
        let path = snapshots.write(&snapshot(7)).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut {
            bytes.truncate(length.index(whole.len()));
        }
        prop_assume!(bytes != whole);
        fs::write(&path, &bytes).unwrap();
        prop_assert!(latest(&snapshots).is_err());
    }
}

#[test]
fn each_way_of_being_wrong_is_named() {
    let (_temporary, snapshots) = folder();
    let path = snapshots.write(&snapshot(7)).unwrap();
    let whole = fs::read(&path).unwrap();
    let refuse = |bytes: &[u8], expected: &str| {
        fs::write(&path, bytes).unwrap();
        let error = latest(&snapshots).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains(&path.display().to_string()),
            "{error}"
        );
        assert!(!error.contains('\n'), "{error}");
    };
    let mut damaged = whole.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 4;
    refuse(&damaged, "the file is damaged or cut off");
    refuse(&whole[..whole.len() - 1], "found another file or a damaged one");
    refuse(b"", "found another file or a damaged one");
    refuse(b"steps = 300\nseed = 1\n", "found another file or a damaged one");
    let replaced = |from: &str, to: &str| {
        let at = whole
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .unwrap();
        [&whole[..at], to.as_bytes(), &whole[at + from.len()..]].concat()
    };
    refuse(
        &replaced("spillway-training", "spillway-examples"),
        "found a file of format \"spillway-examples\"",
    );
    refuse(
        &replaced("\"version\":\"1\"", "\"version\":\"2\""),
        "expected version 1 of the file form, found 2",
    );
    // A published checkpoint has no format of that kind.
    let foreign = safetensors::serialize(Vec::<(String, safetensors::tensor::TensorView<'_>)>::new(), None);
    refuse(&foreign.unwrap(), "found a file of no format of its own");
    // A good file under another step's name.
    fs::write(&path, &whole).unwrap();
    fs::rename(&path, snapshots.path(8)).unwrap();
    let error = latest(&snapshots).unwrap_err().to_string();
    assert!(
        error.contains("step: expected 8, as its name says, found 7"),
        "{error}"
    );
}

#[test]
fn snapshots_of_another_configuration_are_refused_with_the_line() {
    let (_temporary, snapshots) = folder();
    snapshots.write(&snapshot(7)).unwrap();
    let refuse = |config: &str, line: usize, expected: &str, found: &str| {
        let error = snapshots
            .read(SnapshotChoice::Latest, config)
            .unwrap_err()
            .to_string();
        let text = format!("another configuration: line {line}: expected {expected:?}, found {found:?}");
        assert!(error.ends_with(&text), "{error}");
    };
    refuse(&CONFIG.replace("seed = 1", "seed = 2"), 2, "seed = 2", "seed = 1");
    refuse("steps = 10", 2, "the end", "seed = 1");
    refuse(&format!("{CONFIG}\nlast"), 5, "last", "the end");
    assert_ne!(config_hash(CONFIG), config_hash(&CONFIG.replace('1', "2")));
}

#[test]
fn nothing_falls_back_by_itself_but_the_one_before_is_named() {
    let (_temporary, snapshots) = folder();
    let error = latest(&snapshots).unwrap_err();
    assert!(matches!(error, SnapshotError::None { found: 0, .. }), "{error}");
    snapshots.write(&snapshot(5)).unwrap();
    let error = snapshots.read(SnapshotChoice::Previous, CONFIG).unwrap_err();
    assert!(matches!(error, SnapshotError::None { found: 1, .. }), "{error}");
    let path = snapshots.write(&snapshot(10)).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = latest(&snapshots).unwrap_err();
    let SnapshotError::Latest { previous, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*previous, snapshots.path(5));
    assert!(
        error.to_string().contains("ask for the previous snapshot"),
        "{error}"
    );
    assert_eq!(
        snapshots.read(SnapshotChoice::Previous, CONFIG).unwrap().0.step,
        5
    );
}

#[test]
fn masters_and_moments_go_through_a_file_to_the_bit() {
    let (_temporary, snapshots) = folder();
    let odd: Vec<f32> = ODD.iter().copied().map(f32::from_bits).collect();
    let fresh = || {
        vec![
            parameter("a.weight", &[4, 3], &noise(1, 12)),
            parameter("odd", &[2, 4], &odd),
        ]
    };
    let mut list = fresh();
    let mut optimizer = Optimizer::new(&OptimizerConfig::new(0.1), &list, 9).unwrap();
    optimizer
        .step(&mut list, vec![Some(tensor(&noise(2, 12))), None], 0)
        .unwrap();
    let written = Snapshot {
        parameters: Snapshot::masters(&list),
        optimizer: optimizer.tensors(),
        ..snapshot(1)
    };
    assert_eq!(written.parameters[0].1.shape().to_vec(), [4, 3]);
    snapshots.write(&written).unwrap();
    let (read, path) = latest(&snapshots).unwrap();
    let mut restored = fresh();
    let mut other = Optimizer::new(&OptimizerConfig::new(0.1), &restored, 9).unwrap();
    read.restore_masters(&path, &mut restored).unwrap();
    other.restore(&read.optimizer).unwrap();
    for (restored, trained) in restored.iter().zip(&list) {
        assert_eq!(bits(&restored.value), bits(&trained.value));
        assert_eq!(restored.value.dims(), trained.value.dims());
    }
    assert_eq!(other.tensors(), optimizer.tensors());
    assert_eq!(bits(&restored[1].value), ODD);
}

#[test]
fn masters_of_another_model_are_refused_and_change_nothing() {
    let list = || vec![parameter("a", &[2, 2], &[1.0; 4]), parameter("b", &[1], &[2.0])];
    let read = Snapshot {
        parameters: Snapshot::masters(&list()),
        ..snapshot(1)
    };
    let refuse = |mut list: Vec<spillway_models::train::Parameter>, expected: &str| {
        let before: Vec<_> = list.iter().map(|p| bits(&p.value)).collect();
        let error = read.restore_masters(Path::new("x"), &mut list).unwrap_err();
        assert_eq!(error.to_string(), format!("x: {expected}"));
        assert_eq!(before, list.iter().map(|p| bits(&p.value)).collect::<Vec<_>>());
    };
    let zeros = |name: &str, shape: &[usize]| parameter(name, shape, &vec![0.0; shape.iter().product()]);
    refuse(
        vec![zeros("a", &[2, 2])],
        "number of parameters: expected 1, as the model has, found 2",
    );
    refuse(
        vec![zeros("a", &[2, 2]), zeros("c", &[1])],
        "parameter: expected c, found b",
    );
    refuse(
        vec![zeros("a", &[2, 2]), zeros("b", &[2])],
        "b: expected F32 [2], found F32 [1]",
    );
    refuse(
        vec![zeros("a", &[4, 1]), zeros("b", &[1])],
        "a: expected F32 [4, 1], found F32 [2, 2]",
    );
}
