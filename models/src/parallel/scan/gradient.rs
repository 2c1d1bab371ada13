//! Gradients through a recurrence whose tokens lie on several ranks.
//!
//! A rank's tokens take the state S that comes to S' = A S + G, and give read-outs y(S). With the cotangents Ȳ of its read-outs and λ'
//! of the state that leaves, that of the state that comes is
//!
//! ```text
//! λ = Aᵀ λ' + b          b = ∂⟨Ȳ, y(S)⟩ / ∂S
//! ```
//!
//! So (Aᵀ, b) is an element of the same monoid, and λ' comes of an exclusive scan in the reverse order of the ranks. Each rank then runs
//! the backward pass of its own tokens once, from S and λ'.
//!
//! | rule | Aᵀ |
//! |---|---|
//! | weighted sum | A: a decay per key row |
//! | delta rule, low-rank transitions | the matrix transposed |
//! | mean | the Jacobian of numerator, denominator and maximum at S, transposed: 3 × 3 for each head |
//!
//! Beside the backward pass, b costs a second one of the recurrence alone; of the layer around it nothing is computed twice.

use std::fmt;

use burn::tensor::{Gradients, Tensor};
use spillway_ssm_core::element::Transition;
use spillway_ssm_core::tensor_map::{Constants, on_device};
use spillway_ssm_core::{Chunking, Element, Error, Gates, State, recurrence};

use super::{Stretch, to_first_token};
use crate::error::ModelError;
use crate::parallel::collectives::exclusive_scan_reversed;
use crate::parallel::{Communicator, or_fail};

/// The read-outs of a rank's tokens, and what gradients through them take.
///
/// ```
/// use std::time::Duration;
/// use burn::tensor::{Device, Tensor};
/// use spillway_models::ModelError;
/// use spillway_models::parallel::Threads;
/// use spillway_models::parallel::scan::Scanned;
/// use spillway_ssm_core::{Gates, State};
///
/// // Two tokens of one sequence, one on each rank; the loss is the sum of what is read.
/// let of_values = Threads::run(2, Duration::from_secs(60), |ranks| -> Result<_, ModelError> {
///     let device = Device::flex().autodiff();
///     let value = Tensor::<4>::ones([1, 1, 1, 1], &device).require_grad();
///     let token = || Tensor::ones([1, 1, 1, 1], &device);
///     let gates = Gates::new(token(), token(), value.clone());
///     let mut state = State::zeros(&gates.dims(), &device);
///     let scanned = Scanned::forward(ranks, gates, &mut state, 16)?;
///     let cotangent = Tensor::ones([1, 1, 1, 1], &Device::flex());
///     let found = scanned.backward(ranks, cotangent, None)?;
///     let gradient = value.grad(&found.gradients).expect("the value is read");
///     Ok(gradient.into_scalar::<f32>())
/// });
/// // The value of the first token is read by both.
/// assert_eq!(of_values.into_iter().collect::<Result<Vec<_>, _>>()?, [2.0, 1.0]);
/// # Ok::<(), ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The gates without the graph that made them.
    gates: Gates,
    chunk_size: usize,
    /// What this rank's tokens do to a state.
    element: Element,
    /// The state before this rank's tokens, a leaf.
    incoming: Tensor<4>,
    output: Tensor<4>,
    /// The state after this rank's tokens.
    outgoing: Tensor<4>,
}

/// Gradients of a loss that all ranks' read-outs, and the final state, lead to.
pub struct ScanGradients {
    /// Those of the leaves behind this rank's gates. Of what several ranks have alike, such as a decay per head, it is this rank's part:
    /// the whole is the sum over the ranks.
    pub gradients: Gradients,
    /// The gradient of the state before this rank's tokens, of its shape, without autodiff: on rank 0, that of the initial state.
    pub incoming: Tensor<4>,
}

impl fmt::Debug for ScanGradients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanGradients")
            .field("incoming", &self.incoming)
            .finish_non_exhaustive()
    }
}

impl Scanned {
    /// As [`recurrence_by_scan`](super::recurrence_by_scan) of gates with autodiff; the state is left as a constant.
    ///
    /// # Errors
    /// As there; [`ModelError::Layer`] for gates on a device without autodiff.
    pub fn forward(
        ranks: &dyn Communicator,
        gates: Gates,
        state: &mut State,
        chunk_size: usize,
    ) -> Result<Self, ModelError> {
        or_fail(ranks, Self::forward_here(ranks, gates, state, chunk_size))
    }

    fn forward_here(
        ranks: &dyn Communicator,
        gates: Gates,
        state: &mut State,
        chunk_size: usize,
    ) -> Result<Self, ModelError> {
        let device = gates.value.device();
        if !device.is_autodiff() {
            return Err(ModelError::Layer(Error::Device {
                what: "gates whose gradients are wanted",
                expected: "a device with autodiff".into(),
                found: format!("{device:?}"),
            }));
        }
        let constants = gates.map(&mut Constants(&device.clone().inner()));
        state.memory = on_device(state.memory.clone(), &device.clone().inner());
        let element = to_first_token(ranks, &constants, state, chunk_size)?;
        let incoming = on_device(state.memory.clone(), &device).require_grad();
        let mut after = State {
            memory: incoming.clone(),
            position: state.position,
        };
        let output = read_out(gates, &mut after, chunk_size)?;
        *state = State {
            memory: on_device(after.memory.clone(), &device),
            position: after.position,
        };
        Ok(Self {
            gates: constants,
            chunk_size,
            element,
            incoming,
            output,
            outgoing: after.memory,
        })
    }

    /// y of this rank's tokens, `[batch, time, heads, value_dim]`. What a loss wants of it is to be given to [`Scanned::backward`]: a
    /// backward pass from here stops at the tokens of this rank.
    pub fn output(&self) -> &Tensor<4> {
        &self.output
    }

    /// The gradients by the gates of all ranks and by the initial state, from the gradients by the read-outs, `cotangent` `[batch, time,
    /// heads, value_dim]`, and by the final state, `of_final`, which is looked at on the last rank. All ranks call it.
    ///
    /// # Errors
    /// [`ModelError::Layer`] for a cotangent of another shape; [`ModelError::Parallel`] when another rank fails or is lost.
    pub fn backward(
        self,
        ranks: &dyn Communicator,
        cotangent: Tensor<4>,
        of_final: Option<Tensor<4>>,
    ) -> Result<ScanGradients, ModelError> {
        or_fail(ranks, self.backward_here(ranks, cotangent, of_final))
    }

    fn backward_here(
        self,
        ranks: &dyn Communicator,
        cotangent: Tensor<4>,
        of_final: Option<Tensor<4>>,
    ) -> Result<ScanGradients, ModelError> {
        expect_shape("cotangent of the read-outs", &self.output, &cotangent)?;
        if let Some(of_final) = &of_final {
            expect_shape("cotangent of the final state", &self.outgoing, of_final)?;
        }
        let is_last = ranks.rank() + 1 == ranks.size();
        let device = self.incoming.device();
        let of_final = of_final.filter(|_| is_last);
        let of_final = of_final.map(|tensor| on_device(tensor, &device.clone().inner()));
        let mine = self.transposed(ranks.rank() > 0, &cotangent, of_final.clone())?;
        let after = exclusive_scan_reversed(ranks, mine, Stretch::then)?;
        let of_outgoing = match after {
            // What the tokens of later ranks want of a state is what their element makes of nothing.
            Some(after) => Some(self.as_state(after.element.update)),
            None => of_final,
        };
        self.pull_back(cotangent, of_outgoing)
    }

    /// (Aᵀ, b); on the last rank b holds what the final state's cotangent becomes. It is sent to earlier ranks only, so that b is not
    /// computed where it is not `wanted`.
    fn transposed(
        &self,
        wanted: bool,
        cotangent: &Tensor<4>,
        of_final: Option<Tensor<4>>,
    ) -> Result<Stretch, ModelError> {
        let incoming = self.incoming.clone().inner();
        let update = match wanted {
            true => self.of_read_outs(cotangent)?,
            false => incoming.zeros_like(),
        };
        let (transition, update) = match self.element.transition.clone() {
            Transition::Decay(sum) => (Transition::Decay(sum), update),
            Transition::Matrix(matrix) => (Transition::Matrix(matrix.swap_dims(2, 3)), update),
            Transition::Mean(sum) => {
                let jacobian = transposed_jacobian(incoming, sum, self.element.update.clone());
                (Transition::Matrix(jacobian), update.swap_dims(2, 3))
            }
        };
        let mut element = Element { transition, update };
        if let Some(of_final) = of_final {
            let memory = match self.element.transition {
                Transition::Mean(_) => of_final.swap_dims(2, 3),
                Transition::Decay(_) | Transition::Matrix(_) => of_final,
            };
            let mut state = State { memory, position: 0 };
            element.apply(&mut state)?;
            element.update = state.memory;
        }
        Ok(Stretch::new(self.gates.dims().time as u64, element))
    }

    /// b = ∂⟨Ȳ, y(S)⟩ / ∂S, by the gates as constants.
    fn of_read_outs(&self, cotangent: &Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let device = self.incoming.device();
        let leaf = on_device(self.incoming.clone(), &device).require_grad();
        let mut state = State {
            memory: leaf.clone(),
            position: 0,
        };
        let gates = self.gates.map(&mut Constants(&device));
        let output = read_out(gates, &mut state, self.chunk_size)?;
        let gradient = product(&output, cotangent).and_then(|total| leaf.grad(&total.backward()));
        Ok(gradient.unwrap_or_else(|| leaf.inner().zeros_like()))
    }

    /// A cotangent as the scan has it, in the shape of the state and where the state is.
    fn as_state(&self, update: Tensor<4>) -> Tensor<4> {
        let update = match self.element.transition {
            Transition::Mean(_) => update.swap_dims(2, 3),
            Transition::Decay(_) | Transition::Matrix(_) => update,
        };
        on_device(update, &self.incoming.device().inner())
    }

    /// The backward pass of this rank's tokens.
    fn pull_back(
        self,
        cotangent: Tensor<4>,
        of_outgoing: Option<Tensor<4>>,
    ) -> Result<ScanGradients, ModelError> {
        let of_outgoing = of_outgoing.unwrap_or_else(|| self.incoming.clone().inner().zeros_like());
        let terms = [
            product(&self.output, &cotangent),
            product(&self.outgoing, &of_outgoing),
        ];
        let total = terms.into_iter().flatten().reduce(|sum, term| sum + term);
        // A state without values has no term; then there is nothing to go back through.
        let total = total.unwrap_or_else(|| self.incoming.clone().sum());
        let mut gradients = total.backward();
        let incoming = self.incoming.grad_remove(&mut gradients);
        Ok(ScanGradients {
            gradients,
            incoming: incoming.unwrap_or_else(|| self.incoming.inner().zeros_like()),
        })
    }
}

/// [`recurrence()`], of no tokens too: the operators' tapes begin with one.
fn read_out(gates: Gates, state: &mut State, chunk_size: usize) -> Result<Tensor<4>, ModelError> {
    let dims = gates.validate()?;
    match dims.time {
        0 => Ok(Tensor::zeros(
            [dims.batch, 0, dims.heads, dims.value_dim],
            &gates.value.device(),
        )),
        _ => Ok(recurrence(gates, state, Chunking::Chunked { chunk_size })?),
    }
}

/// ⟨tensor, cotangent⟩, through which the cotangent reaches whatever made the tensor; `None` where nothing did.
fn product(tensor: &Tensor<4>, cotangent: &Tensor<4>) -> Option<Tensor<1>> {
    let reached = tensor.is_tracked() && tensor.shape().num_elements() > 0;
    reached.then(|| (tensor.clone() * on_device(cotangent.clone(), &tensor.device())).sum())
}

/// The transposed Jacobian, `[batch, heads, 3, 3]`, of what the tokens of (Σ w, G) make of the state (n, d, m) of a mean, `[batch,
/// heads, 1, 3]`. With h = max(m + w, m_G), s = exp(m + w − h), and c = 1 where m + w is the larger one and else 0:
///
/// ```text
/// n' = s n + e^{m_G − h} n_G        ∂n'/∂n = s        ∂n'/∂m = s n − c n'        (d' likewise)        ∂h/∂m = c
/// ```
fn transposed_jacobian(state: Tensor<4>, sum: Tensor<3>, update: Tensor<4>) -> Tensor<4> {
    let part = |tensor: &Tensor<4>, index: usize| tensor.clone().narrow(3, index, 1);
    let decayed = part(&state, 2) + sum.unsqueeze_dim::<4>(3);
    let highest = decayed.clone().max_pair(part(&update, 2));
    let kept = (decayed.clone() - highest.clone()).exp();
    let added = (part(&update, 2) - highest).exp();
    let is_larger = decayed.greater_equal(part(&update, 2)).float();
    let by_maximum = |index: usize| {
        let earlier = part(&state, index) * kept.clone();
        let whole = earlier.clone() + part(&update, index) * added.clone();
        earlier - whole * is_larger.clone()
    };
    let nothing = kept.zeros_like();
    let row = |values: [Tensor<4>; 3]| Tensor::cat(values.to_vec(), 3);
    let rows = vec![
        row([kept.clone(), nothing.clone(), nothing.clone()]),
        row([nothing.clone(), kept.clone(), nothing]),
        row([by_maximum(0), by_maximum(1), is_larger.clone()]),
    ];
    Tensor::cat(rows, 2)
}

fn expect_shape(what: &'static str, expected: &Tensor<4>, found: &Tensor<4>) -> Result<(), ModelError> {
    match expected.dims() == found.dims() {
        true => Ok(()),
        false => Err(ModelError::Layer(Error::Shape {
            what,
            expected: expected.dims().to_vec(),
            found: found.dims().to_vec(),
        })),
    }
}
