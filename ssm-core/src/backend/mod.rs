//! The kernels of `kernel-dsl` as operations of Burn's backends.
//!
//! [`RecurrentBackend`] is a backend extension: one method per fused operator, implemented per backend (the CPU backend
//! `Flex` here; each further device adds an `impl` and its name in the attribute). The functions of this module are the
//! same operators on [`Tensor`]s. They expect shapes that the callers in this crate have validated.
//!
//! Gradients will enter the same way, as an implementation for `Autodiff` over a backward method beside each forward one.

mod flex;

use crate::element::Element;
use crate::gates::{Gates, LogDecay, ReadOut};
use crate::state::State;
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use kernel_dsl::causal_conv1d::Activation;
use kernel_dsl::gated_norm::GateOrder;
use kernel_dsl::linear::PackedMatrix;
use kernel_dsl::recurrence::DecayKind;
use std::sync::Arc;

/// How the tokens of a call are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// As is fastest for the problem.
    Fastest,
    /// Token by token.
    None,
    /// In chunks of this many tokens.
    Of(usize),
}

/// What of a recurrence is not a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How the decay depends on token and key.
    pub decay: DecayKind,
    /// What the read-out is multiplied by.
    pub scale: f32,
    /// Tokens in a chunk; `None` runs token by token.
    pub chunks: Chunks,
}

/// What of a gated RMSNorm is not a tensor.
#[derive(Clone, Copy, Debug)]
pub struct NormPlan {
    /// Added to the mean square.
    pub eps: f32,
    /// Features that share one mean square.
    pub group_size: usize,
    /// Whether the gate is applied before or after the norm.
    pub order: GateOrder,
}

/// A tensor that an operator can do without.
#[derive(ExtensionType)]
pub enum Maybe<B: Backend> {
    /// It is there.
    Given(FloatTensor<B>),
    /// It is not.
    Absent,
}

/// The tensors of a recurrence, shaped as in [`Gates`].
#[derive(ExtensionType)]
pub struct RecurrenceInputs<B: Backend> {
    /// q.
    pub query: FloatTensor<B>,
    /// k.
    pub key: FloatTensor<B>,
    /// v.
    pub value: FloatTensor<B>,
    /// log a; absent when nothing decays.
    #[extension_type]
    pub log_decay: Maybe<B>,
    /// δ; absent means 1.
    #[extension_type]
    pub step_size: Maybe<B>,
    /// u; given means that the state is read before its update.
    #[extension_type]
    pub bonus: Maybe<B>,
    /// D.
    #[extension_type]
    pub skip: Maybe<B>,
}

/// The fused operators that recurrent models spend their time in.
///
/// Shapes are those of [`Gates`], [`State`] and [`Element`]; every float tensor is f32.
#[backend_extension(Flex)]
pub trait RecurrentBackend: Backend {
    /// Read-out and state after the tokens.
    fn recurrence(
        #[extension_type] inputs: RecurrenceInputs<Self>,
        state: FloatTensor<Self>,
        plan: Plan,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// As [`RecurrentBackend::recurrence`] token by token with the norm of each head's state bounded; also returns the number
    /// of clipped (token, head) pairs, `[1]`.
    fn recurrence_bounded(
        #[extension_type] inputs: RecurrenceInputs<Self>,
        state: FloatTensor<Self>,
        bound: FloatTensor<Self>,
        plan: Plan,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The monoid element of the tokens: sum of log decays and update. Queries are not read.
    fn element(
        #[extension_type] inputs: RecurrenceInputs<Self>,
        plan: Plan,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// x Wᵀ + b over the last dimension.
    fn linear(
        input: FloatTensor<Self>,
        weight: Arc<PackedMatrix>,
        #[extension_type] bias: Maybe<Self>,
    ) -> FloatTensor<Self>;

    /// Depthwise convolution over time; also returns the state after the tokens.
    fn causal_conv1d(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        state: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// RMSNorm of the last dimension in groups, gated by SiLU(gate).
    fn gated_rms_norm(
        input: FloatTensor<Self>,
        #[extension_type] gate: Maybe<Self>,
        #[extension_type] weight: Maybe<Self>,
        plan: NormPlan,
    ) -> FloatTensor<Self>;

    /// residual + x, and its RMSNorm.
    fn add_rms_norm(
        residual: FloatTensor<Self>,
        #[extension_type] input: Maybe<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Δ = clamp(softplus(raw + bias)) and log α = −Δ e^{A_log}.
    fn step_size(
        raw: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a_log: FloatTensor<Self>,
        limit: (f32, f32),
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Columns `start..start + heads · dim` of `[batch, time, channels]` as `[batch, time, heads, dim]`.
    fn split_heads(input: FloatTensor<Self>, start: usize, heads: usize, dim: usize) -> FloatTensor<Self>;

    /// −log softmax(logits)\[target\] per row, over the first `classes` columns, in nats.
    fn cross_entropy(logits: FloatTensor<Self>, targets: Arc<[u32]>, classes: usize) -> FloatTensor<Self>;
}

fn maybe<const D: usize>(tensor: Option<Tensor<D>>) -> Maybe<Dispatch> {
    match tensor {
        Some(tensor) => Maybe::Given(tensor.into_dispatch()),
        None => Maybe::Absent,
    }
}

/// The decay's tensor, whatever its rank, and its kind.
fn log_decay_parts(log_decay: LogDecay) -> (DecayKind, Maybe<Dispatch>) {
    match log_decay {
        LogDecay::None => (DecayKind::None, Maybe::Absent),
        LogDecay::PerHead(a) => (DecayKind::PerHead, maybe(Some(a))),
        LogDecay::PerKey(a) => (DecayKind::PerKey, maybe(Some(a))),
        LogDecay::PerHeadToken(a) => (DecayKind::PerHeadToken, maybe(Some(a))),
        LogDecay::PerKeyToken(a) => (DecayKind::PerKeyToken, maybe(Some(a))),
    }
}

fn parts(gates: Gates, chunks: Chunks) -> (RecurrenceInputs<Dispatch>, Plan) {
    let (decay, log_decay) = log_decay_parts(gates.log_decay);
    let bonus = match gates.read_out {
        ReadOut::Inclusive => None,
        ReadOut::Bonus(bonus) => Some(bonus),
    };
    let inputs = RecurrenceInputs {
        query: gates.query.into_dispatch(),
        key: gates.key.into_dispatch(),
        value: gates.value.into_dispatch(),
        log_decay,
        step_size: maybe(gates.step_size),
        bonus: maybe(bonus),
        skip: maybe(gates.skip),
    };
    (
        inputs,
        Plan {
            decay,
            scale: gates.scale,
            chunks,
        },
    )
}

pub(crate) fn recurrence(gates: Gates, state: &mut State, chunks: Chunks) -> Tensor<4> {
    let (inputs, plan) = parts(gates, chunks);
    let (output, after) = Dispatch::recurrence(inputs, state.take().into_dispatch(), plan);
    state.memory = Tensor::from_dispatch(after);
    Tensor::from_dispatch(output)
}

pub(crate) fn recurrence_bounded(gates: Gates, state: &mut State, bound: &Tensor<1>) -> (Tensor<4>, u64) {
    let (inputs, plan) = parts(gates, Chunks::None);
    let bound = bound.clone().into_dispatch();
    let (output, after, clipped) =
        Dispatch::recurrence_bounded(inputs, state.take().into_dispatch(), bound, plan);
    state.memory = Tensor::from_dispatch(after);
    let clipped = Tensor::<1>::from_dispatch(clipped).into_scalar::<f32>();
    (Tensor::from_dispatch(output), clipped as u64)
}

pub(crate) fn element(gates: &Gates, chunk_size: usize) -> Element {
    let (inputs, plan) = parts(gates.clone(), Chunks::Of(chunk_size));
    let (log_decay, update) = Dispatch::element(inputs, plan);
    Element {
        log_decay: Tensor::from_dispatch(log_decay),
        update: Tensor::from_dispatch(update),
    }
}

pub(crate) fn linear(input: Tensor<3>, weight: Arc<PackedMatrix>, bias: Option<Tensor<1>>) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::linear(input.into_dispatch(), weight, maybe(bias)))
}

pub(crate) fn causal_conv1d(
    input: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    state: Tensor<3>,
    activation: Activation,
) -> (Tensor<3>, Tensor<3>) {
    let (output, after) = Dispatch::causal_conv1d(
        input.into_dispatch(),
        weight.into_dispatch(),
        maybe(bias),
        state.into_dispatch(),
        activation,
    );
    (Tensor::from_dispatch(output), Tensor::from_dispatch(after))
}

pub(crate) fn gated_rms_norm(
    input: Tensor<3>,
    gate: Option<Tensor<3>>,
    weight: Option<Tensor<1>>,
    plan: NormPlan,
) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::gated_rms_norm(
        input.into_dispatch(),
        maybe(gate),
        maybe(weight),
        plan,
    ))
}

pub(crate) fn step_size(
    raw: Tensor<3>,
    bias: Tensor<1>,
    a_log: Tensor<1>,
    limit: (f32, f32),
) -> (Tensor<3>, Tensor<3>) {
    let (step, log_decay) = Dispatch::step_size(
        raw.into_dispatch(),
        bias.into_dispatch(),
        a_log.into_dispatch(),
        limit,
    );
    (Tensor::from_dispatch(step), Tensor::from_dispatch(log_decay))
}

pub(crate) fn split_heads(input: Tensor<3>, start: usize, heads: usize, dim: usize) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::split_heads(input.into_dispatch(), start, heads, dim))
}

/// residual + x (when there is an x) and its RMSNorm · weight, the joint between two blocks.
///
/// # Shapes
/// `residual`, `x` and both results `[batch, time, features]`; `weight` `[features]`.
///
/// # Errors
/// [`crate::Error::Shape`] when they differ, [`crate::Error::Value`] for no features or an ε that is not at least 0.
pub fn add_rms_norm(
    residual: Tensor<3>,
    x: Option<Tensor<3>>,
    weight: Tensor<1>,
    eps: f32,
) -> crate::error::Result<(Tensor<3>, Tensor<3>)> {
    if let Some(x) = &x {
        crate::gates::expect_shape("input of a residual", &residual.dims(), &x.dims())?;
    }
    crate::gates::expect_shape("weight of a norm", &[residual.dims()[2]], &weight.dims())?;
    expect_epsilon(eps)?;
    if weight.dims() == [0] {
        return Err(crate::Error::Value {
            what: "features of a norm",
            expected: "at least 1",
            found: "0".into(),
        });
    }
    let (sum, normed) =
        Dispatch::add_rms_norm(residual.into_dispatch(), maybe(x), weight.into_dispatch(), eps);
    Ok((Tensor::from_dispatch(sum), Tensor::from_dispatch(normed)))
}

pub(crate) fn expect_epsilon(eps: f32) -> crate::error::Result<()> {
    if eps >= 0.0 {
        return Ok(());
    }
    Err(crate::Error::Value {
        what: "ε of a norm",
        expected: "at least 0",
        found: eps.to_string(),
    })
}

/// −log softmax(logits)\[target\] per row in nats, over the first `classes` columns (vocabularies are padded).
///
/// # Shapes
/// `logits` `[rows, columns]`, one target per row; result `[rows]`.
///
/// # Errors
/// [`crate::Error::Shape`] for another number of targets, [`crate::Error::Value`] for a target or a number of classes that
/// does not exist.
pub fn cross_entropy(
    logits: Tensor<2>,
    targets: Arc<[u32]>,
    classes: usize,
) -> crate::error::Result<Tensor<1>> {
    let [rows, columns] = logits.dims();
    crate::gates::expect_shape("targets", &[rows], &[targets.len()])?;
    let out_of_range = |what, found: String| crate::Error::Value {
        what,
        expected: "one of the columns",
        found,
    };
    if classes == 0 || classes > columns {
        return Err(out_of_range(
            "number of classes",
            format!("{classes} of {columns}"),
        ));
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= classes) {
        return Err(out_of_range("target", format!("{target} of {classes}")));
    }
    Ok(Tensor::from_dispatch(Dispatch::cross_entropy(
        logits.into_dispatch(),
        targets,
        classes,
    )))
}
