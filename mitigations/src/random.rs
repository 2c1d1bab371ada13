//! Reproducible random numbers, a few lines so that their bits depend on no other crate's version.

/// splitmix64 (Steele, Lea & Flood, *Fast splittable pseudorandom number generators*, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Bits(u64);

impl Bits {
    /// The stream of these numbers; other numbers, another stream.
    pub(crate) fn new(key: &[u64]) -> Self {
        let mut bits = Self(0);
        for part in key {
            bits.0 ^= part;
            bits.0 = bits.next();
        }
        bits
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1].
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// −1 or 1, each with probability 1/2.
    pub(crate) fn sign(&mut self) -> f64 {
        if self.next() >> 63 == 0 { 1.0 } else { -1.0 }
    }
}

/// Standard normal numbers, by Box and Muller's transform.
#[derive(Clone, Debug)]
pub(crate) struct Normal {
    bits: Bits,
    second: Option<f64>,
}

impl Normal {
    pub(crate) fn new(key: &[u64]) -> Self {
        Self {
            bits: Bits::new(key),
            second: None,
        }
    }

    pub(crate) fn next(&mut self) -> f64 {
        if let Some(second) = self.second.take() {
            return second;
        }
        let radius = (-2.0 * self.bits.uniform().ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * self.bits.uniform()).sin_cos();
        self.second = Some(radius * sine);
        radius * cosine
    }
}
