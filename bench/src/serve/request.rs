//! What is asked, in OpenAI's form, and what of it is refused.

use super::app::{ApiError, App, Shared};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use spillway_models::chat::Message;
use spillway_models::generation::Sampling;

/// The most texts of one request.
const MOST_CHOICES: usize = 128;
/// The most of the likeliest tokens that are told.
const MOST_LOGPROBS: usize = 20;

/// JSON whatever the header says of its type, and errors in the server's own form.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(mut request: Request, app: &App) -> Result<Self, ApiError> {
        let json = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        match Json::<T>::from_request(request, app).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(JsonRejection::BytesRejection(error)) => Err(ApiError::too_large(error.body_text())),
            Err(error) => Err(ApiError::invalid(error.body_text())),
        }
    }
}

/// What both forms of completion may say.
#[derive(Debug, Deserialize)]
pub struct Common {
    pub max_tokens: Option<usize>,
    pub max_completion_tokens: Option<usize>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub logit_bias: Option<Value>,
    pub stop: Option<OneOrMany>,
    pub seed: Option<i64>,
    pub n: Option<usize>,
    #[serde(default)]
    pub stream: bool,
    pub stream_options: Option<StreamOptions>,
    /// A state to go on from, by its name.
    pub state: Option<String>,
    /// The name under which the state after the answer is kept.
    pub save_state: Option<String>,
}

/// What a stream may say beside its pieces.
#[derive(Debug, Default, Deserialize)]
pub struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
}

/// One text, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A completion of text.
#[derive(Debug, Deserialize)]
pub struct Completion {
    pub prompt: Option<Prompt>,
    pub suffix: Option<String>,
    #[serde(default)]
    pub echo: bool,
    pub logprobs: Option<usize>,
    #[serde(flatten)]
    pub common: Common,
}

/// A prompt: a text, several, or ids.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    ManyIds(Vec<Vec<u32>>),
}

/// A completion of a conversation.
#[derive(Debug, Deserialize)]
pub struct Chat {
    pub messages: Vec<ChatMessage>,
    #[serde(default)]
    pub logprobs: bool,
    pub top_logprobs: Option<usize>,
    pub tools: Option<Value>,
    pub response_format: Option<Value>,
    #[serde(flatten)]
    pub common: Common,
}

/// A message: its content is a text, or a list of parts that are texts.
#[derive(Debug, Deserialize)]
pub struct ChatMessage {
    pub role: String,
    #[serde(default)]
    pub content: Value,
}

/// What a request comes to.
#[derive(Debug)]
pub struct Asked {
    /// Ids of each prompt, a state's before them.
    pub prompts: Vec<Vec<u32>>,
    /// Texts for each prompt.
    pub choices: usize,
    pub sampling: Sampling,
    pub max_tokens: usize,
    pub stop: Vec<String>,
    pub logprobs: Option<usize>,
    pub state: Option<String>,
    pub save_state: Option<String>,
    pub stream: bool,
    pub include_usage: bool,
    pub is_chat: bool,
}

impl Completion {
    /// What is asked.
    ///
    /// # Errors
    /// [`ApiError`] with the field that cannot be used.
    pub fn asked(self, app: &Shared) -> Result<Asked, ApiError> {
        if self.echo {
            return Err(ApiError::field("echo", "false", "true"));
        }
        if self.suffix.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::field("suffix", "none", "a text"));
        }
        let logprobs = expect_logprobs("logprobs", self.logprobs)?;
        // Nothing goes before what continues a state.
        let is_first = self.common.state.is_none();
        let tokenizer = app.model.tokenizer();
        let encode = |text: &String| match is_first {
            true => tokenizer.encode_prompt(text),
            false => tokenizer.encode(text),
        };
        let encode = |text: &String| encode(text).map_err(|error| ApiError::invalid(error.to_string()));
        let prompts = match self.prompt {
            None => return Err(ApiError::field("prompt", "a text, texts or ids", "none")),
            Some(Prompt::Text(text)) => vec![encode(&text)?],
            Some(Prompt::Texts(texts)) => texts.iter().map(encode).collect::<Result<_, _>>()?,
            Some(Prompt::Ids(ids)) => vec![ids],
            Some(Prompt::ManyIds(lists)) => lists,
        };
        self.common.asked(app, prompts, logprobs, &[], 16)
    }
}

impl Chat {
    /// What is asked.
    ///
    /// # Errors
    /// [`ApiError`] with the field that cannot be used.
    pub fn asked(self, app: &Shared) -> Result<Asked, ApiError> {
        if self
            .tools
            .is_some_and(|tools| tools != Value::Null && tools != Value::Array(Vec::new()))
        {
            return Err(ApiError::field("tools", "none", "some"));
        }
        if let Some(format) = self.response_format.filter(|format| format["type"] != "text") {
            return Err(ApiError::field("response_format", "text", &format["type"]));
        }
        let logprobs = match self.logprobs {
            true => expect_logprobs("top_logprobs", Some(self.top_logprobs.unwrap_or(0)))?,
            false => None,
        };
        let Some(template) = &app.template else {
            let reason = "this model has no chat template; start the server with --template";
            return Err(ApiError::invalid(reason));
        };
        let messages = self.messages.into_iter().map(ChatMessage::message);
        let messages = messages.collect::<Result<Vec<Message>, _>>()?;
        let text = template
            .render(&messages, true)
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let ids = app.model.tokenizer().encode(&text);
        let ids = ids.map_err(|error| ApiError::invalid(error.to_string()))?;
        let asked = self
            .common
            .asked(app, vec![ids], logprobs, template.stop(), app.most_tokens)?;
        Ok(Asked {
            is_chat: true,
            ..asked
        })
    }
}

impl ChatMessage {
    fn message(self) -> Result<Message, ApiError> {
        let content = match self.content {
            Value::String(text) => text,
            Value::Null => String::new(),
            Value::Array(parts) => {
                let text = |part: &Value| match part["text"].as_str() {
                    Some(text) if part["type"] == "text" => Ok(text.to_owned()),
                    _ => Err(ApiError::field("content", "parts of type text", &part["type"])),
                };
                parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.concat()
            }
            other => return Err(ApiError::field("content", "a text or parts", other)),
        };
        Ok(Message {
            role: self.role,
            content,
        })
    }
}

impl Common {
    fn asked(
        self,
        app: &Shared,
        mut prompts: Vec<Vec<u32>>,
        logprobs: Option<usize>,
        ends: &[String],
        usual: usize,
    ) -> Result<Asked, ApiError> {
        for (field, value) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            if let Some(value) = value.filter(|value| *value != 0.0) {
                return Err(ApiError::field(field, "0 (there is repetition_penalty)", value));
            }
        }
        if self
            .logit_bias
            .is_some_and(|bias| bias.as_object().is_none_or(|bias| !bias.is_empty()))
        {
            return Err(ApiError::field("logit_bias", "none", "some"));
        }
        let max_tokens = self
            .max_completion_tokens
            .or(self.max_tokens)
            .unwrap_or(usual.min(app.most_tokens));
        if max_tokens > app.most_tokens {
            return Err(ApiError::field(
                "max_tokens",
                &format!("at most {}", app.most_tokens),
                max_tokens,
            ));
        }
        let choices = self.n.unwrap_or(1);
        let texts = choices.saturating_mul(prompts.len());
        if choices == 0 || texts == 0 || texts > MOST_CHOICES {
            return Err(ApiError::field(
                "n",
                &format!("1 to {MOST_CHOICES} texts in all"),
                texts,
            ));
        }
        if self.save_state.is_some() && texts > 1 {
            return Err(ApiError::field("save_state", "a request of one text", texts));
        }
        if let Some(name) = &self.state {
            let known = app.state(name)?.ids;
            prompts
                .iter_mut()
                .for_each(|ids| *ids = [&*known, ids.as_slice()].concat());
        }
        if let Some(longest) = prompts.iter().map(Vec::len).find(|len| *len > app.longest_prompt) {
            let expected = format!("at most {} tokens", app.longest_prompt);
            return Err(ApiError::field("prompt", &expected, longest));
        }
        let mut stop = match self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(text)) => vec![text],
            Some(OneOrMany::Many(texts)) => texts,
        };
        stop.extend_from_slice(ends);
        let sampling = Sampling {
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed.map_or_else(rand::random, i64::cast_unsigned),
        };
        sampling
            .validate()
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        Ok(Asked {
            prompts,
            choices,
            sampling,
            max_tokens,
            stop,
            logprobs,
            state: self.state,
            save_state: self.save_state,
            stream: self.stream,
            include_usage: self.stream_options.unwrap_or_default().include_usage,
            is_chat: false,
        })
    }
}

fn expect_logprobs(field: &'static str, count: Option<usize>) -> Result<Option<usize>, ApiError> {
    match count {
        Some(count) if count > MOST_LOGPROBS => {
            Err(ApiError::field(field, &format!("at most {MOST_LOGPROBS}"), count))
        }
        count => Ok(count),
    }
}
