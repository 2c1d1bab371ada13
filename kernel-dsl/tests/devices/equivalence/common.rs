//! What the tests of every operator on devices share: layouts of sequences, values, comparisons.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::ops::Range;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_kernel_dsl::cube::{Client, DType};
use spillway_kernel_dsl::{Rows, Sequences};

use crate::support::relative_error;

/// Allowed relative error in f32, times √(tokens + 1).
pub const TOLERANCE: f64 = 2e-6;

pub fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(crate::support::property_cases(cases))
    }
}

/// How sequences lie, owned.
#[derive(Clone, Debug)]
pub enum Layout {
    Equal { batch: usize, time: usize },
    LeftPadded { time: usize, padding: Vec<usize> },
    Packed { offsets: Vec<usize> },
}

impl Layout {
    pub fn batch(&self) -> usize {
        match self {
            Self::Equal { batch, .. } => *batch,
            Self::LeftPadded { padding, .. } => padding.len(),
            Self::Packed { offsets } => offsets.len() - 1,
        }
    }

    pub fn time(&self) -> usize {
        match self {
            Self::Equal { time, .. } | Self::LeftPadded { time, .. } => *time,
            Self::Packed { offsets } => offsets[offsets.len() - 1],
        }
    }

    pub fn sequences(&self) -> Sequences<'_> {
        match self {
            Self::Equal { .. } => Sequences::Equal,
            Self::LeftPadded { padding, .. } => Sequences::LeftPadded(padding),
            Self::Packed { offsets } => Sequences::Packed(offsets),
        }
    }

    pub fn rows(&self) -> usize {
        self.sequences().rows(self.batch(), self.time())
    }
}

/// Every layout, with sequences of at most `longest` tokens, empty ones included.
pub fn any_layout(longest: usize) -> impl Strategy<Value = Layout> {
    let lengths = prop::collection::vec(0..=longest, 1..4);
    prop_oneof![
        (1..3_usize, 0..=longest).prop_map(|(batch, time)| Layout::Equal { batch, time }),
        lengths.clone().prop_map(|lengths| {
            let time = lengths.iter().copied().max().unwrap_or(0);
            let padding = lengths.iter().map(|length| time - length).collect();
            Layout::LeftPadded { time, padding }
        }),
        lengths.prop_map(|lengths| {
            let mut offsets = vec![0];
            for length in lengths {
                offsets.push(offsets[offsets.len() - 1] + length);
            }
            Layout::Packed { offsets }
        }),
    ]
}

/// Values that a seed fixes.
pub struct Source(StdRng);

impl Source {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub fn values(&mut self, len: usize, range: Range<f32>) -> Vec<f32> {
        (0..len).map(|_| self.0.random_range(range.clone())).collect()
    }
}

/// Token rows with a gap behind each.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub data: Vec<f32>,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

impl Matrix {
    pub fn new(source: &mut Source, rows: usize, cols: usize, gap: usize, range: Range<f32>) -> Self {
        let stride = cols + gap;
        Self {
            data: source.values(rows * stride, range),
            rows,
            cols,
            stride,
        }
    }

    pub fn view(&self) -> Rows<'_> {
        Rows::new(&self.data, self.rows, self.cols, self.stride).expect("the view fits")
    }

    /// The rows of a range.
    pub fn part(&self, range: Range<usize>) -> Self {
        let at = |row: usize| (row * self.stride).min(self.data.len());
        Self {
            data: self.data[at(range.start)..at(range.end)].to_vec(),
            rows: range.len(),
            ..*self
        }
    }

    /// Rounds all values to a type.
    pub fn round(&mut self, dtype: DType) {
        for x in &mut self.data {
            *x = match dtype {
                DType::F32 => *x,
                DType::F16 => half::f16::from_f32(*x).to_f32(),
                DType::BF16 => half::bf16::from_f32(*x).to_f32(),
            };
        }
    }
}

/// Fails where the relative error leaves the bound, NaN included.
pub fn close(
    what: &str,
    found: &[f32],
    expected: &[impl Copy + Into<f64>],
    bound: f64,
) -> Result<(), TestCaseError> {
    let error = relative_error(found, expected);
    let norm: f64 = expected.iter().map(|&e| e.into().powi(2)).sum::<f64>().sqrt();
    // Sums that nearly vanish have no relative error to speak of.
    let absolute = if norm == 0.0 { error } else { error * norm } / (expected.len().max(1) as f64).sqrt();
    let close = error <= bound || absolute <= 1e-7;
    prop_assert!(
        close,
        "{what} is off by {error:.2e} ({absolute:.2e} per value), allowed {bound:.2e}"
    );
    Ok(())
}

/// Half-precision types that a device has.
pub fn half_types(client: &Client) -> Vec<DType> {
    let types = [DType::F16, DType::BF16];
    types
        .into_iter()
        .filter(|dtype| dtype.is_supported(client))
        .collect()
}

pub fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}
