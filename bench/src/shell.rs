//! `spillway completions` and `spillway man`: what the command line says of itself, for shells and for `man`.

use crate::context::Context;
use crate::error::ProgramError;
use crate::output::{OutputFolder, OutputPlan};
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use std::path::PathBuf;

/// Options of `spillway completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spillway completions bash > ~/.local/share/bash-completion/completions/spillway
  spillway completions zsh > ~/.zfunc/_spillway
  spillway completions fish > ~/.config/fish/completions/spillway.fish")]
pub struct CompletionsArgs {
    /// Shell to write the completions for
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Options of `spillway man`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spillway man | man -l -
  spillway man --out ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Folder to write a page for the program and one for each command to [default: print the program's page]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Runs `spillway completions` for the command line `program`.
///
/// # Errors
/// [`ProgramError::Usage`] with `--json`, [`ProgramError::Stdout`].
pub fn completions(
    args: &CompletionsArgs,
    mut program: Command,
    context: &Context,
) -> Result<(), ProgramError> {
    expect_text(context)?;
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "spillway", &mut script);
    context.print(String::from_utf8_lossy(&script))
}

/// Runs `spillway man` for the command line `program`.
///
/// # Errors
/// [`ProgramError::Usage`] with `--json`, [`ProgramError::Stdout`], [`ProgramError::File`].
pub fn man(args: &ManArgs, mut program: Command, context: &Context) -> Result<(), ProgramError> {
    expect_text(context)?;
    program.build();
    let Some(folder) = &args.out else {
        return context.print(String::from_utf8_lossy(&page(&program)?));
    };
    let mut folder = OutputFolder::open(
        &OutputPlan {
            what: "manual pages",
            default: "man",
            named: Some(folder),
            // Pages of other programs may lie beside them.
            force: true,
            resume: false,
            own: &["spillway.1", "spillway-*.1"],
            marks: &[],
        },
        context,
    )?;
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set());
    for command in std::iter::once(&program).chain(commands) {
        let name = command.get_display_name().unwrap_or("spillway").replace(' ', "-");
        let page = page(command)?;
        folder.write(&format!("{name}.1"), |file| file.write_all(&page))?;
    }
    folder.keep();
    context.remark(format_args!("written to {}", folder.path().display()));
    Ok(())
}

fn page(command: &Command) -> Result<Vec<u8>, ProgramError> {
    let mut page = Vec::new();
    let drawn = Man::new(command.clone()).render(&mut page);
    drawn.map_err(|error| ProgramError::Internal(format!("man page: {error}")))?;
    Ok(page)
}

fn expect_text(context: &Context) -> Result<(), ProgramError> {
    match context.is_json() {
        true => Err(ProgramError::usage(
            "--json",
            "a command that has something to tell",
            "one that prints a file for others",
        )),
        false => Ok(()),
    }
}
