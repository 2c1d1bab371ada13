//! Maps on decays by head and by token, the same for every kind of decay.

use crate::writes::per_head;
use burn::tensor::{Bool, Tensor};
use spillway_ssm_core::{Erase, Gates, LogDecay};

/// What is done to a log decay with one number per head.
#[derive(Clone, Copy)]
pub(crate) enum PerHead {
    /// log a + number.
    Add,
    /// log a becomes min(log a, number).
    AtMost,
}

impl PerHead {
    fn of<const D: usize>(self, log_decay: Tensor<D>, numbers: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Add => log_decay + numbers,
            Self::AtMost => {
                let shape = log_decay.dims();
                log_decay.min_pair(numbers.expand(shape))
            }
        }
    }
}

/// log a mapped with `numbers`, one of at most 0 per head, which gives models without decay one.
pub(crate) fn map_decay(gates: Gates, numbers: &[f32], map: PerHead) -> Gates {
    if gates.dims().time == 0 {
        return gates;
    }
    let mut gates = gates.with_stored_decay();
    let numbers = Tensor::<1>::from_floats(numbers, &gates.value.device());
    gates.log_decay = match gates.log_decay {
        LogDecay::None => LogDecay::PerHead(numbers),
        LogDecay::PerHead(a) => LogDecay::PerHead(map.of(a, numbers)),
        LogDecay::PerKey(a) => LogDecay::PerKey(map.of(a, numbers.unsqueeze_dim(1))),
        LogDecay::PerHeadToken(a) => LogDecay::PerHeadToken(map.of(a, numbers.unsqueeze_dims(&[0, 1]))),
        LogDecay::PerKeyToken(a) => LogDecay::PerKeyToken(map.of(a, numbers.unsqueeze_dims(&[0, 1, 3]))),
        // Stored above.
        LogDecay::PerStep(a) => LogDecay::PerStep(a),
    };
    gates
}

/// Every log decay times the factor of its token and head, `[1, time, heads]`; decays that are the same for all tokens become
/// one for each.
pub(crate) fn scale_decay(gates: Gates, factors: Tensor<3>) -> Gates {
    let dims = gates.dims();
    let (batch, time, heads) = (dims.batch, dims.time, dims.heads);
    if batch * time == 0 {
        return gates;
    }
    let mut gates = gates.with_stored_decay();
    let of_keys = || factors.clone().unsqueeze_dim::<4>(3);
    gates.log_decay = match gates.log_decay {
        LogDecay::None => LogDecay::None,
        LogDecay::PerHead(a) => {
            let scaled = a.unsqueeze_dims::<3>(&[0, 1]) * factors;
            LogDecay::PerHeadToken(scaled.expand([batch, time, heads]))
        }
        LogDecay::PerKey(a) => {
            let scaled = a.unsqueeze_dims::<4>(&[0, 1]) * of_keys();
            LogDecay::PerKeyToken(scaled.expand([batch, time, heads, dims.key_dim]))
        }
        LogDecay::PerHeadToken(a) => LogDecay::PerHeadToken(a * factors),
        LogDecay::PerKeyToken(a) => LogDecay::PerKeyToken(a * of_keys()),
        // Stored above.
        LogDecay::PerStep(a) => LogDecay::PerStep(a),
    };
    gates
}

/// The tokens and heads of `skip`, `[batch, time, heads]`, leave the state as it is: decay 1, nothing written, nothing erased.
pub(crate) fn skip_tokens(mut gates: Gates, skip: Tensor<3, Bool>) -> Gates {
    let dims = gates.dims();
    let (batch, time, heads) = (dims.batch, dims.time, dims.heads);
    if batch * time == 0 {
        return gates;
    }
    let of_keys = || {
        skip.clone()
            .unsqueeze_dim::<4>(3)
            .expand([batch, time, heads, dims.key_dim])
    };
    gates.log_decay = match gates.log_decay {
        // A step of 0 below is a decay of 1.
        decay @ (LogDecay::None | LogDecay::PerStep(_)) => decay,
        LogDecay::PerHead(a) => {
            let a = a.unsqueeze_dims::<3>(&[0, 1]).expand([batch, time, heads]);
            LogDecay::PerHeadToken(a.mask_fill(skip.clone(), 0.0))
        }
        LogDecay::PerHeadToken(a) => LogDecay::PerHeadToken(a.mask_fill(skip.clone(), 0.0)),
        LogDecay::PerKey(a) => {
            let a = a
                .unsqueeze_dims::<4>(&[0, 1])
                .expand([batch, time, heads, dims.key_dim]);
            LogDecay::PerKeyToken(a.mask_fill(of_keys(), 0.0))
        }
        LogDecay::PerKeyToken(a) => LogDecay::PerKeyToken(a.mask_fill(of_keys(), 0.0)),
    };
    gates.erase = match gates.erase {
        Erase::None => Erase::None,
        Erase::Delta(beta) => Erase::Delta(beta.mask_fill(skip.clone(), 0.0)),
        // Heads of a group may skip different tokens, so each gets keys of its own.
        Erase::LowRank { p, b } => {
            gates.query = per_head(gates.query, &dims);
            gates.key = per_head(gates.key, &dims);
            Erase::LowRank {
                p: per_head(p, &dims),
                b: per_head(b, &dims).mask_fill(of_keys(), 0.0),
            }
        }
    };
    gates.step_size = gates.step_size.map(|step| step.mask_fill(skip, 0.0));
    gates
}
