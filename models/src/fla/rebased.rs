//! ReBased: linear attention by the square of q·k, queries and keys normalised first.
//!
//! flash-linear-attention has the layer and no model of it: this is that layer in the backbone of the models that it has, under its name as
//! `model_type`. The tensors of `model.layers.N.attn` are those of [`RebasedAttention::read`].
//!
//! | field | |
//! |---|---|
//! | `num_heads` | 16 without |
//! | `feature_dim` | width of a query and of a key; 16 without |
//! | `normalize`, `use_gamma`, `use_beta` | norm, γ and β of φ, each true without |
//! | `eps` | of the denominator; 10⁻⁵ without, as in the layer's parallel form (its other two forms have 10⁻¹⁰) |

use std::sync::Arc;

use spillway_attention_linear::rebased::{RebasedAttention, RebasedAttentionConfig};

use super::backbone::Details;
use super::mixer::backbone;
use super::{NAME, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

/// ε of the denominator where the configuration does not say.
const EPS: f32 = 1e-5;

const PRESETS: &[Preset] = &[Preset {
    size: "tiny",
    config: r#"{"model_type": "rebased", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "intermediate_size": 128,
        "num_heads": 4, "feature_dim": 8}"#,
}];

/// `ReBasedLinearAttention` in the backbone of the other models.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "rebased",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "rebased"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let num_heads = fields.dimension_or("num_heads", 16)?;
    let value_heads = fields.dimension_or("num_key_value_heads", num_heads)?;
    if value_heads != num_heads {
        return Err(fields
            .unsupported("num_key_value_heads", "as many heads of values as of queries")
            .into());
    }
    if !backbone.model_dim.is_multiple_of(num_heads) {
        let expected = format!("a divisor of hidden_size = {}", backbone.model_dim);
        return Err(fields
            .wrong("num_heads", &expected, Some(&num_heads.into()))
            .into());
    }
    let config = RebasedAttentionConfig {
        model_dim: backbone.model_dim,
        num_heads,
        feature_dim: fields.dimension_or("feature_dim", 16)?,
        head_dim: backbone.model_dim / num_heads,
        normalized: fields.bool_or("normalize", true)?,
        gamma: fields.bool_or("use_gamma", true)?,
        beta: fields.bool_or("use_beta", true)?,
        eps: fields.positive_or("eps", EPS)?,
    };
    if !config.normalized && !config.gamma {
        return Err(fields
            .unsupported("use_gamma", "true where normalize is false")
            .into());
    }
    let details = Details::from([
        ("heads", num_heads.to_string()),
        ("width of a key", config.feature_dim.to_string()),
        ("width of a value", config.head_dim.to_string()),
    ]);
    Ok(backbone.assembly(details, &[], move |source, _| {
        Ok(Arc::new(RebasedAttention::read(config, source)?))
    }))
}
