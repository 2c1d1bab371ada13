//! Logits and greedy continuations that other people's software computed for small models in the published layouts.
//!
//! Models are discovered: every folder below `$GOLDEN_DIR/models`, or below this crate's `tests/golden/models`. Each holds a
//! checkpoint, `expected.safetensors` with `input_ids` `[batch, time]`, `logits` `[batch, time, padded vocabulary]` (computed in
//! f64; only those after the last token where the prompt is long) and `greedy` `[batch, tokens]`, the argmax continuation, and a
//! `README.md` that says how far the peer's own f32 code is from these logits. The tolerance is ten times that. A model with an
//! encoder reads the beginning of the prompt by it. Without `greedy` the logits are of the tokens where they stand, by a model that
//! sees later ones.

use std::path::{Path, PathBuf};

use spillway_models::checkpoint::StoredTensors;
use spillway_models::{LoadOptions, Logits, Model, WeightType};
use spillway_ssm_core::Chain;

use crate::common::relative_error;
use crate::devices::adapters;

struct Expected {
    path: PathBuf,
    ids: Vec<Vec<u32>>,
    logits: Vec<f32>,
    greedy: Vec<Vec<u32>>,
    /// Of logits with f32 weights.
    tolerance: f64,
}

/// Models that foretell the next token.
fn models() -> Vec<Expected> {
    folders_with(true)
}

/// Models that see later tokens.
fn models_in_place() -> Vec<Expected> {
    folders_with(false)
}

/// The folders with greedy continuations, or those without.
fn folders_with(greedy: bool) -> Vec<Expected> {
    let root = match std::env::var_os("GOLDEN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    };
    let folder = root.join("models");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    // Prompts of several lengths, each under a name, are `prefix.rs`'s.
    paths.retain(|p| {
        let expected = p.join("expected.safetensors");
        expected.is_file() && {
            let stored = StoredTensors::open(&expected).unwrap();
            stored.raw("input_ids").is_some() && stored.raw("greedy").is_some() == greedy
        }
    });
    paths.sort();
    assert!(!paths.is_empty(), "no models in {}", folder.display());
    paths.into_iter().map(expected).collect()
}

fn expected(path: PathBuf) -> Expected {
    let stored = StoredTensors::open(&path.join("expected.safetensors")).unwrap();
    let ids = |name: &str| {
        let Some((dtype, shape, bytes)) = stored.raw(name) else {
            return Vec::new();
        };
        assert_eq!(dtype, "I64");
        let ids = bytes
            .chunks(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32);
        ids.collect::<Vec<_>>()
            .chunks(shape[1])
            .map(<[u32]>::to_vec)
            .collect()
    };
    let (dtype, _, bytes) = stored.raw("logits").unwrap();
    assert_eq!(dtype, "F32");
    let logits = bytes
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    Expected {
        ids: ids("input_ids"),
        greedy: ids("greedy"),
        logits,
        tolerance: tolerance(&path),
        path,
    }
}

/// Ten times the error that the folder's README states for the peer's code in f32.
fn tolerance(path: &Path) -> f64 {
    let readme = std::fs::read_to_string(path.join("README.md")).unwrap();
    // A line for every prompt, with the error in the fifth of six columns.
    let in_table = readme.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells.len() == 8 {
            cells[5].parse::<f64>().ok()
        } else {
            None
        }
    });
    if let Some(largest) = in_table.reduce(f64::max) {
        return 10.0 * largest;
    }
    let stated = [
        "differs from the float64 logits by rel-L2 ",
        "float32 run of the same code: rel-L2 ",
        "float32 run rel-L2 ",
    ];
    let (_, rest) = stated
        .iter()
        .find_map(|words| readme.split_once(words))
        .unwrap_or_else(|| {
            panic!(
                "{}: README.md states no error of the peer's f32 code",
                path.display()
            )
        });
    let number = rest.split([',', ' ', ';']).next().unwrap();
    10.0 * number.parse::<f64>().unwrap()
}

fn load(path: &Path, weights: WeightType) -> Model {
    Model::load(path, &LoadOptions::with_weights(weights)).unwrap()
}

fn all_logits(model: &Model, expected: &Expected) -> Vec<f32> {
    let mut state = model.start(&Chain::default(), expected.ids.len()).unwrap();
    model.begin_prompt(expected.ids[0].len(), &mut state);
    let logits = model
        .logits_batched(&expected.ids.concat(), &mut state, Logits::All)
        .unwrap();
    let [_, time, width] = logits.dims();
    let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
    let rows = logits.chunks(time * width);
    rows.flat_map(|row| expected.kept(row)).copied().collect()
}

impl Expected {
    /// Of the logits of one sequence, those that there are here.
    fn kept<'a>(&self, logits: &'a [f32]) -> &'a [f32] {
        &logits[logits.len() - self.logits.len() / self.ids.len()..]
    }
}

fn reference(expected: &Expected) -> impl Iterator<Item = f64> {
    expected.logits.iter().map(|l| f64::from(*l))
}

#[test]
fn logits_in_prefill_are_the_peers() {
    for expected in models() {
        let model = load(&expected.path, WeightType::F32);
        let error = relative_error(all_logits(&model, &expected), reference(&expected));
        println!("{}: prefill {error:.1e}", expected.path.display());
        assert!(
            error <= expected.tolerance,
            "{}: relative error {error:e}",
            expected.path.display()
        );
    }
}

fn in_place(model: &Model, expected: &Expected) -> Vec<f32> {
    let logits = model
        .logits_in_place(&expected.ids.concat(), expected.ids.len())
        .unwrap();
    logits.into_data().iter::<f32>().collect()
}

#[test]
fn logits_of_hidden_tokens_are_the_peers_on_every_device_and_of_rounded_weights_near_them() {
    let devices = adapters().into_iter().map(|(_, device)| device);
    let devices: Vec<_> = std::iter::once(LoadOptions::default().device)
        .chain(devices)
        .collect();
    for expected in models_in_place() {
        let bf16 = expected.tolerance / 10.0 * 2f64.powi(15);
        for (weights, tolerance) in [
            (WeightType::F32, expected.tolerance),
            (WeightType::Bf16, bf16),
            (WeightType::Int8, 3.0 * bf16),
            (WeightType::Int4, 32.0 * bf16),
        ] {
            for device in &devices {
                let options = LoadOptions {
                    weights: Some(weights),
                    device: device.clone(),
                    ..LoadOptions::default()
                };
                let model = Model::load(&expected.path, &options).unwrap();
                let error = relative_error(in_place(&model, &expected), reference(&expected));
                let case = format!("{}: {weights:?} on {device:?}", expected.path.display());
                println!("{case}: {error:.1e}");
                assert!(error <= tolerance, "{case}: {error:e} and not {tolerance:e}");
            }
        }
    }
}

#[test]
fn a_model_that_sees_later_tokens_is_asked_for_them_where_they_stand_and_others_for_the_next() {
    for expected in models_in_place() {
        let model = load(&expected.path, WeightType::F32);
        let mut state = model.start(&Chain::default(), 1).unwrap();
        let error = model
            .logits(&expected.ids[0], &mut state, Logits::Last)
            .unwrap_err();
        assert!(error.to_string().contains("bidirectional"), "{error}");
        let (ids, width) = (&expected.ids[0], model.info().padded_vocab_size);
        let whole = in_place(&model, &expected);
        let alone = model.logits_in_place(ids, 1).unwrap();
        let alone: Vec<f32> = alone.into_data().iter::<f32>().collect();
        let off = relative_error(alone, whole[..ids.len() * width].iter().map(|l| f64::from(*l)));
        assert!(off < 1e-6, "{off:e}");
        let long = vec![1; 4096];
        let error = model.logits_in_place(&long, 1).unwrap_err().to_string();
        assert!(error.contains("tokens of a sequence"), "{error}");
        assert_eq!(model.logits_in_place(&[], 1).unwrap().dims(), [1, 0, width]);
    }
    let causal = &models()[0];
    let error = load(&causal.path, WeightType::F32)
        .logits_in_place(&causal.ids[0], 1)
        .unwrap_err();
    assert!(error.to_string().contains("foretells the next token"), "{error}");
}

/// Folders with the kinds of layers of another folder, beside it, by other names, in another file or with other numbers of
/// layers, heads and channels. A device would compile the same kernels once more, which is what takes the time; the CPU reads
/// them all.
const SAME_LAYERS: [(&str, &str); 11] = [
    ("granitemoehybrid-dense-hf", "granitemoehybrid-moe-hf"),
    ("h3-lm-oldnames", "h3-lm"),
    ("kda-fla", "kimi_linear-hf"),
    ("mamba-original", "mamba-hf"),
    ("mamba2-original", "mamba2-hf"),
    ("qwen3_5-vl-hf", "qwen3_5-text-hf"),
    ("qwen3_5_moe-text-hf", "qwen3_next-hf"),
    ("rwkv4-blinkdl", "rwkv4-hf"),
    ("rwkv6-blinkdl", "rwkv6-fla"),
    ("rwkv7-blinkdl", "rwkv7-fla"),
    ("xlstm-fused-hf", "xlstm-hf"),
];

/// The models that a device is asked for: all but those of [`SAME_LAYERS`], whose stand-ins must be among them.
fn models_for_devices() -> Vec<Expected> {
    let stand_in = |model: &Expected| {
        let pair = SAME_LAYERS.iter().find(|(name, _)| model.path.ends_with(name));
        pair.map(|(_, other)| *other)
    };
    let (same, asked): (Vec<_>, Vec<_>) = models().into_iter().partition(|model| stand_in(model).is_some());
    for other in same.iter().filter_map(stand_in) {
        assert!(
            asked.iter().any(|model| model.path.ends_with(other)),
            "{other} stands for another model and is not there"
        );
    }
    asked
}

/// In two tests, side by side: most of the time goes into compiling kernels, each on one thread.
fn logits_on_every_device(half: usize) {
    for (name, device) in adapters() {
        for expected in models_for_devices().into_iter().skip(half).step_by(2) {
            let options = LoadOptions {
                device: device.clone(),
                ..LoadOptions::default()
            };
            let model = Model::load(&expected.path, &options).unwrap();
            let error = relative_error(all_logits(&model, &expected), reference(&expected));
            println!("{} on {name}: {error:.1e}", expected.path.display());
            assert!(
                error <= expected.tolerance,
                "{} on {name}: relative error {error:e}",
                expected.path.display()
            );
        }
    }
}

#[test]
fn logits_on_every_device_are_the_peers() {
    logits_on_every_device(0);
}

#[test]
fn logits_of_the_other_half_on_every_device_are_the_peers() {
    logits_on_every_device(1);
}

#[test]
fn logits_in_decode_are_the_peers() {
    for expected in models() {
        let model = load(&expected.path, WeightType::F32);
        let mut found = Vec::new();
        for ids in &expected.ids {
            let mut state = model.start(&Chain::default(), 1).unwrap();
            let encoded = model.encoder_length().clamp(1, ids.len());
            model.begin_prompt(ids.len(), &mut state);
            let mut logits = Vec::new();
            for call in std::iter::once(&ids[..encoded]).chain(ids[encoded..].chunks(1)) {
                let after = model.logits_batched(call, &mut state, Logits::All).unwrap();
                logits.extend(after.into_data().iter::<f32>());
            }
            found.extend_from_slice(expected.kept(&logits));
        }
        let error = relative_error(found, reference(&expected));
        println!("{}: decode {error:.1e}", expected.path.display());
        assert!(
            error <= expected.tolerance,
            "{}: relative error {error:e}",
            expected.path.display()
        );
    }
}

#[test]
fn greedy_continuations_are_the_peers() {
    for expected in models() {
        let model = load(&expected.path, WeightType::F32);
        // Peers go on from rows that only fill the embedding up, which no text has.
        let is_token = |id: &&u32| (**id as usize) < model.info().vocab_size;
        for (prompt, greedy) in expected.ids.iter().zip(&expected.greedy) {
            let greedy: Vec<u32> = greedy.iter().take_while(is_token).copied().collect();
            let mut state = model.start(&Chain::default(), 1).unwrap();
            model.begin_prompt(prompt.len(), &mut state);
            let mut logits = model.logits(prompt, &mut state, Logits::Last).unwrap();
            let mut found = Vec::new();
            while found.len() < greedy.len() {
                let row: Vec<f32> = logits.into_data().iter::<f32>().collect();
                let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32;
                found.push(best);
                logits = model.logits(&[best], &mut state, Logits::Last).unwrap();
            }
            assert_eq!(found, greedy, "{}", expected.path.display());
        }
    }
}

/// Whether tokens of a model go to experts.
fn has_experts(path: &Path) -> bool {
    let text = std::fs::read_to_string(path.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let names = ["num_local_experts", "n_routed_experts", "num_experts"];
    names
        .iter()
        .any(|name| config[name].as_u64().is_some_and(|count| count > 1))
}

/// The error that half of the tokens stay below, each relative to its own logits.
fn median(found: &[f32], expected: &Expected) -> f64 {
    let tokens: usize = expected.ids.iter().map(Vec::len).sum();
    let width = found.len() / tokens;
    let tokens = found.chunks_exact(width).zip(expected.logits.chunks_exact(width));
    let mut errors: Vec<f64> = tokens
        .map(|(found, expected)| {
            relative_error(found.iter().copied(), expected.iter().map(|l| f64::from(*l)))
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    errors[errors.len() / 2]
}

/// bf16 keeps 8 bits of a weight, int8 7 bits of a block's largest, of weights and of inputs, int4 3 bits of it. A model multiplies
/// rounding by about as much in any type, and how much in f32, with 24 bits, is known: hence 2¹⁵ times the peer's f32 error for bf16,
/// of which `tolerance` is ten times, three times that for int8, and 2⁵ times for int4, of which 26 were measured at most. Where tokens
/// go to experts, rounding sends some to others, which is another model for them and not a rounding of it: there half of the tokens are
/// held to that.
#[test]
fn logits_of_rounded_weights_are_near_the_peers() {
    let mut wrong = Vec::new();
    for expected in models() {
        let bf16 = expected.tolerance / 10.0 * 2f64.powi(15);
        for (weights, tolerance) in [
            (WeightType::Bf16, bf16),
            (WeightType::Int8, 3.0 * bf16),
            (WeightType::Int4, 32.0 * bf16),
        ] {
            let model = load(&expected.path, weights);
            let found = all_logits(&model, &expected);
            let error = match has_experts(&expected.path) {
                true => median(&found, &expected),
                false => relative_error(found, reference(&expected)),
            };
            println!("{}: {weights:?} {error:.1e}", expected.path.display());
            if error > tolerance {
                let path = expected.path.display();
                wrong.push(format!(
                    "{path}: {weights:?}: {error:.1e} and not {tolerance:.1e}"
                ));
            }
            assert!(error > expected.tolerance, "{weights:?} weights are f32 weights");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
