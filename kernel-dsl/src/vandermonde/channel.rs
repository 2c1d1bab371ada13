//! The modes of a channel in f64, and what they weigh in the rows that they make.

use super::discretization::Mode;
use super::problem::modes_of;
use super::{Inputs, Problem, VandermondeError};
use crate::complex::{self, Complex64, Lanes};

/// The modes of one channel.
pub(super) struct Channel<'p> {
    pub problem: &'p Problem,
    /// Index of the channel.
    pub index: usize,
    pub modes: Vec<Mode>,
    /// b̄ of every mode.
    pub input_gain: Vec<Complex64>,
    /// Whether powers of any mode count from the last position.
    pub any_reversed: bool,
}

/// A row over positions that the modes of a channel make.
#[derive(Clone, Copy, Debug)]
pub(super) enum Made {
    /// K of a row of C.
    Kernel { readout: usize },
    /// S of an initial state and a row of C.
    Response { sequence: usize, readout: usize },
}

/// Σ_l s_l āˡ and Σ_l l s_l ā^{l−1} of a row s, for every mode.
pub(super) struct Sums {
    pub value: Lanes,
    pub slope: Lanes,
}

impl Sums {
    pub fn new(modes: usize) -> Self {
        Self {
            value: Lanes::zeros(modes),
            slope: Lanes::zeros(modes),
        }
    }
}

impl<'p> Channel<'p> {
    pub fn new(problem: &'p Problem, inputs: &Inputs, index: usize) -> Result<Self, VandermondeError> {
        let modes = modes_of(problem, inputs.step, inputs.a, index)?;
        let gain =
            |(n, mode): (usize, &Mode)| mode.gain * complex::at(inputs.b, problem.copy_index(index, n));
        Ok(Self {
            input_gain: modes.iter().enumerate().map(gain).collect(),
            any_reversed: modes.iter().any(|mode| mode.reversed),
            problem,
            index,
            modes,
        })
    }

    /// B of a mode.
    pub fn b(&self, inputs: &Inputs, n: usize) -> Complex64 {
        complex::at(inputs.b, self.problem.copy_index(self.index, n))
    }

    /// C of a readout and mode.
    pub fn c(&self, inputs: &Inputs, readout: usize, n: usize) -> Complex64 {
        let row = readout * self.problem.channels + self.index;
        complex::at(inputs.c, row * self.problem.modes + n)
    }

    /// The initial state of a sequence and mode.
    pub fn state(&self, inputs: &Inputs, sequence: usize, n: usize) -> Complex64 {
        let row = sequence * self.problem.channels + self.index;
        complex::at(inputs.state, row * self.problem.modes + n)
    }

    /// What a power of mode n weighs in a row, the factor of the real part in it.
    pub fn weight(&self, inputs: &Inputs, row: Made, n: usize) -> Complex64 {
        let weight = match row {
            Made::Kernel { readout } => self.c(inputs, readout, n) * self.input_gain[n],
            Made::Response { sequence, readout } => {
                let state = self.state(inputs, sequence, n);
                self.c(inputs, readout, n) * state * self.modes[n].root
            }
        };
        self.problem.factor() * weight
    }

    /// The state after a signal, mode by mode, of the sums over the signal from its last position to its first.
    pub fn next_state(&self, inputs: &Inputs, sequence: usize, sums: &Sums, out: &mut [f32]) {
        for (n, mode) in self.modes.iter().enumerate() {
            let kept = complex::power(mode.root, self.problem.length);
            let carried = kept * self.state(inputs, sequence, n);
            complex::put(out, n, carried + self.input_gain[n] * sums.value.get(n));
        }
    }
}
