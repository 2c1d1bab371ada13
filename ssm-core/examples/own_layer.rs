//! A layer of your own: a Burn module whose gates you choose, around a recurrence with its gradients.
//!
//!     cargo run --release -p spillway-ssm-core --example own_layer
//!
//! It is gated linear attention with one decay per head and token,
//!
//! ```text
//! q, k, v = W x + b        a = σ(w x + c)        h_t = a_t h_{t-1} + k_t v_tᵀ        out_t = W_o (q_tᵀ h_t)
//! ```
//!
//! and learns to smooth a noise, target_t = 0.9 target_{t-1} + x_t: how slowly to forget is found by gradient descent alone.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Device, Distribution, Tensor};
use burn_optim::{AdamWConfig, GradientsParams};
use spillway_ssm_core::{Chunking, Error, Gates, LogDecay, State, recurrence};

const MODEL_DIM: usize = 8;
const HEADS: usize = 2;
const KEY_DIM: usize = 4;

#[derive(Module, Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    decay: Linear,
    output: Linear,
}

impl Layer {
    fn new(device: &Device) -> Self {
        let linear = |features| LinearConfig::new(MODEL_DIM, features).init(device);
        Self {
            query: linear(HEADS * KEY_DIM),
            key: linear(HEADS * KEY_DIM),
            value: linear(MODEL_DIM),
            decay: linear(HEADS),
            output: linear(MODEL_DIM),
        }
    }

    /// `[batch, time, MODEL_DIM]` to the same shape; `state` is left after the last token, for the next call to go on from.
    fn forward(&self, x: Tensor<3>, state: &mut Option<State>) -> Result<Tensor<3>, Error> {
        let [batch, time, _] = x.dims();
        let heads = |rows: Tensor<3>, dim| rows.reshape([batch, time, HEADS, dim]);
        let query = heads(self.query.forward(x.clone()), KEY_DIM);
        let key = heads(self.key.forward(x.clone()), KEY_DIM);
        let value = heads(self.value.forward(x.clone()), MODEL_DIM / HEADS);
        let gates = Gates {
            // Decays are logarithms, so that long segments of them are sums.
            log_decay: LogDecay::PerHeadToken(log_sigmoid(self.decay.forward(x))),
            ..Gates::new(query, key, value)
        };
        let state = state.get_or_insert_with(|| State::zeros(&gates.dims(), &gates.query.device()));
        let read_out = recurrence(gates, state, Chunking::default())?;
        Ok(self.output.forward(read_out.reshape([batch, time, MODEL_DIM])))
    }
}

/// Noise, and the same noise smoothed.
fn example(device: &Device) -> (Tensor<3>, Tensor<3>) {
    const TIME: usize = 32;
    let x = Tensor::<3>::random([8, TIME, MODEL_DIM], Distribution::Normal(0.0, 1.0), device);
    let mut smooth = x.clone().narrow(1, 0, 1);
    let mut rows = vec![smooth.clone()];
    for t in 1..TIME {
        smooth = smooth * 0.9 + x.clone().narrow(1, t, 1);
        rows.push(smooth.clone());
    }
    (x, Tensor::cat(rows, 1))
}

fn main() -> Result<(), Error> {
    let device = Device::flex().autodiff();
    device.seed(1);
    let (mut layer, mut optimizer) = (Layer::new(&device), AdamWConfig::new().init());
    let mut losses = Vec::new();
    for step in 0..200 {
        let (x, target) = example(&device);
        let loss = (layer.forward(x, &mut None)? - target).square().mean();
        losses.push(loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &layer);
        layer = optimizer.step(0.02, layer, gradients);
        if step % 50 == 0 {
            println!("step {step:3}: mean square error {:.3}", losses[step]);
        }
    }
    let (first, last) = (losses[0], losses[199]);
    println!("from {first:.3} to {last:.3}");
    assert!(
        last < 0.25 * first,
        "the layer has learned nothing: from {first} to {last}"
    );
    Ok(())
}
