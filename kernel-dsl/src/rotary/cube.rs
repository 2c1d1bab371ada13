//! Rotary embedding on a device: a unit for each pair, angles from a table that the host computes in f64.

use cubecl::prelude::*;

use super::{DeviceInputs, Pairing, Positions, Problem};
use crate::cube::view::RowsView;
use crate::cube::{Client, DeviceBuffer, DeviceRows, Error, launch_units};
use crate::operands::ElementTypes;

/// Marks a row of padding.
const PADDING: u32 = u32::MAX;

/// cos θ and sin θ of the positions of a call, on a device; made once and used in every layer.
#[derive(Clone, Debug)]
pub struct DeviceAngles {
    /// cos θ and sin θ, `[positions, rotary_dim / 2]` each.
    cos: DeviceBuffer,
    sin: DeviceBuffer,
    /// Row of `cos` and `sin` that each token has, `[rows]` as u32; [`PADDING`] for a row of padding.
    places: cubecl::server::Handle,
    rows: usize,
    problem: Problem,
}

impl DeviceAngles {
    /// The angles of the tokens that `positions` describes.
    ///
    /// # Errors
    /// [`Error`] when a size does not fit, or when the device cannot hold the table.
    pub fn new(client: &Client, problem: &Problem, positions: &Positions) -> Result<Self, Error> {
        problem.validate_positions(positions).map_err(Error::problem)?;
        let rows = positions.sequences.rows(problem.batch, problem.time);
        let mut of_rows: Vec<Option<usize>> = vec![None; rows];
        for b in 0..problem.batch {
            let span = positions.sequences.span(b, problem.time);
            for row in span.clone() {
                of_rows[row] = Some(positions.of(b, span.start, row));
            }
        }
        let mut distinct: Vec<usize> = of_rows.iter().flatten().copied().collect();
        distinct.sort_unstable();
        distinct.dedup();
        let place = |position: &Option<usize>| {
            let found = position.map(|position| distinct.partition_point(|&other| other < position));
            found.map_or(PADDING, |place| place as u32)
        };
        let mut places: Vec<u32> = of_rows.iter().map(place).collect();
        places.resize(rows.max(1), PADDING);
        let frequencies: Vec<f64> = problem.frequencies().collect();
        let table = |f: fn(f64) -> f64| -> Vec<f32> {
            let of = |&position: &usize| frequencies.iter().map(move |w| f(w * position as f64) as f32);
            distinct.iter().flat_map(of).collect()
        };
        Ok(Self {
            cos: DeviceBuffer::from_f32(client, &table(f64::cos))?,
            sin: DeviceBuffer::from_f32(client, &table(f64::sin))?,
            places: client.create_from_slice(bytemuck::cast_slice(&places)),
            rows,
            problem: *problem,
        })
    }

    fn places(&self) -> BufferArg {
        // SAFETY: the handle was made from that many values (one, if there are none).
        unsafe { BufferArg::from_raw_parts(self.places.clone(), self.rows.max(1)) }
    }
}

/// Turns every head of every token by the angles of its position (see [`rotary`](crate::rotary) for the formula).
///
/// # Shapes
/// `input` and the result, of its type, `[rows, heads · head_dim]`. Rows of padding come out as 0.
///
/// # Errors
/// [`Error`] when a shape is wrong, or when the device cannot run it.
pub fn rotary(client: &Client, angles: &DeviceAngles, input: &DeviceRows) -> Result<DeviceBuffer, Error> {
    turn(client, angles, input, 1.0)
}

/// The gradient of [`rotary`] by its input: the cotangent of the output, turned back.
///
/// # Shapes
/// `cotangent` and the result, of its type, `[rows, heads · head_dim]`. Rows of padding get gradient 0.
///
/// # Errors
/// [`Error`] when a shape is wrong, or when the device cannot run it.
pub fn backward(
    client: &Client,
    angles: &DeviceAngles,
    cotangent: &DeviceRows,
) -> Result<DeviceBuffer, Error> {
    turn(client, angles, cotangent, -1.0)
}

fn turn(
    client: &Client,
    angles: &DeviceAngles,
    input: &DeviceRows,
    sign: f32,
) -> Result<DeviceBuffer, Error> {
    let problem = &angles.problem;
    let inputs = DeviceInputs { input: input.clone() };
    problem.expect_on_device(&inputs, None, ElementTypes::all(input.dtype()), angles.rows)?;
    let len = angles.rows * problem.cols();
    let out = DeviceBuffer::empty(client, len, input.dtype())?;
    launch_units!(
        turn_kernel,
        client,
        len,
        input.buffer().len().max(len),
        input.view(),
        angles.cos.arg(),
        angles.sin.arg(),
        angles.places(),
        out.arg(),
        problem.cols(),
        problem.head_dim,
        problem.rotary_dim,
        sign,
        len,
        problem.pairing,
        input.dtype().elem(),
    );
    Ok(out)
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn turn_kernel<F: Float>(
    input: &RowsView<F>,
    cos: &[f32],
    sin: &[f32],
    places: &[u32],
    out: &mut [F],
    cols: usize,
    head_dim: usize,
    rotary_dim: usize,
    sign: f32,
    len: usize,
    #[comptime] pairing: Pairing,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < len {
        let row = ABSOLUTE_POS / cols;
        let col = ABSOLUTE_POS % cols;
        let i = col % head_dim;
        let mut value = 0.0f32;
        if places[row] != PADDING {
            value = input.at(row, col);
            if i < rotary_dim {
                let half = rotary_dim / 2;
                // The pair, whether this is its first value, and how far the other one lies.
                let mut pair = i % half;
                let mut first = i < half;
                let mut apart = half;
                if comptime!(pairing == Pairing::Interleaved) {
                    pair = i / 2;
                    first = i == 2 * pair;
                    apart = 1;
                }
                let at = places[row] as usize * half + pair;
                let s = sign * sin[at];
                if first {
                    value = value * cos[at] - input.at(row, col + apart) * s;
                } else {
                    value = value * cos[at] + input.at(row, col - apart) * s;
                }
            }
        }
        out[ABSOLUTE_POS] = F::cast_from(value);
    }
}
