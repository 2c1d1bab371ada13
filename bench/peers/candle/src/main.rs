//! Times candle's own models on a checkpoint and prints JSON: the core of `candle_peer.py`.
//!
//! `RAYON_NUM_THREADS=N candle-peer CHECKPOINT REPEATS PREFILL,PREFILL DECODE`, in float32, since candle multiplies no bf16 on a CPU. Mamba-1
//! and RWKV-5 take one token per call in candle, so that a prompt costs as much as decoding; Mamba-2 takes chunks.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mamba, mamba2, rwkv_v5};
use serde_json::{Value, json};

/// Tokens of the prompt that engines are compared by, and how many of its last logits are kept: as in `engine.py`.
const FINGERPRINT: (usize, usize) = (32, 64);

/// One of candle's models, which reads ids from an empty state.
trait Engine {
    /// Logits after the last id.
    fn prefill(&self, ids: &[u32]) -> Result<Tensor>;
    /// Logits after each id, one by one; the last are returned.
    fn decode(&self, ids: &[u32]) -> Result<Tensor>;
}

struct Mamba(mamba::Model, mamba::Config);

impl Engine for Mamba {
    fn prefill(&self, ids: &[u32]) -> Result<Tensor> {
        self.decode(ids)
    }

    fn decode(&self, ids: &[u32]) -> Result<Tensor> {
        let mut state = mamba::State::new(1, &self.1, DType::F32, &Device::Cpu)?;
        last(
            ids.iter()
                .map(|id| Ok(self.0.forward(&Tensor::new(&[*id], &Device::Cpu)?, &mut state)?)),
        )
    }
}

struct Mamba2(mamba2::Model, mamba2::Config);

impl Engine for Mamba2 {
    fn prefill(&self, ids: &[u32]) -> Result<Tensor> {
        let mut state = mamba2::State::new(1, &self.1, DType::F32, &Device::Cpu)?;
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let logits = self.0.forward_prefill(&ids, &mut state, 64)?;
        Ok(logits.i((.., logits.dim(1)? - 1))?)
    }

    fn decode(&self, ids: &[u32]) -> Result<Tensor> {
        let mut state = mamba2::State::new(1, &self.1, DType::F32, &Device::Cpu)?;
        last(
            ids.iter()
                .map(|id| Ok(self.0.forward(&Tensor::new(&[*id], &Device::Cpu)?, &mut state)?)),
        )
    }
}

struct Rwkv5(rwkv_v5::Model, rwkv_v5::Config);

impl Engine for Rwkv5 {
    fn prefill(&self, ids: &[u32]) -> Result<Tensor> {
        self.decode(ids)
    }

    fn decode(&self, ids: &[u32]) -> Result<Tensor> {
        let mut state = rwkv_v5::State::new(1, &self.1, &Device::Cpu)?;
        last(ids.iter().map(|id| {
            Ok(self
                .0
                .forward(&Tensor::new(&[[*id]], &Device::Cpu)?, &mut state)?)
        }))
    }
}

struct Llama(llama::Llama, llama::Config);

impl Engine for Llama {
    fn prefill(&self, ids: &[u32]) -> Result<Tensor> {
        let mut cache = llama::Cache::new(true, DType::F32, &self.1, &Device::Cpu)?;
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        Ok(self.0.forward(&ids, 0, &mut cache)?)
    }

    fn decode(&self, ids: &[u32]) -> Result<Tensor> {
        let mut cache = llama::Cache::new(true, DType::F32, &self.1, &Device::Cpu)?;
        last(ids.iter().enumerate().map(|(position, id)| {
            Ok(self
                .0
                .forward(&Tensor::new(&[[*id]], &Device::Cpu)?, position, &mut cache)?)
        }))
    }
}

fn last(logits: impl Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
    logits.fold(Err(anyhow::anyhow!("no ids")), |_, next| next)
}

/// BlinkDL's names to those of the Hugging Face port, which candle reads.
fn rwkv5_name(name: &str) -> String {
    let renamed = match name {
        "emb.weight" => return "rwkv.embeddings.weight".into(),
        "head.weight" => return name.into(),
        _ => name
            .replace(".att.", ".attention.")
            .replace(".ffn.", ".feed_forward.")
            .replace(".ln0.", ".pre_ln."),
    };
    let long = [
        ("_k", "_key"),
        ("_v", "_value"),
        ("_r", "_receptance"),
        ("_g", "_gate"),
    ];
    let mix = long
        .iter()
        .find(|(short, _)| renamed.ends_with(&format!("time_mix{short}")));
    let renamed = mix.map_or(renamed.clone(), |(short, long)| {
        renamed.replace(&format!("time_mix{short}"), &format!("time_mix{long}"))
    });
    format!("rwkv.{renamed}")
}

fn load(folder: &Path, config: &Value) -> Result<Box<dyn Engine>> {
    let mut tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu)?;
    let count = |name: &str| {
        config[name]
            .as_u64()
            .with_context(|| format!("config.json has no {name}"))
    };
    let builder = |tensors| VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    Ok(match config["model_type"].as_str().unwrap_or_default() {
        "mamba" => {
            if let Some(rows) = tensors.remove("backbone.embeddings.weight") {
                tensors.insert("backbone.embedding.weight".into(), rows);
            }
            let names = ["hidden_size", "num_hidden_layers", "vocab_size"];
            let (model_dim, layers, vocabulary) = (count(names[0])?, count(names[1])?, count(names[2])?);
            let sizes = json!({"d_model": model_dim, "n_layer": layers, "vocab_size": vocabulary, "pad_vocab_size_multiple": 1});
            let sizes: mamba::Config = serde_json::from_value(sizes)?;
            Box::new(Mamba(
                mamba::Model::new(&sizes, builder(tensors).pp("backbone"))?,
                sizes,
            ))
        }
        "mamba2" => {
            let mut sizes: mamba2::Config = serde_json::from_value(config.clone())?;
            sizes.pad_vocab_size_multiple = 1;
            Box::new(Mamba2(
                mamba2::Model::new(&sizes, builder(tensors).pp("backbone"))?,
                sizes,
            ))
        }
        "rwkv5" => {
            let tensors = tensors
                .into_iter()
                .map(|(name, values)| (rwkv5_name(&name), values))
                .collect();
            // What candle calls the number of heads is the size of one, as in the code that it follows.
            let sizes = json!({
                "vocab_size": count("vocab_size")?, "hidden_size": count("n_embd")?, "num_hidden_layers": count("n_layer")?,
                "attention_hidden_size": count("dim_att")?, "intermediate_size": count("dim_ffn")?,
                "num_attention_heads": count("head_size")?, "head_size": count("head_size")?,
                "layer_norm_epsilon": 1e-5, "rescale_every": 0,
            });
            let sizes: rwkv_v5::Config = serde_json::from_value(sizes)?;
            Box::new(Rwkv5(rwkv_v5::Model::new(&sizes, builder(tensors))?, sizes))
        }
        "llama" => {
            let sizes: llama::LlamaConfig = serde_json::from_value(config.clone())?;
            let sizes = sizes.into_config(false);
            Box::new(Llama(llama::Llama::load(builder(tensors), &sizes)?, sizes))
        }
        other => bail!(
            "{}: model_type {other:?} is none of mamba, mamba2, rwkv5, llama",
            folder.display()
        ),
    })
}

/// Tokens per second of each repetition, after one that is not counted.
fn sample(tokens: usize, repeats: usize, work: impl Fn() -> Result<Tensor>) -> Result<Vec<f64>> {
    work()?;
    let timed = (0..repeats).map(|_| {
        let begin = Instant::now();
        work()?;
        Ok(tokens as f64 / begin.elapsed().as_secs_f64())
    });
    timed.collect()
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, repeats, prefill, decode] = arguments.as_slice() else {
        bail!("usage: candle-peer CHECKPOINT REPEATS PREFILL,PREFILL DECODE");
    };
    let folder = Path::new(folder);
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let vocabulary = config["vocab_size"]
        .as_u64()
        .context("config.json has no vocab_size")? as usize;
    let (repeats, decode): (usize, usize) = (repeats.parse()?, decode.parse()?);
    let engine = load(folder, &config)?;
    let random = |count: usize| -> Vec<u32> {
        (1..=count)
            .map(|i| ((48271 * i + 11) % vocabulary) as u32)
            .collect()
    };
    let prompt: Vec<u32> = (0..FINGERPRINT.0)
        .map(|i| ((7919 * i + 13) % vocabulary) as u32)
        .collect();
    let logits = engine.prefill(&prompt)?.flatten_all()?.to_vec1::<f32>()?;
    let mut tests = Vec::new();
    for count in prefill.split(',').map(str::parse) {
        let ids = random(count?);
        tests.push(json!({"test": format!("prefill {}", ids.len()), "samples": sample(ids.len(), repeats, || engine.prefill(&ids))?}));
    }
    let ids = random(decode);
    tests.push(json!({"test": format!("decode {decode}"), "samples": sample(decode, repeats, || engine.decode(&ids))?}));
    println!(
        "{}",
        json!({"fingerprint": logits[..FINGERPRINT.1], "tests": tests})
    );
    Ok(())
}
