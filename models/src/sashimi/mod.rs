//! SaShiMi: S4 blocks and feed-forward blocks in tiers, each slower and wider than the one above it.
//!
//! ```text
//! x₀ = embedding(ids)      d_i = W_i [p steps of x_{i−1}] + b_i      p steps become one, of `expand` times the width
//! y = centre(x) + x        at the bottom;  z = shift(up(y)) + x,  y = layers(z) + z  in every tier above
//! logits = W_head · norm(y)
//! ```
//!
//! With `unet` there are layers on the way down as well, and what each reads is added to what its mirror gives on the way up. Source: Goel
//! et al., *It's raw! Audio generation with state-space models* (2202.09729), section 4. What a tier of pools does to time, and
//! what is carried, is told in `stack.rs`.
//!
//! Both of the authors' implementations are wrapped between an encoder and a decoder as [S4](crate::s4) is:
//!
//! | tensor | what |
//! |---|---|
//! | `encoder.0.weight`, `decoder.0.output_transform.{weight,bias}` | embedding, logits |
//! | `model.d_layers.N` | down: pools alone; with `unet` the layers of a tier and then its pool |
//! | `model.c_layers.N` | the layers of the centre |
//! | `model.u_layers.M.N` | up, deepest tier first: a pool (N = 0) and the layers of the tier |
//! | `….layer.layer.{D, kernel.*}`, `….layer.output_linear.0` | a state space and its projection |
//! | `….layer.ff.{0.0,2}` | a feed-forward block |
//! | `model.norm.{weight,bias}` | norm before the decoder |
//!
//! | layout | norms of layers | projections of pools | of feed-forward blocks |
//! |---|---|---|---|
//! | state-spaces | `norm.norm.{m,s}`, s (x − mean + m)/σ with two scalars and nothing added to σ | `linear.{weight_g,weight_v,bias}`, W = g v/‖v‖ row by row | matrices |
//! | state-spaces, standalone | `norm.{weight,bias}`, LayerNorm | `linear.{weight,bias}`, `[out, in, 1]` | `[out, in, 1]` |
//!
//! | field of `config.json` | what | default |
//! |---|---|---|
//! | `d_model`, `n_layers`, `vocab_size` | width of the first tier, pairs of layers in a tier, ids | |
//! | `pool` | steps that become one, tier by tier; none at all is a stack of one tier | `[4, 4]` |
//! | `expand`, `ff` | width of a tier over the one above it; of a feed-forward block over its tier, 0 for none | 2, 2 |
//! | `unet` | whether there are layers on the way down | false |
//! | `layer` | the state space, as [S4](crate::s4) has it; its kernels end nowhere and read one way | |

mod config;
mod layer;
mod pool;
mod stack;

use std::sync::Arc;

use spillway_ssm_core::WeightSource;

use crate::checkpoint::Checkpoint;
use crate::error::ModelError;
use crate::layout::{Assembly, Layout, Parts, Preset, stored_config};
use crate::loader::Loader;
use crate::network::{Block, NormKind, Residual};
use config::Config;
use layer::{Layer, Naming};
use pool::Pool;
use stack::{Skips, Stack, Tier};

const EMBEDDING: &str = "encoder.0.weight";
const HEAD: &str = "decoder.0.output_transform";

/// The backbone of the authors' experiments.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "sashimi",
    name: "state-spaces",
    recognise: |checkpoint| recognised_by(checkpoint, "model.c_layers.0.norm.norm.m"),
    config: stored_config,
    parse: |fields, _| assembly(Config::read(fields)?, Naming::Backbone),
    presets: &[
        Preset {
            size: "tiny",
            config: r#"{"model_type": "sashimi", "d_model": 8, "n_layers": 1, "pool": [3, 2], "vocab_size": 256,
                "layer": {"mode": "nplr", "init": "legs", "d_state": 8, "dt_transform": "softplus",
                "dt_min": 0.05, "dt_max": 0.5}}"#,
        },
        Preset {
            size: "sc09",
            config: r#"{"model_type": "sashimi", "d_model": 64, "n_layers": 8, "pool": [4, 4], "vocab_size": 256,
                "layer": {"mode": "nplr", "init": "legs", "d_state": 64, "dt_transform": "softplus"}}"#,
        },
    ],
};

/// The single file that stands beside the experiments.
pub(crate) const STANDALONE: Layout = Layout {
    architecture: "sashimi",
    name: "state-spaces, standalone",
    recognise: |checkpoint| recognised_by(checkpoint, "model.c_layers.0.norm.weight"),
    config: stored_config,
    parse: |fields, _| assembly(Config::read(fields)?, Naming::Standalone),
    presets: &[
        Preset {
            size: "tiny",
            config: r#"{"model_type": "sashimi", "d_model": 8, "n_layers": 1, "pool": [3, 2], "vocab_size": 256,
                "layer": {"mode": "nplr", "init": "legs", "d_state": 8, "dt_min": 0.05, "dt_max": 0.5}}"#,
        },
        Preset {
            size: "tiny-unet",
            config: r#"{"model_type": "sashimi", "d_model": 8, "n_layers": 1, "pool": [2, 3], "unet": true, "vocab_size": 256,
                "layer": {"mode": "diag", "init": "diag-lin", "d_state": 8, "dt_min": 0.05, "dt_max": 0.5}}"#,
        },
        Preset {
            size: "sc09-unet",
            config: r#"{"model_type": "sashimi", "d_model": 64, "n_layers": 8, "pool": [4, 4], "unet": true, "vocab_size": 256,
                "layer": {"mode": "nplr", "init": "legs", "d_state": 64}}"#,
        },
    ],
};

fn recognised_by(checkpoint: &Checkpoint, norm: &str) -> Option<String> {
    let ours = checkpoint.config().text("model_type").ok()? == Some("sashimi") && checkpoint.has(norm);
    ours.then(|| format!("model_type \"sashimi\", tensor {norm}"))
}

fn assembly(config: Config, naming: Naming) -> Result<Assembly, ModelError> {
    Ok(Assembly::new(move |loader| load(&config, naming, loader)))
}

fn load(config: &Config, naming: Naming, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let shape = [config.vocab_size, config.widths[0]];
    let embedding = loader.embedding(EMBEDDING, shape)?;
    let mut tiers = Vec::new();
    for index in 0..config.pools.len() {
        tiers.push(tier(config, naming, index, loader)?);
    }
    let centre = LayerPosition {
        name: "model.c_layers",
        first: 0,
        tier: config.pools.len(),
    };
    let stack = Stack::new(
        tiers,
        layers(config, naming, &centre, loader)?,
        match config.unet {
            true => Skips::EveryLayer,
            false => Skips::AroundLayers,
        },
    );
    loader.set_share(1, 1);
    let mut norm = loader.no_norm(shape[1]);
    norm.residual = Residual::Nothing;
    Ok(Parts {
        outline: config.outline(),
        embedding,
        embedding_norm: None,
        blocks: vec![Block {
            norm,
            mixer: Arc::new(stack),
            channel: None,
        }],
        norm: loader.norm("model.norm", shape[1], 1e-5, NormKind::Layer, true)?,
        head: loader.linear(HEAD, shape, true)?.into(),
    })
}

/// Where layers are in a file, and in time.
struct LayerPosition<'a> {
    name: &'a str,
    /// Index of the first.
    first: usize,
    tier: usize,
}

/// A tier that has a slower one below it.
fn tier(config: &Config, naming: Naming, index: usize, loader: &mut Loader<'_>) -> Result<Tier, ModelError> {
    let (factor, narrow, wide) = (
        config.pools[index],
        config.widths[index],
        config.widths[index + 1],
    );
    let on_the_way_down = if config.unet { config.layers_per_tier() } else { 0 };
    let first = index * (on_the_way_down + 1);
    let before = match config.unet {
        false => Vec::new(),
        true => layers(
            config,
            naming,
            &LayerPosition {
                name: "model.d_layers",
                first,
                tier: index,
            },
            loader,
        )?,
    };
    let up = format!("model.u_layers.{}", config.pools.len() - 1 - index);
    // Its projections are those of the steps below.
    loader.set_share(1, config.period(index + 1));
    let down = naming.pool(
        loader,
        &format!("model.d_layers.{}.linear", first + on_the_way_down),
        [wide, factor * narrow],
    )?;
    let pool = Pool {
        factor,
        down,
        up: naming.pool(loader, &format!("{up}.0.linear"), [factor * narrow, wide])?,
    };
    let place = LayerPosition {
        name: &up,
        first: 1,
        tier: index,
    };
    Ok(Tier {
        before,
        pool,
        after: layers(config, naming, &place, loader)?,
    })
}

/// The layers of a tier on one way: pairs of a state space and a feed-forward block.
fn layers(
    config: &Config,
    naming: Naming,
    place: &LayerPosition<'_>,
    loader: &mut Loader<'_>,
) -> Result<Vec<Layer>, ModelError> {
    loader.set_share(1, config.period(place.tier));
    let of_a_pair = config.layers_per_pair();
    let mut layers = Vec::new();
    for index in 0..config.layers_per_tier() {
        let name = format!("{}.{}", place.name, place.first + index);
        let block = &config.blocks[place.tier];
        layers.push(match index % of_a_pair {
            0 => Layer::state_space(naming, block, &name, loader)?,
            _ => Layer::feed_forward(naming, block.model_dim, config.ff, &name, loader)?,
        });
    }
    Ok(layers)
}
