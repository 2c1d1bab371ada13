//! Linear maps with weights that come from memory, as a model's layers do.

use std::rc::Rc;

use kernel_dsl::Rows;
use kernel_dsl::linear::{PackedMatrix, WeightType, linear};

use super::{Failure, Kernel, Work, values};

/// More than the last cache holds: the weights rotate through as many copies as this takes.
const COLD_BYTES: usize = 192 << 20;

/// The input projection of a 130M model at 1, 16 and 512 rows, and its head at one.
pub fn kernels() -> Result<Vec<Kernel>, Failure> {
    let mut kernels = Vec::new();
    for weight_type in [WeightType::F32, WeightType::Bf16, WeightType::Int8] {
        for (out_features, all_rows) in [(3352, &[1, 16, 512][..]), (50280, &[1][..])] {
            let weights = Rc::new(copies(out_features, 768, weight_type)?);
            for &rows in all_rows {
                kernels.push(kernel(&weights, rows)?);
            }
        }
    }
    Ok(kernels)
}

fn copies(
    out_features: usize,
    in_features: usize,
    weight_type: WeightType,
) -> Result<Vec<PackedMatrix>, Failure> {
    let weight = values(out_features * in_features);
    let pack = || PackedMatrix::pack(&weight, out_features, in_features, weight_type);
    let mut copies = vec![pack()?];
    while copies.len() * copies[0].bytes() < COLD_BYTES {
        copies.push(pack()?);
    }
    Ok(copies)
}

fn kernel(weights: &Rc<Vec<PackedMatrix>>, rows: usize) -> Result<Kernel, Failure> {
    let weights = Rc::clone(weights);
    let (out_features, in_features) = (weights[0].out_features(), weights[0].in_features());
    let (x, mut out) = (values(rows * in_features), vec![0.0; rows * out_features]);
    let work = Work {
        flops: 2 * rows * in_features * out_features,
        bytes: weights[0].bytes() + 4 * (x.len() + out.len()),
        working_set: weights.len() * weights[0].bytes(),
    };
    let name = format!("{}/{in_features}x{out_features}/{rows}", weights[0].weight_type());
    let mut turn = 0;
    let mut call = move || -> Result<(), Failure> {
        turn = (turn + 1) % weights.len();
        linear(
            Rows::contiguous(&x, rows, in_features)?,
            &weights[turn],
            None,
            &mut out,
        )?;
        Ok(())
    };
    call()?;
    Ok(Kernel {
        name,
        work,
        run: Box::new(move || call().expect("the first call succeeded")),
    })
}
