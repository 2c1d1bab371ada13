//! Prompts, cuts and scores against those of the published evaluation, executed.

use std::fs;
use std::ops::ControlFlow;

use serde_json::Value;
use spillway_models::evaluation::recall::cut::cut;
use spillway_models::evaluation::recall::data;
use spillway_models::evaluation::recall::document::{Document, RecallTask};
use spillway_models::evaluation::recall::evaluate::{Evaluation, Plan, evaluate};
use spillway_models::evaluation::recall::generate::{Generator, Split};
use spillway_models::evaluation::recall::prompt::{Form, text};
use spillway_models::evaluation::recall::score::contains;
use spillway_models::{LoadOptions, Model, PrefixCache, PrefixCacheOptions, Tokenizer};
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
        assert_eq!(text(&document, Form::ONCE), case["once"], "{case}");
        assert_eq!(text(&document, Form::TWICE), case["twice"], "{case}");
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
    let forms = [Form::ONCE, Form::TWICE];
    let forms = [&forms[..], &[Form::TWICE.control().expect("two readings")]].concat();
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
