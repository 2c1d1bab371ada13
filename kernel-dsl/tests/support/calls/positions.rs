//! What is made of queries and keys before they meet: rotary embedding, Taylor features.

use spillway_kernel_dsl::feature_map::cube as features;
use spillway_kernel_dsl::feature_map::{Expansion, FeatureMap, Packing};
use spillway_kernel_dsl::rotary::cube as rotary;
use spillway_kernel_dsl::rotary::{Pairing, Positions, Problem};

use super::CallForm;

/// Rotary embedding of `[tokens, heads, head_dim]`.
pub const ROTARY: &[CallForm<[usize; 3]>] = &[CallForm {
    name: "forward",
    one_token: false,
    prepare: |make, [time, heads, head_dim]| {
        let problem = Problem {
            batch: 1,
            time,
            heads,
            head_dim,
            rotary_dim: head_dim,
            pairing: Pairing::Halves,
            base: 10_000.0,
        };
        let client = make.client.clone();
        let angles = rotary::DeviceAngles::new(&client, &problem, &Positions::default())?;
        let input = make.rows(time, heads * head_dim)?;
        Ok(Box::new(move || {
            rotary::rotary(&client, &angles, &input).map(drop)
        }))
    },
}];

/// Taylor features of `[rows, key_dim]`, forward and backward.
pub const FEATURES: &[CallForm<[usize; 2]>] = &[CallForm {
    name: "both",
    one_token: false,
    prepare: |make, [rows, key_dim]| {
        let map = FeatureMap {
            key_dim,
            scale: 1.0 / (key_dim as f32).sqrt(),
            expansion: Expansion::Taylor,
            packing: Packing::Symmetric,
        };
        let (client, input) = (make.client.clone(), make.rows(rows, key_dim)?);
        let cotangent = make.rows(rows, map.features())?;
        Ok(Box::new(move || {
            features::forward(&client, &map, &input)?;
            features::backward(&client, &map, &input, &cotangent).map(drop)
        }))
    },
}];
