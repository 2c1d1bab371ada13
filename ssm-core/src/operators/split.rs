//! What a projection gives side by side, taken apart without a copy.

#[cfg(feature = "cube")]
use crate::backend::cube;
use crate::backend::flex::{self, RowTensor};
use crate::backend::host::{from_host, host, is_host};
use crate::backend::{List, Named, Operator, SLOTS, Spec, operands, run};
use crate::error::{Error, Result};
#[cfg(feature = "cube")]
use burn::backend::ops::FloatTensorOps;
#[cfg(feature = "cube")]
use burn::tensor::TensorData;
use burn::tensor::{DType, Shape, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use burn_flex::{FlexTensor, Layout};
use spillway_kernel_dsl::operands::Declared;

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
        widths.map(|width| Columns {
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
        heads.map(|(heads, dim)| Columns {
            start: 0,
            width: heads.saturating_mul(dim),
            heads: Some([heads, dim]),
        }),
    )
}

/// The parts follow one another, wherever they say that they start.
fn split_into<const N: usize, const D: usize>(
    input: Tensor<3>,
    mut parts: [Columns; N],
) -> Result<[Tensor<D>; N]> {
    const { assert!(1 <= N && N <= SLOTS, "an operator has one to twelve outputs") };
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
    let inputs = Inputs {
        columns: input.into(),
    };
    let found = run(Split(parts.to_vec()), inputs)?;
    let mut found = found.0.into_iter().flatten();
    Ok(parts.map(|_| match found.next() {
        Some(part) => Tensor::from_dispatch(part),
        None => unreachable!("an operator gives as many outputs as it has parts"),
    }))
}

operands! {
    /// What is taken apart.
    Inputs { columns }
}

/// As many outputs as there are parts.
#[derive(Clone, Debug)]
struct Parts<T>(List<T>);

impl<T> Named<T> for Parts<T> {
    fn names() -> Vec<&'static str> {
        Vec::new()
    }

    fn from_list(list: List<T>) -> Option<Self> {
        Some(Self(list))
    }

    fn into_list(self) -> List<T> {
        self.0
    }
}

impl Declared for Parts<()> {
    type As<T> = Parts<T>;
}

/// Neighbouring columns of the input that become one output.
#[derive(Clone, Copy, Debug)]
struct Columns {
    start: usize,
    width: usize,
    /// Number and width of the heads that the columns are divided into, if into any.
    heads: Option<[usize; 2]>,
}

impl Columns {
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
struct Split(Vec<Columns>);

impl Operator for Split {
    type Inputs = Inputs<()>;
    type Outputs = Parts<()>;

    fn name(&self) -> &'static str {
        "split"
    }

    fn outputs(&self, inputs: Inputs<Spec>) -> Parts<Spec> {
        let input = inputs.columns;
        let spec = |part: &Columns| Some(Spec::new(part.shape(&input.shape), input.dtype));
        Parts(self.0.iter().map(spec).collect())
    }

    fn forward_flex(&self, inputs: Inputs<FlexTensor>) -> Parts<FlexTensor> {
        let part = |part: &Columns| Some(part.view(&inputs.columns));
        Parts(self.0.iter().map(part).collect())
    }

    fn backward_flex(
        &self,
        inputs: Inputs<FlexTensor>,
        cotangents: Parts<Option<FlexTensor>>,
    ) -> Inputs<FlexTensor> {
        let dims = flex::shape(&inputs.columns);
        let rows = |(part, cotangent): (&Columns, Option<Option<FlexTensor>>)| {
            let trailing = if part.heads.is_some() { 2 } else { 1 };
            let cotangent = cotangent.flatten().filter(|_| part.width > 0)?;
            Some(RowTensor::new(cotangent, trailing))
        };
        let held: Vec<Option<RowTensor>> = self.0.iter().zip(cotangents.0).map(rows).collect();
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
        Inputs {
            columns: flex::tensor(gradient, &dims),
        }
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: Inputs<CubeTensor>) -> Parts<CubeTensor> {
        let input = inputs.columns;
        let dims = cube::spec(&input).shape;
        let part = |part: &Columns| {
            let shape = part.shape(&dims);
            if shape.contains(&0) {
                return Some(empty(&input, &shape));
            }
            let columns = part.start..part.start + part.width;
            let slices = [0..dims[0], 0..dims[1], columns].map(Into::into);
            let columns = CubeBackend::float_slice(input.clone(), &slices);
            Some(CubeBackend::float_reshape(columns, Shape::from(shape)))
        };
        Parts(self.0.iter().map(part).collect())
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: Inputs<CubeTensor>,
        cotangents: Parts<Option<CubeTensor>>,
    ) -> Inputs<CubeTensor> {
        let input = inputs.columns;
        let spec = cube::spec(&input);
        if spec.shape.contains(&0) {
            return Inputs {
                columns: empty(&input, &spec.shape),
            };
        }
        let dtype = spec.dtype.into();
        let columns = |(part, cotangent): (&Columns, Option<Option<CubeTensor>>)| {
            let shape = Shape::from(vec![spec.shape[0], spec.shape[1], part.width]);
            match cotangent.flatten() {
                Some(cotangent) => {
                    CubeBackend::float_reshape(CubeBackend::float_cast(cotangent, dtype), shape)
                }
                None => CubeBackend::float_zeros(shape, &input.device, dtype),
            }
        };
        let parts = self.0.iter().zip(cotangents.0);
        let parts = parts.filter(|(part, _)| part.width > 0).map(columns).collect();
        Inputs {
            columns: CubeBackend::float_cat(parts, 2),
        }
    }
}

/// A tensor of no values, for which no kernel is launched.
#[cfg(feature = "cube")]
fn empty(like: &CubeTensor, shape: &[usize]) -> CubeTensor {
    let data = TensorData::zeros::<f32, _>(Shape::from(shape.to_vec())).convert_dtype(like.dtype);
    CubeBackend::float_from_data(data, &like.device)
}
