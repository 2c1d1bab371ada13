//! RWKV language models, versions 4 to 7: an embedding and its norm, blocks of time mixing and channel mixing, a norm, a head.
//!
//! ```text
//! r ← LN₀(embedding(ids))        per block: r ← r + time(LN₁(r)),  r ← r + channel(LN₂(r))        logits = W_head · LN(r)
//! ```
//!
//! | version | BlinkDL | Ai00 | Hugging Face | flash-linear-attention |
//! |---|---|---|---|---|
//! | 4 | yes | as BlinkDL | yes | |
//! | 5.2 | yes | yes | yes | |
//! | 6 | yes | yes | yes | yes, ε of the heads' norm as there |
//! | 7 | yes | yes | | yes, ε of both head norms as there |
//!
//! BlinkDL's files have no configuration: the reader takes every number from the tensors' shapes. Beside names, layouts differ
//! in a few things: version 4 and 5 store the share of the current token in an interpolation, 6 and 7 that of the previous one;
//! BlinkDL's low-rank matrices are stored as `[in, out]`, the others' as `[out, in]`; and flash-linear-attention orders the
//! interpolations of version 6 as r, w, k, v, g where BlinkDL has w, k, v, r, g.

mod ai00;
mod blinkdl;
mod fla;
mod hugging_face;
pub(crate) mod rwkv4;
pub(crate) mod rwkv5;
pub(crate) mod rwkv6;
pub(crate) mod rwkv7;
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;

use spillway_attention_linear::rwkv::Depth;
use spillway_ssm_core::Mixer;

use crate::error::ModelError;
use crate::layout::{Assembly, Outline, Parts};
use crate::loader::Loader;
use crate::network::{Block, Channel, NormKind};

/// A size of a layout, its configuration written as `name: value` pairs.
macro_rules! preset {
    ($model_type:literal, $size:literal, $($name:ident: $value:literal),+ $(,)?) => {
        crate::layout::Preset {
            size: $size,
            config: concat!(
                "{", $("\"", stringify!($name), "\": ", $value, ", ",)+
                "\"model_type\": \"", $model_type, "\"}"
            ),
        }
    };
}
pub(crate) use preset;

/// Where a layout keeps what every version has.
struct Naming {
    embedding: &'static str,
    /// Before the index of a block.
    blocks: &'static str,
    /// The norm of the embedding, within block 0.
    embedding_norm: &'static str,
    mixer_norm: &'static str,
    mixer: &'static str,
    channel_norm: &'static str,
    channel: &'static str,
    norm: &'static str,
    head: &'static str,
}

/// What every version has: the numbers outside the mixers.
struct Backbone {
    naming: &'static Naming,
    vocab_size: usize,
    model_dim: usize,
    layers: usize,
    /// ε of the norms on the residual stream.
    eps: f32,
    /// Blocks after which the published code halves the residual stream; 0 for never.
    rescale_every: usize,
    norm_bias: bool,
    embedding_norm: bool,
    tied: bool,
    eos_ids: Vec<u32>,
    details: BTreeMap<&'static str, String>,
}

/// A block among its siblings.
#[derive(Clone, Debug)]
struct BlockPlan {
    depth: Depth,
    /// Before the names of the tensors of its mixers.
    mixer: String,
    channel: String,
}

/// The two mixers of a block.
type Mixers = (Arc<dyn Mixer>, Arc<dyn Mixer>);

impl Backbone {
    /// The model, with `mixers` reading those of each block.
    fn assembly(
        self,
        mixers: impl Fn(&mut Loader<'_>, &BlockPlan) -> Result<Mixers, ModelError> + Send + Sync + 'static,
    ) -> Assembly {
        Assembly::new(move |loader| self.load(loader, &mixers))
    }

    fn load(
        &self,
        loader: &mut Loader<'_>,
        mixers: &impl Fn(&mut Loader<'_>, &BlockPlan) -> Result<Mixers, ModelError>,
    ) -> Result<Parts, ModelError> {
        let naming = self.naming;
        let shape = [self.vocab_size, self.model_dim];
        let embedding = loader.embedding(naming.embedding, shape)?;
        let embedding_norm = match self.embedding_norm {
            true => {
                let name = format!("{}.0.{}", naming.blocks, naming.embedding_norm);
                Some(loader.norm(&name, self.model_dim, self.eps, NormKind::Layer, self.norm_bias)?)
            }
            false => None,
        };
        let blocks = (0..self.layers)
            .map(|layer| self.block(loader, layer, mixers))
            .collect::<Result<_, _>>()?;
        let norm = loader.norm(
            naming.norm,
            self.model_dim,
            self.eps_after(self.layers),
            NormKind::Layer,
            self.norm_bias,
        )?;
        let head = loader.head(naming.head, &embedding, shape, self.tied)?;
        Ok(Parts {
            outline: Outline {
                vocab_size: self.vocab_size,
                padded_vocab_size: self.vocab_size,
                model_dim: self.model_dim,
                tied: self.tied,
                eos_ids: self.eos_ids.clone(),
                details: self.details.clone(),
            },
            embedding,
            embedding_norm,
            blocks,
            norm,
            head,
        })
    }

    fn block(
        &self,
        loader: &mut Loader<'_>,
        layer: usize,
        mixers: &impl Fn(&mut Loader<'_>, &BlockPlan) -> Result<Mixers, ModelError>,
    ) -> Result<Block, ModelError> {
        let naming = self.naming;
        let name = |part: &str| format!("{}.{layer}.{part}", naming.blocks);
        let (mixer, channel) = (name(naming.mixer), name(naming.channel));
        let plan = BlockPlan {
            depth: Depth {
                layer,
                layers: self.layers,
            },
            mixer,
            channel,
        };
        let mut norm = |part| {
            let eps = self.eps_after(layer);
            loader.norm(&name(part), self.model_dim, eps, NormKind::Layer, self.norm_bias)
        };
        let (mixer_norm, channel_norm) = (norm(naming.mixer_norm)?, norm(naming.channel_norm)?);
        let (mixer, channel) = mixers(loader, &plan)?;
        Ok(Block {
            norm: mixer_norm,
            mixer,
            channel: Some(Channel {
                norm: channel_norm,
                mixer: channel,
            }),
        })
    }

    /// ε of a norm after `blocks` of them. Code that halves the stream keeps its norms' ε, which is as if the stream were
    /// whole and ε four times as large for each halving.
    fn eps_after(&self, blocks: usize) -> f32 {
        match blocks.checked_div(self.rescale_every) {
            None => self.eps,
            Some(halvings) => self.eps * 4f32.powi(halvings.min(i32::MAX as usize) as i32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Fields, parse_object};
    use crate::layout::Layout;
    use std::path::Path;

    /// Parameters of a preset.
    fn parameters(layout: &Layout, size: &str) -> u64 {
        let preset = layout.presets.iter().find(|preset| preset.size == size).unwrap();
        let path = Path::new("config.json");
        let config = parse_object(path, preset.config).unwrap();
        let mut loader = Loader::blank();
        layout.load(&Fields::new(path, &config), &mut loader).unwrap();
        loader.parameters
    }

    /// Peng et al. (2305.13048), table 2: 2 V D + 13 D² L + D (11 L + 4).
    #[test]
    fn the_smallest_published_rwkv4_has_its_number_of_parameters() {
        assert_eq!(parameters(&rwkv4::BLINKDL, "169m"), 169_342_464);
        assert_eq!(parameters(&rwkv4::HUGGING_FACE, "169m"), 169_342_464);
    }

    /// Peng et al. (2503.14456), section on parameters: 2 D V + 4 D + L D (12 D + 2 (d_w + d_a + d_v + d_g) + 19) − (2 D d_v + D).
    #[test]
    fn the_smallest_published_rwkv7_has_its_number_of_parameters() {
        assert_eq!(parameters(&rwkv7::BLINKDL, "0.1b"), 191_034_624);
        assert_eq!(parameters(&rwkv7::FLA, "0.1b"), 191_034_624);
    }

    #[test]
    fn halving_the_stream_is_four_times_the_epsilon() {
        let backbone = |rescale_every| Backbone {
            naming: &blinkdl::NAMING,
            vocab_size: 2,
            model_dim: 2,
            layers: 12,
            eps: 1e-5,
            rescale_every,
            norm_bias: true,
            embedding_norm: true,
            tied: false,
            eos_ids: Vec::new(),
            details: BTreeMap::new(),
        };
        let eps: Vec<f32> = [0, 5, 6, 11, 12]
            .map(|blocks| backbone(6).eps_after(blocks))
            .to_vec();
        assert_eq!(eps, [1e-5, 1e-5, 4e-5, 4e-5, 16e-5]);
        assert_eq!(backbone(0).eps_after(12), 1e-5);
    }
}
