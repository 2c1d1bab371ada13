//! Rotary position embedding of queries and keys.

use crate::backend::{Spec, over_rows, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::Tensor;
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
}

impl RotaryPlan {
    /// Whether a head of `head_dim` values can be turned like this.
    ///
    /// # Errors
    /// [`Error::Value`] for an odd number of turned values or more than there are, and for a base that is not positive and
    /// finite.
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
        Ok(())
    }
}

/// Pair j of every head turned by the angle p · base^(−2j/R), p the token's position and R = rotated_dim.
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
    let operator = Rotary { plan: *plan, first };
    let found = run(operator, kernel::Operands { input: input.into() })?;
    Ok(Tensor::from_dispatch(found.out))
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
