//! Golden cases in f64, and the parameters of state spaces in them.
//!
//! Channel h of a case uses copy h mod S of its shared parameters.

#[path = "../../../kernel-dsl/tests/support/golden_file.rs"]
mod golden_file;

use std::collections::HashMap;

use golden_file::Stored;
use serde_json::Value;
use spillway_ssm_core::state_space::init::Transform;
use spillway_ssm_core::state_space::{Complex64, Diagonal, Discretisation, Dplr, Modes};

/// What f32 leaves of results that were computed in f64.
pub const STORED_IN_F32: f64 = 1e-7;

/// One case of one operator.
pub struct Case {
    /// `OP/CASE`, for messages.
    pub name: String,
    pub json: Value,
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
}

/// All cases of an operator; panics when there is none.
pub fn cases(op: &str) -> Vec<Case> {
    let stored = golden_file::stored(op).into_iter();
    stored
        .map(|Stored { name, json, tensors }| Case { name, json, tensors })
        .collect()
}

impl Case {
    /// The same case with a tensor of the test's own.
    pub fn with(mut self, name: &str, shape: Vec<usize>, values: Vec<f64>) -> Self {
        self.tensors.insert(name.to_owned(), (shape, values));
        self
    }

    /// A tensor by its full name.
    pub fn tensor(&self, name: &str) -> &[f64] {
        self.if_any(name)
            .unwrap_or_else(|| panic!("{} has no tensor {name}", self.name))
    }

    /// A tensor by its full name, if the case has it.
    pub fn if_any(&self, name: &str) -> Option<&[f64]> {
        self.tensors.get(name).map(|(_, values)| values.as_slice())
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> &[usize] {
        let tensor = self.tensors.get(name);
        &tensor
            .unwrap_or_else(|| panic!("{} has no tensor {name}", self.name))
            .0
    }

    /// The names of the inputs, in order.
    pub fn inputs(&self) -> Vec<String> {
        let names = self.tensors.keys().filter_map(|name| name.strip_prefix("in."));
        let mut names: Vec<String> = names.map(String::from).collect();
        names.sort();
        names
    }

    /// A tensor of complex numbers.
    pub fn complex(&self, name: &str) -> Vec<Complex64> {
        let pairs = self.tensor(name).chunks_exact(2);
        pairs.map(|pair| Complex64::new(pair[0], pair[1])).collect()
    }

    /// A scalar of the case.
    pub fn scalar(&self, name: &str) -> &Value {
        &self.json["scalars"][name]
    }

    /// A scalar that is text, or what it is where the case does not say.
    pub fn text<'a>(&'a self, name: &str, otherwise: &'a str) -> &'a str {
        self.scalar(name).as_str().unwrap_or(otherwise)
    }

    /// A scalar that is a number, or what it is where the case does not say.
    pub fn number(&self, name: &str, otherwise: f64) -> f64 {
        self.scalar(name).as_f64().unwrap_or(otherwise)
    }

    /// `l_kernel` of the case.
    pub fn truncated_at(&self) -> usize {
        self.number("l_kernel", 0.0) as usize
    }

    /// The rule of the case.
    pub fn rule(&self) -> Discretisation {
        Discretisation::from_name(self.text("disc", "zoh")).expect("a known rule")
    }

    /// H.
    pub fn channels(&self) -> usize {
        self.shape("in.inv_dt")[0]
    }

    /// How many outputs each channel has.
    pub fn outputs(&self) -> usize {
        self.shape("in.C")[0]
    }

    /// Whether the case has a low-rank part.
    pub fn is_dplr(&self) -> bool {
        self.if_any("in.P").is_some()
    }

    /// Row `row` of a tensor [rows, n].
    fn row<'a, T>(&self, values: &'a [T], row: usize, n: usize) -> &'a [T] {
        &values[row * n..(row + 1) * n]
    }

    /// The step sizes of a channel's modes.
    pub fn steps(&self, channel: usize) -> Vec<f64> {
        let transform = Transform::from_name(self.text("dt_transform", "exp")).expect("a known transform");
        let tied = self.shape("in.inv_dt")[1];
        let modes = *self.shape("in.A_real").last().expect("A_real has modes");
        let row = self.row(self.tensor("in.inv_dt"), channel, tied);
        (0..modes).map(|n| transform.apply(row[n % tied])).collect()
    }

    /// λ of a channel.
    pub fn eigenvalues(&self, channel: usize) -> Vec<Complex64> {
        let transform =
            |name: &str, usual| Transform::from_name(self.text(name, usual)).expect("a known transform");
        let (real, imag) = (
            transform("real_transform", "exp"),
            transform("imag_transform", "none"),
        );
        let shape = self.shape("in.A_real");
        let (copy, n) = (channel % shape[0], shape[1]);
        let re = self.row(self.tensor("in.A_real"), copy, n);
        let im = self
            .if_any("in.A_imag")
            .map(|values| self.row(values, copy, n).to_vec());
        (0..n)
            .map(|i| {
                let im = im.as_ref().map_or(0.0, |im| imag.apply(im[i]));
                Complex64::new(-real.apply(re[i]), -im)
            })
            .collect()
    }

    /// Row (`first`, `second`) of a complex tensor [.., rows, n, 2], or of a real one [.., rows, n].
    pub fn modes(&self, name: &str, first: usize, second: usize) -> Vec<Complex64> {
        let shape = self.shape(name);
        let (rows, n) = (shape[1], shape[2]);
        let row = first * rows + second % rows;
        if shape.len() == 4 {
            self.row(&self.complex(name), row, n).to_vec()
        } else {
            let real = self.row(self.tensor(name), row, n).iter();
            real.map(|&x| Complex64::from(x)).collect()
        }
    }

    /// The diagonal system of a channel with one of its outputs.
    pub fn diagonal(&self, output: usize, channel: usize) -> Diagonal {
        Diagonal::new(
            self.eigenvalues(channel),
            self.modes("in.B", 0, channel),
            self.modes("in.C", output, channel),
            0.0,
            Modes::ConjugatePairs,
        )
        .expect("a system")
    }

    /// The diagonal plus low-rank system of a channel with one of its outputs, as it is stored: C may be truncated.
    pub fn dplr(&self, output: usize, channel: usize) -> Dplr {
        let rank = self.shape("in.P")[0];
        let low_rank = (0..rank).map(|r| self.modes("in.P", r, channel)).collect();
        Dplr::new(
            self.eigenvalues(channel),
            low_rank,
            self.modes("in.B", 0, channel),
            self.modes("in.C", output, channel),
            0.0,
        )
        .expect("a system")
    }

    /// Row (`first`, `second`) of a tensor [.., rows, n].
    pub fn series(&self, name: &str, first: usize, second: usize) -> &[f64] {
        let shape = self.shape(name);
        let (rows, n) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        self.row(self.tensor(name), first * rows + second, n)
    }
}
