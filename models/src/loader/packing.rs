//! Matrices packed for the CPU, block by block, so that nothing is in memory twice.
//!
//! A type that was asked for is that of every matrix. Without one a matrix of a GGUF file has the file's own type
//! ([`Tensor::own_type`](crate::checkpoint::Tensor::own_type)), and of blocks that a packed matrix takes as they are no f32 is packed; f32 are
//! made of them, a block of rows at a time, for the hash of the contents alone.

use burn::tensor::Tensor;
use spillway_kernel_dsl::linear::{Builder, PackedMatrix, WeightType};
use spillway_ssm_core::Weight;
use spillway_ssm_core::weights::Init;

use super::source::StoredValues;
use super::{Loader, Source, bits};
use crate::checkpoint::blocks::BlockFormat;
use crate::checkpoint::{Rows, wider};
use crate::error::ModelError;
use crate::state::fingerprint::Fingerprint;

impl Loader<'_> {
    /// A matrix `[out, in]` made of what [`Loader::stored`] gave, in 8 bits where a type is not asked for and that was in blocks.
    ///
    /// # Errors
    /// [`ModelError::Packing`] when a value cannot be packed.
    pub fn pack(&mut self, matrix: Tensor<2>) -> Result<Weight, ModelError> {
        let [outputs, inputs] = matrix.dims();
        self.count_product([outputs, inputs]);
        if let Source::Leaves(leaves) = self.source {
            return Ok(leaves.rounded(matrix).into());
        }
        let rows: Vec<f32> = matrix.into_data().iter::<f32>().collect();
        let weight_type = self.weights.unwrap_or(self.taken_apart);
        let packed = PackedMatrix::pack(&rows, outputs, inputs, weight_type)?;
        self.note(weight_type);
        // `values` counted four bytes for each.
        self.weight_bytes = self.weight_bytes + packed.bytes() as u64 - 4 * rows.len() as u64;
        Ok(packed.into())
    }

    /// The rows of one or several tensors of the same width as one matrix: packed, or leaves.
    pub(super) fn weight(&mut self, parts: &[(String, [usize; 2])]) -> Result<Weight, ModelError> {
        if let Source::Leaves(leaves) = self.source {
            return Ok(leaves.matrix(parts)?.into());
        }
        // The stored shapes are compared before anything of that size is taken from memory.
        let source = self.source;
        let stored = parts
            .iter()
            .map(|(name, shape)| Ok((name.clone(), *shape, source.stored(name, shape)?)));
        self.packed(&stored.collect::<Result<Vec<_>, ModelError>>()?)
    }

    /// The rows of stored matrices of the same width, one after the other.
    pub(super) fn packed(
        &mut self,
        parts: &[(String, [usize; 2], StoredValues<'_>)],
    ) -> Result<Weight, ModelError> {
        let inputs = parts.first().map_or(0, |(_, shape, _)| shape[1]);
        let outputs = parts.iter().map(|(_, shape, _)| shape[0]).sum();
        let own = parts.iter().map(|(.., stored)| stored.own_type());
        let weight_type = self.type_of(own);
        self.take([outputs as u64, inputs as u64], bits(weight_type))?;
        let mut builder = PackedMatrix::builder(outputs, inputs, weight_type)?;
        for (name, shape, stored) in parts {
            self.contents.tensor(name, shape);
            let contents = &mut self.contents;
            stored.for_each_rows(weight_type, |rows| {
                hash(contents, rows);
                push(&mut builder, rows)
            })?;
        }
        let packed = builder.finish()?;
        self.note(weight_type);
        self.parameters += (outputs * inputs) as u64;
        self.weight_bytes += packed.bytes() as u64;
        Ok(packed.into())
    }

    /// The matrices `[out, in]` of a tensor `[count, out, in]`, each packed by itself, as [`Loader::weight`] does.
    pub(super) fn weights_of_stack(
        &mut self,
        name: &str,
        [count, outputs, inputs]: [usize; 3],
    ) -> Result<Vec<Weight>, ModelError> {
        let shape = [count, outputs, inputs];
        self.ask(name, &shape, Init::fan_in(inputs));
        (0..count).for_each(|_| self.count_product([outputs, inputs]));
        if let Source::Leaves(leaves) = self.source {
            let all = leaves.tensor(name, shape)?;
            let matrix = |index| all.clone().narrow(0, index, 1).reshape([outputs, inputs]);
            return Ok((0..count)
                .map(|index| leaves.rounded(matrix(index)).into())
                .collect());
        }
        // The stored shape is compared before anything of that size is taken from memory.
        let source = self.source;
        let stored = source.stored(name, &shape)?;
        let weight_type = self.type_of([stored.own_type()]);
        self.take(shape.map(|size| size as u64), bits(weight_type))?;
        self.contents.tensor(name, &shape);
        let (mut weights, mut filled) = (Vec::with_capacity(count), None);
        let contents = &mut self.contents;
        stored.for_each_rows(weight_type, |mut rows| {
            hash(contents, rows);
            while !rows.is_empty() {
                let mut builder = match filled.take() {
                    Some(builder) => builder,
                    None => PackedMatrix::builder(outputs, inputs, weight_type)?,
                };
                let (first, others) = rows.split_at(builder.missing(), inputs);
                push(&mut builder, first)?;
                rows = others;
                match builder.missing() {
                    0 => weights.push(builder.finish()?),
                    _ => filled = Some(builder),
                }
            }
            Ok::<_, ModelError>(())
        })?;
        self.note(weight_type);
        self.weight_bytes += weights.iter().map(|packed| packed.bytes() as u64).sum::<u64>();
        self.parameters += (count * outputs * inputs) as u64;
        Ok(weights.into_iter().map(Weight::from).collect())
    }

    /// The type of matrices made of parts of this one.
    pub(super) fn type_taken_apart(&self, name: &str, shape: &[usize]) -> Result<WeightType, ModelError> {
        let own = self.source.stored(name, shape)?.own_type();
        Ok(match own {
            // Of other rows and columns than the blocks are of.
            WeightType::Int4 => WeightType::Q8_0,
            own => own,
        })
    }

    /// The type that was asked for, or what holds all of the stored ones.
    fn type_of(&self, own: impl IntoIterator<Item = WeightType>) -> WeightType {
        let widest = || own.into_iter().reduce(wider).unwrap_or(WeightType::F32);
        self.weights.unwrap_or_else(widest)
    }

    fn note(&mut self, weight_type: WeightType) {
        if !self.kept.contains(&weight_type) {
            self.kept.push(weight_type);
        }
    }

    /// The type that was asked for, or those of all matrices, the widest first.
    pub(crate) fn kept_as(&self) -> String {
        let mut found = match self.weights {
            Some(asked) => vec![asked],
            None if self.kept.is_empty() => vec![WeightType::F32],
            None => self.kept.clone(),
        };
        found.sort_by_key(|kept| std::cmp::Reverse(bits(*kept)));
        let names: Vec<String> = found.iter().map(ToString::to_string).collect();
        names.join(", ")
    }
}

/// Hashes rows as the f32 that they are.
fn hash(contents: &mut Fingerprint, rows: Rows<'_>) {
    match rows {
        Rows::Floats(rows) => contents.values(rows),
        Rows::Blocks(format, blocks) => {
            let mut values = Vec::new();
            format.read(blocks, &mut values);
            contents.values(&values);
        }
    }
}

fn push(builder: &mut Builder, rows: Rows<'_>) -> Result<(), ModelError> {
    Ok(match rows {
        Rows::Floats(rows) => builder.push_rows(rows),
        Rows::Blocks(BlockFormat::Q4_0, blocks) => builder.push_q4_0(blocks),
        Rows::Blocks(_, blocks) => builder.push_q8_0(blocks),
    }?)
}
