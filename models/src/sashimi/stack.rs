//! The tiers of a stack, and its clock.
//!
//! A tier whose steps are groups of p of the tier above moves on when the last of a group has come; until then the group waits in the
//! [pool](super::pool), and no layer below knows of it. So a stack takes in any number of tokens from any state, and gives after each what
//! it would give if all had come at once. One clock tells where every tier stands: the number of tokens modulo the
//! product of all pools, of which tier i reads ⌊clock / (p₁ ⋯ p_{i−1})⌋ mod p_i, the steps that wait in its pool.
//!
//! Every sequence of a batch has a clock of its own. Where they differ, those at one time go through together and the others after them.
//! What pads a sequence at its end is read as any token: it comes after all that the sequence has.

use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::mixer::{cat_rows, select_rows};
use spillway_ssm_core::{Chain, Context, Error, Mixer, MixerState, RecurrentState, Result};

use super::layer::Layer;
use super::pool::Pool;

/// What is added on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skips {
    /// What a tier was given, and then what its layers were given.
    AroundLayers,
    /// To the output of every layer and of the pool, the input that its mirror had on the way down.
    EveryLayer,
}

/// A tier that has a slower one below it.
#[derive(Clone, Debug)]
pub(super) struct Tier {
    /// Layers on the way down; none, or as many as `after`.
    pub(super) before: Vec<Layer>,
    pub(super) pool: Pool,
    /// Layers on the way up.
    pub(super) after: Vec<Layer>,
}

/// All tiers as one mixer, whose outputs take the place of its inputs.
#[derive(Clone, Debug)]
pub(super) struct Stack {
    tiers: Vec<Tier>,
    centre: Vec<Layer>,
    skips: Skips,
    /// The product of all pools.
    period: usize,
}

impl Stack {
    pub(super) fn new(tiers: Vec<Tier>, centre: Vec<Layer>, skips: Skips) -> Self {
        Self {
            period: tiers.iter().map(|tier| tier.pool.factor).product(),
            tiers,
            centre,
            skips,
        }
    }

    /// The clocks of `batch` sequences.
    fn clocks(&self, state: &mut MixerState, batch: usize) -> Result<Vec<usize>> {
        let (own, _) = divided(parts(state)?, 1)?;
        let clocks = own[0].recurrent()?.carried(0)?.to_data();
        let whole = |clock: f32| {
            let of_a_period = clock >= 0.0 && clock < self.period as f32 && clock.fract() == 0.0;
            of_a_period.then_some(clock as usize)
        };
        let found: Vec<f32> = clocks.iter::<f32>().collect();
        let whole: Option<Vec<usize>> = found.iter().map(|clock| whole(*clock)).collect();
        whole
            .filter(|clocks| clocks.len() == batch)
            .ok_or_else(|| foreign(format!("clocks {found:?} for {batch} sequences")))
    }

    /// Sequences that are at one time, `clock`, through all tiers.
    fn advance(
        &self,
        input: Tensor<3>,
        clock: usize,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let [batch, time, _] = input.dims();
        let device = input.device();
        let (own, states) = divided(parts(state)?, 1)?;
        let output = self.below(&self.tiers, input, clock, states, context)?;
        let clock = (clock + time) % self.period;
        *own[0].recurrent()?.carried(0)? = clocks(clock, batch, &device);
        Ok(output)
    }

    /// What becomes of `input`, steps of the first of `tiers`, or of the centre where none are left.
    fn below(
        &self,
        tiers: &[Tier],
        input: Tensor<3>,
        clock: usize,
        states: &mut [MixerState],
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let Some((tier, deeper)) = tiers.split_first() else {
            let (states, _) = divided(states, self.centre.len())?;
            let output = through(&self.centre, input.clone(), states, context)?;
            return Ok(output + input);
        };
        let time = input.dims()[1];
        let (before, states) = divided(states, tier.before.len())?;
        let (pool, states) = divided(states, 1)?;
        let (after, states) = divided(states, tier.after.len())?;
        let mut kept = vec![input.clone()];
        let mut steps = input;
        for (layer, state) in tier.before.iter().zip(before) {
            steps = layer.forward(steps, state, context)?;
            kept.push(steps.clone());
        }
        let p = tier.pool.factor;
        let (phase, clock) = (clock % p, clock / p);
        let slower = match tier.pool.gather(steps, phase, &mut pool[0])? {
            None => None,
            Some(slower) => Some(self.below(deeper, slower, clock, states, context)?),
        };
        let spread = tier.pool.spread(slower, phase, time, &mut pool[0])?;
        self.above(tier, spread, kept, after, context)
    }

    /// The way up of a tier: what is spread over its steps, what was `kept` on the way down, first to last, and its layers.
    fn above(
        &self,
        tier: &Tier,
        spread: Tensor<3>,
        kept: Vec<Tensor<3>>,
        states: &mut [MixerState],
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let mut kept = kept.into_iter().rev();
        let mut steps = match kept.next() {
            Some(mirror) => spread + mirror,
            None => spread,
        };
        match self.skips {
            Skips::AroundLayers => {
                let output = through(&tier.after, steps.clone(), states, context)?;
                Ok(output + steps)
            }
            Skips::EveryLayer => {
                for ((layer, state), mirror) in tier.after.iter().zip(states).zip(kept) {
                    steps = layer.forward(steps, state, context)? + mirror;
                }
                Ok(steps)
            }
        }
    }

    /// Sequences whose clocks differ: those of each group, which are at one time, through all tiers.
    fn in_groups(
        &self,
        input: &Tensor<3>,
        groups: &[(usize, Vec<usize>)],
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let (mut outputs, mut states) = (Vec::new(), Vec::new());
        // Where each sequence is among those of all groups.
        let mut places = vec![0; input.dims()[0]];
        let sequences = groups.iter().flat_map(|(_, rows)| rows);
        sequences
            .enumerate()
            .for_each(|(place, row)| places[*row] = place);
        for (clock, rows) in groups {
            let positions = rows.iter().filter_map(|row| context.positions.get(*row));
            let positions: Vec<u64> = positions.copied().collect();
            let mut of_group = within(context, &positions);
            let mut own = state.select(rows)?;
            let input = select_rows(input, rows)?;
            outputs.push(self.advance(input, *clock, &mut own, &mut of_group)?);
            states.push(own);
        }
        *state = MixerState::cat(&states.iter().collect::<Vec<_>>())?.select(&places)?;
        select_rows(&cat_rows("outputs of a pooled stack", outputs)?, &places)
    }

    /// Every layer, with the number of tokens of its steps.
    fn layers(&self) -> impl Iterator<Item = (&Layer, usize)> {
        let mut period = 1;
        let tiers = self.tiers.iter().flat_map(move |tier| {
            let of_tier = period;
            period *= tier.pool.factor;
            let layers = tier.before.iter().chain(&tier.after);
            layers.map(move |layer| (layer, of_tier))
        });
        tiers.chain(self.centre.iter().map(|layer| (layer, self.period)))
    }
}

impl Mixer for Stack {
    /// The clock, and tier by tier the states of the layers on the way down, of the pool, and of the layers on the way up; at last
    /// those of the centre.
    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let start = |of: &Layer| of.mixer.start(layer, batch, chain, device);
        let mut parts = vec![MixerState::Recurrent(RecurrentState {
            carried: vec![clocks(0, batch, device)],
            ..RecurrentState::default()
        })];
        for tier in &self.tiers {
            parts.extend(tier.before.iter().map(start));
            parts.push(tier.pool.start(batch, device));
            parts.extend(tier.after.iter().map(start));
        }
        parts.extend(self.centre.iter().map(start));
        MixerState::Several(parts)
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let [batch, time, _] = input.dims();
        if batch == 0 || time == 0 {
            return Ok(input);
        }
        let groups = groups(&self.clocks(state, batch)?);
        match groups.as_slice() {
            [(clock, _)] => {
                let positions = context.positions;
                self.advance(input, *clock, state, &mut within(context, positions))
            }
            groups => self.in_groups(&input, groups, state, context),
        }
    }

    fn flops_per_token(&self) -> u64 {
        let of_layer = |(layer, period): (&Layer, usize)| layer.mixer.flops_per_token() / period as u64;
        self.layers().map(of_layer).sum()
    }
}

/// `context` for sequences at `positions`; steps of a slower tier have neither the lengths nor the prefix of tokens.
fn within<'a>(context: &'a mut Context<'_>, positions: &'a [u64]) -> Context<'a> {
    Context {
        chain: context.chain,
        layer: context.layer,
        chunking: context.chunking,
        positions,
        lengths: None,
        prefix: None,
        shared: &mut *context.shared,
    }
}

/// `batch` clocks at one time, `[batch, 1, 1]`.
fn clocks(clock: usize, batch: usize, device: &Device) -> Tensor<3> {
    // Below the period, which is at most 2^24.
    Tensor::from_data(TensorData::new(vec![clock as f32; batch], [batch, 1, 1]), device)
}

/// The times there are, each with the sequences that are at it.
fn groups(clocks: &[usize]) -> Vec<(usize, Vec<usize>)> {
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for (row, clock) in clocks.iter().enumerate() {
        match groups.iter_mut().find(|(of, _)| of == clock) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((*clock, vec![row])),
        }
    }
    groups
}

fn through(
    layers: &[Layer],
    mut steps: Tensor<3>,
    states: &mut [MixerState],
    context: &mut Context<'_>,
) -> Result<Tensor<3>> {
    for (layer, state) in layers.iter().zip(states) {
        steps = layer.forward(steps, state, context)?;
    }
    Ok(steps)
}

/// The first `count` states, and those after them.
fn divided(states: &mut [MixerState], count: usize) -> Result<(&mut [MixerState], &mut [MixerState])> {
    let found = states.len();
    states
        .split_at_mut_checked(count)
        .ok_or_else(|| foreign(format!("{found} states where {count} come next")))
}

fn parts(state: &mut MixerState) -> Result<&mut [MixerState]> {
    match state {
        MixerState::Several(parts) => Ok(parts),
        _ => Err(foreign("that of one mixer".into())),
    }
}

fn foreign(found: String) -> Error {
    Error::Value {
        what: "state of a pooled stack",
        expected: "the one that this stack started",
        found,
    }
}
