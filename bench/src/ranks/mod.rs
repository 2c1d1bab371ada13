//! `mpirun -n N spillway …`: several processes for one command.
//!
//! | module | what is in it |
//! |---|---|
//! | `mod.rs` | joining and leaving; what the ranks of a command must have in common |
//! | [`share_out`](mod@share_out) | many pieces of work, handed out to whoever is free |
//! | [`queue`] | which of them is next |
//!
//! Rank 0 has the output folder, and prints; the others are silent unless they fail. All of them see the same files.

pub mod queue;
pub mod share_out;

use crate::context::Context;
use crate::error::ProgramError;
#[cfg(feature = "mpi")]
use crate::terminal::say;
#[cfg(feature = "mpi")]
use spillway_models::message::shown;
use spillway_models::parallel::collectives::{agree, broadcast};
use spillway_models::parallel::{Communicator, launch};
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "mpi")]
use std::time::Duration;

/// Time in which the words of a rank that has failed reach the others, before the launcher ends them.
#[cfg(feature = "mpi")]
const LAST_WORDS: Duration = Duration::from_secs(1);

#[cfg(feature = "mpi")]
const TIMEOUT: &str = "SPILLWAY_RANK_TIMEOUT";
#[cfg(feature = "mpi")]
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The subcommands that share their work, as an error names them.
const SHARING: &str = "one of capacity, compare, diagnose, frontier, passkey, recall, state-precision, train and train-table; every \
                       other command runs in one process";

/// What a command can do with several ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nothing: the command runs in one process.
    Alone,
    /// They share its work.
    Together,
}

/// The ranks of this process.
#[derive(Debug, Default)]
pub struct Joined {
    #[cfg(feature = "mpi")]
    mpi: Option<Arc<spillway_models::parallel::mpi::Mpi>>,
}

impl Joined {
    /// Joins the ranks that a launcher has started this process with, if it has. One that gives no sign of life for
    /// `SPILLWAY_RANK_TIMEOUT` seconds, 30 unless set, counts as lost.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for a command that runs in one process, and for a program that was built without MPI.
    pub fn join(with: Use) -> Result<Self, ProgramError> {
        let size = launch::size();
        match (size, with) {
            (1, _) => Ok(Self::default()),
            (_, Use::Together) => Self::several(size),
            (_, Use::Alone) => Err(ProgramError::usage(
                "mpirun",
                SHARING,
                format!("{size} processes"),
            )),
        }
    }

    #[cfg(feature = "mpi")]
    fn several(_: usize) -> Result<Self, ProgramError> {
        let mpi = spillway_models::parallel::mpi::Mpi::join(timeout()?)?;
        Ok(Self {
            mpi: Some(Arc::new(mpi)),
        })
    }

    #[cfg(not(feature = "mpi"))]
    fn several(size: usize) -> Result<Self, ProgramError> {
        Err(ProgramError::usage(
            "mpirun",
            "a program built with MPI (cargo build --release -p spillway --features mpi), or one process",
            format!("{size} processes of one built without"),
        ))
    }

    /// The ranks, where there are several.
    pub fn ranks(&self) -> Option<Arc<dyn Communicator>> {
        #[cfg(feature = "mpi")]
        return self.mpi.clone().map(|mpi| mpi as Arc<dyn Communicator>);
        #[cfg(not(feature = "mpi"))]
        None
    }

    /// Leaves the others when all are done. After an error it tells them, says it, and ends this process without coming back: the launcher then
    /// ends the others.
    ///
    /// # Errors
    /// `result`'s, in a process by itself.
    pub fn leave(self, result: Result<(), ProgramError>) -> Result<(), ProgramError> {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = self.mpi {
            let result = match result.and_then(|()| Ok(mpi.leave()?)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match result.is_of_another_rank() {
                false => mpi.fail(&result.to_string()),
                // After the cause.
                true => std::thread::sleep(LAST_WORDS / 4),
            }
            say(format_args!("spillway: {}", shown(&result.to_string())));
            std::thread::sleep(LAST_WORDS);
            std::process::exit(i32::from(result.exit_code()));
        }
        result
    }
}

/// How long a rank may be silent before it counts as lost.
#[cfg(feature = "mpi")]
fn timeout() -> Result<Duration, ProgramError> {
    let Ok(text) = std::env::var(TIMEOUT) else {
        return Ok(DEFAULT_TIMEOUT);
    };
    let seconds = text
        .parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|seconds| !seconds.is_zero()).ok_or_else(|| {
        ProgramError::BadVariable(format!(
            "{TIMEOUT}: expected a number of seconds above 0, found {text:?}"
        ))
    })
}

/// What all ranks of a command must have in common, part by part under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(Vec<(String, String)>);

impl Identity {
    /// Of a configuration that is too long to be shown in an error: its hash stands for it.
    pub fn of_configuration(text: &str) -> Self {
        let hash = spillway_models::train::config_hash(text);
        Self(vec![("hash of the configuration".into(), hash)])
    }

    /// Of the subcommand `command` and what decides its results.
    pub fn of_parts<'a>(command: &str, parts: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let parts = parts.into_iter().map(|(name, value)| (name.to_string(), value));
        let command = ("subcommand".to_string(), command.to_string());
        Self(std::iter::once(command).chain(parts).collect())
    }

    /// This and one part more.
    #[must_use]
    pub fn and(mut self, name: &str, value: String) -> Self {
        self.0.push((name.into(), value));
        self
    }

    /// Every rank calls this with its own.
    fn agree(&self, ranks: &dyn Communicator) -> Result<(), ProgramError> {
        agree(ranks, "version of the program", env!("CARGO_PKG_VERSION"))?;
        // Ranks of different subcommands differ in the first part already.
        for (name, value) in &self.0 {
            agree(ranks, name, value)?;
        }
        Ok(())
    }
}

/// On rank 0, and in one process: the folder that is worked in, for [`follow`] on the other ranks. To be called before anything is
/// written.
///
/// # Errors
/// [`ProgramError::Parallel`] for ranks that were started otherwise.
pub fn lead(context: &Context, identity: &Identity, folder: &Path) -> Result<(), ProgramError> {
    let Some(ranks) = context.ranks() else {
        return Ok(());
    };
    identity.agree(ranks)?;
    let folder = std::path::absolute(folder).map_err(ProgramError::file("find", folder))?;
    broadcast(ranks, 0, folder.into_os_string().into_encoded_bytes())?;
    Ok(())
}

/// On every other rank: the folder of rank 0; `None` on rank 0 and in one process.
///
/// # Errors
/// [`ProgramError::Parallel`] for ranks that were started otherwise, [`ProgramError::Usage`] for a folder that this rank
/// does not see.
pub fn follow(context: &Context, identity: &Identity) -> Result<Option<PathBuf>, ProgramError> {
    let Some(ranks) = context.ranks().filter(|ranks| ranks.rank() > 0) else {
        return Ok(None);
    };
    identity.agree(ranks)?;
    let bytes = broadcast(ranks, 0, Vec::new())?;
    let folder = PathBuf::from(String::from_utf8_lossy(&bytes).into_owned());
    match folder.is_dir() {
        true => Ok(Some(folder)),
        false => Err(ProgramError::usage(
            "--out",
            "a folder that every rank sees, on a file system that all machines share",
            format!("{}, which rank {} does not see", folder.display(), ranks.rank()),
        )),
    }
}
