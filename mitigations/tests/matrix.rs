//! Every mitigation on every kind of recurrence, against a plain recurrence in f64 over the recorded gates: in any form, split
//! into calls anywhere, and saved and restored in the middle. Where a pair is impossible, it is refused, and which these are
//! is written down here.

mod common;

use burn::tensor::Device;
use common::brute::{Brute, Clipping, Decay, Kind, Layer, idle_token, layer};
use common::{parse, relative_error, values};
use proptest::prelude::*;
use spillway_mitigations::calibrate::{Calibration, HeadStatistics, SiteStatistics};
use spillway_mitigations::histogram::Histogram;
use spillway_mitigations::{Mitigation, Observer};
use spillway_ssm_core::{Chain, Chunking, Gates, Rule, Site, SiteState};

/// Mitigations that subtract nothing.
const BOUND: f64 = 1e-5;

/// A difference of states loses what cancels.
const DIFFERENCE_BOUND: f64 = 5e-5;

/// The parts of a chain, what they make of the f64 gates, and what of the past a token sees.
struct Case {
    text: String,
    /// Changes gates and initial state.
    map: Box<dyn Fn(&mut Brute)>,
    /// The first token that token t sees.
    first: Box<dyn Fn(usize) -> usize>,
    /// How many of the last tokens' writes a token reads, where these are of a state that saw all tokens.
    writes: Option<usize>,
    /// Bound of every head's norm, and the chunk.
    clip: Option<(Vec<f64>, Option<usize>)>,
    refused: bool,
    bound: f64,
}

/// Any numbers that mitigations may have been given, in [0, 1).
#[derive(Clone, Debug)]
struct Numbers {
    a: f64,
    b: f64,
    r: usize,
    q: usize,
}

fn numbers() -> impl Strategy<Value = Numbers> {
    (0.0..1.0f64, 0.0..1.0f64, 1..30usize, 1..15usize).prop_map(|(a, b, r, q)| Numbers { a, b, r, q })
}

/// A calibration of a layer with a recurrence of two heads before the one at hand, and one after it; every number differs.
fn calibration(layer: &Layer, numbers: &Numbers) -> Calibration {
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
    fn new(text: String, map: impl Fn(&mut Brute) + 'static) -> Self {
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

    fn seeing(text: String, first: impl Fn(usize) -> usize + 'static) -> Self {
        Self {
            first: Box::new(first),
            ..Self::new(text, |_| {})
        }
    }

    fn refused_if(self, refused: bool) -> Self {
        Self { refused, ..self }
    }
}

/// One of every mitigation.
fn cases(layer: &Layer, n: &Numbers) -> Vec<Case> {
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
fn initial_state(layer: &Layer, text: &str, calibration: &Calibration) -> Vec<f64> {
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

fn forget(brute: &mut Brute, retention: f64) {
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

fn start(chain: &Chain, site: &Site, batch: usize) -> SiteState {
    let device = Device::flex();
    SiteState {
        state: site.empty_state(batch, &device),
        interventions: chain.start(site, batch, &device),
    }
}

/// Read-outs of all calls, or why there are none; saved and restored after the call that reaches `restored_at`.
fn run(
    mitigation: &Mitigation,
    layer: &Layer,
    gates: &Gates,
    splits: &[usize],
    restored_at: usize,
) -> Result<Vec<f32>, String> {
    let (chain, site, device) = (mitigation.chain(), layer.site(), Device::flex());
    chain.check(&site).map_err(|error| error.to_string())?;
    let mut state = start(&chain, &site, layer.dims.batch);
    let mut outputs = Vec::new();
    let (mut done, time) = (0usize, layer.dims.time);
    for length in splits.iter().copied().chain([usize::MAX]) {
        let end = time.min(done.saturating_add(length));
        let call = gates.slice(done..end).expect("a range inside");
        let output = chain.run(&site, call, &mut state, layer.chunking);
        let output = output.map_err(|error| error.to_string())?;
        if end > done {
            outputs.push(output);
        }
        if (done..=end).contains(&restored_at) {
            for (memory, intervention) in state.interventions.iter_mut().zip(chain.interventions()) {
                *memory = intervention
                    .restore(&site, layer.dims.batch, &device, &memory.save())
                    .expect("what was saved");
            }
        }
        done = end;
    }
    assert_eq!(state.state.position, time as u64);
    assert_eq!(state.state.memory.dims(), site.state_shape(layer.dims.batch));
    Ok(common::joined(outputs))
}

/// The case as decoded, as prefilled, and as split.
fn check(case: &Case, layer: &Layer, n: &Numbers) -> Result<(), TestCaseError> {
    let gates = layer.gates();
    let mitigation = parse(&case.text)
        .calibrated(&calibration(layer, n))
        .expect("finite numbers");
    let mut brute = Brute::of(layer);
    (case.map)(&mut brute);
    let clipping = case.clip.as_ref().map(|(bounds, chunk)| Clipping {
        bounds,
        chunk: *chunk,
    });
    let expected = match case.writes {
        Some(window) if !case.refused => brute.run_writes(window),
        _ => brute.run(&case.first, clipping.as_ref()),
    };
    for splits in [layer.splits.as_slice(), &[], &vec![1; layer.dims.time]] {
        match run(&mitigation, layer, &gates, splits, n.r) {
            Ok(found) => {
                prop_assert!(!case.refused, "{} ran on {:?}", case.text, layer.kind);
                let error = relative_error(&found, &expected);
                prop_assert!(
                    error < case.bound,
                    "{} on {:?}: error {error:e}",
                    case.text,
                    layer.kind
                );
            }
            Err(message) => {
                prop_assert!(case.refused, "{} on {:?}: {message}", case.text, layer.kind);
                prop_assert!(
                    message.contains(" use ") || message.contains("instead"),
                    "{message}"
                );
            }
        }
    }
    Ok(())
}

mod equivalence {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        #[test]
        fn every_mitigation_on_every_recurrence_is_its_definition(layer in layer(), n in numbers()) {
            for case in cases(&layer, &n) {
                check(&case, &layer, &n)?;
            }
        }

        #[test]
        fn chains_act_together(layer in layer(), n in numbers()) {
            let (retention, factor, r) = (0.5 + 0.5 * n.a, 0.2 + n.b, n.r);
            let q = n.q;
            let kept = (r - 1).div_ceil(q);
            let case = Case {
                first: Box::new(move |t| (t / q).saturating_sub(kept) * q),
                ..Case::new(format!("forget:{retention}+c-scale:{factor}+window-exact:{r},chunk={q}"), move |brute| {
                    forget(brute, retention);
                    brute.scale *= factor;
                })
            };
            check(&case, &layer, &n)?;
            let (bound, heads) = (0.2 + n.a, layer.dims.heads);
            let case = Case {
                clip: Some((vec![bound; heads], None)),
                ..Case::seeing(format!("reset:{r}+state-norm:{bound}"), move |t| t / r * r)
            };
            check(&case.refused_if(layer.kind.rule() == Rule::Mean), &layer, &n)?;
        }

        #[test]
        fn weaker_writes_are_a_weaker_read_out(layer in layer(), n in numbers()) {
            if layer.kind.rule() != Rule::WeightedSum {
                return Ok(());
            }
            let (gates, factor) = (layer.gates(), 0.2 + n.a);
            let run = |text: &str| run(&parse(text), &layer, &gates, &layer.splits, 0).expect("no refusal");
            let expected: Vec<f64> = run(&format!("remember:{factor}")).into_iter().map(f64::from).collect();
            let error = relative_error(&run(&format!("c-scale:{factor}")), &expected);
            prop_assert!(error < BOUND, "{error:e}");
        }

        #[test]
        fn an_observer_changes_no_bit_and_measures_what_is_there(layer in layer()) {
            let (gates, site, d) = (layer.gates(), layer.site(), layer.dims);
            let observer = Observer::start();
            let (chain, plain) = (observer.chain(), Chain::default());
            let (mut watched, mut alone) = (start(&chain, &site, d.batch), start(&plain, &site, d.batch));
            let mut done = 0usize;
            for length in layer.splits.iter().copied().chain([usize::MAX]) {
                let end = d.time.min(done.saturating_add(length));
                let call = gates.slice(done..end).expect("a range inside");
                let output = chain.run(&site, call.clone(), &mut watched, layer.chunking).expect("gates that fit");
                let expected = plain.run(&site, call, &mut alone, layer.chunking).expect("gates that fit");
                if end > done {
                    prop_assert_eq!(values(&output), values(&expected));
                }
                done = end;
            }
            let calibration = observer.calibration(1.0).expect("states");
            let found = &calibration.sites[0];
            prop_assert_eq!((found.layer, found.first_head, found.heads.len()), (1, layer.first_head, d.heads));
            let brute = Brute::of(&layer);
            for (head, statistics) in found.heads.iter().enumerate() {
                let logs = |key: usize| {
                    let at = (0..d.batch * d.time).map(move |token| (token * d.heads + head) * d.key_dim + key);
                    at.map(|at| brute.log_decay[at].max(-40.0)).sum::<f64>() / (d.batch * d.time) as f64
                };
                let slowest = (0..d.key_dim).map(logs).fold(f64::NEG_INFINITY, f64::max);
                prop_assert!((f64::from(statistics.forgetting) + slowest).abs() < 1e-5 * (1.0 - slowest));
                let steps = if layer.step { (d.batch * d.time) as u64 } else { 0 };
                prop_assert_eq!(statistics.step_sizes.count(), steps);
                prop_assert!(statistics.final_norm <= statistics.norm * 1.0001);
            }
            if layer.kind.rule() != Rule::Mean {
                let norms: f64 = found.heads.iter().map(|head| f64::from(head.final_norm).powi(2)).sum();
                let whole: f64 = values(&alone.state.memory).iter().map(|&x| f64::from(x).powi(2)).sum();
                let mean = whole / d.batch as f64;
                prop_assert!((norms - mean).abs() <= 1e-4 * mean + 1e-9, "{norms} {mean}");
            }
        }

        #[test]
        fn noise_has_the_norm_of_final_states_and_depends_on_nothing_but_its_seed(layer in layer(), n in numbers()) {
            if layer.kind.rule() == Rule::Mean {
                return Ok(());
            }
            let dims = spillway_ssm_core::Dims { key_dim: 64, value_dim: 64, ..layer.dims };
            let large = Layer { dims, ..layer.clone() };
            let calibration = calibration(&layer, &n);
            let first = initial_state(&large, "fitted-noise:0.5,seed=3", &calibration);
            prop_assert_eq!(&first, &initial_state(&large, "fitted-noise:0.5,seed=3", &calibration));
            prop_assert_ne!(&first, &initial_state(&large, "fitted-noise:0.5,seed=4", &calibration));
            let alone = Layer { dims: spillway_ssm_core::Dims { batch: 1, ..dims }, ..large.clone() };
            prop_assert_eq!(&first, &initial_state(&alone, "fitted-noise:0.5,seed=3", &calibration));
            let own = calibration.sites.iter().find(|site| site.first_head == layer.first_head).expect("there");
            for (head, memory) in own.heads.iter().zip(first.chunks(64 * 64)) {
                let norm = memory.iter().map(|x| x * x).sum::<f64>().sqrt();
                let expected = 0.5 * f64::from(head.final_norm);
                // The norm of 4,096 normal numbers deviates by about 1 %.
                prop_assert!((norm - expected).abs() < 0.06 * expected, "{norm} {expected}");
            }
        }
    }
}
