//! Eigenvalues, input and low-rank vectors by published names.
//!
//! λ_n = −Re_n − i Im_n for n from 0 to N/2 − 1, one of each conjugate pair:
//!
//! | name | Re | Im | source |
//! |---|---|---|---|
//! | `lin` | ½ | πn | S4D-Lin, 2206.11893 |
//! | `inv` | ½ | (N/π)(N/(2n + 1) − 1) | S4D-Inv |
//! | `inv2` | ½ | (N/π)(N/(n + 1) − 1) | S4's code |
//! | `quad` | ½ | (2n + 1)²/π | S4's code |
//! | `real` | n + 1 | 0 | S4D-Real |
//! | `rand` | ½ | e^z, z normal | S4's code |
//! | `legs` | ½ | of the normal part of HiPPO-LegS | S4D-LegS |
//!
//! `diag-NAME` has no low-rank part, and `dplr-NAME` a complex normal one. `legs`, `legt`, `lagt`, `tlagt`, `glagt`, `fourier`
//! (`fout`), `fourier2`, `fourier_decay`, `fourier_diag` (`foud`) and `legsd` without a prefix are the forms of those measures with
//! their rank corrections: what S4 itself starts from.

use super::super::diagonal::{Diagonal, Modes};
use super::super::dplr::Dplr;
use super::super::error::{Result, StateSpaceError, require_finite, require_pairs};
use super::super::hippo::{Measure, NormalPlusLowRank};
use super::complex_normal;
use num_complex::Complex64;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use std::f64::consts::PI;

/// B of a diagonal initialisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputInit {
    /// `constant`: B_n = 1.
    #[default]
    Constant,
    /// `random`: B_n complex normal.
    Random,
    /// `alternating`: 1, −1, 1, …
    Alternating,
    /// `unit-cw`: B_n = e^{−2πin/N}.
    UnitClockwise,
    /// `unit-ccw`: B_n = e^{2πin/N}.
    UnitCounterclockwise,
    /// `legs`: V*B of HiPPO-LegS. `legs` eigenvalues always have it; the theory asks for half of it, published code for all.
    Legs,
}

impl InputInit {
    /// The initialisation of a published name.
    ///
    /// # Errors
    /// Another name.
    pub fn from_name(name: &str) -> Result<Self> {
        Ok(match name {
            "constant" => Self::Constant,
            "random" => Self::Random,
            "alternating" => Self::Alternating,
            "unit-cw" => Self::UnitClockwise,
            "unit-ccw" => Self::UnitCounterclockwise,
            "legs" => Self::Legs,
            _ => {
                return Err(StateSpaceError::Name {
                    what: "initialisation of B",
                    found: name.to_owned(),
                    known: "constant, random, alternating, unit-cw, unit-ccw, legs",
                });
            }
        })
    }
}

/// What the published code lets one change about an initialisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpectrumOptions {
    /// Factor on every Re_n, except those of `real`; 1 by default.
    pub real_scale: f64,
    /// Factor on every Im_n; 1 by default.
    pub imag_scale: f64,
    /// Re uniform from 0 to 1; for `real` whole numbers, uniform from 0 to N/2 − 1.
    pub real_random: bool,
    /// n in the formulas of Im is (N/2) times a uniform number.
    pub imag_random: bool,
    /// How B of `diag-NAME` and `dplr-NAME` is drawn, but for `legs`.
    pub input: InputInit,
    /// Factor on every B_n; 1 by default.
    pub input_scale: f64,
    /// Factor on P of `dplr-NAME`; 1 by default.
    pub low_rank_scale: f64,
    /// B/√ζ with ζ = 2 Σ |B_n/λ_n|², so that white noise leaves a state of size 1.
    pub normalise: bool,
}

impl Default for SpectrumOptions {
    fn default() -> Self {
        Self {
            real_scale: 1.0,
            imag_scale: 1.0,
            real_random: false,
            imag_random: false,
            input: InputInit::Constant,
            input_scale: 1.0,
            low_rank_scale: 1.0,
            normalise: false,
        }
    }
}

/// The parameters of one system, one of each conjugate pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Initial {
    /// Re_n ≥ 0, the rates of decay.
    pub real: Vec<f64>,
    /// Im_n ≥ 0, the angular frequencies.
    pub imag: Vec<f64>,
    /// B, the input of every mode.
    pub input: Vec<Complex64>,
    /// P, as many vectors as the rank.
    pub low_rank: Vec<Vec<Complex64>>,
    /// C that reads the first coefficient, V*e₀: the deterministic C of the published code. Of diagonal initialisations, 1s.
    pub first_coefficient: Vec<Complex64>,
}

impl Initial {
    /// λ_n = −Re_n − i Im_n.
    pub fn eigenvalues(&self) -> Vec<Complex64> {
        let pairs = self.real.iter().zip(&self.imag);
        pairs.map(|(re, im)| Complex64::new(-re, -im)).collect()
    }

    /// S4's system with this C and D.
    ///
    /// # Errors
    /// C of another length; numbers that are not finite.
    pub fn dplr(&self, output: Vec<Complex64>, skip: f64) -> Result<Dplr> {
        Dplr::new(
            self.eigenvalues(),
            self.low_rank.clone(),
            self.input.clone(),
            output,
            skip,
        )
    }

    /// S4D's system with this C and D, without P.
    ///
    /// # Errors
    /// As [`Initial::dplr`].
    pub fn diagonal(&self, output: Vec<Complex64>, skip: f64) -> Result<Diagonal> {
        let modes = Modes::ConjugatePairs;
        Diagonal::new(self.eigenvalues(), self.input.clone(), output, skip, modes)
    }
}

/// The parameters of a published name, for N states.
///
/// ```
/// use rand::{SeedableRng, rngs::StdRng};
/// use spillway_ssm_core::state_space::init::{SpectrumOptions, initialise};
///
/// let mut rng = StdRng::seed_from_u64(0);
/// let lin = initialise("diag-lin", 64, 0, &SpectrumOptions::default(), &mut rng)?;
/// assert_eq!(lin.imag[2], 2.0 * std::f64::consts::PI);
/// # Ok::<(), spillway_ssm_core::state_space::StateSpaceError>(())
/// ```
///
/// # Errors
/// Another name; an odd N; a rank below the measure's own; scales that are not finite.
pub fn initialise(
    name: &str,
    state_size: usize,
    rank: usize,
    options: &SpectrumOptions,
    rng: &mut impl Rng,
) -> Result<Initial> {
    require_pairs("an initialisation", state_size)?;
    let scales = [
        options.real_scale,
        options.imag_scale,
        options.input_scale,
        options.low_rank_scale,
    ];
    require_finite("the scales of an initialisation", scales)?;
    let mut initial = if let Some(spectrum) = name.strip_prefix("diag-") {
        diagonal(spectrum, state_size, options, rng)?
    } else if let Some(spectrum) = name.strip_prefix("dplr-") {
        let mut initial = diagonal(spectrum, state_size, options, rng)?;
        let vector = |_| {
            let normal = complex_normal(state_size / 2, rng);
            normal.into_iter().map(|p| p * options.low_rank_scale).collect()
        };
        initial.low_rank = (0..rank).map(vector).collect();
        return Ok(initial);
    } else {
        return of_measure(name, state_size, rank);
    };
    initial.low_rank = vec![vec![Complex64::ZERO; state_size / 2]; rank];
    Ok(initial)
}

/// The form of a HiPPO measure, as it stands.
fn of_measure(name: &str, state_size: usize, rank: usize) -> Result<Initial> {
    let measure = Measure::from_name(name).map_err(|_| StateSpaceError::Name {
        what: "initialisation",
        found: name.to_owned(),
        known: "diag-NAME, dplr-NAME (lin, inv, inv2, quad, real, rand, legs), or a measure's name",
    })?;
    let form = NormalPlusLowRank::of_measure(measure, state_size, rank)?;
    let mut first = vec![0.0; state_size];
    first[0] = 1.0;
    Ok(Initial {
        real: form.eigenvalues.iter().map(|z| -z.re).collect(),
        imag: form.eigenvalues.iter().map(|z| -z.im).collect(),
        first_coefficient: form.output(&first)?,
        input: form.input,
        low_rank: form.low_rank,
    })
}

/// Λ and B of a diagonal name.
fn diagonal(name: &str, state_size: usize, options: &SpectrumOptions, rng: &mut impl Rng) -> Result<Initial> {
    let (half, size) = (state_size / 2, state_size as f64);
    let mut uniform = |random: bool, usual: f64, scale: f64| {
        if random {
            scale * rng.random::<f64>()
        } else {
            usual
        }
    };
    let mut real: Vec<f64> = (0..half)
        .map(|_| options.real_scale * uniform(options.real_random, 0.5, 1.0))
        .collect();
    let index: Vec<f64> = (0..half)
        .map(|n| uniform(options.imag_random, n as f64, size / 2.0))
        .collect();
    let mut input_init = options.input;
    let by = |f: &dyn Fn(f64) -> f64| index.iter().map(|&n| options.imag_scale * f(n)).collect();
    let imag: Vec<f64> = match name {
        "lin" => by(&|n| PI * n),
        "inv" => by(&|n| size / PI * (size / (2.0 * n + 1.0) - 1.0)),
        "inv2" => by(&|n| size / PI * (size / (n + 1.0) - 1.0)),
        "quad" => by(&|n| (2.0 * n + 1.0).powi(2) / PI),
        "real" => {
            real = (0..half)
                .map(|n| uniform(options.real_random, (n + 1) as f64, size / 2.0))
                .map(|rate| if options.real_random { rate.floor() } else { rate })
                .collect();
            vec![0.0; half]
        }
        "rand" => (0..half)
            .map(|_| options.imag_scale * f64::exp(StandardNormal.sample(rng)))
            .collect(),
        "legs" => {
            input_init = InputInit::Legs;
            let form = NormalPlusLowRank::of_measure(Measure::Legs, state_size, 1)?;
            form.eigenvalues
                .iter()
                .map(|z| options.imag_scale * -z.im)
                .collect()
        }
        _ => {
            return Err(StateSpaceError::Name {
                what: "spectrum",
                found: name.to_owned(),
                known: "lin, inv, inv2, quad, real, rand, legs",
            });
        }
    };
    let input = inputs(input_init, state_size, options.input_scale, rng)?;
    let mut initial = Initial {
        real,
        imag,
        input,
        low_rank: Vec::new(),
        first_coefficient: vec![Complex64::ONE; half],
    };
    if options.normalise {
        normalise(&mut initial)?;
    }
    Ok(initial)
}

fn inputs(init: InputInit, state_size: usize, scale: f64, rng: &mut impl Rng) -> Result<Vec<Complex64>> {
    let half = state_size / 2;
    let turn = |n: usize| 2.0 * PI * n as f64 / state_size as f64;
    let input: Vec<Complex64> = match init {
        InputInit::Constant => vec![Complex64::ONE; half],
        InputInit::Random => complex_normal(half, rng),
        InputInit::Alternating => (0..half)
            .map(|n| Complex64::from(1.0 - 2.0 * (n % 2) as f64))
            .collect(),
        InputInit::UnitClockwise => (0..half).map(|n| Complex64::cis(-turn(n))).collect(),
        InputInit::UnitCounterclockwise => (0..half).map(|n| Complex64::cis(turn(n))).collect(),
        InputInit::Legs => NormalPlusLowRank::of_measure(Measure::Legs, state_size, 1)?.input,
    };
    Ok(input.into_iter().map(|b| b * scale).collect())
}

/// B/√ζ with ζ = 2 Σ |B_n/λ_n|².
fn normalise(initial: &mut Initial) -> Result<()> {
    let ratios = initial.input.iter().zip(initial.eigenvalues());
    let energy: f64 = 2.0 * ratios.map(|(b, z)| (b / z).norm_sqr()).sum::<f64>();
    if !(energy.is_finite() && energy > 0.0) {
        return Err(StateSpaceError::Value {
            what: "ζ = 2 Σ |B/λ|²",
            place: "the normalisation of B".into(),
            expected: "a finite number above 0",
            found: energy,
        });
    }
    for b in &mut initial.input {
        *b /= energy.sqrt();
    }
    Ok(())
}
