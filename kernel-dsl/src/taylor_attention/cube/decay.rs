//! The gradient of ln γ: Σ_t Σ_{u ≥ t} (⟨ȳ_u, ỹ_u⟩ − ⟨v_u, v̄_u⟩) within a chunk, and ⟨S̄, S⟩ after it for each of its tokens.

use cubecl::prelude::*;

use super::Call;
use super::forward::ReadOut;
use super::operands::{Panel, Sizes, Source, sizes};
use crate::cube::{DType, DeviceBuffer, Error, launch_units};

impl Call<'_> {
    /// The gradient of ln γ, `[heads]`, from that of the values.
    pub(super) fn by_decay(
        &self,
        forward: &ReadOut,
        by_read: &Source,
        by_states: &DeviceBuffer,
        by_value: &DeviceBuffer,
    ) -> Result<DeviceBuffer, Error> {
        let problem = self.problem;
        let total = self.chunks.count() * problem.heads;
        let of_chunks = DeviceBuffer::zeros(self.client, total, DType::F32)?;
        let gradient = DeviceBuffer::zeros(self.client, problem.heads, DType::F32)?;
        if total == 0 {
            return Ok(gradient);
        }
        launch_units!(
            decay_of_chunk,
            self.client,
            total,
            self.longest(),
            Source::whole(&forward.read, problem.heads, problem.columns())?.panel(),
            by_read.panel(),
            self.value.panel(),
            Source::whole(by_value, problem.heads, problem.value_dim)?.panel(),
            sizes(problem),
            self.chunks.chunks(),
            self.chunks.sequences(),
            forward.states.arg(),
            forward.end.arg(),
            by_states.arg(),
            of_chunks.arg(),
            total,
            self.value.elem(),
        );
        launch_units!(
            decay_of_head,
            self.client,
            problem.heads,
            total,
            of_chunks.arg(),
            gradient.arg(),
            self.chunks.count(),
            problem.heads,
        );
        Ok(gradient)
    }
}

/// What one chunk of one head gives, in one unit.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn decay_of_chunk<F: Float>(
    read: &Panel<f32>,
    by_read: &Panel<f32>,
    value: &Panel<F>,
    by_value: &Panel<f32>,
    sizes: &Sizes,
    chunks: &[u32],
    sequences: &[u32],
    states: &[f32],
    end: &[f32],
    by_states: &[f32],
    out: &mut [f32],
    total: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let (chunk, head) = (ABSOLUTE_POS / sizes.heads, ABSOLUTE_POS % sizes.heads);
        let start = chunks[3 * chunk] as usize;
        let len = chunks[3 * chunk + 1] as usize - start;
        let sequence = chunks[3 * chunk + 2] as usize;
        let is_last = chunk + 1 == sequences[2 * sequence + 1] as usize;
        let state_len = sizes.features * sizes.columns;
        let mut later = 0.0f32;
        for d in 0..sizes.features {
            for col in 0..sizes.value_dim {
                let at = d * sizes.columns + col;
                let mut after = end[(sequence * sizes.heads + head) * state_len + at];
                if !is_last {
                    after = states[((chunk + 1) * sizes.heads + head) * state_len + at];
                }
                later += by_states[ABSOLUTE_POS * state_len + at] * after;
            }
        }
        let mut sum = 0.0f32;
        for step in 0..len {
            let row = start + len - 1 - step;
            for col in 0..sizes.value_dim {
                later += by_read.at(row, head, col) * read.at(row, head, col);
                later -= value.at(row, head, col) * by_value.at(row, head, col);
            }
            sum += later;
        }
        out[ABSOLUTE_POS] = sum;
    }
}

/// The sum over all chunks.
#[cube(launch, address_type = "dynamic")]
fn decay_of_head(of_chunks: &[f32], out: &mut [f32], chunks: usize, heads: usize) {
    if ABSOLUTE_POS < heads {
        let mut sum = 0.0f32;
        for chunk in 0..chunks {
            sum += of_chunks[chunk * heads + ABSOLUTE_POS];
        }
        out[ABSOLUTE_POS] = sum;
    }
}
