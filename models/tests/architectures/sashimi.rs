//! SaShiMi beside its equations in f64, on whole sequences padded to whole groups; the same in any pieces, and for sequences of a batch
//! that are at different times.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};
use spillway_models::checkpoint::{Checkpoint, WriteDtype};
use spillway_models::init::write_random;
use spillway_models::layout::Layout;
use spillway_models::registry::layouts_of;
use spillway_models::{LoadOptions, Logits, Model, ModelState};
use spillway_ssm_core::{Chain, MixerState};
use tempfile::TempDir;

use super::common::relative_error;

/// f32 against f64 through a dozen random layers.
const ROUNDING: f64 = 2e-5;
const VOCABULARY: usize = 11;

fn layout(name: &str) -> &'static Layout {
    layouts_of("sashimi")
        .find(|layout| layout.name.contains("standalone") == (name == "standalone"))
        .expect("a layout")
}

/// Three tiers of two pairs of layers, groups of 2 · 3 · 2 tokens.
fn config(fields: Value) -> Value {
    let mut config = json!({"model_type": "sashimi", "d_model": 4, "n_layers": 2, "pool": [2, 3, 2], "vocab_size": VOCABULARY,
        "layer": {"mode": "diag", "init": "diag-lin", "d_state": 4, "dt_min": 0.05, "dt_max": 0.5}});
    let fields = fields.as_object().expect("fields").clone();
    config.as_object_mut().expect("fields").extend(fields);
    config
}

fn write(folder: &TempDir, layout: &Layout, config: &Value) -> std::path::PathBuf {
    let path = folder.path().join("model");
    write_random(&path, layout, &config.to_string(), WriteDtype::F32, 17)
        .unwrap_or_else(|error| panic!("{config}: {error}"));
    path
}

fn load(path: &Path) -> Model {
    Model::load(path, &LoadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn ids(count: usize) -> Vec<u32> {
    (0..count as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 % VOCABULARY as u32)
        .collect()
}

/// Logits after every token, taken in calls of these lengths and one for the rest.
fn logits(model: &Model, ids: &[u32], calls: &[usize], state: &mut ModelState) -> Vec<f32> {
    let (mut logits, mut rest) = (Vec::new(), ids);
    for call in calls.iter().chain([&usize::MAX]) {
        let (now, later) = rest.split_at((*call).min(rest.len()));
        let found = model.logits_batched(now, state, Logits::All).expect("logits");
        logits.extend(found.into_data().iter::<f32>());
        rest = later;
    }
    logits
}

fn start(model: &Model, batch: usize) -> ModelState {
    model.start(&Chain::default(), batch).expect("a state")
}

/// The forms that are tested: layout and configuration.
fn forms() -> Vec<(&'static str, Value)> {
    vec![
        ("state-spaces", config(json!({}))),
        ("standalone", config(json!({}))),
        ("standalone", config(json!({"unet": true}))),
        (
            "state-spaces",
            config(json!({"unet": true, "n_layers": 1, "ff": 0, "expand": 1})),
        ),
        ("standalone", config(json!({"pool": []}))),
    ]
}

#[test]
fn logits_at_every_length_are_those_of_the_equations_in_f64_however_they_are_asked_for() {
    for (name, config) in forms() {
        let folder = TempDir::new().expect("a folder");
        let path = write(&folder, layout(name), &config);
        let model = load(&path);
        let reference = reference::Reference::read(&path, &config);
        let ids = ids(41);
        let expected: Vec<f64> = reference.logits(&ids).concat();
        let calls: [&[usize]; 5] = [&[], &[1; 41], &[1, 2, 3, 4, 5, 6, 7], &[12, 12], &[5, 0, 13]];
        for calls in calls {
            let found = logits(&model, &ids, calls, &mut start(&model, 1));
            let error = relative_error(found, expected.iter().copied());
            assert!(error <= ROUNDING, "{name} {config} in {calls:?}: {error:e}");
        }
        // A length that ends anywhere in a group is the beginning of a longer one.
        for length in 1..=ids.len() {
            let found = logits(&model, &ids[..length], &[], &mut start(&model, 1));
            let error = relative_error(found, expected[..length * VOCABULARY].iter().copied());
            assert!(error <= ROUNDING, "{name} {config}, {length} tokens: {error:e}");
        }
    }
}

#[test]
fn sequences_that_are_at_different_times_go_on_as_each_does_alone() {
    for (name, config) in forms() {
        let folder = TempDir::new().expect("a folder");
        let model = load(&write(&folder, layout(name), &config));
        let all = ids(60);
        // Two at one time, the others in other groups; of all lengths modulo 12.
        let lengths = [7, 12, 19, 1];
        let prompts: Vec<&[u32]> = lengths.iter().map(|length| &all[..*length]).collect();
        let (_, mut together) = model.prefill_batch(&prompts, &Chain::default()).expect("prompts");
        let mut found: Vec<Vec<f32>> = vec![Vec::new(); lengths.len()];
        // One token each, and then calls that end groups in some of them.
        let calls = [(0, 1), (1, 2), (2, 7), (7, 15)];
        for (begin, end) in calls {
            let count = end - begin;
            let rows: Vec<u32> = lengths
                .iter()
                .flat_map(|length| &all[length + begin..length + end])
                .copied()
                .collect();
            let logits = model
                .logits_batched(&rows, &mut together, Logits::All)
                .expect("logits");
            let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
            let rows = logits.chunks(count * VOCABULARY);
            found
                .iter_mut()
                .zip(rows)
                .for_each(|(found, row)| found.extend(row));
        }
        for (length, found) in lengths.into_iter().zip(found) {
            let mut state = start(&model, 1);
            logits(&model, &all[..length], &[], &mut state);
            let mut expected = Vec::new();
            for (begin, end) in calls {
                let ids = &all[length + begin..length + end];
                expected.extend(logits(&model, ids, &[], &mut state));
            }
            let error = relative_error(found, expected.iter().map(|v| f64::from(*v)));
            assert!(
                error <= 1e-6,
                "{name} {config}, {length} tokens before: {error:e}"
            );
        }
    }
}

#[test]
fn a_state_saved_in_the_middle_of_a_group_goes_on_to_the_same_bits() {
    let (name, config) = forms().swap_remove(2);
    let folder = TempDir::new().expect("a folder");
    let model = load(&write(&folder, layout(name), &config));
    let ids = ids(30);
    for length in [1, 5, 11, 12, 13] {
        let mut state = start(&model, 1);
        logits(&model, &ids[..length], &[], &mut state);
        let file = folder.path().join("state");
        state.save(&file).expect("saved");
        let mut restored = model.restore(&file, &Chain::default()).expect("restored");
        let expected = logits(&model, &ids[length..], &[], &mut state);
        assert!(
            expected == logits(&model, &ids[length..], &[], &mut restored),
            "after {length} tokens"
        );
    }
}

#[test]
fn a_clock_that_no_tokens_lead_to_is_refused() {
    let (name, config) = forms().swap_remove(0);
    let folder = TempDir::new().expect("a folder");
    let model = load(&write(&folder, layout(name), &config));
    // A period is 2 · 3 · 2 tokens.
    for wrong in [0.5f32, -1.0, 12.0, f32::NAN] {
        let mut state = start(&model, 1);
        let MixerState::Several(parts) = &mut state.layers[0].mixer else {
            panic!("one block, in parts")
        };
        let clock = parts[0]
            .recurrent()
            .and_then(|state| state.carried(0))
            .expect("a clock");
        *clock = Tensor::from_data([[[wrong]]], &Device::flex());
        let error = model
            .logits(&[1], &mut state, Logits::Last)
            .expect_err("refused")
            .to_string();
        assert!(
            error.contains("state of a pooled stack") && error.contains("clocks"),
            "{error}"
        );
    }
}

#[test]
fn what_the_stack_does_not_have_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let cases = [
        (json!({"pool": [4, 1]}), "pool"),
        (json!({"pool": 4}), "pool"),
        (json!({"pool": [4096, 4096, 2]}), "pool"),
        (json!({"expand": 4096}), "expand"),
        (json!({"norm": "batch"}), "norm"),
        (json!({"prenorm": false}), "prenorm"),
        (json!({"residual": "D"}), "residual"),
        (json!({"bidirectional": true}), "bidirectional"),
        (
            json!({"layer": {"mode": "diag", "bidirectional": true}}),
            "bidirectional",
        ),
        (json!({"layer": {"mode": "diag", "l_max": 8}}), "l_max"),
        (json!({"layer": {"mode": "diag", "disc": "dss"}}), "l_max"),
        (json!({"layer": {"mode": "conv", "l_max": 8}}), "mode"),
        (json!({"layer": {"n_ssm": 3}}), "n_ssm"),
    ];
    for (fields, named) in cases {
        let path = folder.path().join("refused");
        let text = config(fields).to_string();
        let error = write_random(&path, layout("standalone"), &text, WriteDtype::F32, 1);
        let message = error.expect_err(&text).to_string();
        let says_what_works = message.contains("expected") || message.contains("accepted");
        assert!(message.contains(named) && says_what_works, "{text}: {message}");
    }
}

/// The equations of a whole sequence, padded with zeros to whole groups, as the authors' convolutional form has them.
mod reference {
    use super::*;

    type Steps = Vec<Vec<f64>>;

    pub struct Reference {
        checkpoint: Checkpoint,
        pools: Vec<usize>,
        layers: usize,
        unet: bool,
        ff: bool,
    }

    impl Reference {
        pub fn read(path: &Path, config: &Value) -> Self {
            let pools = config["pool"].as_array().expect("pools").iter();
            let ff = config["ff"] != 0;
            Self {
                checkpoint: Checkpoint::open(path).expect("a checkpoint"),
                pools: pools.map(|p| p.as_u64().expect("a pool") as usize).collect(),
                layers: config["n_layers"].as_u64().expect("layers") as usize * if ff { 2 } else { 1 },
                unet: config["unet"] == true,
                ff,
            }
        }

        fn get(&self, name: &str) -> Option<Vec<f64>> {
            let bytes = self.checkpoint.stored(name)?.bytes;
            let value = |b: &[u8]| f64::from(f32::from_le_bytes(b.try_into().expect("four bytes")));
            Some(bytes.chunks_exact(4).map(value).collect())
        }

        fn tensor(&self, name: &str) -> Vec<f64> {
            self.get(name).unwrap_or_else(|| panic!("no {name}"))
        }

        pub fn logits(&self, ids: &[u32]) -> Steps {
            let table = self.tensor("encoder.0.weight");
            let width = table.len() / VOCABULARY;
            let row = |id: &u32| table[*id as usize * width..][..width].to_vec();
            let mut steps: Steps = ids.iter().map(row).collect();
            let group: usize = self.pools.iter().product();
            steps.resize(ids.len().next_multiple_of(group), vec![0.0; width]);
            let mut out = self.tier(0, steps);
            out.truncate(ids.len());
            let normed = self.layer_norm("model.norm", &out);
            self.linear("decoder.0.output_transform", &normed)
        }

        fn tier(&self, index: usize, input: Steps) -> Steps {
            let Some(&p) = self.pools.get(index) else {
                return add(
                    &self.layers("model.c_layers", 0, input.clone(), &mut Vec::new()),
                    &input,
                );
            };
            let mut kept = vec![input.clone()];
            let (mut x, mut at) = (input.clone(), index);
            if self.unet {
                at = index * (self.layers + 1);
                x = self.layers("model.d_layers", at, x, &mut kept);
                at += self.layers;
            }
            let width = x[0].len();
            let groups: Steps = x
                .chunks(p)
                .map(|group| (0..width * p).map(|i| group[i % p][i / p]).collect())
                .collect();
            let below = self.tier(
                index + 1,
                self.pool(&format!("model.d_layers.{at}.linear"), &groups),
            );
            let up = format!("model.u_layers.{}", self.pools.len() - 1 - index);
            let spread = self.pool(&format!("{up}.0.linear"), &below);
            let mut shifted = vec![vec![0.0; width]; p];
            for step in &spread[..spread.len() - 1] {
                shifted.extend((0..p).map(|s| (0..width).map(|h| step[h * p + s]).collect::<Vec<_>>()));
            }
            if !self.unet {
                let z = add(&shifted, &input);
                return add(&self.layers(&up, 1, z.clone(), &mut Vec::new()), &z);
            }
            let mut x = add(&shifted, &kept.pop().expect("the last layer's"));
            for layer in 0..self.layers {
                x = self.layer(&format!("{up}.{}", 1 + layer), layer, &x);
                x = add(&x, &kept.pop().expect("a mirror's"));
            }
            x
        }

        fn layers(&self, name: &str, first: usize, mut x: Steps, kept: &mut Vec<Steps>) -> Steps {
            for layer in 0..self.layers {
                x = self.layer(&format!("{name}.{}", first + layer), layer, &x);
                kept.push(x.clone());
            }
            x
        }

        fn layer(&self, name: &str, index: usize, x: &Steps) -> Steps {
            let normed = match self.get(&format!("{name}.norm.norm.m")) {
                Some(m) => {
                    let s = self.tensor(&format!("{name}.norm.norm.s"))[0];
                    normed(x, 0.0, |value, deviation, _| s * (value + m[0]) / deviation)
                }
                None => self.layer_norm(&format!("{name}.norm"), x),
            };
            let update = match self.ff && index % 2 == 1 {
                true => {
                    let hidden = self.linear(&format!("{name}.layer.ff.0.0"), &normed);
                    self.linear(&format!("{name}.layer.ff.2"), &gelu(hidden))
                }
                false => self.state_space(&format!("{name}.layer"), &normed),
            };
            add(x, &update)
        }

        /// S4D by the zero-order hold, from zero, and its gated projection.
        fn state_space(&self, name: &str, input: &Steps) -> Steps {
            let kernel = |part: &str| self.tensor(&format!("{name}.layer.kernel.{part}"));
            let (real, imag, b, c) = (kernel("A_real"), kernel("A_imag"), kernel("B"), kernel("C"));
            let (steps, skip) = (kernel("inv_dt"), self.tensor(&format!("{name}.layer.D")));
            let modes = real.len();
            let mut out = vec![vec![0.0; skip.len()]; input.len()];
            for h in 0..skip.len() {
                let dt = steps[h].exp();
                let mut state = vec![(0.0, 0.0); modes];
                for (t, step) in input.iter().enumerate() {
                    let mut y = skip[h] * step[h];
                    for n in 0..modes {
                        let a = (-real[n].exp(), -imag[n]);
                        let size = (dt * a.0).exp();
                        let decay = (size * (dt * a.1).cos(), size * (dt * a.1).sin());
                        let hold = divided((decay.0 - 1.0, decay.1), a);
                        let enters = times(hold, (b[2 * n], b[2 * n + 1]));
                        let kept = times(decay, state[n]);
                        state[n] = (kept.0 + enters.0 * step[h], kept.1 + enters.1 * step[h]);
                        let at = 2 * (h * modes + n);
                        y += 2.0 * times((c[at], c[at + 1]), state[n]).0;
                    }
                    out[t][h] = y;
                }
            }
            let both = self.linear(&format!("{name}.output_linear.0"), &gelu(out));
            let gate = |row: &Vec<f64>| {
                let (value, gate) = row.split_at(row.len() / 2);
                let pairs = value.iter().zip(gate);
                pairs.map(|(v, g)| v / (1.0 + (-g).exp())).collect()
            };
            both.iter().map(gate).collect()
        }

        fn layer_norm(&self, name: &str, x: &Steps) -> Steps {
            let (w, b) = (
                self.tensor(&format!("{name}.weight")),
                self.tensor(&format!("{name}.bias")),
            );
            normed(x, 1e-5, |value, deviation, h| w[h] * value / deviation + b[h])
        }

        fn linear(&self, name: &str, x: &Steps) -> Steps {
            product(
                &self.tensor(&format!("{name}.weight")),
                &self.tensor(&format!("{name}.bias")),
                x,
            )
        }

        fn pool(&self, name: &str, x: &Steps) -> Steps {
            let Some(lengths) = self.get(&format!("{name}.weight_g")) else {
                return self.linear(name, x);
            };
            let mut weight = self.tensor(&format!("{name}.weight_v"));
            let inputs = weight.len() / lengths.len();
            for (row, length) in weight.chunks_mut(inputs).zip(lengths) {
                let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                row.iter_mut().for_each(|v| *v *= length / norm);
            }
            product(&weight, &self.tensor(&format!("{name}.bias")), x)
        }
    }

    fn product(weight: &[f64], bias: &[f64], x: &Steps) -> Steps {
        let of_row = |row: &Vec<f64>| -> Vec<f64> {
            let sums = weight.chunks_exact(row.len()).zip(bias);
            sums.map(|(w, b)| b + w.iter().zip(row).map(|(w, x)| w * x).sum::<f64>())
                .collect()
        };
        x.iter().map(of_row).collect()
    }

    /// `of` a value less the mean, the deviation and the channel.
    fn normed(x: &Steps, eps: f64, of: impl Fn(f64, f64, usize) -> f64) -> Steps {
        let row = |row: &Vec<f64>| {
            let count = row.len() as f64;
            let mean = row.iter().sum::<f64>() / count;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            let channels = row.iter().enumerate();
            channels
                .map(|(h, v)| of(v - mean, (variance + eps).sqrt(), h))
                .collect()
        };
        x.iter().map(row).collect()
    }

    fn gelu(x: Steps) -> Steps {
        let of = |v: f64| 0.5 * v * (1.0 + libm::erf(v * std::f64::consts::FRAC_1_SQRT_2));
        x.into_iter()
            .map(|row| row.into_iter().map(of).collect())
            .collect()
    }

    fn add(a: &Steps, b: &Steps) -> Steps {
        let rows = a.iter().zip(b);
        rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect())
            .collect()
    }

    fn times(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
        (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
    }

    fn divided(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
        let size = b.0 * b.0 + b.1 * b.1;
        let product = times(a, (b.0, -b.1));
        (product.0 / size, product.1 / size)
    }
}
