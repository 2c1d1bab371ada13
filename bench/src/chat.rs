//! `spillway chat`: a conversation, of which every turn reads only what is new.

use crate::context::Context;
use crate::error::ProgramError;
use crate::generation_args::{SamplingArgs, TreatmentArgs};
use crate::model_args::ModelArgs;
use crate::terminal::say;
use clap::Args;
use serde::Serialize;
use spillway_models::chat::{ChatError, ChatTemplate, Conversation, Message, TemplateError};
use spillway_models::generation::{Finish, Sampling};
use spillway_models::message::shown;
use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Options of `spillway chat`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spillway chat rwkv7-world
  spillway chat falcon-mamba-instruct --system 'Answer in one sentence.' --temperature 0.3
  printf 'Who are you?\\nAnd since when?\\n' | spillway chat qwen3.5 --json

A line is a message; one that ends in \\ goes on in the next. Ctrl-C stops an answer. Lines that begin with / are commands: /help
lists them.")]
pub struct ChatArgs {
    /// The model to converse with.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How messages become text: a file with a Jinja template, or the form rwkv, chatml or zephyr [default: the checkpoint's
    /// chat_template.jinja, or that in its tokenizer_config.json, or rwkv where it has RWKV's vocabulary]
    #[arg(long, value_name = "FILE|FORM")]
    pub template: Option<String>,
    /// The system's message, before all others [default: none]
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// A conversation that /save wrote, to go on with
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
    /// What acts on the states.
    #[command(flatten)]
    pub treatment: TreatmentArgs,
    /// An answer ends after this many tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// How tokens are drawn.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

const HELP: &str = "\
/save FILE    write the conversation: its state to FILE, its words to FILE.json
/load FILE    go on with one that /save wrote
/undo         take the last message and its answer back
/fork NAME    go on in a copy of this name; the conversation so far stays under its own
/switch NAME  go on with the conversation of this name (the first is called main)
/list         the conversations, and the messages of each
/system TEXT  set the system's message
/clear        forget all but the system's message
/quit         end, as the end of the input does";

/// The JSON document that `spillway chat --json` prints at the end.
#[derive(Serialize)]
struct Output<'a> {
    model: &'a str,
    messages: &'a [Message],
    turns: &'a [Turn],
}

/// What an answer cost.
#[derive(Serialize)]
struct Turn {
    prompt_tokens: usize,
    /// Tokens of the prompt that had to be read for the answer.
    read_tokens: usize,
    new_tokens: usize,
    finish: &'static str,
}

/// Runs `spillway chat`.
///
/// # Errors
/// [`ProgramError`] for a model, a template or an option that cannot be used. What goes wrong in a turn is said, and the conversation
/// goes on.
pub fn run(args: &ChatArgs, context: &Context) -> Result<(), ProgramError> {
    let sampling = args.sampling.sampling()?;
    let model = args.model.load()?;
    let template = template(args.template.as_deref(), &args.model)?;
    let chain = args.treatment.chain(&args.model, &model, context)?;
    let mut conversation = Conversation::new(&model, template, chain);
    if let Some(path) = &args.load {
        conversation.load(path)?;
    }
    if let Some(text) = &args.system {
        conversation.set_system(text);
    }
    let mut session = Session {
        current: "main".into(),
        others: BTreeMap::new(),
        conversation,
        sampling,
        max_tokens: usize::try_from(args.max_tokens).unwrap_or(usize::MAX),
        turns: Vec::new(),
        interrupt: Interrupt::listen()?,
        context,
    };
    let is_terminal = io::stdin().is_terminal();
    if is_terminal {
        context.remark(format_args!("{}; /help lists the commands", model.info().name));
    }
    session.take_lines(is_terminal)?;
    context.print_json(&Output {
        model: &model.info().name,
        messages: session.conversation.messages(),
        turns: &session.turns,
    })
}

/// The template of this name, in this file, or of the checkpoint.
///
/// # Errors
/// [`ProgramError`] where there is none, or where it cannot be read.
pub(crate) fn template(name: Option<&str>, model: &ModelArgs) -> Result<ChatTemplate, ProgramError> {
    let folder = model.checkpoint.as_deref().map(folder_of);
    match (name, folder) {
        (Some(name), folder) => match ChatTemplate::named(name) {
            Some(template) => Ok(template),
            None => Ok(ChatTemplate::from_file(Path::new(name), folder)?),
        },
        (None, Some(folder)) => Ok(ChatTemplate::of_checkpoint(folder)?),
        (None, None) => Err(ProgramError::usage(
            "--template",
            "a form or a file, since the model that comes with Spillway was not trained to converse",
            "neither",
        )),
    }
}

/// The folder in which a checkpoint lies.
fn folder_of(checkpoint: &Path) -> &Path {
    match checkpoint.is_file() {
        true => checkpoint.parent().unwrap_or(Path::new("")),
        false => checkpoint,
    }
}

/// Ctrl-C: stops an answer while there is one, else the program.
struct Interrupt {
    answering: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    fn listen() -> Result<Self, ProgramError> {
        let answering = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicBool::new(false));
        let (is_answering, ask) = (answering.clone(), asked.clone());
        let handler = move || {
            if !is_answering.load(Ordering::Relaxed) || ask.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        };
        ctrlc::set_handler(handler)
            .map_err(|error| ProgramError::Failed(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(Self { answering, asked })
    }

    fn begin(&self) {
        self.asked.store(false, Ordering::Relaxed);
        self.answering.store(true, Ordering::Relaxed);
    }

    fn end(&self) {
        self.answering.store(false, Ordering::Relaxed);
    }
}

/// Conversations by name, one of which goes on.
struct Session<'m> {
    current: String,
    others: BTreeMap<String, Conversation<'m>>,
    conversation: Conversation<'m>,
    sampling: Sampling,
    max_tokens: usize,
    turns: Vec<Turn>,
    interrupt: Interrupt,
    context: &'m Context,
}

impl Session<'_> {
    /// Takes lines to the end of the input, or /quit.
    fn take_lines(&mut self, is_terminal: bool) -> Result<(), ProgramError> {
        let mut said = String::new();
        let mut lines = io::stdin().lock().lines();
        loop {
            if is_terminal {
                self.context.print(if said.is_empty() { "> " } else { "… " })?;
            }
            let Some(line) = lines.next() else {
                break;
            };
            let line = line.map_err(|error| ProgramError::Failed(format!("standard input: {error}")))?;
            if let Some(begun) = line.strip_suffix('\\') {
                said.push_str(begun);
                said.push('\n');
                continue;
            }
            said.push_str(&line);
            let message = std::mem::take(&mut said);
            let message = message.trim();
            let outcome = match message.split_once(char::is_whitespace).unwrap_or((message, "")) {
                ("", _) => continue,
                ("/quit" | "/exit", _) => break,
                (command, rest) if command.starts_with('/') => self.command(command, rest.trim()),
                _ => self.say(message),
            };
            match outcome {
                Ok(()) => {}
                Err(error @ ProgramError::Stdout(_)) => return Err(error),
                Err(error) => say(format_args!("spillway: {}", shown(&error.to_string()))),
            }
        }
        Ok(())
    }

    fn say(&mut self, message: &str) -> Result<(), ProgramError> {
        let (context, asked) = (self.context, self.interrupt.asked.clone());
        let (mut trouble, mut begun) = (None, false);
        self.interrupt.begin();
        let reply = self
            .conversation
            .say(message, &self.sampling, self.max_tokens, |piece| {
                // The blank between the prompt and the first word belongs to neither.
                let piece = if begun { piece } else { piece.trim_start() };
                begun |= !piece.is_empty();
                if let Err(error) = context.print(piece) {
                    trouble = Some(error);
                }
                match trouble.is_some() || asked.load(Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
        self.interrupt.end();
        if let Some(error) = trouble {
            return Err(error);
        }
        let reply = reply?;
        context.print("\n")?;
        self.turns.push(Turn {
            prompt_tokens: reply.prompt_tokens,
            read_tokens: reply.read_tokens,
            new_tokens: reply.generated.ids.len(),
            finish: match reply.generated.finish {
                Finish::Length => "length",
                Finish::Stop(_) => "stop",
                Finish::End => "end",
                Finish::Cancelled => "cancelled",
            },
        });
        Ok(())
    }

    fn command(&mut self, command: &str, rest: &str) -> Result<(), ProgramError> {
        let name = |expected: &str| match rest {
            "" => Err(ProgramError::usage(command, expected, "nothing")),
            name => Ok(name.to_owned()),
        };
        match command {
            "/help" => self.context.print_line(HELP),
            "/save" => Ok(self.conversation.save(Path::new(&name("a file")?))?),
            "/load" => Ok(self
                .conversation
                .load(Path::new(&name("a file that /save wrote")?))?),
            "/undo" => Ok(self.conversation.undo()?),
            "/clear" => {
                self.conversation.clear();
                Ok(())
            }
            "/system" => {
                self.conversation.set_system(&name("a message")?);
                Ok(())
            }
            "/fork" => self.fork(name("a name")?),
            "/switch" => self.switch(name("a name that /list has")?),
            "/list" => self.list(),
            other => Err(ProgramError::usage(
                other,
                "a command that /help lists",
                "none of this name",
            )),
        }
    }

    fn fork(&mut self, name: String) -> Result<(), ProgramError> {
        if name == self.current || self.others.contains_key(&name) {
            return Err(ProgramError::usage(
                "/fork",
                "a name that /list does not have",
                name,
            ));
        }
        let left = std::mem::replace(&mut self.current, name);
        self.others.insert(left, self.conversation.clone());
        Ok(())
    }

    fn switch(&mut self, name: String) -> Result<(), ProgramError> {
        if name == self.current {
            return Ok(());
        }
        let Some(next) = self.others.remove(&name) else {
            return Err(ProgramError::usage("/switch", "a name that /list has", name));
        };
        let left = std::mem::replace(&mut self.conversation, next);
        let left_name = std::mem::replace(&mut self.current, name);
        self.others.insert(left_name, left);
        Ok(())
    }

    fn list(&self) -> Result<(), ProgramError> {
        let current = (&self.current, &self.conversation);
        let mut all: Vec<_> = self.others.iter().chain([current]).collect();
        all.sort_by_key(|(name, _)| *name);
        for (name, conversation) in all {
            let mark = if *name == self.current { "*" } else { " " };
            let messages = conversation.messages().len();
            self.context
                .print_line(format_args!("{mark} {name}: {messages} messages"))?;
        }
        Ok(())
    }
}

impl From<ChatError> for ProgramError {
    fn from(error: ChatError) -> Self {
        match error {
            ChatError::Model(error) => error.into(),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<TemplateError> for ProgramError {
    fn from(error: TemplateError) -> Self {
        match error {
            TemplateError::Absent { .. } => Self::usage("--template", "a chat template", error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}
