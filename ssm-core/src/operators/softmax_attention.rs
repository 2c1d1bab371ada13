//! Causal softmax attention over a key-value cache.

use crate::backend::flex::{self, RowTensor, owned};
use crate::backend::host::{from_host, host, is_host};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::key_value_cache::KeyValueCache;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Tensor, TensorData};
use spillway_kernel_dsl::softmax_attention as kernel;
use std::ops::Range;

/// A score that no weight survives, and that no sum of scores overflows.
const MASKED: f32 = -1e30;

/// y_t = Σ_j softmax_j(scale q_t·k_j) v_j over the tokens j that the cache holds, those at hand included, up to t's own; under a
/// window w those from t − w on. Keys and values of the tokens at hand are added to the cache.
///
/// Head h reads head h / (heads / groups) of keys and values. On the CPU the cache is written in place and read by a fused
/// kernel without gradient; on other devices, autodiff ones included, it is composed of Burn's operations. Source: Vaswani et
/// al. (1706.03762), section 3.2; Ainslie et al., *GQA* (2305.13245).
///
/// # Shapes
/// `query` `[batch, time, heads, key_dim]`, `key` `[batch, time, groups, key_dim]`, `value` `[batch, time, groups, value_dim]`,
/// result `[batch, time, heads, value_dim]`.
///
/// # Errors
/// [`Error::Shape`] when tensors or cache do not fit one another, [`Error::Groups`] when groups do not divide the heads,
/// [`Error::Device`] when the cache lives elsewhere.
pub fn softmax_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    scale: f32,
    cache: &mut KeyValueCache,
) -> Result<Tensor<4>> {
    let problem = problem(&query, &key, &value, scale, cache)?;
    let devices = [query.device(), key.device(), value.device(), cache.keys.device()];
    if let Some(found) = devices.iter().find(|device| **device != devices[0]) {
        return Err(Error::Device {
            what: "keys, values and their cache",
            expected: format!("the device of the queries, {:?}", devices[0]),
            found: format!("{found:?}"),
        });
    }
    let dtype = query.dtype();
    if problem.batch * problem.time == 0 {
        let shape = [problem.batch, problem.time, problem.heads, problem.value_dim];
        return Ok(Tensor::zeros(shape, (&devices[0], dtype)));
    }
    let [query, key, value] = [query, key, value].map(|tensor| tensor.cast(DType::F32));
    cache.reserve(problem.time);
    let problem = kernel::Problem {
        capacity: cache.capacity(),
        ..problem
    };
    let out = match is_host(&devices) {
        true => on_host(&problem, query, key, value, cache),
        false => composed(&problem, query, key, value, cache, &devices[0]),
    };
    cache
        .lengths
        .iter_mut()
        .for_each(|length| *length += problem.time);
    cache.trim();
    Ok(out.cast(dtype))
}

fn problem(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    scale: f32,
    cache: &KeyValueCache,
) -> Result<kernel::Problem> {
    let [batch, time, heads, key_dim] = query.dims();
    let [_, _, groups, value_dim] = value.dims();
    expect_shape("key", &[batch, time, groups, key_dim], &key.dims())?;
    expect_shape("value", &[batch, time, groups, value_dim], &value.dims())?;
    if groups == 0 || !heads.is_multiple_of(groups) {
        return Err(Error::Groups { heads, groups });
    }
    if key_dim * value_dim == 0 {
        return Err(Error::Value {
            what: "dimensions of a head",
            expected: "all at least 1",
            found: format!("{key_dim} and {value_dim}"),
        });
    }
    cache.expect(batch, groups, [key_dim, value_dim])?;
    Ok(kernel::Problem {
        batch,
        time,
        heads,
        groups,
        key_dim,
        value_dim,
        capacity: cache.capacity(),
        scale,
        window: cache.window(),
    })
}

fn on_host(
    problem: &kernel::Problem,
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    cache: &mut KeyValueCache,
) -> Tensor<4> {
    let [query, key, value] = [query, key, value].map(|tensor| RowTensor::new(host(tensor), 2));
    // Taken out, so that nobody shares them and they are written in place.
    let take = |tensor: &mut Tensor<4>| {
        let empty = Tensor::zeros([0; 4], &tensor.device());
        owned(host(std::mem::replace(tensor, empty)))
    };
    let (mut keys, mut values) = (take(&mut cache.keys), take(&mut cache.values));
    let mut out = vec![0.0; problem.batch * problem.time * problem.heads * problem.value_dim];
    flex::validated(kernel::softmax_attention(
        problem,
        &kernel::Inputs {
            query: query.view(),
            key: key.view(),
            value: value.view(),
            lengths: &cache.lengths,
        },
        keys.storage_mut::<f32>(),
        values.storage_mut::<f32>(),
        &mut out,
    ));
    (cache.keys, cache.values) = (from_host(keys), from_host(values));
    let shape = [problem.batch, problem.time, problem.heads, problem.value_dim];
    from_host(flex::tensor(out, &shape))
}

fn composed(
    problem: &kernel::Problem,
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    cache: &mut KeyValueCache,
    device: &Device,
) -> Tensor<4> {
    let (batch, time, groups) = (problem.batch, problem.time, problem.groups);
    let shared = problem.heads / groups;
    for (kept, new) in [(&mut cache.keys, key), (&mut cache.values, value)] {
        append(kept, new.swap_dims(1, 2), &cache.lengths);
    }
    let seen = seen(problem, &cache.lengths);
    let [keys, values] =
        [&cache.keys, &cache.values].map(|cache| cache.clone().narrow(2, seen.start, seen.len()));
    // Rows of one group: all tokens of its first head, then those of its second.
    let rows = shared * time;
    let query = query
        .swap_dims(1, 2)
        .reshape([batch, groups, rows, problem.key_dim]);
    let scores = query.matmul(keys.swap_dims(2, 3)).mul_scalar(problem.scale);
    let mask = mask(problem, &cache.lengths, &seen, device).repeat_dim(2, shared);
    softmax(scores + mask, 3)
        .matmul(values)
        .reshape([batch, problem.heads, time, problem.value_dim])
        .swap_dims(1, 2)
}

/// Writes `[batch, heads, time, dim]` behind what each sequence holds.
fn append(cache: &mut Tensor<4>, new: Tensor<4>, lengths: &[usize]) {
    let [batch, heads, time, dim] = new.dims();
    let write = |cache: Tensor<4>, rows: Range<usize>, at: usize, new: Tensor<4>| {
        cache.slice_assign([rows, 0..heads, at..at + time, 0..dim], new)
    };
    let all = cache.clone();
    *cache = match lengths.iter().all(|length| *length == lengths[0]) {
        true => write(all, 0..batch, lengths[0], new),
        false => lengths.iter().enumerate().fold(all, |all, (b, &length)| {
            write(all, b..b + 1, length, new.clone().narrow(0, b, 1))
        }),
    };
}

/// The places that any token at hand reads.
fn seen(problem: &kernel::Problem, lengths: &[usize]) -> Range<usize> {
    let (mut first, mut end) = (usize::MAX, 0);
    for &length in lengths {
        first = first.min(length.saturating_sub(problem.window.unwrap_or(usize::MAX)));
        end = end.max(length + problem.time);
    }
    first..end
}

/// What is added to the scores, `[batch, 1, time, places]`.
fn mask(problem: &kernel::Problem, lengths: &[usize], seen: &Range<usize>, device: &Device) -> Tensor<4> {
    let window = problem.window.unwrap_or(usize::MAX);
    let mut mask = Vec::with_capacity(problem.batch * problem.time * seen.len());
    for &length in lengths {
        for position in length..length + problem.time {
            let read = position.saturating_sub(window)..=position;
            mask.extend(seen.clone().map(|j| if read.contains(&j) { 0.0 } else { MASKED }));
        }
    }
    let shape = [problem.batch, 1, problem.time, seen.len()];
    Tensor::from_data(TensorData::new(mask, shape), device)
}
