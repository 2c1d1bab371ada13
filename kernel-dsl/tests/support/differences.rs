//! Gradients by differences of a function that is computed in f64.

/// Positions of one argument that are varied; of longer arguments, evenly spaced ones.
const POSITIONS: usize = 24;
/// How far an argument is moved to each side; a half and a quarter of it too.
const STEP: f32 = 1e-3;
/// Allowed error, relative to the norm of the gradient.
const TOLERANCE: f64 = 1e-6;

/// Whether `gradient` is that of `function` at `values`; the error names where it is not.
pub fn compare(
    what: &str,
    values: &[f32],
    gradient: &[f64],
    mut function: impl FnMut(&[f32]) -> f64,
) -> Result<(), String> {
    assert_eq!(values.len(), gradient.len(), "{what}: numbers of values");
    let mut moved = values.to_vec();
    let (mut off, mut norm) = (0.0, 0.0);
    for i in (0..values.len()).step_by(values.len().div_ceil(POSITIONS).max(1)) {
        let slope = derivative(values[i], |x| {
            moved[i] = x;
            let y = function(&moved);
            moved[i] = values[i];
            y
        });
        off += (slope - gradient[i]).powi(2);
        norm += gradient[i].powi(2).max(slope.powi(2));
    }
    // Written so that NaN fails. The floor is for gradients that vanish, as whole or because their terms cancel.
    let close = off.sqrt() <= TOLERANCE * norm.sqrt() + 1e-9;
    if close {
        Ok(())
    } else {
        Err(format!(
            "the gradient of {what} is off by {:e} of {:e}",
            off.sqrt(),
            norm.sqrt()
        ))
    }
}

/// The derivative of `function` at `x`, with an error of the sixth order in the step: a sum of terms that cancel has high derivatives that
/// do not, and so has a kernel whose phase turns fast.
fn derivative(x: f32, mut function: impl FnMut(f32) -> f64) -> f64 {
    let here = function(x);
    let [wide, middle, narrow] = [STEP, STEP / 2.0, STEP / 4.0].map(|step| {
        let (low, high) = (x - step, x + step);
        // Rounding moves both ends, so that they are not equally far away.
        let (back, ahead) = (f64::from(x) - f64::from(low), f64::from(high) - f64::from(x));
        let (fall, rise) = ((here - function(low)) / back, (function(high) - here) / ahead);
        (ahead * fall + back * rise) / (ahead + back)
    });
    let [wide, narrow] =
        [(wide, middle), (middle, narrow)].map(|(wide, narrow)| narrow + (narrow - wide) / 3.0);
    narrow + (narrow - wide) / 15.0
}

/// Σ a b.
pub fn inner(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "numbers of values");
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * b).sum()
}
