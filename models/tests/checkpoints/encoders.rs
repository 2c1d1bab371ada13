//! A model with an encoder reads a prompt in the same way wherever it is asked.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use spillway_models::chat::{ChatTemplate, Conversation, Message};
use spillway_models::evaluation::diagnosis::treatment::Treatment;
use spillway_models::evaluation::passkey_text::evaluate::{Answer, Evaluation, evaluate};
use spillway_models::evaluation::passkey_text::prompt::{Template, cases};
use spillway_models::generation::{Sampling, generate_after};
use spillway_models::serving::{Engine, EngineOptions, Event, Job};
use spillway_models::{LoadOptions, Model, PromptReading};
use spillway_ssm_core::Chain;

const TOKENS: usize = 12;

/// JRT-RNN as it comes with the project: it answers questions about documents, and its encoder reads 256 tokens.
fn model() -> Model {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/recall/jrt");
    Model::load(&path, &LoadOptions::default()).expect("the model loads")
}

/// A prompt within the encoder, one that reaches beyond it, and one that is longer than what is read at once.
fn prompts(model: &Model) -> Vec<Vec<u32>> {
    let passkey = "The passkey is 52817. Remember it. 52817 is the passkey.\n";
    let filler =
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";
    let texts = [1, 12, 120].map(|blocks| {
        format!(
            "{passkey}{}\nWhat is the pass key? The passkey is",
            filler.repeat(blocks)
        )
    });
    let ids: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| model.tokenizer().encode(text).expect("ids"))
        .collect();
    let encoder = model.encoder_length();
    assert!(ids[0].len() < encoder && ids[1].len() > encoder && ids[2].len() > 2048);
    ids
}

fn alone(model: &Model, ids: &[u32]) -> String {
    let mut state = model.start(&Chain::default(), 1).expect("a state");
    let (reading, sampling) = (PromptReading::default(), Sampling::greedy());
    let goes_on = |_: &str| ControlFlow::Continue(());
    let generated = generate_after(model, &mut state, ids, &reading, &sampling, TOKENS, &[], goes_on);
    generated.expect("text").text
}

#[test]
fn passkeys_are_asked_for_behind_the_encoder() {
    let model = model();
    let template = Template::new(model.tokenizer()).expect("a template");
    let mut asked = cases(&template, 160, 3, 2, 1);
    asked.extend(cases(&template, 400, 3, 2, 1));
    let mut evaluation = Evaluation::default();
    let all = 0..asked.len();
    let goes_on = &mut |_: &Evaluation| ControlFlow::Continue(());
    let flow = evaluate(
        &model,
        &Treatment::default(),
        &asked,
        all,
        &mut evaluation,
        goes_on,
    );
    assert!(flow.expect("evaluated").is_continue());
    // Each as a prompt by itself.
    for outcome in &evaluation.outcomes {
        let case = &asked[outcome.case];
        let ids = model.tokenizer().encode(&case.text()).expect("ids");
        let expected = match case.is_answered_by(&alone(&model, &ids)) {
            true => Answer::Found,
            false => Answer::Missed,
        };
        assert_eq!(outcome.answer, expected, "{} tokens", ids.len());
    }
    let outcomes = evaluation.outcomes.iter();
    let found = outcomes.filter(|outcome| outcome.tokens < 200 && outcome.answer == Answer::Found);
    assert_eq!(found.count(), 6);
}

#[test]
fn a_server_answers_as_a_prompt_by_itself_is_answered() {
    let model = model();
    let prompts = prompts(&model);
    let (engine, submitter) = Engine::new(&model, Chain::default(), EngineOptions::default());
    let (sender, answers) = mpsc::channel();
    // Twice, so that what was kept of the first could serve the second.
    for ids in prompts.iter().chain(&prompts) {
        let (sender, mut text) = (sender.clone(), String::new());
        let events = move |event: Event| match event {
            Event::Text { text: more, .. } => {
                text.push_str(&more);
                true
            }
            Event::Finished(_) => sender.send(std::mem::take(&mut text)).is_ok(),
            Event::Failed(reason) => panic!("{reason}"),
            Event::Read { .. } => true,
        };
        let job = Job {
            ids: ids.clone(),
            from: None,
            sampling: Sampling::greedy(),
            max_tokens: TOKENS,
            stop: Vec::new(),
            logprobs: None,
            events: Box::new(events),
        };
        submitter.submit(job).expect("there is room");
    }
    drop((submitter, sender));
    engine.run();
    let mut found: Vec<String> = answers.iter().collect();
    let mut expected: Vec<String> = prompts
        .iter()
        .chain(&prompts)
        .map(|ids| alone(&model, ids))
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_conversation_begins_with_what_the_encoder_reads() {
    let model = model();
    for ids in prompts(&model) {
        let text = model.tokenizer().decode(&ids);
        let template = || {
            ChatTemplate::new(
                "{% for m in messages %}{{ m.content }}{% endfor %}".into(),
                "a test".into(),
            )
        };
        let said = template()
            .render(&[Message::new("user", &text)], true)
            .expect("a prompt");
        let ids = model.tokenizer().encode(&said).expect("ids");
        let mut conversation = Conversation::new(&model, template(), Chain::default());
        let goes_on = |_: &str| ControlFlow::Continue(());
        let reply = conversation
            .say(&text, &Sampling::greedy(), TOKENS, goes_on)
            .expect("an answer");
        assert_eq!(reply.generated.text, alone(&model, &ids), "{} tokens", ids.len());
    }
}
