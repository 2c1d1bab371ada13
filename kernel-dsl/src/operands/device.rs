//! Operands on a device.

use super::measured::{Kind, Measured, Operand, Subject, rows_of};
use crate::cube::{DType, DeviceBuffer, DeviceRows, Error};
use crate::shape::{Extent, Operator, Role};

/// Element types of an operator's operands; those without rows are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ElementTypes {
    /// Element type of operands of [`Kind::Rows`].
    pub tokens: DType,
    /// Element type of operands of [`Kind::Gates`].
    pub gates: DType,
}

impl ElementTypes {
    /// Gates in the type of the tokens.
    pub fn all(dtype: DType) -> Self {
        Self {
            tokens: dtype,
            gates: dtype,
        }
    }

    /// The type of an operand.
    pub fn of(&self, operand: Operand) -> DType {
        match operand.kind {
            Kind::Rows => self.tokens,
            Kind::Gates => self.gates,
            Kind::Values => DType::F32,
        }
    }
}

impl Operator {
    /// Operands on a device, in one role.
    pub(crate) fn on_device(self, role: Role, types: ElementTypes) -> Subject<ElementTypes> {
        Subject {
            operator: self,
            role,
            types,
        }
    }
}

impl Subject<ElementTypes> {
    fn expect_type(&self, operand: Operand, found: DType) -> Result<(), Error> {
        let expected = self.types.of(operand);
        self.operator
            .device_type(self.role, operand.name, expected, found)
    }
}

impl Measured<(usize, usize)> for DeviceRows {
    type Types = ElementTypes;
    type Error = Error;

    fn expect(
        &self,
        subject: &Subject<ElementTypes>,
        operand: Operand,
        expected: Option<(usize, usize)>,
    ) -> Result<(), Error> {
        let found = rows_of((self.rows(), self.cols()));
        subject.expect(operand, expected.map(rows_of), found)?;
        subject.expect_type(operand, self.dtype())
    }
}

impl Measured<usize> for DeviceBuffer {
    type Types = ElementTypes;
    type Error = Error;

    fn expect(
        &self,
        subject: &Subject<ElementTypes>,
        operand: Operand,
        expected: Option<usize>,
    ) -> Result<(), Error> {
        subject.expect(operand, expected.map(Extent::Values), Extent::Values(self.len()))?;
        subject.expect_type(operand, self.dtype())
    }
}
