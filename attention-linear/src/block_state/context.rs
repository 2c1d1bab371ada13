//! What blocks leave for the blocks behind them.

use super::{BlockStateConfig, Contexts};
use crate::blocks::{Cut, apart};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::channel_filter::ChannelFilter;
use spillway_ssm_core::mixer::RecurrentState;
use spillway_ssm_core::{Linear, Result, WeightSource};

/// The filters of a layer, and what makes contexts of their outputs.
#[derive(Clone, Debug)]
pub(super) enum ContextSource {
    /// Outputs as they are.
    SingleHead(ChannelFilter),
    /// Projections of an output, `[S · D, D]`.
    MultiHead(ChannelFilter, Linear),
    /// Several filters side by side, between projections down to all of them and up from each.
    MultiFilter {
        down: Linear,
        filters: ChannelFilter,
        up: Vec<Linear>,
    },
}

impl ContextSource {
    pub(super) fn read<S: WeightSource>(config: &BlockStateConfig, source: &mut S) -> Result<Self, S::Error> {
        let (width, kind) = (config.model_dim, config.filter);
        let count = match config.contexts {
            Contexts::MultiFilter(count) => count,
            Contexts::SingleHead | Contexts::MultiHead(_) => {
                let filter = ChannelFilter::read(kind, width, &mut source.below("ssm", &[]))?;
                return Ok(match config.contexts {
                    Contexts::MultiHead(count) => {
                        Self::MultiHead(filter, source.linear("heads", [count * width, width], false)?)
                    }
                    _ => Self::SingleHead(filter),
                });
            }
        };
        let half = width / 2;
        let names: Vec<String> = (0..count).map(|index| format!("down.{index}")).collect();
        let rows: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), half)).collect();
        let (mut filters, mut up) = (Vec::new(), Vec::new());
        for index in 0..count {
            let name = format!("ssm.{index}");
            filters.push(ChannelFilter::read(kind, half, &mut source.below(name, &[]))?);
            up.push(source.linear(&format!("up.{index}"), [width, half], false)?);
        }
        Ok(Self::MultiFilter {
            down: source.stacked(&rows, width, false)?,
            filters: ChannelFilter::side_by_side(filters).map_err(S::Error::from)?,
            up,
        })
    }

    fn filter(&self) -> &ChannelFilter {
        match self {
            Self::SingleHead(filter) | Self::MultiHead(filter, _) => filter,
            Self::MultiFilter { filters, .. } => filters,
        }
    }

    pub(super) fn start(&self, batch: usize, device: &Device) -> RecurrentState {
        self.filter().start(batch, device)
    }

    pub(super) fn flops_per_token(&self) -> u64 {
        self.filter().flops_per_token()
    }

    /// The outputs of all filters at every token.
    pub(super) fn filtered(&self, input: Tensor<3>, state: &mut RecurrentState) -> Result<Tensor<3>> {
        let input = match self {
            Self::MultiFilter { down, .. } => down.forward(input)?,
            Self::SingleHead(_) | Self::MultiHead(..) => input,
        };
        self.filter().forward(input, state)
    }

    /// The contexts `[rows, S, D]` of outputs `[rows, 1, width of all filters]`.
    pub(super) fn contexts(&self, outputs: Tensor<3>) -> Result<Tensor<3>> {
        let [rows, _, width] = outputs.dims();
        match self {
            Self::SingleHead(_) => Ok(outputs),
            Self::MultiHead(_, heads) => {
                let count = heads.out_features() / width;
                Ok(heads.forward(outputs)?.reshape([rows, count, width]))
            }
            Self::MultiFilter { up, .. } => {
                let half = width / up.len();
                let of_filters = up.iter().enumerate();
                let of_filters =
                    of_filters.map(|(index, up)| up.forward(outputs.clone().narrow(2, index * half, half)));
                Ok(Tensor::cat(of_filters.collect::<Result<_>>()?, 1))
            }
        }
    }
}

/// What the blocks that end in a call leave.
pub(super) struct Made {
    /// The block begun before it, `[batch, S, ·]`, where it ends.
    pub(super) begun: Option<Tensor<3>>,
    /// The whole blocks, `[batch · blocks, S, ·]`, where there are any.
    pub(super) blocks: Option<Tensor<3>>,
}

impl Made {
    /// What all tokens of every block give, from `tokens` `[batch, time, ·]`; `begun` `[batch, W, ·]` holds it of those before the call,
    /// and is left with that of the block begun.
    pub(super) fn of_all_tokens(tokens: Tensor<3>, cut: &Cut, begun: &mut Tensor<3>) -> Self {
        let [batch, _, width] = tokens.dims();
        let device = tokens.device();
        let filled = |parts: Vec<Tensor<3>>| {
            let held: usize = parts.iter().map(|part| part.dims()[1]).sum();
            let rest = cut.window - held;
            let rest = (rest > 0).then(|| Tensor::zeros([batch, rest, width], &device));
            Tensor::cat(parts.into_iter().chain(rest).collect(), 1)
        };
        let mut made = Self {
            begun: None,
            blocks: None,
        };
        if cut.head > 0 {
            let before = begun.clone().narrow(1, 0, cut.begun);
            *begun = filled(vec![before, tokens.clone().narrow(1, 0, cut.head)]);
        }
        if cut.ends_begun() {
            made.begun = Some(std::mem::replace(
                begun,
                Tensor::zeros([batch, cut.window, width], &device),
            ));
        }
        if cut.blocks > 0 {
            let whole = tokens.clone().narrow(1, cut.head, cut.blocks * cut.window);
            made.blocks = Some(apart(whole, cut));
        }
        if cut.tail > 0 {
            *begun = filled(vec![tokens.narrow(1, cut.before_tail(), cut.tail)]);
        }
        made
    }

    /// What the last tokens of the blocks give, each `[·, 1, ·]`.
    pub(super) fn of_last_tokens(tokens: Tensor<3>, cut: &Cut) -> Self {
        let begun = cut
            .ends_begun()
            .then(|| tokens.clone().narrow(1, cut.head - 1, 1));
        let blocks = (cut.blocks > 0).then(|| {
            let whole = tokens.narrow(1, cut.head, cut.blocks * cut.window);
            apart(whole, cut).narrow(1, cut.window - 1, 1)
        });
        Self { begun, blocks }
    }

    /// `begun` and `blocks`, each with `change` applied to it where there is one.
    pub(super) fn map(self, change: impl Fn(Tensor<3>) -> Result<Tensor<3>>) -> Result<Self> {
        Ok(Self {
            begun: self.begun.map(&change).transpose()?,
            blocks: self.blocks.map(&change).transpose()?,
        })
    }
}

/// Attention of queries `[rows, time, heads, dim]` to the keys and values `pairs` `[rows, contexts, 2 · heads · dim]`.
pub(super) fn cross(query: Tensor<4>, pairs: Tensor<3>, heads: usize, scale: f32) -> Tensor<4> {
    let [rows, count, width] = pairs.dims();
    let half = width / 2;
    let part = |first: usize| {
        let part = pairs.clone().narrow(2, first, half);
        part.reshape([rows, count, heads, half / heads]).swap_dims(1, 2)
    };
    let (key, value) = (part(0), part(half));
    let scores = query
        .swap_dims(1, 2)
        .matmul(key.swap_dims(2, 3))
        .mul_scalar(scale);
    softmax(scores, 3).matmul(value).swap_dims(1, 2)
}
