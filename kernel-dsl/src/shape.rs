//! The shapes of an operator's operands, and the one error that says which of them does not fit.

use std::fmt::{self, Display, Formatter};

use crate::Rows;

/// What a buffer is to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// An input, a state or an output of the forward pass, or the element of a monoid.
    Value,
    /// The derivative of the loss by an output or a final state, which a backward pass reads.
    Cotangent,
    /// The derivative of the loss by an input or an initial state, which a backward pass writes.
    Gradient,
}

impl Display for Role {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value => "",
            Self::Cotangent => "the cotangent of ",
            Self::Gradient => "the gradient of ",
        })
    }
}

/// How much a buffer or a view holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Neither a buffer nor a view.
    None,
    /// A buffer of so many values.
    Values(usize),
    /// A view of tokens.
    Rows {
        /// Rows, one per token.
        rows: usize,
        /// Values of a row.
        cols: usize,
    },
}

impl Display for Extent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "none"),
            Self::Values(count) => write!(f, "{count} values"),
            Self::Rows { rows, cols } => write!(f, "{rows} rows of {cols} values"),
        }
    }
}

impl From<&Rows<'_>> for Extent {
    fn from(view: &Rows<'_>) -> Self {
        Self::Rows {
            rows: view.rows(),
            cols: view.cols(),
        }
    }
}

/// An operand that does not have the shape that the problem says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operator}: {role}{operand} needs {expected}, found {found}")]
pub struct ShapeError {
    /// Name of the operator that was called.
    pub operator: &'static str,
    /// The operand, by the name of its field or argument.
    pub operand: &'static str,
    /// Whether it is the operand itself, its cotangent or its gradient.
    pub role: Role,
    /// What the problem asks for.
    pub expected: Extent,
    /// What the operand holds.
    pub found: Extent,
}

/// An operator's name, which checks its operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operator(pub(crate) &'static str);

impl Operator {
    /// An operand that is one buffer.
    pub(crate) fn values(
        self,
        operand: &'static str,
        expected: usize,
        found: usize,
    ) -> Result<(), ShapeError> {
        self.expect(
            Role::Value,
            operand,
            Extent::Values(expected),
            Extent::Values(found),
        )
    }

    /// A view of tokens that no declaration names. Rows that there are none of may have any number of columns.
    #[allow(dead_code, reason = "most views are declared")]
    pub(crate) fn rows(
        self,
        operand: &'static str,
        (rows, cols): (usize, usize),
        view: &Rows,
    ) -> Result<(), ShapeError> {
        match rows == 0 && view.rows() == 0 {
            true => Ok(()),
            false => self.expect(Role::Value, operand, Extent::Rows { rows, cols }, view.into()),
        }
    }

    /// The cotangent of a final state, where the loss sees it.
    pub(crate) fn cotangent(
        self,
        operand: &'static str,
        expected: usize,
        found: Option<&[f32]>,
    ) -> Result<(), ShapeError> {
        let found = found.map_or(expected, <[f32]>::len);
        self.expect(
            Role::Cotangent,
            operand,
            Extent::Values(expected),
            Extent::Values(found),
        )
    }

    /// The buffer for a gradient.
    pub(crate) fn gradient<T>(
        self,
        operand: &'static str,
        expected: usize,
        found: &[T],
    ) -> Result<(), ShapeError> {
        self.expect(
            Role::Gradient,
            operand,
            Extent::Values(expected),
            Extent::Values(found.len()),
        )
    }

    pub(crate) fn expect(
        self,
        role: Role,
        operand: &'static str,
        expected: Extent,
        found: Extent,
    ) -> Result<(), ShapeError> {
        match expected == found {
            true => Ok(()),
            false => Err(self.error(role, operand, expected, found)),
        }
    }

    pub(crate) fn error(
        self,
        role: Role,
        operand: &'static str,
        expected: Extent,
        found: Extent,
    ) -> ShapeError {
        ShapeError {
            operator: self.0,
            operand,
            role,
            expected,
            found,
        }
    }
}

/// Whether the product of all sizes fits a `usize`, zeros counted as ones, so that no product of the others overflows either.
pub(crate) fn all_fit(sizes: &[usize]) -> bool {
    sizes
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size.max(1)))
        .is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_operator_operand_role_and_both_extents() {
        let scan = Operator("selective scan");
        let values = [0.0_f32; 12];
        let view = Rows::contiguous(&values, 3, 4).expect("that many");
        assert_eq!(scan.rows("b", (3, 4), &view), Ok(()));
        let text = |result: Result<(), ShapeError>| result.expect_err("it does not fit").to_string();
        assert_eq!(
            text(scan.rows("b", (3, 5), &view)),
            "selective scan: b needs 3 rows of 5 values, found 3 rows of 4 values"
        );
        assert_eq!(
            text(scan.cotangent("state", 6, Some(&values))),
            "selective scan: the cotangent of state needs 6 values, found 12 values"
        );
        assert_eq!(
            text(scan.expect(Role::Gradient, "skip", Extent::None, Extent::Values(12))),
            "selective scan: the gradient of skip needs none, found 12 values"
        );
        assert_eq!(scan.cotangent("state", 6, None), Ok(()));
    }
    #[test]
    fn no_rows_may_have_any_columns() {
        let none = Rows::contiguous(&[], 0, 7).expect("nothing");
        assert_eq!(Operator("norm").rows("input", (0, 4), &none), Ok(()));
        assert!(Operator("norm").rows("input", (1, 7), &none).is_err());
    }
}
