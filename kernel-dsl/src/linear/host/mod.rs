//! The native CPU implementation: input packing, blocking and threads around the register tiles.
//!
//! Input rows are taken in spans of at most [`SPAN_ROWS`], packed once, and cut into blocks of at most as many rows as
//! a tile holds. Each panel of the weight is then read once per span: for every segment of [`SEGMENT`] features, all row
//! blocks in turn, so that the segment stays in the first cache. A few panels share a segment of the input, which stays in the
//! second cache for them. Where a tile is narrower than a panel, many rows have the segment laid out anew, by the steps of columns that the
//! tiles take. Threads share panels and row blocks; which thread computes a tile changes nothing in it.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bytes;
mod halves;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod set;
mod tiles;
mod widening;

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use self::set::{KernelSet, Method};
use self::tiles::{Kernel, LINE_PAIR, Tile};
use self::widening::Widening;
use super::PackedMatrix;
use super::weight_type::PANEL;
use crate::aligned::AlignedBytes;
use crate::{Rows, simd::Isa};

/// Most rows whose packed inputs are held at once; bounds the working memory.
const SPAN_ROWS: usize = 512;
/// Most features of a panel that are worked on before the next row block, which reads them again.
const SEGMENT: usize = 512;
/// [`SEGMENT`] where a step of columns is less than a panel: as f32, such a step then fills half of a first cache of 32 kB.
const NARROW_SEGMENT: usize = 256;
/// Panels that are multiplied with a segment of the input before the next one is read: their outputs, 64 kB a panel and span,
/// have to fit the second cache too.
const PANELS_AT_ONCE: usize = 4;
/// How far ahead of its use a lone row block asks for a panel, in bytes.
const AHEAD: usize = 16384;
/// Tasks per thread, so that a thread that is held up leaves its work to the others.
const TASKS_PER_THREAD: usize = 4;
/// Work below this, in bytes of weights plus multiply-adds / 4, is not worth waking a thread for.
const PARALLEL_WORK: usize = 512 << 10;

/// The kernels of an instruction set that is known to be available.
fn kernel_set(isa: Isa) -> &'static KernelSet {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &avx2::plain::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => &avx2::vnni::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &avx512::plain::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => &avx512::vnni::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => avx512::with_bf16(),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => &neon::KERNELS,
        _ => &portable::KERNELS,
    }
}

/// Runs `iterations` of independent multiply-adds; gives the number of floating-point operations, and a value to keep.
pub(crate) fn fma_burst(isa: Isa, iterations: usize) -> (f64, f32) {
    assert!(isa.is_available());
    // SAFETY: the instruction set is available.
    unsafe { (kernel_set(isa).multiply_adds)(iterations) }
}

/// [`linear`](super::linear) after validation; `isa` must be available.
pub(super) fn linear(isa: Isa, x: Rows, weight: &PackedMatrix, bias: Option<&[f32]>, out: &mut [f32]) {
    let set = kernel_set(isa);
    let spans = x.rows().div_ceil(SPAN_ROWS);
    for i in 0..spans {
        let rows = share(x.rows(), spans, i);
        let out = &mut out[rows.start * weight.out_features()..rows.end * weight.out_features()];
        Span::new(set, x, rows, weight, bias).run(out);
    }
}

/// Part `index` of `0..total` cut into `parts` parts whose lengths differ by at most one.
fn share(total: usize, parts: usize, index: usize) -> Range<usize> {
    index * total / parts..(index + 1) * total / parts
}

/// One span of input rows and how its product is cut up.
struct Span<'a> {
    set: &'static KernelSet,
    weight: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    method: Method,
    x: Rows<'a>,
    rows: Range<usize>,
    blocks: usize,
    segments: usize,
    threads: usize,
}

impl<'a> Span<'a> {
    fn new(
        set: &'static KernelSet,
        x: Rows<'a>,
        rows: Range<usize>,
        weight: &'a PackedMatrix,
        bias: Option<&'a [f32]>,
    ) -> Self {
        let method = set.method(weight.weight_type(), rows.len());
        let blocks = rows.len().div_ceil(method.kernels.len());
        // A single row block uses every weight once, so there is nothing to keep in the cache.
        let segments = if blocks == 1 {
            1
        } else {
            let segment = if set.columns < PANEL {
                NARROW_SEGMENT
            } else {
                SEGMENT
            };
            weight.in_features().div_ceil(segment)
        };
        let weights = weight.in_features() * weight.out_features();
        let worthwhile = weight
            .bytes()
            .saturating_add(weights.saturating_mul(rows.len()) / 4)
            >= PARALLEL_WORK;
        let threads = if worthwhile {
            rayon::current_num_threads()
        } else {
            1
        };
        Self {
            set,
            weight,
            bias,
            method,
            x,
            rows,
            blocks,
            segments,
            threads,
        }
    }

    /// Rows of a block, counted from the beginning of the span.
    fn block(&self, index: usize) -> Range<usize> {
        share(self.rows.len(), self.blocks, index)
    }

    /// Units of a segment.
    fn segment(&self, index: usize) -> Range<usize> {
        share(self.weight.units(), self.segments, index)
    }

    fn run(&self, out: &mut [f32]) {
        let bytes = self.method.input.unit_bytes() * self.weight.units() * self.rows.len();
        with_scratch(&INPUT, bytes, |packed| {
            self.pack(packed);
            let out = Output {
                start: out.as_mut_ptr(),
                len: out.len(),
            };
            let panels = self.weight.panels();
            if self.threads == 1 {
                return self.multiply(packed, 0..panels, 0..self.blocks, &out);
            }
            let tasks = self.threads * TASKS_PER_THREAD;
            let panel_parts = panels.min(tasks);
            let block_parts = (tasks / panel_parts).clamp(1, self.blocks);
            (0..panel_parts * block_parts)
                .into_par_iter()
                .with_max_len(1)
                .for_each(|task| {
                    let panels = share(panels, panel_parts, task / block_parts);
                    let blocks = share(self.blocks, block_parts, task % block_parts);
                    self.multiply(packed, panels, blocks, &out);
                });
        });
    }

    /// Packs the span's rows: for every segment, every row block.
    fn pack(&self, into: &mut [u8]) {
        let unit = self.weight.weight_type().unit();
        let mut tasks = Vec::with_capacity(self.segments * self.blocks);
        let mut rest = into;
        for s in 0..self.segments {
            let units = self.segment(s);
            for b in 0..self.blocks {
                let block = self.block(b);
                let bytes = self.method.input.unit_bytes() * units.len() * block.len();
                let (first, others) = rest.split_at_mut(bytes);
                rest = others;
                tasks.push((units.start * unit..units.end * unit, block, first));
            }
        }
        let pack = |(features, block, into): (Range<usize>, Range<usize>, &mut [u8])| {
            let features = features.start..features.end.min(self.x.cols());
            let mut rows: [&[f32]; MOST_ROWS] = [&[]; MOST_ROWS];
            let count = block.len();
            for (row, r) in rows.iter_mut().zip(block) {
                *row = &self.x.row(self.rows.start + r)[features.clone()];
            }
            // SAFETY: the instruction set is available.
            unsafe { (self.set.pack)(self.method.input, &rows[..count], into) };
        };
        if self.threads == 1 || tasks.len() < 2 * self.threads {
            tasks.into_iter().for_each(pack);
        } else {
            tasks.into_par_iter().for_each(pack);
        }
    }

    /// Multiplies some row blocks with some panels.
    fn multiply(&self, packed: &[u8], panels: Range<usize>, blocks: Range<usize>, out: &Output) {
        let wide = self.method.widening.map_or(0, |widening| widening.unit_bytes());
        let longest = self.weight.units().div_ceil(self.segments);
        with_scratch(&WIDENED, wide * longest, |widened| {
            for first in panels.clone().step_by(PANELS_AT_ONCE) {
                let together = first..panels.end.min(first + PANELS_AT_ONCE);
                for segment in 0..self.segments {
                    for index in together.clone() {
                        let mut start = [0.0; PANEL];
                        let panel = self.panel(index, segment, &together, &mut start, widened);
                        self.multiply_segment(packed, &panel, self.segment(segment), blocks.clone(), out);
                    }
                }
            }
        });
    }

    /// A segment of panel `index`, which is one of those that are worked on `together`, as the kernels read it.
    fn panel<'b>(
        &'b self,
        index: usize,
        segment: usize,
        together: &Range<usize>,
        start: &'b mut [f32; PANEL],
        widened: &'b mut [u8],
    ) -> Panel<'b> {
        let unit = self.weight.weight_type().unit_bytes();
        let units = self.segment(segment);
        let stored = &self.weight.panel(index)[units.start * unit..units.end * unit];
        let next = if index + 1 < together.end {
            &self.weight.panel(index + 1)[units.start * unit..]
        } else if segment + 1 < self.segments {
            &self.weight.panel(together.start)[units.end * unit..]
        } else {
            &self.weight.panel(index)[units.end * unit..]
        };
        let cols = index * PANEL..self.weight.out_features().min((index + 1) * PANEL);
        if let Some(bias) = self.bias {
            start[..cols.len()].copy_from_slice(&bias[cols.clone()]);
        }
        let bytes = match self.method.widening {
            None => stored,
            Some(widening) => {
                let widened = &mut widened[..widening.unit_bytes() * units.len()];
                // SAFETY: the instruction set is available.
                unsafe { (self.set.widen)(widening, stored, widened) };
                widened
            }
        };
        Panel {
            next: next.as_ptr(),
            stored: stored.len(),
            bytes,
            cols,
            start: (segment == 0).then_some(start),
        }
    }

    /// Multiplies some row blocks with one segment of one panel.
    ///
    /// A step of columns after the other, so that their part of the segment stays in the first cache for all row blocks.
    fn multiply_segment(
        &self,
        packed: &[u8],
        panel: &Panel,
        units: Range<usize>,
        blocks: Range<usize>,
        out: &Output,
    ) {
        let unit_bytes = self.method.input.unit_bytes();
        let step = match self.blocks {
            1 => PANEL,
            _ => self.set.columns,
        };
        // A lone block runs ahead of itself; several fetch what follows this segment together, each its part.
        let parts = blocks.len() * (PANEL / step);
        let (mut ahead, part) = match parts {
            1 => (panel.bytes.as_ptr().wrapping_add(AHEAD), 0),
            _ => (panel.next, panel.stored / parts.max(1)),
        };
        let by_steps = self.method.widening.is_some_and(Widening::by_steps);
        let steps = panel.bytes.len() / LINE_PAIR;
        let ahead_step = match parts {
            _ if by_steps => part,
            1 => LINE_PAIR,
            _ => part.div_ceil(steps.max(1)),
        };
        for first in (0..PANEL).step_by(step) {
            let b = match by_steps {
                true => &panel.bytes[panel.bytes.len() / PANEL * first..],
                false => panel.bytes,
            };
            for index in blocks.clone() {
                let block = self.block(index);
                let at = unit_bytes * (units.start * self.rows.len() + units.len() * block.start);
                let a = &packed[at..at + unit_bytes * units.len() * block.len()];
                let tile = Tile {
                    units: units.len() * self.method.widening.map_or(1, |widening| widening.units()),
                    a: a.as_ptr(),
                    b: b.as_ptr(),
                    c: std::ptr::null_mut(),
                    stride: self.weight.out_features(),
                    start: panel.start.map_or(std::ptr::null(), |start| start.as_ptr()),
                    ahead,
                    ahead_step,
                    first,
                    last: first + step,
                };
                let kernel = self.method.kernels[block.len() - 1];
                // SAFETY: `a` and `b` hold `units` units of the block and of the panel, or of the step; tiles of different tasks
                // are disjoint.
                unsafe { out.tile(kernel, tile, block, &panel.cols) };
                ahead = ahead.wrapping_add(part);
            }
        }
    }
}

/// A segment of a panel of the weight and where its product goes.
struct Panel<'a> {
    /// Weights of the segment, as the kernels read them.
    bytes: &'a [u8],
    /// What is read after it, which need not be there, and how many bytes of the weight the segment itself takes.
    next: *const u8,
    stored: usize,
    /// Columns of the output.
    cols: Range<usize>,
    /// The bias of these columns, padded with zeros, where this is the first segment.
    start: Option<&'a [f32; PANEL]>,
}

/// Most rows of a block in any instruction set.
const MOST_ROWS: usize = 14;

/// The output of a span, of which threads write disjoint tiles.
struct Output {
    start: *mut f32,
    len: usize,
}

// SAFETY: only `tile` touches the memory, and its contract makes tiles disjoint.
unsafe impl Sync for Output {}

impl Output {
    /// Runs a kernel on rows `block` and columns `cols` of the output.
    ///
    /// # Safety
    /// As [`Kernel`], but for the output; `kernel` is for `block.len()` rows; no other thread uses the tile.
    unsafe fn tile(&self, kernel: Kernel, mut tile: Tile, block: Range<usize>, cols: &Range<usize>) {
        let stride = tile.stride;
        assert!(cols.end <= stride && block.end * stride <= self.len && block.len() <= MOST_ROWS);
        if cols.len() == PANEL {
            // SAFETY: rows and columns are within the output by the assertion, the rest is the caller's contract.
            unsafe {
                tile.c = self.start.add(block.start * stride + cols.start);
                kernel(&tile);
            }
            return;
        }
        // The last panel is wider than what is left of the output: work on a copy.
        let mut copy = [[0.0f32; PANEL]; MOST_ROWS];
        let asked = tile.first.min(cols.len())..tile.last.min(cols.len());
        // SAFETY: each row's slice is within the output by the assertion and used by this thread alone.
        let row = |r: usize| unsafe {
            std::slice::from_raw_parts_mut(
                self.start.add((block.start + r) * stride + cols.start),
                cols.len(),
            )
        };
        if tile.start.is_null() {
            (0..block.len()).for_each(|r| copy[r][asked.clone()].copy_from_slice(&row(r)[asked.clone()]));
        }
        tile.c = copy.as_mut_ptr().cast();
        tile.stride = PANEL;
        // SAFETY: the copy has room for `MOST_ROWS` rows of `PANEL` values; the rest is the caller's contract.
        unsafe { kernel(&tile) };
        (0..block.len()).for_each(|r| row(r)[asked.clone()].copy_from_slice(&copy[r][asked.clone()]));
    }
}

thread_local! {
    static INPUT: Cell<AlignedBytes> = Cell::default();
    static WIDENED: Cell<AlignedBytes> = Cell::default();
}

/// Lends at least `len` bytes that the thread keeps for the next call.
///
/// The buffer is taken out while in use: a thread that waits for others may begin another product meanwhile, which then
/// gets its own.
fn with_scratch<R>(
    slot: &'static std::thread::LocalKey<Cell<AlignedBytes>>,
    len: usize,
    use_it: impl FnOnce(&mut [u8]) -> R,
) -> R {
    let mut buffer = slot.take();
    if buffer.len() < len {
        buffer = AlignedBytes::zeroed(len).unwrap_or_default();
    }
    let result = use_it(&mut buffer);
    slot.set(buffer);
    result
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::linear::WeightType;

    #[test]
    fn products_of_bf16_pairs_are_those_of_widened_weights_for_any_number_of_rows() {
        if !Isa::Avx512Bf16.is_available() {
            return;
        }
        let (in_features, out_features) = (70, 40);
        // Whole numbers, so that sums are exact in any order.
        let values = |len: usize| -> Vec<f32> { (0..len).map(|i| (i * 37 % 17) as f32 - 8.0).collect() };
        let weight = values(in_features * out_features);
        let weight = PackedMatrix::pack(&weight, out_features, in_features, WeightType::Bf16);
        let weight = weight.expect("the shape is right");
        for rows in 1..=30 {
            let x = values(rows * in_features);
            let x = Rows::contiguous(&x, rows, in_features).expect("the shape is right");
            let product = |set| {
                let mut out = vec![f32::NAN; rows * out_features];
                Span::new(set, x, 0..rows, &weight, None).run(&mut out);
                out
            };
            let widened = product(&avx512::vnni::KERNELS);
            assert_eq!(product(&avx512::PAIRS_FIRST), widened, "{rows} rows in pairs");
            assert_eq!(product(&avx512::bf16::KERNELS), widened, "{rows} rows");
        }
    }
}
