//! Every operator's calls at the shapes of published models.

use spillway_kernel_dsl::DecayKind;
use spillway_kernel_dsl::causal_conv1d::{Activation, Problem as Convolution};
use spillway_kernel_dsl::cube::{Client, DType, DeviceBuffer, Error};
use spillway_kernel_dsl::delta_rule::{Problem as Delta, TransitionKind};
use spillway_kernel_dsl::gated_norm::{GateOrder, Problem as Norm, Statistic};
use spillway_kernel_dsl::long_convolution::{Direction, Later, Method, Problem as LongConvolution};
use spillway_kernel_dsl::recurrence::{Problem as Recurrence, ReadOut};
use spillway_kernel_dsl::selective_scan::Problem as Scan;
use spillway_kernel_dsl::taylor_attention::{Expansion, Problem as Taylor};
use spillway_kernel_dsl::wkv4::Problem as Wkv4;

use super::calls::{
    CallForm, Maker, delta_rule, ends, linear_state_space, long_convolution, positions, recurrence,
    selective_scan, taylor_attention, tokenwise, wkv4,
};

/// Launches an operator once.
type Launch = Box<dyn FnOnce(&Client) -> Result<(), Error>>;

/// One call of an operator.
pub struct Call {
    /// `operator/form/shape/type`.
    pub name: String,
    /// Launches it.
    pub launch: Launch,
}

const fn recurrence(sizes: [usize; 4], decay: DecayKind, read_out: ReadOut) -> Recurrence {
    let [heads, groups, key_dim, value_dim] = sizes;
    Recurrence {
        batch: 1,
        time: 2048,
        heads,
        groups,
        key_dim,
        value_dim,
        decay,
        read_out,
    }
}

const RECURRENCES: [(&str, Recurrence); 5] = {
    use DecayKind::{None, PerHead, PerHeadToken, PerKeyToken};
    use ReadOut::{Bonus, Inclusive};
    [
        ("mamba2", recurrence([24, 1, 128, 64], PerHeadToken, Inclusive)),
        ("gla", recurrence([8, 8, 64, 64], PerKeyToken, Inclusive)),
        ("rwkv6", recurrence([8, 8, 64, 64], PerKeyToken, Bonus)),
        ("retnet", recurrence([4, 4, 256, 512], PerHead, Inclusive)),
        ("based", recurrence([16, 16, 273, 64], None, Inclusive)),
    ]
};

const fn delta(decay: DecayKind, transition: TransitionKind) -> Delta {
    Delta {
        batch: 1,
        time: 2048,
        heads: 8,
        groups: 8,
        key_dim: 64,
        value_dim: 64,
        transition,
        decay,
    }
}

const DELTA_RULES: [(&str, Delta); 4] = [
    ("deltanet", delta(DecayKind::None, TransitionKind::Delta)),
    (
        "gated_deltanet",
        delta(DecayKind::PerHeadToken, TransitionKind::Delta),
    ),
    ("kda", delta(DecayKind::PerKeyToken, TransitionKind::Delta)),
    ("rwkv7", delta(DecayKind::PerKeyToken, TransitionKind::LowRank)),
];

const MAMBA: Scan = Scan {
    batch: 1,
    time: 2048,
    channels: 1536,
    state_dim: 16,
    groups: 1,
};

const RWKV4: Wkv4 = Wkv4 {
    batch: 1,
    time: 2048,
    channels: 768,
};

const CONVOLUTION: Convolution = Convolution {
    batch: 1,
    time: 2048,
    channels: 1792,
    width: 4,
    activation: Activation::Silu,
};

/// S4 in both directions, and a stream, each by transforms and tap by tap.
const LONG_CONVOLUTIONS: [(&str, LongConvolution); 4] = {
    use Method::{Direct, Fourier};
    const fn s4(direction: Direction, method: Method) -> LongConvolution {
        LongConvolution {
            batch: 1,
            time: 2048,
            channels: 256,
            multiplicity: 1,
            taps: 2048,
            direction,
            method,
        }
    }
    const BOTH: Direction = Direction::Both(Later::Next);
    [
        ("s4_both", s4(BOTH, Fourier)),
        ("s4_both_direct", s4(BOTH, Direct)),
        ("s4_stream", s4(Direction::Streamed, Fourier)),
        ("s4_stream_direct", s4(Direction::Streamed, Direct)),
    ]
};

/// That of Mamba-2, of RWKV-6 over heads, and of queries and keys.
const NORMS: [(&str, Norm); 3] = {
    const MAMBA2: Norm = Norm {
        rows: 2048,
        features: 1536,
        group_size: 1536,
        eps: 1e-5,
        statistic: Statistic::MeanSquare,
        order: GateOrder::NormAfterGate,
    };
    let rwkv6 = Norm {
        group_size: 64,
        statistic: Statistic::Variance,
        order: GateOrder::NormBeforeGate,
        ..MAMBA2
    };
    let l2 = Norm {
        group_size: 64,
        statistic: Statistic::SumOfSquares,
        ..MAMBA2
    };
    [("mamba2", MAMBA2), ("rwkv6", rwkv6), ("l2", l2)]
};

const BASED: Taylor = Taylor {
    batch: 1,
    time: 2048,
    prefix: 0,
    heads: 16,
    key_dim: 16,
    value_dim: 64,
    scale: 0.25,
    expansion: Expansion::Taylor,
    normalizer: Some(1e-12),
};

const TYPES: [DType; 3] = [DType::BF16, DType::F16, DType::F32];

/// Every model in bf16, and one of each operator in the other types.
pub fn calls() -> Vec<Call> {
    let mut calls = Vec::new();
    for (model, problem) in RECURRENCES {
        let token = Recurrence { time: 1, ..problem };
        let types = if model == "mamba2" {
            &TYPES[..]
        } else {
            &TYPES[..1]
        };
        add(
            &mut calls,
            ("recurrence", model),
            recurrence::FORMS,
            [problem, token],
            types,
        );
    }
    let token = Scan { time: 1, ..MAMBA };
    add(
        &mut calls,
        ("selective_scan", "mamba"),
        selective_scan::FORMS,
        [MAMBA, token],
        &TYPES,
    );
    for (model, problem) in DELTA_RULES {
        let token = Delta { time: 1, ..problem };
        let types = if model == "rwkv7" { &TYPES[..] } else { &TYPES[..1] };
        add(
            &mut calls,
            ("delta_rule", model),
            delta_rule::FORMS,
            [problem, token],
            types,
        );
    }
    let token = Wkv4 { time: 1, ..RWKV4 };
    add(&mut calls, ("wkv4", "rwkv4"), wkv4::FORMS, [RWKV4, token], &TYPES);
    for (model, state_dim) in [("s4d", 32), ("s4d_wide", 128)] {
        let layer = linear_state_space::s4d(2048, state_dim);
        let types = if model == "s4d" { &TYPES[..] } else { &TYPES[..1] };
        add(
            &mut calls,
            ("linear_state_space", model),
            linear_state_space::FORMS,
            [layer; 2],
            types,
        );
    }
    let token = Convolution {
        time: 1,
        ..CONVOLUTION
    };
    add(
        &mut calls,
        ("causal_conv1d", "mamba2"),
        tokenwise::CONVOLUTION,
        [CONVOLUTION, token],
        &TYPES,
    );
    for (model, problem) in LONG_CONVOLUTIONS {
        let forms = long_convolution::FORMS;
        add(
            &mut calls,
            ("long_convolution", model),
            forms,
            [problem; 2],
            &TYPES[..1],
        );
    }
    for (model, problem) in NORMS {
        let types = if model == "mamba2" {
            &TYPES[..]
        } else {
            &TYPES[..1]
        };
        add(
            &mut calls,
            ("gated_norm", model),
            tokenwise::NORM,
            [problem, problem],
            types,
        );
    }
    let heads = [2048, 24];
    add(
        &mut calls,
        ("step_size", "mamba2"),
        ends::STEP_SIZE,
        [heads, heads],
        &TYPES,
    );
    let logits = [64, 50_280];
    add(
        &mut calls,
        ("cross_entropy", "neox"),
        ends::CROSS_ENTROPY,
        [logits, logits],
        &TYPES,
    );
    add_based(&mut calls);
    calls
}

/// Based, and what is made of queries and keys before they meet.
fn add_based(calls: &mut Vec<Call>) {
    let token = Taylor { time: 1, ..BASED };
    let based = ("taylor_attention", "based");
    add(calls, based, taylor_attention::FORMS, [BASED, token], &TYPES);
    let (prefixed, jrt) = (
        Taylor {
            prefix: 1024,
            ..BASED
        },
        ("taylor_attention", "jrt"),
    );
    add(
        calls,
        jrt,
        taylor_attention::FORMS,
        [prefixed, token],
        &TYPES[..1],
    );
    let features = ("feature_map", "based");
    add(calls, features, positions::FEATURES, [[2048, 16]; 2], &TYPES[..1]);
    let turned = ("rotary", "retnet");
    add(calls, turned, positions::ROTARY, [[2048, 4, 256]; 2], &TYPES[..1]);
}

/// The chunked recurrence of Mamba-2 in bf16 with so many sequences, forward and backward.
pub fn long_recurrences(batch: usize) -> Vec<Call> {
    let problem = Recurrence {
        batch,
        ..RECURRENCES[0].1
    };
    let mut calls = Vec::new();
    for form in recurrence::FORMS
        .iter()
        .filter(|form| ["chunked", "backward"].contains(&form.name))
    {
        add(
            &mut calls,
            ("recurrence", "long"),
            std::slice::from_ref(form),
            [problem; 2],
            &TYPES[..1],
        );
    }
    calls
}

/// Adds every form of an operator at a shape in every type; `problems` are that of many tokens and that of one.
fn add<P: Copy + 'static>(
    calls: &mut Vec<Call>,
    (operator, model): (&str, &str),
    forms: &[CallForm<P>],
    problems: [P; 2],
    types: &[DType],
) {
    for &dtype in types {
        for form in forms {
            let (prepare, problem) = (form.prepare, problems[usize::from(form.one_token)]);
            calls.push(Call {
                name: format!("{operator}/{}/{model}/{dtype:?}", form.name),
                launch: Box::new(move |client| {
                    let make = Maker {
                        client: client.clone(),
                        dtype,
                        fill: DeviceBuffer::empty,
                    };
                    prepare(&make, problem)?()
                }),
            });
        }
    }
}
