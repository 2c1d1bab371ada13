//! Bytes that begin on a cache line, or on a huge page when there are enough of them.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Length of a cache line on the processors that kernels are tuned for.
pub const CACHE_LINE: usize = 64;

/// Length of a huge page; storage of at least this size begins on one, so that the system can back it by huge pages.
const HUGE_PAGE: usize = 2 << 20;

/// A fixed-size, zero-initialised byte buffer aligned to [`CACHE_LINE`].
///
/// An empty buffer allocates nothing. When memory runs out the process ends as it does for `Vec`.
#[derive(Debug)]
pub struct AlignedBytes {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer is owned exclusively and holds plain bytes.
unsafe impl Send for AlignedBytes {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// A buffer of `len` zero bytes; `None` when no such buffer can be described to the allocator.
    pub fn zeroed(len: usize) -> Option<Self> {
        let layout = Self::layout(len)?;
        if len == 0 {
            return Some(Self::default());
        }
        // SAFETY: the layout has a non-zero size.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Some(Self { start, len }),
            None => handle_alloc_error(layout),
        }
    }

    fn layout(len: usize) -> Option<Layout> {
        let align = if len >= HUGE_PAGE { HUGE_PAGE } else { CACHE_LINE };
        Layout::from_size_align(len, align).ok()
    }
}

impl Default for AlignedBytes {
    fn default() -> Self {
        // A dangling but aligned pointer, never read because the length is zero.
        Self {
            start: NonNull::<Line>::dangling().cast(),
            len: 0,
        }
    }
}

/// Gives a dangling pointer its alignment.
#[repr(align(64))]
struct Line;

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: `start` came from `alloc_zeroed` with this same layout, and is freed once.
            unsafe { dealloc(self.start.as_ptr(), layout) }
        }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` initialised bytes, or dangling with `len` 0.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
