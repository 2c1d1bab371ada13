//! How what holds an operand is compared with a shape.

use crate::Rows;
use crate::shape::{Extent, Operator, Role, ShapeError};

/// What kind of operand a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A row per token, in the type of the operator's tokens.
    Rows,
    /// A row per token, in the type of the operator's gates.
    Gates,
    /// A buffer without rows, in f32.
    Values,
}

/// An operand by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// Name of the field that holds it.
    pub name: &'static str,
    /// Kind of the operand; that of a log decay is [`Kind::Gates`].
    pub kind: Kind,
}

impl Operand {
    pub(crate) const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind }
    }
}

/// What a check is about: an operator, what the operands are to it, and what it asks of their types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<T = ()> {
    pub operator: Operator,
    pub role: Role,
    #[cfg_attr(
        not(feature = "cube"),
        allow(dead_code, reason = "in memory there is one type")
    )]
    pub types: T,
}

impl Operator {
    /// Operands in memory, in one role.
    pub(crate) fn in_role(self, role: Role) -> Subject {
        Subject {
            operator: self,
            role,
            types: (),
        }
    }
}

impl<T> Subject<T> {
    /// `expected` is `None` for an operand that the problem does not have.
    pub(super) fn expect(
        &self,
        operand: Operand,
        expected: Option<Extent>,
        found: Extent,
    ) -> Result<(), ShapeError> {
        let expected = expected.unwrap_or(Extent::None);
        self.operator.expect(self.role, operand.name, expected, found)
    }
}

/// What holds an operand whose shape is a `Shape`: rows and columns, or a number of values.
pub(crate) trait Measured<Shape> {
    /// What is asked of element types.
    type Types;
    /// What is wrong with a shape or a type.
    type Error;

    /// Compares with the shape that is expected; none is where the problem does not have the operand.
    fn expect(
        &self,
        subject: &Subject<Self::Types>,
        operand: Operand,
        expected: Option<Shape>,
    ) -> Result<(), Self::Error>;
}

impl Measured<(usize, usize)> for Rows<'_> {
    type Types = ();
    type Error = ShapeError;

    /// Rows that there are none of may have any number of columns.
    fn expect(
        &self,
        subject: &Subject,
        operand: Operand,
        expected: Option<(usize, usize)>,
    ) -> Result<(), ShapeError> {
        match expected {
            Some((0, _)) if self.rows() == 0 => Ok(()),
            _ => subject.expect(operand, expected.map(rows_of), self.into()),
        }
    }
}

impl Measured<usize> for &[f32] {
    type Types = ();
    type Error = ShapeError;

    fn expect(&self, subject: &Subject, operand: Operand, expected: Option<usize>) -> Result<(), ShapeError> {
        subject.expect(operand, expected.map(Extent::Values), Extent::Values(self.len()))
    }
}

impl<T> Measured<usize> for &mut [T] {
    type Types = ();
    type Error = ShapeError;

    fn expect(&self, subject: &Subject, operand: Operand, expected: Option<usize>) -> Result<(), ShapeError> {
        subject.expect(operand, expected.map(Extent::Values), Extent::Values(self.len()))
    }
}

/// Rows that are written lie one after another.
impl<T> Measured<(usize, usize)> for &mut [T] {
    type Types = ();
    type Error = ShapeError;

    fn expect(
        &self,
        subject: &Subject,
        operand: Operand,
        expected: Option<(usize, usize)>,
    ) -> Result<(), ShapeError> {
        Measured::<usize>::expect(self, subject, operand, expected.map(area))
    }
}

/// What is left out fits.
impl<Shape, M: Measured<Shape>> Measured<Shape> for Option<M> {
    type Types = M::Types;
    type Error = M::Error;

    fn expect(
        &self,
        subject: &Subject<M::Types>,
        operand: Operand,
        expected: Option<Shape>,
    ) -> Result<(), M::Error> {
        self.as_ref()
            .map_or(Ok(()), |held| held.expect(subject, operand, expected))
    }
}

/// Values in so many rows and columns, `rows · cols`.
pub(crate) fn area((rows, cols): (usize, usize)) -> usize {
    rows * cols
}

/// A view of so many rows and columns.
pub(super) fn rows_of((rows, cols): (usize, usize)) -> Extent {
    Extent::Rows { rows, cols }
}
