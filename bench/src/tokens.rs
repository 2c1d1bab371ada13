//! `spillway tokens`: texts as a file of tokens, to train from without tokenising again.

use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::format;
use clap::Args;
use indicatif::HumanCount;
use serde_json::json;
use spillway_models::Tokenizer;
use spillway_models::output::is_written_in_place;
use spillway_models::train::data::{
    DataError, TextConfig, Token, TokenHeader, TokenWriter, default_extensions,
};
use std::path::{Path, PathBuf};

/// Options of `spillway tokens`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file is read with kind = \"tokens\" in a training configuration, mapped and not loaded, so that it may be larger than the \
memory. Files of a folder are taken in the order of their paths.

Examples:
  spillway tokens bible.txt --out bible.tokens
  spillway tokens books/ --out books.tokens --tokenizer gpt-neox/tokenizer.json --end-of-text '<|endoftext|>'
  spillway tokens notes.txt --out notes.tokens --separator $'\\n\\n' --end-of-text 0")]
pub struct TokensArgs {
    /// Text files, and folders with everything below them
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// File to write, a new one; a device or a pipe is written to as it is
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// tokenizer.json or RWKV vocabulary [default: bytes, one token each]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Endings of the files that are read from folders; * for all
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_values_t = default_extensions())]
    pub extensions: Vec<String>,
    /// Text between the documents of a file, which the end of text replaces
    #[arg(long, value_name = "TEXT", requires = "end_of_text")]
    pub separator: Option<String>,
    /// Token to put after every document: its id, or the text that becomes it
    #[arg(long, value_name = "TOKEN")]
    pub end_of_text: Option<String>,
    /// Replace the file if there is one
    #[arg(long)]
    pub force: bool,
}

/// Runs `spillway tokens`.
///
/// # Errors
/// [`ProgramError::Usage`] for an output file that exists or is one of the inputs, [`ProgramError::Failed`] for a text that cannot
/// be read or a disk that is full; nothing half-written is left behind then.
pub fn run(args: &TokensArgs, context: &Context) -> Result<(), ProgramError> {
    let tokenizer = match &args.tokenizer {
        Some(path) => Tokenizer::from_file(path, usize::MAX)?,
        None => Tokenizer::bytes(),
    };
    let config = TextConfig {
        paths: args.inputs.clone(),
        extensions: args.extensions.clone(),
        separator: args.separator.clone(),
        end_of_text: args.end_of_text.as_deref().map(token),
        ..TextConfig::default()
    };
    let documents = config
        .documents(Path::new(""), &tokenizer)
        .map_err(program_error)?;
    check_out(args, documents.files())?;
    let bytes = documents.bytes().map_err(program_error)?;

    let bar = context.progress(bytes, "bytes");
    bar.set_message("tokenising");
    let write = || {
        let vocab_size = documents.vocab_size(&tokenizer);
        let mut writer = TokenWriter::create(&args.out, vocab_size, documents.end_of_text())?;
        let count = documents.encode(&tokenizer, &mut |ids| writer.push(ids), &mut |bytes| {
            bar.inc(bytes)
        })?;
        writer.finish(count)
    };
    let header = write();
    drop(bar);
    let header = header.map_err(program_error)?;
    context.print_json(&json!({
        "file": args.out.display().to_string(),
        "tokens": header.count,
        "documents": header.documents,
        "vocab_size": header.vocab_size,
        "end_of_text": header.end_of_text,
        "text_bytes": bytes,
        "file_bytes": header.bytes(),
    }))?;
    let summary = summary(args, header, bytes);
    match is_written_in_place(&args.out) {
        // It may be the tokens themselves that go to standard output.
        true => context.remark(summary),
        false => context.print_line(summary)?,
    }
    Ok(())
}

fn token(text: &str) -> Token {
    text.parse().map_or_else(|_| Token::Text(text.into()), Token::Id)
}

fn check_out(args: &TokensArgs, files: &[PathBuf]) -> Result<(), ProgramError> {
    if is_written_in_place(&args.out) {
        return Ok(());
    }
    let Ok(out) = args.out.canonicalize() else {
        return Ok(());
    };
    if files
        .iter()
        .any(|file| file.canonicalize().is_ok_and(|file| file == out))
    {
        let found = format!("{}, which is one of the inputs", args.out.display());
        return Err(ProgramError::usage("--out", "another file", found));
    }
    if !args.force {
        let found = format!("{}, which exists", args.out.display());
        return Err(ProgramError::usage(
            "--out",
            "a new file, or --force to replace it",
            found,
        ));
    }
    Ok(())
}

fn summary(args: &TokensArgs, header: TokenHeader, bytes: u64) -> String {
    let documents = match header.documents {
        1 => "1 document".to_string(),
        documents => format!("{} documents", HumanCount(documents)),
    };
    format!(
        "{} tokens of {documents}, {:.2} bytes of text each, from a vocabulary of {}, are in {}, {}",
        HumanCount(header.count),
        bytes as f64 / header.count.max(1) as f64,
        HumanCount(header.vocab_size as u64),
        args.out.display(),
        format::bytes(header.bytes())
    )
}

/// What the options are called on the command line.
fn program_error(error: DataError) -> ProgramError {
    match error {
        DataError::Option {
            option,
            expected,
            found,
        } => ProgramError::usage(format!("--{}", option.replace('_', "-")), expected, found),
        other => ProgramError::Failed(other.to_string()),
    }
}
