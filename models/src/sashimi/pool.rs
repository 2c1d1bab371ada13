//! Pools: where p steps of one tier become one step of the tier below it, and one of those p steps again.
//!
//! ```text
//! down   c_j = W_d [x_{jp}, …, x_{jp+p−1}] + b_d       channel by channel, steps of a channel beside one another
//! up     [u_{jp}, …, u_{jp+p−1}] = W_u y_{j−1} + b_u,  0 for j = 0
//! ```
//!
//! What is spread over steps jp to jp + p − 1 comes from step j − 1 below, the last that was complete before them: so no step sees a later
//! one. Both sides are carried: the last p − 1 inputs, and what is being spread. Where a call begins between jp and jp + p − 1 is
//! its phase, and the stack knows it.

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::{Linear, MixerState, RecurrentState, Result};

/// The two projections between a tier and the one below it.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// Number p of steps that become one step of the tier below.
    pub(super) factor: usize,
    /// W_d and b_d: from p · width of a tier to the width below it.
    pub(super) down: Linear,
    /// W_u and b_u: from the width below a tier to p · the tier's own.
    pub(super) up: Linear,
}

impl Pool {
    /// Width of the tier above.
    fn width(&self) -> usize {
        self.down.in_features() / self.factor
    }

    /// What is carried: inputs `[batch, p − 1, width]`, and what is being spread, `[batch, p, width]`; oldest first.
    pub(super) fn start(&self, batch: usize, device: &Device) -> MixerState {
        MixerState::Recurrent(RecurrentState {
            carried: vec![
                Tensor::zeros([batch, self.factor - 1, self.width()], device),
                Tensor::zeros([batch, self.factor, self.width()], device),
            ],
            ..RecurrentState::default()
        })
    }

    /// The steps below that `input`, `[batch, time, width]`, completes: `[batch, steps, width below]`, or `None` for no step.
    ///
    /// `phase` is how many steps of an unfinished group came before.
    pub(super) fn gather(
        &self,
        input: Tensor<3>,
        phase: usize,
        state: &mut MixerState,
    ) -> Result<Option<Tensor<3>>> {
        let (p, [batch, time, width]) = (self.factor, input.dims());
        let waiting = state.recurrent()?.carried(0)?;
        let known = Tensor::cat(vec![waiting.clone(), input], 1);
        *waiting = known.clone().narrow(1, time, p - 1);
        let steps = (phase + time) / p;
        if steps == 0 {
            return Ok(None);
        }
        let groups = known.narrow(1, p - 1 - phase, steps * p);
        let groups = groups.reshape([batch, steps, p, width]).permute([0, 1, 3, 2]);
        Ok(Some(self.down.forward(groups.reshape([
            batch,
            steps,
            width * p,
        ]))?))
    }

    /// What is added to `time` steps from the phase on, `[batch, time, width]`; `below` is what became of the steps that they completed.
    pub(super) fn spread(
        &self,
        below: Option<Tensor<3>>,
        phase: usize,
        time: usize,
        state: &mut MixerState,
    ) -> Result<Tensor<3>> {
        let (p, width) = (self.factor, self.width());
        let spreading = state.recurrent()?.carried(1)?;
        let Some(below) = below else {
            return Ok(spreading.clone().narrow(1, phase, time));
        };
        let [batch, steps, _] = below.dims();
        let spread = self.up.forward(below)?.reshape([batch, steps, width, p]);
        let spread = spread.permute([0, 1, 3, 2]).reshape([batch, steps * p, width]);
        let all = Tensor::cat(vec![spreading.clone(), spread], 1);
        *spreading = all.clone().narrow(1, steps * p, p);
        Ok(all.narrow(1, phase, time))
    }
}
