//! `spillway mitigations`: everything that `--mitigation` takes, from the table that the parser reads.

use crate::context::Context;
use crate::error::ProgramError;
use clap::Args;
use serde::Serialize;
use spillway_mitigations::registry::{forms, nearest};
use spillway_mitigations::{Form, Parameter};

/// Options of `spillway mitigations`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spillway mitigations
  spillway mitigations window state-norm
  spillway mitigations --json")]
pub struct MitigationsArgs {
    /// Names to show [default: all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// A mitigation of the catalogue, as `--json` prints it.
#[derive(Clone, Copy, Debug, Serialize)]
struct Entry {
    #[serde(flatten)]
    form: Form,
    /// Names of the commands that take the mitigation, with commas between them.
    commands: &'static str,
}

/// The JSON document that `spillway mitigations --json` prints.
#[derive(Debug, Serialize)]
struct Output {
    version: u32,
    mitigations: Vec<Entry>,
}

const EVERY: &str = "diagnose, compare, passkey, generate";

const PERIOD: &[Parameter] = &[Parameter::required("N", "period in tokens, at least 1")];
const FILE: &[Parameter] = &[Parameter::required("FILE", "the file")];

/// What the program takes beside what acts inside a layer.
fn of_the_program() -> [Entry; 5] {
    // None of them is parsed by its form.
    let form = spillway_mitigations::registry::FORMS[0];
    [
        Entry {
            form: Form {
                name: "none",
                syntax: "none",
                summary: "the model as it is",
                parameters: &[],
                works_on: "every model",
                calibrated: false,
                example: "none",
                ..form
            },
            commands: EVERY,
        },
        Entry {
            form: Form {
                name: "restart",
                syntax: "restart:N",
                summary: "start the whole model again every N tokens, caches and convolutions included: a baseline",
                parameters: PERIOD,
                works_on: "every model",
                calibrated: false,
                example: "restart:2048",
                ..form
            },
            commands: "diagnose, compare",
        },
        Entry {
            form: Form {
                name: "restart-attention",
                syntax: "restart-attention:N",
                summary: "let the attention layers start again every N tokens: does a hybrid fail in them or in its recurrences?",
                parameters: PERIOD,
                works_on: "models with attention layers",
                calibrated: false,
                example: "restart-attention:2048",
                ..form
            },
            commands: "diagnose, compare",
        },
        Entry {
            form: Form {
                name: "scales:fit",
                syntax: "scales:fit",
                summary: "MambaExtend: fit scales:S,S,.. on text that is not evaluated",
                parameters: &[],
                works_on: "models with a step size: Mamba-1, Mamba-2",
                calibrated: true,
                example: "scales:fit",
                ..form
            },
            commands: "compare",
        },
        Entry {
            form: Form {
                name: "@",
                syntax: "@FILE",
                summary: "a mitigation with its calibrated numbers, in a file that diagnose or compare has written",
                parameters: FILE,
                works_on: "the model that it was calibrated on",
                calibrated: false,
                example: "@spillway-diagnosis/state-norm-auto.json",
                ..form
            },
            commands: EVERY,
        },
    ]
}

/// Runs `spillway mitigations`.
///
/// # Errors
/// [`ProgramError::Usage`] for a name that there is not.
pub fn run(args: &MitigationsArgs, context: &Context) -> Result<(), ProgramError> {
    let [none, rest @ ..] = of_the_program();
    let inside = forms().into_iter().map(|form| Entry {
        form,
        commands: EVERY,
    });
    let all: Vec<Entry> = std::iter::once(none).chain(inside).chain(rest).collect();
    let mut shown = Vec::new();
    for name in &args.names {
        match all.iter().find(|entry| entry.form.name == name) {
            Some(entry) => shown.push(*entry),
            None => {
                let expected = match nearest(name) {
                    Some(form) => format!("a mitigation's name, perhaps {}", form.name),
                    None => "a mitigation's name".into(),
                };
                return Err(ProgramError::usage("NAME", expected, name));
            }
        }
    }
    let mitigations = if args.names.is_empty() { all } else { shown };
    if context.is_json() {
        return context.print_json(&Output {
            version: 1,
            mitigations,
        });
    }
    let mut lines: Vec<String> = mitigations.iter().map(described).collect();
    lines.push(
        "Chain them with +, in the order in which they act: rri:0.9999,0.75+window:8192. Those that take their numbers from \
         text are calibrated inside the training length: by diagnose, compare and passkey on what they read, by generate on \
         --calibrate FILE."
            .into(),
    );
    context.print_line(lines.join("\n\n"))
}

fn described(entry: &Entry) -> String {
    let form = &entry.form;
    let mut lines = vec![form.syntax.to_string(), format!("    {}", form.summary)];
    for parameter in form.parameters {
        let default = parameter
            .default
            .map_or(String::new(), |default| format!(" [default: {default}]"));
        lines.push(format!(
            "      {:<8} {}{default}",
            parameter.name, parameter.meaning
        ));
    }
    if form.calibrated && form.name != "scales:fit" {
        lines.push("    takes its numbers from text inside the training length".into());
    }
    lines.push(format!("    on {}", form.works_on));
    if entry.commands != EVERY {
        lines.push(format!("    in {} only", entry.commands));
    }
    lines.push(format!("    example: --mitigation {}", form.example));
    lines.join("\n")
}
