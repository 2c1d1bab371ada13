//! `spillway serve`: completions over HTTP in OpenAI's form, with states that are kept, saved and forked.
//!
//! | module | what is in it |
//! |---|---|
//! | `app` | what every request sees: the model, the engine's queue, limits, named states |
//! | `request` | what is asked, and what of it is refused |
//! | `answer` | jobs of a request, their events collected or streamed |
//! | `states` | states by name: made, listed, forked, saved, loaded |
//! | `routes` | which path leads where; the key; metrics |
//!
//! The engine computes on this thread and its pool; HTTP has a thread of its own.

mod answer;
mod app;
mod request;
mod routes;
mod states;

use crate::chat;
use crate::context::Context;
use crate::error::ProgramError;
use crate::generation_args::TreatmentArgs;
use crate::model_args::ModelArgs;
use app::App;
use clap::Args;
use serde_json::json;
use spillway_models::serving::{Engine, EngineOptions, Submitter};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime;

/// Options of `spillway serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spillway serve rwkv7-world
  spillway serve mamba2-130m --port 8000 --rows 32 --states kept
  curl http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"In the beginning \", \"max_tokens\": 32}'

Paths: /v1/completions, /v1/chat/completions, /v1/models, /v1/states (states by name: POST makes one, /v1/states/NAME/fork, /save and
/load), /metrics (Prometheus), /health. Ctrl-C lets what is being answered end, for --grace seconds at most.")]
pub struct ServeArgs {
    /// The model that answers.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Address to listen at; any other than this machine's own wants a key
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Port to listen at; 0 takes a place that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Key that every request has to bring, as `Authorization: Bearer KEY` [default: what SPILLWAY_API_KEY says, else none]
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Sequences that are decoded side by side, rows of one batch
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub rows: u16,
    /// Requests that wait for a place; more are refused with status 429
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub queue: u16,
    /// The most tokens that a request may ask for
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// The longest prompt, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_prompt: u32,
    /// MiB of states that are kept in memory: those of earlier prompts and answers, and as much again of those with a name
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub kept: u32,
    /// Folder in which states with a name are saved [default: none, and saving is refused]
    #[arg(long, value_name = "DIR")]
    pub states: Option<PathBuf>,
    /// Seconds that answers may still take after Ctrl-C
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub grace: u16,
    /// How messages become text, as for `spillway chat` [default: the checkpoint's own; without one, chat is refused]
    #[arg(long, value_name = "FILE|FORM")]
    pub template: Option<String>,
    /// What acts on the states.
    #[command(flatten)]
    pub treatment: TreatmentArgs,
}

/// Runs `spillway serve`.
///
/// # Errors
/// [`ProgramError`] for a model or an option that cannot be used, and an address that cannot be listened at.
pub fn run(args: &ServeArgs, context: &Context) -> Result<(), ProgramError> {
    let key = args
        .api_key
        .clone()
        .or_else(|| std::env::var("SPILLWAY_API_KEY").ok());
    if !args.host.is_loopback() && key.is_none() {
        let expected = "--api-key, since others than this machine can reach the address";
        return Err(ProgramError::usage(
            format!("--host {}", args.host),
            expected,
            "none",
        ));
    }
    let address = SocketAddr::new(args.host, args.port);
    let failed = |error: std::io::Error| ProgramError::Failed(format!("cannot listen at {address}: {error}"));
    // Before the model is loaded, which may take long.
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    if let Some(folder) = &args.states {
        std::fs::create_dir_all(folder).map_err(ProgramError::file("create", folder))?;
    }
    let model = Arc::new(args.model.load()?);
    let template = match (&args.template, &args.model.checkpoint) {
        (None, None) => None,
        (None, Some(_)) => chat::template(args.template.as_deref(), &args.model).ok(),
        (Some(_), _) => Some(chat::template(args.template.as_deref(), &args.model)?),
    };
    let chain = args.treatment.chain(&args.model, &model, context)?;
    let kept_bytes = (args.kept as usize).saturating_mul(1 << 20);
    let options = EngineOptions {
        rows: usize::from(args.rows),
        queue: usize::from(args.queue),
        kept_bytes,
    };
    let (engine, submitter) = Engine::new(&model, chain.clone(), options);
    let hurry = submitter.clone();
    let app = App::new(args, key, model.clone(), chain, template, submitter, kept_bytes);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(|error| ProgramError::Failed(format!("cannot start the server: {error}")))?;
    context.print_json(&json!({ "address": format!("http://{address}"), "model": model.info().name }))?;
    context.remark(format_args!("{} listens at http://{address}", model.info().name));
    let grace = Duration::from_secs(u64::from(args.grace));
    let served = runtime.spawn(serve(listener, app, hurry, grace));
    // Ends when every path to its queue is gone: after the server's end, and with all jobs done.
    engine.run();
    match runtime.block_on(served) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ProgramError::Failed(format!("the server stopped: {error}"))),
        Err(error) => Err(ProgramError::Internal(format!("the server stopped: {error}"))),
    }
}

/// Answers until a signal, and then what is being answered.
async fn serve(listener: TcpListener, app: App, hurry: Submitter, grace: Duration) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (ended, mut is_ended) = tokio::sync::watch::channel(false);
    let stop = async move {
        signal().await;
        let _ = ended.send(true);
    };
    let late = async move {
        // Also when the sender goes away with the server.
        let _ = is_ended.wait_for(|ended| *ended).await;
        tokio::select! {
            () = tokio::time::sleep(grace) => {}
            () = signal() => {}
        }
        hurry.hurry();
    };
    let late = tokio::spawn(late);
    let served = axum::serve(listener, routes::router(app))
        .with_graceful_shutdown(stop)
        .await;
    late.abort();
    served
}

/// Ctrl-C, or the system's wish to end.
async fn signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
        let _ = tokio::signal::ctrl_c().await;
    }
    #[cfg(not(unix))]
    {
        let _ = interrupt.await;
    }
}
