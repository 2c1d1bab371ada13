//! Where what a page shows comes from: program, day, command, machine, model; and what its mitigations are called.

use super::format::{count, counted, day};
use crate::machine::processor;
use crate::values::quoted;
use maud::{Markup, html};
use spillway_mitigations::registry::forms;
use spillway_models::Info;
use std::ffi::OsString;
use std::time::SystemTime;

/// Where something was made, when and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The command line, as a shell takes it.
    pub command: String,
    /// Day on which it was made, in UTC: `2026-01-31`.
    pub date: String,
    /// Name of the processor, and the number of its cores.
    pub machine: String,
    /// Level of the vector instructions in use; empty if it was not recorded.
    pub level: String,
    /// Number of threads that it was computed with.
    pub threads: usize,
    /// The model and its layout; empty for what has several or none.
    pub model: String,
}

impl Provenance {
    /// This process, on this day.
    pub fn here(threads: usize) -> Self {
        Self {
            command: command_line(std::env::args_os().skip(1)),
            date: today(),
            machine: machine(),
            level: spillway_kernel_dsl::simd::active().name().into(),
            threads,
            model: String::new(),
        }
    }

    /// This provenance, of something made with the model that `info` describes.
    pub fn of(self, info: &Info) -> Self {
        let model = format!(
            "{}: {}, {} parameters, {}; layout {}, by {}; weights in {}",
            info.name,
            info.architecture,
            count(info.parameters),
            counted(info.layers as u64, "layer"),
            info.layout,
            info.recognised_by,
            info.kept_as
        );
        Self { model, ..self }
    }

    /// Where a result comes from, on one line.
    pub fn line(&self) -> String {
        let level = if self.level.is_empty() { "" } else { ", " };
        format!(
            "spillway {} · {} · {}, {}{level}{}",
            env!("CARGO_PKG_VERSION"),
            self.date,
            self.machine,
            counted(self.threads as u64, "thread"),
            self.level
        )
    }

    /// The whole, for the foot of a page.
    pub fn table(&self) -> Markup {
        let threads = self.threads.to_string();
        let version = concat!("spillway ", env!("CARGO_PKG_VERSION"));
        let rows = [
            ("program", version),
            ("date", &self.date),
            ("machine", &self.machine),
            ("instructions", &self.level),
            ("threads", &threads),
            ("model", &self.model),
        ];
        html! {
            dl.made {
                @for (name, value) in rows.iter().filter(|row| !row.1.is_empty()) { dt { (name) } dd { (value) } }
                dt { "command" } dd { pre { (self.command) } }
            }
        }
    }
}

/// `spillway` with its arguments, quoted where a shell would take them apart.
pub fn command_line(arguments: impl Iterator<Item = OsString>) -> String {
    let quoted = |argument: OsString| quoted(&argument.to_string_lossy());
    let words: Vec<String> = std::iter::once("spillway".to_string())
        .chain(arguments.map(quoted))
        .collect();
    words.join(" ")
}

/// Name of this machine's processor, and the number of cores that this process may use.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let name = processor().name.unwrap_or_else(|| "unknown processor".into());
    format!("{name}, {}", counted(cores as u64, "core"))
}

/// The day at Greenwich: `2026-01-31`.
pub fn today() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    day(since.map_or(0, |since| since.as_secs()))
}

/// What is tried on a model and is no mitigation of the crate's: how it is written, and what it does.
const OTHERS: [(&str, &str, &str); 3] = [
    ("none", "none", "the model alone, without any mitigation"),
    (
        "restart",
        "restart:N",
        "starts the whole model again every N tokens, short convolutions and caches of attention layers included",
    ),
    (
        "restart-attention",
        "restart-attention:N",
        "lets the attention layers start again every N tokens and leaves the recurrences as they are",
    ),
];

/// How each part of these mitigations is written, and what it does, in the order in which they come.
pub fn glossary<'a>(specs: impl Iterator<Item = &'a str>) -> Vec<(&'static str, &'static str)> {
    let forms = forms()
        .into_iter()
        .map(|form| (form.name, form.syntax, form.summary));
    let known: Vec<(&str, &str, &str)> = OTHERS.into_iter().chain(forms).collect();
    let mut entries = Vec::new();
    for part in specs.flat_map(|spec| spec.split('+')) {
        let name = part.split(':').next().unwrap_or(part).trim();
        let entry = known
            .iter()
            .find(|form| form.0 == name)
            .map(|form| (form.1, form.2));
        if let Some(entry) = entry.filter(|entry| !entries.contains(entry)) {
            entries.push(entry);
        }
    }
    entries
}
