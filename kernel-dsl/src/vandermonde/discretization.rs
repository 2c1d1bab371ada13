//! A mode in discrete time, and its slopes by Δ and λ.

use crate::complex::{Complex64, exp_m1, phi1, phi1_derivative};

/// How a mode x′ = λ x + B u becomes x ← ā x + b̄ u.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Discretization {
    /// ā = e^{Δλ}, b̄ = B (ā − 1)/λ: inputs are held for a step.
    ZeroOrderHold,
    /// ā = (1 + Δλ/2)/(1 − Δλ/2), b̄ = B Δ/(1 − Δλ/2).
    Bilinear,
    /// ā = e^{Δλ}, b̄ = B Δ, as in Mamba.
    ExponentialEuler,
    /// ā = e^{Δλ}, and powers that sum to one over the positions, as in DSS.
    Softmax,
}

/// What is added to |x|² where DSS divides by x.
const SOFTMAX_FLOOR: f64 = 1e-7;

/// A mode in discrete time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    rule: Discretization,
    step: f64,
    rate: Complex64,
    length: usize,
    /// ā; e^{−Δλ} where powers count from the end.
    pub root: Complex64,
    /// Input gain b̄/B.
    pub gain: Complex64,
    /// Whether powers count from the last position to the first.
    pub reversed: bool,
}

/// x*/(|x|² + ε), and 1/(|x|² + ε).
fn reciprocal(x: Complex64) -> (Complex64, f64) {
    let q = 1.0 / (x.norm_sqr() + SOFTMAX_FLOOR);
    (x.conj() * q, q)
}

impl Mode {
    pub fn new(rule: Discretization, step: f64, rate: Complex64, length: usize) -> Self {
        let reversed = rule == Discretization::Softmax && rate.re > 0.0;
        let z = step * if reversed { -rate } else { rate };
        let (root, gain) = match rule {
            Discretization::ZeroOrderHold => (z.exp(), step * phi1(z)),
            Discretization::ExponentialEuler => (z.exp(), Complex64::from(step)),
            Discretization::Bilinear => {
                let half = 0.5 * z;
                let inverse = 1.0 / (1.0 - half);
                ((1.0 + half) * inverse, step * inverse)
            }
            Discretization::Softmax => {
                let (inverse, _) = reciprocal(rate * exp_m1(z * length as f64));
                (z.exp(), exp_m1(z) * inverse)
            }
        };
        Self {
            rule,
            step,
            rate,
            length,
            root,
            gain,
            reversed,
        }
    }

    /// Gradients by (Δ, λ) of the gradients by ā and by b̄/B.
    pub fn pull_back(&self, by_root: Complex64, by_gain: Complex64) -> (f64, Complex64) {
        let Self { step, rate, root, .. } = *self;
        let z = step * rate;
        match self.rule {
            Discretization::ZeroOrderHold => {
                let by_z = root.conj() * by_root + step * phi1_derivative(z).conj() * by_gain;
                let direct = real_inner(by_gain, phi1(z));
                (direct + real_inner(by_z, rate), step * by_z)
            }
            Discretization::ExponentialEuler => {
                let by_z = root.conj() * by_root;
                (by_gain.re + real_inner(by_z, rate), step * by_z)
            }
            Discretization::Bilinear => {
                let inverse = 1.0 / (1.0 - 0.5 * z);
                let square = (inverse * inverse).conj();
                // dā/dz = 1/(1 − z/2)², d(Δ/(1 − z/2))/dz = Δ/2 · the same.
                let by_z = square * (by_root + 0.5 * step * by_gain);
                (real_inner(by_gain, inverse) + real_inner(by_z, rate), step * by_z)
            }
            Discretization::Softmax => self.pull_back_softmax(by_root, by_gain),
        }
    }

    /// With z = ±Δλ, x = λ(e^{zL} − 1) and r = x*/(|x|² + ε): b̄/B = (e^z − 1) r and dr = ε q² dx* − r² dx for q = 1/(|x|² + ε).
    fn pull_back_softmax(&self, by_root: Complex64, by_gain: Complex64) -> (f64, Complex64) {
        let Self { step, rate, root, .. } = *self;
        let sign = if self.reversed { -1.0 } else { 1.0 };
        let length = self.length as f64;
        let z = sign * step * rate;
        let decay = exp_m1(z * length);
        let (r, q) = reciprocal(rate * decay);
        let by_r = exp_m1(z).conj() * by_gain;
        let by_x = SOFTMAX_FLOOR * q * q * by_r.conj() - (r * r).conj() * by_r;
        let by_z = root.conj() * by_root
            + (root * r).conj() * by_gain
            + (rate * length * (decay + 1.0)).conj() * by_x;
        (
            sign * real_inner(by_z, rate),
            decay.conj() * by_x + sign * step * by_z,
        )
    }
}

/// Re(a* b), the real inner product of two complex numbers.
pub(super) fn real_inner(a: Complex64, b: Complex64) -> f64 {
    a.re * b.re + a.im * b.im
}
