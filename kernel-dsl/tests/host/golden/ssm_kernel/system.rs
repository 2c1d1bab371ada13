//! The systems of a case, and the layer around their kernels.

use spillway_kernel_dsl::Rows;

use crate::support::Case;

/// A parameter as the software stores it, what it stands for, and the slope.
pub(super) struct Transformed {
    pub(super) values: Vec<f64>,
    pub(super) slopes: Vec<f64>,
}

pub(super) fn transformed(transform: &str, stored: &[f32]) -> Transformed {
    let one = |&p: &f32| -> (f64, f64) {
        let p = f64::from(p);
        let sigmoid = 1.0 / (1.0 + (-p).exp());
        match transform {
            "none" => (p, 1.0),
            "exp" => (p.exp(), p.exp()),
            "relu" => (p.max(0.0) + 1e-4, if p > 0.0 { 1.0 } else { 0.0 }),
            "sigmoid" => (sigmoid, sigmoid * (1.0 - sigmoid)),
            "softplus" => (p.exp().ln_1p(), sigmoid),
            other => panic!("no transform {other}"),
        }
    };
    let (values, slopes) = stored.iter().map(one).unzip();
    Transformed { values, slopes }
}

/// What all systems have, by the names of the software that made the case.
pub(super) struct System {
    pub(super) modes: usize,
    pub(super) copies: usize,
    pub(super) step: Transformed,
    pub(super) damping: Transformed,
    pub(super) frequency: Transformed,
    /// The sign of the imaginary part.
    pub(super) sign: f64,
    pub(super) rate: f64,
    pub(super) b: Vec<f32>,
    pub(super) c: Vec<f32>,
    /// 0 where the band limit drops a mode.
    pub(super) mask: Vec<f32>,
    pub(super) names: [&'static str; 3],
}

impl System {
    /// The minimal S4D layer, which stores logarithms and has B = 1, or the full one.
    pub(super) fn new(case: &Case) -> Self {
        let minimal = case.input_if_any("log_dt").is_some();
        let names = match minimal {
            true => ["log_dt", "log_A_real", "A_imag"],
            false => ["inv_dt", "A_real", "A_imag"],
        };
        let real = case.scalar_if_any("is_real") == Some(1.0);
        let modes = if real { case.dim("N") } else { case.dim("N") / 2 };
        let transform = |name, usual| case.text(name).unwrap_or(usual);
        let zeros = vec![0.0; case.input(names[1]).len()];
        let imaginary = case.input_if_any(names[2]).unwrap_or(&zeros);
        let copies = case.input(names[1]).len() / modes;
        let ones: Vec<f32> = [1.0, 0.0].repeat(copies * modes);
        let complex = |values: &[f32]| match real {
            true => values.iter().flat_map(|&x| [x, 0.0]).collect(),
            false => values.to_vec(),
        };
        let mut system = Self {
            modes,
            copies,
            step: transformed(transform("dt_transform", "exp"), case.input(names[0])),
            damping: transformed(transform("real_transform", "exp"), case.input(names[1])),
            frequency: transformed(transform("imag_transform", "none"), imaginary),
            sign: if minimal { 1.0 } else { -1.0 },
            rate: case.scalar_if_any("rate").unwrap_or(1.0),
            b: case.input_if_any("B").map_or(ones, complex),
            c: complex(case.input("C")),
            mask: Vec::new(),
            names,
        };
        system.limit_band(case);
        system
    }

    /// Keeps the modes below half the limit in cycles per sample, at the rate of training.
    pub(super) fn limit_band(&mut self, case: &Case) {
        self.mask = vec![1.0; self.c.len()];
        let Some(limit) = case.scalar_if_any("bandlimit") else {
            return;
        };
        let channels = case.dim("H");
        for (index, mask) in self.mask.chunks_exact_mut(2).enumerate() {
            let (channel, n) = (index / self.modes % channels, index % self.modes);
            let frequency = self.frequency.values[channel % self.copies * self.modes + n];
            let step = self.step.values[channel];
            if step * frequency.abs() / std::f64::consts::TAU >= limit / 2.0 {
                mask.fill(0.0);
            }
        }
        self.c.iter_mut().zip(&self.mask).for_each(|(c, mask)| *c *= mask);
    }

    pub(super) fn step(&self) -> Vec<f32> {
        self.step.values.iter().map(|&x| (x * self.rate) as f32).collect()
    }

    pub(super) fn a(&self) -> Vec<f32> {
        let pairs = self.damping.values.iter().zip(&self.frequency.values);
        pairs
            .flat_map(|(re, im)| [-re as f32, (self.sign * im) as f32])
            .collect()
    }

    /// The gradients by what is stored.
    pub(super) fn check_gradients(
        &self,
        case: &Case,
        form: &str,
        step: &[f32],
        a: &[f32],
        b: &[f32],
        c: &[f32],
    ) {
        let scaled = |by: &[f32], slopes: &[f64], factor: f64| -> Vec<f32> {
            let pairs = by.iter().zip(slopes);
            pairs
                .map(|(&by, slope)| (f64::from(by) * slope * factor) as f32)
                .collect()
        };
        let part = |values: &[f32], offset: usize| -> Vec<f32> {
            values.iter().skip(offset).step_by(2).copied().collect()
        };
        let complex = |by: &[f32], name: &str| match case.input(name).len() == by.len() {
            true => by.to_vec(),
            false => part(by, 0),
        };
        let by_re = scaled(&part(a, 0), &self.damping.slopes, -1.0);
        let by_im = scaled(&part(a, 1), &self.frequency.slopes, self.sign);
        case.check_gradient(form, self.names[0], &scaled(step, &self.step.slopes, self.rate));
        case.check_gradient(form, self.names[1], &by_re);
        if case.input_if_any(self.names[2]).is_some() {
            case.check_gradient(form, self.names[2], &by_im);
        }
        if case.input_if_any("B").is_some() {
            case.check_gradient(form, "B", &complex(b, "B"));
        }
        let by_c: Vec<f32> = c.iter().zip(&self.mask).map(|(by, mask)| by * mask).collect();
        case.check_gradient(form, "C", &complex(&by_c, "C"));
    }
}

/// The sizes of kernels, states and signals of a case.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) channels: usize,
    pub(super) readouts: usize,
    pub(super) batch: usize,
    pub(super) length: usize,
}

impl Sizes {
    pub(super) fn new(case: &Case) -> Self {
        let (channels, length) = (case.dim("H"), case.dim("L"));
        let signal = case.input_if_any("u").map_or(0, <[f32]>::len);
        Self {
            channels,
            readouts: case.output("K").len() / (channels * length),
            batch: signal / (channels * length),
            length,
        }
    }

    /// Outputs of the layer, y = K ∗ u + S, `[batch, readouts, channels, length]`.
    pub(super) fn outputs(&self, kernel: &[f32], response: &[f32], signal: &[f32]) -> Vec<f32> {
        let mut y = response.to_vec();
        y.resize(self.batch * self.readouts * self.channels * self.length, 0.0);
        self.each(|b, r, h| {
            let (k, u) = (self.kernel_row(r, h), (b * self.channels + h) * self.length);
            let row = self.output_row(b, r, h);
            for l in 0..self.length {
                let terms = (0..=l).map(|m| f64::from(kernel[k + m]) * f64::from(signal[u + l - m]));
                y[row + l] += terms.sum::<f64>() as f32;
            }
        });
        y
    }

    /// What the cotangent of y adds to those of K and of u.
    pub(super) fn pull_back(&self, kernel: &[f32], signal: &[f32], by_y: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut by_kernel = vec![0.0_f64; kernel.len()];
        let mut by_signal = vec![0.0_f64; signal.len()];
        self.each(|b, r, h| {
            let (k, u) = (self.kernel_row(r, h), (b * self.channels + h) * self.length);
            let row = self.output_row(b, r, h);
            for l in 0..self.length {
                let by = f64::from(by_y[row + l]);
                for m in 0..=l {
                    by_kernel[k + m] += by * f64::from(signal[u + l - m]);
                    by_signal[u + l - m] += by * f64::from(kernel[k + m]);
                }
            }
        });
        let narrow = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect();
        (narrow(by_kernel), narrow(by_signal))
    }

    pub(super) fn each(&self, mut run: impl FnMut(usize, usize, usize)) {
        for b in 0..self.batch {
            for r in 0..self.readouts {
                (0..self.channels).for_each(|h| run(b, r, h));
            }
        }
    }

    pub(super) fn kernel_row(&self, r: usize, h: usize) -> usize {
        (r * self.channels + h) * self.length
    }

    pub(super) fn output_row(&self, b: usize, r: usize, h: usize) -> usize {
        ((b * self.readouts + r) * self.channels + h) * self.length
    }
}

pub(super) fn rows(values: &[f32], cols: usize) -> Rows<'_> {
    let count = values.len().checked_div(cols).unwrap_or(0);
    Rows::contiguous(values, count, cols).expect("whole rows")
}

pub(super) fn sum(a: &[f32], b: Option<&[f32]>) -> Vec<f32> {
    let mut sum = a.to_vec();
    let added = b.unwrap_or_default();
    sum.iter_mut().zip(added).for_each(|(sum, b)| *sum += b);
    sum
}
