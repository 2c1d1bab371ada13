//! Fast Fourier transforms in the memory of a device, along the points of many channels at once.
//!
//! A spectrum is `[lines, points, 2, channels]`: real and imaginary parts of neighbouring channels lie beside each other. Passes of radix 4
//! work in place; frequencies stay in bit-reversed order, in which products are formed, so that nothing is permuted.

use std::f64::consts::PI;

use cubecl::prelude::*;

use super::UNITS;
use crate::cube::{Client, DType, DeviceBuffer, Error, address_type, cubes};

/// A transform of `points` points.
pub(super) struct Transform<'a> {
    client: &'a Client,
    pub points: usize,
    /// e^{−2πik/4M} for all k < 4M as products of two numbers, of which the first depends on `k % fine` and the second on `k / fine`: so it is
    /// short enough to be made, in f64, for every call.
    table: DeviceBuffer,
    fine: usize,
}

impl<'a> Transform<'a> {
    /// The transform of signals of `places` places, with as many points as the plan on the host has.
    pub fn new(client: &'a Client, places: usize) -> Result<Self, Error> {
        let points = places.max(2).next_power_of_two() / 2;
        let all = 4 * points;
        let fine = 1_usize << all.ilog2().div_ceil(2);
        let angles = (0..fine).chain((0..all / fine).map(|k| k * fine));
        let table: Vec<f32> = angles
            .flat_map(|k| {
                let angle = -2.0 * PI * k as f64 / all as f64;
                [angle.cos() as f32, angle.sin() as f32]
            })
            .collect();
        Ok(Self {
            client,
            points,
            table: DeviceBuffer::from_f32(client, &table)?,
            fine,
        })
    }

    /// What kernels need to know of it.
    pub fn turns(&self) -> TurnsLaunch {
        TurnsLaunch::new(self.table.arg(), self.fine, self.points, 1.0 / self.points as f32)
    }

    /// Memory for a spectrum.
    pub fn spectrum(&self, lines: usize, channels: usize) -> Result<DeviceBuffer, Error> {
        DeviceBuffer::empty(self.client, 2 * lines * self.points * channels, DType::F32)
    }

    /// Frequencies in bit-reversed order.
    pub fn forward(&self, spectrum: &DeviceBuffer, channels: usize) -> Result<(), Error> {
        let mut length = self.points;
        while length >= 4 {
            self.pass(spectrum, length, channels, false)?;
            length /= 4;
        }
        match length {
            2 => self.pairs(spectrum, channels),
            _ => Ok(()),
        }
    }

    /// Takes frequencies in bit-reversed order to M times the points, in place.
    pub fn inverse(&self, spectrum: &DeviceBuffer, channels: usize) -> Result<(), Error> {
        let mut length = self.points;
        while length >= 4 {
            length /= 4;
        }
        if length == 2 {
            self.pairs(spectrum, channels)?;
        }
        while length < self.points {
            length *= 4;
            self.pass(spectrum, length, channels, true)?;
        }
        Ok(())
    }

    fn pass(&self, spectrum: &DeviceBuffer, length: usize, channels: usize, back: bool) -> Result<(), Error> {
        let total = spectrum.len() / 8;
        pass_kernel::launch(
            self.client,
            cubes(self.client, total.div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(self.client, spectrum.len())?,
            spectrum.arg(),
            self.turns(),
            4 * self.points / length,
            length / 4,
            channels,
            total,
            back,
        );
        Ok(())
    }

    fn pairs(&self, spectrum: &DeviceBuffer, channels: usize) -> Result<(), Error> {
        let total = spectrum.len() / 4;
        pairs_kernel::launch(
            self.client,
            cubes(self.client, total.div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(self.client, spectrum.len())?,
            spectrum.arg(),
            channels,
            total,
        );
        Ok(())
    }
}

/// A complex number in f32.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Complex {
    pub re: f32,
    pub im: f32,
}

/// Product x y of two complex numbers.
#[cube]
pub(super) fn product(x: &Complex, y: &Complex) -> Complex {
    Complex {
        re: x.re * y.re - x.im * y.im,
        im: x.re * y.im + x.im * y.re,
    }
}

/// Product x* y of two complex numbers, the first conjugated.
#[cube]
pub(super) fn product_conjugate(x: &Complex, y: &Complex) -> Complex {
    Complex {
        re: x.re * y.re + x.im * y.im,
        im: x.re * y.im - x.im * y.re,
    }
}

/// What kernels need to know of a transform.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Turns {
    table: Box<[f32]>,
    fine: usize,
    pub points: usize,
    /// 1/M, by which a transform there and back must be multiplied.
    pub scale: f32,
}

#[cube]
impl Turns {
    /// e^{−2πik/4M}, the product of two entries of the table; see [`Transform`].
    fn factor(&self, k: usize) -> Complex {
        let low = 2 * (k % self.fine);
        let high = 2 * (self.fine + k / self.fine);
        let x = Complex {
            re: self.table[low],
            im: self.table[low + 1],
        };
        let y = Complex {
            re: self.table[high],
            im: self.table[high + 1],
        };
        product(&x, &y)
    }

    /// The point of the real values at places n and n + M.
    pub fn folded(&self, n: usize, low: f32, high: f32) -> Complex {
        let turn = self.factor(n);
        product_conjugate(&turn, &Complex { re: low, im: high })
    }

    /// The real value at place `n` of a signal whose point 0 lies at `first`.
    pub fn unfolded(&self, n: usize, spectrum: &[f32], first: usize, channels: usize) -> f32 {
        let place = n % self.points;
        let x = read(spectrum, first + place * 2 * channels, channels);
        let turn = self.factor(place);
        let x = product(&turn, &x);
        select(n < self.points, x.re, x.im)
    }
}

/// The complex number whose real part lies at `at`.
#[cube]
pub(super) fn read(spectrum: &[f32], at: usize, channels: usize) -> Complex {
    Complex {
        re: spectrum[at],
        im: spectrum[at + channels],
    }
}

#[cube]
pub(super) fn write(spectrum: &mut [f32], at: usize, channels: usize, x: &Complex) {
    spectrum[at] = x.re;
    spectrum[at + channels] = x.im;
}

#[cube]
fn add(x: &Complex, y: &Complex) -> Complex {
    Complex {
        re: x.re + y.re,
        im: x.im + y.im,
    }
}

#[cube]
fn sub(x: &Complex, y: &Complex) -> Complex {
    Complex {
        re: x.re - y.re,
        im: x.im - y.im,
    }
}

/// i x: the number turned by a quarter of a circle.
#[cube]
fn turned(x: &Complex) -> Complex {
    Complex { re: -x.im, im: x.re }
}

/// Two levels of decimation in frequency, or what undoes them but for a factor 4; a unit takes the four points of a butterfly. `step` is
/// 4M / length, `quarter` length / 4.
#[cube(launch, address_type = "dynamic")]
fn pass_kernel(
    spectrum: &mut [f32],
    turns: &Turns,
    step: usize,
    quarter: usize,
    channels: usize,
    total: usize,
    #[comptime] back: bool,
) {
    if ABSOLUTE_POS < total {
        let butterfly = ABSOLUTE_POS / channels;
        let j = butterfly % quarter;
        let point = butterfly / quarter * 4 * quarter + j;
        let apart = quarter * 2 * channels;
        let first = point * 2 * channels + ABSOLUTE_POS % channels;
        let second = first + apart;
        let third = second + apart;
        let fourth = third + apart;
        let a = Complex {
            re: spectrum[first],
            im: spectrum[first + channels],
        };
        let b = Complex {
            re: spectrum[second],
            im: spectrum[second + channels],
        };
        let c = Complex {
            re: spectrum[third],
            im: spectrum[third + channels],
        };
        let d = Complex {
            re: spectrum[fourth],
            im: spectrum[fourth + channels],
        };
        let w1 = turns.factor(j * step);
        let w2 = turns.factor(2 * j * step);
        let w3 = turns.factor(3 * j * step);
        if comptime!(back) {
            let q = product_conjugate(&w2, &b);
            let r = product_conjugate(&w1, &c);
            let s = product_conjugate(&w3, &d);
            let sum = add(&a, &q);
            let other = sub(&a, &q);
            let difference = add(&r, &s);
            let rest = turned(&sub(&r, &s));
            write(spectrum, first, channels, &add(&sum, &difference));
            write(spectrum, second, channels, &add(&other, &rest));
            write(spectrum, third, channels, &sub(&sum, &difference));
            write(spectrum, fourth, channels, &sub(&other, &rest));
        } else {
            let sum = add(&a, &c);
            let difference = sub(&a, &c);
            let other = add(&b, &d);
            let rest = turned(&sub(&b, &d));
            write(spectrum, first, channels, &add(&sum, &other));
            write(spectrum, second, channels, &product(&sub(&sum, &other), &w2));
            write(spectrum, third, channels, &product(&sub(&difference, &rest), &w1));
            write(
                spectrum,
                fourth,
                channels,
                &product(&add(&difference, &rest), &w3),
            );
        }
    }
}

/// The last level of an odd number of them; its own inverse but for a factor 2.
#[cube(launch, address_type = "dynamic")]
fn pairs_kernel(spectrum: &mut [f32], channels: usize, total: usize) {
    if ABSOLUTE_POS < total {
        let first = ABSOLUTE_POS / channels * 4 * channels + ABSOLUTE_POS % channels;
        let a = Complex {
            re: spectrum[first],
            im: spectrum[first + channels],
        };
        let second = first + 2 * channels;
        let b = Complex {
            re: spectrum[second],
            im: spectrum[second + channels],
        };
        write(spectrum, first, channels, &add(&a, &b));
        write(spectrum, second, channels, &sub(&a, &b));
    }
}
