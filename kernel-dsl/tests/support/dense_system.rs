//! A discrete linear system of conjugate pairs as a dense matrix.

use pulp::c64;
use spillway_kernel_dsl::linear_state_space::Rule;

/// A vector of one of each conjugate pair, and the others.
pub fn doubled(values: &[c64]) -> Vec<c64> {
    values
        .iter()
        .copied()
        .chain(values.iter().map(|value| value.conj()))
        .collect()
}

/// A discrete system of size 2N as a dense matrix.
pub struct Dense {
    pub a: Vec<Vec<c64>>,
    pub input: Vec<c64>,
}

impl Dense {
    pub fn new(rule: Rule, step: f64, a: &[c64], b: &[c64], p: &[Vec<c64>]) -> Self {
        let (a, b) = (doubled(a), doubled(b));
        let size = a.len();
        let zeros = vec![vec![c64::new(0.0, 0.0); size]; size];
        if rule != Rule::Bilinear {
            let mut dense = zeros;
            let mut input = b.clone();
            for i in 0..size {
                let z = a[i] * step;
                dense[i][i] = c64::new(z.im.cos(), z.im.sin()) * z.re.exp();
                input[i] *= match rule {
                    Rule::ZeroOrderHold => (dense[i][i] - 1.0) / a[i],
                    _ => c64::new(step, 0.0),
                };
            }
            return Self { a: dense, input };
        }
        let p: Vec<Vec<c64>> = p.iter().map(|p| doubled(p)).collect();
        let half = 0.5 * step;
        let (mut left, mut right) = (zeros.clone(), zeros);
        for i in 0..size {
            for j in 0..size {
                let diagonal = if i == j { a[i] } else { c64::new(0.0, 0.0) };
                let value = diagonal - p.iter().map(|p| p[i] * p[j].conj()).sum::<c64>();
                let one = f64::from(u8::from(i == j));
                left[i][j] = one - value * half;
                right[i][j] = one + value * half;
            }
        }
        let columns: Vec<Vec<c64>> = (0..size)
            .map(|j| solve(&left, &right.iter().map(|row| row[j]).collect::<Vec<_>>()))
            .collect();
        let input = solve(&left, &b.iter().map(|b| b * step).collect::<Vec<_>>());
        Self {
            a: (0..size)
                .map(|i| columns.iter().map(|column| column[i]).collect())
                .collect(),
            input,
        }
    }

    pub fn apply(&self, x: &[c64]) -> Vec<c64> {
        self.a
            .iter()
            .map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum())
            .collect()
    }

    /// C from C (1 − Ā^length), of conjugate pairs.
    pub fn without_truncation(&self, c: &[c64], length: usize) -> Vec<c64> {
        let size = self.a.len();
        let mut transposed = vec![vec![c64::new(0.0, 0.0); size]; size];
        for j in 0..size {
            let mut column = vec![c64::new(0.0, 0.0); size];
            column[j] = c64::new(1.0, 0.0);
            let mut power = column.clone();
            (0..length).for_each(|_| power = self.apply(&power));
            for i in 0..size {
                transposed[j][i] = column[i] - power[i];
            }
        }
        solve(&transposed, &doubled(c))[..size / 2].to_vec()
    }
}

/// x with A x = b, by elimination.
pub fn solve(a: &[Vec<c64>], b: &[c64]) -> Vec<c64> {
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    let size = b.len();
    for column in 0..size {
        let pivot = (column..size)
            .max_by(|&i, &j| a[i][column].norm_sqr().total_cmp(&a[j][column].norm_sqr()))
            .expect("a row");
        a.swap(pivot, column);
        b.swap(pivot, column);
        for row in 0..size {
            if row != column {
                let factor = a[row][column] / a[column][column];
                let pivot_row = a[column].clone();
                for (value, pivot) in a[row].iter_mut().zip(pivot_row).skip(column) {
                    *value -= factor * pivot;
                }
                let value = b[column];
                b[row] -= factor * value;
            }
        }
    }
    (0..size).map(|i| b[i] / a[i][i]).collect()
}
