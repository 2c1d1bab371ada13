//! What a projection gives side by side, taken apart without a copy.

#[cfg(feature = "cube")]
use crate::backend::cube;
use crate::backend::flex::{self, RowTensor, required};
use crate::backend::host::{from_host, host, is_host};
use crate::backend::{List, Operand, Operator, PLACES, Spec, first, run};
use crate::error::{Error, Result};
#[cfg(feature = "cube")]
use burn::backend::ops::FloatTensorOps;
#[cfg(feature = "cube")]
use burn::tensor::TensorData;
use burn::tensor::{DType, Shape, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use burn_flex::{FlexTensor, Layout};

/// Neighbouring columns of every row.
///
/// On the CPU the parts are views. With gradients this is one operator, whose backward pass writes the gradient of every column
/// once; Burn's slices would each fill a tensor of all columns with zeros, and add them up.
///
/// # Shapes
/// `input` `[batch, time, Σ widths]`; the parts `[batch, time, width]` in order.
///
/// # Errors
/// [`Error::Shape`] when the widths are not those of all columns together, [`Error::Device`] and [`Error::DType`].
pub fn split<const N: usize>(input: Tensor<3>, widths: [usize; N]) -> Result<[Tensor<3>; N]> {
    split_into(
        input,
        widths.map(|width| Part {
            start: 0,
            width,
            heads: None,
        }),
    )
}

/// As [`split`], each part divided into heads.
///
/// # Shapes
/// `input` `[batch, time, Σ heads · dim]`; the parts `[batch, time, heads, dim]` in order.
///
/// # Errors
/// As [`split`].
pub fn split_to_heads<const N: usize>(
    input: Tensor<3>,
    heads: [(usize, usize); N],
) -> Result<[Tensor<4>; N]> {
    split_into(
        input,
        heads.map(|(heads, dim)| Part {
            start: 0,
            width: heads.saturating_mul(dim),
            heads: Some([heads, dim]),
        }),
    )
}

/// The parts follow one another, wherever they say that they start.
fn split_into<const N: usize, const D: usize>(
    input: Tensor<3>,
    mut parts: [Part; N],
) -> Result<[Tensor<D>; N]> {
    const { assert!(1 <= N && N <= PLACES, "an operator has one to twelve outputs") };
    let [.., columns] = input.dims();
    let mut start = 0usize;
    for part in &mut parts {
        part.start = start;
        start = start.saturating_add(part.width);
    }
    if start != columns {
        return Err(Error::Shape {
            what: "columns of a projection",
            expected: vec![start],
            found: vec![columns],
        });
    }
    if is_host([&input.device()]) && input.dtype() == DType::F32 {
        let input = host(input);
        return Ok(parts.map(|part| from_host(part.view(&input))));
    }
    let operands = vec![Operand::new("columns", input)];
    let parts: [_; N] = run(Split(parts.to_vec()), operands, &mut [])?;
    Ok(parts.map(Tensor::from_dispatch))
}

/// Some columns.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: usize,
    width: usize,
    /// How many heads of which width the columns are divided into, where they are.
    heads: Option<[usize; 2]>,
}

impl Part {
    /// `[batch, time, columns]` to what the part is.
    fn shape(&self, input: &[usize]) -> Vec<usize> {
        match self.heads {
            None => vec![input[0], input[1], self.width],
            Some([heads, dim]) => vec![input[0], input[1], heads, dim],
        }
    }

    /// The columns where they are. Burn's own reshape would copy rows that do not follow one another.
    fn view(&self, input: &FlexTensor) -> FlexTensor {
        let (strides, shape) = (input.layout().strides(), self.shape(&flex::shape(input)));
        if shape.contains(&0) {
            // An offset into a buffer of no values would lie behind its end.
            return flex::tensor(Vec::new(), &shape);
        }
        let along = strides[2];
        let strides = match self.heads {
            None => strides.to_vec(),
            Some([_, dim]) => vec![strides[0], strides[1], along * dim as isize, along],
        };
        let offset = input.layout().start_offset() as isize + self.start as isize * along;
        input
            .clone()
            .with_layout(Layout::new(Shape::from(shape), strides, offset as usize))
    }
}

#[derive(Debug)]
struct Split(Vec<Part>);

impl Operator for Split {
    fn name(&self) -> &'static str {
        "split"
    }

    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec> {
        let input = required(inputs[0].clone());
        let spec = |part: &Part| Spec::new(part.shape(&input.shape), input.dtype);
        self.0.iter().map(spec).collect()
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let [input] = first(inputs).map(required);
        self.0.iter().map(|part| part.view(&input)).collect()
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let [input] = first(inputs).map(required);
        let dims = flex::shape(&input);
        let rows = |(part, cotangent): (&Part, Option<FlexTensor>)| {
            let trailing = if part.heads.is_some() { 2 } else { 1 };
            let cotangent = cotangent.filter(|_| part.width > 0)?;
            Some(RowTensor::new(cotangent, trailing))
        };
        let held: Vec<Option<RowTensor>> = self.0.iter().zip(cotangents).map(rows).collect();
        let views: Vec<_> = held
            .iter()
            .map(|held| held.as_ref().map(RowTensor::view))
            .collect();
        let mut gradient = Vec::with_capacity(dims.iter().product());
        for row in 0..dims[0] * dims[1] {
            for (part, view) in self.0.iter().zip(&views) {
                match view {
                    Some(view) => gradient.extend_from_slice(view.row(row)),
                    None => gradient.resize(gradient.len() + part.width, 0.0),
                }
            }
        }
        vec![Some(flex::tensor(gradient, &dims))]
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        let [input] = first(inputs).map(required);
        let dims = cube::spec(&input).shape;
        let part = |part: &Part| {
            let shape = part.shape(&dims);
            if shape.contains(&0) {
                return empty(&input, &shape);
            }
            let columns = part.start..part.start + part.width;
            let slices = [0..dims[0], 0..dims[1], columns].map(Into::into);
            let columns = CubeBackend::float_slice(input.clone(), &slices);
            CubeBackend::float_reshape(columns, Shape::from(shape))
        };
        self.0.iter().map(part).collect()
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor> {
        let [input] = first(inputs).map(required);
        let spec = cube::spec(&input);
        if spec.shape.contains(&0) {
            return vec![Some(empty(&input, &spec.shape))];
        }
        let dtype = spec.dtype.into();
        let columns = |(part, cotangent): (&Part, Option<CubeTensor>)| {
            let shape = Shape::from(vec![spec.shape[0], spec.shape[1], part.width]);
            match cotangent {
                Some(cotangent) => {
                    CubeBackend::float_reshape(CubeBackend::float_cast(cotangent, dtype), shape)
                }
                None => CubeBackend::float_zeros(shape, &input.device, dtype),
            }
        };
        let parts = self.0.iter().zip(cotangents);
        let parts = parts.filter(|(part, _)| part.width > 0).map(columns).collect();
        vec![Some(CubeBackend::float_cat(parts, 2))]
    }
}

/// A tensor of no values, for which no kernel is launched.
#[cfg(feature = "cube")]
fn empty(like: &CubeTensor, shape: &[usize]) -> CubeTensor {
    let data = TensorData::zeros::<f32, _>(Shape::from(shape.to_vec())).convert_dtype(like.dtype);
    CubeBackend::float_from_data(data, &like.device)
}
