//! States of prompts on disk, found again by the prompts' first tokens.
//!
//! A prompt is cut into chunks of Q tokens, and the state at every border is one file, called by the hash
//!
//! ```text
//! k_0 = H(model's fingerprint, identity of the chain, Q)          k_i = H(k_{i−1}, tokens (i−1)Q to iQ)
//! ```
//!
//! so that a prompt's keys are those of its first tokens, whatever comes behind them. A prefill takes the longest prefix
//! that is there, takes in the rest, and stores the borders on its way.
//!
//! - The result has the same bits whether a prefix was found or not: tokens go through the model in the same pieces. Where Q
//!   is a multiple of 256, these are also the pieces of a prefill without the cache.
//! - A model with an encoder reads the beginning of a prompt as a whole, so its states are those of borders at or behind the
//!   encoder's end, and shorter prompts have none.
//! - A file that is damaged, cut off, of another version or made for something else is a miss, and is replaced. What was wrong
//!   with it stands in [`Prefilled::refused`].
//! - Several processes may use one folder, which is therefore not locked: files appear when they are complete, and are only
//!   ever replaced as a whole.
//! - Files that this did not make are neither read nor removed.

mod entry;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use burn::tensor::Tensor;
use spillway_ssm_core::Chain;

use self::entry::Purpose;
use crate::checkpoint::CheckpointError;
use crate::error::ModelError;
pub use crate::error::PrefixCacheError;
use crate::model::{Logits, Model};
use crate::output;
use crate::state::ModelState;
use crate::state::fingerprint::Fingerprint;

/// What entries' names end in.
const EXTENSION: &str = "prefix";

/// How a cache is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixCacheOptions {
    /// Q, the tokens from border to border.
    pub chunk_tokens: usize,
    /// The most bytes that entries take together; those used longest ago are removed first. Processes that write at the same
    /// moment may exceed it by one entry each.
    pub limit_bytes: u64,
}

impl Default for PrefixCacheOptions {
    fn default() -> Self {
        Self {
            chunk_tokens: 256,
            limit_bytes: 4 << 30,
        }
    }
}

/// A folder of states.
///
/// ```
/// use spillway_models::{LoadOptions, Model, PrefixCache, PrefixCacheOptions};
/// use spillway_ssm_core::Chain;
///
/// let folder = tempfile::tempdir()?;
/// let cache = PrefixCache::open(folder.path(), PrefixCacheOptions::default())?;
/// let model = Model::shipped(&LoadOptions::default())?;
/// let prompt = model.tokenizer().encode(&spillway_models::shipped_text()[..600])?;
/// let first = cache.prefill(&model, &Chain::default(), &prompt)?;
/// let again = cache.prefill(&model, &Chain::default(), &prompt)?;
/// assert_eq!((first.restored, first.stored), (0, 2));
/// assert_eq!((again.restored, again.stored), (512, 0));
/// assert_eq!(first.logits.to_data(), again.logits.to_data());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PrefixCache {
    folder: PathBuf,
    options: PrefixCacheOptions,
}

/// A prompt taken in.
#[derive(Debug)]
pub struct Prefilled {
    /// Logits after the last token, `[1, vocab_size]`.
    pub logits: Tensor<2>,
    /// The state after the last token.
    pub state: ModelState,
    /// Tokens whose state was found.
    pub restored: usize,
    /// Borders that were stored.
    pub stored: usize,
    /// Files that could not be used or written, and why. Nothing of them is in the result.
    pub refused: Vec<PrefixCacheError>,
}

impl PrefixCache {
    /// A cache in `folder`, which is made if need be.
    ///
    /// # Errors
    /// [`PrefixCacheError::Option`] for chunks of no tokens, [`PrefixCacheError::File`] when the folder cannot be made.
    pub fn open(folder: &Path, options: PrefixCacheOptions) -> Result<Self, PrefixCacheError> {
        if options.chunk_tokens == 0 {
            return Err(PrefixCacheError::Option {
                option: "tokens of a chunk",
                expected: "at least 1",
                found: "0".into(),
            });
        }
        fs::create_dir_all(folder).map_err(CheckpointError::io(folder, "creating"))?;
        // What killed processes have left half-written.
        output::sweep(folder);
        Ok(Self {
            folder: folder.into(),
            options,
        })
    }

    /// Takes `prompt` in from the empty state, with `chain` acting, as far as possible by restoring.
    ///
    /// # Errors
    /// As [`Model::start`] and [`Model::logits`]. Trouble with files is none: it stands in [`Prefilled::refused`].
    pub fn prefill(&self, model: &Model, chain: &Chain, prompt: &[u32]) -> Result<Prefilled, ModelError> {
        // At least one token is left to have logits.
        let Some(before_last) = prompt.len().checked_sub(1) else {
            return Err(ModelError::EmptyPrompt);
        };
        model.check_ids(prompt)?;
        let start = model.start(chain, 1)?;
        let chunk = self.options.chunk_tokens;
        let lookup = Lookup::new(self, model, chain, &prompt[..before_last / chunk * chunk]);
        // Chunks up to the first border at or behind the encoder's end, which are read at once.
        let whole = model.encoder_length().div_ceil(chunk).max(1);
        let borders = match lookup.paths.len() {
            enough if enough >= whole => enough,
            _ => 0,
        };
        let mut refused = Vec::new();
        let (found, mut state) = match lookup.longest(whole, &mut refused) {
            Some((found, state)) => (found, state),
            None => {
                let mut start = start;
                model.begin_prompt(prompt.len(), &mut start);
                (0, start)
            }
        };
        let mut stored = 0;
        let mut writable = true;
        let first = if found == 0 { whole - 1 } else { found };
        for border in first..borders {
            let begin = if border == first { found } else { border };
            model.advance(&prompt[begin * chunk..(border + 1) * chunk], &mut state)?;
            // Borders that later ones of this prompt would push out again are not stored at all.
            let room = self.options.limit_bytes / (state.bytes() as u64).max(1);
            if writable && ((borders - border - 1) as u64) < room {
                match lookup.store(border, &state) {
                    Ok(fits) => stored += usize::from(fits),
                    Err(error) => {
                        writable = false;
                        refused.push(error);
                    }
                }
            }
        }
        let logits = model.logits(&prompt[borders * chunk..], &mut state, Logits::Last)?;
        Ok(Prefilled {
            logits,
            state,
            restored: found * chunk,
            stored,
            refused,
        })
    }

    /// The state after exactly `prefix`, a whole number of chunks.
    ///
    /// # Errors
    /// Why it cannot be had: a variant of [`PrefixCacheError`]; [`PrefixCacheError::File`] where there is none.
    pub fn entry(
        &self,
        model: &Model,
        chain: &Chain,
        prefix: &[u32],
    ) -> Result<ModelState, PrefixCacheError> {
        let lookup = Lookup::new(self, model, chain, prefix);
        match lookup.paths.len() {
            borders if borders > 0 && prefix.len().is_multiple_of(self.options.chunk_tokens) => {
                lookup.read(borders - 1)
            }
            _ => Err(PrefixCacheError::Option {
                option: "tokens of a prefix",
                expected: "a whole number of chunks, at least one",
                found: prefix.len().to_string(),
            }),
        }
    }

    /// Removes the entries used longest ago until there is room for `bytes`; false when they can never fit.
    fn make_room(&self, bytes: u64) -> Result<bool, PrefixCacheError> {
        if bytes > self.options.limit_bytes {
            return Ok(false);
        }
        let mut entries = self.entries()?;
        entries.sort();
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if total + bytes <= self.options.limit_bytes {
                break;
            }
            match fs::remove_file(&entry.path) {
                Ok(()) => {}
                // Another process was faster.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(CheckpointError::io(&entry.path, "removing")(error).into()),
            }
            total -= entry.bytes;
        }
        Ok(true)
    }

    /// The entries there are.
    fn entries(&self) -> Result<Vec<Stored>, PrefixCacheError> {
        let listing = fs::read_dir(&self.folder).map_err(CheckpointError::io(&self.folder, "listing"))?;
        let mut entries = Vec::new();
        for file in listing.flatten() {
            // What has gone meanwhile takes no room.
            let Ok(metadata) = file.metadata() else { continue };
            let Ok(used) = metadata.modified() else { continue };
            let path = file.path();
            match Kind::of(&path) {
                Kind::Entry if metadata.is_file() => entries.push(Stored {
                    used,
                    path,
                    bytes: metadata.len(),
                }),
                _ => {}
            }
        }
        Ok(entries)
    }
}

/// An entry as the folder lists it; the one used longest ago comes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Stored {
    used: SystemTime,
    path: PathBuf,
    bytes: u64,
}

enum Kind {
    Entry,
    Foreign,
}

impl Kind {
    /// `KEY.prefix`, with a key of 32 hexadecimal digits.
    fn of(path: &Path) -> Self {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let is_key = |key: &str| key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit());
        let parts: Vec<&str> = name.split('.').collect();
        match parts.as_slice() {
            [key, EXTENSION] if is_key(key) => Self::Entry,
            _ => Self::Foreign,
        }
    }
}

/// The entries of one prompt in a cache: what they are for, and where they are.
struct Lookup<'a> {
    cache: &'a PrefixCache,
    model: &'a Model,
    chain: &'a Chain,
    prefix: &'a [u32],
    /// Model, chain and chunk length.
    purpose: String,
    /// Where the state of every border is, the first border first.
    paths: Vec<PathBuf>,
}

impl<'a> Lookup<'a> {
    fn new(cache: &'a PrefixCache, model: &'a Model, chain: &'a Chain, prefix: &'a [u32]) -> Self {
        let purpose = format!(
            "model {}, interventions {}, chunks of {}",
            model.fingerprint(),
            chain.identity(),
            cache.options.chunk_tokens
        );
        let mut key = Fingerprint::new();
        key.text(&purpose);
        let mut key = key.digest();
        let chunks = prefix.chunks_exact(cache.options.chunk_tokens);
        let paths = chunks.map(|chunk| {
            let mut next = Fingerprint::new();
            next.bytes(&key.to_le_bytes());
            chunk.iter().for_each(|id| next.bytes(&id.to_le_bytes()));
            key = next.digest();
            cache.folder.join(format!("{key:032x}.{EXTENSION}"))
        });
        let paths = paths.collect();
        Self {
            cache,
            model,
            chain,
            prefix,
            purpose,
            paths,
        }
    }

    /// What the entry of a border is for.
    fn purpose(&self, border: usize) -> Purpose<'_> {
        Purpose {
            text: &self.purpose,
            ids: &self.prefix[..(border + 1) * self.cache.options.chunk_tokens],
        }
    }

    fn read(&self, border: usize) -> Result<ModelState, PrefixCacheError> {
        entry::read(&self.paths[border], self.purpose(border), self.chain, self.model)
    }

    /// The longest prefix there is of at least `fewest` chunks (1 or more): its number of chunks, and the state after it.
    fn longest(&self, fewest: usize, refused: &mut Vec<PrefixCacheError>) -> Option<(usize, ModelState)> {
        for border in (fewest - 1..self.paths.len()).rev() {
            let path = &self.paths[border];
            if !path.exists() {
                continue;
            }
            match self.read(border) {
                Ok(state) => {
                    // The time of last use. In a folder that cannot be written it stays the time of writing.
                    let file = File::options().append(true).open(path);
                    let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
                    return Some((border + 1, state));
                }
                Err(error) => refused.push(error),
            }
        }
        None
    }

    /// Stores the state of a border; false when it alone is above the limit.
    fn store(&self, border: usize, state: &ModelState) -> Result<bool, PrefixCacheError> {
        let path = &self.paths[border];
        let bytes = entry::to_bytes(path, self.purpose(border), state)?;
        let fits = self.cache.make_room(bytes.len() as u64)?;
        if fits {
            entry::write(path, &bytes)?;
        }
        Ok(fits)
    }
}
