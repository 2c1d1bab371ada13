//! A model that is asked how precise its states must be, and the ids that it reads.

use super::config::{ModelRun, RandomModel, SubjectConfig, with_type};
use crate::error::ProgramError;
use crate::trial::Trial;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_mitigations::state_dtype::StateDtype;
use spillway_models::checkpoint::WriteDtype;
use spillway_models::init::{preset, write_random};
use spillway_models::input::{MAX_TEXT, read_text};
use spillway_models::registry::layouts_of;
use spillway_models::{LoadOptions, Model, shipped};
use spillway_ssm_core::Chain;
use std::path::Path;

/// A model and what it reads.
#[derive(Debug)]
pub struct Subject {
    /// The model, its weights in f32, on the CPU.
    pub model: Model,
    ids: Ids,
}

/// What a model reads.
#[derive(Debug)]
enum Ids {
    /// A text, again and again.
    Text(Vec<u32>),
    /// Any id as often as any other, by a seed.
    Random(u64),
}

impl Subject {
    /// Loads or draws the model; paths are from `folder`.
    ///
    /// # Errors
    /// [`ProgramError::Model`] for a checkpoint that cannot be loaded, [`ProgramError::Usage`] for one without a tokenizer or a size that
    /// does not exist, [`ProgramError::File`] for a text that cannot be read.
    pub fn load(config: &SubjectConfig, folder: &Path, seed: u64) -> Result<Self, ProgramError> {
        let options = LoadOptions::default();
        if let Some(random) = &config.random {
            return Ok(Self {
                model: drawn(random, &options)?,
                ids: Ids::Random(seed),
            });
        }
        let model = match &config.checkpoint {
            None => Model::shipped(&options)?,
            Some(path) => Model::load(&folder.join(path), &options)?,
        };
        let text = match &config.text {
            None => shipped::text().to_string(),
            Some(path) => {
                let path = folder.join(path);
                read_text(&path, MAX_TEXT).map_err(ProgramError::file("read", &path))?
            }
        };
        let ids = model.tokenizer().encode(&text).map_err(|error| {
            ProgramError::usage(
                format!("models: {}", config.name),
                "a text for its tokenizer",
                error.to_string(),
            )
        })?;
        match ids.len() {
            0 | 1 => Err(ProgramError::usage(
                format!("models: {}", config.name),
                "a text of at least two tokens",
                ids.len().to_string(),
            )),
            _ => Ok(Self {
                model,
                ids: Ids::Text(ids),
            }),
        }
    }

    /// The chain of a run's truth, and those of its types.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for a mitigation that cannot be used here, with the reason.
    pub fn chains(&self, run: &ModelRun, dtypes: &[StateDtype]) -> Result<(Chain, Vec<Chain>), ProgramError> {
        let truth = self.chain(&with_type(run.truth(), "f32"))?;
        let of_type = |dtype: &StateDtype| self.chain(&with_type(&run.mitigation, &dtype.to_string()));
        Ok((truth, dtypes.iter().map(of_type).collect::<Result<_, _>>()?))
    }

    fn chain(&self, spec: &str) -> Result<Chain, ProgramError> {
        let trial = Trial::parse(spec, &self.model)?
            .expect_usable(spec)?
            .expect_possible(&self.model)?;
        Ok(trial.mitigation().chain())
    }

    /// A reader of its ids from the first on.
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            subject: self,
            place: 0,
            random: match self.ids {
                Ids::Text(_) => None,
                Ids::Random(seed) => Some(StdRng::seed_from_u64(seed)),
            },
        }
    }
}

/// Reads ids one after another.
#[derive(Debug)]
pub struct Reader<'a> {
    subject: &'a Subject,
    place: usize,
    random: Option<StdRng>,
}

impl Reader<'_> {
    /// The next token id: of the text, which begins again at its end, or drawn from the vocabulary.
    pub fn next_id(&mut self) -> u32 {
        let vocabulary = self.subject.model.info().vocab_size as u32;
        match (&self.subject.ids, &mut self.random) {
            (Ids::Text(ids), _) => {
                let id = ids[self.place % ids.len()];
                self.place += 1;
                id
            }
            (Ids::Random(_), Some(random)) => random.random_range(0..vocabulary),
            (Ids::Random(_), None) => 0,
        }
    }
}

/// A model of random weights, by way of a folder that is gone afterwards.
fn drawn(random: &RandomModel, options: &LoadOptions) -> Result<Model, ProgramError> {
    let found = layouts_of(&random.arch).find_map(|layout| Some((layout, preset(layout, &random.shape)?)));
    let Some((layout, preset)) = found else {
        return Err(ProgramError::usage(
            "models.random",
            "an architecture and a size that spillway init --list names",
            format!("{} {}", random.arch, random.shape),
        ));
    };
    let folder = tempfile::tempdir().map_err(ProgramError::file("create", &std::env::temp_dir()))?;
    let path = folder.path().join("model");
    write_random(&path, layout, preset.config, WriteDtype::F32, random.seed)?;
    Ok(Model::load(&path, options)?)
}
