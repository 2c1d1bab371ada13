//! A training between two steps: everything that the next step depends on, to a snapshot and back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Lessons, Trainer};
use crate::train::error::TrainError;
use crate::train::snapshot::{Moments, Snapshot, SnapshotError, Snapshots};

impl Trainer {
    /// Everything that the next step depends on. On rank 0 of several the others give their moments meanwhile, in
    /// [`Trainer::follow`].
    ///
    /// # Errors
    /// [`TrainError::Field`] for a configuration that TOML cannot hold; [`TrainError::Snapshot`] where a rank does not answer.
    pub fn snapshot(&self) -> Result<Snapshot, TrainError> {
        let optimizer = self.with_moments(|moments| {
            let whole = |name: String| {
                let data = moments.fetch(&name)?;
                Ok::<_, SnapshotError>(data.map(|data| (name, data.into_owned())))
            };
            let names = moments.entries().into_keys();
            names.filter_map(|name| whole(name).transpose()).collect()
        })?;
        Ok(Snapshot {
            optimizer,
            ..self.snapshot_without_moments()?
        })
    }

    /// Writes [`Trainer::snapshot`], of whose moments only one parameter's are held at a time.
    ///
    /// # Errors
    /// As there, and as [`Snapshots::write`].
    pub fn save(&self, snapshots: &Snapshots) -> Result<PathBuf, TrainError> {
        let snapshot = self.snapshot_without_moments()?;
        self.with_moments(|moments| snapshots.write_with(&snapshot, moments))
    }

    /// What `save` does with the moments of all ranks.
    fn with_moments<T>(
        &self,
        save: impl FnOnce(&dyn Moments) -> Result<T, SnapshotError>,
    ) -> Result<T, TrainError> {
        match &self.team {
            // Before the first step there are none, and nobody follows yet.
            Some(team) if team.leads() && self.step > 0 => team.with_moments(&self.optimizer, save),
            _ => Ok(save(&self.optimizer)?),
        }
    }

    fn snapshot_without_moments(&self) -> Result<Snapshot, TrainError> {
        Ok(Snapshot {
            step: self.step,
            tokens: self.tokens,
            config: self.config.identity()?,
            data: match &self.lessons {
                Lessons::Tokens(source) => source.position(),
                Lessons::Task(work) => work.position(),
            },
            other: Value::Null,
            parameters: Snapshot::masters(self.parameters.list()),
            optimizer: BTreeMap::new(),
            carried: self.carry.save(),
        })
    }

    /// Goes on from a snapshot, to the same bits as if there had been no interruption; `path` is its file, for errors. After an
    /// error the training is not to be used.
    ///
    /// # Errors
    /// [`TrainError::Snapshot`], [`TrainError::Optimizer`], [`TrainError::Model`] or [`TrainError::Data`] for a part that does not
    /// fit this training.
    pub fn restore(&mut self, snapshot: &Snapshot, path: &Path) -> Result<(), TrainError> {
        snapshot.expect_config(path, &self.config.identity()?)?;
        snapshot.restore_masters(path, self.parameters.list_mut())?;
        self.optimizer.restore(&snapshot.optimizer)?;
        let fresh = self.network(0, 0)?.1.start(self.config.sequences);
        self.carry.restore(&snapshot.carried, fresh)?;
        match &mut self.lessons {
            Lessons::Tokens(source) => source.seek(&snapshot.data)?,
            Lessons::Task(work) => work.seek(&snapshot.data)?,
        }
        (self.step, self.tokens) = (snapshot.step, snapshot.tokens);
        Ok(())
    }

    /// On rank 0: the other ranks go on from the snapshot that this one goes on from, or from the beginning without one. On the others: takes it up.
    ///
    /// # Errors
    /// As [`Trainer::restore`].
    pub fn share_snapshot(&mut self, snapshot: Option<&Snapshot>) -> Result<(), TrainError> {
        let Some(team) = self.team.clone() else {
            return Ok(());
        };
        if team.leads() {
            let bytes = snapshot.map(Snapshot::to_bytes).transpose()?;
            team.share(bytes.unwrap_or_default())?;
            return match snapshot {
                Some(snapshot) => team.deal_moments(&self.optimizer, &snapshot.optimizer),
                None => Ok(()),
            };
        }
        let bytes = team.share(Vec::new())?;
        if !bytes.is_empty() {
            let (snapshot, path) = Snapshot::from_bytes(&bytes)?;
            self.restore(&snapshot, &path)?;
            team.take_moments(&mut self.optimizer)?;
        }
        Ok(())
    }
}
