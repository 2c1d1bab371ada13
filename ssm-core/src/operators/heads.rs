//! Views of the heads inside wider rows.

use burn::backend::Flex;
use burn::tensor::{Shape, Tensor};
use burn_flex::Layout;

/// Columns `start..start + heads · dim` of `[batch, time, channels]` as `[batch, time, heads, dim]`.
///
/// On the CPU a view: Burn's own reshape would copy rows that do not follow one another.
pub(crate) fn split_heads(input: Tensor<3>, start: usize, heads: usize, dim: usize) -> Tensor<4> {
    let [batch, time, _] = input.dims();
    if !crate::backend::host::is_host([&input.device()]) {
        return input
            .narrow(2, start, heads * dim)
            .reshape([batch, time, heads, dim]);
    }
    let Ok(input) = input.try_into_primitive::<Flex>() else {
        unreachable!("the device has just been looked at");
    };
    let strides = input.layout().strides();
    let split = vec![strides[0], strides[1], strides[2] * dim as isize, strides[2]];
    let offset = input.layout().start_offset() + start * strides[2].unsigned_abs();
    let layout = Layout::new(Shape::from(vec![batch, time, heads, dim]), split, offset);
    Tensor::from_primitive::<Flex>(input.with_layout(layout))
}
