//! Linear maps with weights that come from memory, as a model's layers do.

use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::linear::{PackedMatrix, WeightType, linear};

use serde_json::json;

use super::{Kernel, Work, values};

/// More than the last cache holds: the weights rotate through as many copies as this takes.
const COLD_BYTES: usize = 192 << 20;

/// The input projection of a 130M model at 1, 16 and 512 rows, and its head at one.
pub fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for weight_type in [
        WeightType::F32,
        WeightType::Bf16,
        WeightType::Int8,
        WeightType::Int4,
    ] {
        for rows in [1, 16, 512] {
            kernels.push(kernel(weight_type, [3352, 768], rows));
        }
        kernels.push(kernel(weight_type, [50280, 768], 1));
    }
    kernels
}

fn kernel(weight_type: WeightType, [out_features, in_features]: [usize; 2], rows: usize) -> Kernel {
    let (form, weight_bits) = match weight_type {
        WeightType::F32 => ("f32", 32),
        WeightType::Bf16 => ("bf16", 16),
        WeightType::Int8 => ("int8", 8),
        WeightType::Q8_0 => ("q8_0", 8),
        WeightType::Int4 => ("int4", 4),
    };
    let weight_bytes = out_features * in_features * weight_bits / 8;
    let copies = COLD_BYTES.div_ceil(weight_bytes);
    let work = Work {
        bytes: weight_bytes + 4 * rows * (in_features + out_features),
        working_set: copies * weight_bytes,
        ..Work::in_place(rows, 2 * rows * in_features * out_features, 0)
    };
    let sizes = json!({ "rows": rows, "in_features": in_features, "out_features": out_features });
    Kernel::on_host(
        form,
        format!("{in_features}x{out_features}_rows{rows}"),
        sizes,
        work,
        move || {
            let weight = values(out_features * in_features);
            let pack = |_| PackedMatrix::pack(&weight, out_features, in_features, weight_type);
            let weights: Vec<_> = (0..copies).map(pack).collect::<Result<_, _>>()?;
            let (x, mut out) = (values(rows * in_features), vec![0.0; rows * out_features]);
            let mut turn = 0;
            Ok(move || {
                turn = (turn + 1) % weights.len();
                linear(
                    Rows::contiguous(&x, rows, in_features)?,
                    &weights[turn],
                    None,
                    &mut out,
                )?;
                Ok(())
            })
        },
    )
}
