//! Asks the model every prompt, computing what prompts have in common once.
//!
//! Up to the passkey all prompts are the same filler. So the prompts of all lengths are taken in the order of their passkey's
//! position; one state walks along the filler, and each prompt goes on from a copy of it at the point where its tokens first
//! differ. Two states are alive at any time, whatever the grid's size.
//!
//! An encoder reads a prompt's beginning as a whole: with one, prompts share nothing.
//!
//! Several processes that share the prompts out among them give the same bits: whoever is asked a prompt takes the state along the
//! filler in the same steps, over the prompts of the others as well.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use serde::{Deserialize, Serialize};

use super::prompt::{Case, FILLER, PREFIX, answer_tokens};
use crate::budget;
use crate::error::ModelError;
use crate::evaluation::diagnosis::treatment::{Restart, RestartScope, Treatment};
use crate::generation::{Sampling, generate};
use crate::model::Model;
use crate::state::ModelState;

/// What came of one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The continuation holds the passkey.
    Found,
    /// The answer does not begin with the passkey.
    Missed,
    /// There is no continuation: the logits are not numbers any more. Counts as a miss.
    NotANumber,
}

/// What came of one prompt: its length, and whether the passkey was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Index into the cases given.
    pub case: usize,
    /// Real length of the prompt, in tokens.
    pub tokens: usize,
    /// What the model said.
    pub answer: Answer,
}

/// What came of one prompt, and the work that it took beyond those before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// What the model answered.
    pub outcome: Outcome,
    /// Tokens that went through the model, from where the filler had been read to for the prompt before.
    pub computed_tokens: u64,
}

/// The results so far, in the order in which they came, and the work that they took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Outcomes of the prompts asked so far, at most one per case.
    pub outcomes: Vec<Outcome>,
    /// Prompt tokens that went through the model. Filler that was read again, after an interruption or by several processes, counts
    /// once.
    pub computed_tokens: u64,
}

impl Evaluation {
    /// Takes in what came of one more prompt.
    pub fn add(&mut self, asked: Asked) {
        self.computed_tokens += asked.computed_tokens;
        self.outcomes.push(asked.outcome);
    }

    /// Prompt tokens of all prompts together, computed or shared.
    pub fn prompt_tokens(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.tokens as u64).sum()
    }
}

/// Asks every prompt of `cases[asked]` that `evaluation` does not have yet, to the answers of an evaluation that asks all of them
/// at once. `on_outcome` hears of each and may break off.
///
/// # Errors
/// [`ModelError`] from a treatment that does not fit the model, or from a model without a tokenizer.
pub fn evaluate(
    model: &Model,
    treatment: &Treatment,
    cases: &[Case],
    asked: Range<usize>,
    evaluation: &mut Evaluation,
    on_outcome: &mut dyn FnMut(&Evaluation) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ModelError> {
    let answered: BTreeSet<usize> = evaluation.outcomes.iter().map(|outcome| outcome.case).collect();
    let asked = order(cases, asked);
    if asked.iter().all(|case| answered.contains(case)) {
        return Ok(ControlFlow::Continue(()));
    }
    let mut asker = Asker::new(model, treatment, cases, &asked)?;
    for (place, case) in asked.iter().enumerate() {
        if answered.contains(case) {
            continue;
        }
        evaluation.add(asker.ask(place)?);
        if on_outcome(evaluation).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The order in which prompts are asked: that of their passkeys' positions.
pub fn order(cases: &[Case], asked: Range<usize>) -> Vec<usize> {
    let mut order: Vec<usize> = asked.collect();
    order.sort_by_key(|index| cases[*index].block);
    order
}

/// Asks a model prompts in their order, all of them or some.
#[derive(Debug)]
pub struct Asker<'a> {
    model: &'a Model,
    treatment: &'a Treatment,
    cases: &'a [Case],
    order: &'a [usize],
    walk: Walk<'a>,
    /// Place in the order of the first prompt that the walk has not come past.
    next: usize,
}

impl<'a> Asker<'a> {
    /// Of the prompts of `cases` in [`order`]; nothing is read yet.
    ///
    /// # Errors
    /// [`ModelError`] from a treatment that does not fit the model, from a model without a tokenizer, or for prompts that do not fit into
    /// memory.
    pub fn new(
        model: &'a Model,
        treatment: &'a Treatment,
        cases: &'a [Case],
        order: &'a [usize],
    ) -> Result<Self, ModelError> {
        let blocks = order.iter().map(|index| cases[*index].block + 1);
        let longest = blocks.max().unwrap_or(0);
        // The text, and some of its tokens' ids for each byte.
        let bytes = budget::product([longest as u64, FILLER.len() as u64, 8]);
        budget::ask(
            "the longest prompt and its tokens",
            bytes,
            "ask at shorter lengths",
        )?;
        let filler = model
            .tokenizer()
            .encode(&[PREFIX, &FILLER.repeat(longest)].concat())?;
        Ok(Self {
            model,
            treatment,
            cases,
            order,
            walk: Walk {
                model,
                ids: filler,
                state: treatment.start(model)?,
                position: 0,
            },
            next: 0,
        })
    }

    /// Asks the prompt at `place` of the order. The answer has the same bits whichever prompts were asked before.
    ///
    /// # Errors
    /// [`ModelError`] from a model whose tokenizer gives ids which it does not have.
    ///
    /// # Panics
    /// For a place behind the end of the order.
    pub fn ask(&mut self, place: usize) -> Result<Asked, ModelError> {
        self.go_to(place)?;
        let index = self.order[place];
        let case = &self.cases[index];
        let ids = self.model.tokenizer().encode(&case.text())?;
        let before = self.walk.position;
        let (state, shared) = match self.treatment.restarts() {
            None => self.walk.state_before(&ids, self.treatment)?,
            Some(restart) => state_at_last_restart(self.model, self.treatment, restart, &ids)?,
        };
        self.next = place + 1;
        let answer = ask(self.model, state, &ids[shared..], case)?;
        let read_again = match self.treatment.restarts().map(|restart| restart.scope) {
            Some(RestartScope::Attention) => shared,
            Some(RestartScope::Model) | None => self.walk.position - before,
        };
        Ok(Asked {
            outcome: Outcome {
                case: index,
                tokens: ids.len(),
                answer,
            },
            computed_tokens: (read_again + ids.len() - shared) as u64,
        })
    }

    /// Takes the walk past the prompts before `place`, by the steps in which asking them would.
    fn go_to(&mut self, place: usize) -> Result<(), ModelError> {
        if self.treatment.restarts().is_some() || !self.walk.is_shared() {
            return Ok(());
        }
        if place < self.next {
            self.walk.state = self.treatment.start(self.model)?;
            self.walk.position = 0;
            self.next = 0;
        }
        for index in &self.order[self.next..place] {
            let ids = self.model.tokenizer().encode(&self.cases[*index].text())?;
            self.walk.step(&ids)?;
        }
        Ok(())
    }
}

/// A state that walks along the filler.
#[derive(Debug)]
struct Walk<'a> {
    model: &'a Model,
    ids: Vec<u32>,
    state: ModelState,
    position: usize,
}

impl Walk<'_> {
    /// The state after the tokens that `prompt` shares with the filler, and their number.
    fn state_before(
        &mut self,
        prompt: &[u32],
        treatment: &Treatment,
    ) -> Result<(ModelState, usize), ModelError> {
        match self.step(prompt)? {
            true => Ok((self.state.clone(), self.position)),
            false => Ok((treatment.start(self.model)?, 0)),
        }
    }

    /// Whether prompts go on from the walk at all.
    fn is_shared(&self) -> bool {
        self.model.encoder_length() == 0
    }

    /// Goes to the end of what `prompt` shares with the filler; whether it can go on from there. At least one token is left to take
    /// in, so that there are logits to answer from.
    fn step(&mut self, prompt: &[u32]) -> Result<bool, ModelError> {
        let common = self.ids.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let common = common.min(prompt.len().saturating_sub(1));
        // A tokenizer that joins tokens across blocks may part ways earlier than the prompt before did.
        if common < self.position || !self.is_shared() {
            return Ok(false);
        }
        self.model
            .advance(&self.ids[self.position..common], &mut self.state)?;
        self.position = common;
        Ok(true)
    }
}

/// The state at the last restart before the end of a prompt, and the tokens before it.
fn state_at_last_restart(
    model: &Model,
    treatment: &Treatment,
    restart: Restart,
    prompt: &[u32],
) -> Result<(ModelState, usize), ModelError> {
    let last = last_restart(prompt.len(), restart.period);
    let mut state = treatment.start(model)?;
    // Of a model that starts again as a whole, nothing that it has read before is left.
    if restart.scope == RestartScope::Attention {
        let mut position = 0;
        while position < last {
            let count =
                treatment.enter(model, &mut state, position as u64, (last - position) as u64)? as usize;
            if position == 0 {
                model.begin_prompt(count, &mut state);
            }
            model.advance(&prompt[position..position + count], &mut state)?;
            position += count;
        }
        treatment.enter(model, &mut state, last as u64, 0)?;
    }
    Ok((state, last))
}

/// The position of the last token before which a model starts again that does so every `period` tokens.
fn last_restart(tokens: usize, period: u64) -> usize {
    let period = usize::try_from(period).unwrap_or(usize::MAX);
    tokens.saturating_sub(1) / period * period
}

/// Takes in the rest of a prompt and looks for the passkey in the greedy continuation.
fn ask(model: &Model, mut state: ModelState, rest: &[u32], case: &Case) -> Result<Answer, ModelError> {
    let tokens = answer_tokens(model.tokenizer(), &case.key)?;
    if state.position() == 0 {
        model.begin_prompt(rest.len(), &mut state);
    }
    let ignore = |_: &str| ControlFlow::Continue(());
    match generate(model, &mut state, rest, &Sampling::greedy(), tokens, &[], ignore) {
        Ok(continuation) if case.is_answered_by(&continuation.text) => Ok(Answer::Found),
        Ok(_) => Ok(Answer::Missed),
        // A state that has left the range of f32 is a finding about the model, not a failure of the run.
        Err(ModelError::NotANumber { .. }) => Ok(Answer::NotANumber),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use spillway_mitigations::Mitigation;

    use super::super::prompt::{Template, cases};
    use super::*;

    use crate::{LoadOptions, Logits};

    fn logits(model: &Model, ids: &[u32], state: &mut ModelState) -> Vec<f32> {
        let logits = model
            .logits(ids, state, Logits::Last)
            .expect("the prompt fits the model");
        logits.into_data().iter::<f32>().collect()
    }

    #[test]
    fn a_shared_beginning_gives_the_answers_of_whole_prompts() {
        let model = Model::shipped(&LoadOptions::default()).expect("the shipped model loads");
        let template = Template::new(model.tokenizer()).expect("bytes");
        let mut all = cases(&template, 900, 3, 2, 1);
        all.extend(cases(&template, 400, 3, 2, 1));
        for mitigation in ["none", "window-exact:128", "rri:0.99,0.75"] {
            let parsed: Mitigation = mitigation.parse().expect("a mitigation");
            let treatment = Treatment::of(parsed.chain());
            let ids = |case: &Case| model.tokenizer().encode(&case.text()).expect("bytes");
            let filler = model
                .tokenizer()
                .encode(&[PREFIX, &FILLER.repeat(9)].concat())
                .expect("bytes");
            let start = || treatment.start(&model).expect("the mitigation fits");
            let mut walk = Walk {
                model: &model,
                ids: filler,
                state: start(),
                position: 0,
            };
            let mut order: Vec<&Case> = all.iter().collect();
            order.sort_by_key(|case| case.block);
            for case in order {
                let ids = ids(case);
                let (mut state, shared) = walk.state_before(&ids, &treatment).expect("shared");
                // All but the passkey's own block: "The " is common to both kinds of block.
                assert_eq!(shared, PREFIX.len() + case.block * FILLER.len() + 4);
                let found = logits(&model, &ids[shared..], &mut state);
                let expected = logits(&model, &ids, &mut start());
                let error: f32 = found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum();
                let norm: f32 = expected.iter().map(|b| b * b).sum();
                assert!(
                    (error / norm).sqrt() < 1e-4,
                    "{mitigation}: {}",
                    (error / norm).sqrt()
                );
            }
        }
    }

    #[test]
    fn every_case_is_asked_once_wherever_it_was_broken_off_and_for_less_than_whole_prompts() {
        let model = Model::shipped(&LoadOptions::default()).expect("the shipped model loads");
        let template = Template::new(model.tokenizer()).expect("bytes");
        let cases = cases(&template, 900, 4, 2, 1);
        let treatment = Treatment::default();
        let asked = |evaluation: &mut Evaluation, most: usize| {
            let goes_on = &mut |evaluation: &Evaluation| match evaluation.outcomes.len() < most {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            };
            evaluate(&model, &treatment, &cases, 0..cases.len(), evaluation, goes_on).expect("evaluated")
        };
        let mut whole = Evaluation::default();
        assert!(asked(&mut whole, usize::MAX).is_continue());
        let mut parts = Evaluation::default();
        for most in [1, 2, 5] {
            assert!(asked(&mut parts, most).is_break());
            assert_eq!(parts.outcomes.len(), most);
        }
        assert!(asked(&mut parts, usize::MAX).is_continue());
        assert_eq!(whole, parts);
        let lengths: usize = cases.iter().map(|case| case.text().len()).sum();
        assert_eq!(whole.prompt_tokens(), lengths as u64);
        assert!(whole.computed_tokens < lengths as u64 * 3 / 4);
        // It learned from verses in windows of 64 bytes: five digits 100 bytes back are out of its reach.
        let mut answers = whole.outcomes.iter().map(|outcome| outcome.answer);
        assert!(answers.all(|answer| answer == Answer::Missed));
    }

    #[test]
    fn prompts_shared_out_among_askers_have_the_answers_and_the_work_of_one() {
        let model = Model::shipped(&LoadOptions::default()).expect("the shipped model loads");
        let template = Template::new(model.tokenizer()).expect("bytes");
        let mut all = cases(&template, 900, 3, 2, 1);
        all.extend(cases(&template, 400, 3, 2, 1));
        let asked = order(&all, 0..all.len());
        let window: Mitigation = "window:64".parse().expect("a mitigation");
        for treatment in [
            Treatment::default(),
            Treatment::of(window.chain()),
            Treatment::restart(64),
        ] {
            let mut whole = Evaluation::default();
            let goes_on = &mut |_: &Evaluation| ControlFlow::Continue(());
            let flow = evaluate(&model, &treatment, &all, 0..all.len(), &mut whole, goes_on);
            assert!(flow.expect("evaluated").is_continue());
            let mut askers: Vec<Asker<'_>> = (0..3)
                .map(|_| Asker::new(&model, &treatment, &all, &asked).expect("nothing is read yet"))
                .collect();
            let mut parts = Evaluation::default();
            for place in 0..asked.len() {
                parts.add(askers[place % 3].ask(place).expect("asked"));
            }
            assert_eq!(whole, parts);
            // Back to one that it has come past.
            let again = askers[1].ask(1).expect("asked");
            assert_eq!(again.outcome, whole.outcomes[1]);
        }
    }

    #[test]
    fn an_asker_that_skips_prompts_comes_to_the_bits_of_one_that_asks_them_all() {
        let model = Model::shipped(&LoadOptions::default()).expect("the shipped model loads");
        let template = Template::new(model.tokenizer()).expect("bytes");
        let all = cases(&template, 900, 4, 2, 1);
        let (asked, treatment) = (order(&all, 0..all.len()), Treatment::default());
        let asker = || Asker::new(&model, &treatment, &all, &asked).expect("nothing is read yet");
        let (mut every, mut last) = (asker(), asker());
        for place in 0..asked.len() {
            every.ask(place).expect("asked");
        }
        last.ask(asked.len() - 1).expect("asked");
        assert_eq!(every.walk.position, last.walk.position);
        let ids = [u32::from(b'a')];
        assert_eq!(
            logits(&model, &ids, &mut every.walk.state),
            logits(&model, &ids, &mut last.walk.state)
        );
    }
}
