//! The measures, and the matrices of the systems that their coefficients follow.

use super::super::dense::Dense;
use super::super::error::{Result, StateSpaceError, require_pairs, require_positive};
use nalgebra::{DMatrix, DVector};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use std::f64::consts::{PI, SQRT_2};

/// A measure of the past whose coefficients follow a time-invariant system.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// `legs`: Legendre polynomials of e^{−a}.
    Legs,
    /// `legsd`: what is left of `legs` without its rank-one part.
    LegsDiagonal,
    /// `legt`: Legendre polynomials on a window of length 2.
    Legt,
    /// `lmu`: the same on a window of length 1, in the scale of the Legendre Memory Unit (Voelker et al. 2019).
    Lmu,
    /// `lagt`: Laguerre functions; β scales B.
    Lagt {
        /// β, the scale of B, usually 1.
        beta: f64,
    },
    /// `tlagt`: Laguerre functions under a tilt; β = 1 is none.
    TiltedLagt {
        /// β > 0, the tilt; 1 is none.
        beta: f64,
    },
    /// `glagt`: generalised Laguerre functions.
    ///
    /// A_nk = −(1 + β)/2 (n = k), −Λ_k/Λ_n (n > k), 0; B_n = binom(n + α, n) β^{(1−α)/2}/(Λ_n √Γ(1 − α)), with
    /// Λ_n² = Γ(n + α + 1)/n!.
    GeneralisedLagt {
        /// −1 < α < 1.
        alpha: f64,
        /// β > 0 in the formulas of A and B.
        beta: f64,
    },
    /// `fourier` (`fout`): sinusoids on a window of length 2.
    Fourier,
    /// `fourier2`: sinusoids on a window of length 1.
    Fourier2,
    /// `fourier_decay`: as `fourier`, with half of the correction at the window's end.
    FourierDecay,
    /// `fourier_diag` (`foud`): sinusoids that decay by e^{−a/2}, with no correction.
    FourierDiagonal,
}

/// c′ = A c + B u.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// A, N × N.
    pub a: DMatrix<f64>,
    /// B, N numbers.
    pub b: DVector<f64>,
}

impl Transition {
    /// The system with an output y = C c + D u.
    ///
    /// # Errors
    /// C of another length; numbers that are not finite.
    pub fn with_output(self, c: &[f64], d: f64) -> Result<Dense> {
        Dense::new(self.a, self.b, DVector::from_column_slice(c), d)
    }

    /// The system where only the states matter: C = 0.
    ///
    /// # Errors
    /// Numbers that are not finite.
    pub fn states_only(self) -> Result<Dense> {
        let none = vec![0.0; self.b.len()];
        self.with_output(&none, 0.0)
    }
}

impl Measure {
    /// Every measure, with the parameters that published code has where none are given.
    pub const ALL: [Self; 11] = [
        Self::Legs,
        Self::LegsDiagonal,
        Self::Legt,
        Self::Lmu,
        Self::Lagt { beta: 1.0 },
        Self::TiltedLagt { beta: 1.0 },
        Self::GeneralisedLagt {
            alpha: 0.0,
            beta: 0.01,
        },
        Self::Fourier,
        Self::Fourier2,
        Self::FourierDecay,
        Self::FourierDiagonal,
    ];

    /// The measure of a published name, with the parameters of [`Measure::ALL`].
    ///
    /// # Errors
    /// Another name.
    pub fn from_name(name: &str) -> Result<Self> {
        let alias = match name {
            "fout" => "fourier",
            "foud" => "fourier_diag",
            other => other,
        };
        let found = Self::ALL.into_iter().find(|measure| measure.name() == alias);
        found.ok_or_else(|| StateSpaceError::Name {
            what: "measure",
            found: name.to_owned(),
            known: "legs, legsd, legt, lmu, lagt, tlagt, glagt, fourier (fout), fourier2, fourier_decay, fourier_diag (foud)",
        })
    }

    /// The measure's published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Legs => "legs",
            Self::LegsDiagonal => "legsd",
            Self::Legt => "legt",
            Self::Lmu => "lmu",
            Self::Lagt { .. } => "lagt",
            Self::TiltedLagt { .. } => "tlagt",
            Self::GeneralisedLagt { .. } => "glagt",
            Self::Fourier => "fourier",
            Self::Fourier2 => "fourier2",
            Self::FourierDecay => "fourier_decay",
            Self::FourierDiagonal => "fourier_diag",
        }
    }

    /// A and B for N coefficients, as in the table of [the module](super).
    ///
    /// ```
    /// use spillway_ssm_core::state_space::hippo::Measure;
    ///
    /// let legs = Measure::Legs.transition(4)?;
    /// assert_eq!(legs.a[(1, 1)], -2.0);
    /// assert!((legs.a[(2, 1)] + 15.0_f64.sqrt()).abs() < 1e-15);
    /// # Ok::<(), spillway_ssm_core::state_space::StateSpaceError>(())
    /// ```
    ///
    /// # Errors
    /// An odd N for the Fourier measures; α or β outside of their ranges.
    pub fn transition(self, n: usize) -> Result<Transition> {
        self.check(n)?;
        let r = DVector::from_fn(n, |i, _| root(i));
        Ok(match self {
            Self::Legs => Transition {
                a: legs_matrix(n),
                b: r,
            },
            Self::LegsDiagonal => Transition {
                a: legs_matrix(n) + &r * r.transpose() / 2.0,
                b: r / 2.0,
            },
            Self::Legt => Transition {
                a: DMatrix::from_fn(n, n, |i, k| {
                    -0.5 * r[i] * r[k] * if i < k { sign(k - i) } else { 1.0 }
                }),
                b: r / 2.0,
            },
            Self::Lmu => lmu(n),
            Self::Lagt { beta } => laguerre(n, -0.5, beta),
            Self::TiltedLagt { beta } => laguerre(n, -(1.0 + beta) / 2.0, beta),
            Self::GeneralisedLagt { alpha, beta } => generalised_laguerre(n, alpha, beta),
            Self::Fourier => fourier(n, PI, 1.0, 1.0),
            Self::Fourier2 => fourier(n, 2.0 * PI, 2.0, 2.0),
            Self::FourierDecay => fourier(n, PI, 0.5, 0.5),
            Self::FourierDiagonal => {
                let turning = fourier(n, 2.0 * PI, 0.0, 1.0);
                Transition {
                    a: turning.a - DMatrix::identity(n, n) / 2.0,
                    b: turning.b,
                }
            }
        })
    }

    /// Refuses a size or a parameter that a measure is not defined for.
    pub(crate) fn check(self, n: usize) -> Result<()> {
        match self {
            Self::Fourier | Self::Fourier2 | Self::FourierDecay | Self::FourierDiagonal => {
                require_pairs("a Fourier measure", n)
            }
            Self::Lagt { beta } | Self::TiltedLagt { beta } => {
                require_positive("β", || self.name().into(), beta)
            }
            Self::GeneralisedLagt { alpha, beta } => {
                require_positive("β", || self.name().into(), beta)?;
                if alpha > -1.0 && alpha < 1.0 {
                    return Ok(());
                }
                Err(StateSpaceError::Value {
                    what: "α",
                    place: self.name().into(),
                    expected: "a number between −1 and 1",
                    found: alpha,
                })
            }
            Self::Legs | Self::LegsDiagonal | Self::Legt | Self::Lmu => Ok(()),
        }
    }
}

/// `random`: A of independent normal numbers over N, and B of normal numbers; a baseline with no theory.
pub fn random_transition(n: usize, rng: &mut impl Rng) -> Transition {
    let mut normal = || -> f64 { StandardNormal.sample(rng) };
    Transition {
        a: DMatrix::from_fn(n, n, |_, _| normal() / n as f64),
        b: DVector::from_fn(n, |_, _| normal()),
    }
}

/// `diagonal`: A = −diag(e^z) and B of normal numbers, with z normal; a baseline of real modes.
pub fn diagonal_transition(n: usize, rng: &mut impl Rng) -> Transition {
    let mut normal = || -> f64 { StandardNormal.sample(rng) };
    let rates = DVector::from_fn(n, |_, _| -normal().exp());
    Transition {
        a: DMatrix::from_diagonal(&rates),
        b: DVector::from_fn(n, |_, _| normal()),
    }
}

/// r_n = √(2n + 1).
pub(crate) fn root(n: usize) -> f64 {
    ((2 * n + 1) as f64).sqrt()
}

/// (−1)^n: 1 for even n, −1 for odd n.
pub(crate) fn sign(n: usize) -> f64 {
    if n.is_multiple_of(2) { 1.0 } else { -1.0 }
}

fn legs_matrix(n: usize) -> DMatrix<f64> {
    DMatrix::from_fn(n, n, |i, k| match i.cmp(&k) {
        std::cmp::Ordering::Greater => -root(i) * root(k),
        std::cmp::Ordering::Equal => -((i + 1) as f64),
        std::cmp::Ordering::Less => 0.0,
    })
}

fn lmu(n: usize) -> Transition {
    let scale = |i: usize| (2 * i + 1) as f64;
    Transition {
        a: DMatrix::from_fn(n, n, |i, k| scale(i) * if i < k { -1.0 } else { -sign(i - k) }),
        b: DVector::from_fn(n, |i, _| scale(i) * sign(i)),
    }
}

fn laguerre(n: usize, diagonal: f64, beta: f64) -> Transition {
    Transition {
        a: DMatrix::from_fn(n, n, |i, k| match i.cmp(&k) {
            std::cmp::Ordering::Greater => -1.0,
            std::cmp::Ordering::Equal => diagonal,
            std::cmp::Ordering::Less => 0.0,
        }),
        b: DVector::from_element(n, beta),
    }
}

fn generalised_laguerre(n: usize, alpha: f64, beta: f64) -> Transition {
    let plain = laguerre(n, -(1.0 + beta) / 2.0, 1.0);
    let scale = laguerre_scales(n, alpha);
    Transition {
        a: DMatrix::from_fn(n, n, |i, k| plain.a[(i, k)] * scale[k] / scale[i]),
        b: DVector::from_fn(n, |i, _| {
            laguerre_at_zero(i, alpha) * generalised_input_scale(alpha, beta) / scale[i]
        }),
    }
}

/// Λ_n = √(Γ(n + α + 1)/n!), the norms of the generalised Laguerre polynomials.
pub(crate) fn laguerre_scales(n: usize, alpha: f64) -> Vec<f64> {
    let log_square = |i: usize| libm::lgamma(i as f64 + alpha + 1.0) - libm::lgamma(i as f64 + 1.0);
    (0..n).map(|i| (0.5 * log_square(i)).exp()).collect()
}

/// L_n^{(α)}(0) = binom(n + α, n).
fn laguerre_at_zero(n: usize, alpha: f64) -> f64 {
    (1..=n).map(|j| (j as f64 + alpha) / j as f64).product()
}

/// β^{(1−α)/2}/√Γ(1 − α), the factor that all B_n of [`Measure::GeneralisedLagt`] have.
pub(crate) fn generalised_input_scale(alpha: f64, beta: f64) -> f64 {
    beta.powf((1.0 - alpha) / 2.0) / libm::tgamma(1.0 - alpha).sqrt()
}

/// b = (1, 0, √2, 0, √2, …).
fn fourier_input(n: usize) -> DVector<f64> {
    DVector::from_fn(n, |i, _| match i {
        0 => 1.0,
        i if i.is_multiple_of(2) => SQRT_2,
        _ => 0.0,
    })
}

/// Turns by `frequency`·n on the n-th pair of rows, less `correction`·b bᵀ, and `input`·b.
fn fourier(n: usize, frequency: f64, correction: f64, input: f64) -> Transition {
    let b = fourier_input(n);
    let mut a = &b * b.transpose() * -correction;
    for pair in 0..n / 2 {
        let turn = frequency * pair as f64;
        a[(2 * pair + 1, 2 * pair)] += turn;
        a[(2 * pair, 2 * pair + 1)] -= turn;
    }
    Transition { a, b: b * input }
}
