//! Checkpoints as S4's own trainings leave them, with C of one length; damaged and empty ones.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, View};
use serde_json::json;
use spillway_models::checkpoint::Checkpoint;
use spillway_models::train::{TrainConfig, Trainer};
use spillway_models::{LoadOptions, Model};
use spillway_ssm_core::state_space::{Complex64, Discretisation, Dplr, StateSpace};
use tempfile::TempDir;

use super::support::{IDS, close, load, logits, read, shape_of, write};

/// A tensor to be written.
struct Stored(Dtype, Vec<usize>, Vec<u8>);

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.0
    }

    fn shape(&self) -> &[usize] {
        &self.1
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.2)
    }

    fn data_len(&self) -> usize {
        self.2.len()
    }
}

/// Writes the checkpoint again, with C̃ at `length` taps in the place of C, as S4's own trainings leave it.
fn truncate(folder: &Path, length: usize) {
    let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
    {
        let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
        for name in checkpoint.names() {
            let bytes = checkpoint.stored(name).expect(name).bytes.to_vec();
            tensors.insert(
                name.into(),
                Stored(Dtype::F32, shape_of(&checkpoint, name), bytes),
            );
        }
        let complex = |name: &str| -> Vec<Complex64> {
            let values = read(&checkpoint, name);
            let pairs = values.chunks_exact(2);
            pairs
                .map(|z| Complex64::new(f64::from(z[0]), f64::from(z[1])))
                .collect()
        };
        for layer in 0..2 {
            let name = |part: &str| format!("model.layers.{layer}.layer.layer.kernel.{part}");
            let (real, imag) = (
                read(&checkpoint, &name("A_real")),
                read(&checkpoint, &name("A_imag")),
            );
            let modes = real.len();
            let a = real.iter().zip(&imag);
            let a: Vec<Complex64> = a
                .map(|(re, im)| Complex64::new(-f64::from(*re).exp(), -f64::from(*im)))
                .collect();
            let (b, p, c) = (complex(&name("B")), complex(&name("P")), complex(&name("C")));
            let steps = read(&checkpoint, &name("inv_dt"));
            let truncated = c.chunks(modes).zip(&steps).flat_map(|(c, step)| {
                let system =
                    Dplr::new(a.clone(), vec![p.clone()], b.clone(), c.to_vec(), 0.0).expect("a system");
                let discrete = system
                    .discretise(Discretisation::BILINEAR, f64::from(*step).exp())
                    .expect("discrete");
                discrete.truncate(length).expect("C̃").output
            });
            let bytes = truncated
                .flat_map(|z| [z.re as f32, z.im as f32])
                .flat_map(f32::to_le_bytes);
            tensors.get_mut(&name("C")).expect("C").2 = bytes.collect();
            let number = (length as i64).to_le_bytes().to_vec();
            tensors.insert(name("l_kernel"), Stored(Dtype::I64, vec![], number));
        }
    }
    let bytes = safetensors::serialize(tensors, None).expect("serialized");
    fs::write(folder.join("model.safetensors"), bytes).expect("written");
}

#[test]
fn a_checkpoint_with_c_of_one_length_runs_at_any_and_is_not_trained_on() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("model");
    write(
        &path,
        &json!({"mode": "nplr", "init": "legs", "dt_min": 0.05, "dt_max": 0.2}),
        &json!({}),
    );
    let expected = logits(&load(&path), &[&IDS]);
    for length in [64, 7] {
        fs::remove_dir_all(&path).expect("removed");
        write(
            &path,
            &json!({"mode": "nplr", "init": "legs", "dt_min": 0.05, "dt_max": 0.2}),
            &json!({}),
        );
        truncate(&path, length);
        close(
            &format!("C̃ at {length}"),
            &logits(&load(&path), &[&IDS]),
            &expected,
        );
        for lesson in [
            "data = { kind = \"copy\", vocab_size = 16 }",
            "task = { data = { kind = \"adding\" } }",
        ] {
            let text = format!(
                "steps = 1\nsequences = 1\nlength = 8\nmodel = {{ checkpoint = {:?} }}\noptimizer = {{ learning_rate = 1e-3 }}\n{lesson}",
                path.display().to_string()
            );
            let config = TrainConfig::parse(Path::new("test.toml"), &text).expect("a configuration");
            let error = Trainer::new(config).err().expect("refused").to_string();
            assert!(
                error.contains("l_kernel") && error.contains("such a checkpoint can be run"),
                "{error}"
            );
        }
    }
}

#[test]
fn numbers_that_are_no_lengths_and_files_with_nothing_in_them_are_refused() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("model");
    write(&path, &json!({"mode": "nplr"}), &json!({}));
    truncate(&path, 16);
    let weights = path.join("model.safetensors");
    let bytes = fs::read(&weights).expect("read");
    // The last tensors' bytes hold the lengths: one of −1 is none.
    let at = bytes
        .windows(8)
        .position(|window| window == 16_i64.to_le_bytes())
        .expect("a length");
    let mut wrong = bytes.clone();
    wrong[at..at + 8].copy_from_slice(&(-1_i64).to_le_bytes());
    fs::write(&weights, wrong).expect("written");
    let refused = || {
        Model::load(&path, &LoadOptions::default())
            .expect_err("refused")
            .to_string()
    };
    let error = refused();
    assert!(
        error.contains("l_kernel") && error.contains("0 or more"),
        "{error}"
    );
    let config = fs::read(path.join("config.json")).expect("read");
    for (name, rest) in [
        ("model.safetensors", &[][..]),
        ("config.json", &[]),
        ("model.safetensors", &bytes[..100]),
    ] {
        fs::write(&weights, &bytes).expect("written");
        fs::write(path.join("config.json"), &config).expect("written");
        fs::write(path.join(name), rest).expect("written");
        let error = refused();
        assert!(error.contains(name), "{error}");
    }
    let alone = folder.path().join("model.pt");
    fs::write(&alone, []).expect("written");
    let error = Model::load(&alone, &LoadOptions::default())
        .expect_err("refused")
        .to_string();
    assert!(error.contains("model.pt"), "{error}");
}
