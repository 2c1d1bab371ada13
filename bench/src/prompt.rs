//! A prompt of any length, from the command line, a file or standard input, and taking it into a model.
//!
//! Text is read, tokenised and taken in some ten thousand tokens at a time, so that what grows with the prompt is the model's
//! state, where it has attention layers, and nothing else.

use crate::context::Context;
use crate::error::ProgramError;
use burn::tensor::Tensor;
use clap::Args;
use spillway_models::generation::TakenIn;
use spillway_models::tokenizer::{ReadError, parse_ids};
use spillway_models::train::data::plain_text;
use spillway_models::{Logits, Model, ModelState};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Ids handed to the model at a time: whole segments of it, so that the pieces give the same bits as the whole.
const AT_ONCE: usize = 1 << 14;
/// Ids of a prompt that are kept for `--json`.
pub const MOST_KEPT: usize = 1 << 24;
/// Bytes of text from which on there is a progress bar.
const LONG: u64 = 1 << 16;

/// The options that say which prompt to continue: a text, a file or token ids.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PromptArgs {
    /// Words to continue; `-` reads them from standard input
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// File whose text to continue, to the letter and of any length
    #[arg(long, short = 'f', value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Token ids to continue, instead of text: numbers with commas or blanks between
    #[arg(long, value_name = "LIST")]
    pub ids: Option<String>,
}

/// What is left of a prompt once it has been taken in.
#[derive(Debug)]
pub struct Prompt {
    /// Every id that occurs, once.
    pub distinct: Vec<u32>,
    /// The last of them, in their order.
    pub last: Vec<u32>,
    /// All ids, unless there are more than were to be kept.
    pub ids: Option<Vec<u32>>,
    /// Number of tokens of the prompt.
    pub tokens: u64,
    /// After the last token, `[1, vocab_size]`.
    pub logits: Tensor<2>,
}

impl Prompt {
    /// A prompt whose ids are all at hand.
    pub fn whole(ids: Vec<u32>, logits: Tensor<2>) -> Self {
        Self {
            distinct: ids.clone(),
            last: ids.clone(),
            tokens: ids.len() as u64,
            ids: Some(ids),
            logits,
        }
    }

    /// What generation goes on from.
    pub fn taken_in(&self) -> TakenIn<'_> {
        TakenIn {
            prompt: &self.distinct,
            last: &self.last,
            logits: self.logits.clone(),
        }
    }
}

/// The ids of a prompt, some at a time.
type Ids<'a> = Box<dyn Iterator<Item = Result<Vec<u32>, ProgramError>> + 'a>;

impl PromptArgs {
    /// Takes the prompt in, from `state` on; of its ids the first `kept` are kept.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for a prompt of no tokens; otherwise as [`Self::read`] and [`Model::logits`].
    pub fn take_in(
        &self,
        model: &Model,
        state: &mut ModelState,
        kept: usize,
        context: &Context,
    ) -> Result<Prompt, ProgramError> {
        let mut seen = vec![false; model.info().vocab_size];
        let (mut all, mut tokens) = (Vec::new(), 0);
        let mut waiting: Vec<u32> = Vec::new();
        for ids in self.ids_of(model, context)? {
            let ids = ids?;
            tokens += ids.len() as u64;
            for id in &ids {
                if let Some(seen) = seen.get_mut(*id as usize) {
                    *seen = true;
                }
            }
            all.extend_from_slice(&ids[..ids.len().min((kept + 1).saturating_sub(all.len()))]);
            waiting.extend(ids);
            // The last token is taken in with its logits.
            let now = waiting.len().saturating_sub(1) / AT_ONCE * AT_ONCE;
            model.advance(&waiting[..now], state)?;
            waiting.drain(..now);
        }
        if waiting.is_empty() {
            return Err(ProgramError::usage(self.option(), "at least one token", "none"));
        }
        let logits = model.logits(&waiting, state, Logits::Last)?;
        let ids = (0..).zip(&seen).filter_map(|(id, seen)| seen.then_some(id));
        Ok(Prompt {
            distinct: ids.collect(),
            last: waiting,
            ids: (all.len() as u64 == tokens && all.len() <= kept).then_some(all),
            tokens,
            logits,
        })
    }

    /// All ids at once.
    ///
    /// # Errors
    /// [`ProgramError::BadIds`]; [`ProgramError::File`] and [`ProgramError::Content`] for a file that cannot be read or is no text;
    /// [`ProgramError::Model`] from the tokenizer; [`ProgramError::Usage`] for no tokens at all.
    pub fn read(&self, model: &Model, context: &Context) -> Result<Vec<u32>, ProgramError> {
        let mut all = Vec::new();
        for ids in self.ids_of(model, context)? {
            all.extend(ids?);
        }
        match all.is_empty() {
            true => Err(ProgramError::usage(self.option(), "at least one token", "none")),
            false => Ok(all),
        }
    }

    fn ids_of<'a>(&'a self, model: &'a Model, context: &Context) -> Result<Ids<'a>, ProgramError> {
        if let Some(ids) = &self.ids {
            let parsed = parse_ids(ids, model.info().vocab_size);
            let ids = parsed.map_err(|error| ProgramError::BadIds(error.to_string()))?;
            return Ok(Box::new(std::iter::once(Ok(ids))));
        }
        let (name, length, reader): (PathBuf, u64, Box<dyn BufRead>) = match (&self.prompt_file, &self.prompt)
        {
            (Some(path), _) => {
                let file = File::open(path).map_err(ProgramError::file("open", path))?;
                let length = file.metadata().map_or(0, |data| data.len());
                (path.clone(), length, Box::new(BufReader::new(file)))
            }
            (None, Some(prompt)) if prompt == "-" => {
                ("standard input".into(), 0, Box::new(BufReader::new(io::stdin())))
            }
            (None, prompt) => {
                let words = prompt.clone().unwrap_or_default().into_bytes();
                ("--prompt".into(), 0, Box::new(io::Cursor::new(words)))
            }
        };
        let bar = (length > LONG).then(|| {
            let bar = context.progress(length, "bytes");
            bar.set_message("reading the prompt");
            bar
        });
        let mut pieces = model.tokenizer().pieces(reader, true);
        Ok(Box::new(std::iter::from_fn(move || {
            let ids = pieces.next();
            if let Some(bar) = &bar {
                match ids {
                    Some(_) => bar.set_position(pieces.bytes_read()),
                    None => bar.finish_and_clear(),
                }
            }
            ids.map(|ids| ids.map_err(|error| read_error(error, &name).without_tokenizer("with --ids")))
        })))
    }

    /// The option that was given, for messages.
    fn option(&self) -> &'static str {
        match (&self.ids, &self.prompt_file) {
            (Some(_), _) => "--ids",
            (_, Some(_)) => "--prompt-file",
            _ => "--prompt",
        }
    }
}

/// What cannot be read, with the name of the text.
pub fn read_error(error: ReadError, name: &Path) -> ProgramError {
    match error {
        ReadError::Io(error) => ProgramError::file("read", name)(error),
        ReadError::NotUtf8 { offset, byte } => {
            let found = format!("byte {byte:#04x} at position {offset}");
            ProgramError::content(name, "text in UTF-8", found)
        }
        ReadError::Tokenizer(error) => error.into(),
        unsplittable @ ReadError::Unsplittable { .. } => {
            ProgramError::Failed(format!("{}: {unsplittable}", name.display()))
        }
    }
}

/// The first ids of a file of text, at most `most` of them or a few more.
///
/// # Errors
/// As [`PromptArgs::read`]; [`ProgramError::Failed`] for a line of a file of JSON lines that has no text.
pub fn read_file(path: &Path, model: &Model, most: usize) -> Result<Vec<u32>, ProgramError> {
    let mut ids = Vec::new();
    for piece in model.tokenizer().pieces(open_text(path)?, false) {
        ids.extend(piece.map_err(|error| read_error(error, path))?);
        if ids.len() >= most {
            break;
        }
    }
    Ok(ids)
}

/// A file's text; of JSON lines, which begin with a brace, what they hold.
fn open_text(path: &Path) -> Result<Box<dyn BufRead>, ProgramError> {
    let file = File::open(path).map_err(ProgramError::file("read", path))?;
    let mut reader = BufReader::new(file);
    let start = reader.fill_buf().map_err(ProgramError::file("read", path))?;
    if !start.trim_ascii_start().starts_with(b"{") {
        return Ok(Box::new(reader));
    }
    let bytes = spillway_models::input::read_up_to(reader, spillway_models::input::MAX_TEXT);
    let bytes = bytes.map_err(ProgramError::file("read", path))?;
    let text = plain_text(path, bytes).map_err(|error| ProgramError::Failed(error.to_string()))?;
    Ok(Box::new(io::Cursor::new(text)))
}
