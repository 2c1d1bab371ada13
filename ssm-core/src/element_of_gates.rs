//! The monoid element of given gates, by running their recurrence.

use crate::chunking::Chunking;
use crate::dispatch::run_gates;
use crate::element::{Element, Transition, empty_state, identity_matrices};
use crate::error::Result;
use crate::gates::{Dims, Gates, LogDecay, Rule};
use crate::operators::element::{element, sum_of_log_decays};
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;

impl Element {
    /// The element of `gates`, computed from keys, values, decays and erasures; queries are not looked at. Only a weighted sum
    /// looks at `chunk_size`.
    ///
    /// # Errors
    /// [`crate::Error`] when shapes do not fit.
    pub fn of(gates: &Gates, chunk_size: usize) -> Result<Self> {
        let dims = gates.validate()?;
        if dims.time == 0 {
            return Ok(Self::identity_of(gates));
        }
        match (gates.rule(), &gates.log_decay) {
            (Rule::Delta, _) => of_delta_rule(gates, &dims),
            (Rule::WeightedSum, LogDecay::PerStep(_)) | (Rule::Mean, _) => of_run(gates, &dims),
            (Rule::WeightedSum, _) => element(gates, chunk_size),
        }
    }
}

/// G as what the recurrence leaves of an empty state; A from the decays alone.
fn of_run(gates: &Gates, dims: &Dims) -> Result<Element> {
    let mut state = empty_state(gates);
    run_gates(gates.clone(), &Sequences::Equal, &mut state, Chunking::Fastest)?;
    let device = gates.value.device();
    let transition = match (gates.rule(), &gates.log_decay, &gates.step_size) {
        (Rule::Mean, decay, _) => Transition::Mean(sum_of_log_decays(decay, dims, &device)),
        (_, LogDecay::PerStep(a), Some(step)) => {
            let steps: Tensor<3> = step.clone().sum_dim(1).reshape([dims.batch, dims.heads, 1]);
            Transition::Decay(steps * a.clone().unsqueeze::<3>())
        }
        (_, decay, _) => Transition::Decay(sum_of_log_decays(decay, dims, &device)),
    };
    Ok(Element {
        transition,
        update: state.memory,
    })
}

/// The element of a delta rule by one run over columns of two kinds: those that start from the identity and are never written become A,
/// those that start from nothing become G.
fn of_delta_rule(gates: &Gates, dims: &Dims) -> Result<Element> {
    let device = gates.value.device();
    let (key_dim, value_dim) = (dims.key_dim, dims.value_dim);
    let unwritten = Tensor::zeros([dims.batch, dims.time, dims.heads, key_dim], &device);
    let mut both = gates.clone();
    both.value = Tensor::cat(vec![unwritten, both.value], 3);
    both.skip = None;
    let nothing = State::zeros(dims, &device).memory;
    let mut state = State {
        memory: Tensor::cat(vec![identity_matrices(dims, &device), nothing], 3),
        position: 0,
    };
    run_gates(both, &Sequences::Equal, &mut state, Chunking::Fastest)?;
    Ok(Element {
        transition: Transition::Matrix(state.memory.clone().narrow(3, 0, key_dim)),
        update: state.memory.narrow(3, key_dim, value_dim),
    })
}
