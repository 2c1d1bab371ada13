//! Shapes of a selective scan, and every way in which they can be wrong.

use thiserror::Error;

use crate::rows::Rows;
use crate::sequences::{Sequences, SequencesError};

/// The shape of a selective scan.
///
/// # Shapes
/// State `[batch, channels, state_dim]`, output `[batch, time, channels]`, both row-major. Channel `d` reads b and c of
/// group `d / (channels / groups)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Independent sequences.
    pub batch: usize,
    /// Tokens of each sequence in this call, or of all together where they are packed; 0 leaves the state as it is.
    pub time: usize,
    /// Channels D, each with a state of its own.
    pub channels: usize,
    /// Values N in the state of a channel.
    pub state_dim: usize,
    /// Groups G of channels that share b and c; `channels` is a multiple of it.
    pub groups: usize,
}

/// What a selective scan reads. Every [`Rows`] has as many rows as [`Problem::rows`] says.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// u, `channels` columns.
    pub input: Rows<'a>,
    /// Δ, `channels` columns, after its softplus.
    pub step_size: Rows<'a>,
    /// A, `[channels, state_dim]`, negative.
    pub a: &'a [f32],
    /// B, `groups·state_dim` columns.
    pub b: Rows<'a>,
    /// C, `groups·state_dim` columns.
    pub c: Rows<'a>,
    /// D, `[channels]`: y_t += D∘u_t.
    pub skip: Option<&'a [f32]>,
    /// z, `channels` columns: y_t is multiplied by SiLU(z_t).
    pub gate: Option<Rows<'a>>,
    /// Which rows belong to which sequence.
    pub sequences: Sequences<'a>,
}

/// Cotangents of what a selective scan gives: the derivatives of a loss by it.
#[derive(Clone, Copy, Debug)]
pub struct Cotangents<'a> {
    /// By the output, `channels` columns.
    pub out: Rows<'a>,
    /// By the final state, `[batch, channels, state_dim]`; `None` where the loss does not see it.
    pub state: Option<&'a [f32]>,
}

/// Where the gradients of the inputs go: contiguous buffers of each input's shape, overwritten.
///
/// `T` is f32, or f64 for [`reference::backward`](crate::selective_scan::reference::backward).
#[derive(Debug)]
pub struct Gradients<'a, T = f32> {
    /// Of u, `[rows, channels]`.
    pub input: &'a mut [T],
    /// Of Δ, `[rows, channels]`.
    pub step_size: &'a mut [T],
    /// Of A, `[channels, state_dim]`.
    pub a: &'a mut [T],
    /// Of B, `[rows, groups·state_dim]`.
    pub b: &'a mut [T],
    /// Of C, `[rows, groups·state_dim]`.
    pub c: &'a mut [T],
    /// Of D, `[channels]`; `None` where it is not wanted or there is no skip.
    pub skip: Option<&'a mut [T]>,
    /// Of z, `[rows, channels]`; `None` where it is not wanted or there is no gate.
    pub gate: Option<&'a mut [T]>,
    /// Of the initial state, `[batch, channels, state_dim]`.
    pub state: &'a mut [T],
}

/// A buffer or view that a selective scan takes, as named in its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// [`Inputs::input`].
    Input,
    /// [`Inputs::step_size`].
    StepSize,
    /// [`Inputs::a`].
    A,
    /// [`Inputs::b`].
    B,
    /// [`Inputs::c`].
    C,
    /// [`Inputs::skip`].
    Skip,
    /// [`Inputs::gate`].
    Gate,
    /// The state.
    State,
    /// The output.
    Output,
    /// The summed step sizes of an element.
    StepSizeSum,
    /// The update of an element.
    Update,
}

impl std::fmt::Display for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::StepSize => "step_size",
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::Skip => "skip",
            Self::Gate => "gate",
            Self::State => "state",
            Self::Output => "out",
            Self::StepSizeSum => "step_size_sum",
            Self::Update => "update",
        })
    }
}

/// Why a selective scan cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum ScanError {
    /// The channels do not divide into the groups.
    #[error("{channels} channels do not divide into {groups} groups")]
    Groups {
        /// Number of channels.
        channels: usize,
        /// Number of groups.
        groups: usize,
    },
    /// The number of values of some operand does not fit into a `usize`.
    #[error("the problem {0:?} has more values than this machine can address")]
    TooLarge(Problem),
    /// The sequences do not lie as stated.
    #[error(transparent)]
    Sequences(#[from] SequencesError),
    /// A view has the wrong number of rows.
    #[error("{operand} needs {expected} rows, found {found}")]
    RowCount {
        /// Which view.
        operand: Operand,
        /// Rows that it needs.
        expected: usize,
        /// Rows that it has.
        found: usize,
    },
    /// A view has the wrong number of columns.
    #[error("{operand} needs {expected} columns, found {found}")]
    ColumnCount {
        /// Which view.
        operand: Operand,
        /// Columns that it needs.
        expected: usize,
        /// Columns that it has.
        found: usize,
    },
    /// A buffer has the wrong length.
    #[error("{operand} needs {expected} values, found {found}")]
    Length {
        /// Which buffer.
        operand: Operand,
        /// Values that it needs.
        expected: usize,
        /// Values that it has.
        found: usize,
    },
    /// The cotangent of the output is a view with the wrong number of rows.
    #[error("the cotangent of {operand} needs {expected} rows, found {found}")]
    CotangentRowCount {
        /// Whose cotangent.
        operand: Operand,
        /// Rows that it needs.
        expected: usize,
        /// Rows that it has.
        found: usize,
    },
    /// The cotangent of the output is a view with the wrong number of columns.
    #[error("the cotangent of {operand} needs {expected} columns, found {found}")]
    CotangentColumnCount {
        /// Whose cotangent.
        operand: Operand,
        /// Columns that it needs.
        expected: usize,
        /// Columns that it has.
        found: usize,
    },
    /// The cotangent of the state has the wrong length.
    #[error("the cotangent of {operand} needs {expected} values, found {found}")]
    CotangentLength {
        /// Whose cotangent.
        operand: Operand,
        /// Values that it needs.
        expected: usize,
        /// Values that it has.
        found: usize,
    },
    /// A gradient has the wrong length.
    #[error("the gradient of {operand} needs {expected} values, found {found}")]
    GradientLength {
        /// Whose gradient.
        operand: Operand,
        /// Values that it needs.
        expected: usize,
        /// Values that it has.
        found: usize,
    },
    /// A gradient is asked for an input that is not there.
    #[error("there is no {operand} whose gradient could be taken, found a buffer of {found} values for it")]
    GradientWithoutInput {
        /// Whose gradient.
        operand: Operand,
        /// Values of the buffer.
        found: usize,
    },
    /// A step takes exactly one token.
    #[error("a step takes time = 1 token, found {found}")]
    NotOneToken {
        /// Tokens in the problem.
        found: usize,
    },
    /// The chunk holds no token.
    #[error("a chunk needs at least one token, found chunk_size = 0")]
    EmptyChunk,
    /// A value of A is positive or NaN, found by [`Problem::check_values`].
    #[error("a of channel {channel} and state value {index} needs to be 0 or less, found {found}")]
    AValue {
        /// Which channel.
        channel: usize,
        /// Which value of its state.
        index: usize,
        /// What it is.
        found: f32,
    },
    /// A step size is negative or NaN, found by [`Problem::check_values`].
    #[error("step_size of row {row} and channel {channel} needs to be 0 or more, found {found}")]
    StepSizeValue {
        /// Which row.
        row: usize,
        /// Which channel.
        channel: usize,
        /// What it is.
        found: f32,
    },
}

impl Problem {
    /// Values of the state, `batch·channels·state_dim`.
    pub fn state_len(&self) -> usize {
        self.batch * self.channels * self.state_dim
    }

    /// Rows of the views and of the output.
    pub fn rows(&self, sequences: &Sequences) -> usize {
        sequences.rows(self.batch, self.time)
    }

    /// Values of the output, rows times channels.
    pub fn out_len(&self, sequences: &Sequences) -> usize {
        self.rows(sequences) * self.channels
    }

    /// Channels that share b and c.
    pub fn channels_per_group(&self) -> usize {
        self.channels / self.groups
    }

    /// Checks every shape of a forward call.
    ///
    /// # Errors
    /// [`ScanError`], naming the operand, what it needs and what it has.
    pub fn validate(&self, inputs: &Inputs, state: &[f32], out: &[f32]) -> Result<(), ScanError> {
        self.validate_inputs(inputs)?;
        check_length(Operand::State, self.state_len(), state.len())?;
        check_length(Operand::Output, self.out_len(&inputs.sequences), out.len())
    }

    /// Checks the sizes, the layout of the sequences and the inputs.
    pub(crate) fn validate_inputs(&self, inputs: &Inputs) -> Result<(), ScanError> {
        self.validate_sizes()?;
        inputs.sequences.validate(self.batch, self.time)?;
        let (rows, columns) = (self.rows(&inputs.sequences), self.groups * self.state_dim);
        check_rows(Operand::Input, &inputs.input, (rows, self.channels))?;
        check_rows(Operand::StepSize, &inputs.step_size, (rows, self.channels))?;
        check_length(Operand::A, self.channels * self.state_dim, inputs.a.len())?;
        check_rows(Operand::B, &inputs.b, (rows, columns))?;
        check_rows(Operand::C, &inputs.c, (rows, columns))?;
        if let Some(skip) = inputs.skip {
            check_length(Operand::Skip, self.channels, skip.len())?;
        }
        match &inputs.gate {
            Some(gate) => check_rows(Operand::Gate, gate, (rows, self.channels)),
            None => Ok(()),
        }
    }

    /// Checks that the sizes divide and that no operand has more values than can be counted.
    pub(crate) fn validate_sizes(&self) -> Result<(), ScanError> {
        let Self {
            batch,
            time,
            channels,
            state_dim,
            groups,
        } = *self;
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(ScanError::Groups { channels, groups });
        }
        // Sizes of 0 count as 1, so that no product of the others overflows either.
        let product = |sizes: &[usize]| {
            sizes
                .iter()
                .try_fold(1_usize, |product, &size| product.checked_mul(size.max(1)))
        };
        let fits = product(&[batch, channels, state_dim]).is_some()
            && product(&[batch, time, channels]).is_some()
            && product(&[batch, time, groups, state_dim]).is_some();
        if fits {
            Ok(())
        } else {
            Err(ScanError::TooLarge(*self))
        }
    }

    /// Checks every shape of a backward call; `T` is the type of the gradients.
    pub(crate) fn validate_backward<T>(
        &self,
        inputs: &Inputs,
        initial_state_len: usize,
        cotangents: &Cotangents,
        gradients: &Gradients<T>,
    ) -> Result<(), ScanError> {
        self.validate_inputs(inputs)?;
        check_length(Operand::State, self.state_len(), initial_state_len)?;
        let rows = self.rows(&inputs.sequences);
        self.check_cotangents(rows, cotangents)?;
        let (per_channel, per_group) = (rows * self.channels, rows * self.groups * self.state_dim);
        let check = |operand, expected, found| match expected == found {
            true => Ok(()),
            false => Err(ScanError::GradientLength {
                operand,
                expected,
                found,
            }),
        };
        check(Operand::Input, per_channel, gradients.input.len())?;
        check(Operand::StepSize, per_channel, gradients.step_size.len())?;
        check(Operand::A, inputs.a.len(), gradients.a.len())?;
        check(Operand::B, per_group, gradients.b.len())?;
        check(Operand::C, per_group, gradients.c.len())?;
        check(Operand::State, self.state_len(), gradients.state.len())?;
        let optional = |operand, present: bool, expected, found: Option<usize>| match (present, found) {
            (_, None) => Ok(()),
            (true, Some(found)) => check(operand, expected, found),
            (false, Some(found)) => Err(ScanError::GradientWithoutInput { operand, found }),
        };
        let skip = gradients.skip.as_ref().map(|skip| skip.len());
        optional(Operand::Skip, inputs.skip.is_some(), self.channels, skip)?;
        let gate = gradients.gate.as_ref().map(|gate| gate.len());
        optional(Operand::Gate, inputs.gate.is_some(), per_channel, gate)
    }

    fn check_cotangents(&self, rows: usize, cotangents: &Cotangents) -> Result<(), ScanError> {
        let operand = Operand::Output;
        if cotangents.out.rows() != rows {
            return Err(ScanError::CotangentRowCount {
                operand,
                expected: rows,
                found: cotangents.out.rows(),
            });
        }
        if cotangents.out.cols() != self.channels {
            return Err(ScanError::CotangentColumnCount {
                operand,
                expected: self.channels,
                found: cotangents.out.cols(),
            });
        }
        match cotangents.state {
            Some(state) if state.len() != self.state_len() => Err(ScanError::CotangentLength {
                operand: Operand::State,
                expected: self.state_len(),
                found: state.len(),
            }),
            _ => Ok(()),
        }
    }

    /// Checks that no value of A is positive or NaN and no step size of a token is negative or NaN: with such values
    /// states grow without bound or are lost. It costs a pass over both, so that no operator does it unasked.
    ///
    /// # Errors
    /// [`ScanError::AValue`] and [`ScanError::StepSizeValue`]; [`ScanError`] when a shape is wrong.
    pub fn check_values(&self, inputs: &Inputs) -> Result<(), ScanError> {
        self.validate_inputs(inputs)?;
        if let Some(at) = inputs.a.iter().position(|a| a.is_nan() || *a > 0.0) {
            return Err(ScanError::AValue {
                channel: at / self.state_dim,
                index: at % self.state_dim,
                found: inputs.a[at],
            });
        }
        for row in (0..self.batch).flat_map(|b| inputs.sequences.span(b, self.time)) {
            let steps = inputs.step_size.row(row);
            if let Some(channel) = steps.iter().position(|step| step.is_nan() || *step < 0.0) {
                return Err(ScanError::StepSizeValue {
                    row,
                    channel,
                    found: steps[channel],
                });
            }
        }
        Ok(())
    }
}

/// Checks one view of tokens.
fn check_rows(operand: Operand, view: &Rows, (rows, columns): (usize, usize)) -> Result<(), ScanError> {
    if view.rows() != rows {
        return Err(ScanError::RowCount {
            operand,
            expected: rows,
            found: view.rows(),
        });
    }
    if view.cols() != columns {
        return Err(ScanError::ColumnCount {
            operand,
            expected: columns,
            found: view.cols(),
        });
    }
    Ok(())
}

/// Checks the length of a buffer.
pub(crate) fn check_length(operand: Operand, expected: usize, found: usize) -> Result<(), ScanError> {
    if expected == found {
        Ok(())
    } else {
        Err(ScanError::Length {
            operand,
            expected,
            found,
        })
    }
}
