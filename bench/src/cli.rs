//! The command line: every subcommand and its help text.
//!
//! [`crate::shell`] makes completions and the manual page from it, and is itself a subcommand: the one cycle among the modules.

use crate::context::{Context, Printing};
use crate::error::ProgramError;
use crate::studies::{capacity, frontier, state_precision, train_compare, train_table};
use crate::{
    catalogue, chat, convert, diagnose, doctor, generate, init, inspect, leaderboard, passkey, pull, ranks,
    recall, shell, speed, ssm, tokens, train,
};
use clap::{CommandFactory, Parser, Subcommand};
use spillway_models::parallel::Communicator;
use std::path::PathBuf;
use std::sync::Arc;

/// Where does a recurrent language model collapse on long inputs, in which heads, why, what cures it, at what cost?
#[derive(Debug, Parser)]
#[command(
    name = "spillway",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "\
A CHECKPOINT is a folder with config.json and model.safetensors, or a .pth file, in a published layout; spillway init --list \
shows them, or hf:OWNER/NAME, its name on a hub of models (spillway pull). Without one, the small model that comes with Spillway is used.

Every command takes --json: it then prints one JSON document on standard output and nothing else there; commands that write a
folder name it and its files in it. Progress and remarks go to standard error, errors too, as one line. Exit codes: 0 done,
1 something failed, 2 the command line asks for something impossible. SPILLWAY_ISA=portable|avx2|... caps the instruction set
(spillway doctor lists those that there are).

In a build with MPI, mpirun -n N spillway shares capacity, compare, diagnose, frontier, passkey, recall, state-precision, train and
train-table out among N processes, to the results of one.

Start with:  spillway diagnose")]
pub struct Cli {
    /// The subcommand to run.
    #[command(subcommand)]
    pub command: Command,
    /// Threads to compute with [default: every available core]; bench takes a list
    #[arg(long, global = true, value_name = "N", value_delimiter = ',')]
    pub threads: Vec<usize>,
    /// Leave out progress bars and remarks
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Print one JSON document on standard output, and nothing else there, instead of text
    #[arg(long, global = true)]
    pub json: bool,
}

/// Subcommands of `spillway`, each with its options.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find out where a model collapses on long inputs, in which heads, and what cures it
    Diagnose(diagnose::DiagnoseArgs),
    /// Find out up to which length, and where in the text, a model still finds a five-digit passkey
    Passkey(passkey::PasskeyArgs),
    /// Find out whether models answer from a document, and what they gain by reading it twice
    Recall(recall::RecallArgs),
    /// Try every mitigation on one model, and rank them by the loss far beyond its training length
    Compare(leaderboard::CompareArgs),
    /// Train a model as a configuration says
    Train(train::TrainArgs),
    /// Hold trainings that differ in a few settings, and in their seeds, against each other
    TrainCompare(train_compare::TrainCompareArgs),
    /// Train a task under several models or initialisations, seed by seed, and set them beside each other
    TrainTable(train_table::TrainTableArgs),
    /// Train models of several state sizes at several lengths: how long until they forget, how far back do they recall?
    Capacity(capacity::CapacityArgs),
    /// Train models of several state sizes on a task of recall: accuracy against bytes of state and speed, and what mitigations cost of it
    Frontier(frontier::FrontierArgs),
    /// Store states in fewer bits: how far from the truth in f64 are weighted sums and delta rules, and for how long?
    StatePrecision(state_precision::StatePrecisionArgs),
    /// Show what a linear system hears and what its state remembers: HiPPO's measures, S4D's initialisations
    Ssm(ssm::SsmArgs),
    /// Continue a text
    Generate(generate::GenerateArgs),
    /// Converse with a model: every turn reads only what is new
    Chat(chat::ChatArgs),
    /// Answer requests over HTTP, in OpenAI's form
    #[cfg(feature = "serve")]
    Serve(crate::serve::ServeArgs),
    /// Answer requests over HTTP, in OpenAI's form (this program was built without it)
    #[cfg(not(feature = "serve"))]
    Serve(Anything),
    /// Fetch a checkpoint by its name on a hub of models
    Pull(pull::PullArgs),
    /// Show a checkpoint's architecture, layout, sizes, and cost per token
    Inspect(inspect::InspectArgs),
    /// Write a checkpoint of random weights in a published layout, for benchmarks
    Init(init::InitArgs),
    /// Write any checkpoint, .pth files included, as a folder of safetensors
    Convert(convert::ConvertArgs),
    /// Write texts as a file of tokens, to train from
    Tokens(tokens::TokensArgs),
    /// List every mitigation: what it does, its parameters, the models it works on, an example
    Mitigations(catalogue::MitigationsArgs),
    /// Show what this machine has, what of it is used, and why not the rest
    Doctor(doctor::DoctorArgs),
    /// Print the completions of a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page
    Man(shell::ManArgs),
    /// Measure prefill and decode speed, memory and load time
    Bench(speed::BenchArgs),
    /// Measure one configuration and print it as JSON
    #[command(hide = true)]
    BenchOne(speed::child::BenchOneArgs),
}

/// Arguments that nobody reads.
#[cfg(not(feature = "serve"))]
#[derive(Debug, clap::Args)]
pub struct Anything {
    /// Arguments behind the subcommand's name, whatever they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<String>,
}

impl Cli {
    /// Runs the chosen subcommand.
    ///
    /// # Errors
    /// Whatever stops it.
    pub fn run(mut self) -> Result<(), ProgramError> {
        doctor::check_instructions()?;
        let joined = ranks::Joined::join(self.command.ranks())?;
        let result = self.run_on(joined.ranks());
        joined.leave(result)
    }

    fn run_on(&mut self, ranks: Option<Arc<dyn Communicator>>) -> Result<(), ProgramError> {
        let context = match (&self.command, self.threads.as_slice()) {
            // It measures in processes of its own, one for each count.
            (Command::Bench(_), _) | (_, []) => Context::new(None, self.output())?,
            (_, [threads]) => Context::new(Some(*threads), self.output())?,
            (_, several) => {
                let found = several.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
                return Err(ProgramError::usage(
                    "--threads",
                    "one number (only bench takes a list)",
                    found,
                ));
            }
        };
        let context = context.on(ranks);
        pull::resolve(self.command.checkpoints(), &context)?;
        // On a thread of the pool, or every kernel would hand its work over to one and wait, some 10 µs each time.
        rayon::scope(|_| self.run_in(&context))
    }

    fn output(&self) -> Printing {
        Printing {
            quiet: self.quiet,
            json: self.json,
        }
    }

    fn run_in(&self, context: &Context) -> Result<(), ProgramError> {
        match &self.command {
            Command::Diagnose(args) => diagnose::run(args, context),
            Command::Passkey(args) => passkey::run(args, context),
            Command::Recall(args) => recall::run(args, context),
            Command::Compare(args) => leaderboard::run(args, context),
            Command::Train(args) => train::run(args, &self.threads, context),
            Command::TrainCompare(args) => train_compare::run(args, context),
            Command::TrainTable(args) => train_table::run(args, context),
            Command::Capacity(args) => capacity::run(args, context),
            Command::Frontier(args) => frontier::run(args, context),
            Command::StatePrecision(args) => state_precision::run(args, context),
            Command::Ssm(args) => ssm::run(args, context),
            Command::Generate(args) => generate::run(args, context),
            Command::Chat(args) => chat::run(args, context),
            #[cfg(feature = "serve")]
            Command::Serve(args) => crate::serve::run(args, context),
            #[cfg(not(feature = "serve"))]
            Command::Serve(_) => Err(ProgramError::usage(
                "serve",
                "a program that was built with it: cargo install --path bench --features serve",
                "this one",
            )),
            Command::Pull(args) => pull::run(args, context),
            Command::Inspect(args) => inspect::run(args, context),
            Command::Init(args) => init::run(args, context),
            Command::Convert(args) => convert::run(args, context),
            Command::Tokens(args) => tokens::run(args, context),
            Command::Doctor(args) => doctor::run(args, context),
            Command::Completions(args) => shell::completions(args, Cli::command(), context),
            Command::Man(args) => shell::man(args, Cli::command(), context),
            Command::Mitigations(args) => catalogue::run(args, context),
            Command::Bench(args) => speed::run(args, &self.threads, context),
            Command::BenchOne(args) => speed::child::run(args, context),
        }
    }
}

impl Command {
    /// What the command does with several ranks.
    fn ranks(&self) -> ranks::Use {
        match self {
            Self::Capacity(_)
            | Self::Compare(_)
            | Self::Diagnose(_)
            | Self::Frontier(_)
            | Self::Passkey(_)
            | Self::Recall(_)
            | Self::StatePrecision(_)
            | Self::Train(_)
            | Self::TrainTable(_) => ranks::Use::Together,
            _ => ranks::Use::Alone,
        }
    }

    /// The checkpoints that are named.
    fn checkpoints(&mut self) -> Vec<&mut PathBuf> {
        let one = match self {
            Self::Diagnose(args) => &mut args.model.checkpoint,
            Self::Passkey(args) => &mut args.model.checkpoint,
            Self::Compare(args) => &mut args.model.checkpoint,
            Self::Chat(args) => &mut args.model.checkpoint,
            #[cfg(feature = "serve")]
            Self::Serve(args) => &mut args.model.checkpoint,
            Self::Inspect(args) => &mut args.model.checkpoint,
            Self::Bench(args) => &mut args.checkpoint,
            Self::BenchOne(args) => &mut args.model.checkpoint,
            Self::Generate(args) => {
                let drafts = args.speculation.draft.iter_mut();
                return args.model.checkpoint.iter_mut().chain(drafts).collect();
            }
            Self::Recall(args) => return args.models.checkpoints.iter_mut().collect(),
            Self::Convert(args) => return vec![&mut args.model],
            _ => return Vec::new(),
        };
        one.iter_mut().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::any::TypeId;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// What numbers are counted in, or what they are where they have no unit.
    const UNITS: [&str; 20] = [
        "token",
        "step",
        "mib",
        "seed",
        "factor",
        "divided by",
        "likeliest",
        "thread",
        "place",
        "prompt",
        "rows",
        "repetition",
        "in training lengths",
        "second",
        "probabilit",
        "share",
        "length",
        "layer",
        "megabyte",
        "nats",
    ];

    #[test]
    fn every_number_says_its_unit_and_what_holds_without_it() {
        let types = [
            TypeId::of::<u64>(),
            TypeId::of::<u32>(),
            TypeId::of::<u16>(),
            TypeId::of::<usize>(),
            TypeId::of::<f32>(),
            TypeId::of::<f64>(),
            TypeId::of::<crate::passkey::lengths::Lengths>(),
        ];
        let program = Cli::command();
        let mut numbers = 0;
        for command in program
            .get_subcommands()
            .chain([&program])
            .filter(|command| !command.is_hide_set())
        {
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let parsed_as = argument.get_value_parser().type_id();
                if !types.iter().any(|number| parsed_as == *number) {
                    continue;
                }
                numbers += 1;
                let help = argument
                    .get_help()
                    .map(ToString::to_string)
                    .unwrap_or_default()
                    .to_lowercase();
                let name = format!("{} --{}", command.get_name(), argument.get_id());
                let says = help.contains("[default") || !argument.get_default_values().is_empty();
                assert!(
                    says || argument.is_required_set(),
                    "{name} does not say what holds without it: {help}"
                );
                assert!(
                    UNITS.iter().any(|unit| help.contains(unit)),
                    "{name} does not say its unit: {help}"
                );
            }
        }
        assert!(numbers > 25, "{numbers}");
    }
}
