//! The jobs of a request: their events, collected into one answer or streamed.

use super::app::{ApiError, App, now};
use super::request::Asked;
use axum::Json;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde_json::{Value, json};
use spillway_models::Mark;
use spillway_models::generation::{Finish, Sampling};
use spillway_models::serving::{ChosenToken, Ending, Event, Job};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Answers a request.
///
/// # Errors
/// [`ApiError`] before the first event, and for jobs that fail.
pub async fn answer(app: App, asked: Asked) -> Result<Response, ApiError> {
    let mut answer = Answer::begin(app, asked)?;
    match answer.asked.stream {
        true => Ok(answer.stream().into_response()),
        false => Ok(Json(answer.collect().await?).into_response()),
    }
}

/// A request under way.
struct Answer {
    app: App,
    asked: Asked,
    id: String,
    created: u64,
    events: UnboundedReceiver<(usize, Event)>,
    choices: Vec<Choice>,
}

/// One text of an answer, as far as it has come.
#[derive(Default)]
struct Choice {
    text: String,
    tokens: Vec<ChosenToken>,
    prompt_tokens: usize,
    read_tokens: usize,
    new_tokens: usize,
    finish: Option<&'static str>,
}

impl Answer {
    /// Puts the jobs into the queue: all of them, or none that is not ended again.
    fn begin(app: App, asked: Asked) -> Result<Self, ApiError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (sender, events) = unbounded_channel();
        let texts = asked.prompts.len() * asked.choices;
        for index in 0..texts {
            let sender = sender.clone();
            let sampling = Sampling {
                seed: asked.sampling.seed.wrapping_add((index % asked.choices) as u64),
                ..asked.sampling
            };
            app.submitter.submit(Job {
                ids: asked.prompts[index / asked.choices].clone(),
                from: asked.state.as_ref().and_then(|name| app.state(name).ok()),
                sampling,
                max_tokens: asked.max_tokens,
                stop: asked.stop.clone(),
                logprobs: asked.logprobs,
                // Jobs whose receiver is gone, as it is when one of them was refused, end.
                events: Box::new(move |event| sender.send((index, event)).is_ok()),
            })?;
        }
        let kind = if asked.is_chat { "chatcmpl" } else { "cmpl" };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            id: format!("{kind}-{:x}-{number}", app.begun),
            created: now(),
            choices: (0..texts).map(|_| Choice::default()).collect(),
            events,
            asked,
            app,
        })
    }

    /// The answer as one JSON document, once all of its choices have ended.
    async fn collect(&mut self) -> Result<Value, ApiError> {
        while let Some((index, event)) = self.events.recv().await {
            let choice = &mut self.choices[index];
            match event {
                Event::Text { text, tokens } => {
                    choice.text.push_str(&text);
                    choice.tokens.extend(tokens);
                }
                Event::Failed(reason) => return Err(ApiError::failed(reason)),
                other => self.take(index, other)?,
            }
        }
        let choices: Vec<Value> = self
            .choices
            .iter()
            .enumerate()
            .map(|(index, choice)| self.choice(index, choice))
            .collect();
        Ok(json!({
            "id": self.id,
            "object": if self.asked.is_chat { "chat.completion" } else { "text_completion" },
            "created": self.created,
            "model": self.app.model.info().name,
            "choices": choices,
            "usage": self.usage(),
        }))
    }

    fn choice(&self, index: usize, choice: &Choice) -> Value {
        let logprobs = self.logprobs(&choice.tokens);
        match self.asked.is_chat {
            true => json!({
                "index": index,
                "message": { "role": "assistant", "content": choice.text.trim() },
                "logprobs": logprobs,
                "finish_reason": choice.finish,
            }),
            false => json!({
                "index": index,
                "text": choice.text,
                "logprobs": logprobs,
                "finish_reason": choice.finish,
            }),
        }
    }

    /// Notes what is not text.
    fn take(&mut self, index: usize, event: Event) -> Result<(), ApiError> {
        let choice = &mut self.choices[index];
        match event {
            Event::Read {
                prompt_tokens,
                read_tokens,
            } => (choice.prompt_tokens, choice.read_tokens) = (prompt_tokens, read_tokens),
            Event::Finished(Ending {
                finish,
                new_tokens,
                mark,
            }) => {
                choice.new_tokens = new_tokens;
                choice.finish = Some(match finish {
                    Finish::Length => "length",
                    Finish::Stop(_) | Finish::End => "stop",
                    Finish::Cancelled => "cancelled",
                });
                if let Some(name) = &self.asked.save_state {
                    self.app.keep(name, mark)?;
                }
            }
            Event::Text { .. } | Event::Failed(_) => {}
        }
        Ok(())
    }

    fn usage(&self) -> Value {
        let sum = |of: fn(&Choice) -> usize| self.choices.iter().map(of).sum::<usize>();
        let (prompt, read, new) = (
            sum(|choice| choice.prompt_tokens),
            sum(|choice| choice.read_tokens),
            sum(|choice| choice.new_tokens),
        );
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
            "prompt_tokens_details": { "cached_tokens": prompt - read },
        })
    }

    /// The log probabilities, in the form of completions or of chats.
    fn logprobs(&self, tokens: &[ChosenToken]) -> Value {
        if self.asked.logprobs.is_none() {
            return Value::Null;
        }
        let text = |id: u32| self.app.model.tokenizer().decode(&[id]);
        if !self.asked.is_chat {
            let top = |token: &ChosenToken| -> serde_json::Map<String, Value> {
                token
                    .top
                    .iter()
                    .map(|(id, logprob)| (text(*id), json!(logprob)))
                    .collect()
            };
            return json!({
                "tokens": tokens.iter().map(|token| text(token.id)).collect::<Vec<_>>(),
                "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
                "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
            });
        }
        let one = |id: u32, logprob: f32| {
            let text = text(id);
            json!({ "bytes": text.as_bytes(), "token": text, "logprob": logprob })
        };
        let content = tokens.iter().map(|token| {
            let mut entry = one(token.id, token.logprob);
            entry["top_logprobs"] = token.top.iter().map(|(id, logprob)| one(*id, *logprob)).collect();
            entry
        });
        json!({ "content": content.collect::<Vec<_>>() })
    }

    /// Pieces as they come, each a server-sent event; then the usage, where it is wanted, and `[DONE]`.
    fn stream(self) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
        let state = Streaming {
            open: self.choices.len(),
            answer: self,
            ahead: Vec::new(),
            is_done: false,
        };
        let events = stream::unfold(state, |mut state| async move {
            let event = state.next().await?;
            Some((Ok(event), state))
        });
        Sse::new(events).keep_alive(KeepAlive::default())
    }

    fn piece(&self, index: usize, text: &str, tokens: &[ChosenToken], is_first: bool) -> Value {
        let mut choice = json!({ "index": index, "logprobs": self.logprobs(tokens), "finish_reason": null });
        match self.asked.is_chat {
            true => {
                choice["delta"] = json!({ "content": text });
                if is_first {
                    choice["delta"]["role"] = json!("assistant");
                }
            }
            false => choice["text"] = json!(text),
        }
        self.chunk(vec![choice])
    }

    fn chunk(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": if self.asked.is_chat { "chat.completion.chunk" } else { "text_completion" },
            "created": self.created,
            "model": self.app.model.info().name,
            "choices": choices,
        })
    }
}

/// An answer that is streamed.
struct Streaming {
    answer: Answer,
    /// Texts that have not ended.
    open: usize,
    /// What is to be sent, last first.
    ahead: Vec<String>,
    is_done: bool,
}

impl Streaming {
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(data) = self.ahead.pop() {
                return Some(sse::Event::default().data(data));
            }
            if self.is_done {
                return None;
            }
            let next = match self.open {
                0 => None,
                _ => self.answer.events.recv().await,
            };
            match next {
                Some((index, event)) => self.take(index, event),
                None => {
                    self.is_done = true;
                    self.ahead.push("[DONE]".into());
                    if self.answer.asked.include_usage {
                        let mut last = self.answer.chunk(Vec::new());
                        last["usage"] = self.answer.usage();
                        self.ahead.push(last.to_string());
                    }
                }
            }
        }
    }

    fn take(&mut self, index: usize, event: Event) {
        match event {
            Event::Text { text, tokens } => {
                let begun = &mut self.answer.choices[index].text;
                let is_first = begun.is_empty();
                // The blank between a prompt and the first word of an answer belongs to neither.
                let text = match is_first && self.answer.asked.is_chat {
                    true => text.trim_start(),
                    false => &text,
                };
                begun.push_str(text);
                let piece = self.answer.piece(index, text, &tokens, is_first);
                self.ahead.push(piece.to_string());
            }
            Event::Failed(reason) => self.fail(&ApiError::failed(reason)),
            other => {
                let is_end = matches!(other, Event::Finished(_));
                if let Err(error) = self.answer.take(index, other) {
                    self.fail(&error);
                } else if is_end {
                    self.open -= 1;
                    let finish = self.answer.choices[index].finish;
                    let mut last = self.answer.piece(index, "", &[], false);
                    last["choices"][0]["finish_reason"] = json!(finish);
                    if self.answer.asked.is_chat {
                        last["choices"][0]["delta"] = json!({});
                    }
                    self.ahead.push(last.to_string());
                }
            }
        }
    }

    /// Says why the stream ends here.
    fn fail(&mut self, error: &ApiError) {
        self.is_done = true;
        let error = json!({ "error": { "message": error.message(), "type": "server_error" } });
        self.ahead.push(error.to_string());
    }
}

/// Reads ids and gives the state after them.
///
/// # Errors
/// [`ApiError`] for a full queue, or ids that cannot be read.
pub async fn read(app: &App, ids: Vec<u32>, from: Option<Mark>) -> Result<Mark, ApiError> {
    let (sender, mut events) = unbounded_channel();
    app.submitter.submit(Job {
        ids,
        from,
        sampling: Sampling::greedy(),
        max_tokens: 0,
        stop: Vec::new(),
        logprobs: None,
        events: Box::new(move |event| sender.send(event).is_ok()),
    })?;
    while let Some(event) = events.recv().await {
        match event {
            Event::Finished(ending) => return Ok(ending.mark),
            Event::Failed(reason) => return Err(ApiError::invalid(reason)),
            Event::Read { .. } | Event::Text { .. } => {}
        }
    }
    Err(ApiError::failed("the engine has ended"))
}
