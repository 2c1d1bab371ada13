//! What a configuration of SaShiMi says.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use spillway_ssm_core::s4::{ModeSum, S4Config};

use crate::checkpoint::{CheckpointError, Fields};
use crate::hybrid::whole;
use crate::layout::{Outline, eos_ids};
use crate::s4::block_config;

/// The widest tier, and the most tokens that become one step: the clock of a stack is an f32, which has every whole number up to here.
const MOST: usize = 1 << 24;

/// What a configuration says.
pub(super) struct Config {
    pub(super) vocab_size: usize,
    /// Pairs of layers in a tier.
    pub(super) pairs: usize,
    /// Steps of a tier that become one of the tier below it.
    pub(super) pools: Vec<usize>,
    /// Widths of the tiers, first to last: one more than there are pools.
    pub(super) widths: Vec<usize>,
    /// The state spaces of the tiers.
    pub(super) blocks: Vec<S4Config>,
    /// Width of a feed-forward block over that of its tier; 0 for none.
    pub(super) ff: usize,
    /// Whether there are layers on the way down.
    pub(super) unet: bool,
    eos_ids: Vec<u32>,
}

impl Config {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, CheckpointError> {
        refuse(fields)?;
        let (path, empty) = (fields.path(), Map::new());
        let layer = match fields.object("layer")? {
            Some(layer) => layer,
            None => Fields::new(&path, &empty),
        };
        let pools = pools(fields)?;
        let widths = widths(fields, pools.len())?;
        let blocks = widths.iter().map(|width| block(&layer, *width));
        let vocab_size = fields.dimension("vocab_size")?;
        Ok(Self {
            vocab_size,
            pairs: fields.layers("n_layers")?,
            blocks: blocks.collect::<Result<_, _>>()?,
            ff: whole(fields, "ff", 2)?,
            unet: fields.bool_or("unet", false)?,
            eos_ids: eos_ids(fields, vocab_size)?,
            pools,
            widths,
        })
    }

    /// Layers of a pair: a state space, and a feed-forward block where there are any.
    pub(super) fn layers_per_pair(&self) -> usize {
        1 + usize::from(self.ff > 0)
    }

    /// Layers of a tier on one way.
    pub(super) fn layers_per_tier(&self) -> usize {
        self.pairs * self.layers_per_pair()
    }

    /// Tokens of a step of a tier.
    pub(super) fn period(&self, tier: usize) -> usize {
        self.pools.iter().take(tier).product()
    }

    pub(super) fn outline(&self) -> Outline {
        let tiers = self.widths.iter().enumerate();
        let tiers = tiers.map(|(tier, width)| match self.period(tier) {
            1 => format!("{width} wide at every token"),
            period => format!("{width} wide at every {period} tokens"),
        });
        let block = &self.blocks[0];
        let mut details = BTreeMap::from([
            ("tiers", tiers.collect::<Vec<_>>().join(", ")),
            ("state spaces per tier", self.pairs.to_string()),
            ("state per channel", block.state_dim.to_string()),
        ]);
        details.insert(
            "state matrix",
            match block.rank {
                0 => "diagonal".into(),
                rank => format!("diagonal plus rank {rank}"),
            },
        );
        if self.unet {
            details.insert("layers on the way down", "as many as on the way up".into());
        }
        Outline {
            vocab_size: self.vocab_size,
            padded_vocab_size: self.vocab_size,
            model_dim: self.widths[0],
            tied: false,
            eos_ids: self.eos_ids.clone(),
            details,
        }
    }
}

/// Refuses what the authors' code has beside what is read here.
fn refuse(fields: &Fields<'_>) -> Result<(), CheckpointError> {
    if fields.bool_or("bidirectional", false)? {
        return Err(fields.unsupported(
            "bidirectional",
            "false: what reads both ways foretells no next sample",
        ));
    }
    if !fields.bool_or("prenorm", true)? {
        return Err(fields.unsupported("prenorm", "true"));
    }
    if !matches!(fields.text("norm")?, None | Some("layer")) {
        return Err(fields.unsupported("norm", "\"layer\""));
    }
    if !matches!(fields.text("residual")?, None | Some("R")) {
        return Err(fields.unsupported("residual", "\"R\""));
    }
    Ok(())
}

/// The state space of a tier of this width.
fn block(layer: &Fields<'_>, width: usize) -> Result<S4Config, CheckpointError> {
    if layer.text("mode")? == Some("conv") {
        return Err(layer.unsupported("mode", "\"nplr\" or \"diag\""));
    }
    let block = block_config(layer, width)?;
    if block.bidirectional {
        return Err(layer.unsupported(
            "bidirectional",
            "false: what reads both ways foretells no next sample",
        ));
    }
    if block.taps.is_some() || block.modes == ModeSum::Softmax {
        return Err(layer.unsupported(
            "l_max",
            "0, and \"disc\" other than \"dss\": kernels of tiers do not end",
        ));
    }
    Ok(block)
}

fn pools(fields: &Fields<'_>) -> Result<Vec<usize>, CheckpointError> {
    let expected = "a list of whole numbers from 2, whose product is at most 16777216";
    let Some(value) = fields.value("pool") else {
        return Ok(vec![4, 4]);
    };
    let wrong = || fields.wrong("pool", expected, Some(value));
    let list = value.as_array().ok_or_else(wrong)?;
    let pool = |value: &Value| {
        let factor = usize::try_from(value.as_u64()?).ok()?;
        (factor >= 2).then_some(factor)
    };
    let pools: Vec<usize> = list.iter().map(pool).collect::<Option<_>>().ok_or_else(wrong)?;
    let product = pools
        .iter()
        .try_fold(1_usize, |product, factor| product.checked_mul(*factor));
    match product.is_some_and(|product| product <= MOST) {
        true => Ok(pools),
        false => Err(wrong()),
    }
}

/// Widths of one tier more than there are pools.
fn widths(fields: &Fields<'_>, pools: usize) -> Result<Vec<usize>, CheckpointError> {
    let first = fields.dimension("d_model")?;
    let expand = fields.dimension_or("expand", 2)?;
    let mut widths = vec![first];
    let mut width = first;
    for _ in 0..pools {
        width = width
            .checked_mul(expand)
            .filter(|width| *width <= MOST)
            .ok_or_else(|| {
                let expected =
                    format!("a number whose power of {pools}, times d_model = {first}, is at most {MOST}");
                fields.wrong("expand", &expected, Some(&expand.into()))
            })?;
        widths.push(width);
    }
    Ok(widths)
}
