//! The models of flash-linear-attention written out plainly in f64, token by token.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use spillway_models::checkpoint::StoredTensors;

use super::arithmetic::{Row, dot, rms, sigmoid, silu};
use super::derivatives::Equations;
use super::rounding::rounded;

/// A checkpoint in f64.
pub struct Reference {
    pub(super) config: Value,
    tensors: BTreeMap<String, (Vec<usize>, Row)>,
}

impl Reference {
    pub fn open(folder: &Path, config: &Value) -> Self {
        let stored = StoredTensors::open(&folder.join("model.safetensors")).unwrap();
        let tensor = |name: &str| {
            let (dtype, shape, bytes) = stored.raw(name).unwrap();
            assert_eq!(dtype, "F32");
            let values = bytes
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into());
            (name.to_string(), (shape.to_vec(), values.collect()))
        };
        Self {
            config: config.clone(),
            tensors: stored.names().map(tensor).collect(),
        }
    }

    pub(super) fn values(&self, name: &str) -> &[f64] {
        &self
            .tensors
            .get(name)
            .unwrap_or_else(|| panic!("no tensor {name}"))
            .1
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(super) fn number(&self, name: &str, default: f64) -> f64 {
        self.config[name].as_f64().unwrap_or(default)
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        self.config[name].as_bool().unwrap_or(default)
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.config[name].as_str().unwrap_or("")
    }

    pub(super) fn dim(&self) -> usize {
        self.number("hidden_size", 0.0) as usize
    }

    pub(super) fn heads(&self) -> usize {
        self.number("num_heads", 0.0) as usize
    }

    /// Width of a head.
    pub(super) fn width(&self, ratio: &str, default: f64) -> usize {
        (self.dim() as f64 * self.number(ratio, default)) as usize / self.heads()
    }

    pub(super) fn linear(&self, name: &str, x: &[f64]) -> Row {
        let weight = self.values(&format!("{name}.weight"));
        let mut out: Row = weight.chunks(x.len()).map(|row| dot(row, x)).collect();
        if self.has(&format!("{name}.bias")) {
            let bias = self.values(&format!("{name}.bias"));
            out.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
        }
        out
    }

    pub(super) fn linears(&self, name: &str, x: &[Row]) -> Vec<Row> {
        x.iter().map(|x| self.linear(name, x)).collect()
    }

    /// `NAME_proj`, then `NAME_conv1d` where there is one; `act` after either, if at all.
    pub(super) fn branch(&self, name: &str, x: &[Row], after_conv: bool, without_conv: bool) -> Vec<Row> {
        let projected = self.linears(&format!("{name}_proj"), x);
        let conv = format!("{name}_conv1d.weight");
        if !self.has(&conv) {
            let act = |row: &Row| {
                row.iter()
                    .map(|x| if without_conv { silu(*x) } else { *x })
                    .collect()
            };
            return projected.iter().map(act).collect();
        }
        let width = self.tensors[&conv].0[2];
        let (taps, bias) = (self.values(&conv), format!("{name}_conv1d.bias"));
        let at = |t: usize, c: usize| {
            let bias = if self.has(&bias) {
                self.values(&bias)[c]
            } else {
                0.0
            };
            let past = (0..width).filter(|j| t + j + 1 >= width);
            let sum: f64 = bias
                + past
                    .map(|j| rounded(taps[c * width + j] * projected[t + j + 1 - width][c]))
                    .sum::<f64>();
            if after_conv { silu(sum) } else { sum }
        };
        (0..x.len())
            .map(|t| (0..projected[t].len()).map(|c| at(t, c)).collect())
            .collect()
    }

    /// Norm of groups, gate and projection.
    pub(super) fn output_projection(
        &self,
        name: &str,
        norm: &str,
        y: &[Row],
        x: &[Row],
        group: usize,
        eps: f64,
    ) -> Vec<Row> {
        let token = |(y, x): (&Row, &Row)| {
            let mut normed: Row = y.chunks(group).flat_map(|y| rms(y, eps)).collect();
            let weight = format!("{name}.{norm}.weight");
            if self.has(&weight) {
                let weight = self.values(&weight);
                normed
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, n)| *n *= weight[i % group]);
            }
            let act = match self.text("model_type") {
                "kda" | "comba" | "gdn2" => sigmoid,
                _ => silu,
            };
            for (n, gate) in normed.iter_mut().zip(self.gate(name, x)) {
                *n *= act(gate);
            }
            self.linear(&format!("{name}.o_proj"), &normed)
        };
        y.iter().zip(x).map(token).collect()
    }

    /// The projection of a gate, of one matrix or of two; nothing where there is none.
    fn gate(&self, name: &str, x: &[f64]) -> Row {
        let gate = format!("{name}.g_proj");
        match (
            self.has(&format!("{gate}.weight")),
            self.has(&format!("{gate}.0.weight")),
        ) {
            (true, _) => self.linear(&gate, x),
            (_, true) => self.linear(&format!("{gate}.1"), &self.linear(&format!("{gate}.0"), x)),
            _ => Row::new(),
        }
    }

    pub fn logits(&self, ids: &[u32]) -> Vec<Row> {
        let (dim, eps) = (self.dim(), self.number("norm_eps", 1e-6));
        let embedding = self.values("model.embeddings.weight");
        let mut stream: Vec<Row> = ids
            .iter()
            .map(|id| embedding[*id as usize * dim..][..dim].to_vec())
            .collect();
        let normed = |stream: &[Row], name: String| -> Vec<Row> {
            let weight = self.values(&name);
            let norm = |x: &Row| rms(x, eps).iter().zip(weight).map(|(x, w)| x * w).collect();
            stream.iter().map(norm).collect()
        };
        let add = |stream: &mut Vec<Row>, update: Vec<Row>| {
            for (row, update) in stream.iter_mut().zip(update) {
                row.iter_mut().zip(update).for_each(|(r, u)| *r += u);
            }
        };
        for layer in 0..self.number("num_hidden_layers", 0.0) as usize {
            let name = format!("model.layers.{layer}");
            let x = normed(&stream, format!("{name}.attn_norm.weight"));
            add(&mut stream, self.mixer(layer, &format!("{name}.attn"), &x));
            let x = normed(&stream, format!("{name}.mlp_norm.weight"));
            let mlp = |x: &Row| {
                let gate = self.linear(&format!("{name}.mlp.gate_proj"), x);
                let up = self.linear(&format!("{name}.mlp.up_proj"), x);
                let hidden: Row = gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect();
                self.linear(&format!("{name}.mlp.down_proj"), &hidden)
            };
            add(&mut stream, x.iter().map(mlp).collect());
        }
        let x = normed(&stream, "model.norm.weight".into());
        if self.has("lm_head.weight") {
            return self.linears("lm_head", &x);
        }
        x.iter()
            .map(|x| embedding.chunks(dim).map(|row| dot(row, x)).collect())
            .collect()
    }

    fn mixer(&self, layer: usize, name: &str, x: &[Row]) -> Vec<Row> {
        let attention = &self.config["attn"];
        let listed = |layers: &Vec<Value>| layers.iter().any(|index| index.as_u64() == Some(layer as u64));
        if attention["layers"].as_array().is_some_and(listed) {
            return self.softmax_attention(attention, name, x);
        }
        match self.text("model_type") {
            "hgrn" => self.hgrn(layer, name, x),
            "hgrn2" => self.hgrn2(layer, name, x),
            "gsa" => self.gsa(name, x),
            "abc" => self.abc(name, x),
            "rebased" => self.rebased(name, x),
            "delta_net" | "gated_deltanet" => self.delta_net(name, x),
            "kda" => self.kimi_delta_attention(name, x),
            "gated_deltaproduct" => self.gated_delta_product(name, x),
            "comba" => self.comba(name, x),
            "gdn2" => self.gated_delta_net2(name, x),
            _ => self.gated_linear_attention(name, x),
        }
    }
}

impl Equations for Reference {
    fn values_mut(&mut self, name: &str) -> Option<&mut Row> {
        Some(&mut self.tensors.get_mut(name)?.1)
    }

    fn logits(&self, ids: &[u32]) -> Vec<Row> {
        self.logits(ids)
    }
}
