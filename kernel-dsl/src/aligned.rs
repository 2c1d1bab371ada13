//! Bytes that begin on a cache line.

use std::ops::{Deref, DerefMut};

/// Length of a cache line on the processors that kernels are tuned for.
pub const CACHE_LINE: usize = 64;

/// A fixed-size, zero-initialised byte buffer aligned to [`CACHE_LINE`].
///
/// Large buffers come from the system as untouched pages, so that whoever fills them, on however many threads, is the
/// first to pay for them. On Linux they are asked to be huge pages where the buffer holds some of these. An earlier measurement
/// gave 1 to 5 % on matrix-vector products; this code has not been measured.
#[derive(Debug, Default)]
pub struct AlignedBytes {
    /// One cache line longer than asked for; allocated once, so that its address never changes.
    words: Vec<u64>,
    /// First byte on a cache line.
    offset: usize,
    len: usize,
}

impl AlignedBytes {
    /// A buffer of `len` zero bytes; `None` when no such buffer can exist. An empty one allocates nothing.
    pub fn zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self::default());
        }
        let bytes = len
            .checked_add(CACHE_LINE)
            .filter(|&bytes| bytes < isize::MAX as usize - 8)?;
        let words = vec![0u64; bytes.div_ceil(8)];
        #[cfg(target_os = "linux")]
        huge_pages::advise(&words);
        let offset = words.as_ptr().align_offset(CACHE_LINE) * 8;
        Some(Self { words, offset, len })
    }
}

#[cfg(target_os = "linux")]
mod huge_pages {
    use std::ffi::{c_int, c_void};

    /// Size of a huge page on x86-64 and, with small pages of 4 kB, on aarch64; nothing is lost where it differs.
    const HUGE_PAGE: usize = 2 << 20;
    /// Fewest bytes in which it is sure to find one.
    const WORTHWHILE: usize = 2 * HUGE_PAGE;
    /// `MADV_HUGEPAGE` of `linux/mman.h`, the same on every architecture.
    const MADV_HUGEPAGE: c_int = 14;

    unsafe extern "C" {
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }

    /// Asks for huge pages inside an untouched buffer.
    pub(super) fn advise(words: &[u64]) {
        let bytes = std::mem::size_of_val(words);
        if bytes < WORTHWHILE {
            return;
        }
        let start = words.as_ptr().cast::<u8>();
        let before = start.align_offset(HUGE_PAGE);
        let whole = bytes.saturating_sub(before) / HUGE_PAGE * HUGE_PAGE;
        // SAFETY: the pages lie within the buffer, and the advice changes how they are mapped, not what they hold. Where the
        // system has no huge pages it is refused, which leaves things as they were.
        unsafe { madvise(start.wrapping_add(before).cast_mut().cast(), whole, MADV_HUGEPAGE) };
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[self.offset..self.offset + self.len]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[self.offset..self.offset + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_on_a_cache_line() {
        for len in [1, 63, 64, 65, 4096, 3 << 20] {
            let mut bytes = AlignedBytes::zeroed(len).expect("small buffers exist");
            assert_eq!((bytes.len(), bytes.as_ptr() as usize % CACHE_LINE), (len, 0));
            assert!(bytes.iter().all(|&b| b == 0));
            bytes[len - 1] = 1;
            let moved = bytes;
            assert_eq!((moved[len - 1], moved.as_ptr() as usize % CACHE_LINE), (1, 0));
        }
        assert!(AlignedBytes::zeroed(0).is_some_and(|bytes| bytes.is_empty()));
        assert!(
            AlignedBytes::zeroed(usize::MAX).is_none() && AlignedBytes::zeroed(isize::MAX as usize).is_none()
        );
    }
}
