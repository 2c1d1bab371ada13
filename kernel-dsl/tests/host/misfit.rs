//! Errors of shape, as an operator gives them, and views of zeros that do not fit.

use std::marker::PhantomData;

use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::shape::{Extent, Role, ShapeError};

pub const ZEROS: [f32; 64] = [0.0; 64];

pub fn rows(rows: usize, cols: usize) -> Rows<'static> {
    Rows::contiguous(&ZEROS, rows, cols).expect("short enough")
}

/// The errors of shape of one operator, each as an `E`.
pub struct Misfit<E> {
    operator: &'static str,
    error: PhantomData<E>,
}

impl<E: From<ShapeError>> Misfit<E> {
    pub const fn of(operator: &'static str) -> Self {
        Self {
            operator,
            error: PhantomData,
        }
    }

    pub fn misfit(&self, role: Role, operand: &'static str, expected: Extent, found: Extent) -> E {
        E::from(ShapeError {
            operator: self.operator,
            operand,
            role,
            expected,
            found,
        })
    }

    pub fn length(&self, operand: &'static str, expected: usize, found: usize) -> E {
        let (expected, found) = (Extent::Values(expected), Extent::Values(found));
        self.misfit(Role::Value, operand, expected, found)
    }

    pub fn gradient_length(&self, operand: &'static str, expected: usize, found: usize) -> E {
        let (expected, found) = (Extent::Values(expected), Extent::Values(found));
        self.misfit(Role::Gradient, operand, expected, found)
    }

    pub fn view(&self, operand: &'static str, expected: (usize, usize), found: (usize, usize)) -> E {
        let extent = |(rows, cols)| Extent::Rows { rows, cols };
        self.misfit(Role::Value, operand, extent(expected), extent(found))
    }
}
