//! The routes of a server: which path leads where, the key, and what the server says of itself.

use super::app::{ApiError, App, off_thread};
use super::request::{Body, Chat, Completion};
use super::{answer, states};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::fmt::Write;

/// The largest body that a request may have, in bytes.
const MOST_BYTES: usize = 64 << 20;

/// The router of all paths: every one but `/health` asks for the key, where there is one.
pub fn router(app: App) -> Router {
    let guarded = Router::new()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/models", get(models))
        .route("/v1/states", get(states::list).post(states::make))
        .route("/v1/states/{name}", get(states::get).delete(states::delete))
        .route("/v1/states/{name}/fork", post(states::fork))
        .route("/v1/states/{name}/save", post(states::save))
        .route("/v1/states/{name}/load", post(states::load))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(app.clone(), expect_key));
    guarded
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .fallback(|request: Request| async move {
            ApiError::missing(format!(
                "there is no {} {}",
                request.method(),
                request.uri().path()
            ))
        })
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .with_state(app)
}

async fn expect_key(State(app): State<App>, request: Request, next: Next) -> Response {
    let brought = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let brought = brought.and_then(|value| value.strip_prefix("Bearer "));
    match &app.key {
        Some(key) if !brought.is_some_and(|brought| is_same(brought, key)) => {
            ApiError::unauthorized().into_response()
        }
        _ => next.run(request).await,
    }
}

/// Whether two texts are one, in a time that does not tell where they differ.
fn is_same(a: &str, b: &str) -> bool {
    let differences = a.bytes().zip(b.bytes()).fold(0, |found, (a, b)| found | (a ^ b));
    a.len() == b.len() && differences == 0
}

async fn completions(State(app): State<App>, Body(asked): Body<Completion>) -> Result<Response, ApiError> {
    let shared = app.clone();
    let asked = off_thread(move || asked.asked(&shared)).await?;
    answer::answer(app, asked).await
}

async fn chat_completions(State(app): State<App>, Body(asked): Body<Chat>) -> Result<Response, ApiError> {
    let shared = app.clone();
    let asked = off_thread(move || asked.asked(&shared)).await?;
    answer::answer(app, asked).await
}

async fn models(State(app): State<App>) -> Json<Value> {
    let model = json!({
        "id": app.model.info().name,
        "object": "model",
        "created": app.begun,
        "owned_by": "spillway",
    });
    Json(json!({ "object": "list", "data": [model] }))
}

/// In the text form of Prometheus.
async fn metrics(State(app): State<App>) -> String {
    let mut text = String::new();
    for (name, grows, value) in app.submitter.metrics().all() {
        let (kind, ending) = if grows {
            ("counter", "_total")
        } else {
            ("gauge", "")
        };
        // Writing to a text does not fail.
        let _ = writeln!(
            text,
            "# TYPE spillway_{name}{ending} {kind}\nspillway_{name}{ending} {value}"
        );
    }
    text
}
