//! Sizes of a feature map, and every way they can be wrong.

use crate::operands::operator;
use crate::shape::ShapeError;
use thiserror::Error;

/// Which polynomial of s q·k the inner product of features is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expansion {
    /// 1 + x + x²/2.
    Taylor,
    /// x² alone, with x = s q·k.
    Square,
}

impl Expansion {
    /// Coefficients \[c₀, c₁, c₂\] of the polynomial c₀ + c₁ x + c₂ x².
    pub fn coefficients(self) -> [f64; 3] {
        match self {
            Self::Taylor => [1.0, 1.0, 0.5],
            Self::Square => [0.0, 0.0, 1.0],
        }
    }
}

/// Which entries of x xᵀ are features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    /// All K², row by row.
    Full,
    /// The K (K + 1)/2 of the upper triangle, row by row; those off the diagonal times √2.
    Symmetric,
}

/// A feature map of keys and queries of one head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureMap {
    /// K, values of a key.
    pub key_dim: usize,
    /// s, the factor on q·k; 1/√K in both papers.
    pub scale: f32,
    /// Which polynomial of s q·k the inner product of features is.
    pub expansion: Expansion,
    /// Which entries of x xᵀ are features.
    pub packing: Packing,
}

/// A feature map of keys that lie in rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// Number of rows.
    pub rows: usize,
    /// Keys of a row.
    pub heads: usize,
    /// The map of each key.
    pub map: FeatureMap,
}

operator! {
    "feature map", Problem as problem;
    /// What a feature map reads.
    inputs<R> {
        /// x, `[rows, heads · key_dim]`.
        input: Rows[problem.rows, problem.heads * problem.map.key_dim],
    }
    /// What a feature map gives.
    output<R> {
        /// φ(x), `[rows, heads · features]`.
        out: Rows[problem.rows, problem.heads * problem.map.features()],
    }
}

/// Why features cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum FeatureMapError {
    /// The scale has no real root.
    #[error("a feature map needs a positive, finite scale, found {0}")]
    Scale(f32),
    /// Rows do not consist of whole keys.
    #[error("feature map: {what} needs rows of a multiple of {unit} values, found {cols}")]
    Columns {
        /// Name of the view whose rows do not fit, as a phrase.
        what: &'static str,
        /// Values of one head.
        unit: usize,
        /// Columns of the view, which are no multiple of `unit`.
        cols: usize,
    },
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl FeatureMap {
    /// D, features of a key.
    pub fn features(&self) -> usize {
        let quadratic = match self.packing {
            Packing::Full => self.key_dim * self.key_dim,
            Packing::Symmetric => self.key_dim * (self.key_dim + 1) / 2,
        };
        match self.expansion {
            Expansion::Taylor => 1 + self.key_dim + quadratic,
            Expansion::Square => quadratic,
        }
    }

    /// Factors on 1, on x, and on x xᵀ: √c₀, √(c₁ s), √c₂ s.
    pub(crate) fn factors(&self) -> [f64; 3] {
        let [c0, c1, c2] = self.expansion.coefficients();
        let scale = f64::from(self.scale);
        [c0.sqrt(), (c1 * scale).sqrt(), c2.sqrt() * scale]
    }

    pub(crate) fn check_scale(&self) -> Result<(), FeatureMapError> {
        if self.scale > 0.0 && self.scale.is_finite() {
            Ok(())
        } else {
            Err(FeatureMapError::Scale(self.scale))
        }
    }

    /// The problem of a view of so many rows and columns.
    pub(super) fn of_rows(&self, rows: usize, cols: usize) -> Result<Problem, FeatureMapError> {
        self.check_scale()?;
        let whole = self.key_dim > 0 && cols.is_multiple_of(self.key_dim);
        if !whole {
            return Err(FeatureMapError::Columns {
                what: "the input",
                unit: self.key_dim,
                cols,
            });
        }
        Ok(Problem {
            rows,
            heads: cols / self.key_dim,
            map: *self,
        })
    }
}

impl Problem {
    /// Number of keys in all rows, `rows · heads`.
    pub(super) fn keys(&self) -> usize {
        self.rows * self.heads
    }
}
