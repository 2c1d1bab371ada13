//! States by name: made from a prompt or a conversation, listed, forked, saved and loaded.

use super::answer;
use super::app::{ApiError, App, Shared, expect_name, off_thread};
use super::request::{Body, Chat, Completion};
use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use spillway_models::Mark;
use spillway_models::chat;
use std::path::PathBuf;

/// What a new state is called.
#[derive(Deserialize)]
pub struct Named {
    id: String,
}

fn shown(name: &str, mark: &Mark) -> Value {
    json!({ "id": name, "object": "state", "tokens": mark.ids.len(), "bytes": mark.state.bytes() })
}

/// Answers with a list of all states: the name, tokens and bytes of each.
pub async fn list(State(app): State<App>) -> Json<Value> {
    let data: Vec<Value> = app
        .states()
        .iter()
        .map(|(name, mark)| shown(name, mark))
        .collect();
    Json(json!({ "object": "list", "data": data }))
}

/// Answers with the name, tokens and bytes of one state.
pub async fn get(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(shown(&name, &app.state(&name)?)))
}

/// Reads a prompt or messages, from the start or from `state`, and keeps the state under `id`.
pub async fn make(State(app): State<App>, Body(body): Body<Value>) -> Result<Json<Value>, ApiError> {
    let Some(name) = body["id"].as_str().map(str::to_owned) else {
        return Err(ApiError::field("id", "a name for the state", &body["id"]));
    };
    expect_name(&name)?;
    let shared = app.clone();
    let asked = off_thread(move || {
        let invalid = |error: serde_json::Error| ApiError::invalid(error.to_string());
        match body.get("messages") {
            Some(_) => serde_json::from_value::<Chat>(body)
                .map_err(invalid)?
                .asked(&shared),
            None => serde_json::from_value::<Completion>(body)
                .map_err(invalid)?
                .asked(&shared),
        }
    })
    .await?;
    let [ids] = <[Vec<u32>; 1]>::try_from(asked.prompts)
        .map_err(|prompts| ApiError::field("prompt", "one text", format!("{} texts", prompts.len())))?;
    let from = asked.state.as_ref().map(|name| app.state(name)).transpose()?;
    let mark = answer::read(&app, ids, from).await?;
    let said = shown(&name, &mark);
    app.keep(&name, mark)?;
    Ok(Json(said))
}

/// Forgets a state; what was saved of it stays.
pub async fn delete(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    app.state(&name)?;
    app.states().remove(&name);
    Ok(Json(json!({ "id": name, "object": "state", "deleted": true })))
}

/// A copy under another name: both go on from here.
pub async fn fork(
    State(app): State<App>,
    Path(name): Path<String>,
    Body(copy): Body<Named>,
) -> Result<Json<Value>, ApiError> {
    let mark = app.state(&name)?;
    if app.states().contains_key(&copy.id) {
        return Err(ApiError::conflict(format!(
            "a state is called {:?} already",
            copy.id
        )));
    }
    let said = shown(&copy.id, &mark);
    app.keep(&copy.id, mark)?;
    Ok(Json(said))
}

/// Writes a state into the server's folder.
pub async fn save(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let mark = app.state(&name)?;
    let path = path_of(&app, &name)?;
    let said = shown(&name, &mark);
    off_thread(move || chat::save(&path, &mark, &[]).map_err(|error| ApiError::failed(error.to_string())))
        .await?;
    Ok(Json(said))
}

/// Reads a state from the server's folder.
pub async fn load(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    expect_name(&name)?;
    let path = path_of(&app, &name)?;
    if !path.exists() {
        return Err(ApiError::missing(format!("no state {name:?} was saved")));
    }
    let shared = app.clone();
    let (mark, _) = off_thread(move || {
        chat::load(&path, &shared.model, &shared.chain).map_err(|error| ApiError::failed(error.to_string()))
    })
    .await?;
    let said = shown(&name, &mark);
    app.keep(&name, mark)?;
    Ok(Json(said))
}

fn path_of(app: &Shared, name: &str) -> Result<PathBuf, ApiError> {
    match &app.folder {
        Some(folder) => Ok(folder.join(format!("{name}.safetensors"))),
        None => Err(ApiError::invalid("the server was started without --states DIR")),
    }
}
