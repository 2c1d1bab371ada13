//! What the conversions of llama.cpp do to a checkpoint, in plain loops.
//!
//! | architecture | what changes |
//! |---|---|
//! | all | A_log becomes −e^{A_log}; kernels of convolutions lose their dimension of one; experts are stacked; `dt_bias` is named as a bias |
//! | Mamba-2's | A and D get a second dimension of one, the norm's weight one of groups |
//! | falcon-h1 | its factors are multiplied into weights |
//! | granitehybrid, nemotron_h | rows of queries and keys: halves of a head become neighbours |
//! | granitehybrid | gates and values of MLPs and experts apart |
//! | qwen3next, qwen35(moe) | 1 is added to the weights of norms, but for that of the recurrence |
//! | qwen3next | queries, keys and values of all heads together, gates apart |
//! | qwen35(moe) | heads of values: those of one head of keys, one after the other, become one of every head of keys in turn |
//! | kimi-linear | of latent attention keys (transposed) and values apart |

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value as Json;
use spillway_models::checkpoint::Checkpoint;

use super::fields::fields;
use super::file::{File, Tensor};
use super::values;

/// A golden model, and how it is called in a file.
pub struct Source {
    pub checkpoint: Checkpoint,
    pub architecture: String,
    pub config: Json,
    names: Json,
}

impl Source {
    pub fn open(golden: &Path, model: &str, architecture: &str) -> Self {
        let folder = golden.join("models").join(model);
        let json = |path: &Path| serde_json::from_str::<Json>(&fs::read_to_string(path).unwrap()).unwrap();
        Self {
            checkpoint: Checkpoint::open(&folder).unwrap(),
            architecture: architecture.into(),
            config: json(&folder.join("config.json")),
            names: json(&golden.join("gguf/names.json"))[architecture].clone(),
        }
    }

    pub fn whole(&self, name: &str) -> usize {
        self.config[name].as_u64().unwrap_or_else(|| panic!("{name}")) as usize
    }

    pub fn real(&self, name: &str) -> f32 {
        self.config[name].as_f64().unwrap_or_else(|| panic!("{name}")) as f32
    }

    fn reals(&self, name: &str) -> Vec<f32> {
        let list = self.config[name].as_array().unwrap();
        list.iter().map(|value| value.as_f64().unwrap() as f32).collect()
    }

    /// The name in the file of one in a checkpoint, or of what a conversion makes of several.
    fn name(&self, made: &str) -> String {
        let parts: Vec<&str> = made.split('.').collect();
        // Of a name the first number is that of the layer.
        let number = parts.iter().find(|part| part.parse::<usize>().is_ok());
        let pattern = match number {
            Some(number) => made.replacen(&format!(".{number}."), ".{bid}.", 1),
            None => made.to_string(),
        };
        let found = self.names[&pattern]
            .as_str()
            .unwrap_or_else(|| panic!("{}: {pattern}", self.architecture));
        found.replace("{bid}", number.copied().unwrap_or_default())
    }
}

/// Rows of a matrix in another order.
fn rows(values: &[f32], width: usize, order: impl Iterator<Item = usize>) -> Vec<f32> {
    order
        .flat_map(|row| values[row * width..][..width].to_vec())
        .collect()
}

/// Where heads of values go: place `copy · keys + key` gets head `key · share + copy`.
fn tiled(keys: usize, share: usize, width: usize) -> Vec<usize> {
    let mut order = Vec::new();
    for copy in 0..share {
        for key in 0..keys {
            order.extend((0..width).map(|row| (key * share + copy) * width + row));
        }
    }
    order
}

/// A tensor's shape and values.
type Stored = (Vec<usize>, Vec<f32>);

pub fn converted(source: &Source) -> File {
    let mut file = File {
        fields: fields(source),
        ..File::default()
    };
    let mut experts: BTreeMap<String, BTreeMap<usize, Stored>> = BTreeMap::new();
    for name in source.checkpoint.names() {
        let shape = source.checkpoint.stored(name).unwrap().shape.to_vec();
        let read = values(&source.checkpoint, name);
        if let Some((before, rest)) = name.split_once(".experts.") {
            let (number, part) = rest.split_once('.').unwrap();
            let layer = before.split('.').nth(2).unwrap();
            let merged = match source.architecture.as_str() {
                "kimi-linear" => format!("model.layers.{layer}.block_sparse_moe.experts.{part}"),
                _ => format!("model.layers.{layer}.mlp.experts.{part}"),
            };
            experts
                .entry(merged)
                .or_default()
                .insert(number.parse().unwrap(), (shape, read));
            continue;
        }
        for (made, shape, values) in changed(source, name, shape, read) {
            let name = source.name(&made);
            file.tensors.push(Tensor { name, shape, values });
        }
    }
    for (merged, stack) in experts {
        let (shape, _) = &stack[&0];
        let shape = [vec![stack.len()], shape.clone()].concat();
        let values = stack.values().flat_map(|(_, values)| values.clone()).collect();
        file.tensors.push(Tensor {
            name: source.name(&merged),
            shape,
            values,
        });
    }
    // A head that is the embedding times other factors cannot be left out.
    if source.architecture == "falcon-h1" && !source.checkpoint.has("lm_head.weight") {
        let name = "model.embed_tokens.weight";
        let factor = source.real("lm_head_multiplier");
        file.tensors.push(Tensor {
            name: "output.weight".into(),
            shape: source.checkpoint.stored(name).unwrap().shape.to_vec(),
            values: values(&source.checkpoint, name)
                .iter()
                .map(|value| value * factor)
                .collect(),
        });
    }
    file
}

type Made = (String, Vec<usize>, Vec<f32>);

/// What becomes of one tensor.
fn changed(source: &Source, name: &str, mut shape: Vec<usize>, mut read: Vec<f32>) -> Vec<Made> {
    let mut made = name.to_string();
    if name.ends_with("A_log") {
        read.iter_mut().for_each(|value| *value = -value.exp());
    }
    if name.ends_with("conv1d.weight") {
        shape = match source.architecture.as_str() {
            "kimi-linear" => vec![1, shape[0], 1, shape[2]],
            _ => vec![shape[0], shape[2]],
        };
    }
    if name.ends_with("dt_bias") {
        let ending = if source.architecture == "nemotron_h_moe" {
            "dt.bias"
        } else {
            "dt_proj.bias"
        };
        made = name.replace("dt_bias", ending);
    }
    made = made.replace("e_score_correction_bias", "e_score_correction.bias");
    match source.architecture.as_str() {
        "falcon-h1" | "granitehybrid" | "nemotron_h_moe" => {
            let groups = match source.architecture.as_str() {
                "nemotron_h_moe" => source.whole("n_groups"),
                _ => source.whole("mamba_n_groups"),
            };
            if name.ends_with("A_log") || name.ends_with(".D") {
                shape.push(1);
            }
            if name.ends_with("mamba.norm.weight") || name.ends_with("mixer.norm.weight") {
                shape = vec![groups, shape[0] / groups];
            }
            match source.architecture.as_str() {
                "falcon-h1" => factors(source, name, &mut read),
                _ => return apart(source, made, shape, read),
            }
        }
        "qwen3next" | "qwen35" | "qwen35moe" => {
            if name.ends_with("norm.weight") && !name.ends_with("linear_attn.norm.weight") {
                read.iter_mut().for_each(|value| *value += 1.0);
            }
            return match source.architecture.as_str() {
                "qwen3next" => by_kind(source, made, shape, read),
                _ => vec![tiled_heads(source, made, shape, read)],
            };
        }
        "kimi-linear" if name.ends_with("kv_b_proj.weight") => return latent(source, name, &shape, &read),
        _ => {}
    }
    vec![(made, shape, read)]
}

/// Falcon-H1's factors.
fn factors(source: &Source, name: &str, values: &mut [f32]) {
    let mlp = source.reals("mlp_multipliers");
    let input = source.real("attention_in_multiplier");
    let parts: [(&str, f32); 8] = [
        ("down_proj", mlp[1]),
        ("gate_proj", mlp[0]),
        ("k_proj", source.real("key_multiplier") * input),
        ("q_proj", input),
        ("v_proj", input),
        ("o_proj", source.real("attention_out_multiplier")),
        ("mamba.out_proj", source.real("ssm_out_multiplier")),
        ("mamba.in_proj", source.real("ssm_in_multiplier")),
    ];
    if let Some((_, factor)) = parts
        .iter()
        .find(|(part, _)| name.ends_with(&format!(".{part}.weight")))
    {
        values.iter_mut().for_each(|value| *value *= factor);
    }
    match name {
        "lm_head.weight" => values
            .iter_mut()
            .for_each(|value| *value *= source.real("lm_head_multiplier")),
        "model.embed_tokens.weight" => values
            .iter_mut()
            .for_each(|value| *value *= source.real("embedding_multiplier")),
        _ if name.ends_with("mamba.in_proj.weight") => {
            let (inner, width) = (source.whole("mamba_d_ssm"), source.whole("hidden_size"));
            let state = source.whole("mamba_n_groups") * source.whole("mamba_d_state");
            let sections = [inner, inner, state, state, source.whole("mamba_n_heads")];
            let mut begin = 0;
            for (rows, factor) in sections.into_iter().zip(source.reals("ssm_multipliers")) {
                values[begin * width..][..rows * width]
                    .iter_mut()
                    .for_each(|value| *value *= factor);
                begin += rows;
            }
        }
        _ => {}
    }
}

/// Granite's and Nemotron-H's attention and MLPs.
fn apart(source: &Source, made: String, shape: Vec<usize>, read: Vec<f32>) -> Vec<Made> {
    let heads = match made.as_str() {
        _ if made.ends_with("q_proj.weight") => source.whole("num_attention_heads"),
        _ if made.ends_with("k_proj.weight") => source.whole("num_key_value_heads"),
        _ if made.ends_with("input_linear.weight") => return gates_apart(source, &made, &shape, &read),
        _ if made.ends_with("shared_mlp.output_linear.weight") && source.whole("num_local_experts") == 0 => {
            let layer = made.split('.').nth(2).unwrap();
            return vec![(format!("blk.{layer}.ffn_down.weight"), shape, read)];
        }
        _ => return vec![(made, shape, read)],
    };
    let pairs = shape[0] / heads / 2;
    let order = (0..shape[0]).map(|row| {
        let (head, place) = (row / (2 * pairs), row % (2 * pairs));
        head * 2 * pairs + (place % 2) * pairs + place / 2
    });
    let read = rows(&read, shape[1], order);
    vec![(made, shape, read)]
}

fn gates_apart(source: &Source, made: &str, shape: &[usize], read: &[f32]) -> Vec<Made> {
    let layer = made.split('.').nth(2).unwrap();
    let ending = match made {
        _ if made.contains("block_sparse_moe") => "_exps",
        _ if source.whole("num_local_experts") > 0 => "_shexp",
        _ => "",
    };
    let (height, width) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    let half = |which: usize| {
        let matrices = read.chunks_exact(height * width);
        let values =
            matrices.flat_map(|matrix| matrix[which * height / 2 * width..][..height / 2 * width].to_vec());
        let mut shape = shape.to_vec();
        let last = shape.len() - 2;
        shape[last] = height / 2;
        (shape, values.collect::<Vec<f32>>())
    };
    ["gate", "up"]
        .into_iter()
        .enumerate()
        .map(|(which, part)| {
            let (shape, values) = half(which);
            (format!("blk.{layer}.ffn_{part}{ending}.weight"), shape, values)
        })
        .collect()
}

/// The heads of a delta rule: of keys, of values for each, widths.
fn delta(source: &Source) -> [usize; 4] {
    let keys = source.whole("linear_num_key_heads");
    [
        keys,
        source.whole("linear_num_value_heads") / keys,
        source.whole("linear_key_head_dim"),
        source.whole("linear_value_head_dim"),
    ]
}

/// Qwen3-Next's joint projection.
fn by_kind(source: &Source, made: String, shape: Vec<usize>, read: Vec<f32>) -> Vec<Made> {
    if !made.ends_with("in_proj_qkvz.weight") {
        return vec![(made, shape, read)];
    }
    let layer = made.split('.').nth(2).unwrap();
    let ([keys, share, key, value], width) = (delta(source), shape[1]);
    let each = 2 * key + 2 * share * value;
    let part = |begin: usize, count: usize| {
        (0..keys).flat_map(move |head| (0..count).map(move |row| head * each + begin + row))
    };
    let joint = part(0, key)
        .chain(part(key, key))
        .chain(part(2 * key, share * value));
    let joint = rows(&read, width, joint);
    let gates = rows(&read, width, part(2 * key + share * value, share * value));
    vec![
        (
            format!("blk.{layer}.attn_qkv.weight"),
            vec![joint.len() / width, width],
            joint,
        ),
        (
            format!("blk.{layer}.attn_gate.weight"),
            vec![gates.len() / width, width],
            gates,
        ),
    ]
}

/// Qwen3.5's heads of values.
fn tiled_heads(source: &Source, made: String, shape: Vec<usize>, read: Vec<f32>) -> Made {
    let [keys, share, key, value] = delta(source);
    let is = |part: &str| made.contains(&format!("linear_attn.{part}"));
    let width = if shape.len() > 1 { shape[1] } else { 1 };
    let behind =
        |begin: usize| (0..begin).chain(tiled(keys, share, value).into_iter().map(move |row| begin + row));
    let read = match () {
        () if is("in_proj_qkv") || is("conv1d") => rows(&read, width, behind(2 * keys * key)),
        () if is("in_proj_z") => rows(&read, width, behind(0)),
        () if is("in_proj_a") || is("in_proj_b") || is("A_log") || is("dt_proj") => {
            rows(&read, width, tiled(keys, share, 1).into_iter())
        }
        () if is("out_proj") => read
            .chunks_exact(width)
            .flat_map(|row| tiled(keys, share, value).into_iter().map(|column| row[column]))
            .collect(),
        () => read,
    };
    (made, shape, read)
}

/// Keys and values of latent attention.
fn latent(source: &Source, name: &str, shape: &[usize], read: &[f32]) -> Vec<Made> {
    let (heads, own, value) = (
        source.whole("num_attention_heads"),
        source.whole("qk_nope_head_dim"),
        source.whole("v_head_dim"),
    );
    let width = shape[1];
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for matrix in read.chunks_exact((own + value) * width) {
        for column in 0..width {
            keys.extend((0..own).map(|row| matrix[row * width + column]));
        }
        values.extend_from_slice(&matrix[own * width..]);
    }
    vec![
        (
            name.replace("kv_b_proj", "k_b_proj"),
            vec![heads, width, own],
            keys,
        ),
        (
            name.replace("kv_b_proj", "v_b_proj"),
            vec![heads, value, width],
            values,
        ),
    ]
}
