//! The definition in f64, of one key.

use super::{Expansion, FeatureMap, Packing};

/// The features as products `factor · x_i · x_j`, of which a constant has neither and a linear one no second key.
fn terms(map: &FeatureMap) -> Vec<(f64, Option<usize>, Option<usize>)> {
    let [constant, linear, quadratic] = map.factors();
    let mut terms = Vec::with_capacity(map.features());
    if map.expansion == Expansion::Taylor {
        terms.push((constant, None, None));
        terms.extend((0..map.key_dim).map(|i| (linear, Some(i), None)));
    }
    for i in 0..map.key_dim {
        let from = match map.packing {
            Packing::Full => 0,
            Packing::Symmetric => i,
        };
        for j in from..map.key_dim {
            let twice = map.packing == Packing::Symmetric && i != j;
            let factor = if twice {
                quadratic * std::f64::consts::SQRT_2
            } else {
                quadratic
            };
            terms.push((factor, Some(i), Some(j)));
        }
    }
    terms
}

/// Features φ(x) of one key x, `[features]`.
pub fn forward(map: &FeatureMap, x: &[f64]) -> Vec<f64> {
    let value = |i: Option<usize>| i.map_or(1.0, |i| x[i]);
    terms(map)
        .into_iter()
        .map(|(factor, i, j)| factor * value(i) * value(j))
        .collect()
}

/// The gradient of ⟨cotangent, φ(x)⟩ by x, `[key_dim]`.
pub fn backward(map: &FeatureMap, x: &[f64], cotangent: &[f64]) -> Vec<f64> {
    let value = |i: Option<usize>| i.map_or(1.0, |i| x[i]);
    let mut gradient = vec![0.0; x.len()];
    for ((factor, i, j), &cotangent) in terms(map).into_iter().zip(cotangent) {
        if let Some(i) = i {
            gradient[i] += cotangent * factor * value(j);
        }
        if let Some(j) = j {
            gradient[j] += cotangent * factor * value(i);
        }
    }
    gradient
}
