//! Checkpoints by the names that they have on a hub of models: `OWNER/NAME`.
//!
//! | file | what is in it |
//! |---|---|
//! | `reference.rs` | [`Reference`]: `hf:OWNER/NAME@REVISION:FILE` |
//! | `settings.rs` | [`Settings`]: endpoint, cache, token and whether to stay offline, out of the environment |
//! | `selection.rs` | which files of a repository are read here |
//! | `cache.rs` | the folder of what has been fetched, laid out as Hugging Face's own tools do |
//! | `store.rs` | what is put there (feature `hub`) |
//! | `client.rs` | HTTP: redirects, tokens, what is known of a file (feature `hub`) |
//! | `transfer.rs` | a file fetched, from where an earlier attempt stopped, and checked (feature `hub`) |
//! | `pulling.rs` | a repository brought up to date (feature `hub`) |
//!
//! The cache is the one that `huggingface_hub` and what is built on it use: what one of them has fetched is there for all. A file is kept
//! once, under the hash that the hub names it by, and a revision is a folder of links:
//!
//! ```text
//! models--OWNER--NAME/refs/main                              the commit that a branch or tag is at
//!                     snapshots/COMMIT/config.json           -> ../../blobs/HASH
//!                     blobs/HASH                             whole, and checked
//!                     blobs/HASH.incomplete                  as much as has come
//! ```
//!
//! A file is named by the SHA-256 of its contents if it is large, else by the SHA-1 that git gives it, and its contents are held against
//! that name before it gets it. Where a server names files otherwise only their size is checked.

mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod pulling;
mod reference;
mod selection;
mod settings;
#[cfg(feature = "hub")]
mod store;
#[cfg(feature = "hub")]
mod transfer;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub(crate) use cache::name_of;
#[cfg(feature = "hub")]
use pulling::bring;
pub use reference::{PREFIX, Reference};
pub use settings::{Settings, Token};

/// A checkpoint that lies in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// What [`crate::Model::load`] takes: the folder of the revision, or the file that was named in it.
    pub path: PathBuf,
    /// The revision, as the hash of a commit.
    pub commit: String,
    /// Files of the checkpoint that are read here.
    pub files: Vec<PulledFile>,
}

/// One file of a checkpoint that was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledFile {
    /// Name of the file in the repository.
    pub name: String,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// How many of the file's bytes had to be fetched.
    pub fetched: u64,
}

/// Where a checkpoint lies that is in the cache, as of when it was fetched last. Nothing is asked of the hub.
///
/// # Errors
/// [`HubError::NotCached`] where it is not there, or not all of it; [`HubError::Io`].
pub fn find(settings: &Settings, reference: &Reference) -> Result<Pulled, HubError> {
    cache::Repository::new(settings, reference).find(reference)
}

/// Tells how far a file has come: its name, bytes that are there, bytes that it has.
pub type OnProgress<'a> = dyn FnMut(&str, u64, u64) + 'a;

/// As [`find`]; what is not there is fetched by [`pull`].
///
/// # Errors
/// As [`pull`].
pub fn resolve(
    settings: &Settings,
    reference: &Reference,
    on_progress: &mut OnProgress<'_>,
) -> Result<Pulled, HubError> {
    match find(settings, reference) {
        Err(HubError::NotCached { .. }) => pull(settings, reference, on_progress),
        found => found,
    }
}

/// Brings a checkpoint into the cache: the files that are read here, as the revision has them now. What is there already is not
/// fetched again, and a file that came in part goes on from there. It can be found ([`find`]) when all of it is there.
///
/// Where nothing may be fetched ([`Settings::offline`]), or this was built without the feature `hub`, it is what the cache has.
///
/// # Errors
/// Any [`HubError`] but [`HubError::NotCached`], in whose place [`HubError::Offline`] and [`HubError::NotBuilt`] say why it is not
/// fetched; what has come so far stays for the next attempt.
pub fn pull(
    settings: &Settings,
    reference: &Reference,
    on_progress: &mut OnProgress<'_>,
) -> Result<Pulled, HubError> {
    if !settings.offline {
        return bring(settings, reference, on_progress);
    }
    find(settings, reference).map_err(|error| match error {
        HubError::NotCached {
            repository,
            folder,
            missing,
        } => HubError::Offline {
            repository,
            folder,
            missing,
        },
        other => other,
    })
}

#[cfg(not(feature = "hub"))]
fn bring(settings: &Settings, reference: &Reference, _: &mut OnProgress<'_>) -> Result<Pulled, HubError> {
    find(settings, reference).map_err(|error| match error {
        HubError::NotCached {
            repository,
            folder,
            missing,
        } => HubError::NotBuilt {
            repository,
            folder,
            missing,
        },
        other => other,
    })
}

/// Why a checkpoint cannot be had by its name on the hub.
#[derive(Debug, Error)]
pub enum HubError {
    /// What was given is not the name of a repository.
    #[error("expected OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME:FILE, found {found:?}")]
    Reference {
        /// The text that was given as a name.
        found: String,
    },
    /// Nothing says where the cache is.
    #[error("no folder for a cache: expected HF_HUB_CACHE, HF_HOME or HOME to name one")]
    NoCache,
    /// The cache does not have it.
    #[error("{repository}: not in {}: no {missing} there", folder.display())]
    NotCached {
        /// Repository on the hub that was asked for, as OWNER/NAME.
        repository: String,
        /// Folder of the repository in the cache.
        folder: PathBuf,
        /// What of it is missing.
        missing: String,
    },
    /// The cache does not have it, and nothing may be fetched.
    #[error("{repository}: HF_HUB_OFFLINE is set, and {} has no {missing}", folder.display())]
    Offline {
        /// Repository on the hub that was asked for, as OWNER/NAME.
        repository: String,
        /// Folder of the repository in the cache.
        folder: PathBuf,
        /// What of it is missing.
        missing: String,
    },
    /// The cache does not have it, and this was built without what fetches.
    #[error(
        "{repository}: {} has no {missing}, and this program was built without what fetches it; build it with: cargo install --path \
         bench --features hub",
        folder.display()
    )]
    NotBuilt {
        /// Repository on the hub that was asked for, as OWNER/NAME.
        repository: String,
        /// Folder of the repository in the cache.
        folder: PathBuf,
        /// What of it is missing.
        missing: String,
    },
    /// The hub wants to know who asks, or knows and refuses.
    #[error("{url}: status {status}: {}", advice(*had_token))]
    Unauthorized {
        /// Address that was asked for.
        url: String,
        /// HTTP status of the answer: 401 or 403.
        status: u16,
        /// Whether a token was sent.
        had_token: bool,
    },
    /// The hub has no such thing.
    #[error(
        "{url}: status 404: there is no such repository, revision or file, or it is not to be seen without a token (HF_TOKEN)"
    )]
    NotFound {
        /// Address that was asked for.
        url: String,
    },
    /// An answer of another HTTP status: no success, and neither 401, 403 nor 404.
    #[error("{url}: expected status 200, found {status}")]
    Status {
        /// Address that was asked for.
        url: String,
        /// HTTP status of the answer.
        status: u16,
    },
    /// An answer that makes no sense.
    #[error("{url}: expected {expected}, found {found}")]
    Answer {
        /// Address that was asked for.
        url: String,
        /// What an answer has.
        expected: &'static str,
        /// What the answer had in its place.
        found: String,
    },
    /// No connection, or one that broke again and again. What has come so far is kept.
    #[error("{url}: {reason}")]
    Connection {
        /// Address that was asked for.
        url: String,
        /// Why the connection failed, in words.
        reason: String,
    },
    /// A file came whole and is another one.
    #[error("{url}: expected contents of hash {expected}, found {found}; what came has been removed")]
    Checksum {
        /// Address that was asked for.
        url: String,
        /// The hash that the hub names it by.
        expected: String,
        /// Hash of the contents that came.
        found: String,
    },
    /// A repository without weights that are read here.
    #[error("{repository}: expected weights in safetensors, PyTorch or GGUF files, found {found}")]
    NoWeights {
        /// Name of the repository, with the revision and file where they were asked for.
        repository: String,
        /// Names of the first few files that it has; "no files" without any.
        found: String,
    },
    /// A repository of several models.
    #[error("{repository}: several files could be the weights: {}; name one, as in {repository}:{}", found.join(", "), found.first().map_or("FILE", String::as_str))]
    SeveralWeights {
        /// Name of the repository, with the revision where one was asked for.
        repository: String,
        /// Names of the files that could be the weights.
        found: Vec<String>,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] crate::output::OutputError),
    /// A file cannot be read or written.
    #[error("{}: {action} failed: {source}", path.display())]
    Io {
        /// Path of the file or folder in the cache.
        path: PathBuf,
        /// What was being done with it: "opening", "reading".
        action: &'static str,
        /// Error that the operating system reported.
        source: io::Error,
    },
}

impl HubError {
    /// For `map_err`: the system's error with the path and what was being done there.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }
}

fn advice(had_token: bool) -> &'static str {
    match had_token {
        true => {
            "the token that was sent may not read it; ask its owners for access, or set HF_TOKEN to another one"
        }
        false => "it is not for everybody; set HF_TOKEN to a token that may read it",
    }
}
