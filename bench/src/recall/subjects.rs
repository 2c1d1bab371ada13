//! The models that are asked, and the mitigations that each can have: all of it known to work before hours of work begin.

use super::RecallArgs;
use crate::answers::{asked, calibrated_length, ready};
use crate::context::Context;
use crate::encoder::{EncoderArgs, Short};
use crate::error::ProgramError;
use crate::model_args::ModelArgs;
use crate::trial::{Trial, is_attention_alone};
use spillway_models::evaluation::recall::document::RecallTask;
use spillway_models::evaluation::recall::generate::{Generator, Split};
use spillway_models::{Info, Model, PromptReading};

/// Documents that mitigations are calibrated on, again and again until the training length is full.
const CALIBRATED: usize = 64;
/// Tokens that they are calibrated on at most.
const MOST_CALIBRATED: usize = 1 << 20;

/// A model and what is tried on it.
#[derive(Debug)]
pub struct Subject {
    /// Which checkpoint the model is, and how it is loaded.
    pub args: ModelArgs,
    /// What the model is called in the report: its name, or where it lies if another has the same name.
    pub name: String,
    /// What there is to know about it.
    pub info: Info,
    /// A hash of everything that it computes with.
    pub fingerprint: String,
    /// Whether it remembers by keys and values alone.
    pub is_attention: bool,
    /// How it reads prompts; `None` for a model without an encoder.
    pub reading: Option<PromptReading>,
    /// The mitigations under which it is asked; `none` counts as one.
    pub trials: Vec<Trial>,
}

/// Loads every model once to see whether it can be asked; the last is given back if it is the only one.
///
/// # Errors
/// [`ProgramError`] for a checkpoint that cannot be loaded or has no tokenizer, and for a mitigation that fits none of them.
pub fn all(args: &RecallArgs, context: &Context) -> Result<(Vec<Subject>, Option<Model>), ProgramError> {
    if args.train_length == Some(0) {
        return Err(ProgramError::usage("--train-length", "at least 1 token", "0"));
    }
    if args.short_prompt == Some(Short::Iterate) {
        return Err(ProgramError::usage(
            "--short-prompt",
            "as-is, left-pad, left-pad-exact or read-twice: answers are continued side by side",
            "iterate",
        ));
    }
    let waiting = context.waiting("loading the models");
    let models = args.models.each();
    let is_one = models.len() == 1;
    let (mut subjects, mut only, mut refused): (Vec<Subject>, _, _) = (Vec::new(), None, Vec::new());
    for model_args in models {
        let model = model_args.load()?;
        expect_answers(&model)?;
        waiting.set_message(format!("trying out {}", model.info().name));
        let mut trials = Vec::new();
        for spec in asked(&args.mitigations) {
            match prepared(args, spec, &model) {
                Ok(trial) => trials.push(trial),
                // Attention has nothing to mitigate; what fits none of several models is a mistake.
                Err(error) if !is_one && matches!(error, ProgramError::Usage { .. }) => {
                    context.remark(format_args!("left out for {}: {error}", model.info().name));
                    refused.push((spec, error));
                }
                Err(error) => return Err(error),
            }
        }
        subjects.push(Subject {
            name: model.info().name.clone(),
            info: model.info().clone(),
            fingerprint: model.fingerprint().into(),
            is_attention: is_attention_alone(&model),
            reading: reading(args, &model)?,
            args: model_args,
            trials,
        });
        only = is_one.then_some(model);
    }
    for spec in asked(&args.mitigations) {
        let times = refused.iter().filter(|(other, _)| *other == spec).count();
        if times == subjects.len() {
            if let Some((_, error)) = refused.into_iter().find(|(other, _)| *other == spec) {
                return Err(error);
            }
            break;
        }
    }
    if args.short_prompt.is_some() && subjects.iter().all(|subject| subject.reading.is_none()) {
        return Err(ProgramError::usage(
            "--short-prompt",
            "a model with an encoder among those asked, such as jrt",
            "none",
        ));
    }
    tell_apart(&mut subjects);
    Ok((subjects, only))
}

/// How `model` reads prompts. Those of a model that was trained on prompts without padding are read as they are.
fn reading(args: &RecallArgs, model: &Model) -> Result<Option<PromptReading>, ProgramError> {
    if model.encoder_length() == 0 {
        return Ok(None);
    }
    let encoder = EncoderArgs {
        short_prompt: Some(args.short_prompt.unwrap_or(Short::AsIs)),
        ..EncoderArgs::default()
    };
    encoder.reading(model)
}

/// That the model reads text, and says what comes next.
fn expect_answers(model: &Model) -> Result<(), ProgramError> {
    model.tokenizer().encode("a").map_err(|error| {
        ProgramError::from(error).without_tokenizer("no, recall asks in words, so that it needs a tokenizer")
    })?;
    let mut state = model.start(&spillway_ssm_core::Chain::default(), 1)?;
    Ok(model.advance(&[0], &mut state)?)
}

/// With its numbers, if it has some, from generated documents that nothing is asked about.
fn prepared(args: &RecallArgs, spec: &str, model: &Model) -> Result<Trial, ProgramError> {
    ready(spec, model, || {
        let length = calibrated_length(spec, model, args.train_length)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(MOST_CALIBRATED);
        let documents = Generator::new(Split::Train, args.seed).documents(RecallTask::Fda, CALIBRATED);
        let mut ids: Vec<u32> = Vec::new();
        for document in documents.iter().cycle() {
            if ids.len() >= length {
                break;
            }
            ids.extend(model.tokenizer().encode(&format!("{}\n", document.context()))?);
        }
        ids.truncate(length);
        Ok(vec![ids])
    })
}

/// Models of one name are called by where they lie.
fn tell_apart(subjects: &mut [Subject]) {
    let names: Vec<String> = subjects.iter().map(|subject| subject.name.clone()).collect();
    for (index, subject) in subjects.iter_mut().enumerate() {
        let is_shared = names
            .iter()
            .enumerate()
            .any(|(other, name)| other != index && *name == names[index]);
        if let (true, Some(path)) = (is_shared, &subject.args.checkpoint) {
            subject.name = path.display().to_string();
        }
    }
}
