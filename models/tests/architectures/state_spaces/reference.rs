//! Gated state space models and Block-State Transformers in f64, one plain loop after another: the equations and nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use spillway_models::checkpoint::Checkpoint;
use spillway_ssm_core::state_space::Complex64;

type Vector = Vec<f64>;

/// The tensors of a checkpoint in f64, and its configuration.
pub struct Weights {
    tensors: BTreeMap<String, Vector>,
    pub config: Value,
}

impl Weights {
    pub fn open(path: &Path) -> Self {
        let checkpoint = Checkpoint::open(path).unwrap();
        let names: Vec<String> = checkpoint.names().map(String::from).collect();
        let tensors = names.into_iter().map(|name| {
            let shape = checkpoint.stored(&name).unwrap().shape.to_vec();
            let values = checkpoint.tensor(&name, &shape).unwrap().to_vec().unwrap();
            (name, values.into_iter().map(f64::from).collect())
        });
        let config = std::fs::read_to_string(path.join("config.json")).unwrap();
        Self {
            tensors: tensors.collect(),
            config: serde_json::from_str(&config).unwrap(),
        }
    }

    fn get(&self, name: &str) -> &Vector {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("no tensor {name}"))
    }

    pub fn number(&self, name: &str) -> usize {
        self.config[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no field {name}")) as usize
    }

    /// W x + b of every row, with b where there is one.
    fn linear(&self, name: &str, rows: &[Vector]) -> Vec<Vector> {
        let (weight, bias) = (
            self.get(&format!("{name}.weight")),
            self.tensors.get(&format!("{name}.bias")),
        );
        let of = |x: &Vector| -> Vector {
            let products = weight.chunks(x.len()).map(|row| dot(row, x));
            let products = products.enumerate();
            products
                .map(|(i, v)| v + bias.map_or(0.0, |bias| bias[i]))
                .collect()
        };
        rows.iter().map(of).collect()
    }

    fn norm(&self, name: &str, rows: &[Vector]) -> Vec<Vector> {
        let (weight, bias) = (
            self.get(&format!("{name}.weight")),
            self.get(&format!("{name}.bias")),
        );
        let of = |x: &Vector| -> Vector {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
            let scaled = x.iter().map(|v| (v - mean) / (variance + 1e-5).sqrt());
            scaled
                .zip(weight)
                .zip(bias)
                .map(|((v, w), b)| v * w + b)
                .collect()
        };
        rows.iter().map(of).collect()
    }

    fn embedded(&self, name: &str, ids: &[u32], width: usize) -> Vec<Vector> {
        let rows = self.get(name);
        ids.iter()
            .map(|id| rows[*id as usize * width..][..width].to_vec())
            .collect()
    }

    fn mlp(&self, below: &str, rows: &[Vector]) -> Vec<Vector> {
        let hidden = gelu(self.linear(&format!("{below}.fc1"), rows));
        self.linear(&format!("{below}.fc2"), &hidden)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn gelu(rows: Vec<Vector>) -> Vec<Vector> {
    let of = |x: f64| x * 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
    rows.into_iter()
        .map(|row| row.into_iter().map(of).collect())
        .collect()
}

fn add(rows: &mut [Vector], more: Vec<Vector>) {
    for (row, more) in rows.iter_mut().zip(more) {
        row.iter_mut().zip(more).for_each(|(a, b)| *a += b);
    }
}

/// (a, b) ↦ (a cos θ − b sin θ, b cos θ + a sin θ) of the first and second halves of `rotated` features, θ_i = t · 10⁴^(−2i/rotated).
fn turned(mut head: Vector, position: usize, rotated: usize) -> Vector {
    let half = rotated / 2;
    for i in 0..half {
        let angle = position as f64 * 1e4_f64.powf(-2.0 * i as f64 / rotated as f64);
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * angle.cos() - b * angle.sin();
        head[i + half] = b * angle.cos() + a * angle.sin();
    }
    head
}

/// Σ softmax(q·k / √d) v.
fn attend(query: &[f64], pairs: &[(Vector, Vector)]) -> Vector {
    let scores: Vector = pairs
        .iter()
        .map(|(key, _)| (dot(query, key) / (query.len() as f64).sqrt()).exp())
        .collect();
    let total: f64 = scores.iter().sum();
    let mut read = vec![0.0; query.len()];
    for (score, (_, value)) in scores.iter().zip(pairs) {
        read.iter_mut()
            .zip(value)
            .for_each(|(read, v)| *read += score / total * v);
    }
    read
}

/// Attention of every token to those of its block, heads side by side.
fn within_blocks(parts: [Vec<Vector>; 3], heads: usize, window: usize, rotated: usize) -> Vec<Vector> {
    let [queries, keys, values] = parts;
    let dim = queries[0].len() / heads;
    let of_head = |row: &Vector, h: usize| row[h * dim..][..dim].to_vec();
    let read = |t: usize| -> Vector {
        let first = t / window * window;
        let of = |h: usize| {
            let pairs: Vec<(Vector, Vector)> = (first..=t)
                .map(|j| (turned(of_head(&keys[j], h), j, rotated), of_head(&values[j], h)))
                .collect();
            attend(&turned(of_head(&queries[t], h), t, rotated), &pairs)
        };
        (0..heads).flat_map(of).collect()
    };
    (0..queries.len()).map(read).collect()
}

/// y_t = factor · Re Σ_n C_n x_n with x ← e^{Δλ} x + (e^{Δλ} − 1)/λ u, and D u, of one channel.
fn state_space(
    modes: &[(Complex64, Complex64)],
    step: f64,
    factor: f64,
    skip: f64,
    inputs: &[f64],
) -> Vector {
    let mut state = vec![Complex64::new(0.0, 0.0); modes.len()];
    let next = |u: &f64| {
        let mut sum = skip * u;
        for (x, (a, c)) in state.iter_mut().zip(modes) {
            let root = (a * step).exp();
            *x = *x * root + (root - 1.0) / a * *u;
            sum += factor * (c * *x).re;
        }
        sum
    };
    inputs.iter().map(next).collect()
}

/// A filter of every channel, `[time, channels]`.
fn by_channel(rows: &[Vector], filter: impl Fn(usize, &[f64]) -> Vector) -> Vec<Vector> {
    let channels = rows[0].len();
    let columns: Vec<Vector> = (0..channels)
        .map(|h| filter(h, &rows.iter().map(|row| row[h]).collect::<Vector>()))
        .collect();
    (0..rows.len())
        .map(|t| columns.iter().map(|column| column[t]).collect())
        .collect()
}

/// Logits of a gated state space model after every token.
pub fn gss(weights: &Weights, ids: &[u32]) -> Vec<Vector> {
    let width = weights.number("d_model");
    let attention = weights.config["attn_layer_idx"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let field = |name: &str| weights.config["attn_cfg"][name].as_u64().unwrap_or(0) as usize;
    let mut stream = weights.embedded("token_emb.weight", ids, width);
    for layer in 0..weights.number("n_layer") {
        let name = format!("layers.{layer}.0");
        let normed = weights.norm(&format!("{name}.norm"), &stream);
        if !attention.contains(&layer.into()) {
            add(&mut stream, gated_state_space(weights, &name, &normed));
            continue;
        }
        let parts = ["q", "k", "v"].map(|part| weights.linear(&format!("{name}.attn.{part}_proj"), &normed));
        let read = within_blocks(
            parts,
            field("num_heads"),
            field("window"),
            field("rotary_emb_dim"),
        );
        add(&mut stream, weights.linear(&format!("{name}.attn.o_proj"), &read));
        let below = format!("layers.{layer}.1");
        let normed = weights.norm(&format!("{below}.norm"), &stream);
        add(&mut stream, weights.mlp(&below, &normed));
    }
    weights.linear("to_logits", &stream)
}

fn gated_state_space(weights: &Weights, name: &str, input: &[Vector]) -> Vec<Vector> {
    let part = |part: &str| weights.get(&format!("{name}.dss.{part}"));
    let u = gelu(weights.linear(&format!("{name}.to_u.0"), input));
    let v = gelu(weights.linear(&format!("{name}.to_v.0"), input));
    let v = weights.norm(&format!("{name}.dss.norm"), &v);
    let modes = part("Lambda_real").len();
    let read = by_channel(&v, |h, inputs| {
        let mode = |n: usize| {
            let at = h * modes + n;
            let a = Complex64::new(-part("Lambda_real")[n].exp(), part("Lambda_imag")[n].exp());
            (a, Complex64::new(part("C_real")[at], part("C_imag")[at]))
        };
        let modes: Vec<_> = (0..modes).map(mode).collect();
        state_space(&modes, 1.0, 1.0, part("param_D")[h], inputs)
    });
    let gated: Vec<Vector> = weights
        .linear(&format!("{name}.to_gate"), &read)
        .iter()
        .zip(&u)
        .map(|(gate, u)| gate.iter().zip(u).map(|(a, b)| a * b).collect())
        .collect();
    weights.linear(&format!("{name}.to_out"), &gated)
}

/// Logits of a Block-State Transformer after every token.
pub fn bst(weights: &Weights, ids: &[u32]) -> Vec<Vector> {
    let (width, heads, window) = (
        weights.number("d_model"),
        weights.number("num_heads"),
        weights.number("window"),
    );
    let plain = weights.config["attn_layer_idx"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let rotated = weights.config["rotary_emb_dim"].as_u64().unwrap_or(0) as usize;
    let mut stream = weights.embedded("embedding.weight", ids, width);
    for layer in 0..weights.number("n_layer") {
        let name = format!("layers.{layer}");
        let normed = weights.norm(&format!("{name}.ln1"), &stream);
        let part = |part: &str| weights.linear(&format!("{name}.{part}"), &normed);
        let parts = [part("q"), part("k"), part("v")];
        let read = match plain.contains(&layer.into()) {
            true => within_blocks(parts, heads, window, rotated),
            false => {
                let mut read = within_blocks(parts, heads, window, 0);
                let across = across(weights, &name, &normed, part("qc"));
                read.iter_mut()
                    .zip(across)
                    .for_each(|(own, across)| own.extend(across));
                read
            }
        };
        add(&mut stream, weights.linear(&format!("{name}.o"), &read));
        let normed = weights.norm(&format!("{name}.ln2"), &stream);
        add(&mut stream, weights.mlp(&name, &normed));
    }
    let normed = weights.norm("ln_f", &stream);
    weights.linear("head", &normed)
}

/// Attention of every token to the contexts of its block.
fn across(weights: &Weights, name: &str, input: &[Vector], queries: Vec<Vector>) -> Vec<Vector> {
    let (heads, window, width) = (
        weights.number("num_heads"),
        weights.number("window"),
        queries[0].len(),
    );
    let dim = width / heads;
    let contexts = contexts(weights, name, input);
    let read = |(t, query): (usize, &Vector)| -> Vector {
        let Some(block) = (t / window).checked_sub(1) else {
            return vec![0.0; width];
        };
        let contexts = &contexts[block];
        let (keys, values) = (
            weights.linear(&format!("{name}.kc"), contexts),
            weights.linear(&format!("{name}.vc"), contexts),
        );
        let of = |h: usize| {
            let part = |row: &Vector| row[h * dim..][..dim].to_vec();
            let pairs: Vec<_> = keys
                .iter()
                .zip(&values)
                .map(|(k, v)| (part(k), part(v)))
                .collect();
            attend(&part(query), &pairs)
        };
        (0..heads).flat_map(of).collect()
    };
    queries.iter().enumerate().map(read).collect()
}

/// What every whole block leaves for the next.
fn contexts(weights: &Weights, name: &str, input: &[Vector]) -> Vec<Vec<Vector>> {
    let window = weights.number("window");
    let blocks = 0..input.len() / window;
    let at = |rows: &[Vector], block: usize| rows[block * window..][..window].to_vec();
    if weights.config["contexts"] == "MF" {
        let of_filters: Vec<Vec<Vector>> = (0..weights.number("num_contexts"))
            .map(|i| {
                let down = weights.linear(&format!("{name}.down.{i}"), input);
                let filtered = filtered(weights, &format!("{name}.ssm.{i}"), &down);
                weights.linear(&format!("{name}.up.{i}"), &filtered)
            })
            .collect();
        return blocks
            .map(|block| {
                of_filters
                    .iter()
                    .map(|rows| rows[(block + 1) * window - 1].clone())
                    .collect()
            })
            .collect();
    }
    let outputs = filtered(weights, &format!("{name}.ssm"), input);
    if weights.config["contexts"] == "MH" {
        let heads = weights.linear(&format!("{name}.heads"), &outputs);
        let width = input[0].len();
        return blocks
            .map(|block| {
                heads[(block + 1) * window - 1]
                    .chunks(width)
                    .map(<[f64]>::to_vec)
                    .collect()
            })
            .collect();
    }
    blocks.map(|block| at(&outputs, block)).collect()
}

/// The diagonal state space or the free kernel below a name.
fn filtered(weights: &Weights, name: &str, rows: &[Vector]) -> Vec<Vector> {
    let part = |part: &str| weights.get(&format!("{name}.{part}"));
    if weights.config["kernel"] == "free" {
        let taps = part("K").len() / rows[0].len();
        return by_channel(rows, |h, inputs| {
            let kernel = &part("K")[h * taps..][..taps];
            let at = |t: usize| {
                let lags = 0..taps.min(t + 1);
                lags.map(|lag| kernel[lag] * inputs[t - lag]).sum::<f64>() + part("D")[h] * inputs[t]
            };
            (0..inputs.len()).map(at).collect()
        });
    }
    let modes = part("A_im").len() / rows[0].len();
    by_channel(rows, |h, inputs| {
        let mode = |n: usize| {
            let at = h * modes + n;
            let a = Complex64::new(-part("A_re_log")[at].exp(), part("A_im")[at]);
            (a, Complex64::new(part("C")[2 * at], part("C")[2 * at + 1]))
        };
        let modes: Vec<_> = (0..modes).map(mode).collect();
        state_space(&modes, part("log_dt")[h].exp(), 2.0, part("D")[h], inputs)
    })
}
