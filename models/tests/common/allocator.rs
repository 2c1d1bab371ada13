//! The system's allocator, counting what each thread takes and gives back.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    /// Bytes taken so far.
    pub static TAKEN: Cell<usize> = const { Cell::new(0) };
    /// Bytes taken and not given back; what another thread gives back is not seen.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    /// The most that were live since [`watch`].
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Begins to watch for the most bytes that this thread holds at once, beyond what it holds now.
pub fn watch() -> impl Fn() -> isize {
    let before = LIVE.get();
    PEAK.set(before);
    move || PEAK.get() - before
}

fn count(change: isize) {
    // A thread that is ending counts no more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call is handed on to the system's allocator as it is; the counters are plain numbers that need no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = TAKEN.try_with(|taken| taken.set(taken.get() + layout.size()));
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
