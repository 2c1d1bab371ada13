//! Where a mitigation may act: a map on gates, a way of running the recurrence, and a factor on the queries of attention.
//!
//! Every mixer hands its gates to [`Chain::run`], in prefill and in decode alike, and that calls each intervention in the
//! same two places:
//!
//! 1. [`Intervention::on_gates`] maps the gates of the tokens at hand (forget more, remember less);
//! 2. [`Intervention::on_recurrence`] runs the recurrence over them. The default just calls `next`; an intervention may split
//!    the tokens, change the state between two calls (state normalisation, resets), or call `next` on a state of its own
//!    (sliding windows). The first intervention of a chain is outermost; innermost is the plain recurrence.
//!
//! Layers of softmax attention have no gates. They ask [`Chain::attention_scale`] what their queries are multiplied by, which
//! is all that an intervention can do there.
//!
//! What an intervention carries from call to call lives in an [`InterventionState`], one per recurrence, which is part of the layer's state:
//! cloned with it, saved with it.

use crate::chunking::Chunking;
pub use crate::error::Incompatible;
use crate::error::{Error, Result};
use crate::gates::{Dims, Gates, Rule};
use crate::recurrence::recurrence;
use crate::state::State;
use burn::tensor::{Device, Tensor, TensorData};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// What an intervention may know about the layer it acts in.
#[derive(Clone, Debug)]
pub struct Site {
    /// Index of the layer, from 0.
    pub layer: usize,
    /// Heads of the layer's earlier recurrences, where it has several: heads are numbered through a layer.
    pub first_head: usize,
    /// Heads of the recurrence.
    pub heads: usize,
    /// Query/key groups of the recurrence, a divisor of its heads.
    pub groups: usize,
    /// Rows of a head's state.
    pub key_dim: usize,
    /// Columns of a head's state (3 for a mean: numerator, denominator, maximum).
    pub value_dim: usize,
    /// Whether the layer discretises, that is, has a step size Δ.
    pub has_step_size: bool,
    /// Whether the layer forgets at all: false where its decays are [`crate::LogDecay::None`].
    pub decays: bool,
    /// Whether the layer's decay differs between the key rows of one head.
    pub per_key_decay: bool,
    /// Whether the state begins with the sum over a prefix, which none of the tokens that interventions see has written.
    pub begins_with_prefix: bool,
    /// The law by which the state takes tokens in.
    pub rule: Rule,
}

impl Site {
    /// The site of a plain weighted sum with as many groups as heads and one decay per head.
    pub fn weighted_sum(layer: usize, heads: usize, key_dim: usize, value_dim: usize) -> Self {
        Self {
            layer,
            first_head: 0,
            heads,
            groups: heads,
            key_dim,
            value_dim,
            has_step_size: false,
            decays: true,
            per_key_decay: false,
            begins_with_prefix: false,
            rule: Rule::WeightedSum,
        }
    }

    /// Shape of the state for `batch` sequences.
    pub fn state_shape(&self, batch: usize) -> [usize; 4] {
        [batch, self.heads, self.key_dim, self.value_dim]
    }

    /// The state before the first token.
    pub fn empty_state(&self, batch: usize, device: &Device) -> State {
        match self.rule {
            Rule::Mean => State::empty_mean(batch, self.heads, device),
            Rule::WeightedSum | Rule::Delta => State::zeros(
                &Dims {
                    batch,
                    time: 0,
                    heads: self.heads,
                    groups: self.groups,
                    key_dim: self.key_dim,
                    value_dim: self.value_dim,
                },
                device,
            ),
        }
    }
}

/// What an intervention carries from call to call in one layer.
pub trait InterventionState: Debug + Send + Any {
    /// A copy that goes its own way.
    fn clone_box(&self) -> Box<dyn InterventionState>;
    /// Memory taken, in bytes.
    fn bytes(&self) -> usize;
    /// Everything that the intervention needs to go on, by name.
    fn save(&self) -> BTreeMap<String, TensorData>;
    /// What happened so far, by name (for example the share of clipped tokens). Goes into reports.
    fn report(&self) -> BTreeMap<String, f64> {
        BTreeMap::new()
    }
    /// The state of these sequences of the batch, in this order; one may be taken several times.
    ///
    /// # Errors
    /// [`Error::Value`] for a state that cannot be divided: every one that does not say how.
    fn select(&self, _rows: &[usize]) -> Result<Box<dyn InterventionState>> {
        Err(undivided(std::any::type_name::<Self>()))
    }
    /// The state of one batch of this one's sequences and then those of `others`, which are of the same intervention at the
    /// same site.
    ///
    /// # Errors
    /// [`Error::Value`] for states that cannot be joined: all that do not say how.
    fn cat(&self, _others: &[&dyn InterventionState]) -> Result<Box<dyn InterventionState>> {
        Err(undivided(std::any::type_name::<Self>()))
    }
    /// For the intervention that owns it.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

fn undivided(found: &str) -> Error {
    Error::Value {
        what: "memory of an intervention",
        expected: "one that can be divided into its sequences; run the sequences one by one instead",
        found: found.into(),
    }
}

impl Clone for Box<dyn InterventionState> {
    fn clone(&self) -> Self {
        (**self).clone_box()
    }
}

/// The state of an intervention that carries nothing.
#[derive(Clone, Debug, Default)]
pub struct NoState;

impl InterventionState for NoState {
    fn clone_box(&self) -> Box<dyn InterventionState> {
        Box::new(Self)
    }
    fn bytes(&self) -> usize {
        0
    }
    fn save(&self) -> BTreeMap<String, TensorData> {
        BTreeMap::new()
    }
    fn select(&self, _rows: &[usize]) -> Result<Box<dyn InterventionState>> {
        Ok(Box::new(Self))
    }
    fn cat(&self, _others: &[&dyn InterventionState]) -> Result<Box<dyn InterventionState>> {
        Ok(Box::new(Self))
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// The rest of the chain: runs the recurrence over gates, from a state, and leaves the state after them.
pub type Next<'a> = dyn FnMut(Gates, &mut State) -> Result<Tensor<4>> + 'a;

/// A map on gates, a map on state, or a window policy.
pub trait Intervention: Debug + Send + Sync {
    /// The canonical text form, such as `forget:0.9999`.
    fn text(&self) -> String;

    /// Everything that decides what the intervention does: two of one identity act alike. The text does not say what
    /// calibration found (`state-norm:auto`), so by default this is the text and the whole value as `Debug` writes it.
    fn identity(&self) -> String {
        format!("{} {self:?}", self.text())
    }

    /// Whether it looks at [`State::position`], of which a batch has one: such an intervention cannot work on a batch of
    /// sequences of different lengths.
    fn looks_at_positions(&self) -> bool {
        true
    }

    /// Whether this can work at `site`.
    ///
    /// # Errors
    /// [`Incompatible`], with the cause and what would work instead.
    fn check(&self, _site: &Site) -> std::result::Result<(), Incompatible> {
        Ok(())
    }

    /// The state at position 0, for `batch` sequences.
    fn start(&self, _site: &Site, _batch: usize, _device: &Device) -> Box<dyn InterventionState> {
        Box::new(NoState)
    }

    /// The state that [`InterventionState::save`] gave.
    ///
    /// # Errors
    /// [`Error::Saved`] when an entry is missing or does not fit.
    fn restore(
        &self,
        site: &Site,
        batch: usize,
        device: &Device,
        _saved: &BTreeMap<String, TensorData>,
    ) -> Result<Box<dyn InterventionState>> {
        Ok(self.start(site, batch, device))
    }

    /// First place: the gates of the tokens at hand, before the recurrence. `position` is that of the first of them.
    ///
    /// # Errors
    /// Whatever the map cannot do.
    fn on_gates(&self, _site: &Site, gates: Gates, _position: u64) -> Result<Gates> {
        Ok(gates)
    }

    /// Second place: the recurrence over the tokens at hand. `state.position` is the position of the first of them.
    ///
    /// # Errors
    /// Whatever `next` gives.
    fn on_recurrence(
        &self,
        _site: &Site,
        gates: Gates,
        state: &mut State,
        _own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>> {
        next(gates, state)
    }

    /// What the query of a token at `position` is multiplied by in layers of softmax attention over all tokens; `None` for an
    /// intervention that leaves attention alone.
    fn attention_scale(&self, _position: u64) -> Option<f64> {
        None
    }
}

/// What one recurrence of a layer carries: its own state, and those of the interventions that act there.
#[derive(Clone, Debug)]
pub struct SiteState {
    /// State of the recurrence.
    pub state: State,
    /// One state per intervention of the chain, in its order.
    pub interventions: Vec<Box<dyn InterventionState>>,
}

impl SiteState {
    /// Memory taken, in bytes, interventions included.
    pub fn bytes(&self) -> usize {
        let interventions: usize = self.interventions.iter().map(|own| own.bytes()).sum();
        self.state.bytes() + interventions
    }
}

/// Interventions applied one inside the other; the empty chain is the plain model.
#[derive(Clone, Debug, Default)]
pub struct Chain(Vec<Arc<dyn Intervention>>);

impl Chain {
    /// A chain; the first intervention sees the gates first and is the outermost around the recurrence.
    pub fn new(interventions: Vec<Arc<dyn Intervention>>) -> Self {
        Self(interventions)
    }

    /// The interventions, outermost first.
    pub fn interventions(&self) -> &[Arc<dyn Intervention>] {
        &self.0
    }

    /// The chain with `intervention` added innermost.
    pub fn with(mut self, intervention: Arc<dyn Intervention>) -> Self {
        self.0.push(intervention);
        self
    }

    /// Text form: `none`, or the members' joined by `+`.
    pub fn text(&self) -> String {
        match self.0.as_slice() {
            [] => "none".into(),
            some => some.iter().map(|i| i.text()).collect::<Vec<_>>().join("+"),
        }
    }

    /// [`Intervention::identity`] of all members.
    pub fn identity(&self) -> String {
        let members: Vec<String> = self.0.iter().map(|i| i.identity()).collect();
        members.join(" + ")
    }

    /// The first member that [looks at positions](Intervention::looks_at_positions).
    pub fn looking_at_positions(&self) -> Option<&dyn Intervention> {
        let mut members = self.0.iter().map(|i| i.as_ref());
        members.find(|intervention| intervention.looks_at_positions())
    }

    /// What the query of a token at `position` is multiplied by in layers of softmax attention over all tokens; `None` where
    /// no member acts on attention.
    pub fn attention_scale(&self, position: u64) -> Option<f64> {
        let scales = self
            .0
            .iter()
            .filter_map(|member| member.attention_scale(position));
        scales.reduce(|product, scale| product * scale)
    }

    /// The first member that acts on layers of softmax attention.
    pub fn acting_on_attention(&self) -> Option<&dyn Intervention> {
        let mut members = self.0.iter().map(|member| member.as_ref());
        members.find(|member| member.attention_scale(0).is_some())
    }

    /// Checks every intervention against a site.
    ///
    /// # Errors
    /// The first [`Incompatible`].
    pub fn check(&self, site: &Site) -> std::result::Result<(), Incompatible> {
        self.0
            .iter()
            .try_for_each(|intervention| intervention.check(site))
    }

    /// The states of the interventions at position 0.
    pub fn start(&self, site: &Site, batch: usize, device: &Device) -> Vec<Box<dyn InterventionState>> {
        self.0
            .iter()
            .map(|intervention| intervention.start(site, batch, device))
            .collect()
    }

    /// Runs interventions and recurrence over the tokens at hand and returns the read-out `[batch, time, heads, value_dim]`.
    /// The states are left after the last token.
    ///
    /// # Errors
    /// [`enum@Error`] from gates that do not fit, or from an intervention.
    pub fn run(
        &self,
        site: &Site,
        gates: Gates,
        recurrence: &mut SiteState,
        chunking: Chunking,
    ) -> Result<Tensor<4>> {
        if recurrence.interventions.len() != self.0.len() {
            return Err(Error::Value {
                what: "memories of the layer's state",
                expected: "one per intervention: start the state with this chain",
                found: format!(
                    "{} memories for {} interventions",
                    recurrence.interventions.len(),
                    self.0.len()
                ),
            });
        }
        let mut gates = gates;
        for intervention in &self.0 {
            gates = intervention.on_gates(site, gates, recurrence.state.position)?;
        }
        descend(
            &self.0,
            site,
            gates,
            &mut recurrence.state,
            &mut recurrence.interventions,
            chunking,
        )
    }
}

fn descend(
    interventions: &[Arc<dyn Intervention>],
    site: &Site,
    gates: Gates,
    state: &mut State,
    states: &mut [Box<dyn InterventionState>],
    chunking: Chunking,
) -> Result<Tensor<4>> {
    let (Some((outer, rest)), Some((own, inner))) = (interventions.split_first(), states.split_first_mut())
    else {
        return recurrence(gates, state, chunking);
    };
    let mut next = |gates: Gates, state: &mut State| descend(rest, site, gates, state, inner, chunking);
    outer.on_recurrence(site, gates, state, own.as_mut(), &mut next)
}
