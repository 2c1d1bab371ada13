//! Rotary position embedding of queries and keys.

use crate::backend::{Spec, over_rows, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{Tensor, TensorData};
use spillway_kernel_dsl::rotary as kernel;
pub use spillway_kernel_dsl::rotary::Pairing;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::rotary::cube as device;

/// What of a rotary embedding is not a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotaryPlan {
    /// The angles of neighbouring pairs stand in the ratio base^(2/rotated_dim); 10000 mostly.
    pub base: f32,
    /// How many values of a head are turned, from the first on; even.
    pub rotated_dim: usize,
    /// Which two values form a pair.
    pub pairing: Pairing,
    /// Whether slow pairs turn more slowly than that; of halves only.
    pub scaling: Option<RotaryScaling>,
}

/// Llama 3's rescaled angles: a pair that turns once in λ tokens is slowed down by how λ stands to L, the length of the first training.
///
/// ```text
/// f' = f                            λ < L / high
/// f' = f / factor                   λ > L / low                                λ = 2π / f
/// f' = (1 − s) f / factor + s f     between, s = (L/λ − low) / (high − low)
/// ```
///
/// Source: Llama Team, *The Llama 3 herd of models* (2407.21783), and `rope_type: llama3` of the published configurations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotaryScaling {
    /// How many times more slowly the slow pairs turn; at least 1.
    pub factor: f32,
    /// L / low tokens are the shortest turn of a slow pair.
    pub low: f32,
    /// L / high tokens are the longest turn of a pair that stays as it is; high is above low.
    pub high: f32,
    /// L, the length of texts in the first training, in tokens.
    pub length: f32,
}

impl RotaryScaling {
    /// f', of f in radians a token.
    pub fn frequency(&self, frequency: f64) -> f64 {
        let [factor, low, high, length] = [self.factor, self.low, self.high, self.length].map(f64::from);
        let turns = length * frequency / std::f64::consts::TAU;
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 - kept) * frequency / factor + kept * frequency
    }

    fn is_usable(&self) -> bool {
        let all = [self.factor, self.low, self.high, self.length];
        all.iter().all(|value| value.is_finite() && *value > 0.0)
            && self.low < self.high
            && self.factor >= 1.0
    }
}

impl RotaryPlan {
    /// Whether a head of `head_dim` values can be turned like this.
    ///
    /// # Errors
    /// [`Error::Value`] for an odd number of turned values or more than there are, for a base that is not positive and
    /// finite, and for a scaling that is none or of pairs that are no halves.
    pub fn validate(&self, head_dim: usize) -> Result<()> {
        if !self.rotated_dim.is_multiple_of(2) || self.rotated_dim > head_dim {
            return Err(Error::Value {
                what: "rotated_dim of a rotary embedding",
                expected: "even and at most head_dim",
                found: format!("{} of {head_dim}", self.rotated_dim),
            });
        }
        let usable = self.base > 0.0 && self.base.is_finite();
        if !usable {
            return Err(Error::Value {
                what: "base of a rotary embedding",
                expected: "positive and finite",
                found: self.base.to_string(),
            });
        }
        match self.scaling {
            Some(scaling) if !scaling.is_usable() => Err(Error::Value {
                what: "scaling of a rotary embedding",
                expected: "positive numbers, low below high and a factor of at least 1",
                found: format!("{scaling:?}"),
            }),
            Some(_) if self.pairing != Pairing::Halves => Err(Error::Value {
                what: "pairing of a rotary embedding with rescaled angles",
                expected: "halves",
                found: format!("{:?}", self.pairing),
            }),
            _ => Ok(()),
        }
    }
}

/// Pair j of every head turned by the angle p · base^(−2j/R), p the token's position and R = rotated_dim; by p f' where angles are
/// [rescaled](RotaryScaling).
///
/// ```text
/// (a, b) ↦ (a cos θ − b sin θ,  b cos θ + a sin θ)
/// ```
///
/// The inner product of a turned query and a turned key depends on the distance of their positions only. Source: Su et al.,
/// *RoFormer* (2104.09864), section 3.2.
///
/// # Shapes
/// `input` and result `[batch, time, heads, head_dim]`; `positions` `[batch]`: where the first token of each sequence stands.
///
/// # Errors
/// [`Error::Shape`] when there is not one position per sequence, [`Error::Value`] as [`RotaryPlan::validate`],
/// [`Error::Device`] and [`Error::DType`].
pub fn rotary(input: Tensor<4>, positions: &[u64], plan: &RotaryPlan) -> Result<Tensor<4>> {
    let [batch, _, _, head_dim] = input.dims();
    expect_shape("positions of a rotary embedding", &[batch], &[positions.len()])?;
    plan.validate(head_dim)?;
    let first: std::result::Result<Vec<usize>, _> =
        positions.iter().map(|&position| position.try_into()).collect();
    let Ok(first) = first else {
        return Err(Error::Value {
            what: "positions of a rotary embedding",
            expected: "positions that this processor can address",
            found: format!("{positions:?}"),
        });
    };
    if let Some(scaling) = &plan.scaling {
        return Ok(rescaled(input, positions, plan, scaling));
    }
    let operator = Rotary { plan: *plan, first };
    let found = run(operator, kernel::Operands { input: input.into() })?;
    Ok(Tensor::from_dispatch(found.out))
}

/// Halves turned by rescaled angles, which are computed in f64.
fn rescaled(input: Tensor<4>, positions: &[u64], plan: &RotaryPlan, scaling: &RotaryScaling) -> Tensor<4> {
    let [batch, time, _, head_dim] = input.dims();
    let (rotated, pairs) = (plan.rotated_dim, plan.rotated_dim / 2);
    if pairs == 0 || batch * time == 0 {
        return input;
    }
    let frequency = |pair: usize| {
        let plain = f64::from(plan.base).powf(-2.0 * pair as f64 / rotated as f64);
        scaling.frequency(plain)
    };
    let frequencies: Vec<f64> = (0..pairs).map(frequency).collect();
    let (mut cosines, mut sines) = (Vec::new(), Vec::new());
    for first in positions {
        for token in 0..time as u64 {
            for frequency in &frequencies {
                let angle = (first + token) as f64 * frequency;
                cosines.push(angle.cos() as f32);
                sines.push(angle.sin() as f32);
            }
        }
    }
    let device = input.device();
    let table = |values: Vec<f32>| {
        let data = TensorData::new(values, [batch, time, 1, pairs]);
        Tensor::<4>::from_data(data, &device).cast(input.dtype())
    };
    let (cosines, sines) = (table(cosines), table(sines));
    let (a, b) = (
        input.clone().narrow(3, 0, pairs),
        input.clone().narrow(3, pairs, pairs),
    );
    let mut parts = vec![
        a.clone() * cosines.clone() - b.clone() * sines.clone(),
        b * cosines + a * sines,
    ];
    if rotated < head_dim {
        parts.push(input.narrow(3, rotated, head_dim - rotated));
    }
    Tensor::cat(parts, 3)
}

/// An embedding of sequences that begin at these positions.
#[derive(Debug)]
struct Rotary {
    plan: RotaryPlan,
    first: Vec<usize>,
}

impl Rotary {
    fn problem(&self, inputs: &kernel::Operands<Vec<usize>>) -> kernel::Problem {
        kernel::Problem {
            batch: inputs.input[0],
            time: inputs.input[1],
            heads: inputs.input[2],
            head_dim: inputs.input[3],
            rotary_dim: self.plan.rotated_dim,
            pairing: self.plan.pairing,
            base: f64::from(self.plan.base),
        }
    }

    fn positions(&self) -> kernel::Positions<'_> {
        kernel::Positions {
            first: Some(&self.first),
            ..kernel::Positions::default()
        }
    }

    fn results(&self, inputs: kernel::Operands<Spec>) -> kernel::Results<Spec> {
        kernel::Results { out: inputs.input }
    }
}

over_rows! {
    Rotary, "rotary", kernel;
    inputs<R>;
    output<R>;
    host: {
        forward(of, problem, inputs, found): kernel::rotary(problem, &of.positions(), inputs.input, found.out),
        backward(of, problem, _, cotangents, found): {
            kernel::backward(problem, &of.positions(), cotangents.out, found.input)
        },
    }
    device: {
        forward(of, client, problem, inputs): {
            let angles = device::DeviceAngles::new(client, problem, &of.positions());
            let out = angles.and_then(|angles| device::rotary(client, &angles, &inputs.input));
            out.map(|out| kernel::Results { out })
        },
        backward(of, client, problem, _, cotangents): {
            let angles = device::DeviceAngles::new(client, problem, &of.positions());
            let input = angles.and_then(|angles| device::backward(client, &angles, &cotangents.out));
            input.map(|input| kernel::Operands { input })
        },
    }
}
