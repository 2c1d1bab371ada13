//! A golden case on an autodiff device: its inputs as leaves, its outputs compared and weighed by their cotangents, the
//! gradients compared.

use crate::devices::{tensor, values};
use crate::support::Case;
use burn::tensor::{Device, Tensor};

pub struct Tape<'a> {
    case: &'a Case,
    name: String,
    device: Device,
    leaves: Vec<(String, Tensor<1>)>,
    loss: Option<Tensor<1>>,
    conditions: Vec<(&'static str, f64)>,
}

impl<'a> Tape<'a> {
    /// The case on `device`, which need not be an autodiff device yet.
    pub fn new(case: &'a Case, name: &str, device: &Device) -> Self {
        Self {
            case,
            name: name.to_owned(),
            device: device.clone().autodiff(),
            leaves: Vec::new(),
            loss: None,
            conditions: Vec::new(),
        }
    }

    /// Says that our form multiplies the rounding of what leads to this output or gradient by `condition`, and that of the
    /// software which made the file does not.
    pub fn condition(&mut self, name: &'static str, condition: f64) {
        self.conditions.push((name, condition));
    }

    fn condition_of(&self, name: &str) -> f64 {
        let known = self.conditions.iter().find(|(known, _)| *known == name);
        known.map_or(1.0, |(_, condition)| *condition)
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The input `in.NAME` as a leaf of the graph.
    pub fn input<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
        self.input_if_any(name, shape)
            .unwrap_or_else(|| panic!("{} has no input {name}", self.case.name))
    }

    /// As [`Tape::input`], if the case has it.
    pub fn input_if_any<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Option<Tensor<D>> {
        let found = self.case.input_if_any(name)?;
        let leaf = tensor(found, [found.len()], &self.device).require_grad();
        self.leaves.push((name.to_owned(), leaf.clone()));
        Some(leaf.reshape(shape))
    }

    /// Compares `out.NAME` and takes it into the loss.
    pub fn output<const D: usize>(&mut self, name: &str, found: Tensor<D>) {
        self.case
            .check_conditioned(&self.name, name, &values(found.clone()), self.condition_of(name));
        let Some(cotangent) = self.case.cotangent_if_any(name) else {
            return;
        };
        let cotangent = tensor(cotangent, found.dims(), &self.device);
        let term = (found * cotangent).sum();
        self.loss = Some(match self.loss.take() {
            Some(loss) => loss + term,
            None => term,
        });
    }

    /// Runs the backward pass and compares the gradient of every input that has one in the file.
    pub fn finish(self) {
        let loss = self.loss.as_ref().expect("at least one output has a cotangent");
        let gradients = loss.backward();
        let mut compared = 0;
        for (name, leaf) in &self.leaves {
            let Some(expected) = self.case.gradient_if_any(name) else {
                continue;
            };
            let found = match leaf.grad(&gradients) {
                Some(gradient) => values(gradient),
                None => vec![0.0; expected.len()],
            };
            self.case
                .check_gradient_conditioned(&self.name, name, &found, self.condition_of(name));
            compared += 1;
        }
        assert!(
            compared > 0,
            "{} has no gradient that was compared",
            self.case.name
        );
    }
}
