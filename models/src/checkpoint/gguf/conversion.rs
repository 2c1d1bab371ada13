//! How the tensors of a file become those of the layout, and back.

use crate::checkpoint::header::Change;

/// How a tensor becomes that of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conversion {
    /// The tensor as it is stored.
    Same,
    /// All values in one dimension; two of them in the file, the second of one.
    Column,
    /// All values in one dimension; two of them in the file, the first of which counts groups.
    Grouped,
    /// The kernel of a depthwise convolution, `[C, 1, K]`; without the dimension of one, or with more of them, in the file.
    Kernel,
    /// A vector in the file, `[1, 1, values]` in the layout.
    Row,
    /// A matrix of one row, `[1, values]`; the file may leave out the dimension of one.
    OneRow,
    /// A = −e^{A_log}; flat where its last dimension is one.
    Decay,
    /// A = −e^{A_log} of one number a head, as `[1, 1, heads, 1]` in the layout.
    DecayOfHeads,
    /// Norms that multiply by 1 + w; the file has that sum.
    ZeroCentred,
    /// The last two dimensions change places.
    Transposed,
    /// Rows of neighbouring pairs become the halves of a head, with as many heads as queries have.
    Queries,
    /// Rows of neighbouring pairs become the halves of a head, with as many heads as keys have.
    Keys,
    /// A vector in the file, divided into heads in the layout, `[heads, width]`.
    Heads,
    /// A stack that is divided into these, each a [`Conversion::Row`].
    Divided(&'static [&'static str]),
    /// A stack of matrices, each a tensor with its number in the place of `{}`.
    Stack,
    /// One of several tensors that are one in the layout: how they are joined, and the place of this one among them.
    Joined(Join, usize),
    /// Rows of heads of values, which the file has tiled: head j belongs to head j mod K of the keys, in the layout to head ⌊j / (V/K)⌋.
    ValueRows(Rows),
    /// [`Conversion::Decay`] of heads of values, which the file has tiled as in [`Conversion::ValueRows`].
    ValueDecay,
    /// A [`Conversion::Kernel`] over queries, keys and values, of which the file has the heads of values tiled as in [`Conversion::ValueRows`].
    ValueKernel,
    /// Columns of heads of values, which the file has tiled as in [`Conversion::ValueRows`].
    ValueColumns,
    /// Divided by 2 in every so many-th block, once more in each of the next ones.
    Rescaled,
    /// Left out: the layout has no place for the tensor.
    Dropped,
}

/// How several tensors are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// Rows of each, one after the other, in every matrix of a stack.
    Rows,
    /// For every head of keys its rows of queries, keys and values from the first tensor, then of the gates from the second.
    KeyHeads,
    /// For every head the rows of its keys from the first tensor, stored transposed, then of its values from the second.
    Latent,
}

/// Which rows of a tensor are those of heads of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// All behind the queries and keys.
    AfterKeys,
    /// All rows of the tensor, for each head as many as a value is wide.
    All,
    /// All rows of the tensor, one for each head.
    OneEach,
}

/// The heads of a model, as far as orders depend on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadCounts {
    /// Number of heads of queries; `keys` is that of keys and values.
    pub queries: usize,
    pub keys: usize,
    /// Width of a head of a recurrence, where tensors do not tell.
    pub width: usize,
    /// Groups of a norm.
    pub groups: usize,
    /// Blocks after which [`Conversion::Rescaled`] weights are divided by two once more; 0 for never.
    pub rescale_every: usize,
    /// Numbers of heads of keys and values in a delta rule, and their widths.
    pub delta: DeltaHeads,
}

/// Heads of a delta rule, of which several of values share one of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeltaHeads {
    pub keys: usize,
    pub values: usize,
    pub key_width: usize,
    pub value_width: usize,
}

impl DeltaHeads {
    /// Heads of values for one of keys.
    pub fn share(&self) -> usize {
        self.values.checked_div(self.keys).unwrap_or(1)
    }
}

impl Conversion {
    /// What happens to the values.
    pub fn change(self, heads: &HeadCounts) -> Change {
        match self {
            Self::Decay | Self::DecayOfHeads | Self::ValueDecay => Change::LogOfNegative,
            Self::ZeroCentred => Change::MinusOne,
            Self::Transposed => Change::Transposed,
            Self::Queries => Change::Halves { heads: heads.queries },
            Self::Keys => Change::Halves { heads: heads.keys },
            Self::ValueColumns if heads.delta.share() > 1 => Change::ColumnsByHead {
                heads: heads.delta.keys,
                copies: heads.delta.share(),
                width: heads.delta.value_width,
            },
            _ => Change::None,
        }
    }

    /// The shape in the layout of one in the file.
    pub fn shape(self, stored: &[usize], heads: &HeadCounts) -> Vec<usize> {
        let count = || stored.iter().product::<usize>();
        match self {
            Self::Heads if heads.width > 0 => vec![count() / heads.width, heads.width],
            Self::Column | Self::Grouped => vec![count()],
            Self::Row | Self::Divided(_) => vec![1, 1, count()],
            Self::OneRow => vec![1, count()],
            Self::DecayOfHeads => vec![1, 1, count(), 1],
            Self::Kernel | Self::ValueKernel => match stored {
                [.., width] if *width > 0 => vec![count() / width, 1, *width],
                other => other.to_vec(),
            },
            Self::Decay | Self::ValueDecay => match stored {
                [heads, 1] => vec![*heads],
                other => other.to_vec(),
            },
            Self::Transposed => swapped(stored),
            _ => stored.to_vec(),
        }
    }

    /// The shape in the file of one in the layout, for the forms that are written.
    pub fn stored_shape(self, shape: &[usize], heads: &HeadCounts) -> Vec<usize> {
        let count = || shape.iter().product::<usize>();
        match (self, shape) {
            (Self::Column, _) => vec![count(), 1],
            (Self::Grouped, _) => vec![heads.groups, count() / heads.groups.max(1)],
            (Self::Row | Self::Heads, _) => vec![count()],
            (Self::Kernel, [channels, _, width]) => vec![*channels, *width],
            (Self::Decay, [heads]) => vec![*heads, 1],
            (Self::Transposed, _) => swapped(shape),
            _ => shape.to_vec(),
        }
    }
}

/// The last two dimensions in each other's place.
fn swapped(shape: &[usize]) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if let [.., rows, columns] = shape.as_mut_slice() {
        std::mem::swap(rows, columns);
    }
    shape
}
