//! The models written out plainly in f64, layer by layer over all tokens.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use spillway_models::checkpoint::StoredTensors;

use super::derivatives::Equations;
use super::rounding::rounded;

type Row = Vec<f64>;

/// A checkpoint in f64.
pub struct Reference {
    config: Value,
    tensors: BTreeMap<String, (Vec<usize>, Row)>,
    /// [`Attention::log_base`] of every attention.
    pub log_base: Option<f64>,
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| rounded(a * b)).sum()
}

fn add(a: &[f64], b: &[f64]) -> Row {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn times(a: &[f64], b: &[f64]) -> Row {
    a.iter().zip(b).map(|(a, b)| rounded(a * b)).collect()
}

/// What an attention is made of.
struct Attention {
    heads: usize,
    groups: usize,
    head_dim: usize,
    rotated: usize,
    interleaved: bool,
    base: f64,
    /// Llama 3's factor, low and high frequency factors, and length; without, angles are not rescaled.
    scaling: Option<[f64; 4]>,
    /// Keys before a token's own.
    window: usize,
    /// A, where queries over all keys are multiplied by ln(t + A) / ln A.
    log_base: Option<f64>,
}

impl Attention {
    /// A head turned by its position.
    fn turned(&self, head: &[f64], position: usize) -> Row {
        let mut out = head.to_vec();
        for j in 0..self.rotated / 2 {
            let (a, b) = match self.interleaved {
                true => (2 * j, 2 * j + 1),
                false => (j, j + self.rotated / 2),
            };
            let mut frequency = self.base.powf(-2.0 * j as f64 / self.rotated as f64);
            if let Some([factor, low, high, length]) = self.scaling {
                let wavelength = std::f64::consts::TAU / frequency;
                if wavelength > length / low {
                    frequency /= factor;
                } else if wavelength >= length / high {
                    let smooth = (length / wavelength - low) / (high - low);
                    frequency = (1.0 - smooth) * frequency / factor + smooth * frequency;
                }
            }
            let angle = position as f64 * frequency;
            out[a] = head[a] * angle.cos() - head[b] * angle.sin();
            out[b] = head[b] * angle.cos() + head[a] * angle.sin();
        }
        out
    }

    /// Read-outs of rows of queries, keys and values.
    fn read(&self, rows: &[[Row; 3]]) -> Vec<Row> {
        let part = |row: &[f64], head: usize| row[head * self.head_dim..][..self.head_dim].to_vec();
        // Every token's key in every group, turned once.
        let turned = |(j, row): (usize, &[Row; 3])| {
            let keys = (0..self.groups).map(|group| self.turned(&part(&row[1], group), j));
            keys.collect::<Vec<Row>>()
        };
        let keys: Vec<Vec<Row>> = rows.iter().enumerate().map(turned).collect();
        let head_of = |t: usize, head: usize| {
            let group = head / (self.heads / self.groups);
            let query = self.turned(&part(&rows[t][0], head), t);
            let seen = t.saturating_sub(self.window)..=t;
            let sharpened = self.log_base.filter(|_| self.window == usize::MAX);
            let factor = sharpened.map_or(1.0, |base| (t as f64 + base).ln() / base.ln());
            let factor = factor / (self.head_dim as f64).sqrt();
            let score = |j: usize| (dot(&query, &keys[j][group]) * factor).exp();
            let weights: Row = seen.clone().map(score).collect();
            let sum: f64 = weights.iter().sum();
            let mut out = vec![0.0; self.head_dim];
            for (j, weight) in seen.zip(&weights) {
                let value = &rows[j][2][group * self.head_dim..];
                for (y, v) in out.iter_mut().zip(value) {
                    *y += rounded(weight / sum * v);
                }
            }
            out
        };
        (0..rows.len())
            .map(|t| (0..self.heads).flat_map(|head| head_of(t, head)).collect())
            .collect()
    }
}

/// The equations of a layout.
pub struct Laid {
    pub reference: Reference,
    pub layout: (&'static str, &'static str),
}

impl Equations for Laid {
    fn values_mut(&mut self, name: &str) -> Option<&mut Row> {
        Some(&mut self.reference.tensors.get_mut(name)?.1)
    }

    fn logits(&self, ids: &[u32]) -> Vec<Row> {
        self.reference.logits(ids, self.layout)
    }
}

impl Reference {
    pub fn open(folder: &Path, config: &Value) -> Self {
        let stored = StoredTensors::open(&folder.join("model.safetensors")).unwrap();
        let tensor = |name: &str| {
            let (_, shape, bytes) = stored.raw(name).unwrap();
            let values = bytes
                .chunks(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
            (name.to_string(), (shape.to_vec(), values.collect()))
        };
        Self {
            config: config.clone(),
            tensors: stored.names().map(tensor).collect(),
            log_base: None,
        }
    }

    fn values(&self, name: &str) -> &[f64] {
        &self
            .tensors
            .get(name)
            .unwrap_or_else(|| panic!("no tensor {name}"))
            .1
    }

    fn number(&self, path: &str) -> usize {
        self.config.pointer(path).and_then(Value::as_u64).unwrap_or(0) as usize
    }

    fn linear(&self, name: &str, x: &[f64]) -> Row {
        let weight = self.values(&format!("{name}.weight"));
        let product: Row = weight.chunks(x.len()).map(|row| dot(row, x)).collect();
        match self.tensors.get(&format!("{name}.bias")) {
            Some((_, bias)) => add(&product, bias),
            None => product,
        }
    }

    fn linears(&self, name: &str, x: &[Row]) -> Vec<Row> {
        x.iter().map(|x| self.linear(name, x)).collect()
    }

    fn rms(&self, name: &str, x: &[Row], eps: f64) -> Vec<Row> {
        let weight = self.values(&format!("{name}.weight"));
        let norm = |x: &Row| {
            let root = (dot(x, x) / x.len() as f64 + eps).sqrt();
            x.iter().zip(weight).map(|(x, w)| rounded(x / root * w)).collect()
        };
        x.iter().map(norm).collect()
    }

    /// The causal convolution of every channel, before its activation.
    fn conv(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let (shape, weight) = &self.tensors[&format!("{name}.weight")];
        let (channels, width) = (shape[0], shape[2]);
        let bias = self.tensors.get(&format!("{name}.bias"));
        let at = |t: usize, c: usize| {
            let taps = (0..width).filter_map(|w| {
                Some(rounded(
                    weight[c * width + w] * x[(t + w).checked_sub(width - 1)?][c],
                ))
            });
            taps.sum::<f64>() + bias.map_or(0.0, |(_, bias)| bias[c])
        };
        (0..x.len())
            .map(|t| (0..channels).map(|c| at(t, c)).collect())
            .collect()
    }

    /// One row of logits per token.
    pub fn logits(&self, ids: &[u32], layout: (&str, &str)) -> Vec<Row> {
        match layout {
            ("llama", _) => self.llama(ids),
            ("based", _) => self.based(ids),
            (architecture, _) => self.mamba(ids, architecture),
        }
    }

    /// Residual blocks, from a mixer and a channel mixer per layer.
    fn backbone(
        &self,
        ids: &[u32],
        (embedding, norm, layers, eps): (&str, &str, usize, f64),
        block: impl Fn(usize, &mut Vec<Row>),
    ) -> Vec<Row> {
        let rows = self.values(embedding);
        let dim = self.tensors[embedding].0[1];
        let mut r: Vec<Row> = ids
            .iter()
            .map(|&id| rows[id as usize * dim..][..dim].to_vec())
            .collect();
        (0..layers).for_each(|layer| block(layer, &mut r));
        let r = self.rms(norm, &r, eps);
        let head = self.tensors.get("lm_head.weight").map_or(rows, |(_, head)| head);
        r.iter()
            .map(|r| head.chunks(dim).map(|row| dot(row, r)).collect())
            .collect()
    }

    /// r ← r + f(norm(r)).
    fn residual(&self, r: &mut [Row], norm: &str, eps: f64, f: impl FnOnce(&[Row]) -> Vec<Row>) {
        let update = f(&self.rms(norm, r, eps));
        r.iter_mut().zip(update).for_each(|(r, u)| *r = add(r, &u));
    }

    /// W₂ (y ∘ SiLU(g)) with rows of y before those of g.
    fn joined_mlp(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let gated: Vec<Row> = self
            .linears(&format!("{name}.fc1"), x)
            .iter()
            .map(|h| {
                let (y, g) = h.split_at(h.len() / 2);
                y.iter().zip(g).map(|(y, &g)| rounded(y * silu(g))).collect()
            })
            .collect();
        self.linears(&format!("{name}.fc2"), &gated)
    }

    fn llama(&self, ids: &[u32]) -> Vec<Row> {
        let heads = self.number("/num_attention_heads");
        let head_dim = self.number("/head_dim");
        let attention = Attention {
            heads,
            groups: self.number("/num_key_value_heads"),
            head_dim,
            rotated: head_dim,
            interleaved: false,
            base: 500.0,
            scaling: self.config.pointer("/rope_parameters/factor").map(|_| {
                [
                    "factor",
                    "low_freq_factor",
                    "high_freq_factor",
                    "original_max_position_embeddings",
                ]
                .map(|name| self.config["rope_parameters"][name].as_f64().unwrap())
            }),
            window: match self.number("/sliding_window") {
                0 => usize::MAX,
                window => window - 1,
            },
            log_base: self.log_base,
        };
        let eps = 1e-3;
        let plan = (
            "model.embed_tokens.weight",
            "model.norm",
            self.number("/num_hidden_layers"),
            eps,
        );
        self.backbone(ids, plan, |layer, r| {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            self.residual(r, &name("input_layernorm"), eps, |x| {
                let project =
                    |x: &Row| ["q", "k", "v"].map(|p| self.linear(&name(&format!("self_attn.{p}_proj")), x));
                let rows: Vec<[Row; 3]> = x.iter().map(project).collect();
                self.linears(&name("self_attn.o_proj"), &attention.read(&rows))
            });
            self.residual(r, &name("post_attention_layernorm"), eps, |x| {
                let gated = x.iter().map(|x| {
                    let gate: Row = self
                        .linear(&name("mlp.gate_proj"), x)
                        .into_iter()
                        .map(silu)
                        .collect();
                    self.linear(
                        &name("mlp.down_proj"),
                        &times(&gate, &self.linear(&name("mlp.up_proj"), x)),
                    )
                });
                gated.collect()
            });
        })
    }

    /// Rows of queries, keys and values one after another.
    fn split(attention: &Attention, joined: &[Row]) -> Vec<[Row; 3]> {
        let (q, k) = (
            attention.heads * attention.head_dim,
            attention.groups * attention.head_dim,
        );
        let split = |row: &Row| [row[..q].to_vec(), row[q..q + k].to_vec(), row[q + k..].to_vec()];
        joined.iter().map(split).collect()
    }

    /// Mamba-1 and Mamba-2, both layouts, with attention layers and MLPs.
    fn mamba(&self, ids: &[u32], architecture: &str) -> Vec<Row> {
        let eps = 1e-5;
        let embedding = ["backbone.embedding.weight", "backbone.embeddings.weight"]
            .into_iter()
            .find(|name| self.tensors.contains_key(*name))
            .unwrap();
        let layers = self.number("/n_layer").max(self.number("/num_hidden_layers"));
        self.backbone(ids, (embedding, "backbone.norm_f", layers, eps), |layer, r| {
            let name = |part: &str| format!("backbone.layers.{layer}.{part}");
            let mixer = name("mixer");
            let attends = self.config.pointer("/attn_layer_idx").and_then(Value::as_array);
            let attends =
                attends.is_some_and(|layers| layers.iter().any(|l| l.as_u64() == Some(layer as u64)));
            self.residual(r, &name("norm"), eps, |x| match (attends, architecture) {
                (true, _) => self.joined_attention(&mixer, x),
                (false, "mamba1") => self.mamba1(&mixer, x),
                (false, _) => self.mamba2(&mixer, x),
            });
            if self.tensors.contains_key(&name("norm2.weight")) {
                self.residual(r, &name("norm2"), eps, |x| self.joined_mlp(&name("mlp"), x));
            }
        })
    }

    fn joined_attention(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let attention = Attention {
            heads: self.number("/attn_cfg/num_heads"),
            groups: self.number("/attn_cfg/num_heads_kv"),
            head_dim: self.number("/attn_cfg/head_dim"),
            rotated: self.number("/attn_cfg/rotary_emb_dim"),
            interleaved: self.config.pointer("/attn_cfg/rotary_emb_interleaved") == Some(&Value::Bool(true)),
            base: 300.0,
            scaling: None,
            window: usize::MAX,
            log_base: self.log_base,
        };
        let mut joined = self.linears(&format!("{name}.in_proj"), x);
        if self.number("/attn_cfg/d_conv") > 0 {
            joined = self.conv(&format!("{name}.conv1d"), &joined);
        }
        let read = attention.read(&Self::split(&attention, &joined));
        self.linears(&format!("{name}.out_proj"), &read)
    }

    fn mamba1(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let part = |part: &str| format!("{name}.{part}");
        let (shape, a_log) = &self.tensors[&part("A_log")];
        let (inner, n) = (shape[0], shape[1]);
        let projected = self.linears(&part("in_proj"), x);
        let u: Vec<Row> = projected.iter().map(|p| p[..inner].to_vec()).collect();
        let u: Vec<Row> = self
            .conv(&part("conv1d"), &u)
            .into_iter()
            .map(|u| u.into_iter().map(silu).collect())
            .collect();
        let mut h = vec![0.0; inner * n];
        let mut out = Vec::new();
        for (u, projected) in u.iter().zip(&projected) {
            let selected = self.linear(&part("x_proj"), u);
            let rank = selected.len() - 2 * n;
            let (raw, rest) = selected.split_at(rank);
            let (b, c) = rest.split_at(n);
            let step: Row = self
                .linear(&part("dt_proj"), raw)
                .into_iter()
                .map(softplus)
                .collect();
            let mut y = Row::new();
            for channel in 0..inner {
                let mut sum = self.values(&part("D"))[channel] * u[channel];
                for i in 0..n {
                    let h = &mut h[channel * n + i];
                    *h = rounded((-step[channel] * a_log[channel * n + i].exp()).exp() * *h)
                        + rounded(step[channel] * b[i] * u[channel]);
                    sum += rounded(c[i] * *h);
                }
                y.push(sum * silu(projected[inner + channel]));
            }
            out.push(self.linear(&part("out_proj"), &y));
        }
        out
    }

    /// One group, gate before norm.
    fn mamba2(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let part = |part: &str| format!("{name}.{part}");
        let (n, head_dim) = (self.number("/ssm_cfg/d_state"), self.number("/ssm_cfg/headdim"));
        let heads = self.values(&part("A_log")).len();
        let inner = heads * head_dim;
        let projected = self.linears(&part("in_proj"), x);
        let u: Vec<Row> = projected
            .iter()
            .map(|p| p[inner..2 * inner + 2 * n].to_vec())
            .collect();
        let u = self.conv(&part("conv1d"), &u);
        let mut h = vec![0.0; inner * n];
        let mut gated = Vec::new();
        for (u, projected) in u.iter().zip(&projected) {
            let u: Row = u.iter().copied().map(silu).collect();
            let (b, c) = u[inner..].split_at(n);
            let mut y = Row::new();
            for channel in 0..inner {
                let head = channel / head_dim;
                let step =
                    softplus(projected[2 * inner + 2 * n + head] + self.values(&part("dt_bias"))[head]);
                let decay = (-step * self.values(&part("A_log"))[head].exp()).exp();
                let mut sum = self.values(&part("D"))[head] * u[channel];
                for i in 0..n {
                    let h = &mut h[channel * n + i];
                    *h = rounded(decay * *h) + rounded(step * b[i] * u[channel]);
                    sum += rounded(c[i] * *h);
                }
                y.push(sum * silu(projected[channel]));
            }
            gated.push(y);
        }
        self.linears(&part("out_proj"), &self.rms(&part("norm"), &gated, 1e-5))
    }

    fn based(&self, ids: &[u32]) -> Vec<Row> {
        let eps = 1e-5;
        let plan = (
            "transformer.embeddings.word_embeddings.weight",
            "transformer.ln_f",
            self.number("/n_layer"),
            eps,
        );
        self.backbone(ids, plan, |layer, r| {
            let name = |part: &str| format!("transformer.layers.{layer}.{part}");
            let mixer = name("mixer");
            let listed = |list: &str| self.number(&format!("/{list}/0")) == layer;
            self.residual(r, &name("norm1"), eps, |x| {
                match (listed("alt_mixer_layers"), listed("alt_mixer_2_layers")) {
                    (true, _) => self.taylor(&mixer, x),
                    (_, true) => self.sliding(&mixer, x),
                    _ => self.base_conv(&mixer, x),
                }
            });
            self.residual(r, &name("norm2"), eps, |x| self.joined_mlp(&name("mlp"), x));
        })
    }

    fn base_conv(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let projected = self.linears(&format!("{name}.in_proj"), x);
        let half = projected[0].len() / 2;
        let u: Vec<Row> = projected.iter().map(|p| p[..half].to_vec()).collect();
        let convolved = self.conv(&format!("{name}.conv.conv"), &u);
        let gated: Vec<Row> = convolved
            .iter()
            .zip(&projected)
            .map(|(u, p)| {
                u.iter()
                    .zip(&p[half..])
                    .map(|(&u, g)| rounded(silu(u) * g))
                    .collect()
            })
            .collect();
        self.linears(&format!("{name}.out_proj"), &gated)
    }

    fn taylor(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let heads = self.number("/alt_mixer/num_heads");
        let project = |part: &str| self.linears(&format!("{name}.proj_{part}"), x);
        let (q, k, v) = (project("q"), project("k"), project("v"));
        let (dim, value_dim) = (q[0].len() / heads, v[0].len() / heads);
        let read = |t: usize| {
            let mut out = Row::new();
            for head in 0..heads {
                let part = |row: &Row, dim: usize| row[head * dim..][..dim].to_vec();
                let weight = |j: usize| {
                    let s = dot(&part(&q[t], dim), &part(&k[j], dim)) / (dim as f64).sqrt();
                    1.0 + s + s * s / 2.0
                };
                let weights: Row = (0..=t).map(weight).collect();
                let sum = weights.iter().sum::<f64>() + 1e-12;
                for i in head * value_dim..(head + 1) * value_dim {
                    let read: f64 = weights.iter().zip(&v).map(|(w, v)| rounded(w * v[i])).sum();
                    out.push(read / sum);
                }
            }
            out
        };
        let read: Vec<Row> = (0..x.len()).map(read).collect();
        self.linears(&format!("{name}.out_proj"), &read)
    }

    fn sliding(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let heads = self.number("/alt_mixer_2/num_heads");
        let head_dim = x[0].len() / heads;
        let attention = Attention {
            heads,
            groups: heads,
            head_dim,
            rotated: head_dim,
            interleaved: false,
            base: 10_000.0,
            scaling: None,
            window: self.number("/alt_mixer_2/window_size") / 2,
            log_base: self.log_base,
        };
        let joined = self.linears(&format!("{name}.Wqkv"), x);
        let read = attention.read(&Self::split(&attention, &joined));
        self.linears(&format!("{name}.out_proj"), &read)
    }
}
