//! Bytes from strangers never make the reader panic: random ones, and good files with damage.

use std::path::Path;

use burn::tensor::Device;
use proptest::prelude::*;
use spillway_models::WeightType;
use spillway_models::checkpoint::{Checkpoint, Fields, Header, parse_object};
use spillway_models::loader::Loader;
use spillway_models::mamba2::{Config, Publication};
use spillway_models::registry::layouts;

/// Everything that is computed from a file's bytes before its weights are used.
fn read(config: &[u8], weights: &'static [u8]) {
    let text = String::from_utf8_lossy(config);
    if let Ok(map) = parse_object(Path::new("config.json"), &text) {
        let fields = Fields::new(Path::new("config.json"), &map);
        for publication in [Publication::Original, Publication::HuggingFace] {
            let _ = Config::parse(&fields, publication, || true);
        }
    }
    let _ = Header::parse(Path::new("model.safetensors"), weights);
    if let Ok(checkpoint) = Checkpoint::from_static("damaged", &text, weights) {
        for layout in layouts() {
            let _ = (layout.recognise)(&checkpoint);
            if let Ok(config) = (layout.config)(&checkpoint) {
                let fields = Fields::new(Path::new("config.json"), &config);
                let mut loader = Loader::new(&checkpoint, WeightType::F32, Device::flex());
                let _ = layout.load(&fields, &mut loader);
            }
        }
        for name in checkpoint.names().collect::<Vec<_>>() {
            let _ = checkpoint.tensor(name, &[1]);
        }
    }
}

/// Tests run a bounded number of cases, so the little that is kept alive for the mapping's sake does not matter.
fn leak(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

const CONFIG: &str = r#"{"d_model":8,"n_layer":1,"vocab_size":250,"ssm_cfg":{"layer":"Mamba2","headdim":4,
    "dt_limit":[0.0,Infinity]},"model_type":"mamba2","hidden_size":8,"num_hidden_layers":1,"num_heads":4,"head_dim":4,
    "state_size":4,"n_groups":2,"time_step_limit":[0.0,Infinity],"eos_token_id":[2,3]}"#;
const HEADER: &str = r#"{"backbone.embedding.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
    "w":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]},"__metadata__":{"format":"pt"}}"#;

fn weights() -> Vec<u8> {
    let mut bytes = (HEADER.len() as u64).to_le_bytes().to_vec();
    bytes.extend(HEADER.as_bytes());
    bytes.extend([0; 24]);
    bytes
}

/// Overwrites, removes and repeats pieces of a good file.
fn damage(mut bytes: Vec<u8>, changes: &[(usize, u8, u8)]) -> Vec<u8> {
    const PIECES: [&str; 8] = ["9", "-1", "18446744073709551615", "\"", "[", "}", "null", "1e999"];
    for (at, kind, value) in changes {
        let at = at % bytes.len().max(1);
        match kind % 4 {
            0 if at < bytes.len() => bytes[at] = *value,
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, PIECES[usize::from(*value) % 8].bytes())),
            _ => drop(bytes.drain(at..(at + usize::from(*value % 16)).min(bytes.len()))),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn arbitrary_bytes_never_panic(config in any::<Vec<u8>>(), weights in any::<Vec<u8>>()) {
        read(&config, leak(weights));
    }

    #[test]
    fn arbitrary_headers_never_panic(header in any::<Vec<u8>>(), data in any::<Vec<u8>>()) {
        let length = (header.len() as u64).to_le_bytes();
        read(&header, leak([&length[..], &header, &data].concat()));
    }

    #[test]
    fn damaged_files_never_panic(
        config in proptest::collection::vec(any::<(usize, u8, u8)>(), 0..4),
        header in proptest::collection::vec(any::<(usize, u8, u8)>(), 0..4),
    ) {
        read(&damage(CONFIG.into(), &config), leak(damage(weights(), &header)));
    }
}

#[test]
fn the_undamaged_files_are_good() {
    let checkpoint = Checkpoint::from_static("good", CONFIG, leak(weights())).unwrap();
    assert_eq!(
        checkpoint
            .tensor("backbone.embedding.weight", &[2, 2])
            .unwrap()
            .to_vec()
            .unwrap(),
        [0.0; 4]
    );
    let fields = checkpoint.config();
    assert!(Config::parse(&fields, Publication::Original, || true).is_ok());
    assert!(Config::parse(&fields, Publication::HuggingFace, || true).is_ok());
}
