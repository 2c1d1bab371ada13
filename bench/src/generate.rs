//! `spillway generate`: continue a text, streamed to the terminal.

use crate::context::Context;
use crate::encoder::{EncoderArgs, described};
use crate::error::ProgramError;
use crate::generation_args::{SamplingArgs, TreatmentArgs};
use crate::model_args::ModelArgs;
use crate::prompt::{MOST_KEPT, Prompt, PromptArgs};
use crate::sound::Sound;
use crate::speculation::{Drafts, Outcome, SpeculationArgs};
use clap::Args;
use indicatif::HumanCount;
use serde::Serialize;
use spillway_models::generation::{Finish, Generated, Sampling, continue_from, generate_after};
use spillway_models::speculation::Speculation;
use spillway_models::tokenizer::{TokenizerError, parse_ids};
use spillway_models::{
    Logits, Model, ModelError, ModelState, PrefixCache, PrefixCacheOptions, PromptReading,
};
use spillway_ssm_core::Chain;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of `spillway generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spillway generate --prompt 'In the beginning '
  spillway generate mamba2-130m --prompt 'The capital of France is' --temperature 0 --max-tokens 16
  spillway generate mamba2-130m --prompt-file book.txt --mitigation window:2048
  spillway generate mamba2-130m --prompt - --mitigation state-norm:auto --calibrate other-book.txt < book.txt
  spillway generate mamba2-130m --prompt-file question-and-document.txt --read-twice --temperature 0
  spillway generate mamba2-130m --ids 510,5347,273,6181,310
  spillway generate sashimi/checkpoint --ids 128 --max-tokens 16000 --wav sample.wav --spectrogram sample.svg
  spillway generate mamba2-2.7b --prompt-file program.py --temperature 0 --speculate lookup
  spillway generate mamba2-2.7b --prompt 'In 1969' --draft mamba2-130m

A prompt may be of any length: text is read and taken in piece by piece. `spillway mitigations` lists what --mitigation takes.")]
pub struct GenerateArgs {
    /// The model that continues the prompt.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The prompt to continue.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Read the prompt twice, with a line's end between, before going on: what a model of fixed memory keeps of the second reading
    /// depends on what it was asked in the first
    #[arg(long)]
    pub read_twice: bool,
    /// What of it an encoder reads.
    #[command(flatten)]
    pub encoder: EncoderArgs,
    /// What acts on the states.
    #[command(flatten)]
    pub treatment: TreatmentArgs,
    /// Folder of states of earlier prompts: the longest beginning that this prompt shares with them is not computed again [default: none
    /// is kept]
    #[arg(long, value_name = "DIR")]
    pub prefix_cache: Option<PathBuf>,
    /// The most MiB that the folder may take; what was used longest ago is removed first
    #[arg(long, value_name = "MIB", default_value_t = 4096, requires = "prefix_cache")]
    pub prefix_cache_limit: u64,
    /// Stop after this many tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// How tokens are drawn.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Where drafts come from.
    #[command(flatten)]
    pub speculation: SpeculationArgs,
    /// Token ids that end the text, numbers with commas between; an empty list goes on to --max-tokens [default: the model's]
    #[arg(long, value_name = "LIST")]
    pub eos: Option<String>,
    /// Stop at this text, which is not printed; may be given several times [default: at none]
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Write what is generated as sound, a sample for each token, instead of printing it: of a model that was trained on sound (its
    /// folder has audio.json). The zero level, 128 of 8 bits, is the prompt that asks for any sound [default: text is printed]
    #[arg(long, value_name = "FILE", conflicts_with = "stop")]
    pub wav: Option<PathBuf>,
    /// Draw the sound as well, frequency against time (SVG) [default: no picture]
    #[arg(long, value_name = "FILE", requires = "wav")]
    pub spectrogram: Option<PathBuf>,
}

/// The JSON document that `spillway generate --json` prints.
#[derive(Debug, Serialize)]
struct Output<'a> {
    model: &'a str,
    mitigation: String,
    prompt_tokens: u64,
    /// `None` for more than can be printed.
    prompt_ids: Option<&'a [u32]>,
    ids: &'a [u32],
    text: &'a str,
    finish: &'static str,
    stop: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wav: Option<&'a Path>,
    seconds: f64,
    /// What came of drafts, where there were any.
    speculation: Option<Outcome>,
}

/// Runs `spillway generate`.
///
/// # Errors
/// [`ProgramError`] for a model, a prompt or an option that cannot be used.
pub fn run(args: &GenerateArgs, context: &Context) -> Result<(), ProgramError> {
    let sampling = args.sampling.sampling()?;
    let sound = args.sound()?;
    let mut model = args.model.load()?;
    if let Some(ends) = &args.eos {
        let ids = parse_ids(ends, model.info().vocab_size);
        model.end_at(ids.map_err(|error| ProgramError::BadIds(error.to_string()))?);
    }
    let chain = args.treatment.chain(&args.model, &model, context)?;
    let reading = args.encoder.reading(&model)?;
    if reading.is_some() && args.speculation.is_asked_for() {
        let expected = "a model that reads its prompt causally";
        let found = format!("{}, which has an encoder", model.info().architecture);
        return Err(ProgramError::usage("--speculate or --draft", expected, found));
    }
    let drafts = args.speculation.load(&args.model)?;
    let begin = Instant::now();
    let mut read = None;
    if let Some(reading) = reading {
        let ids = args.prompt.read(&model, context)?;
        let ids = match args.read_twice {
            true => read_twice(ids, &model)?,
            false => ids,
        };
        context.remark(described(&model, &reading, ids.len()));
        // A cache has what the encoder was trained to read, and nothing of shorter prompts.
        let is_whole = reading.encoder_length.is_none() && ids.len() >= model.encoder_length();
        if args.prefix_cache.is_none() || !is_whole {
            let mut state = model.start(&chain, 1)?;
            let generated = stream_after(args, context, &model, &mut state, (&ids, &reading), &sampling)?;
            let prompt = (ids.len() as u64, Some(ids.as_slice()));
            return finish(
                args,
                context,
                (&model, &chain),
                prompt,
                (&generated, None),
                (sound, begin),
            );
        }
        read = Some(ids);
    }
    let (prompt, mut state) = match &args.prefix_cache {
        None if args.read_twice => {
            let mut state = model.start(&chain, 1)?;
            let ids = read_twice(args.prompt.read(&model, context)?, &model)?;
            let logits = model.logits(&ids, &mut state, Logits::Last)?;
            (Prompt::whole(ids, logits), state)
        }
        None => {
            let mut state = model.start(&chain, 1)?;
            let kept = match context.is_json() || args.speculation.is_asked_for() {
                true => MOST_KEPT,
                false => 0,
            };
            let prompt = args.prompt.take_in(&model, &mut state, kept, context)?;
            (prompt, state)
        }
        Some(folder) => {
            let ids = match read {
                Some(ids) => ids,
                None if args.read_twice => read_twice(args.prompt.read(&model, context)?, &model)?,
                None => args.prompt.read(&model, context)?,
            };
            prefill_from(folder, args.prefix_cache_limit, context, &model, &chain, ids)?
        }
    };
    let (generated, outcome) = match drafts {
        Drafts::None => (
            stream(args, context, &model, &mut state, &prompt, &sampling)?,
            None,
        ),
        drafts => stream_by_drafts(args, context, &model, state, &prompt, (&sampling, &drafts))?,
    };
    let prompt = (prompt.tokens, prompt.ids.as_deref());
    finish(
        args,
        context,
        (&model, &chain),
        prompt,
        (&generated, outcome),
        (sound, begin),
    )
}

/// Says what was generated from a prompt of so many tokens, whose ids are known unless there are too many, and writes the sound that it is.
fn finish(
    args: &GenerateArgs,
    context: &Context,
    (model, chain): (&Model, &Chain),
    prompt: (u64, Option<&[u32]>),
    (generated, outcome): (&Generated, Option<Outcome>),
    (sound, begin): (Option<Sound>, Instant),
) -> Result<(), ProgramError> {
    let seconds = begin.elapsed().as_secs_f64();
    if let Some(sound) = &sound {
        sound.write(&generated.ids, args.spectrogram.as_deref(), context)?;
    }
    if context.is_json() {
        return print_json(
            args,
            context,
            (model, chain),
            prompt,
            (generated, outcome),
            seconds,
        );
    }
    if sound.is_none() {
        context.print("\n")?;
    }
    context.remark(format_args!(
        "{} tokens in and {} out in {seconds:.2} s; ended by {}",
        HumanCount(prompt.0),
        generated.ids.len(),
        finish_name(&generated.finish),
    ));
    if let Some(outcome) = outcome {
        outcome.tell(context);
    }
    Ok(())
}

/// A prompt, a line's end if the tokenizer has one, and the prompt again; what the tokenizer puts before a text stands there once.
fn read_twice(ids: Vec<u32>, model: &Model) -> Result<Vec<u32>, ProgramError> {
    let tokenizer = model.tokenizer();
    let (line_end, before) = match (tokenizer.encode("\n"), tokenizer.encode_prompt("")) {
        (Ok(line_end), Ok(before)) => (line_end, before),
        // Ids without a tokenizer follow upon one another.
        (Err(TokenizerError::Absent { .. }), _) | (_, Err(TokenizerError::Absent { .. })) => {
            Default::default()
        }
        (Err(error), _) | (_, Err(error)) => return Err(error.into()),
    };
    let again = match ids.strip_prefix(before.as_slice()) {
        Some(rest) if !rest.is_empty() => rest,
        _ => &ids,
    };
    Ok([ids.as_slice(), &line_end, again].concat())
}

/// Takes the prompt in with the help of a cache on disk, and says how far that helped.
fn prefill_from(
    folder: &Path,
    limit_mib: u64,
    context: &Context,
    model: &Model,
    chain: &Chain,
    ids: Vec<u32>,
) -> Result<(Prompt, ModelState), ProgramError> {
    let options = PrefixCacheOptions {
        limit_bytes: limit_mib.saturating_mul(1 << 20),
        ..PrefixCacheOptions::default()
    };
    let cache = PrefixCache::open(folder, options).map_err(ModelError::from)?;
    let found = cache.prefill(model, chain, &ids)?;
    context.remark(format_args!(
        "{} of {} prompt tokens found in {}, {} states stored",
        found.restored,
        ids.len(),
        folder.display(),
        found.stored
    ));
    for refused in &found.refused {
        context.remark(format_args!("not used: {refused}"));
    }
    let prompt = Prompt::whole(ids, found.logits);
    Ok((prompt, found.state))
}

/// Generates, printing the text as it comes.
fn stream(
    args: &GenerateArgs,
    context: &Context,
    model: &Model,
    state: &mut ModelState,
    prompt: &Prompt,
    sampling: &Sampling,
) -> Result<Generated, ProgramError> {
    printed(args, context, |on_text| {
        let (tokens, stop) = (args.most_tokens(), &args.stop);
        continue_from(model, state, prompt.taken_in(), sampling, tokens, stop, on_text)
    })
}

/// As [`stream`] with drafts, which are made of the whole prompt unless it is longer than is kept; and what came of them.
fn stream_by_drafts(
    args: &GenerateArgs,
    context: &Context,
    model: &Model,
    mut state: ModelState,
    prompt: &Prompt,
    (sampling, drafts): (&Sampling, &Drafts),
) -> Result<(Generated, Option<Outcome>), ProgramError> {
    let Some((mut drafter, tokens)) = drafts.drafter(model)? else {
        return Ok((stream(args, context, model, &mut state, prompt, sampling)?, None));
    };
    let mut taken_in = prompt.taken_in();
    taken_in.last = prompt.ids.as_deref().unwrap_or(taken_in.last);
    let mut speculation = Speculation::new(model, drafter.as_mut(), tokens);
    let begin = Instant::now();
    let generated = printed(args, context, |on_text| {
        let (tokens, stop) = (args.most_tokens(), &args.stop);
        speculation.continue_from(&mut state, taken_in, sampling, tokens, stop, on_text)
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let acceptance = speculation.acceptance();
    let outcome = match generated.ids.last() {
        Some(last) => Some(Outcome::measure(
            acceptance,
            (generated.ids.len(), seconds),
            model,
            state,
            *last,
        )?),
        None => None,
    };
    Ok((generated, outcome))
}

/// As [`stream`] from the beginning of a prompt that an encoder reads.
fn stream_after(
    args: &GenerateArgs,
    context: &Context,
    model: &Model,
    state: &mut ModelState,
    (prompt, reading): (&[u32], &PromptReading),
    sampling: &Sampling,
) -> Result<Generated, ProgramError> {
    printed(args, context, |on_text| {
        let (tokens, stop) = (args.most_tokens(), &args.stop);
        generate_after(model, state, prompt, reading, sampling, tokens, stop, on_text)
    })
}

/// What `generate` gives, with the text that it hands on printed, unless it is sound.
fn printed(
    args: &GenerateArgs,
    context: &Context,
    generate: impl FnOnce(&mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<Generated, ModelError>,
) -> Result<Generated, ProgramError> {
    if args.wav.is_some() {
        let _waiting = context.waiting("sampling sound");
        return Ok(generate(&mut |_| ControlFlow::Continue(()))?);
    }
    let mut trouble = None;
    let generated = generate(&mut |text| match context.print(text) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            trouble = Some(error);
            ControlFlow::Break(())
        }
    })?;
    trouble.map_or(Ok(generated), Err)
}

impl GenerateArgs {
    fn most_tokens(&self) -> usize {
        usize::try_from(self.max_tokens).unwrap_or(usize::MAX)
    }

    /// Where sound is to be written, and what the model's tokens are codes of.
    fn sound(&self) -> Result<Option<Sound>, ProgramError> {
        match &self.wav {
            None => Ok(None),
            Some(path) => Sound::of(self.model.checkpoint.as_deref(), path).map(Some),
        }
    }
}

fn print_json(
    args: &GenerateArgs,
    context: &Context,
    (model, chain): (&Model, &Chain),
    (prompt_tokens, prompt_ids): (u64, Option<&[u32]>),
    (generated, speculation): (&Generated, Option<Outcome>),
    seconds: f64,
) -> Result<(), ProgramError> {
    let stop = match &generated.finish {
        Finish::Stop(text) => Some(text.as_str()),
        _ => None,
    };
    context.print_json(&Output {
        model: &model.info().name,
        mitigation: chain.text(),
        prompt_tokens,
        prompt_ids,
        ids: &generated.ids,
        text: &generated.text,
        finish: finish_name(&generated.finish),
        stop,
        wav: args.wav.as_deref(),
        seconds,
        speculation,
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
