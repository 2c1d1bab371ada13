//! Burn's CPU tensors as the slices and row views that `spillway-kernel-dsl` takes, without copies where rows lie contiguously.

use super::operands::{each, each_of_both};
use super::spec::Spec;
use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::operands::Declared;
use std::fmt::Display;

/// The callers of an operator have validated every shape, so a kernel's error here is a defect of this crate.
pub(crate) fn validated<T, E: Display>(result: std::result::Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => unreachable!("shapes were validated before the kernel was called: {error}"),
    }
}

pub(crate) fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(Shape::from(shape.to_vec())),
        DType::F32,
    )
}

pub(crate) fn shape(tensor: &FlexTensor) -> Vec<usize> {
    tensor.layout().shape().iter().copied().collect()
}

/// A tensor whose trailing dimensions form contiguous rows at one stride: itself where that holds, else a copy.
pub(crate) struct RowTensor {
    tensor: FlexTensor,
    /// All dimensions, as they came.
    pub(crate) dims: Vec<usize>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
}

impl RowTensor {
    /// Rows are the last `trailing` dimensions, flattened; all dimensions before them count rows.
    pub(crate) fn new(tensor: FlexTensor, trailing: usize) -> Self {
        let dims = shape(&tensor);
        let split = dims.len() - trailing;
        let (rows, cols) = (dims[..split].iter().product(), dims[split..].iter().product());
        match row_stride(&dims, tensor.layout().strides(), split) {
            Some(stride) => Self {
                tensor,
                dims,
                rows,
                cols,
                stride,
            },
            None => Self {
                tensor: tensor.to_contiguous(),
                dims,
                rows,
                cols,
                stride: cols,
            },
        }
    }

    /// Rows are tokens, `[batch, time, …]`, or `[tokens, …]` where there is only one dimension beside them.
    pub(crate) fn of_tokens(tensor: FlexTensor) -> Self {
        let trailing = tensor.layout().shape().iter().skip(2).count().max(1);
        Self::new(tensor, trailing)
    }

    /// Zeros for as many values.
    pub(crate) fn buffer(&self) -> Vec<f32> {
        vec![0.0; self.rows * self.cols]
    }

    pub(crate) fn view(&self) -> Rows<'_> {
        let values = self.tensor.storage::<f32>();
        let data = values
            .get(self.tensor.layout().start_offset()..)
            .unwrap_or_default();
        validated(Rows::new(data, self.rows, self.cols, self.stride.max(self.cols)))
    }
}

/// The one distance between neighbouring rows, if there is one and the rows themselves are contiguous.
pub(crate) fn row_stride(dims: &[usize], strides: &[isize], split: usize) -> Option<usize> {
    let mut expected = 1isize;
    for axis in (split..dims.len()).rev() {
        if dims[axis] != 1 && strides[axis] != expected {
            return None;
        }
        expected *= dims[axis] as isize;
    }
    let cols = expected;
    let mut stride = None;
    let mut step = 0isize;
    for axis in (0..split).rev().filter(|&axis| dims[axis] != 1) {
        match stride {
            None => {
                stride = Some(strides[axis]);
                step = strides[axis] * dims[axis] as isize;
            }
            Some(_) if strides[axis] == step => step *= dims[axis] as isize,
            Some(_) => return None,
        }
    }
    let stride = stride.unwrap_or(cols);
    (stride >= cols).then_some(stride as usize)
}

/// All values of a small tensor in order.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

pub(crate) fn slice(tensor: &FlexTensor) -> &[f32] {
    let start = tensor.layout().start_offset();
    &tensor.storage::<f32>()[start..start + tensor.layout().num_elements()]
}

/// A tensor that owns exactly its values, so that a kernel may update them in place: itself when nobody shares it.
pub(crate) fn owned(tensor: FlexTensor) -> FlexTensor {
    let whole = tensor.is_contiguous()
        && tensor.layout().start_offset() == 0
        && tensor.bytes().len() == 4 * tensor.layout().num_elements();
    if whole {
        return tensor;
    }
    let dims = shape(&tensor);
    let copy = contiguous(tensor);
    self::tensor(slice(&copy).to_vec(), &dims)
}

/// Zeros for as many values as a tensor has.
pub(crate) fn buffer(tensor: &FlexTensor) -> Vec<f32> {
    vec![0.0; tensor.layout().num_elements()]
}

/// Values in the shape of another tensor.
pub(crate) fn like(values: Vec<f32>, other: &FlexTensor) -> FlexTensor {
    tensor(values, &shape(other))
}

/// Zeros for the gradient of every operand.
pub(crate) fn buffers<D: Declared>(operands: &D::As<FlexTensor>) -> D::As<Vec<f32>>
where
    D::As<FlexTensor>: Clone,
{
    each::<D, _, _>(operands.clone(), |tensor| buffer(&tensor))
}

/// Zeros for operands like these.
pub(crate) fn zeros<D: Declared>(specs: &D::As<Spec>) -> D::As<Vec<f32>>
where
    D::As<Spec>: Clone,
{
    each::<D, _, _>(specs.clone(), |spec| vec![0.0; spec.shape.iter().product()])
}

/// What the operands are like; all are f32 here.
pub(crate) fn specs<D: Declared>(operands: &D::As<FlexTensor>) -> D::As<Spec>
where
    D::As<FlexTensor>: Clone,
{
    each::<D, _, _>(operands.clone(), |tensor| Spec::new(shape(&tensor), DType::F32))
}

/// The shape of every operand.
pub(crate) fn shapes<D: Declared>(operands: &D::As<FlexTensor>) -> D::As<Vec<usize>>
where
    D::As<FlexTensor>: Clone,
{
    each::<D, _, _>(operands.clone(), |tensor| shape(&tensor))
}

/// Values in the shapes of operands.
pub(crate) fn tensors<D: Declared>(values: D::As<Vec<f32>>, shapes: D::As<Vec<usize>>) -> D::As<FlexTensor> {
    each_of_both::<D, _, _, _>(values, shapes, |values, shape| tensor(values, &shape))
}

/// Values in the shapes that outputs are to have.
pub(crate) fn tensors_of<D: Declared>(values: D::As<Vec<f32>>, specs: D::As<Spec>) -> D::As<FlexTensor> {
    each_of_both::<D, _, _, _>(values, specs, |values, spec| tensor(values, &spec.shape))
}

/// Output and state of an operator: `kernel` updates the state and fills an output of this shape.
pub(crate) fn with_state<E: Display>(
    state: FlexTensor,
    shape: &[usize],
    kernel: impl FnOnce(&mut [f32], &mut [f32]) -> std::result::Result<(), E>,
) -> (FlexTensor, FlexTensor) {
    let mut state = owned(state);
    let mut out = vec![0.0; shape.iter().product()];
    validated(kernel(state.storage_mut::<f32>(), &mut out));
    (tensor(out, shape), state)
}
