//! Computing while Python goes on.
//!
//! A call leaves the interpreter to others, computes in a pool of threads, and comes back for signals twenty times a second: after
//! Ctrl-C the computation ends at its next segment. It is computed in the pool and not by the caller, who would sleep through every
//! product and have to be woken after it.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use spillway::context::MOST_THREADS;
use spillway::stop::Stop;

use crate::errors::{Failure, SpillwayError};

/// Time from one look for signals to the next.
const POLL: Duration = Duration::from_millis(50);

/// The pool, and the process that has its threads: a fork has none of them.
static POOL: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);

/// The pool, made at its first use, of as many threads as rayon finds right.
fn pool() -> PyResult<Arc<ThreadPool>> {
    let mut current = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    match &*current {
        Some((owner, pool)) if *owner == process => return Ok(Arc::clone(pool)),
        // To end it, its threads would be asked, which this process does not have.
        Some((_, pool)) => std::mem::forget(Arc::clone(pool)),
        None => {}
    }
    let pool = Arc::new(start(0)?);
    *current = Some((process, Arc::clone(&pool)));
    Ok(pool)
}

/// 0 threads are as many as rayon finds right: one per processor, or `RAYON_NUM_THREADS`.
fn start(threads: usize) -> PyResult<ThreadPool> {
    let named = |index| format!("spillway-{index}");
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(named)
        .build();
    pool.map_err(|error| SpillwayError::new_err(format!("cannot start threads: {error}")))
}

/// Number of threads that compute: one per processor unless set otherwise.
#[pyfunction]
pub fn threads() -> PyResult<usize> {
    Ok(pool()?.current_num_threads())
}

/// Lets so many threads compute, in this process, from the next call on.
///
/// Raises ValueError for 0 or more than 1024.
#[pyfunction]
pub fn set_threads(threads: usize) -> PyResult<()> {
    if !(1..=MOST_THREADS).contains(&threads) {
        let expected = format!("threads: expected a number from 1 to {MOST_THREADS}, found {threads}");
        return Err(PyValueError::new_err(expected));
    }
    let started = Arc::new(start(threads)?);
    // A pool that this process has not the threads of is kept from being dropped.
    drop(pool()?);
    *POOL.lock().unwrap_or_else(PoisonError::into_inner) = Some((std::process::id(), started));
    Ok(())
}

/// Runs `job` in the pool while other threads of Python go on. `job` looks at its argument now and then, and gives
/// [`Failure::Interrupted`] once that asks for a stop.
///
/// # Errors
/// Those of `job`; [`Failure::Raised`] with what the handler of a signal raised; [`Failure::Internal`] in the place of a panic.
pub fn compute<T: Send>(
    py: Python<'_>,
    job: impl FnOnce(&Stop) -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let pool = pool()?;
    let stop = Stop::after(None);
    let (sender, receiver) = channel();
    let (outcome, raised) = py.detach(move || {
        pool.in_place_scope(|scope| {
            scope.spawn(|_| {
                let outcome = panic::catch_unwind(AssertUnwindSafe(|| job(&stop)));
                // The receiver waits until it has this.
                let _ = sender.send(outcome);
            });
            wait(&receiver, &stop)
        })
    });
    match (raised, outcome) {
        (Some(raised), _) => Err(Failure::Raised(raised)),
        (None, Some(Ok(result))) => result,
        (None, Some(Err(cause))) => Err(Failure::Internal(message(cause.as_ref()))),
        (None, None) => Err(Failure::Internal("a computation ended without a result".into())),
    }
}

/// What comes, and what the handler of a signal raised meanwhile.
fn wait<T>(receiver: &Receiver<T>, stop: &Stop) -> (Option<T>, Option<PyErr>) {
    let mut raised = None;
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(outcome) => return (Some(outcome), raised),
            Err(RecvTimeoutError::Disconnected) => return (None, raised),
            Err(RecvTimeoutError::Timeout) if raised.is_some() => {}
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = Python::attach(|py| py.check_signals()) {
                    raised = Some(error);
                    stop.ask();
                }
            }
        }
    }
}

/// # Errors
/// [`Failure::Interrupted`] once a stop is asked for.
pub fn unless_asked(stop: &Stop) -> Result<(), Failure> {
    match stop.is_asked() {
        true => Err(Failure::Interrupted),
        false => Ok(()),
    }
}

fn message(cause: &(dyn Any + Send)) -> String {
    let text = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_string()
}
