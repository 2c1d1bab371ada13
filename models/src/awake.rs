//! Keeps the threads of the pool awake while one token is decoded.
//!
//! A token is some hundred products of a tenth of a millisecond each. Threads that fall asleep between two of them are woken
//! too late: on two threads a quarter of the time went there.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::Yield;

/// Runs `work`, and has the other threads of the current pool look for its tasks without falling asleep.
pub(crate) fn awake<R>(work: impl FnOnce() -> R) -> R {
    let Some(caller) = rayon::current_thread_index() else {
        return work();
    };
    let done = AtomicBool::new(false);
    let watch = || {
        // Waiting for others, the caller may come upon this task itself: it would never get to the end of its work.
        while rayon::current_thread_index() != Some(caller) && !done.load(Ordering::Acquire) {
            if !matches!(rayon::yield_now(), Some(Yield::Executed)) {
                // Where there are more threads than processors, somebody else has work.
                std::thread::yield_now();
            }
        }
    };
    rayon::in_place_scope(|scope| {
        for _ in 1..rayon::current_num_threads() {
            scope.spawn(|_| watch());
        }
        // Also when `work` panics, or the scope would wait for ever.
        let _end = SetOnDrop(&done);
        work()
    })
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
