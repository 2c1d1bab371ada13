//! One sequence of the batch that the engine decodes.

use std::ops::ControlFlow;

use super::job::{ChosenToken, Event, Job};
use crate::error::ModelError;
use crate::generation::{Finish, Sampler, StoppableText};
use crate::model::Model;
use crate::state::Mark;
use crate::state::ModelState;
use crate::tokenizer::StreamDecoder;

/// A sequence whose prompt has been read.
pub(super) struct Row<'m> {
    job: Job,
    sampler: Sampler,
    decoder: StreamDecoder<'m>,
    text: StoppableText,
    generated: Vec<u32>,
}

impl<'m> Row<'m> {
    pub fn new(model: &'m Model, job: Job) -> Result<Self, ModelError> {
        let mut sampler = Sampler::new(&job.sampling, model.info().vocab_size)?;
        job.ids.iter().for_each(|id| sampler.observe(*id));
        Ok(Self {
            decoder: model.tokenizer().stream_after(&job.ids),
            text: StoppableText::new(&job.stop),
            generated: Vec::new(),
            sampler,
            job,
        })
    }

    /// The token that the sequence goes on with.
    pub fn last(&self) -> u32 {
        self.generated.last().copied().unwrap_or_default()
    }

    /// Number of tokens generated so far.
    pub fn new_tokens(&self) -> usize {
        self.generated.len()
    }

    /// Chooses the next token; why the sequence ends, if it does.
    pub fn take(&mut self, logits: &mut [f32], ends: &[u32]) -> Result<Option<Finish>, ModelError> {
        if self.job.max_tokens == 0 {
            return Ok(Some(Finish::Length));
        }
        let before = self.job.logprobs.map(|_| logits.to_vec());
        let id = self.sampler.choose(logits)?;
        if ends.contains(&id) {
            return Ok(Some(self.finish(Finish::End)));
        }
        self.generated.push(id);
        let tokens = before
            .zip(self.job.logprobs)
            .map(|(logits, top)| chosen(&logits, id, top));
        let piece = self.decoder.push(id);
        let mut given = String::new();
        let flow = self.text.push(&piece, &mut |text| {
            given.push_str(text);
            ControlFlow::Continue(())
        });
        let is_last = self.generated.len() >= self.job.max_tokens;
        if (tokens.is_some() || !given.is_empty()) && !self.send(given, tokens.into_iter().collect()) {
            return Ok(Some(Finish::Cancelled));
        }
        Ok(match (flow.is_break(), is_last) {
            (true, _) => Some(self.text.stopped_at().map_or(Finish::Cancelled, Finish::Stop)),
            (false, true) => Some(self.finish(Finish::Length)),
            (false, false) => None,
        })
    }

    /// Gives out what was held back.
    fn finish(&mut self, finish: Finish) -> Finish {
        let rest = self.decoder.finish();
        let mut given = String::new();
        let mut keep = |text: &str| {
            given.push_str(text);
            ControlFlow::Continue(())
        };
        let stopped = self.text.push(&rest, &mut keep).is_break() || self.text.finish(&mut keep).is_break();
        if !given.is_empty() {
            self.send(given, Vec::new());
        }
        match stopped {
            true => self.text.stopped_at().map_or(finish, Finish::Stop),
            false => finish,
        }
    }

    fn send(&mut self, text: String, tokens: Vec<ChosenToken>) -> bool {
        (self.job.events)(Event::Text { text, tokens })
    }

    /// An event; false when nobody wants more.
    pub fn tell(&mut self, event: Event) -> bool {
        (self.job.events)(event)
    }

    /// The state with the ids that it has read; of a sequence that the model ended, all of them.
    pub fn mark(&self, state: ModelState, finish: &Finish) -> Mark {
        let unread = usize::from(*finish != Finish::End && !self.generated.is_empty());
        let mut ids = self.job.ids.clone();
        ids.extend(&self.generated[..self.generated.len() - unread]);
        Mark {
            ids: ids.into(),
            state,
        }
    }
}

/// ln softmax of the chosen token, and of the likeliest.
fn chosen(logits: &[f32], id: u32, top: usize) -> ChosenToken {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    let offset = largest + sum.ln() as f32;
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let top = top.min(order.len());
    let of = |id: u32| {
        logits
            .get(id as usize)
            .map_or(f32::NEG_INFINITY, |logit| logit - offset)
    };
    let by_logit = |a: &u32, b: &u32| of(*b).total_cmp(&of(*a)).then(a.cmp(b));
    if top > 0 && top < order.len() {
        order.select_nth_unstable_by(top - 1, by_logit);
    }
    order.truncate(top);
    order.sort_by(by_logit);
    ChosenToken {
        id,
        logprob: of(id),
        top: order.into_iter().map(|id| (id, of(id))).collect(),
    }
}
