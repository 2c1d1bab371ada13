//! A smaller step: Δ′ = s·Δ.
//!
//! In models that discretise (Mamba), the step size enters twice, so one factor does two things:
//!
//! ```text
//! log α′ = s · log α    (α′ = α^s)          B̄′ = s·Δ·B
//! ```
//!
//! With s < 1 the state decays *more slowly* and is written more weakly: s positions count as one, the counterpart of
//! position interpolation in attention. Published without training as LongMamba's first step (jzhang38, 2024, s = 0.5) and as
//! a baseline with s = 0.2; with one s per layer found by calibration as MambaExtend (2025). It does not remove what
//! accumulates, it slows the accumulation down by 1/s, and costs accuracy on short inputs. s > 1 forgets faster and writes
//! more strongly.

use ssm_core::{Error, Gates, Incompatible, Intervention, Site};

/// `delta-scale:s`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaScale {
    /// s, above 0.
    pub factor: f64,
}

impl DeltaScale {
    fn incompatible(&self, layer: usize) -> Incompatible {
        Incompatible {
            intervention: self.text(),
            layer,
            reason: "this layer has no step size to scale; use forget:C to change its decay, remember:C its writes, or \
                     rri:C,C both"
                .into(),
        }
    }
}

impl Intervention for DeltaScale {
    fn text(&self) -> String {
        format!("delta-scale:{}", self.factor)
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        if site.has_step_size {
            Ok(())
        } else {
            Err(self.incompatible(site.layer))
        }
    }

    fn on_gates(&self, site: &Site, mut gates: Gates) -> Result<Gates, Error> {
        let Some(step) = gates.step_size else {
            return Err(self.incompatible(site.layer).into());
        };
        gates.step_size = Some(step.mul_scalar(self.factor));
        gates.log_decay = gates.log_decay.scale(self.factor as f32);
        Ok(gates)
    }
}
