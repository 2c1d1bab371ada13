//! What a chunk of tokens does to a state and to outputs, as rows of products, from powers of Ā in f64.
//!
//! Inside of a chunk the feedback of a low rank counts as more inputs and outputs of a diagonal system: the inputs are u by B̄ and
//! each s_k by −F_k, the outputs are each y by C after a token and each s_k by E_k before it. With x the state before the chunk,
//! an output j of token t is
//!
//! ```text
//! Σ_n [w R_j Ā^t]_n · x_n + Σ_i Σ_{l ≤ t} K_ji[t − l] v_i[l]          K_ji[l] = w Re Σ_n R_jn Ā_n^l V_in
//! ```
//!
//! with R = C Ā and V = B̄ for y of u, one power less where the output is taken before the token.

use crate::linear_state_space::channel::Discrete;
use pulp::c64;

/// The tables of one channel, in f32, for chunks of up to `size` tokens.
pub(super) struct Tables {
    /// Tokens of a chunk, filled up to whole vectors: the length of rows over tokens.
    pub size: usize,
    /// Values of a state, filled up likewise.
    pub width: usize,
    outputs: usize,
    inputs: usize,
    /// What each value of the state gives to each token: `[outputs, state, size]`.
    of_state: Vec<f32>,
    /// What each token gives to the state at the end: `[inputs, size, width]`, in the order of tokens.
    to_state: Vec<f32>,
    /// Zeros for as many tokens, then K: `[outputs, inputs, 2 size]`.
    kernels: Vec<f32>,
    /// Ā^l for l = 0 ..= size as pairs, `[size + 1, state]`.
    powers: Vec<f32>,
    state: usize,
}

/// An input or output of the diagonal system.
pub(super) struct Port {
    /// Real parts, then imaginary ones.
    re: Vec<f64>,
    im: Vec<f64>,
}

impl Port {
    pub(super) fn new(values: impl Iterator<Item = c64>) -> Self {
        let (re, im) = values.map(|value| (value.re, value.im)).unzip();
        Self { re, im }
    }

    /// The products with another.
    #[inline(always)]
    pub(super) fn times(&self, other: &Self, product: &mut Self) {
        let factors = self.re.iter().zip(&self.im).zip(other.re.iter().zip(&other.im));
        let products = product.re.iter_mut().zip(&mut product.im);
        for ((re, im), ((a, b), (c, d))) in products.zip(factors) {
            (*re, *im) = (a * c - b * d, a * d + b * c);
        }
    }

    /// Re Σ of the products with another.
    #[inline(always)]
    pub(super) fn inner(&self, other: &Self) -> f64 {
        const LANES: usize = 8;
        let mut sums = [0.0; LANES];
        let chunks = |values: &'_ Vec<f64>| values.len() / LANES * LANES;
        let whole = chunks(&self.re);
        for at in (0..whole).step_by(LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += self.re[at + i] * other.re[at + i] - self.im[at + i] * other.im[at + i];
            }
        }
        let rest = (whole..self.re.len()).map(|i| self.re[i] * other.re[i] - self.im[i] * other.im[i]);
        sums.iter().sum::<f64>() + rest.sum::<f64>()
    }

    /// Adds another times a real factor.
    #[inline(always)]
    pub(super) fn add_scaled(&mut self, factor: f64, other: &Self) {
        for (sums, terms) in [(&mut self.re, &other.re), (&mut self.im, &other.im)] {
            for (sum, term) in sums.iter_mut().zip(terms) {
                *sum += factor * term;
            }
        }
    }

    /// Writes the values as pairs.
    #[inline(always)]
    pub(super) fn store(&self, pairs: &mut [f32]) {
        for ((pair, re), im) in pairs.chunks_exact_mut(2).zip(&self.re).zip(&self.im) {
            (pair[0], pair[1]) = (*re as f32, *im as f32);
        }
    }

    /// Writes the conjugates times a real factor, as pairs.
    #[inline(always)]
    pub(super) fn store_conjugate(&self, factor: f64, pairs: &mut [f32]) {
        for ((pair, re), im) in pairs.chunks_exact_mut(2).zip(&self.re).zip(&self.im) {
            (pair[0], pair[1]) = ((factor * re) as f32, (-factor * im) as f32);
        }
    }
}

/// What a low rank feeds back in a channel: E_k and F_k.
pub(super) fn feedback(discrete: &Discrete) -> Vec<(Port, Port)> {
    let rows = |values: &[c64]| -> Vec<Port> {
        let rows = values.chunks_exact(discrete.modes.len().max(1));
        rows.map(|row| Port::new(row.iter().copied())).collect()
    };
    rows(&discrete.read)
        .into_iter()
        .zip(rows(&discrete.write))
        .collect()
}

impl Tables {
    /// Room for tables; `reads` are the outputs y, of which each token may have several.
    pub(super) fn new(size: usize, state: usize, width: usize, reads: usize, rank: usize) -> Self {
        let (outputs, inputs) = (reads + rank, 1 + rank);
        let len = size.next_multiple_of(super::WIDEST_VECTOR);
        Self {
            size: len,
            width,
            outputs,
            inputs,
            of_state: vec![0.0; outputs * state * len],
            to_state: vec![0.0; inputs * len * width],
            kernels: vec![0.0; outputs * inputs * 2 * len],
            powers: vec![0.0; (len + 1) * state],
            state,
        }
    }

    /// Fills the tables with the powers of a channel, whose C has the weight `weight`.
    #[inline(always)]
    pub(super) fn fill(&mut self, discrete: &Discrete, c: &[c64], weight: f64) {
        let n = self.state / 2;
        let decay = Port::new(discrete.modes.iter().map(|mode| mode.change + 1.0));
        let ports = |values: &[c64], weight: f64| -> Vec<Port> {
            values
                .chunks_exact(n.max(1))
                .map(|row| Port::new(row.iter().map(|value| value * weight)))
                .collect()
        };
        let mut inputs = vec![Port::new(discrete.modes.iter().map(|mode| mode.input))];
        inputs.extend(ports(&discrete.write, -1.0));
        let reads = ports(c, weight);
        let feedback = ports(&discrete.read, 2.0);
        let mut power = Port::new((0..n).map(|_| c64::new(1.0, 0.0)));
        let [mut next, mut product] = [(), ()].map(|()| Port::new((0..n).map(|_| c64::new(0.0, 0.0))));
        for l in 0..=self.size {
            let values = self.powers[l * self.state..][..self.state].chunks_exact_mut(2);
            for ((pair, re), im) in values.zip(&power.re).zip(&power.im) {
                (pair[0], pair[1]) = (*re as f32, *im as f32);
            }
            if l == self.size {
                break;
            }
            power.times(&decay, &mut next);
            for (i, input) in inputs.iter().enumerate() {
                input.times(&power, &mut product);
                self.store_to_state(i, self.size - 1 - l, &product);
                for (j, read) in reads.iter().enumerate() {
                    self.store_kernel(j, i, l, read.inner(&product));
                }
                if l + 1 < self.size {
                    for (k, read) in feedback.iter().enumerate() {
                        self.store_kernel(reads.len() + k, i, l + 1, read.inner(&product));
                    }
                }
            }
            for (j, read) in reads.iter().enumerate() {
                read.times(&next, &mut product);
                self.store_of_state(j, l, &product);
            }
            for (k, read) in feedback.iter().enumerate() {
                read.times(&power, &mut product);
                self.store_of_state(reads.len() + k, l, &product);
            }
            std::mem::swap(&mut power, &mut next);
        }
    }

    #[inline(always)]
    fn store_to_state(&mut self, input: usize, token: usize, values: &Port) {
        let row = &mut self.to_state[(input * self.size + token) * self.width..][..self.state];
        for ((pair, re), im) in row.chunks_exact_mut(2).zip(&values.re).zip(&values.im) {
            (pair[0], pair[1]) = (*re as f32, *im as f32);
        }
    }

    #[inline(always)]
    fn store_of_state(&mut self, output: usize, token: usize, values: &Port) {
        let rows = &mut self.of_state[output * self.state * self.size..][..self.state * self.size];
        for ((pair, re), im) in rows
            .chunks_exact_mut(2 * self.size)
            .zip(&values.re)
            .zip(&values.im)
        {
            (pair[token], pair[self.size + token]) = (*re as f32, -*im as f32);
        }
    }

    #[inline(always)]
    fn store_kernel(&mut self, output: usize, input: usize, lag: usize, value: f64) {
        self.kernels[(output * self.inputs + input) * 2 * self.size + self.size + lag] = value as f32;
    }

    /// What value `i` of the state gives to the tokens of an output.
    #[inline(always)]
    pub(super) fn of_state(&self, output: usize, i: usize) -> &[f32] {
        &self.of_state[(output * self.state + i) * self.size..][..self.size]
    }

    /// What an input at a token gives to the state `tokens` tokens after the beginning.
    #[inline(always)]
    pub(super) fn to_state(&self, input: usize, token: usize, tokens: usize) -> &[f32] {
        let row = input * self.size + self.size - tokens + token;
        &self.to_state[row * self.width..][..self.width]
    }

    /// What an input at a token gives to the tokens of an output: 0 before it.
    #[inline(always)]
    pub(super) fn kernel(&self, output: usize, input: usize, token: usize) -> &[f32] {
        &self.kernels[(output * self.inputs + input) * 2 * self.size + self.size - token..][..self.size]
    }

    /// Ā^tokens of every mode, as pairs (re, im).
    #[inline(always)]
    pub(super) fn power(&self, tokens: usize) -> &[f32] {
        &self.powers[tokens * self.state..][..self.state]
    }

    /// Number of outputs y, which come before the outputs that are fed back.
    pub(super) fn reads(&self) -> usize {
        self.outputs + 1 - self.inputs
    }
}
