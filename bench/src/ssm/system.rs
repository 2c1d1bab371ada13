//! The systems that there are: HiPPO's measures of the past and S4D's initialisations, by their published names.

use super::window_modes::legt;
use crate::error::ProgramError;
use crate::kit::format::short;
use rand::SeedableRng;
use rand::rngs::StdRng;
use spillway_mitigations::registry::nearest_word;
use spillway_ssm_core::state_space::hippo::normal_plus_low_rank::eigenvalues;
use spillway_ssm_core::state_space::hippo::{Measure, window};
use spillway_ssm_core::state_space::init::{SpectrumOptions, initialise};
use spillway_ssm_core::state_space::{Complex64, Dense, Dplr, StateSpaceError};
use std::f64::consts::LN_2;

/// S4D's initialisations, and what the modes of each are.
const DIAGONAL: [(&str, &str); 7] = [
    (
        "diag-lin",
        "the past by modes that all decay alike, with evenly spaced frequencies",
    ),
    (
        "diag-inv",
        "the past by modes that all decay alike, with a few high and many low frequencies",
    ),
    (
        "diag-inv2",
        "the past by modes that all decay alike, with up to twice the frequencies of diag-inv",
    ),
    (
        "diag-quad",
        "the past by modes that all decay alike, with frequencies that grow as squares",
    ),
    (
        "diag-real",
        "the past by modes that decay at rates 1, 2, 3, … and do not turn",
    ),
    (
        "diag-rand",
        "the past by modes that all decay alike, with frequencies drawn at random",
    ),
    ("diag-legs", "the past by the modes of legs, uncoupled"),
];

/// Names of the same thing.
const ALIASES: [(&str, &str); 2] = [("fout", "fourier"), ("foud", "fourier_diag")];

/// A system by its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Named {
    /// A measure of the past.
    Measure(Measure),
    /// An initialisation of S4D: the name, and what its modes are.
    Diagonal(&'static str, &'static str),
}

/// Every name, for help and messages.
pub fn names() -> Vec<&'static str> {
    let measures = Measure::ALL.into_iter().map(Measure::name);
    measures.chain(DIAGONAL.map(|(name, _)| name)).collect()
}

impl Named {
    /// The system of a name; `lin`, `s4d-lin` and `diag-lin` are one.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for a name that there is not, with the one that was probably meant.
    pub fn parse(option: &str, text: &str) -> Result<Self, ProgramError> {
        let lower = text.trim().to_ascii_lowercase();
        let alias = ALIASES.iter().find(|(alias, _)| *alias == lower);
        let name = alias.map_or(lower.as_str(), |(_, name)| name);
        if let Ok(measure) = Measure::from_name(name) {
            return Ok(Self::Measure(measure));
        }
        let short = name.strip_prefix("s4d-").unwrap_or(name);
        let short = short.strip_prefix("diag-").unwrap_or(short);
        let known = DIAGONAL
            .iter()
            .find(|(known, _)| known.ends_with(&format!("-{short}")));
        if let Some((name, modes)) = known {
            return Ok(Self::Diagonal(name, modes));
        }
        let all = names();
        let written = all.iter().copied().chain(ALIASES.map(|(alias, _)| alias));
        let written = written.chain(DIAGONAL.map(|(name, _)| &name["diag-".len()..]));
        let expected = match nearest_word(name, written) {
            Some(near) => format!("the name of a system (did you mean {near}?)"),
            None => format!("one of {}", all.join(", ")),
        };
        Err(ProgramError::usage(option, expected, text))
    }

    /// Published name of the system: `legs`, `diag-lin`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Measure(measure) => measure.name(),
            Self::Diagonal(name, _) => name,
        }
    }

    /// Whether N has to be even: sinusoids and complex modes come in pairs.
    pub fn has_pairs(self) -> bool {
        !matches!(
            self,
            Self::Measure(
                Measure::Legs
                    | Measure::Legt
                    | Measure::Lmu
                    | Measure::Lagt { .. }
                    | Measure::TiltedLagt { .. }
                    | Measure::GeneralisedLagt { .. }
            )
        )
    }

    /// What of the past it weighs, with `unit` samples to a unit of its time.
    pub fn weighs(self, unit: f64) -> String {
        let samples = |units: f64| short(units * unit);
        let halving = |units: f64| {
            format!(
                "all of the past, half as much every {} samples",
                samples(LN_2 * units)
            )
        };
        match self {
            Self::Measure(Measure::Legs | Measure::LegsDiagonal) => halving(1.0),
            Self::Measure(Measure::FourierDiagonal) => {
                format!(
                    "the past by waves that halve every {} samples",
                    samples(2.0 * LN_2)
                )
            }
            Self::Measure(Measure::Lagt { .. }) => "all of the past alike, by functions that fade".into(),
            Self::Measure(Measure::TiltedLagt { beta } | Measure::GeneralisedLagt { beta, .. }) => {
                halving(1.0 / beta)
            }
            Self::Measure(measure) => match window(measure) {
                Some(end) => format!("the last {} samples alike", samples(end)),
                None => "all of the past".into(),
            },
            Self::Diagonal(_, modes) => modes.into(),
        }
    }

    /// Whether the state's numbers are coefficients of known functions, so that the past can be read off them.
    pub fn measure_with_basis(self) -> Option<Measure> {
        match self {
            // Its functions are those of `legs` only in the limit of large N.
            Self::Measure(Measure::LegsDiagonal) | Self::Diagonal(..) => None,
            Self::Measure(measure) => Some(measure),
        }
    }

    /// The greatest age at which the remembered signal means anything, in units of time.
    pub fn window(self) -> Option<f64> {
        self.measure_with_basis().and_then(window)
    }

    /// The age that the example's output reads, in units of time.
    pub fn reading_age(self) -> f64 {
        self.window().map_or(0.5, |end| end / 2.0)
    }

    /// Up to which age its functions are drawn, in units of time.
    pub fn horizon(self) -> f64 {
        match self {
            Self::Measure(Measure::Lagt { .. } | Measure::GeneralisedLagt { .. }) => 24.0,
            Self::Measure(Measure::TiltedLagt { .. }) => 10.0,
            Self::Measure(Measure::Legs) | Self::Diagonal("diag-real", _) => 4.0,
            other => other.window().map_or(6.0, |end| 1.5 * end),
        }
    }

    /// A and B on N real numbers, with the output C = `output`.
    ///
    /// # Errors
    /// An N that the name is not defined for.
    pub fn system(self, states: usize, output: Option<&[f64]>, seed: u64) -> Result<Dense, StateSpaceError> {
        let silent = vec![0.0; states];
        let output = output.unwrap_or(&silent);
        match self {
            Self::Measure(measure) => measure.transition(states)?.with_output(output, 0.0),
            Self::Diagonal(..) => {
                let (modes, input) = self.modes(states, seed)?;
                // The real coordinates √2 [Re x, Im x], on which the output is put afterwards.
                let none = vec![Complex64::ZERO; modes.len()];
                let real = Dplr::new(modes, Vec::new(), input, none, 0.0)?.to_dense()?;
                let (a, b) = (real.a().clone(), real.b().clone());
                Dense::new(a, b, output.to_vec().into(), 0.0)
            }
        }
    }

    /// λ and B of one of each pair.
    fn modes(self, states: usize, seed: u64) -> Result<(Vec<Complex64>, Vec<Complex64>), StateSpaceError> {
        let mut random = StdRng::seed_from_u64(seed);
        let initial = initialise(self.name(), states, 0, &SpectrumOptions::default(), &mut random)?;
        Ok((initial.eigenvalues(), initial.input))
    }

    /// The N eigenvalues of A, one for each number of the state.
    ///
    /// # Errors
    /// As [`Named::system`].
    pub fn eigenvalues(self, states: usize, seed: u64) -> Result<Vec<Complex64>, StateSpaceError> {
        match self {
            Self::Diagonal(..) => {
                let (modes, _) = self.modes(states, seed)?;
                Ok(modes.iter().flat_map(|z| [*z, z.conj()]).collect())
            }
            // The same matrices in other coordinates, at twice the speed.
            Self::Measure(Measure::Lmu) => Ok(doubled(window_modes(states)?)),
            Self::Measure(Measure::Legt) => window_modes(states),
            Self::Measure(Measure::Fourier2) => Ok(doubled(general(Measure::Fourier, states)?)),
            Self::Measure(measure @ (Measure::Fourier | Measure::FourierDecay)) => general(measure, states),
            Self::Measure(measure) => eigenvalues(measure, states),
        }
    }

    /// Indices of the numbers of the state that are drawn: the first, and of modes those that turn most slowly.
    pub fn drawn(self, states: usize, most: usize, seed: u64) -> Result<Vec<usize>, StateSpaceError> {
        let mut order: Vec<usize> = match self {
            // A sine of frequency 0 is nothing.
            Self::Measure(
                Measure::Fourier | Measure::Fourier2 | Measure::FourierDecay | Measure::FourierDiagonal,
            ) => (0..states).filter(|&n| n != 1).collect(),
            Self::Measure(_) => (0..states).collect(),
            Self::Diagonal(..) => {
                let (modes, _) = self.modes(states, seed)?;
                let mut order: Vec<usize> = (0..modes.len()).collect();
                let key = |n: usize| (modes[n].im.abs(), -modes[n].re);
                order.sort_by(|&i, &j| key(i).0.total_cmp(&key(j).0).then(key(i).1.total_cmp(&key(j).1)));
                order
            }
        };
        order.truncate(most);
        Ok(order)
    }
}

/// Eigenvalues by a solver for matrices of any kind, which is good enough for those that are not far from normal.
fn general(measure: Measure, states: usize) -> Result<Vec<Complex64>, StateSpaceError> {
    let a = measure.transition(states)?.a;
    Ok(a.complex_eigenvalues().iter().copied().collect())
}

fn window_modes(states: usize) -> Result<Vec<Complex64>, StateSpaceError> {
    legt(states).ok_or(StateSpaceError::Singular {
        what: "the equation for the eigenvalues of legt",
        place: format!("N = {states}"),
        instead: "choose another N",
    })
}

fn doubled(values: Vec<Complex64>) -> Vec<Complex64> {
    values.into_iter().map(|z| 2.0 * z).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eigenvalues_of_a_matrix_are_those_of_its_transpose() {
        for measure in [Measure::Fourier, Measure::FourierDecay] {
            for states in [2, 32, 128] {
                let transposed = measure.transition(states).expect("a matrix").a.transpose();
                let others: Vec<Complex64> = transposed.complex_eigenvalues().iter().copied().collect();
                for found in general(measure, states).expect("eigenvalues") {
                    let nearest = others
                        .iter()
                        .map(|z| (z - found).norm())
                        .fold(f64::INFINITY, f64::min);
                    assert!(
                        nearest < 1e-8 * states as f64,
                        "{measure:?} {states}: {found} {nearest}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_name_has_a_system_with_as_many_eigenvalues_as_numbers() {
        for name in names() {
            let named = Named::parse("MEASURE", name).expect("a name");
            assert_eq!(named.name(), name);
            let eigenvalues = named.eigenvalues(8, 0).expect("eigenvalues");
            let system = named.system(8, None, 0).expect("a system");
            let sum: f64 = eigenvalues.iter().map(|z| z.re).sum();
            assert!((sum - system.a().trace()).abs() < 1e-9, "{name}: {sum}");
            assert_eq!(eigenvalues.len(), 8, "{name}");
            assert!(!named.drawn(8, 5, 0).expect("numbers").is_empty());
        }
    }

    #[test]
    fn names_have_aliases_and_slips_are_understood() {
        let name = |text: &str| {
            Named::parse("MEASURE", text)
                .map(Named::name)
                .map_err(|error| error.to_string())
        };
        for (text, expected) in [
            ("fout", "fourier"),
            ("foud", "fourier_diag"),
            ("LegS", "legs"),
            ("lin", "diag-lin"),
            ("s4d-inv", "diag-inv"),
            ("diag-legs", "diag-legs"),
            ("inv2", "diag-inv2"),
        ] {
            assert_eq!(name(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, part) in [
            ("legz", "did you mean legs?"),
            ("furier", "did you mean fourier?"),
            ("x", "one of legs"),
        ] {
            let error = name(text).expect_err(text);
            assert!(error.contains(part) && error.contains(text), "{error}");
        }
    }
}
