//! Complex numbers that lie as two interleaved f32, and the functions of them that keep their digits.

pub(crate) use num_complex::Complex64;

/// The number at `index` of a buffer of pairs.
#[inline(always)]
pub(crate) fn at(values: &[f32], index: usize) -> Complex64 {
    Complex64::new(f64::from(values[2 * index]), f64::from(values[2 * index + 1]))
}

/// Writes the number at `index` of a buffer of pairs, rounded.
#[inline(always)]
pub(crate) fn put(values: &mut [f32], index: usize, z: Complex64) {
    values[2 * index] = z.re as f32;
    values[2 * index + 1] = z.im as f32;
}

/// eᶻ − 1, to all digits near z = 0.
pub(crate) fn exp_m1(z: Complex64) -> Complex64 {
    let half = (0.5 * z.im).sin();
    let growth = z.re.exp_m1();
    // cos y − 1 = −2 sin²(y/2).
    Complex64::new(
        growth * z.im.cos() - 2.0 * half * half,
        (growth + 1.0) * z.im.sin(),
    )
}

/// φ₁(z) = (eᶻ − 1)/z, and 1 at z = 0.
pub(crate) fn phi1(z: Complex64) -> Complex64 {
    match z == Complex64::ZERO {
        true => Complex64::ONE,
        false => exp_m1(z) / z,
    }
}

/// dφ₁/dz = (eᶻ − φ₁(z))/z = Σ_k (k + 1) zᵏ/(k + 2)!.
pub(crate) fn phi1_derivative(z: Complex64) -> Complex64 {
    /// Magnitude of z below which sixteen terms of the series are exact; the difference above it loses one digit.
    const SERIES: f64 = 0.3;
    if z.norm() >= SERIES {
        return (z.exp() - phi1(z)) / z;
    }
    let (mut term, mut sum) = (Complex64::new(0.5, 0.0), Complex64::ZERO);
    for k in 0..16 {
        let k = f64::from(k);
        sum += term * (k + 1.0);
        term = term * z / (k + 3.0);
    }
    sum
}

/// zⁿ by squarings; 1 for n = 0.
pub(crate) fn power(z: Complex64, mut n: usize) -> Complex64 {
    let (mut square, mut product) = (z, Complex64::ONE);
    while n > 0 {
        if n & 1 == 1 {
            product *= square;
        }
        square *= square;
        n >>= 1;
    }
    product
}

/// Complex numbers with all real parts before all imaginary ones, for SIMD lanes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lanes {
    pub re: Vec<f64>,
    pub im: Vec<f64>,
}

impl Lanes {
    pub fn zeros(len: usize) -> Self {
        Self {
            re: vec![0.0; len],
            im: vec![0.0; len],
        }
    }

    pub fn get(&self, index: usize) -> Complex64 {
        Complex64::new(self.re[index], self.im[index])
    }

    pub fn set(&mut self, index: usize, z: Complex64) {
        self.re[index] = z.re;
        self.im[index] = z.im;
    }

    pub fn fill(&mut self, z: Complex64) {
        self.re.fill(z.re);
        self.im.fill(z.im);
    }

    pub fn copy_from(&mut self, other: &Self) {
        self.re.copy_from_slice(&other.re);
        self.im.copy_from_slice(&other.im);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_keep_their_digits_near_zero() {
        for size in [1e-12, 1e-6, 1e-2, 0.29, 0.31, 2.0] {
            let z = Complex64::from_polar(size, 2.0);
            // By the series, which converges everywhere.
            let (mut term, mut phi, mut slope) = (Complex64::ONE, Complex64::ZERO, Complex64::ZERO);
            for k in 0..40 {
                let k = f64::from(k);
                phi += term / (k + 1.0);
                slope += term / (k + 2.0);
                term = term * z / (k + 1.0);
            }
            // Σ z^k/(k!(k+1)) = φ₁; Σ z^k/(k!(k+2)) = φ₁′.
            assert!((phi1(z) - phi).norm() < 4e-16, "φ₁ at {z}");
            assert!((phi1_derivative(z) - slope).norm() < 4e-15, "φ₁′ at {z}");
            assert!((exp_m1(z) - z * phi).norm() <= 4e-16 * size, "e^z − 1 at {z}");
        }
    }

    #[test]
    fn powers_are_products() {
        let z = Complex64::new(0.3, -0.9);
        let mut product = Complex64::ONE;
        for n in 0..40 {
            assert!((power(z, n) - product).norm() < 1e-15);
            product *= z;
        }
    }
}
