//! The ceilings that bound kernels, measured in the same run.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Value, json};
use spillway_kernel_dsl::{roofline, simd};

use super::work::{Arithmetic, Work};

/// What a machine or a device does at most.
pub struct Ceilings {
    /// The processor with its threads, or the device.
    description: String,
    /// f32 multiply-adds in GFLOP/s.
    multiply_adds: f64,
    /// Matrix products of bf16 values in GFLOP/s, where they were measured.
    bf16_products: Option<f64>,
    /// GB/s by size of the working set in bytes, each measured when first asked for.
    bandwidth: BTreeMap<usize, f64>,
    measure_bandwidth: Box<dyn FnMut(usize) -> f64>,
    /// Smaller working sets all fit the first cache; larger ones count as memory.
    sizes: RangeInclusive<usize>,
}

impl Ceilings {
    /// Ceilings of this processor with all threads of the pool, at the level of instructions in use.
    pub fn of_host() -> Self {
        let threads = rayon::current_num_threads();
        let ceilings = Self::new(
            format!("{threads} threads, {} instructions", simd::active()),
            roofline::fma_peak(threads),
            None,
            Box::new(move |bytes| roofline::read_bandwidth(threads, bytes)),
            16 << 10..=256 << 20,
        );
        ceilings.announced()
    }

    /// Ceilings of which only the bandwidth is still to be measured, for working sets of these sizes.
    pub fn new(
        description: String,
        multiply_adds: f64,
        bf16_products: Option<f64>,
        measure_bandwidth: Box<dyn FnMut(usize) -> f64>,
        sizes: RangeInclusive<usize>,
    ) -> Self {
        Self {
            description,
            multiply_adds,
            bf16_products,
            bandwidth: BTreeMap::new(),
            measure_bandwidth,
            sizes,
        }
    }

    /// Prints one line that says what the ceilings are, and gives them back.
    pub fn announced(mut self) -> Self {
        let memory = self.bandwidth(*self.sizes.end());
        print!(
            "{}: multiply-adds {:.0} GFLOP/s, memory {memory:.1} GB/s",
            self.description, self.multiply_adds
        );
        match self.bf16_products {
            Some(products) => println!(", bf16 matrix products {products:.0} GFLOP/s"),
            None => println!(),
        }
        self
    }

    fn bandwidth(&mut self, bytes: usize) -> f64 {
        let size = bytes
            .clamp(*self.sizes.start(), *self.sizes.end())
            .next_power_of_two();
        *self
            .bandwidth
            .entry(size)
            .or_insert_with(|| (self.measure_bandwidth)(size))
    }

    /// Shortest time in seconds that the work can take, and what binds it.
    pub fn bound(&mut self, work: Work) -> (f64, &'static str) {
        let (peak, name) = match (work.arithmetic, self.bf16_products) {
            (Arithmetic::Bf16Products, Some(products)) => (products, "bf16 products"),
            _ => (self.multiply_adds, "multiply-adds"),
        };
        let computing = work.flops as f64 / peak / 1e9;
        let moving = work.bytes as f64 / self.bandwidth(work.working_set) / 1e9;
        if computing > moving {
            (computing, name)
        } else {
            (moving, "bandwidth")
        }
    }

    /// The ceilings as JSON: GFLOP/s of arithmetic, and GB/s by the size of the working set in bytes.
    pub fn json(&self) -> Value {
        let bandwidth: Vec<Value> = self
            .bandwidth
            .iter()
            .map(|(bytes, speed)| json!({ "working_set_bytes": bytes, "gb_per_s": speed }))
            .collect();
        json!({
            "device": self.description,
            "multiply_add_gflops": self.multiply_adds,
            "bf16_product_gflops": self.bf16_products,
            "bandwidth": bandwidth,
        })
    }
}
