//! The HiPPO-RNN cell: a hidden state beside a memory that projects a signal of the cell's own onto polynomials.
//!
//! ```text
//! u_t = W_u [x_t, h_{t−1}] + b_u                 M numbers of what is worth remembering
//! m_t = Ā_t m_{t−1} + B̄_t u_t                    N coefficients of the history of each
//! ĥ_t = tanh(W_h [x_t, m_t] + b_h)
//! h_t = (1 − g_t) ∘ h_{t−1} + g_t ∘ ĥ_t          g_t = σ(W_g [x_t, m_t] + b_g); without a gate h_t = ĥ_t
//! ```
//!
//! A and B are those of a measure and are not trained. Under LegS of all the past, Ā_t and B̄_t change with the token's position; under any
//! other measure they stay as they are for a step Δ. The Legendre memory unit is the cell without a gate whose u_t reads m_{t−1} and whose ĥ_t
//! reads h_{t−1} as well. Sources: Gu et al., *HiPPO* (2008.07669), section 3; Voelker, Kajić & Eliasmith, *Legendre memory units* (2019).

use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::intervention::Chain;
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState, RecurrentState};
use crate::operators::pointwise::{sigmoid, tanh};
use crate::state_space::hippo::{LegsMemory, LegsScan, Measure};
use crate::state_space::{Discretisation, StateSpace as _, StateSpaceError};
use crate::weights::WeightSource;
use burn::tensor::{Device, Tensor, TensorData};

/// What is remembered of the past.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Remembered {
    /// All of it under one weight: LegS, whose coefficients do not depend on the sampling rate.
    All,
    /// What a measure weighs, whose time passes by `step` from token to token.
    Weighed {
        /// The measure that weighs the past.
        measure: Measure,
        /// Δ, by which the measure's time passes from token to token, positive.
        step: f64,
    },
}

/// The shape of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HippoRnnConfig {
    /// Width of input, hidden state and output.
    pub model_dim: usize,
    /// Signals that are remembered, M.
    pub signals: usize,
    /// Coefficients of each, N.
    pub order: usize,
    /// What is remembered of the past.
    pub remembered: Remembered,
    /// How time becomes discrete: a bilinear rule or the zero-order hold.
    pub rule: Discretisation,
    /// Whether u reads the memory.
    pub signals_read_memory: bool,
    /// Whether ĥ and g read the hidden state.
    pub hidden_reads_hidden: bool,
    /// Whether there is a gate.
    pub gate: bool,
}

impl HippoRnnConfig {
    /// The gated cell that remembers all the past by the bilinear rule.
    pub fn legs(model_dim: usize, signals: usize, order: usize) -> Self {
        Self {
            model_dim,
            signals,
            order,
            remembered: Remembered::All,
            rule: Discretisation::BILINEAR,
            signals_read_memory: false,
            hidden_reads_hidden: false,
            gate: true,
        }
    }

    /// The Legendre memory unit with a window of `window` tokens.
    pub fn lmu(model_dim: usize, signals: usize, order: usize, window: f64) -> Self {
        Self {
            // The measure's own window is 2 long.
            remembered: Remembered::Weighed {
                measure: Measure::Legt,
                step: 2.0 / window,
            },
            rule: Discretisation::ZeroOrderHold,
            signals_read_memory: true,
            hidden_reads_hidden: true,
            gate: false,
            ..Self::legs(model_dim, signals, order)
        }
    }

    fn validate(&self) -> Result<()> {
        let sizes = [self.model_dim, self.signals, self.order];
        let rule = matches!(
            self.rule,
            Discretisation::GeneralisedBilinear { .. } | Discretisation::ZeroOrderHold
        );
        if rule && !sizes.contains(&0) {
            return Ok(());
        }
        Err(Error::Value {
            what: "shape of a HiPPO-RNN cell",
            expected: "sizes of at least 1, and a bilinear rule or the zero-order hold",
            found: format!("{self:?}"),
        })
    }

    /// Features that u is made of, and ĥ and g.
    fn widths(&self) -> [usize; 2] {
        let (width, memory) = (self.model_dim, self.signals * self.order);
        let extra = |reads: bool, more: usize| if reads { more } else { 0 };
        [
            2 * width + extra(self.signals_read_memory, memory),
            width + memory + extra(self.hidden_reads_hidden, width),
        ]
    }
}

/// A HiPPO-RNN cell: a hidden state beside a memory of polynomial coefficients.
#[derive(Clone, Debug)]
pub struct HippoRnn {
    config: HippoRnnConfig,
    memory: Memory,
    signals: Linear,
    hidden: Linear,
    gate: Option<Linear>,
}

/// Where Ā and B̄ come from.
#[derive(Clone, Debug)]
enum Memory {
    /// Ā and B̄ are the same at every position.
    Constant(Step),
    /// Ā and B̄ change with the position.
    Scan(LegsScan),
}

/// Ā, transposed, `[N, N]` row by row, and B̄.
#[derive(Clone, Debug)]
struct Step {
    transition: Vec<f32>,
    input: Vec<f32>,
}

impl HippoRnn {
    /// The cell of the weights of `source`, with H = `model_dim`, M = `signals`, N = `order`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `signals` (with bias): x, h, and m where it is read | M × (2H or 2H + MN) |
    /// | `hidden` (with bias): x, m, and h where it is read | H × (H + MN or 2H + MN) |
    /// | `gate` (with bias), where there is one | as `hidden` |
    ///
    /// # Errors
    /// [`Error::Value`] for sizes of 0, a rule or a step that the measure does not know; the source's for a tensor that is missing or
    /// of another shape.
    pub fn read<S: WeightSource>(config: HippoRnnConfig, source: &mut S) -> Result<Self, S::Error> {
        config.validate().map_err(S::Error::from)?;
        let [of_signals, of_hidden] = config.widths();
        let hidden = [config.model_dim, of_hidden];
        Ok(Self {
            memory: Memory::new(&config).map_err(|error| S::Error::from(unusable(&error)))?,
            signals: source.linear("signals", [config.signals, of_signals], true)?,
            hidden: source.linear("hidden", hidden, true)?,
            gate: match config.gate {
                true => Some(source.linear("gate", hidden, true)?),
                false => None,
            },
            config,
        })
    }

    /// The sizes and options that the mixer was read with.
    pub fn config(&self) -> HippoRnnConfig {
        self.config
    }

    /// The next h and m after one token, of `x` and `h` `[batch, 1, H]` and `m` `[batch, M, N]`.
    fn step(
        &self,
        x: Tensor<3>,
        [h, m]: [Tensor<3>; 2],
        (transition, input): (Tensor<3>, Tensor<3>),
    ) -> Result<[Tensor<3>; 2]> {
        let HippoRnnConfig { signals, order, .. } = self.config;
        let batch = x.dims()[0];
        let flat = |m: &Tensor<3>| m.clone().reshape([batch, 1, signals * order]);
        let mut read = vec![x.clone(), h.clone()];
        if self.config.signals_read_memory {
            read.push(flat(&m));
        }
        let u = self.signals.forward(Tensor::cat(read, 2))?.swap_dims(1, 2);
        let m = m.matmul(transition) + u.matmul(input);
        let mut read = vec![x, flat(&m)];
        if self.config.hidden_reads_hidden {
            read.push(h.clone());
        }
        let read = Tensor::cat(read, 2);
        let candidate = tanh(self.hidden.forward(read.clone())?);
        let h = match &self.gate {
            None => candidate,
            Some(gate) => h.clone() + sigmoid(gate.forward(read)?) * (candidate - h),
        };
        Ok([h, m])
    }
}

impl Memory {
    fn new(config: &HippoRnnConfig) -> Result<Self, StateSpaceError> {
        let order = config.order;
        match config.remembered {
            Remembered::All => Ok(Self::Scan(LegsScan::new(order, config.rule)?)),
            Remembered::Weighed { measure, step } => {
                let system = measure.transition(order)?.states_only()?;
                let discrete = system.discretise(config.rule, step)?;
                Ok(Self::Constant(Step {
                    // Column by column, which is the transpose row by row.
                    transition: discrete.a().iter().map(|x| *x as f32).collect(),
                    input: discrete.b().iter().map(|x| *x as f32).collect(),
                }))
            }
        }
    }

    /// Ā, transposed, and B̄ of the tokens at these positions, `[1 or batch, N, N]` and `[1 or batch, 1, N]`.
    fn at(&self, positions: &[u64], order: usize, device: &Device) -> Result<(Tensor<3>, Tensor<3>)> {
        let steps = match self {
            Self::Constant(step) => vec![step.clone()],
            Self::Scan(scan) => {
                let same = positions.windows(2).all(|pair| pair[0] == pair[1]);
                let wanted = if same {
                    &positions[..1.min(positions.len())]
                } else {
                    positions
                };
                let steps = wanted.iter().map(|position| Step::of(scan, order, *position));
                steps
                    .collect::<Result<_, _>>()
                    .map_err(|error| unusable(&error))?
            }
        };
        let count = steps.len();
        let joined = |part: fn(&Step) -> &[f32]| steps.iter().flat_map(part).copied().collect::<Vec<f32>>();
        let transition = TensorData::new(joined(|step| &step.transition), [count, order, order]);
        let input = TensorData::new(joined(|step| &step.input), [count, 1, order]);
        Ok((
            Tensor::from_data(transition, device),
            Tensor::from_data(input, device),
        ))
    }
}

impl Step {
    /// What the scan makes of each unit vector, and of a sample alone, at a position.
    fn of(scan: &LegsScan, order: usize, position: u64) -> Result<Self, StateSpaceError> {
        let after = |coefficients: Vec<f64>, sample: f64| -> Result<Vec<f32>, StateSpaceError> {
            let mut memory = LegsMemory {
                coefficients,
                samples: position,
            };
            scan.read(&mut memory, &[sample])?;
            Ok(memory.coefficients.iter().map(|c| *c as f32).collect())
        };
        let zeros = vec![0.0; order];
        let unit = |index: usize| {
            let mut unit = zeros.clone();
            unit[index] = 1.0;
            after(unit, 0.0)
        };
        let rows = (0..order).map(unit).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            transition: rows.concat(),
            input: after(zeros.clone(), 1.0)?,
        })
    }
}

fn unusable(error: &StateSpaceError) -> Error {
    Error::Value {
        what: "memory of a HiPPO-RNN cell",
        expected: "a measure, an order, a rule and a step that go together",
        found: error.to_string(),
    }
}

impl Mixer for HippoRnn {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        let HippoRnnConfig {
            model_dim,
            signals,
            order,
            ..
        } = self.config;
        MixerState::Recurrent(RecurrentState {
            carried: vec![
                Tensor::zeros([batch, 1, model_dim], device),
                Tensor::zeros([batch, signals, order], device),
            ],
            ..RecurrentState::default()
        })
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let HippoRnnConfig {
            model_dim,
            signals,
            order,
            ..
        } = self.config;
        let [batch, time, _] = input.dims();
        let state = state.recurrent()?;
        expect_shape(
            "input of a HiPPO-RNN cell",
            &[batch, time, model_dim],
            &input.dims(),
        )?;
        let (h, m) = (state.carried(0)?.clone(), state.carried(1)?.clone());
        expect_shape("hidden state", &[batch, 1, model_dim], &h.dims())?;
        expect_shape("memory", &[batch, signals, order], &m.dims())?;
        let changes = matches!(self.memory, Memory::Scan(_));
        if changes {
            expect_shape("positions of sequences", &[batch], &[context.positions.len()])?;
        }
        let device = input.device();
        if batch == 0 || time == 0 {
            return Ok(Tensor::zeros([batch, time, model_dim], &device));
        }
        let mut step = self.memory.at(context.positions, order, &device)?;
        let (mut now, mut outputs) = ([h, m], Vec::with_capacity(time));
        for t in 0..time {
            if changes && t > 0 {
                let positions: Vec<u64> = context.positions.iter().map(|p| p + t as u64).collect();
                step = self.memory.at(&positions, order, &device)?;
            }
            now = self.step(input.clone().narrow(1, t, 1), now, step.clone())?;
            outputs.push(now[0].clone());
        }
        let [h, m] = now;
        *state.carried(0)? = h;
        *state.carried(1)? = m;
        Ok(Tensor::cat(outputs, 1))
    }

    /// Two for every pair of coefficients of a signal.
    fn flops_per_token(&self) -> u64 {
        2 * (self.config.signals * self.config.order * self.config.order) as u64
    }
}
