//! How a conversation becomes text: chat templates.
//!
//! A published checkpoint brings a Jinja template, in `chat_template.jinja` or in `tokenizer_config.json`. It is rendered as transformers
//! renders it: lines of statements leave no line behind, and Python's methods on texts and lists exist.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::Local;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use thiserror::Error;

use crate::input;

/// The longest file of a template that is read.
const MAX_BYTES: u64 = 16 << 20;
/// Steps of a template after which it counts as endless.
const MOST_STEPS: u64 = 50_000_000;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// Text of the message.
    pub content: String,
}

impl Message {
    /// A message with the text `content`, spoken by `role`.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// Why a conversation cannot become text.
#[derive(Debug, Error)]
pub enum TemplateError {
    /// A file cannot be read.
    #[error("{}: {reason}", path.display())]
    File {
        /// Path of the file that cannot be read.
        path: PathBuf,
        /// Why the file cannot be read, in words.
        reason: String,
    },
    /// The checkpoint has no template.
    #[error(
        "{}: no chat_template.jinja, and no chat_template in tokenizer_config.json; name a form ({NAMES}) or a file of a template",
        folder.display()
    )]
    Absent {
        /// Folder of the checkpoint that has no template.
        folder: PathBuf,
    },
    /// The template does not accept this conversation, or is no template.
    #[error("{source_name}: {reason}")]
    Template {
        /// Where the template is from.
        source_name: String,
        /// The reason, where it names one in its own words.
        reason: String,
    },
}

/// A template, and what it is told about the model.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    /// Where the template is from, for errors.
    source_name: String,
    text: String,
    bos_token: String,
    eos_token: String,
    /// Texts that end an answer beside the model's own ends.
    stop: Vec<String>,
}

/// A form that is known by name.
struct KnownTemplate {
    name: &'static str,
    text: &'static str,
    stop: &'static [&'static str],
}

/// The names of the forms, for help texts.
pub const NAMES: &str = "rwkv, chatml or zephyr";

const FORMS: [KnownTemplate; 3] = [
    // RWKV's World models. A blank line ends a message, so that there is none within one.
    KnownTemplate {
        name: "rwkv",
        text: "{% for message in messages %}{{ message.role | title }}: {{ message.content | trim | replace('\\n\\n', '\\n') | replace('\\n\\n', '\\n') }}\n\n\
               {% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}",
        stop: &["\n\nUser:", "\n\nSystem:"],
    },
    KnownTemplate {
        name: "chatml",
        text: "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\
               {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        stop: &["<|im_end|>"],
    },
    // mamba-chat.
    KnownTemplate {
        name: "zephyr",
        text: "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}\n{% endfor %}\
               {% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        stop: &["<|user|>", "<|system|>"],
    },
];

impl ChatTemplate {
    /// The template of a checkpoint's folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`, else RWKV's form
    /// where there is RWKV's vocabulary.
    ///
    /// # Errors
    /// [`TemplateError::Absent`] where there is none, [`TemplateError::File`] for a file that cannot be read.
    pub fn of_checkpoint(folder: &Path) -> Result<Self, TemplateError> {
        let config_path = folder.join("tokenizer_config.json");
        let config = match config_path.exists() {
            true => parse(&config_path)?,
            false => Value::Null,
        };
        let jinja = folder.join("chat_template.jinja");
        let found = match jinja.exists() {
            true => Some((read(&jinja)?, jinja.display().to_string())),
            false => in_config(&config).map(|text| (text, config_path.display().to_string())),
        };
        match found {
            Some((text, source_name)) => Ok(Self::new(text, source_name).told(&config)),
            None if has_rwkv_vocabulary(folder) => Self::named("rwkv").ok_or_else(|| absent(folder)),
            None => Err(absent(folder)),
        }
    }

    /// A form by its name, [`NAMES`].
    pub fn named(name: &str) -> Option<Self> {
        let form = FORMS.iter().find(|form| form.name == name)?;
        Some(Self {
            stop: form.stop.iter().map(|stop| (*stop).to_owned()).collect(),
            eos_token: "<|endoftext|>".into(),
            ..Self::new(form.text.into(), format!("the form {name}"))
        })
    }

    /// A template in a file, told of the special tokens of the checkpoint in `folder`, where it has any.
    ///
    /// # Errors
    /// [`TemplateError::File`].
    pub fn from_file(path: &Path, folder: Option<&Path>) -> Result<Self, TemplateError> {
        let template = Self::new(read(path)?, path.display().to_string());
        match folder.map(|folder| folder.join("tokenizer_config.json")) {
            Some(config) if config.exists() => Ok(template.told(&parse(&config)?)),
            _ => Ok(template),
        }
    }

    /// A template, and where it is from.
    pub fn new(text: String, source_name: String) -> Self {
        Self {
            source_name,
            text,
            bos_token: String::new(),
            eos_token: String::new(),
            stop: Vec::new(),
        }
    }

    /// With the first and last token of a text, as `tokenizer_config.json` has them: a text, or an object with a `content`.
    fn told(mut self, config: &Value) -> Self {
        let token = |name: &str| {
            let token = &config[name];
            let text = token.as_str().or_else(|| token["content"].as_str());
            text.unwrap_or_default().to_owned()
        };
        self.bos_token = token("bos_token");
        self.eos_token = token("eos_token");
        self
    }

    /// Texts that end an answer, beside the model's own ends.
    pub fn stop(&self) -> &[String] {
        &self.stop
    }

    /// The text of a conversation; `asking` for one whose next words are the assistant's.
    ///
    /// # Errors
    /// [`TemplateError::Template`] with the template's own words where it refuses the conversation.
    pub fn render(&self, messages: &[Message], asking: bool) -> Result<String, TemplateError> {
        let refused = |error: minijinja::Error| TemplateError::Template {
            source_name: self.source_name.clone(),
            reason: match error.detail() {
                Some(detail) => detail.to_owned(),
                None => error.to_string(),
            },
        };
        let mut syntax = SyntaxConfig::builder();
        let syntax = syntax
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(refused)?;
        let mut environment = Environment::new();
        environment.set_syntax(syntax);
        environment.set_fuel(Some(MOST_STEPS));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |reason: String| -> Result<String, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
            },
        );
        environment.add_function("strftime_now", now);
        environment.add_filter("tojson", to_json);
        let values = context! {
            messages => minijinja::value::Serde(messages),
            add_generation_prompt => asking,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
        };
        let rendered = environment
            .template_from_str(&self.text)
            .and_then(|template| template.render(values));
        rendered.map_err(refused)
    }
}

/// The time here, as a format of strftime says.
fn now(format: &str) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    write!(text, "{}", Local::now().format(format)).map_err(|_| {
        let reason = format!("strftime_now: {format:?} is no format of a time");
        minijinja::Error::new(ErrorKind::InvalidOperation, reason)
    })?;
    Ok(text)
}

/// As Python's json.dumps writes it, with blanks after separators and letters beyond ASCII as they are, where Jinja's own would escape
/// HTML; fields in the order in which they came.
fn to_json(value: minijinja::Value, options: Kwargs) -> Result<minijinja::Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut bytes = Vec::new();
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, InOneLine)),
        Some(width) => {
            let blanks = vec![b' '; width];
            let formatter = PrettyFormatter::with_indent(&blanks);
            value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        }
    };
    written.map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(minijinja::Value::from_safe_string(text))
}

/// `{"a": 1, "b": [2, 3]}`.
struct InOneLine;

impl Formatter for InOneLine {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

fn separate<W: ?Sized + io::Write>(writer: &mut W, first: bool) -> io::Result<()> {
    match first {
        true => Ok(()),
        false => writer.write_all(b", "),
    }
}

/// `chat_template` of a configuration: a text, or a list of named ones of which one is the default.
fn in_config(config: &Value) -> Option<String> {
    match &config["chat_template"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(named) => {
            let default = named.iter().find(|template| template["name"] == "default")?;
            default["template"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

fn has_rwkv_vocabulary(folder: &Path) -> bool {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.any(|name| crate::tokenizer::is_rwkv_vocabulary(&name))
}

fn absent(folder: &Path) -> TemplateError {
    TemplateError::Absent {
        folder: folder.to_path_buf(),
    }
}

fn read(path: &Path) -> Result<String, TemplateError> {
    input::read_text(path, MAX_BYTES).map_err(|error| TemplateError::File {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}

fn parse(path: &Path) -> Result<Value, TemplateError> {
    serde_json::from_str(&read(path)?).map_err(|error| TemplateError::File {
        path: path.to_path_buf(),
        reason: format!("not JSON: {error}"),
    })
}
