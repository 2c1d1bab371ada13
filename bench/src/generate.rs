//! `spillway generate`: continue a text, streamed to the terminal.

use crate::context::Context;
use crate::error::ProgramError;
use crate::model_args::ModelArgs;
use crate::trial::Trial;
use clap::Args;
use mitigations::Mitigation;
use models::generation::{Finish, Generated, Sampling, TakenIn, continue_from};
use models::tokenizer::parse_ids;
use models::{Model, ModelError, ModelState, PrefixCache, PrefixCacheOptions, Which};
use serde::Serialize;
use ssm_core::Chain;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of `spillway generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spillway generate --prompt 'In the beginning '
  spillway generate mamba2-130m --prompt 'The capital of France is' --temperature 0 --max-tokens 16
  spillway generate mamba2-130m --ids 510,5347,273,6181,310 --mitigation window:8192")]
pub struct GenerateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text to continue
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "ids",
        conflicts_with = "ids"
    )]
    pub prompt: Option<String>,
    /// Token ids to continue, instead of text: numbers with commas or blanks between
    #[arg(long, value_name = "LIST")]
    pub ids: Option<String>,
    /// Mitigation to generate with, such as window:8192
    #[arg(long, value_name = "SPEC")]
    pub mitigation: Option<Mitigation>,
    /// Folder of states of earlier prompts: the longest beginning that this prompt shares with them is not computed again
    #[arg(long, value_name = "DIR")]
    pub prefix_cache: Option<PathBuf>,
    /// The most MiB that the folder may take; what was used longest ago is removed first
    #[arg(long, value_name = "MIB", default_value_t = 4096, requires = "prefix_cache")]
    pub prefix_cache_limit: u64,
    /// Stop after this many tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Logits are divided by this before a token is drawn; 0 always takes the likeliest
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Draw from the K likeliest tokens only
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens whose probabilities reach P in sum
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Make tokens that have occurred less likely by this factor; 1 leaves them alone
    #[arg(long, value_name = "R", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repetition_penalty: f32,
    /// Stop at this text, which is not printed; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// The same seed draws the same tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object instead of the text
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Output<'a> {
    model: &'a str,
    mitigation: String,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    text: &'a str,
    finish: &'static str,
    stop: Option<&'a str>,
    seconds: f64,
}

/// Runs `spillway generate`.
///
/// # Errors
/// [`ProgramError`] for a model, a prompt or an option that cannot be used.
pub fn run(args: &GenerateArgs, context: &Context) -> Result<(), ProgramError> {
    let sampling = Sampling {
        repetition_penalty: args.repetition_penalty,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    };
    sampling.validate()?;
    let model = args.model.load()?;
    let prompt = prompt_ids(args, &model)?;
    let chain = args
        .mitigation
        .as_ref()
        .map(Mitigation::chain)
        .unwrap_or_default();
    if let Some(mitigation) = &args.mitigation {
        Trial::of(mitigation).expect_possible(&model)?;
    }
    let begin = Instant::now();
    let (taken_in, mut state) = match &args.prefix_cache {
        None => {
            let mut state = model.start(&chain, 1)?;
            let logits = model.logits(&prompt, &mut state, Which::Last)?;
            (
                TakenIn {
                    prompt: &prompt,
                    logits,
                },
                state,
            )
        }
        Some(folder) => prefill_from(folder, args.prefix_cache_limit, context, &model, &chain, &prompt)?,
    };
    let generated = stream(args, context, &model, &mut state, taken_in, &sampling)?;
    let seconds = begin.elapsed().as_secs_f64();
    if args.json {
        return print_json(context, &model, &chain, &prompt, &generated, seconds);
    }
    context.print("\n")?;
    context.remark(format_args!(
        "{} tokens in and {} out in {seconds:.2} s; ended by {}",
        prompt.len(),
        generated.ids.len(),
        finish_name(&generated.finish),
    ));
    Ok(())
}

fn prompt_ids(args: &GenerateArgs, model: &Model) -> Result<Vec<u32>, ProgramError> {
    let (option, ids) = match (&args.ids, &args.prompt) {
        (Some(ids), _) => {
            let parsed = parse_ids(ids, model.info().vocab_size);
            (
                "--ids",
                parsed.map_err(|error| ProgramError::BadIds(error.to_string()))?,
            )
        }
        (None, prompt) => (
            "--prompt",
            model
                .tokenizer()
                .encode_prompt(prompt.as_deref().unwrap_or_default())
                .map_err(|error| ProgramError::from(error).without_tokenizer("with --ids"))?,
        ),
    };
    match ids.is_empty() {
        true => Err(ProgramError::usage(option, "at least one token", "none")),
        false => Ok(ids),
    }
}

/// Takes the prompt in with the help of a cache on disk, and says how far that helped.
fn prefill_from<'a>(
    folder: &Path,
    limit_mib: u64,
    context: &Context,
    model: &Model,
    chain: &Chain,
    prompt: &'a [u32],
) -> Result<(TakenIn<'a>, ModelState), ProgramError> {
    let options = PrefixCacheOptions {
        limit_bytes: limit_mib.saturating_mul(1 << 20),
        ..PrefixCacheOptions::default()
    };
    let cache = PrefixCache::open(folder, options).map_err(ModelError::from)?;
    let found = cache.prefill(model, chain, prompt)?;
    context.remark(format_args!(
        "{} of {} prompt tokens found in {}, {} states stored",
        found.restored,
        prompt.len(),
        folder.display(),
        found.stored
    ));
    for refused in &found.refused {
        context.remark(format_args!("not used: {refused}"));
    }
    let logits = found.logits;
    Ok((TakenIn { prompt, logits }, found.state))
}

/// Generates, printing the text as it comes unless JSON is wanted.
fn stream(
    args: &GenerateArgs,
    context: &Context,
    model: &Model,
    state: &mut ModelState,
    prompt: TakenIn<'_>,
    sampling: &Sampling,
) -> Result<Generated, ProgramError> {
    let mut trouble = None;
    let max_tokens = usize::try_from(args.max_tokens).unwrap_or(usize::MAX);
    let generated = continue_from(model, state, prompt, sampling, max_tokens, &args.stop, |text| {
        if args.json {
            return ControlFlow::Continue(());
        }
        match context.print(text) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                trouble = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    trouble.map_or(Ok(generated), Err)
}

fn print_json(
    context: &Context,
    model: &Model,
    chain: &Chain,
    prompt_ids: &[u32],
    generated: &Generated,
    seconds: f64,
) -> Result<(), ProgramError> {
    let stop = match &generated.finish {
        Finish::Stop(text) => Some(text.as_str()),
        _ => None,
    };
    context.print_json(&Output {
        model: &model.info().name,
        mitigation: chain.text(),
        prompt_ids,
        ids: &generated.ids,
        text: &generated.text,
        finish: finish_name(&generated.finish),
        stop,
        seconds,
    })
}

fn finish_name(finish: &Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Stop(_) => "stop",
        Finish::End => "end",
        Finish::Cancelled => "cancelled",
    }
}
