//! One mode of a continuous system made discrete, and the derivatives of that, in f64.

use pulp::c64;

use super::problem::Rule;

/// Ā − 1 and B̄ of one mode, or derivatives by them.
///
/// The distance of Ā from 1 is what an f32 can hold: a slow mode, whose Ā itself were rounded, would be off in the same direction
/// at every token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    pub change: c64,
    pub input: c64,
}

/// Derivatives by Δ, Λ and B of one mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct ModeGradient {
    pub step: f64,
    pub a: c64,
    pub b: c64,
}

impl Rule {
    /// The mode with step size Δ.
    pub(super) fn mode(self, step: f64, a: c64, b: c64) -> Mode {
        let z = a * step;
        match self {
            Self::Given => Mode {
                change: a - 1.0,
                input: b,
            },
            Self::ZeroOrderHold => {
                let change = exp_m1(z);
                Mode {
                    change,
                    input: b * mean_exp(z, change) * step,
                }
            }
            Self::Bilinear => {
                let inverse = (1.0 - z * 0.5).inv();
                Mode {
                    change: z * inverse,
                    input: b * inverse * step,
                }
            }
            Self::Mixed => Mode {
                change: exp_m1(z),
                input: b * step,
            },
        }
    }

    /// Derivatives of a loss by Δ, Λ and B from those by Ā and B̄. A derivative by a complex number is that by its real part plus
    /// i times that by its imaginary part, so that a holomorphic f passes it on by the conjugate of f′.
    pub(super) fn pull_back(
        self,
        step: f64,
        (a, b): (c64, c64),
        mode: &Mode,
        cotangent: &Mode,
    ) -> ModeGradient {
        let (by_change, by_input) = (cotangent.change, cotangent.input);
        let z = a * step;
        let zero = c64::new(0.0, 0.0);
        // Derivatives of Ā and B̄ by Δ, by Λ and of B̄ by B.
        let (by_step, by_a, by_b) = match self {
            Self::Given => ((zero, zero), (c64::new(1.0, 0.0), zero), c64::new(1.0, 0.0)),
            Self::ZeroOrderHold => {
                let decay = mode.change + 1.0;
                let mean = mean_exp(z, mode.change);
                let slope = b * mean_exp_derivative(z, mean, decay) * (step * step);
                ((a * decay, b * decay), (decay * step, slope), mean * step)
            }
            Self::Bilinear => {
                let inverse = (1.0 - z * 0.5).inv();
                let square = inverse * inverse;
                let slope = b * square * (0.5 * step * step);
                ((a * square, b * square), (square * step, slope), inverse * step)
            }
            Self::Mixed => {
                let decay = mode.change + 1.0;
                ((a * decay, b), (decay * step, zero), c64::new(step, 0.0))
            }
        };
        ModeGradient {
            step: (by_step.0.conj() * by_change + by_step.1.conj() * by_input).re,
            a: by_a.0.conj() * by_change + by_a.1.conj() * by_input,
            b: by_b.conj() * by_input,
        }
    }
}

/// e^z − 1 with all digits where z is small.
fn exp_m1(z: c64) -> c64 {
    let growth = z.re.exp();
    let (sin, half) = (z.im.sin(), (0.5 * z.im).sin());
    c64::new(z.re.exp_m1() - 2.0 * growth * half * half, growth * sin)
}

/// (e^z − 1) / z from z and e^z − 1; 1 at 0.
fn mean_exp(z: c64, change: c64) -> c64 {
    match z.norm_sqr() > 0.0 {
        true => change / z,
        false => c64::new(1.0, 0.0),
    }
}

/// The derivative of (e^z − 1) / z, which is (e^z − (e^z − 1)/z) / z; near 0, where these cancel, the series Σ k z^{k−1} / (k + 1)!.
fn mean_exp_derivative(z: c64, mean: c64, exp: c64) -> c64 {
    if z.norm_sqr() >= 0.25 {
        return (exp - mean) / z;
    }
    let mut sum = c64::new(0.0, 0.0);
    let mut factorial = 1.0;
    let mut power = c64::new(1.0, 0.0);
    for k in 1..16 {
        factorial *= f64::from(k + 1);
        sum += power * (f64::from(k) / factorial);
        power *= z;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Derivatives by differences, for steps and modes on both sides of where the series takes over.
    #[test]
    fn derivatives_agree_with_differences() {
        let h = 1e-5;
        let (b, c) = (
            c64::new(0.7, -0.4),
            Mode {
                change: c64::new(0.3, 1.1),
                input: c64::new(-0.8, 0.6),
            },
        );
        let loss = |rule: Rule, step: f64, a: c64, b: c64| {
            let mode = rule.mode(step, a, b);
            (mode.change * c.change.conj() + mode.input * c.input.conj()).re
        };
        for rule in [Rule::Given, Rule::ZeroOrderHold, Rule::Bilinear, Rule::Mixed] {
            for a in [
                c64::new(-0.5, 3.0),
                c64::new(-1e-4, 2e-3),
                c64::new(-0.01, 0.0),
                c64::new(-2.0, -40.0),
            ] {
                let step = 0.1;
                let found = rule.pull_back(step, (a, b), &rule.mode(step, a, b), &c);
                let difference = |f: &dyn Fn(f64) -> f64| (f(h) - f(-h)) / (2.0 * h);
                let i = c64::new(0.0, 1.0);
                for (what, found, expected) in [
                    ("Δ", found.step, difference(&|e| loss(rule, step + e, a, b))),
                    ("Re Λ", found.a.re, difference(&|e| loss(rule, step, a + e, b))),
                    (
                        "Im Λ",
                        found.a.im,
                        difference(&|e| loss(rule, step, a + i * e, b)),
                    ),
                    ("Re B", found.b.re, difference(&|e| loss(rule, step, a, b + e))),
                    (
                        "Im B",
                        found.b.im,
                        difference(&|e| loss(rule, step, a, b + i * e)),
                    ),
                ] {
                    let close = (found - expected).abs() <= 1e-7 * (1.0 + expected.abs());
                    assert!(close, "{rule:?} at {a}: {what} {found} against {expected}");
                }
            }
        }
    }

    #[test]
    fn a_mode_at_rest_integrates_its_input() {
        let mode = Rule::ZeroOrderHold.mode(0.25, c64::new(0.0, 0.0), c64::new(2.0, 1.0));
        assert_eq!(
            (mode.change, mode.input),
            (c64::new(0.0, 0.0), c64::new(0.5, 0.25))
        );
    }
}
