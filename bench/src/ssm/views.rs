//! The output of a system by three views, recurrence, convolution and integral, and at other sampling rates.
//!
//! The output reads the past off the state: C is such that y(t) is what the state remembers of u(t − age).

use super::Setting;
use serde::Serialize;
use spillway_ssm_core::state_space::{
    Dense, DiscreteStateSpace, Discretisation, StateSpace, StateSpaceError,
};

/// Values of the continuous view for each sample.
pub const FINE: usize = 4;
/// Other sampling rates, each by how many times as far apart its samples are.
pub const RATES: [usize; 3] = [2, 4, 8];

/// The outputs of the three views.
#[derive(Clone, Debug)]
pub struct Views {
    /// y after each sample, by the recurrence.
    pub recurrent: Vec<f64>,
    /// y after each sample, by the convolution.
    pub convolved: Vec<f64>,
    /// [`FINE`] values for each sample, by the integral; the last of each at the sample itself.
    pub continuous: Vec<f64>,
    /// K̄, the kernel of the convolution: one value for each sample of the signal.
    pub kernel: Vec<f64>,
    /// How far they lie apart.
    pub differences: Differences,
}

/// Largest differences of two views, as shares of the largest output.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Differences {
    /// Difference of the recurrence and the convolution, due to rounding.
    pub recurrent_convolved: f64,
    /// Difference of the recurrence and the integral, due to the rule that makes the system discrete.
    pub recurrent_continuous: f64,
}

/// The output at another rate.
#[derive(Clone, Debug, Serialize)]
pub struct AtRate {
    /// r, how many times as far apart the samples are as those of the signal.
    pub rate: usize,
    /// Outputs with the step multiplied by it.
    #[serde(skip)]
    pub adapted: Vec<f64>,
    /// Outputs with the step as it was.
    #[serde(skip)]
    pub unchanged: Vec<f64>,
    /// ‖y′ − y‖/‖y‖ of `adapted` at the same times.
    pub error: f64,
    /// ‖y′ − y‖/‖y‖ of `unchanged` at the same times.
    pub error_unchanged: f64,
}

/// The three views of a system's output.
///
/// # Errors
/// Outputs that leave the range of f64.
pub fn views(system: &Dense, setting: &Setting, input: &[f64]) -> Result<Views, StateSpaceError> {
    let discrete = system.discretise(setting.rule, setting.step)?;
    let recurrent = discrete.respond(&mut discrete.zero_state(), input)?;
    let convolved = discrete.convolve(&discrete.zero_state(), input)?;
    let continuous = continuous(system, setting.step, input)?;
    let size = recurrent
        .iter()
        .fold(f64::MIN_POSITIVE, |most: f64, y| most.max(y.abs()));
    let apart = |other: &mut dyn Iterator<Item = &f64>| {
        let differences = recurrent.iter().zip(other).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f64::max) / size
    };
    Ok(Views {
        differences: Differences {
            recurrent_convolved: apart(&mut convolved.iter()),
            recurrent_continuous: apart(&mut continuous.iter().skip(FINE - 1).step_by(FINE)),
        },
        kernel: discrete.kernel(input.len())?,
        recurrent,
        convolved,
        continuous,
    })
}

/// y(t) = ∫ K(a) u(t − a) da of the held signal, [`FINE`] times a sample: Σ u_j (S(t − t_{j−1}) − S(t − t_j)) with the step
/// response S.
fn continuous(system: &Dense, step: f64, input: &[f64]) -> Result<Vec<f64>, StateSpaceError> {
    // S at multiples of a part of the step: the flow of the system over that part, again and again.
    let flow = system.discretise(Discretisation::ZeroOrderHold, step / FINE as f64)?;
    let ones = vec![1.0; FINE * input.len()];
    let mut response = vec![0.0];
    response.extend(flow.respond(&mut flow.zero_state(), &ones)?);
    let at = |index: usize| {
        let time = index + 1;
        let sample = |(j, u): (usize, &f64)| {
            let (start, end) = (FINE * j, FINE * (j + 1));
            u * (response[time - start] - response[time.saturating_sub(end)])
        };
        input[..=index / FINE].iter().enumerate().map(sample).sum()
    };
    Ok((0..FINE * input.len()).map(at).collect())
}

/// The output when only every r-th sample is heard, with the step rΔ and with Δ; of the rates at which the rule is stable.
///
/// # Errors
/// As [`views`].
pub fn at_rates(
    system: &Dense,
    setting: &Setting,
    input: &[f64],
    output: &[f64],
    is_stable: impl Fn(f64) -> bool,
) -> Result<Vec<AtRate>, StateSpaceError> {
    let respond = |step: f64, input: &[f64]| {
        let discrete = system.discretise(setting.rule, step)?;
        discrete.respond(&mut discrete.zero_state(), input)
    };
    let mut all = Vec::new();
    for rate in RATES
        .into_iter()
        .filter(|rate| is_stable(*rate as f64 * setting.step))
    {
        // Every r-th, so that the last of each group stands for it.
        let thinned =
            |values: &[f64]| -> Vec<f64> { values.iter().copied().skip(rate - 1).step_by(rate).collect() };
        let (heard, expected) = (thinned(input), thinned(output));
        let adapted = respond(rate as f64 * setting.step, &heard)?;
        let unchanged = respond(setting.step, &heard)?;
        all.push(AtRate {
            rate,
            error: relative(&adapted, &expected),
            error_unchanged: relative(&unchanged, &expected),
            adapted,
            unchanged,
        });
    }
    Ok(all)
}

/// Relative difference ‖a − b‖/‖b‖ of two signals, in Euclidean norms.
fn relative(a: &[f64], b: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(f64::MIN_POSITIVE)
}
