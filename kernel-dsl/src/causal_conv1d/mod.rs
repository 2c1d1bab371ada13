//! Depthwise causal convolution over time, with the state it carries.
//!
//! ```text
//! y_t[c] = act( bias[c] + Σ_j weight[c, j] · x_{t + j − (W − 1)}[c] ),     j = 0 … W − 1
//! ```
//!
//! The last tap meets the current token; tokens before the first are the state's: the last W − 1 inputs, oldest first. It is
//! what Mamba, Mamba-2, H3 and DeltaNet put before their recurrence (Gu & Dao, *Mamba*, 2312.00752, section 3.4).

mod host;
mod problem;
pub mod reference;

pub use host::causal_conv1d;
pub use problem::{Activation, ConvError, Problem};
