//! Prompts, cuts and scores against those of the published evaluation, executed.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Tensor;
use serde_json::Value;
use spillway_mitigations::Mitigation;
use spillway_models::evaluation::recall::cut::cut;
use spillway_models::evaluation::recall::data;
use spillway_models::evaluation::recall::document::{Document, RecallTask};
use spillway_models::evaluation::recall::evaluate::{Evaluation, Plan, evaluate};
use spillway_models::evaluation::recall::generate::{Generator, Split};
use spillway_models::evaluation::recall::prompt::{PromptForm, text};
use spillway_models::evaluation::recall::score::contains;
use spillway_models::generation::{Generated, Sampling, TakenIn, continue_all, continue_from};
use spillway_models::{
    LoadOptions, Logits, Model, ModelError, ModelState, PrefixCache, PrefixCacheOptions, PromptReading,
    Tokenizer,
};
use spillway_ssm_core::Chain;

fn peer() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/recall/peer.json");
    serde_json::from_slice(&fs::read(path).expect("golden data")).expect("JSON")
}

/// The document of a case, read as a data set is.
fn document(case: &Value) -> Document {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data.jsonl");
    fs::write(&path, case["fields"].to_string()).expect("written");
    let task: RecallTask = case["task"].as_str().expect("a task").parse().expect("a task");
    let mut read = data::read(&path, task).expect("read");
    assert!(read.broken.is_empty(), "{:?}", read.broken);
    read.documents.remove(0)
}

fn cases(peer: &Value, name: &str) -> Vec<Value> {
    let cases = peer[name].as_array().expect("cases").clone();
    assert!(cases.len() > 5);
    cases
}

#[test]
fn golden_prompts_are_the_published_ones_to_the_letter() {
    for case in cases(&peer(), "prompts") {
        let document = document(&case);
        assert_eq!(text(&document, PromptForm::ONCE), case["once"], "{case}");
        assert_eq!(text(&document, PromptForm::TWICE), case["twice"], "{case}");
    }
}

#[test]
fn golden_cuts_are_the_published_ones() {
    let tokenizer = Tokenizer::bytes();
    for case in cases(&peer(), "cuts") {
        let length = case["length"].as_u64().expect("a length") as usize;
        let found = cut(&document(&case), Some(length), &tokenizer).expect("bytes");
        let found = found.document.context().trim().to_string();
        assert_eq!(found, case["cut"].as_str().expect("a text").trim(), "{case}");
    }
}

#[test]
fn golden_scores_are_the_published_ones() {
    for case in cases(&peer(), "contains") {
        let answers: Vec<String> = serde_json::from_value(case["answers"].clone()).expect("texts");
        let found = contains(case["continuation"].as_str().expect("a text"), &answers);
        assert_eq!(u64::from(found), case["contains"], "{case}");
    }
}

/// Four pages, and the first of them once more.
fn documents() -> Vec<Document> {
    let generator = Generator {
        facts: Some(6),
        ..Generator::new(Split::Test, 1)
    };
    let mut documents = generator.documents(RecallTask::Swde, 4);
    documents.push(documents[0].clone());
    documents
}

#[test]
fn an_evaluation_that_is_broken_off_goes_on_to_the_same_and_so_does_one_with_a_cache() {
    let model = Model::shipped(&LoadOptions::default()).expect("the shipped model loads");
    let documents = documents();
    let forms = [PromptForm::ONCE, PromptForm::TWICE];
    let forms = [&forms[..], &[PromptForm::TWICE.control().expect("two readings")]].concat();
    let plan = Plan {
        answer_tokens: 4,
        ..Plan::new(&documents, &forms, 600)
    };
    let asked = |plan: &Plan<'_>, evaluation: &mut Evaluation, groups: usize| {
        let mut left = groups;
        let on_group = &mut |_: &Evaluation| {
            left -= 1;
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        evaluate(&model, &Chain::default(), plan, evaluation, on_group).expect("evaluated")
    };
    let mut whole = Evaluation::default();
    assert!(asked(&plan, &mut whole, 100).is_continue());
    assert_eq!(whole.outcomes.len(), plan.prompts());
    assert!(whole.outcomes.iter().all(|outcome| outcome.depth.is_some()));
    assert!(whole.computed_tokens < whole.prompt_tokens());
    let mut parts = Evaluation::default();
    assert!(asked(&plan, &mut parts, 1).is_break());
    assert_eq!(parts.outcomes.len(), 6);
    assert!(asked(&plan, &mut parts, 2).is_break());
    assert!(asked(&plan, &mut parts, 100).is_continue());
    assert_eq!(parts, whole);

    let folder = tempfile::tempdir().expect("a folder");
    let cache = PrefixCache::open(folder.path(), PrefixCacheOptions::default()).expect("a cache");
    let cached = Plan {
        cache: Some(&cache),
        ..plan
    };
    let mut found = Evaluation::default();
    assert!(asked(&cached, &mut found, 100).is_continue());
    assert_eq!(found.outcomes, whole.outcomes);
}

fn taken(ids: &[u32], logits: Tensor<2>) -> TakenIn<'_> {
    TakenIn {
        prompt: ids,
        last: ids,
        logits,
    }
}

#[test]
fn answers_side_by_side_are_those_of_one_prompt_at_a_time() {
    let golden =
        |name: &str| Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models")).join(name);
    let load = |name: &str| Model::load(&golden(name), &LoadOptions::default()).expect("loads");
    let models = [
        Model::shipped(&LoadOptions::default()).expect("the shipped model loads"),
        load("jrt-rnn"),
        load("qwen3_5-text-hf"),
    ];
    for model in &models {
        let vocab_size = model.info().vocab_size as u32;
        let prompt = |length: u32, seed: u32| -> Vec<u32> {
            let ids = (0..length).map(|i| (i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(97)) >> 7);
            ids.map(|id| id % vocab_size).collect()
        };
        let prompts: Vec<Vec<u32>> = [(5, 1), (40, 2), (7, 3), (300, 4), (5, 5), (19, 6)]
            .map(|(length, seed)| prompt(length, seed))
            .into();
        // "e" ends some of the shipped model's texts early; ids that are no text do not end.
        let (greedy, stop) = (Sampling::greedy(), ["e".to_string()]);
        for (tokens, stop) in [(12, &stop[..]), (12, &[]), (1, &[]), (0, &[])] {
            let read = |ids: &[u32]| {
                let mut state = model.start(&Chain::default(), 1).expect("a state");
                let logits = model
                    .read_prompt(ids, &PromptReading::default(), &mut state)
                    .expect("read");
                (logits, state)
            };
            let mut alone = Vec::new();
            let mut together = Vec::new();
            for ids in &prompts {
                let (logits, mut state) = read(ids);
                let go_on = |_: &str| ControlFlow::Continue(());
                let found = continue_from(
                    model,
                    &mut state,
                    taken(ids, logits),
                    &greedy,
                    tokens,
                    stop,
                    go_on,
                );
                alone.push(found.expect("continued"));
                let (logits, state) = read(ids);
                together.push((taken(ids, logits), state));
            }
            let found = continue_all(model, together, &greedy, tokens, stop).expect("continued");
            let found: Vec<Generated> = found.into_iter().map(|found| found.expect("numbers")).collect();
            assert_eq!(found, alone, "{}, {tokens} tokens", model.info().name);
            assert!(found.iter().all(|found| found.ids.len() <= tokens));
        }
    }
    assert!(
        continue_all(&models[0], Vec::new(), &Sampling::greedy(), 4, &[])
            .expect("nothing")
            .is_empty()
    );
}

#[test]
fn one_answer_that_is_no_number_leaves_the_others_as_they_are() {
    let model = Model::shipped(&LoadOptions::default()).expect("the shipped model loads");
    let read = |ids: &[u32]| {
        let mut state = model.start(&Chain::default(), 1).expect("a state");
        let logits = model.logits(ids, &mut state, Logits::Last).expect("logits");
        (logits, state)
    };
    let prompts = [vec![72, 101], vec![65, 66, 67], vec![32; 9]];
    let waiting = || -> Vec<(TakenIn<'_>, ModelState)> {
        let waiting = prompts.iter().map(|ids| {
            let (logits, state) = read(ids);
            (taken(ids, logits), state)
        });
        waiting.collect()
    };
    let all = continue_all(&model, waiting(), &Sampling::greedy(), 6, &[]).expect("continued");
    let mut broken = waiting();
    let layers = &mut broken[1].1;
    layers.recurrences_mut().for_each(|site| {
        site.state.memory = site.state.memory.clone() * f32::NAN;
    });
    let found = continue_all(&model, broken, &Sampling::greedy(), 6, &[]).expect("continued");
    assert!(
        matches!(found[1], Err(ModelError::NotANumber { .. })),
        "{:?}",
        found[1]
    );
    for index in [0, 2] {
        assert_eq!(
            found[index].as_ref().expect("numbers"),
            all[index].as_ref().expect("numbers")
        );
    }
}

#[test]
fn what_acts_at_positions_is_asked_one_prompt_at_a_time() {
    let model = Model::shipped(&LoadOptions::default()).expect("the shipped model loads");
    let documents = documents();
    let forms = [PromptForm::ONCE, PromptForm::TWICE];
    let plan = Plan {
        answer_tokens: 4,
        ..Plan::new(&documents[..1], &forms, 600)
    };
    let window: Mitigation = "window:64".parse().expect("a mitigation");
    let mut evaluation = Evaluation::default();
    let go_on = &mut |_: &Evaluation| ControlFlow::Continue(());
    let flow = evaluate(&model, &window.chain(), &plan, &mut evaluation, go_on).expect("evaluated");
    assert!(flow.is_continue() && evaluation.outcomes.len() == 2);
}

#[cfg(feature = "parquet")]
mod parquet {
    use std::path::Path;

    use super::*;

    #[test]
    fn golden_rows_of_parquet_are_documents() {
        let path = |name: &str| {
            let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/recall"));
            folder.join(name)
        };
        let drop = data::read(&path("drop.parquet"), RecallTask::Drop).expect("read");
        assert_eq!((drop.documents.len(), drop.broken.len()), (2, 1));
        assert_eq!(drop.documents[1].answers(), ["12", "twelve"]);
        assert!(
            drop.broken[0].to_string().contains("row 3: "),
            "{}",
            drop.broken[0]
        );
        let folder = tempfile::tempdir().expect("a folder");
        let broken = folder.path().join("broken.parquet");
        fs::write(&broken, "no parquet").expect("written");
        let error = data::read(&broken, RecallTask::Drop).map(|read| read.broken.len());
        assert!(error.is_err_and(|error| error.to_string().contains("a parquet file")));
    }
}
