//! A sliding window over the state, by subtracting what is too old.
//!
//! The state is a weighted sum of what the tokens wrote, so the part that the last r tokens wrote is the difference of two
//! states of the same recurrence:
//!
//! ```text
//! h_t^{(r)} = Σ_{t−r < i ≤ t} a_{(i,t]} ∘ k_i (δ_i v_i)ᵀ  =  h_t − exp(w_t) ∘ h_{t−r}          w_t = Σ_{t−r < j ≤ t} log a_j
//! ```
//!
//! The second state is a second recurrence that is fed r tokens late, out of a queue of the last r tokens' keys, values and
//! decays. Read-outs are linear in the state too, so in prefill no state is ever formed per token:
//!
//! ```text
//! y_t = scale · q_tᵀ h_t + D v_t  −  scale · (q_t ∘ exp(w_t))ᵀ h_{t−r}
//! ```
//!
//! that is, two runs of the same kernel, the second over the lagged tokens with the current queries. It is exact per token,
//! and equal in prefill and decode.
//!
//! With a bonus read-out, y_t = q_tᵀ (h_{t−1} + (u∘k_t) v_tᵀ), the state is read one token before its decay by a_t. "The last r
//! tokens" still means tokens t−r+1 to t. Of these the state holds t−r+1 to t−1, so what has to go is
//! exp(Σ_{t−r < j ≤ t−1} log a_j) ∘ h_{t−r}: the same lagged state, one decay less.
//!
//! # Numbers
//! Nothing is ever divided and no exponent is above 0. w_t is summed afresh from the queue at regular positions and moved by
//! differences between them, so its rounding does not accumulate. The subtraction cancels log₂(‖h_t‖ / ‖h_t^{(r)}‖) bits: with f32
//! states the relative error stays near 1e-6 for decays around 0.999 and near 1e-5 for 0.99999 after tens of thousands of
//! tokens. Without any decay rounding is never forgotten either, and grows with the square root of the length. A state kept in
//! half precision loses the method altogether. The worst case is a decay of exactly the same value at every token, decoded one by
//! one: its rounding then errs in the same direction at each, by up to 3e-8 · R in all (1.2e-5 for R = 1024, 1 − α = 1e-4 after
//! 8,192 tokens; `cargo test -p spillway-mitigations --test long_windows -- --nocapture` prints all of these).
//!
//! # Cost
//! Twice the recurrence, twice the state, and the queue: r tokens' keys, values and decays per layer.
//!
//! # Traps
//! The window is per layer: a model of L layers still carries information over up to L·r tokens, like stacked sliding-window
//! attention. It is not the same as starting from nothing at t−r, because the layer's inputs hold older context. The short
//! convolution is not windowed. The layer's `State` keeps holding h_t, the whole of it: only what is read is windowed, and a norm
//! taken from the state is not that of the window. In the published code the window argument is read by nothing.
//!
//! Source: *Stuffed Mamba*, 2410.07145, sliding window by state difference.

use crate::form::{Form, Parameter};
use crate::gate_queue::GateQueue;
use crate::mitigation::{Part, Role};
use crate::pieces::{in_pieces, next_multiple, own_state, own_states, saved_state, saved_tensor};
use crate::writes::{LOWEST_LOG_DECAY, Writes, per_head};
use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::intervention::Next;
use spillway_ssm_core::mixer::{cat_rows, select_rows};
use spillway_ssm_core::{
    Erase, Error, Gates, Incompatible, Intervention, InterventionState, LogDecay, ReadOut, Rule, Site, State,
};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "window",
    syntax: "window:R",
    summary: "only the last R tokens, by the difference of two states",
    parameters: &[Parameter::required(
        "R",
        "tokens that the state holds, at least 1",
    )],
    works_on: "weighted sums: not DeltaNet, Gated DeltaNet, RWKV-7 or RWKV-4, on which window-exact works",
    calibrated: false,
    example: "window:2048",
    parse: |written| {
        let [tokens] = written.exactly()?;
        Ok(Arc::new(WindowByDifference {
            tokens: written.tokens("window", tokens)?,
        }))
    },
};

/// `window:R`: every token reads what the last R tokens wrote, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowByDifference {
    /// R, at least 1.
    pub tokens: u64,
}

/// The recurrence that runs R tokens late.
#[derive(Clone, Debug)]
struct Lagged {
    /// The lagged state, h_{t−R}.
    state: State,
    /// What the last R tokens wrote.
    queue: GateQueue,
    /// w_t, once something has left the window; `None` also for decays that do not depend on the token.
    sum: Option<WindowSum>,
}

/// w_t = `base` + `moved`, times A where decays are a constant A times the step size.
#[derive(Clone, Debug)]
struct WindowSum {
    /// [`Writes::exponents`] summed over the whole window at the last regular position, `[batch, 1, heads, rows]`.
    base: Tensor<4>,
    /// The exponents that came in minus those that left since then, of the shape of `base`.
    moved: Tensor<4>,
}

impl InterventionState for Lagged {
    fn clone_box(&self) -> Box<dyn InterventionState> {
        Box::new(self.clone())
    }

    fn bytes(&self) -> usize {
        let sum = self
            .sum
            .as_ref()
            .map_or(0, |sum| 8 * sum.base.shape().num_elements());
        self.state.bytes() + self.queue.bytes() + sum
    }

    fn save(&self) -> BTreeMap<String, TensorData> {
        let mut saved = self.queue.save();
        saved.insert("state".into(), self.state.memory.to_data());
        if let Some(sum) = &self.sum {
            saved.insert("sum.base".into(), sum.base.to_data());
            saved.insert("sum.moved".into(), sum.moved.to_data());
        }
        saved
    }

    fn select(&self, rows: &[usize]) -> Result<Box<dyn InterventionState>, Error> {
        let sum = |sum: &WindowSum| {
            Ok::<_, Error>(WindowSum {
                base: select_rows(&sum.base, rows)?,
                moved: select_rows(&sum.moved, rows)?,
            })
        };
        Ok(Box::new(Self {
            state: State {
                memory: select_rows(&self.state.memory, rows)?,
                position: self.state.position,
            },
            queue: self.queue.select(rows)?,
            sum: self.sum.as_ref().map(sum).transpose()?,
        }))
    }

    fn cat(&self, others: &[&dyn InterventionState]) -> Result<Box<dyn InterventionState>, Error> {
        let others = own_states::<Self>(others)?;
        let all: Vec<&Self> = [self].into_iter().chain(others).collect();
        let sums: Vec<&WindowSum> = all.iter().flat_map(|lagged| &lagged.sum).collect();
        let sum = match sums.len() {
            0 => None,
            count if count == all.len() => Some(WindowSum {
                base: cat_rows(
                    "sum of log decays",
                    sums.iter().map(|sum| sum.base.clone()).collect(),
                )?,
                moved: cat_rows(
                    "sum of log decays",
                    sums.iter().map(|sum| sum.moved.clone()).collect(),
                )?,
            }),
            some => {
                return Err(Error::Value {
                    what: "windows to join",
                    expected: "those of sequences at one position",
                    found: format!("{some} of {} full", all.len()),
                });
            }
        };
        let memories = all.iter().map(|lagged| lagged.state.memory.clone());
        let queues: Vec<&GateQueue> = all.iter().map(|lagged| &lagged.queue).collect();
        Ok(Box::new(Self {
            state: State {
                memory: cat_rows("lagged state", memories.collect())?,
                position: self.state.position,
            },
            queue: GateQueue::cat(&queues)?,
            sum,
        }))
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Intervention for WindowByDifference {
    fn text(&self) -> String {
        format!("window:{}", self.tokens)
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        let reason = match site.rule {
            Rule::WeightedSum => return Ok(()),
            Rule::Delta => {
                "what this layer's tokens do to older ones is a matrix, whose product over the window can be neither kept up nor \
                 inverted token by token (window-writes drops what old tokens wrote, and keeps what they corrected)"
            }
            Rule::Mean => {
                "this layer keeps a weighted mean relative to a maximum, and a difference loses all digits once the largest weight \
                 leaves the window"
            }
        };
        Err(Incompatible {
            intervention: self.text(),
            layer: site.layer,
            reason: format!(
                "{reason}; use window-exact:{}, which subtracts nothing",
                self.tokens
            ),
        })
    }

    fn start(&self, site: &Site, batch: usize, device: &Device) -> Box<dyn InterventionState> {
        Box::new(Lagged {
            state: site.empty_state(batch, device),
            queue: GateQueue::default(),
            sum: None,
        })
    }

    fn restore(
        &self,
        site: &Site,
        batch: usize,
        device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Box<dyn InterventionState>, Error> {
        let memory =
            saved_state(saved, "state", site.state_shape(batch), device)?.ok_or_else(|| Error::Saved {
                what: "state".into(),
                expected: "the lagged state".into(),
                found: "nothing".into(),
            })?;
        let base = saved_tensor::<4>(saved, "sum.base", batch, device)?;
        let moved = saved_tensor::<4>(saved, "sum.moved", batch, device)?;
        Ok(Box::new(Lagged {
            // The position is set from the main state's before each use.
            state: State { memory, position: 0 },
            queue: GateQueue::restore(site, batch, device, saved)?,
            sum: base.zip(moved).map(|(base, moved)| WindowSum { base, moved }),
        }))
    }

    fn on_recurrence(
        &self,
        _site: &Site,
        gates: Gates,
        state: &mut State,
        own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let lagged: &mut Lagged = own_state(own)?;
        let cut = |position| {
            if position < self.tokens {
                self.tokens
            } else {
                next_multiple(position, self.refresh())
            }
        };
        in_pieces(gates, state, cut, |piece, state| {
            self.read(piece, state, lagged, next)
        })
    }
}

impl Part for WindowByDifference {
    fn role(&self) -> Role {
        Role::Window
    }
}

impl WindowByDifference {
    /// Every so many tokens w is summed afresh: often enough for its rounding, seldom enough for its cost, which is at most 16
    /// additions per token and decay.
    fn refresh(&self) -> u64 {
        (self.tokens / 16).max(256)
    }

    /// Tokens that either all lie before the first one to leave the window, or between two positions where w is summed afresh.
    fn read(
        &self,
        gates: Gates,
        state: &mut State,
        lagged: &mut Lagged,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let start = state.position;
        if start < self.tokens {
            lagged.queue.push(Writes::of(&gates))?;
            return next(gates, state);
        }
        if start == self.tokens || start.is_multiple_of(self.refresh()) {
            lagged.sum = lagged.queue.exponent_sum(&gates.log_decay).map(|base| WindowSum {
                moved: base.zeros_like(),
                base,
            });
        }
        let entering = Writes::of(&gates);
        lagged.queue.push(entering.clone())?;
        let leaving = lagged.queue.pop(entering.len())?;
        let factor = self.decay_over_window(&gates, &entering, &leaving, lagged)?;
        lagged.state.position = start - self.tokens;
        let too_old = read_lagged(&gates, leaving, factor, &mut lagged.state, next)?;
        Ok(next(gates, state)? - too_old)
    }

    /// What h_{t−R} is multiplied by until it is read at t, for every token: `[batch or 1, time or 1, heads, rows]`, `None` for 1.
    fn decay_over_window(
        &self,
        gates: &Gates,
        entering: &Writes,
        leaving: &Writes,
        lagged: &mut Lagged,
    ) -> Result<Option<Tensor<4>>, Error> {
        let before_update = matches!(gates.read_out, ReadOut::Bonus(_));
        let decays = if before_update {
            self.tokens - 1
        } else {
            self.tokens
        };
        let power = |decay: Tensor<4>| decay.clamp_min(LOWEST_LOG_DECAY).mul_scalar(decays as f32).exp();
        match &gates.log_decay {
            LogDecay::None => return Ok(None),
            LogDecay::PerHead(decay) => return Ok(Some(power(decay.clone().unsqueeze_dims(&[0, 1, 3])))),
            LogDecay::PerKey(decay) => return Ok(Some(power(decay.clone().unsqueeze_dims(&[0, 1])))),
            LogDecay::PerHeadToken(_) | LogDecay::PerKeyToken(_) | LogDecay::PerStep(_) => {}
        }
        let (Some(new), Some(old), Some(sum)) = (
            entering.exponents(&gates.log_decay),
            leaving.exponents(&gates.log_decay),
            lagged.sum.as_mut(),
        ) else {
            return Err(Error::Value {
                what: "log decays in the window's queue",
                expected: "one for every token, as in the tokens at hand",
                found: "none; was the state started with this model?".into(),
            });
        };
        let change = new.clone() - old;
        let time = change.dims()[1];
        let moved = if time == 1 { change } else { change.cumsum(1) } + sum.moved.clone();
        sum.moved = if time == 1 {
            moved.clone()
        } else {
            moved.clone().narrow(1, time - 1, 1)
        };
        let window = moved + sum.base.clone();
        let window = if before_update { window - new } else { window };
        let window = match &gates.log_decay {
            LogDecay::PerStep(a) => window * a.clone().unsqueeze_dims::<4>(&[0, 1]),
            _ => window,
        };
        Ok(Some(window.clamp_max(0.0).exp()))
    }
}

/// scale · (q_t ∘ factor_t)ᵀ h_{t−R} for every token.
fn read_lagged(
    gates: &Gates,
    leaving: Writes,
    factor: Option<Tensor<4>>,
    state: &mut State,
    next: &mut Next<'_>,
) -> Result<Tensor<4>, Error> {
    let dims = gates.dims();
    let query = gates.query.clone();
    match factor {
        None => next(leaving.read_by(query, gates), state),
        // The same for all key rows: it may be applied to the read-out, which is smaller than the query.
        Some(factor) if factor.dims()[3] == 1 && !gates.log_decay.is_per_key() => {
            Ok(next(leaving.read_by(query, gates), state)? * factor)
        }
        Some(factor) => {
            let query = per_head(query, &dims) * factor;
            let mut lagged = leaving.read_by(query, gates);
            lagged.key = per_head(lagged.key, &dims);
            if let Erase::LowRank { p, b } = lagged.erase {
                lagged.erase = Erase::LowRank {
                    p: per_head(p, &dims),
                    b: per_head(b, &dims),
                };
            }
            next(lagged, state)
        }
    }
}
