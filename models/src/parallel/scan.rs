//! A recurrence whose tokens lie on several ranks, by its monoid: what each rank's tokens do to an incoming state is known
//! before the state is.
//!
//! ```text
//! (A, G) of the rank's tokens  ─►  exclusive scan by (A₁, G₁)(A₂, G₂) = (A₂ A₁, A₂ G₁ + G₂)  ─►  h ← A h₀ + G  ─►  the tokens read out from h
//! ```
//!
//! Beside [`super::ring`]: a ring waits for R − 1 layers at the beginning and computes nothing twice; a scan waits for nobody
//! but for ⌈log₂ R⌉ messages in every layer, and computes the elements beside the read-outs. With L layers, m stretches for each
//! rank in a ring, and the time e of an element beside that of its whole layer, without messages:
//!
//! | | time of a rank, in layers of its tokens | |
//! |---|---|---|
//! | ring | L + (R − 1) / m | |
//! | scan | L (1 + e) | the recurrence is a few per cent of a layer, and an element of a weighted sum about half of that; that of a delta rule has K + V columns in the place of V: 1 + K / V of it |
//!
//! A ring is faster as long as R − 1 < e m L: where ranks are few or the text is long. Only recurrences compose: a layer's
//! convolutions and token shifts need the last inputs of the rank before, and attention its keys and values.
//!
//! | rule | element that is sent, numbers for each head |
//! |---|---|
//! | weighted sum | K V + K, or K V + 1 for one decay per head |
//! | mean | 3 + 1 |
//! | delta rule, low-rank transitions | K V + K K: dense, twice the state where K = V |
//!
//! [`recurrence_by_scan`] reads out; [`Scanned`] can be differentiated as well, by a second scan in the reverse order of the ranks.

mod gradient;

use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::element::Transition;
use spillway_ssm_core::{Chunking, Element, Gates, State, recurrence};

use super::collectives::{Carried, bytes_of, exclusive_scan};
use super::{Communicator, or_fail};
use crate::error::ModelError;

pub use gradient::{ScanGradients, Scanned};

/// [`recurrence()`] over tokens that lie on the ranks, one stretch after another; `gates` are those of this rank's tokens, of
/// which there may be none. `state` is that before the first token of all on every rank, and is left after this rank's last
/// one; so on the last rank it is the final state.
///
/// # Errors
/// As [`recurrence()`]; [`ModelError::Parallel`] when another rank fails or is lost.
pub fn recurrence_by_scan(
    ranks: &dyn Communicator,
    gates: Gates,
    state: &mut State,
    chunk_size: usize,
) -> Result<Tensor<4>, ModelError> {
    or_fail(ranks, by_scan(ranks, gates, state, chunk_size))
}

fn by_scan(
    ranks: &dyn Communicator,
    gates: Gates,
    state: &mut State,
    chunk_size: usize,
) -> Result<Tensor<4>, ModelError> {
    to_first_token(ranks, &gates, state, chunk_size)?;
    Ok(recurrence(gates, state, Chunking::Chunked { chunk_size })?)
}

/// Takes the state before the first token of all to the first one of this rank; the element of this rank's tokens. Neither has autodiff.
fn to_first_token(
    ranks: &dyn Communicator,
    gates: &Gates,
    state: &mut State,
    chunk_size: usize,
) -> Result<Element, ModelError> {
    let tokens = gates.dims().time as u64;
    let own = Element::of(gates, chunk_size)?;
    let before = exclusive_scan(ranks, Stretch::new(tokens, own.clone()), Stretch::then)?;
    if let Some(before) = before {
        before.on(&gates.value.device()).apply(state)?;
        state.position += before.tokens;
    }
    Ok(own)
}

/// What the tokens of one rank, or of several, do to a state.
#[derive(Clone, Debug)]
struct Stretch {
    tokens: u64,
    element: Element,
}

const DECAY: u64 = 0;
const MATRIX: u64 = 1;
const MEAN: u64 = 2;
/// Numbers at the head: tokens, kind of the transition, shapes of transition and update.
const HEAD: usize = 10;

impl Stretch {
    /// With the element on the processor, where those of other ranks come.
    fn new(tokens: u64, element: Element) -> Self {
        let element = Self { tokens, element }.on(&Device::flex());
        Self { tokens, element }
    }

    /// This one, followed by `later`.
    fn then(&self, later: &Self) -> Result<Self, ModelError> {
        Ok(Self {
            tokens: self.tokens + later.tokens,
            element: self.element.compose(&later.element)?,
        })
    }

    /// The element where the gates are.
    fn on(&self, device: &Device) -> Element {
        let transition = match self.element.transition.clone() {
            Transition::Decay(sum) => Transition::Decay(sum.to_device(device)),
            Transition::Matrix(matrix) => Transition::Matrix(matrix.to_device(device)),
            Transition::Mean(sum) => Transition::Mean(sum.to_device(device)),
        };
        Element {
            transition,
            update: self.element.update.clone().to_device(device),
        }
    }
}

impl Carried for Stretch {
    fn to_bytes(&self) -> Vec<u8> {
        let (kind, shape, values) = match &self.element.transition {
            Transition::Decay(sum) => (DECAY, padded(sum.dims()), sum.to_data()),
            Transition::Matrix(matrix) => (MATRIX, matrix.dims(), matrix.to_data()),
            Transition::Mean(sum) => (MEAN, padded(sum.dims()), sum.to_data()),
        };
        let update = self.element.update.dims();
        let sizes = shape.iter().chain(&update).map(|size| *size as u64);
        let head: Vec<u64> = [self.tokens, kind].into_iter().chain(sizes).collect();
        let mut bytes: Vec<u8> = bytemuck::cast_slice(&head).to_vec();
        for data in [values, self.element.update.to_data()] {
            bytes.extend(bytes_of(&data.iter::<f32>().collect::<Vec<_>>()));
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, (String, String)> {
        let wrong = |found: String| ("the element of a recurrence".to_string(), found);
        let Some((head, values)) = bytes.split_at_checked(8 * HEAD) else {
            return Err(wrong(format!("{} bytes", bytes.len())));
        };
        let head: Vec<u64> = bytemuck::pod_collect_to_vec(head);
        let sizes: Vec<usize> = head[2..].iter().map(|size| *size as usize).collect();
        let (transition, update) = sizes.split_at(4);
        let count = |sizes: &[usize]| {
            sizes
                .iter()
                .try_fold(4usize, |product, size| product.checked_mul(*size))
        };
        let (first, second) = (count(transition), count(update));
        let whole = first
            .zip(second)
            .and_then(|(first, second)| first.checked_add(second));
        let Some(first) = first.filter(|_| whole == Some(values.len())) else {
            return Err(wrong(format!("{} bytes for shapes {sizes:?}", values.len())));
        };
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(values);
        let (transition_values, update_values) = values.split_at(first / 4);
        // On the processor: `Stretch::on` takes the one that is applied to where the gates are.
        let device = Device::flex();
        let tensor = |values: &[f32], sizes: &[usize]| {
            let shape = [sizes[0], sizes[1], sizes[2], sizes[3]];
            Tensor::<4>::from_data(TensorData::new(values.to_vec(), shape), &device)
        };
        let matrix = tensor(transition_values, transition);
        let transition = match head[1] {
            DECAY => Transition::Decay(matrix.squeeze_dim::<3>(3)),
            MATRIX => Transition::Matrix(matrix),
            MEAN => Transition::Mean(matrix.squeeze_dim::<3>(3)),
            other => return Err(wrong(format!("a transition of kind {other}"))),
        };
        Ok(Self {
            tokens: head[0],
            element: Element {
                transition,
                update: tensor(update_values, update),
            },
        })
    }
}

fn padded([batch, heads, rows]: [usize; 3]) -> [usize; 4] {
    [batch, heads, rows, 1]
}
