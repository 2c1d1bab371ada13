//! Bytes that begin on a cache line.

use std::ops::{Deref, DerefMut};

/// Length of a cache line on the processors that kernels are tuned for.
pub const CACHE_LINE: usize = 64;

/// A fixed-size, zero-initialised byte buffer aligned to [`CACHE_LINE`].
///
/// Large buffers come from the system as untouched pages, so that whoever fills them, on however many threads, is the
/// first to pay for them.
#[derive(Debug, Default)]
pub struct AlignedBytes {
    /// Storage, one cache line longer than asked for; allocated once, so that its address never changes.
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
        let offset = words.as_ptr().align_offset(CACHE_LINE) * 8;
        Some(Self { words, offset, len })
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
