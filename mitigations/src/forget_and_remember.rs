//! Forget more, remember less: multiply what a token keeps of the state, and what it writes into it.
//!
//! ```text
//! α′_t = c_α · α_t    (log α′ = log α + ln c_α)          B′_t = c_B · B_t
//! ```
//!
//! at every head of every layer, for every token, in prefill and in decode. The pair was published as *reduced retention
//! and insertion* (Chen et al., *Stuffed Mamba*, 2410.07145), with (0.9999, 0.75) for Mamba-2.
//!
//! What the constants mean. c_α adds an upper limit to every head's memory: after n tokens at most c_αⁿ of a write is left,
//! so the e-folding time is −1/ln c_α tokens.
//!
//! | c_α | e-folding time | left after 8,192 tokens |
//! |---|---|---|
//! | 0.99 | 99.5 tokens | 2·10⁻³⁶ |
//! | 0.999 | 1,000 | 2.8·10⁻⁴ |
//! | 0.9999 | 10,000 | 0.44 |
//! | 0.99999 | 100,000 | 0.92 |
//!
//! It therefore has to be chosen by the training length T: c_α = exp(−κ/T) with κ between 0.6 and 0.9 is a good start
//! (0.9999 is κ = 0.82 at T = 8,192).
//!
//! Two traps. c_α is a factor, not an exponent: α^0.9999 is *larger* than α, and makes a model remember longer. And c_B alone
//! is not forgetting: the state is linear in B, so it shrinks all memories alike, old and new, which for one layer is the
//! same as shrinking the read-out against the skip D·x. It postpones the moment when a growing norm becomes unfamiliar; it
//! does not stop the growth.

use ssm_core::{Error, Gates, Intervention, Site};

/// `forget:c`: α′ = c·α.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forget {
    /// c_α, in (0, 1].
    pub retention: f64,
}

/// `remember:c`: B′ = c·B, the decay left alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Remember {
    /// c_B, above 0.
    pub insertion: f64,
}

/// `rri:c_α,c_B`: both at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReducedRetentionAndInsertion {
    /// c_α, in (0, 1].
    pub retention: f64,
    /// c_B, above 0.
    pub insertion: f64,
}

impl Intervention for Forget {
    fn text(&self) -> String {
        format!("forget:{}", self.retention)
    }

    fn on_gates(&self, _site: &Site, gates: Gates) -> Result<Gates, Error> {
        Ok(multiply_retention(gates, self.retention))
    }
}

impl Intervention for Remember {
    fn text(&self) -> String {
        format!("remember:{}", self.insertion)
    }

    fn on_gates(&self, _site: &Site, gates: Gates) -> Result<Gates, Error> {
        Ok(multiply_insertion(gates, self.insertion))
    }
}

impl Intervention for ReducedRetentionAndInsertion {
    fn text(&self) -> String {
        format!("rri:{},{}", self.retention, self.insertion)
    }

    fn on_gates(&self, _site: &Site, gates: Gates) -> Result<Gates, Error> {
        Ok(multiply_insertion(
            multiply_retention(gates, self.retention),
            self.insertion,
        ))
    }
}

fn multiply_retention(gates: Gates, retention: f64) -> Gates {
    // The logarithm is taken in f64: 0.9999 rounded to f32 first would be off by 3e-4 of its distance from 1.
    gates.add_log_decay(retention.ln() as f32)
}

/// A write is k (δ v)ᵀ, so the factor may go to δ, which is `key_dim` times smaller than k, where there is one.
fn multiply_insertion(mut gates: Gates, insertion: f64) -> Gates {
    gates.step_size = match gates.step_size {
        Some(step) => Some(step.mul_scalar(insertion)),
        None => {
            gates.key = gates.key.mul_scalar(insertion);
            None
        }
    };
    gates
}
