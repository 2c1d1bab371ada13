//! Golden cases: inputs and outputs that other people's software computed.
//!
//! The list says of a case its dimensions, its scalars and the error of the same software in f32; its tensors are `in.NAME`, `out.NAME`,
//! `cot.NAME` (the cotangent of an output) and `grad.NAME` (the derivative of Σ ⟨cotangent, output⟩ by an input).

// Each test binary uses its own part of this module.
#![allow(dead_code)]

pub mod differences;
pub mod golden_file;

use std::collections::HashMap;

use serde_json::Value;

use golden_file::Stored;

/// No comparison is asked to be closer than this: f32 inputs and outputs were rounded on their way into the files.
const FLOOR: f64 = 3e-7;
/// No gradient is asked for more than this: where the software's own f32 error is larger, its gradient nearly vanishes.
const CEILING: f64 = 1e-3;
/// Root mean square error that any gradient may have: what rounding leaves of terms of size one that cancel.
const ABSOLUTE_FLOOR: f64 = 5e-7;

/// One case of one operator.
pub struct Case {
    /// `OP/CASE`, for messages.
    pub name: String,
    json: Value,
    tensors: HashMap<String, Vec<f32>>,
}

/// The cases that a property is tested on: so many, or as few as `PROPTEST_CASES` asks for, where each takes long.
pub fn property_cases(usual: u32) -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked
        .and_then(|text| text.parse().ok())
        .map_or(usual, |few: u32| usual.min(few))
}

/// All cases of an operator; panics when there is none.
pub fn cases(op: &str) -> Vec<Case> {
    golden_file::stored(op).into_iter().map(Case::from).collect()
}

impl From<Stored> for Case {
    /// What the software computed, in f32; counts are small enough for it.
    fn from(stored: Stored) -> Self {
        let narrowed = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
        let tensors = stored.tensors.into_iter();
        Self {
            name: stored.name,
            json: stored.json,
            tensors: tensors
                .map(|(name, (_, values))| (name, narrowed(values)))
                .collect(),
        }
    }
}

impl Case {
    /// The tensor `in.NAME`.
    pub fn input(&self, name: &str) -> &[f32] {
        self.input_if_any(name)
            .unwrap_or_else(|| panic!("{} has no input {name}", self.name))
    }

    /// The tensor `in.NAME`, if the case has it.
    pub fn input_if_any(&self, name: &str) -> Option<&[f32]> {
        self.tensors.get(&format!("in.{name}")).map(Vec::as_slice)
    }

    /// The tensor `out.NAME`.
    pub fn output(&self, name: &str) -> &[f32] {
        let tensor = self.tensors.get(&format!("out.{name}"));
        tensor.unwrap_or_else(|| panic!("{} has no output {name}", self.name))
    }

    /// Whether the case has the tensor `out.NAME`.
    pub fn has_output(&self, name: &str) -> bool {
        self.tensors.contains_key(&format!("out.{name}"))
    }

    /// The tensor `cot.NAME`.
    pub fn cotangent(&self, name: &str) -> &[f32] {
        self.cotangent_if_any(name)
            .unwrap_or_else(|| panic!("{} has no cotangent {name}", self.name))
    }

    /// The tensor `cot.NAME`, if the case has it.
    pub fn cotangent_if_any(&self, name: &str) -> Option<&[f32]> {
        self.tensors.get(&format!("cot.{name}")).map(Vec::as_slice)
    }

    /// The tensor `grad.NAME`.
    pub fn gradient(&self, name: &str) -> &[f32] {
        self.gradient_if_any(name)
            .unwrap_or_else(|| panic!("{} has no gradient {name}", self.name))
    }

    /// The tensor `grad.NAME`, if the case has it.
    pub fn gradient_if_any(&self, name: &str) -> Option<&[f32]> {
        self.tensors.get(&format!("grad.{name}")).map(Vec::as_slice)
    }

    /// A dimension by its letter.
    pub fn dim(&self, name: &str) -> usize {
        let dim = self.json["dims"][name].as_u64();
        dim.unwrap_or_else(|| panic!("{} has no dimension {name}", self.name)) as usize
    }

    /// A scalar by its name; infinities are written as text.
    pub fn scalar(&self, name: &str) -> f64 {
        self.scalar_if_any(name)
            .unwrap_or_else(|| panic!("{} has no scalar {name}", self.name))
    }

    /// A scalar by its name, if the case has it and it is not null.
    pub fn scalar_if_any(&self, name: &str) -> Option<f64> {
        number(&self.json["scalars"][name])
    }

    /// A pair of scalars by its name.
    pub fn scalar_pair(&self, name: &str) -> (f64, f64) {
        let pair = &self.json["scalars"][name];
        number(&pair[0])
            .zip(number(&pair[1]))
            .unwrap_or_else(|| panic!("{} has no pair of scalars {name}", self.name))
    }

    /// A scalar as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.json["scalars"][name].as_str()
    }

    /// What `out.NAME` must agree to: ten times the error that the software itself makes in f32.
    pub fn tolerance(&self, output: &str) -> f64 {
        self.tolerance_of(&format!("out.{output}"))
    }

    fn tolerance_of(&self, tensor: &str) -> f64 {
        let own = &self.json["float32_reference_error"][tensor]["rel_l2"];
        let own = own
            .as_f64()
            .unwrap_or_else(|| panic!("{} states no f32 error for {tensor}", self.name));
        (10.0 * own).max(FLOOR)
    }

    /// Panics unless `found` agrees with `grad.NAME` in the relative norm, or in the root mean square where the gradient nearly
    /// vanishes; `form` names what computed it.
    pub fn check_gradient(&self, form: &str, name: &str, found: &[f32]) {
        self.check_gradient_conditioned(form, name, found, 1.0);
    }

    /// As [`Case::check_gradient`], with a condition as for [`Case::check_conditioned`].
    pub fn check_gradient_conditioned(&self, form: &str, name: &str, found: &[f32], condition: f64) {
        let expected = self.gradient(name);
        let error = relative_error(found, expected);
        let norm = expected.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>().sqrt();
        // The software states no relative error of a gradient that is 0.
        let tolerance = if norm == 0.0 {
            0.0
        } else {
            self.tolerance_of(&format!("grad.{name}")).min(CEILING) * condition
        };
        let absolute = if norm == 0.0 { error } else { error * norm } / (expected.len().max(1) as f64).sqrt();
        // Written so that NaN fails.
        let close = error <= tolerance || absolute <= ABSOLUTE_FLOOR;
        assert!(
            close,
            "{} by {form}: the gradient of {name} is off by {error:.2e} ({absolute:.2e} per value), allowed {tolerance:.2e}",
            self.name
        );
    }

    /// Panics unless `found` agrees with `out.NAME`; `form` names what computed it.
    pub fn check(&self, form: &str, output: &str, found: &[f32]) {
        self.check_conditioned(form, output, found, 1.0);
    }

    /// As [`Case::check`], for a form that multiplies the rounding of its inputs by `condition`, and the software's form does not.
    pub fn check_conditioned(&self, form: &str, output: &str, found: &[f32], condition: f64) {
        let error = relative_error(found, self.output(output));
        let tolerance = self.tolerance(output) * condition;
        // Written so that NaN fails.
        let close = error <= tolerance;
        assert!(
            close,
            "{} by {form}: {output} is off by {error:.2e}, allowed {tolerance:.2e}",
            self.name
        );
    }
}

fn number(value: &Value) -> Option<f64> {
    value
        .as_f64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
}

/// ‖found − expected‖ over the larger of ‖expected‖ and ‖terms‖: where the terms of a sum cancel, rounding leaves an error of
/// their size, not of the sum's.
pub fn error_beside(found: &[f32], expected: &[f64], terms: &[f64]) -> f64 {
    let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let (size, terms) = (norm(expected), norm(terms));
    relative_error(found, expected)
        * if terms > size && size > 0.0 {
            size / terms
        } else {
            1.0
        }
}

/// ‖found − expected‖ / ‖expected‖; the plain norm of `found` where nothing was expected.
pub fn relative_error<E: Copy + Into<f64>>(found: &[f32], expected: &[E]) -> f64 {
    assert_eq!(found.len(), expected.len(), "numbers of values");
    let square = |x: f64| x * x;
    let off: f64 = found
        .iter()
        .zip(expected)
        .map(|(f, e)| square(f64::from(*f) - (*e).into()))
        .sum();
    let norm: f64 = expected.iter().map(|e| square((*e).into())).sum();
    if norm == 0.0 {
        off.sqrt()
    } else {
        (off / norm).sqrt()
    }
}
