//! The H3 mixer: two state spaces around a product, in the place of attention.
//!
//! ```text
//! q, k, v = W_q x + b_q, W_k x + b_k, W_v x + b_v
//! k ← S_shift(k) + D_shift k                  a state that holds the last N keys
//! y = q ∘ (S_diag(k ∘ v) + D (k ∘ v))         a diagonal state space
//! out = W_out y + b
//! ```
//!
//! With heads of d > 1 features the product is the outer one, k_i v_j for all pairs of a head, its state spaces are shared by the
//! pairs, and y_j = Σ_i q_i S_diag(k_i v_j). The shift's kernel is the correlation K_l = Σ_n B_n C_{n+l} of N taps, and so a causal
//! convolution; the diagonal one is x_t = ā x_{t−1} + b̄ u_t, y_t = 2 Re(C x_t) with A = −e^a + iω and the bilinear rule. Source: Fu et
//! al., *Hungry Hungry Hippos* (2212.14052), section 3.

use crate::backend::host::{expect_finite, is_host};
use crate::error::{Error, Result};
use crate::intervention::Chain;
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState, RecurrentState};
use crate::operators::causal_conv1d::Activation;
use crate::operators::linear_state_space::{FixedLinearSystem, LinearSystem, Rule, Spectrum};
use crate::operators::{causal_conv1d, split};
use crate::sequences::Sequences;
use crate::weights::{Init, WeightSource};
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::f32::consts::{FRAC_1_SQRT_2, PI};

/// The shape of a mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H3Config {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Features of a head, d; a divisor of `model_dim`. Every published model has 1.
    pub head_dim: usize,
    /// N, keys that the shift holds; the diagonal state space has N/2 conjugate pairs of modes.
    pub state_dim: usize,
}

/// An H3 mixer: two state spaces around a product.
#[derive(Clone, Debug)]
pub struct H3 {
    config: H3Config,
    /// The rows of queries, then those of keys, then those of values. One product reads all.
    query_key_value: Linear,
    /// The shift's kernel and D_shift as the taps of a convolution, `[model_dim, state_dim]`, the last one meeting the current token.
    shift: Tensor<2>,
    /// The diagonal state space of every head, with D.
    diagonal: FixedLinearSystem,
    out_proj: Linear,
}

impl H3 {
    /// The mixer of the weights of `source`, with H = `model_dim` / `head_dim` heads and N = `state_dim`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q_proj`, `k_proj`, `v_proj` (with biases) | `model_dim` × `model_dim` |
    /// | `shift.B`, `shift.C` | `model_dim` × N, 1 × `model_dim` × N |
    /// | `shift_D` | `model_dim` |
    /// | `diagonal.inv_A_real`, ln(−Re A) | H × N/2 |
    /// | `diagonal.A_imag` | H × N/2 |
    /// | `diagonal.B`, `diagonal.C` | H × N/2 × 2, 1 × H × N/2 × 2: real and imaginary parts |
    /// | `diagonal.log_dt`, ln Δ | H |
    /// | `D` | H |
    /// | `out_proj` (with bias) | `model_dim` × `model_dim` |
    ///
    /// # Errors
    /// [`Error::Value`] for dimensions that are 0 or do not divide, and for a shift that is not finite; the source's for a tensor that is
    /// missing or of another shape.
    pub fn read<S: WeightSource>(config: H3Config, source: &mut S) -> Result<Self, S::Error> {
        let H3Config {
            model_dim,
            head_dim,
            state_dim,
        } = config;
        let fits = head_dim > 0 && model_dim.is_multiple_of(head_dim) && state_dim.is_multiple_of(2);
        if !fits || model_dim == 0 || state_dim == 0 {
            return Err(S::Error::from(Error::Value {
                what: "dimensions of an H3 mixer",
                expected: "all at least 1, model_dim a multiple of head_dim, state_dim of 2",
                found: format!("{config:?}"),
            }));
        }
        let rows = ["q_proj", "k_proj", "v_proj"].map(|name| (name, model_dim));
        Ok(Self {
            config,
            query_key_value: source.stacked(&rows, model_dim, true)?,
            shift: read_shift(&config, source)?,
            diagonal: read_diagonal(&config, source)?.into(),
            out_proj: source.linear("out_proj", [model_dim, model_dim], true)?,
        })
    }

    /// The sizes and options that the mixer was read with.
    pub fn config(&self) -> H3Config {
        self.config
    }

    /// The diagonal state space of a product of keys and values, read by queries.
    fn read_out(&self, [query, key, value]: [Tensor<3>; 3], state: &mut Tensor<4>) -> Result<Tensor<3>> {
        let dim = self.config.head_dim;
        if dim == 1 {
            return Ok(query * self.diagonal.forward(key * value, state)?);
        }
        let [batch, time, width] = query.dims();
        let heads = width / dim;
        // Channels in the order (i, j, head), so that systems, which are shared by the pairs, repeat.
        let by_feature = |x: Tensor<3>| x.reshape([batch, time, heads, dim]).swap_dims(2, 3);
        let [query, key, value] = [query, key, value].map(by_feature);
        let pairs = key.unsqueeze_dim::<5>(3) * value.unsqueeze_dim(2);
        let pairs = pairs.reshape([batch, time, dim * dim * heads]);
        let read = self.diagonal.forward(pairs, state)?;
        let read = read.reshape([batch, time, dim, dim, heads]) * query.unsqueeze_dim(3);
        // The output's features come in the order (j, head).
        Ok(read.sum_dim(2).reshape([batch, time, width]))
    }
}

/// Taps from the correlation of B and C; D_shift acts on the current token.
fn read_shift<S: WeightSource>(config: &H3Config, source: &mut S) -> Result<Tensor<2>, S::Error> {
    let (channels, width) = (config.model_dim, config.state_dim);
    let mut first = vec![0.0; width];
    first[0] = 1.0;
    let b = source.tensor("shift.B", [channels, width], Init::Repeated(first.into()))?;
    let c = source.tensor("shift.C", [1, channels, width], Init::Normal(1.0))?;
    let skip = source.vector("shift_D", channels, Init::Normal(1.0))?;
    let device = c.device();
    let padded = Tensor::cat(
        vec![
            c.reshape([channels, width]),
            Tensor::zeros([channels, width], &device),
        ],
        1,
    );
    // Row width − 1 − l of the windows is C from l on: the last tap meets the current token.
    let starts = (0..width as i64).rev();
    let indices: Vec<i64> = starts.flat_map(|l| l..l + width as i64).collect();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [width * width]), &device);
    let windows = padded.select(1, indices).reshape([channels, width, width]);
    let taps = (windows * b.unsqueeze_dim(1))
        .sum_dim(2)
        .reshape([channels, width]);
    let skip = skip.reshape([channels, 1]);
    let taps = match width {
        1 => taps + skip,
        _ => Tensor::cat(
            vec![
                taps.clone().narrow(1, 0, width - 1),
                taps.narrow(1, width - 1, 1) + skip,
            ],
            1,
        ),
    };
    // A device is not asked, for that would hold it up.
    if is_host([&device.inner()]) {
        expect_finite("shift of an H3 mixer", &taps)?;
    }
    Ok(taps)
}

/// S_diag read from `source`; fresh weights as the authors draw them: A = −½ + iπn, B = 1, Δ log-uniform from 0.001 to 0.1.
fn read_diagonal<S: WeightSource>(config: &H3Config, source: &mut S) -> Result<LinearSystem, S::Error> {
    let (heads, modes) = (config.model_dim / config.head_dim, config.state_dim / 2);
    let frequencies: Vec<f32> = (0..modes).map(|n| PI * n as f32).collect();
    let frequencies = Init::Repeated(frequencies.into());
    let real = source.tensor(
        "diagonal.inv_A_real",
        [heads, modes],
        Init::Constant(0.5_f32.ln()),
    )?;
    let imaginary = source.tensor("diagonal.A_imag", [heads, modes], frequencies)?;
    let one = Init::Repeated([1.0, 0.0].into());
    let b = source.tensor("diagonal.B", [heads, modes, 2], one)?;
    let c = source.tensor("diagonal.C", [1, heads, modes, 2], Init::Normal(FRAC_1_SQRT_2))?;
    let log_step = Init::Uniform(1e-3_f32.ln(), 1e-1_f32.ln());
    let step_size = source.vector("diagonal.log_dt", heads, log_step)?.exp();
    let skip = source.vector("D", heads, Init::Normal(1.0))?;
    let pairs = config.head_dim * config.head_dim;
    Ok(LinearSystem {
        // Every pair of a head's features is a channel.
        step_size: step_size.repeat_dim(0, pairs),
        a: Tensor::stack(vec![real.exp().neg(), imaginary], 2),
        b,
        c: c.repeat_dim(1, pairs),
        low_rank: None,
        skip: Some(skip.reshape([1, heads]).repeat_dim(1, pairs)),
        rule: Rule::Bilinear,
        spectrum: Spectrum::ConjugatePairs,
    })
}

impl Mixer for H3 {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        let [channels, width] = self.shift.dims();
        MixerState::Recurrent(RecurrentState {
            conv_states: vec![Tensor::zeros([batch, channels, width - 1], device)],
            systems: vec![self.diagonal.system().start(batch, device)],
            ..RecurrentState::default()
        })
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        _context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let state = state.recurrent()?;
        let joined = self.query_key_value.forward(input)?;
        let [query, key, value] = split(joined, [self.config.model_dim; 3])?;
        let (taps, before) = (self.shift.clone(), state.conv_state(0)?);
        let key = causal_conv1d(key, taps, None, Activation::None, &Sequences::Equal, before)?;
        let read = self.read_out([query, key, value], state.system(0)?)?;
        self.out_proj.forward(read)
    }

    /// Two per tap of the shift, and what the diagonal state space takes.
    fn flops_per_token(&self) -> u64 {
        2 * (self.config.model_dim * self.config.state_dim) as u64 + self.diagonal.system().flops_per_token()
    }
}
