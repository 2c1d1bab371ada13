//! Many trainings at once, each on one thread: sums in the kernels then never depend on what runs beside them.

use crate::error::ProgramError;
use crate::stop::Stop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Does `work` on every item of `queue` in order, as many at a time as `workers`; whether all are done. `work` says whether its item is
/// done. After one that is not, or an error, nothing more is begun.
///
/// # Errors
/// The first of `work`; a stop is asked for then, so that the others end as well.
pub fn side_by_side<T: Sync>(
    queue: &[T],
    workers: usize,
    stop: &Stop,
    work: impl Fn(&T) -> Result<bool, ProgramError> + Sync,
) -> Result<bool, ProgramError> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failure = Mutex::new(None);
    let go_through = || {
        while let Some(item) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.is_asked() {
                return;
            }
            match work(item) {
                Ok(true) => {
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(false) => return,
                Err(error) => {
                    failure
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                    stop.ask();
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| -> Result<(), ProgramError> {
        for _ in 0..workers.clamp(1, queue.len().max(1)) {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
            let pool =
                pool.map_err(|error| ProgramError::Failed(format!("cannot start threads: {error}")))?;
            let go_through = &go_through;
            let worker = move || pool.install(go_through);
            if let Err(error) = std::thread::Builder::new().spawn_scoped(scope, worker) {
                // Those that have started already would go through all of it first.
                stop.ask();
                return Err(ProgramError::Failed(format!("cannot start threads: {error}")));
            }
        }
        Ok(())
    })?;
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(done.into_inner() == queue.len()),
    }
}
