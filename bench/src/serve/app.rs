//! What every request sees, and how a request is refused.

use super::ServeArgs;
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use spillway_models::chat::ChatTemplate;
use spillway_models::message::shown;
use spillway_models::serving::{Refused, Submitter};
use spillway_models::{Mark, Model};
use spillway_ssm_core::Chain;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// The most states with a name.
const MOST_STATES: usize = 4096;
/// The longest name of a state, in bytes.
const LONGEST_NAME: usize = 64;

/// What every request sees.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// What all requests share: the model, the engine's queue, limits, and the states with a name.
pub struct Shared {
    pub model: Arc<Model>,
    pub chain: Chain,
    pub template: Option<ChatTemplate>,
    pub submitter: Submitter,
    pub key: Option<String>,
    pub most_tokens: usize,
    pub longest_prompt: usize,
    pub folder: Option<PathBuf>,
    /// Bytes of states with a name.
    pub states_bytes: usize,
    /// When the server began, in seconds.
    pub begun: u64,
    states: Mutex<BTreeMap<String, Mark>>,
}

impl App {
    pub fn new(
        args: &ServeArgs,
        key: Option<String>,
        model: Arc<Model>,
        chain: Chain,
        template: Option<ChatTemplate>,
        submitter: Submitter,
        states_bytes: usize,
    ) -> Self {
        Self(Arc::new(Shared {
            model,
            chain,
            template,
            submitter,
            key,
            most_tokens: args.max_tokens as usize,
            longest_prompt: args.max_prompt as usize,
            folder: args.states.clone(),
            states_bytes,
            begun: now(),
            states: Mutex::default(),
        }))
    }
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Shared {
    /// The states with a name.
    pub fn states(&self) -> MutexGuard<'_, BTreeMap<String, Mark>> {
        // Nothing panics while it is held, and a map is whole after every change.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A state by its name.
    pub fn state(&self, name: &str) -> Result<Mark, ApiError> {
        let found = self.states().get(name).cloned();
        found.ok_or_else(|| ApiError::missing(format!("no state is called {name:?}")))
    }

    /// Keeps a state under a name.
    ///
    /// # Errors
    /// [`ApiError`] for a name that cannot be used, and where there is no room.
    pub fn keep(&self, name: &str, mark: Mark) -> Result<(), ApiError> {
        expect_name(name)?;
        let mut states = self.states();
        let others = states.iter().filter(|(other, _)| other.as_str() != name);
        let (count, bytes) = others.fold((0, 0), |(count, bytes), (_, mark)| {
            (count + 1, bytes + mark.state.bytes())
        });
        if count >= MOST_STATES || bytes + mark.state.bytes() > self.states_bytes {
            let reason = format!(
                "no room for a state of {} bytes beside {bytes} of {count} others; delete one",
                mark.state.bytes()
            );
            return Err(ApiError::full(reason));
        }
        states.insert(name.to_owned(), mark);
        Ok(())
    }
}

/// Names are also names of files.
pub fn expect_name(name: &str) -> Result<(), ApiError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !name.starts_with('.')
        && name.chars().all(is_plain)
    {
        true => Ok(()),
        false => Err(ApiError::field(
            "id",
            "letters, digits, and within them - _ . (64 at most)",
            format!("{name:?}"),
        )),
    }
}

/// Runs what takes long beside the connections.
pub async fn off_thread<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::failed(format!(
            "internal error, please report it: {error}"
        ))),
    }
}

/// Time now, in seconds since the beginning of 1970 (UTC).
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Why a request is refused.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    /// The field that is wrong.
    field: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: shown(&message.into()).to_string(),
            field: None,
        }
    }

    /// A field with a value that cannot be used.
    pub fn field(field: &'static str, expected: &str, found: impl std::fmt::Display) -> Self {
        let message = format!("{field}: expected {expected}, found {found}");
        let error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message);
        Self {
            field: Some(field),
            ..error
        }
    }

    /// A request that cannot be used as it is.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// Something that is not there.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message)
    }

    /// A request without the key.
    pub fn unauthorized() -> Self {
        let message = "this server wants the header Authorization: Bearer KEY";
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
    }

    /// A request that is too long.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// A place that is taken.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict_error", message)
    }

    /// No room for a state.
    pub fn full(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "insufficient_storage_error",
            message,
        )
    }

    /// Something that failed here.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// What is said of it.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                refused.to_string(),
            ),
            Refused::Ended => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "server_error",
                refused.to_string(),
            ),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = json!({ "message": self.message, "type": self.kind, "param": self.field, "code": null });
        let mut response = (self.status, Json(json!({ "error": error }))).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            let second = header::HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, second);
        }
        response
    }
}
