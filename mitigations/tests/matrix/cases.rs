//! What every mitigation makes of a plain recurrence in f64, and on which recurrences it is refused.

use crate::common::brute::{Brute, Decay, Kind, Layer, idle_token};
use crate::common::{parse, values};
use crate::start;
use proptest::prelude::*;
use spillway_mitigations::calibrate::{Calibration, HeadStatistics, SiteStatistics};
use spillway_mitigations::histogram::Histogram;
use spillway_ssm_core::{Chunking, Rule, Site};

/// Mitigations that subtract nothing.
pub const BOUND: f64 = 1e-5;

/// A difference of states loses what cancels.
pub const DIFFERENCE_BOUND: f64 = 5e-5;

/// The parts of a chain, what they make of the f64 gates, and what of the past a token sees.
pub struct Case {
    pub text: String,
    /// Changes gates and initial state.
    pub map: Box<dyn Fn(&mut Brute)>,
    /// The first token that token t sees.
    pub first: Box<dyn Fn(usize) -> usize>,
    /// How many of the last tokens' writes a token reads, where these are of a state that saw all tokens.
    pub writes: Option<usize>,
    /// Bound of every head's norm, and the chunk.
    pub clip: Option<(Vec<f64>, Option<usize>)>,
    pub refused: bool,
    pub bound: f64,
}

/// Any numbers that mitigations may have been given, in [0, 1).
#[derive(Clone, Debug)]
pub struct Numbers {
    pub a: f64,
    pub b: f64,
    pub r: usize,
    pub q: usize,
}

pub fn numbers() -> impl Strategy<Value = Numbers> {
    (0.0..1.0f64, 0.0..1.0f64, 1..30usize, 1..15usize).prop_map(|(a, b, r, q)| Numbers { a, b, r, q })
}

/// A calibration of a layer with a recurrence of two heads before the one at hand, and one after it; every number differs.
pub fn calibration(layer: &Layer, numbers: &Numbers) -> Calibration {
    let head = |index: usize| {
        let mut step_sizes = Histogram::default();
        (1..=200).for_each(|i| step_sizes.add(i as f32 / 200.0));
        HeadStatistics {
            norm: 0.2 + numbers.a as f32 + index as f32,
            final_norm: 0.5 + numbers.b as f32 * (index + 1) as f32,
            // Short and long memories side by side: with 100 tokens and a share of 0.05, below 0.03 is global.
            forgetting: 0.02 * (index + 1) as f32,
            step_sizes,
        }
    };
    let site = |first_head: usize, heads: usize| {
        let mut step_norms = Histogram::default();
        (1..=200).for_each(|i| step_norms.add((first_head + i) as f32 / 200.0));
        SiteStatistics {
            layer: 1,
            first_head,
            heads: (first_head..first_head + heads).map(head).collect(),
            step_norms,
        }
    };
    let sites = [
        (layer.first_head > 0).then(|| site(0, layer.first_head)),
        Some(site(layer.first_head, layer.dims.heads)),
        Some(site(layer.first_head + layer.dims.heads, 1)),
    ];
    Calibration {
        tokens: 100,
        sites: sites.into_iter().flatten().collect(),
    }
}

impl Case {
    pub fn new(text: String, map: impl Fn(&mut Brute) + 'static) -> Self {
        Self {
            text,
            map: Box::new(map),
            first: Box::new(|_| 0),
            writes: None,
            clip: None,
            refused: false,
            bound: BOUND,
        }
    }

    pub fn seeing(text: String, first: impl Fn(usize) -> usize + 'static) -> Self {
        Self {
            first: Box::new(first),
            ..Self::new(text, |_| {})
        }
    }

    pub fn refused_if(self, refused: bool) -> Self {
        Self { refused, ..self }
    }
}

/// One of every mitigation.
pub fn cases(layer: &Layer, n: &Numbers) -> Vec<Case> {
    let calibration = calibration(layer, n);
    let mut cases = gate_cases(layer, n);
    cases.extend(position_cases(layer, n));
    cases.extend(step_cases(layer, n, &calibration));
    cases.extend(state_cases(layer, n, &calibration));
    cases
}

fn gate_cases(layer: &Layer, n: &Numbers) -> Vec<Case> {
    let (kind, first_head, dims) = (layer.kind, layer.first_head, layer.dims);
    let (retention, insertion, factor, tokens) =
        (0.5 + 0.5 * n.a, 0.1 + n.b, 0.2 + 2.0 * n.a, 1.0 + 30.0 * n.b);
    let capped = move |brute: &mut Brute, cap: &dyn Fn(usize, f64) -> f64| {
        let per_head = |index: usize| index / dims.key_dim % dims.heads;
        let logs = brute.log_decay.iter_mut().enumerate();
        logs.for_each(|(index, log)| *log = cap(per_head(index), *log));
    };
    vec![
        Case::new("none".into(), |_| {}),
        Case::new(format!("forget:{retention}"), move |brute| {
            forget(brute, retention)
        }),
        Case::new(format!("remember:{insertion}"), move |brute| {
            remember(brute, kind, insertion);
        }),
        Case::new(format!("rri:{retention},{insertion}"), move |brute| {
            forget(brute, retention);
            remember(brute, kind, insertion);
        }),
        Case::new(format!("c-scale:{factor}"), move |brute| brute.scale *= factor),
        Case::new(
            format!("ablate:0/1.{}/2", first_head + dims.heads - 1),
            move |brute| {
                // A head whose values are 0 reads 0, whatever the rule.
                for (index, value) in brute.value.iter_mut().enumerate() {
                    if index / dims.value_dim % dims.heads == dims.heads - 1 {
                        *value = 0.0;
                    }
                }
                brute.skip[dims.heads - 1] = 0.0;
            },
        ),
        Case::new(format!("a-scale:{factor}"), move |brute| {
            brute.log_decay.iter_mut().for_each(|log| *log *= factor);
        })
        .refused_if(kind.decay() == Decay::None),
        Case::new(format!("cap:{tokens}"), move |brute| {
            capped(brute, &|_, log| log.min(-1.0 / tokens));
        }),
        Case::new(format!("cap:{tokens},at=0/1.{first_head}/2"), move |brute| {
            capped(brute, &|head, log| {
                if head == 0 { log.min(-1.0 / tokens) } else { log }
            });
        }),
        Case::new(format!("cap-mean:{tokens}"), move |brute| {
            let more = |head: usize| (1.0 / tokens - 0.02 * (first_head + head + 1) as f64).max(0.0);
            capped(brute, &|head, log| log - more(head));
        }),
    ]
}

fn position_cases(layer: &Layer, n: &Numbers) -> Vec<Case> {
    let (dims, first_head, length) = (layer.dims, layer.first_head, n.r + 1);
    let stretched = move |brute: &mut Brute, exponent: &dyn Fn(usize) -> f64| {
        for (index, log) in brute.log_decay.iter_mut().enumerate() {
            let (head, token) = (
                index / dims.key_dim % dims.heads,
                index / (dims.key_dim * dims.heads) % dims.time,
            );
            if token >= length {
                *log *= (length as f64 / (token + 1) as f64).powf(exponent(head));
            }
        }
    };
    // Heads stand in the order of their memories, the longest first, as they were calibrated.
    let spectrum = move |head: usize| {
        let ln_length = (length as f64).ln();
        let memory = |head: usize| {
            let tokens = 1.0 / (0.02 * (first_head + head + 1) as f64);
            tokens.clamp(1.0, length as f64).ln()
        };
        let (k, last) = (head as f64, (dims.heads - 1) as f64);
        if last == 0.0 {
            return 1.0;
        }
        let even = k / last * (memory(0) - memory(dims.heads - 1));
        ((last - k) / last + (memory(0) - memory(head) - even) / ln_length).clamp(0.0, 1.0)
    };
    let exponent = 0.1 + 0.9 * n.b;
    let cases = [
        Case::new(format!("position-decay:{length}"), move |brute| {
            stretched(brute, &|_| 1.0);
        }),
        Case::new(
            format!("position-decay:{length},exponent={exponent}"),
            move |brute| {
                stretched(brute, &|_| exponent);
            },
        ),
        Case::new(format!("position-spectrum:{length}"), move |brute| {
            stretched(brute, &spectrum);
        }),
    ];
    let refused = layer.kind.decay() == Decay::None || layer.kind.rule() == Rule::Mean;
    let mut cases: Vec<Case> = cases.into_iter().map(|case| case.refused_if(refused)).collect();
    // Recurrences have no attention to act on.
    cases.push(Case::new("log-attention:362".into(), |_| {}));
    cases
}

fn step_cases(layer: &Layer, n: &Numbers, calibration: &Calibration) -> Vec<Case> {
    let (dims, first_head, factor) = (layer.dims, layer.first_head, 0.2 + 2.0 * n.a);
    let scaled = move |brute: &mut Brute| {
        brute.log_decay.iter_mut().for_each(|log| *log *= factor);
        brute.step.iter_mut().for_each(|step| *step *= factor);
    };
    // Global heads are those of which more than a share of 0.05 is left after 100 tokens.
    let length = 100 + 30 * n.r;
    let curve = &calibration.sites[0].heads[0].step_sizes;
    let threshold = f64::from(curve.reached_by_sum(100.0 / length as f64, 0.1));
    let global = move |head: usize| 0.02 * (first_head + head + 1) as f64 * 100.0 <= -(0.05f64).ln();
    let share = 0.1 + 0.9 * n.b;
    let own = calibration
        .sites
        .iter()
        .find(|site| site.first_head == first_head);
    let least = f64::from(own.expect("the recurrence at hand").step_norms.reached_by(share));
    let cases = vec![
        Case::new(format!("delta-scale:{factor}"), scaled),
        Case::new(format!("scales:{},{factor},1", 2.0 * factor), scaled),
        Case::new(format!("delta-filter:{length},clamp=0.1"), move |brute| {
            skip(brute, |_, head, step| global(head) && step < threshold);
        }),
        Case::new(format!("decimate:{share}"), move |brute| {
            let steps = brute.step.clone();
            let norm = |token: usize| {
                let of_token = &steps[token * dims.heads..(token + 1) * dims.heads];
                of_token.iter().map(|step| step * step).sum::<f64>().sqrt()
            };
            skip(brute, |token, _, _| norm(token) < least);
        }),
    ];
    let without = !layer.step;
    let mut cases: Vec<Case> = cases.into_iter().map(|case| case.refused_if(without)).collect();
    cases.push(Case::new(format!("decimate:{share},at=0/2"), |_| {}));
    cases
}

fn state_cases(layer: &Layer, n: &Numbers, calibration: &Calibration) -> Vec<Case> {
    let (rule, heads, r, q) = (layer.kind.rule(), layer.dims.heads, n.r, n.q);
    let (bound, overlap) = (0.2 + 2.0 * n.a, 1 + ((r as f64) * n.b) as usize);
    let own = calibration
        .sites
        .iter()
        .find(|site| site.first_head == layer.first_head);
    let norms: Vec<f64> = own
        .expect("the recurrence at hand")
        .heads
        .iter()
        .map(|head| 0.5 * f64::from(head.norm))
        .collect();
    let norm = |text: String, bounds: Vec<f64>, chunk: Option<usize>| {
        Case {
            clip: Some((bounds, chunk)),
            ..Case::new(text, |_| {})
        }
        .refused_if(rule == Rule::Mean)
    };
    let kept = (r - 1).div_ceil(q);
    let windowed = Case {
        bound: DIFFERENCE_BOUND,
        ..Case::seeing(format!("window:{r}"), move |t| (t + 1).saturating_sub(r))
    };
    let mut cases = vec![
        windowed.refused_if(rule != Rule::WeightedSum),
        Case {
            bound: DIFFERENCE_BOUND,
            writes: Some(r),
            ..Case::new(format!("window-writes:{r}"), |_| {})
        }
        .refused_if(rule != Rule::Delta),
        Case::seeing(format!("window-jagged:{q}"), move |t| {
            (t / q).saturating_sub(usize::from(q > 1)) * q
        }),
        Case::seeing(format!("window-exact:{r},chunk={q}"), move |t| {
            (t / q).saturating_sub(kept) * q
        }),
        Case::seeing(format!("reset:{r}"), move |t| t / r * r),
        norm(format!("state-norm:{bound}"), vec![bound; heads], None),
        norm(
            format!("state-norm:{bound},chunk={q}"),
            vec![bound; heads],
            Some(q),
        ),
        norm("state-norm:auto*0.5".into(), norms, None),
        // What other types round is discontinuous in the state, so tests/state_dtype.rs compares it bit by bit.
        Case::new("state-dtype:f32".into(), |_| {}).refused_if(rule == Rule::Mean),
    ];
    if overlap < r {
        cases.push(Case::seeing(format!("reset-overlap:{r},{overlap}"), move |t| {
            (t / r * r).saturating_sub(overlap)
        }));
    }
    let text = format!("fitted-noise:{},seed={r}", 0.5 + n.a);
    if rule == Rule::Mean {
        cases.push(Case::new(text, |_| {}).refused_if(true));
    } else {
        let initial = initial_state(layer, &text, calibration);
        cases.push(Case::new(text, move |brute| brute.initial.clone_from(&initial)));
    }
    cases
}

/// The state that is drawn, as it stands after a token that does nothing.
pub fn initial_state(layer: &Layer, text: &str, calibration: &Calibration) -> Vec<f64> {
    let mitigation = parse(text).calibrated(calibration).expect("finite numbers");
    let site = Site {
        rule: Rule::WeightedSum,
        ..layer.site()
    };
    let mut state = start(&mitigation.chain(), &site, layer.dims.batch);
    let run = mitigation
        .chain()
        .run(&site, idle_token(layer), &mut state, Chunking::Fastest);
    run.expect("gates that fit");
    let drawn = values(&state.state.memory);
    let of_one = drawn.len() / layer.dims.batch;
    drawn[..of_one].iter().map(|&x| f64::from(x)).collect()
}

pub fn forget(brute: &mut Brute, retention: f64) {
    brute.log_decay.iter_mut().for_each(|log| *log += retention.ln());
}

fn remember(brute: &mut Brute, kind: Kind, insertion: f64) {
    match kind {
        Kind::Sum(_) | Kind::Bonus(_) | Kind::LowRank(_) => {
            brute.key.iter_mut().for_each(|key| *key *= insertion);
        }
        Kind::Delta(_) => brute.beta.iter_mut().for_each(|beta| *beta *= insertion),
        // The weight in the state, not that of the token at hand.
        Kind::Mean(_) => {
            brute.key.iter_mut().for_each(|key| *key += insertion.ln());
            brute.bonus.iter_mut().for_each(|bonus| *bonus -= insertion.ln());
        }
    }
}

fn skip(brute: &mut Brute, skips: impl Fn(usize, usize, f64) -> bool) {
    let d = brute.dims;
    for at in 0..brute.step.len() {
        if skips(at / d.heads, at % d.heads, brute.step[at]) {
            brute.step[at] = 0.0;
            brute.log_decay[at * d.key_dim..(at + 1) * d.key_dim].fill(0.0);
            if let Some(beta) = brute.beta.get_mut(at) {
                *beta = 0.0;
            }
            if !brute.b.is_empty() {
                brute.b[at * d.key_dim..(at + 1) * d.key_dim].fill(0.0);
            }
        }
    }
}
