//! Texts continued by drafts, beside the same texts continued token by token.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};
use spillway_models::checkpoint::WriteDtype;
use spillway_models::generation::{Generated, Sampler, Sampling, TakenIn, generate};
use spillway_models::init::{preset, write_random};
use spillway_models::registry::language_layouts;
use spillway_models::speculation::{Acceptance, DraftModel, Drafter, Lookup, Speculation};
use spillway_models::{LoadOptions, Logits, Model, ModelError, ModelState};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

use super::{REORDERED, after, ids, label, models, name, relative_error, values};

/// That every text gets.
const TOKENS: usize = 24;

/// Drafts that have nothing to do with the text.
#[derive(Debug)]
struct Fixed(Vec<u32>);

impl Drafter for Fixed {
    fn draft(&mut self, _: &[u32], most: usize, _: &Sampler) -> Result<Vec<u32>, ModelError> {
        Ok(self.0[..most.min(self.0.len())].to_vec())
    }
}

fn go_on(_: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn plainly(model: &Model, chain: &Chain, prompt: &[u32], sampling: &Sampling) -> (Generated, ModelState) {
    let mut state = model.start(chain, 1).unwrap();
    let generated = generate(model, &mut state, prompt, sampling, TOKENS, &[], go_on).unwrap();
    (generated, state)
}

fn by_drafts(
    model: &Model,
    chain: &Chain,
    prompt: &[u32],
    sampling: &Sampling,
    (drafter, tokens): (&mut dyn Drafter, usize),
) -> (Generated, ModelState, Acceptance) {
    let mut state = model.start(chain, 1).unwrap();
    let logits = model.logits(prompt, &mut state, Logits::Last).unwrap();
    let taken_in = TakenIn {
        prompt,
        last: prompt,
        logits,
    };
    let mut speculation = Speculation::new(model, drafter, NonZeroUsize::new(tokens).unwrap());
    let generated = speculation
        .continue_from(&mut state, taken_in, sampling, TOKENS, &[], go_on)
        .unwrap();
    (generated, state, speculation.acceptance())
}

/// The ids are the same, or part where the model could not tell the two best from one another but for rounding.
#[track_caller]
fn same_or_tied(model: &Model, chain: &Chain, prompt: &[u32], plain: &[u32], found: &[u32]) {
    let Some(place) = (0..plain.len().max(found.len())).find(|i| plain.get(*i) != found.get(*i)) else {
        return;
    };
    let (last, before) = prompt.split_last().unwrap();
    let mut state = after(model, chain, before);
    let mut logits = Vec::new();
    for id in [last].into_iter().chain(&plain[..place]) {
        logits = values(model.logits(&[*id], &mut state, Logits::Last).unwrap());
    }
    let gap = (logits[plain[place] as usize] - logits[found[place] as usize]).abs();
    let largest = logits
        .iter()
        .fold(0f32, |largest, logit| largest.max(logit.abs()));
    assert!(
        f64::from(gap) <= 2.0 * REORDERED * f64::from(largest),
        "{}: token {place}: {plain:?} by itself, {found:?} by drafts; the logits are {gap:e} apart",
        label(model, chain)
    );
}

/// The same architecture with other weights, whose drafts are right by chance.
fn strangers() -> Vec<Model> {
    let folder = TempDir::new().unwrap();
    let layouts = language_layouts().enumerate();
    let strangers = layouts.map(|(number, layout)| {
        let path = folder.path().join(number.to_string());
        let tiny = preset(layout, "tiny").unwrap();
        write_random(&path, layout, tiny.config, WriteDtype::F32, 1000 + number as u64).unwrap();
        Model::load(&path, &LoadOptions::default()).unwrap()
    });
    strangers.collect()
}

#[test]
fn drafts_change_no_token_of_greedy_text_in_any_model() {
    let (plain, greedy) = (Chain::default(), Sampling::greedy());
    let strangers = strangers();
    let (mut accepted, mut refused) = (0, 0);
    for model in models() {
        let stranger = strangers.iter().find(|other| name(other) == name(model)).unwrap();
        for seed in 0..2 {
            let prompt = ids(model, 77 + seed, 9);
            let (expected, after_it) = plainly(model, &plain, &prompt, &greedy);
            let fixed = ids(model, seed, 3);
            let drafters: [(&mut dyn Drafter, usize); 4] = [
                (&mut Lookup::default(), 5),
                (&mut DraftModel::new(model, model).unwrap(), 4),
                (&mut DraftModel::new(stranger, model).unwrap(), 3),
                (&mut Fixed(fixed), 3),
            ];
            for drafter in drafters {
                let (found, state, acceptance) = by_drafts(model, &plain, &prompt, &greedy, drafter);
                same_or_tied(model, &plain, &prompt, &expected.ids, &found.ids);
                accepted += acceptance.accepted;
                refused += acceptance.drafted - acceptance.accepted;
                if found.ids != expected.ids {
                    continue;
                }
                assert_eq!((&found.text, &found.finish), (&expected.text, &expected.finish));
                assert_eq!(state.positions(), after_it.positions(), "{}", name(model));
                let (mut one, mut other) = (state, after_it.clone());
                let next = |state: &mut ModelState| values(model.logits(&[1], state, Logits::Last).unwrap());
                let error = relative_error(&next(&mut one), &next(&mut other));
                assert!(error <= REORDERED, "{}: {error:e}", name(model));
            }
        }
    }
    // Both happened, or nothing was tested.
    assert!(
        accepted > 1000 && refused > 1000,
        "{accepted} accepted, {refused} refused"
    );
}

/// A seed draws one text with and without drafts: what the distribution is, is not even asked.
#[test]
fn drafts_change_no_token_of_drawn_text() {
    let plain = Chain::default();
    for model in models().iter().step_by(4) {
        for seed in 0..3 {
            let sampling = Sampling {
                temperature: 0.7,
                top_k: Some(12),
                top_p: Some(0.9),
                repetition_penalty: 1.2,
                seed,
            };
            let prompt = ids(model, 5 + seed, 6);
            let (expected, _) = plainly(model, &plain, &prompt, &sampling);
            for drafter in [
                (&mut Lookup::default() as &mut dyn Drafter, 4),
                (&mut DraftModel::new(model, model).unwrap(), 4),
                (&mut Fixed(ids(model, seed, 2)), 2),
            ] {
                let (found, _, _) = by_drafts(model, &plain, &prompt, &sampling, drafter);
                assert_eq!(found.ids, expected.ids, "{} with seed {seed}", name(model));
            }
        }
    }
}

/// A model that drafts for itself draws what it will choose, also where chance decides: every token is accepted.
#[test]
fn a_model_s_own_drafts_are_all_accepted() {
    let plain = Chain::default();
    let model = &models()[0];
    for temperature in [0.0, 1.0] {
        let sampling = Sampling {
            temperature,
            seed: 3,
            ..Sampling::greedy()
        };
        let mut drafter = DraftModel::new(model, model).unwrap();
        let (generated, _, acceptance) =
            by_drafts(model, &plain, &ids(model, 3, 5), &sampling, (&mut drafter, 4));
        // The last draft may be longer than what was asked for.
        assert_eq!(generated.ids.len(), TOKENS);
        assert_eq!(
            acceptance,
            Acceptance {
                calls: 5,
                drafted: 20,
                accepted: 18
            }
        );
    }
}

#[test]
fn a_draft_model_goes_from_one_text_to_another() {
    let (plain, model) = (Chain::default(), &models()[0]);
    let mut again = DraftModel::new(model, model).unwrap();
    // A longer text, a shorter one, the same once more.
    for prompt in [ids(model, 9, 5), ids(model, 4, 7), ids(model, 4, 7)] {
        let mut fresh = DraftModel::new(model, model).unwrap();
        let by = |drafter: &mut DraftModel<'_>| {
            let (generated, _, acceptance) =
                by_drafts(model, &plain, &prompt, &Sampling::greedy(), (drafter, 4));
            (generated.ids, acceptance)
        };
        assert_eq!(by(&mut again), by(&mut fresh));
    }
    let sampler = Sampler::new(&Sampling::greedy(), model.info().vocab_size).unwrap();
    for drafter in [&mut again as &mut dyn Drafter, &mut Lookup::default()] {
        assert!(drafter.draft(&[], 4, &sampler).unwrap().is_empty());
        assert!(drafter.draft(&[1, 2, 1, 2], 0, &sampler).unwrap().is_empty());
    }
}

/// The second of two drawn tokens, where the draft is always one and the same: it is drawn as often as its probability says, and so
/// are all others; and the draft is accepted as often as it is drawn.
#[test]
fn what_is_drawn_with_drafts_has_the_model_s_distribution() {
    const DRAWS: usize = 4000;
    let (model, plain) = (&models()[0], Chain::default());
    let prompt = ids(model, 11, 4);
    let mut state = model.start(&plain, 1).unwrap();
    let logits = model.logits(&prompt, &mut state, Logits::Last).unwrap();
    // The first token is fixed, by logits that leave nothing else.
    let first = values(logits).iter().position(|logit| logit.is_finite()).unwrap() as u32;
    let mut only_first = vec![-1e30f32; model.info().vocab_size];
    only_first[first as usize] = 1e30;
    let only_first = TensorData::new(only_first, [1, model.info().vocab_size]);
    let only_first = Tensor::<2>::from_data(only_first, model.device());
    let second = values(model.logits(&[first], &mut state.clone(), Logits::Last).unwrap());
    let mut kept: Vec<u32> = (0..second.len() as u32).collect();
    kept.sort_by(|a, b| second[*b as usize].total_cmp(&second[*a as usize]));
    kept.truncate(4);
    let weights: Vec<f64> = kept
        .iter()
        .map(|id| f64::from(second[*id as usize]).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let (mut counts, mut accepted) = ([0usize; 4], 0);
    for seed in 0..DRAWS as u64 {
        let sampling = Sampling {
            temperature: 1.0,
            top_k: Some(4),
            seed,
            ..Sampling::greedy()
        };
        let mut drafter = Fixed(vec![kept[1]]);
        let mut speculation = Speculation::new(model, &mut drafter, NonZeroUsize::MIN);
        let taken_in = TakenIn {
            prompt: &prompt,
            last: &prompt,
            logits: only_first.clone(),
        };
        // Of three tokens the second is the first that has a draft, and the last that is held against one.
        let new = speculation
            .continue_from(&mut state.clone(), taken_in, &sampling, 3, &[], go_on)
            .unwrap();
        assert_eq!(new.ids[0], first);
        counts[kept.iter().position(|id| *id == new.ids[1]).unwrap()] += 1;
        accepted += speculation.acceptance().accepted;
    }
    for (weight, count) in weights.iter().zip(counts) {
        let probability = weight / total;
        let expected = probability * DRAWS as f64;
        let deviation = (expected * (1.0 - probability)).sqrt();
        assert!(
            (count as f64 - expected).abs() <= 4.0 * deviation,
            "{count} of {DRAWS}, expected {expected:.0} ± {deviation:.0}"
        );
    }
    assert_eq!(accepted, counts[1]);
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused() {
    let folder = TempDir::new().unwrap();
    let layout = language_layouts().next().unwrap();
    let mut config: serde_json::Value = serde_json::from_str(preset(layout, "tiny").unwrap().config).unwrap();
    config["vocab_size"] = 24.into();
    let path = folder.path().join("small");
    write_random(&path, layout, &config.to_string(), WriteDtype::F32, 1).unwrap();
    let small = Model::load(&path, &LoadOptions::default()).unwrap();
    let error = DraftModel::new(&small, &models()[0]).unwrap_err();
    assert!(matches!(error, ModelError::Draft { .. }), "{error}");
    assert!(error.to_string().contains("24"), "{error}");
}
