//! Asks a model every prompt of every document.
//!
//! Documents that are read from one text are asked together, at most eight of them, with what their prompts have in common
//! computed once, and answered side by side. Such a group is answered as a whole or not at all, and always in the same company, so that an
//! evaluation that was broken off, or whose groups are shared out among processes, comes to the same answers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use spillway_ssm_core::Chain;

use super::cut::cut;
use super::document::Document;
use super::prefixes::{in_order, take_in_all};
use super::prompt::{self, PromptForm};
use super::score::Score;
use super::surest::surest;
use crate::error::ModelError;
use crate::generation::{Sampling, TakenIn, continue_all};
use crate::model::Model;
use crate::prefix_cache::PrefixCache;
use crate::prompt::{PromptReading, ShortPrompt};
use crate::state::ModelState;

/// Tokens of an answer in the published evaluation.
pub const ANSWER_TOKENS: usize = 48;
/// What ends an answer.
const STOP: &str = "\n";
/// Documents that are asked together at most.
const TOGETHER: usize = 8;
/// Prompts that are answered side by side at most, and the bytes of their states from which on no more are waited for.
const SIDE_BY_SIDE: usize = 16;
const STATES: usize = 1 << 30;

/// What an evaluation asks: every document by every form of prompt.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Documents that are asked about.
    pub documents: &'a [Document],
    /// Forms of the prompts by which each document is asked about.
    pub forms: &'a [PromptForm],
    /// L, to which documents are cut; `None` for whole ones.
    pub length: Option<usize>,
    /// Tokens of an answer.
    pub answer_tokens: usize,
    /// How a model with an encoder reads a prompt. Reading anew with every token is not among the ways here.
    pub reading: PromptReading,
    /// States of earlier prompts on disk. The answers are the same with it and without.
    pub cache: Option<&'a PrefixCache>,
}

impl<'a> Plan<'a> {
    /// Documents cut to `length` tokens, and answers of 48.
    pub fn new(documents: &'a [Document], forms: &'a [PromptForm], length: usize) -> Self {
        Self {
            documents,
            forms,
            length: Some(length),
            answer_tokens: ANSWER_TOKENS,
            reading: PromptReading::default(),
            cache: None,
        }
    }

    /// Number of prompts: one for each document and form.
    pub fn prompts(&self) -> usize {
        self.documents.len() * self.forms.len()
    }
}

/// What came of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Index of the document.
    pub document: usize,
    /// Index of the form.
    pub form: usize,
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Where in the document, as it was cut, the answer lies; `None` where it is not in it.
    pub depth: Option<f64>,
    /// What the model said.
    pub answer: String,
    /// What that comes to.
    #[serde(flatten)]
    pub score: Score,
}

/// The outcomes so far, and the work that they took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Outcomes of the prompts asked so far, at most one for each document and form.
    pub outcomes: Vec<Outcome>,
    /// Prompt tokens that went through the model.
    pub computed_tokens: u64,
}

impl Evaluation {
    /// Takes in the outcomes of another group of documents.
    pub fn add(&mut self, group: Self) {
        self.computed_tokens += group.computed_tokens;
        self.outcomes.extend(group.outcomes);
    }

    /// Prompt tokens of all prompts together, computed or shared.
    pub fn prompt_tokens(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.tokens as u64).sum()
    }
}

/// Asks everything that `evaluation` does not have yet. `on_group` hears of each group of documents and may break off.
///
/// # Errors
/// [`ModelError`] from a chain that does not fit the model, from [`ShortPrompt::Iterate`], from a model without a tokenizer, or from a tokenizer that gives ids which the
/// model does not have.
pub fn evaluate(
    model: &Model,
    chain: &Chain,
    plan: &Plan<'_>,
    evaluation: &mut Evaluation,
    on_group: &mut dyn FnMut(&Evaluation) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ModelError> {
    let answered: BTreeSet<usize> = evaluation
        .outcomes
        .iter()
        .map(|outcome| outcome.document)
        .collect();
    for group in groups(plan.documents) {
        if group.iter().all(|document| answered.contains(document)) {
            continue;
        }
        evaluation.add(ask(model, chain, plan, &group)?);
        if on_group(evaluation).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Indices of the documents that are asked together, group by group: those of one text, in the order of their first.
pub fn groups(documents: &[Document]) -> Vec<Vec<usize>> {
    let mut first = BTreeMap::new();
    let mut alike: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, document) in documents.iter().enumerate() {
        let first = *first.entry(document.context()).or_insert(index);
        alike.entry(first).or_default().push(index);
    }
    let groups = alike.into_values();
    groups
        .flat_map(|group| group.chunks(TOGETHER).map(<[usize]>::to_vec).collect::<Vec<_>>())
        .collect()
}

/// Asks about one of the [`groups`] by every form: what came of it, group by group the same whatever else is asked.
///
/// # Errors
/// As [`evaluate`].
///
/// # Panics
/// For a document that the plan does not have.
pub fn ask(model: &Model, chain: &Chain, plan: &Plan<'_>, group: &[usize]) -> Result<Evaluation, ModelError> {
    if plan.reading.short == ShortPrompt::Iterate {
        return Err(ModelError::Option {
            option: "short prompt",
            expected: "a way to read it once, as answers are continued side by side",
            found: "reading it anew with every token".into(),
        });
    }
    let tokenizer = model.tokenizer();
    let mut outcomes = Vec::new();
    let mut prompts = Vec::new();
    let (mut whole, mut divided, mut computed) = (Vec::new(), Vec::new(), 0);
    for document in group {
        let cut = cut(&plan.documents[*document], plan.length, tokenizer)?;
        for (form, kind) in plan.forms.iter().enumerate() {
            let mut outcome = Outcome {
                document: *document,
                form,
                tokens: 0,
                depth: cut.depth,
                answer: String::new(),
                score: Score::NOT_A_NUMBER,
            };
            match kind.pieces {
                None => {
                    let ids = prompt::ids(&cut.document, *kind, tokenizer)?;
                    outcome.tokens = ids.len();
                    whole.push(prompts.len());
                    prompts.push(ids);
                }
                Some(pieces) => {
                    let found = surest(model, chain, &cut.document, (kind.order, pieces), &plan.reading)?;
                    outcome.tokens = found.computed as usize;
                    computed += found.computed;
                    let (ids, read) = found
                        .best
                        .map(|best| (best.prompt, (best.logits, best.state)))
                        .unzip();
                    divided.extend(read.map(|(logits, state)| (prompts.len(), logits, state)));
                    prompts.push(ids.unwrap_or_default());
                }
            }
            outcomes.push(outcome);
        }
    }
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let mut reading = Reading {
        model,
        plan,
        prompts: &prompts,
        // What acts at positions acts on one sequence at a time.
        most: match chain.looking_at_positions() {
            Some(_) => 1,
            None => SIDE_BY_SIDE,
        },
        read: Vec::new(),
        answers: vec![None; prompts.len()],
    };
    computed += reading.take_in(chain, &whole)?;
    for (index, logits, state) in divided {
        reading.add(index, logits, state)?;
    }
    reading.answer()?;
    for (outcome, answer) in outcomes.iter_mut().zip(reading.answers) {
        if let Some(text) = answer {
            outcome.score = Score::of(&text, &plan.documents[outcome.document]);
            outcome.answer = text;
        }
    }
    Ok(Evaluation {
        outcomes,
        computed_tokens: computed,
    })
}

/// Prompts that have been read, and wait until there are enough of them to be answered side by side.
struct Reading<'a> {
    model: &'a Model,
    plan: &'a Plan<'a>,
    prompts: &'a [&'a [u32]],
    most: usize,
    read: Vec<(usize, Tensor<2>, ModelState)>,
    /// Answer to each prompt; `None` until there is one, and where the logits are not numbers any more.
    answers: Vec<Option<String>>,
}

impl Reading<'_> {
    /// Reads the prompts of these indices; the number of tokens that went through the model.
    fn take_in(&mut self, chain: &Chain, whole: &[usize]) -> Result<u64, ModelError> {
        let (model, all) = (self.model, self.prompts);
        let prompts: Vec<&[u32]> = whole.iter().map(|index| all[*index]).collect();
        let mut computed = 0;
        match self.plan.cache {
            _ if model.encoder_length() > 0 => {
                // An encoder reads a prompt's beginning as a whole: two prompts share nothing.
                for index in in_order(&prompts) {
                    let mut state = model.start(chain, 1)?;
                    let logits = model.read_prompt(prompts[index], &self.plan.reading, &mut state)?;
                    computed += prompts[index].len() as u64;
                    self.add(whole[index], logits, state)?;
                }
            }
            None => {
                computed = take_in_all(model, chain, &prompts, |index, logits, state| {
                    self.add(whole[index], logits, state)
                })?;
            }
            Some(cache) => {
                for index in in_order(&prompts) {
                    let found = cache.prefill(model, chain, prompts[index])?;
                    computed += (prompts[index].len() - found.restored) as u64;
                    self.add(whole[index], found.logits, found.state)?;
                }
            }
        }
        Ok(computed)
    }

    fn add(&mut self, index: usize, logits: Tensor<2>, state: ModelState) -> Result<(), ModelError> {
        self.read.push((index, logits, state));
        let bytes: usize = self.read.iter().map(|(_, _, state)| state.bytes()).sum();
        match self.read.len() >= self.most || bytes >= STATES {
            true => self.answer(),
            false => Ok(()),
        }
    }

    /// The greedy continuations of all that wait, each up to the end of its line.
    fn answer(&mut self) -> Result<(), ModelError> {
        let (mut indices, mut read) = (Vec::new(), Vec::new());
        for (index, logits, state) in std::mem::take(&mut self.read) {
            let prompt = TakenIn {
                prompt: self.prompts[index],
                last: self.prompts[index],
                logits,
            };
            indices.push(index);
            read.push((prompt, state));
        }
        let (greedy, stop) = (Sampling::greedy(), [STOP.to_string()]);
        let found = continue_all(self.model, read, &greedy, self.plan.answer_tokens, &stop)?;
        for (index, found) in indices.into_iter().zip(found) {
            self.answers[index] = match found {
                Ok(continuation) => Some(continuation.text),
                // A state that has left the range of f32 is a finding about the model, not a failure of the run.
                Err(ModelError::NotANumber { .. }) => None,
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::RecallTask;
    use super::super::generate::{Generator, Split};
    use super::*;

    fn documents() -> Vec<Document> {
        let generator = Generator {
            facts: Some(6),
            ..Generator::new(Split::Test, 1)
        };
        let mut documents = generator.documents(RecallTask::Swde, 4);
        // The first text once more.
        documents.push(documents[0].clone());
        documents
    }

    #[test]
    fn documents_of_one_text_are_one_group() {
        assert_eq!(groups(&documents()), [vec![0, 4], vec![1], vec![2], vec![3]]);
        let many = vec![documents()[0].clone(); 9];
        assert_eq!(groups(&many), [(0..8).collect::<Vec<_>>(), vec![8]]);
    }
}
