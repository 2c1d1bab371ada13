//! Shapes of a WKV-4 recurrence, and every way in which they can be wrong.

use thiserror::Error;

use crate::rows::Rows;
use crate::sequences::{Sequences, SequencesError};

/// Where the running maximum of a state begins: a state without tokens is (0, 0, this). Anything less, −∞ included, is
/// taken for this value, so that no difference of two maxima is NaN.
pub const EMPTY_MAX: f32 = -1e38;

/// The shape of a WKV-4 recurrence.
///
/// # Shapes
/// State `[batch, 3, channels]`: numerators, denominators (both divided by e^max) and maxima. Output
/// `[batch, time, channels]`. Both row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Independent sequences.
    pub batch: usize,
    /// Tokens of each sequence in this call, or of all together where they are packed; 0 leaves the state as it is.
    pub time: usize,
    /// Channels, each with a state of its own.
    pub channels: usize,
}

/// What a WKV-4 recurrence reads. Every [`Rows`] has `channels` columns and as many rows as [`Problem::rows`] says.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// w, `[channels]`: 0 or less, the logarithm of the decay. Models store time_decay, with w = −exp(time_decay).
    pub log_decay: &'a [f32],
    /// u, `[channels]`: added to the key of the present token. Models call it time_first.
    pub bonus: &'a [f32],
    /// k; −∞ hides a token.
    pub key: Rows<'a>,
    /// v.
    pub value: Rows<'a>,
    /// Which rows belong to which sequence.
    pub sequences: Sequences<'a>,
}

/// Cotangents of what a WKV-4 recurrence gives: the derivatives of a loss by it.
#[derive(Clone, Copy, Debug)]
pub struct Cotangents<'a> {
    /// By the output, `channels` columns.
    pub out: Rows<'a>,
    /// By the final state, `[batch, 3, channels]`; `None` where the loss does not see it.
    pub state: Option<&'a [f32]>,
}

/// Where the gradients of the inputs go: contiguous buffers of each input's shape, overwritten.
///
/// `T` is f32, or f64 for [`reference::backward`](crate::wkv4::reference::backward).
#[derive(Debug)]
pub struct Gradients<'a, T = f32> {
    /// Of w, `[channels]`.
    pub log_decay: &'a mut [T],
    /// Of u, `[channels]`.
    pub bonus: &'a mut [T],
    /// Of k, `[rows, channels]`.
    pub key: &'a mut [T],
    /// Of v, `[rows, channels]`.
    pub value: &'a mut [T],
    /// Of the initial state, `[batch, 3, channels]`.
    pub state: &'a mut [T],
}

/// A buffer or view that a WKV-4 recurrence takes, as named in its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// [`Inputs::log_decay`].
    LogDecay,
    /// [`Inputs::bonus`].
    Bonus,
    /// [`Inputs::key`].
    Key,
    /// [`Inputs::value`].
    Value,
    /// The state.
    State,
    /// The output.
    Output,
    /// The summed log decays of an element.
    LogDecaySum,
    /// The update of an element.
    Update,
}

impl std::fmt::Display for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LogDecay => "log_decay",
            Self::Bonus => "bonus",
            Self::Key => "key",
            Self::Value => "value",
            Self::State => "state",
            Self::Output => "out",
            Self::LogDecaySum => "log_decay_sum",
            Self::Update => "update",
        })
    }
}

/// Why a WKV-4 recurrence cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum Wkv4Error {
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
    /// A log decay is positive or NaN.
    #[error("log_decay of channel {channel} needs to be 0 or less, found {found}")]
    LogDecayValue {
        /// Which channel.
        channel: usize,
        /// What it is.
        found: f32,
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
}

impl Problem {
    /// Values of the state, `batch·3·channels`.
    pub fn state_len(&self) -> usize {
        self.batch * 3 * self.channels
    }

    /// Rows of the views and of the output.
    pub fn rows(&self, sequences: &Sequences) -> usize {
        sequences.rows(self.batch, self.time)
    }

    /// Values of the output, rows times channels.
    pub fn out_len(&self, sequences: &Sequences) -> usize {
        self.rows(sequences) * self.channels
    }

    /// A state that has seen no token: zeros, with maxima of [`EMPTY_MAX`].
    pub fn empty_state(&self) -> Vec<f32> {
        let mut state = vec![0.0; self.state_len()];
        if self.channels > 0 {
            let maxima = state.chunks_exact_mut(self.channels).skip(2).step_by(3);
            maxima.for_each(|max| max.fill(EMPTY_MAX));
        }
        state
    }

    /// Checks every shape of a forward call, and the log decays.
    ///
    /// # Errors
    /// [`Wkv4Error`], naming the operand, what it needs and what it has.
    pub fn validate(&self, inputs: &Inputs, state: &[f32], out: &[f32]) -> Result<(), Wkv4Error> {
        self.validate_inputs(inputs)?;
        check_length(Operand::State, self.state_len(), state.len())?;
        check_length(Operand::Output, self.out_len(&inputs.sequences), out.len())
    }

    /// Checks the sizes, the layout of the sequences and the inputs.
    pub(crate) fn validate_inputs(&self, inputs: &Inputs) -> Result<(), Wkv4Error> {
        self.validate_sizes()?;
        inputs.sequences.validate(self.batch, self.time)?;
        let shape = (self.rows(&inputs.sequences), self.channels);
        check_length(Operand::LogDecay, self.channels, inputs.log_decay.len())?;
        check_length(Operand::Bonus, self.channels, inputs.bonus.len())?;
        check_rows(Operand::Key, &inputs.key, shape)?;
        check_rows(Operand::Value, &inputs.value, shape)?;
        // There is one per channel, not one per token, so that looking at all of them costs next to nothing.
        match inputs.log_decay.iter().position(|w| w.is_nan() || *w > 0.0) {
            Some(channel) => Err(Wkv4Error::LogDecayValue {
                channel,
                found: inputs.log_decay[channel],
            }),
            None => Ok(()),
        }
    }

    /// Checks that no operand has more values than can be counted.
    pub(crate) fn validate_sizes(&self) -> Result<(), Wkv4Error> {
        // Sizes of 0 count as 1, so that no product of the others overflows either.
        let product = |sizes: [usize; 3]| {
            sizes
                .iter()
                .try_fold(1_usize, |product, &size| product.checked_mul(size.max(1)))
        };
        let Self {
            batch,
            time,
            channels,
        } = *self;
        match (product([batch, time, channels]), product([batch, 3, channels])) {
            (Some(_), Some(_)) => Ok(()),
            _ => Err(Wkv4Error::TooLarge(*self)),
        }
    }

    /// Checks every shape of a backward call; `T` is the type of the gradients.
    pub(crate) fn validate_backward<T>(
        &self,
        inputs: &Inputs,
        initial_state_len: usize,
        cotangents: &Cotangents,
        gradients: &Gradients<T>,
    ) -> Result<(), Wkv4Error> {
        self.validate_inputs(inputs)?;
        check_length(Operand::State, self.state_len(), initial_state_len)?;
        let rows = self.rows(&inputs.sequences);
        self.check_cotangents(rows, cotangents)?;
        for (operand, expected, found) in [
            (Operand::LogDecay, self.channels, gradients.log_decay.len()),
            (Operand::Bonus, self.channels, gradients.bonus.len()),
            (Operand::Key, rows * self.channels, gradients.key.len()),
            (Operand::Value, rows * self.channels, gradients.value.len()),
            (Operand::State, self.state_len(), gradients.state.len()),
        ] {
            if expected != found {
                return Err(Wkv4Error::GradientLength {
                    operand,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }

    fn check_cotangents(&self, rows: usize, cotangents: &Cotangents) -> Result<(), Wkv4Error> {
        let operand = Operand::Output;
        if cotangents.out.rows() != rows {
            return Err(Wkv4Error::CotangentRowCount {
                operand,
                expected: rows,
                found: cotangents.out.rows(),
            });
        }
        if cotangents.out.cols() != self.channels {
            return Err(Wkv4Error::CotangentColumnCount {
                operand,
                expected: self.channels,
                found: cotangents.out.cols(),
            });
        }
        match cotangents.state {
            Some(state) if state.len() != self.state_len() => Err(Wkv4Error::CotangentLength {
                operand: Operand::State,
                expected: self.state_len(),
                found: state.len(),
            }),
            _ => Ok(()),
        }
    }
}

/// Checks one view of tokens.
fn check_rows(operand: Operand, view: &Rows, (rows, columns): (usize, usize)) -> Result<(), Wkv4Error> {
    if view.rows() != rows {
        return Err(Wkv4Error::RowCount {
            operand,
            expected: rows,
            found: view.rows(),
        });
    }
    if view.cols() != columns {
        return Err(Wkv4Error::ColumnCount {
            operand,
            expected: columns,
            found: view.cols(),
        });
    }
    Ok(())
}

/// Checks the length of a buffer.
pub(crate) fn check_length(operand: Operand, expected: usize, found: usize) -> Result<(), Wkv4Error> {
    if expected == found {
        Ok(())
    } else {
        Err(Wkv4Error::Length {
            operand,
            expected,
            found,
        })
    }
}
