//! A sliding window over what a delta rule wrote, by the difference of two states.
//!
//! A delta rule writes what a key lacks, u_t = β_t (v_t − (a_t ∘ h_{t−1})ᵀ k_t). With these corrected values it is a weighted
//! sum, whose decays are the layer's own, so the part that the last r tokens wrote is a difference as in
//! [`crate::window_by_difference`]:
//!
//! ```text
//! h_t = a_t ∘ h_{t−1} + k_t u_tᵀ
//! h_t^{(r)} = Σ_{t−r < i ≤ t} a_{(i,t]} ∘ k_i u_iᵀ  =  h_t − a_{(t−r,t]} ∘ h_{t−r}
//! ```
//!
//! Where a token changes the state by a matrix of rank 1 instead (RWKV-7), what it writes is k_t v_tᵀ + b_t (h_{t−1}ᵀ p_t)ᵀ.
//!
//! # What it is not
//! u_t is computed from the whole state, old tokens included, and stays as it is when these leave: the correction that a token
//! made to an older one's value remains, without the value. So this is not what the layer would hold had it begun r tokens
//! ago, which is [`crate::window_exact`], at a matrix for every chunk of tokens; the two agree where keys of the window and
//! older keys are orthogonal, or where nothing older is left. What is bounded is how many writes a read-out adds up, as for
//! weighted sums.
//!
//! # Cost, numbers, traps
//! Those of [`crate::window_by_difference`]: twice the recurrence, twice the state and a queue of r tokens' gates.
//!
//! No publication is known to do this. The form with corrected values is that of Yang et al., *Parallelizing Linear
//! Transformers with the Delta Rule* (2406.06484), section 3.1; the difference is that of *Stuffed Mamba* (2410.07145).

use crate::form::{Form, Parameter};
use crate::mitigation::{Part, Role};
use crate::window_by_difference::WindowByDifference;
use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::intervention::Next;
use spillway_ssm_core::{Error, Gates, Incompatible, Intervention, InterventionState, Rule, Site, State};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "window-writes",
    syntax: "window-writes:R",
    summary: "only what the last R tokens wrote, corrections of older tokens included",
    parameters: &[Parameter::required(
        "R",
        "tokens whose writes are read, at least 1",
    )],
    works_on: "delta rules: DeltaNet, Gated DeltaNet, KDA, RWKV-7; elsewhere window is the same",
    calibrated: false,
    example: "window-writes:2048",
    parse: |written| {
        let [tokens] = written.exactly()?;
        Ok(Arc::new(WindowOfWrites {
            tokens: written.tokens("window", tokens)?,
        }))
    },
};

/// `window-writes:R`: every token reads what the last R tokens wrote, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowOfWrites {
    /// R, at least 1.
    pub tokens: u64,
}

impl WindowOfWrites {
    fn difference(&self) -> WindowByDifference {
        WindowByDifference { tokens: self.tokens }
    }
}

impl Intervention for WindowOfWrites {
    fn text(&self) -> String {
        format!("window-writes:{}", self.tokens)
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        let reason = match site.rule {
            Rule::Delta => return Ok(()),
            Rule::WeightedSum => format!(
                "nothing that this layer writes depends on its state, so that there is nothing to correct; use window:{}",
                self.tokens
            ),
            Rule::Mean => format!(
                "this layer keeps a weighted mean relative to a maximum, and a difference loses all digits once the largest weight \
                 leaves the window; use window-exact:{}, which subtracts nothing",
                self.tokens
            ),
        };
        Err(Incompatible {
            intervention: self.text(),
            layer: site.layer,
            reason,
        })
    }

    fn start(&self, site: &Site, batch: usize, device: &Device) -> Box<dyn InterventionState> {
        self.difference().start(site, batch, device)
    }

    fn restore(
        &self,
        site: &Site,
        batch: usize,
        device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Box<dyn InterventionState>, Error> {
        self.difference().restore(site, batch, device, saved)
    }

    fn on_recurrence(
        &self,
        site: &Site,
        gates: Gates,
        state: &mut State,
        own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        self.difference().on_recurrence(site, gates, state, own, next)
    }
}

impl Part for WindowOfWrites {
    fn role(&self) -> Role {
        Role::Window
    }
}
