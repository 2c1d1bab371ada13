//! Moments in parts that go on elsewhere: on another number of ranks, or nowhere because one of the ranks fails.

use std::sync::Arc;
use std::time::Duration;

use spillway_models::parallel::{Communicator, ParallelError, Tag};
use spillway_models::train::{Snapshot, Snapshots, Trainer};
use tempfile::TempDir;

use crate::sharding::{config, led, stepped};

/// Goes on from the snapshot of other ranks: what is saved again at once is the same. The snapshot after two further steps, on rank 0.
pub fn going_on(ranks: &Arc<dyn Communicator>, from: Option<&Snapshot>) -> Option<Snapshot> {
    let (_, snapshot) = led(ranks, from, |trainer| {
        if let Some(from) = from {
            let again = trainer.snapshot().unwrap();
            assert!(again == *from, "another snapshot than the one gone on from");
        }
        stepped(trainer, 2).1
    });
    snapshot
}

/// A rank that fails when it is asked for its moments.
#[derive(Debug)]
struct Faulty(Arc<dyn Communicator>);

const REASON: &str = "the cable is cut";

impl Communicator for Faulty {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn timeout(&self) -> Duration {
        self.0.timeout()
    }

    fn send(&self, to: usize, tag: Tag, message: Vec<u8>) -> Result<(), ParallelError> {
        if tag.what != "its part of the moments" {
            return self.0.send(to, tag, message);
        }
        self.0.fail(REASON);
        let (rank, reason) = (self.rank(), REASON.into());
        Err(ParallelError::Failed { rank, reason })
    }

    fn receive(&self, from: usize, tag: Tag) -> Result<Vec<u8>, ParallelError> {
        self.0.receive(from, tag)
    }

    fn poll(&self, tag: Tag, patience: Duration) -> Result<Option<(usize, Vec<u8>)>, ParallelError> {
        self.0.poll(tag, patience)
    }

    fn fail(&self, reason: &str) {
        self.0.fail(reason);
    }
}

/// Where rank 1 of two does not give its moments, it is named on both, and the folder has the snapshots that it had.
pub fn a_snapshot_that_fails(ranks: &Arc<dyn Communicator>) {
    let ranks = match ranks.rank() {
        1 => Arc::new(Faulty(Arc::clone(ranks))) as Arc<dyn Communicator>,
        _ => Arc::clone(ranks),
    };
    let mut trainer = Trainer::new_on(Arc::clone(&ranks), config()).unwrap();
    let error = match ranks.rank() {
        0 => {
            let folder = TempDir::new().unwrap();
            let snapshots = Snapshots::open(folder.path()).unwrap();
            let first = trainer.save(&snapshots).unwrap();
            trainer.step().unwrap();
            let error = trainer.save(&snapshots).expect_err("rank 1 has failed");
            let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
            assert_eq!(files.len(), 1, "{files:?}");
            assert!(first.exists());
            error
        }
        _ => trainer.follow().expect_err("rank 1 has failed"),
    };
    assert_eq!(error.to_string(), format!("rank 1 failed: {REASON}"));
}
