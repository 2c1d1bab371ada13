//! The tensors of a file, of those of a checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use super::architecture::Architecture;
use crate::checkpoint::gguf::conversion::Conversion;
use crate::checkpoint::gguf::write::{Plan, Sink};
use crate::checkpoint::{Checkpoint, CheckpointError, GgufDtype};

/// Matrices that are written in full whatever the type: the conversions of llama.cpp keep these, and its kernels want them so.
const IN_FULL: [&str; 13] = [
    "ssm_conv1d.weight",
    "time_mix_first.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
];

/// What will be written, and of what it is made.
pub(super) struct Tensors {
    pub plans: Vec<Plan>,
    sources: BTreeMap<String, Source>,
    /// Values of the one tensor that is made of the configuration.
    rope_factors: Vec<f32>,
}

/// Tensors of the checkpoint that make one of the file.
struct Source {
    parts: Vec<(String, Vec<usize>)>,
    conversion: Conversion,
    heads: usize,
}

impl Tensors {
    /// Every tensor, in llama.cpp's order: those outside of blocks, then block by block.
    ///
    /// # Errors
    /// [`CheckpointError::NotGguf`] for a tensor that is missing, or has no place in the file.
    pub fn plan(
        checkpoint: &Checkpoint,
        architecture: &Architecture,
        dtype: GgufDtype,
    ) -> Result<Self, CheckpointError> {
        let mut planned = Planned {
            checkpoint,
            architecture,
            dtype,
            used: BTreeSet::new(),
            tensors: Self {
                plans: Vec::new(),
                sources: BTreeMap::new(),
                rope_factors: architecture.rope_factors.clone().unwrap_or_default(),
            },
        };
        planned.all()?;
        // Older files of Llama have the angles of one step, which follow from the configuration.
        let unused = checkpoint
            .names()
            .find(|name| !planned.used.contains(*name) && !name.ends_with(".rotary_emb.inv_freq"));
        match unused {
            None => Ok(planned.tensors),
            Some(name) => Err(planned.refused(format!("no place for the tensor {name}"))),
        }
    }

    /// The values of a tensor of the file.
    ///
    /// # Errors
    /// Those of reading the tensors, and of `sink`.
    pub fn values(
        &self,
        checkpoint: &Checkpoint,
        name: &str,
        sink: &mut Sink<'_>,
    ) -> Result<(), CheckpointError> {
        let Some(Source {
            parts,
            conversion,
            heads,
        }) = self.sources.get(name)
        else {
            return sink(&self.rope_factors);
        };
        for (name, shape) in parts {
            let tensor = checkpoint.tensor(name, shape)?;
            match conversion {
                Conversion::Decay => {
                    let mut decays = Vec::new();
                    tensor.for_each_block(|block| {
                        decays.clear();
                        decays.extend(block.iter().map(|a_log| -a_log.exp()));
                        sink(&decays)
                    })?;
                }
                Conversion::Transposed => sink(&transposed(shape, &tensor.to_vec()?))?,
                Conversion::Queries | Conversion::Keys => {
                    sink(&neighbours(shape, *heads, &tensor.to_vec()?))?
                }
                _ => tensor.for_each_block(&mut *sink)?,
            }
        }
        Ok(())
    }
}

struct Planned<'a> {
    checkpoint: &'a Checkpoint,
    architecture: &'a Architecture,
    dtype: GgufDtype,
    used: BTreeSet<String>,
    tensors: Tensors,
}

impl Planned<'_> {
    fn refused(&self, reason: String) -> CheckpointError {
        CheckpointError::NotGguf {
            path: self.checkpoint.weights_path().to_path_buf(),
            reason,
        }
    }

    fn all(&mut self) -> Result<(), CheckpointError> {
        let names = self.architecture.names;
        for (theirs, ours, conversion) in names.outside {
            let ours = match *theirs {
                "token_embd.weight" => self.architecture.embedding,
                _ => *ours,
            };
            if *theirs == "output.weight" && self.architecture.may_be_tied && self.is_tied(ours)? {
                self.used.insert(ours.into());
                continue;
            }
            if *conversion != Conversion::Dropped {
                self.one(theirs, ours, *conversion)?;
            }
        }
        if !self.tensors.rope_factors.is_empty() {
            self.tensors.plans.push(Plan {
                name: "rope_freqs.weight".into(),
                shape: vec![self.tensors.rope_factors.len()],
                dtype: GgufDtype::F32,
            });
        }
        for block in 0..self.architecture.blocks {
            for (theirs, ours, conversion) in names.within.iter().flat_map(|table| table.iter()) {
                let theirs = format!("blk.{block}.{theirs}");
                let ours = match (block, *ours) {
                    // What the first block has no use for, and llama.cpp asks for there.
                    (0, "att.v0") => "att.a0",
                    (0, "att.v1") => "att.a1",
                    (0, "att.v2") => "att.a2",
                    (_, ours) => ours,
                };
                self.one(&theirs, &format!("{}.{block}.{ours}", names.blocks), *conversion)?;
            }
        }
        // Tensors that some files have in the first block, without any effect.
        for part in ["v0", "v1", "v2"] {
            self.used.insert(format!("blocks.0.att.{part}"));
        }
        Ok(())
    }

    /// Whether the head is absent, or the embedding again.
    fn is_tied(&self, head: &str) -> Result<bool, CheckpointError> {
        let Some(stored) = self.checkpoint.stored(head) else {
            return Ok(true);
        };
        let embedding = self.checkpoint.stored(self.architecture.embedding);
        if embedding.is_none_or(|embedding| embedding.shape != stored.shape) {
            return Ok(false);
        }
        let embedding = self
            .checkpoint
            .tensor(self.architecture.embedding, stored.shape)?;
        Ok(self.checkpoint.tensor(head, stored.shape)?.same_bytes(&embedding))
    }

    fn one(&mut self, theirs: &str, ours: &str, conversion: Conversion) -> Result<(), CheckpointError> {
        let names: Vec<String> = match conversion {
            Conversion::Divided(parts) => parts.iter().map(|part| format!("{ours}.{part}")).collect(),
            _ => vec![ours.to_string()],
        };
        let mut parts = Vec::new();
        for name in names {
            let Some(stored) = self.checkpoint.stored(&name) else {
                return Err(self.refused(format!("no tensor {name}, which {theirs} would be")));
            };
            parts.push((name.clone(), stored.shape.to_vec()));
            self.used.insert(name);
        }
        let heads = self.architecture.heads;
        let shape = match (conversion, parts.as_slice()) {
            (Conversion::Divided(_), [(_, first), ..]) => vec![parts.len(), 1, 1, first.iter().product()],
            (_, [(_, shape)]) => conversion.stored_shape(shape, &heads),
            _ => Vec::new(),
        };
        let count: usize = parts
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        if shape.iter().product::<usize>() != count || !self.goes_with_heads(conversion, &parts) {
            return Err(self.refused(format!(
                "tensor {ours} has shape {:?}",
                parts.first().map(|(_, shape)| shape)
            )));
        }
        let row = shape.last().copied().unwrap_or(1);
        let is_matrix = shape.len() > 1 && theirs.ends_with(".weight");
        let in_full = IN_FULL.iter().any(|name| theirs.ends_with(name)) || theirs.ends_with("norm.weight");
        self.tensors.plans.push(Plan {
            name: theirs.into(),
            shape,
            dtype: match is_matrix && !in_full {
                true => self.dtype.of_rows(row),
                false => GgufDtype::F32,
            },
        });
        let heads = match conversion {
            Conversion::Keys => heads.keys,
            _ => heads.queries,
        };
        self.tensors.sources.insert(
            theirs.into(),
            Source {
                parts,
                conversion,
                heads,
            },
        );
        Ok(())
    }

    /// Whether rows can change places.
    fn goes_with_heads(&self, conversion: Conversion, parts: &[(String, Vec<usize>)]) -> bool {
        let heads = match conversion {
            Conversion::Queries => self.architecture.heads.queries,
            Conversion::Keys => self.architecture.heads.keys,
            _ => return true,
        };
        matches!(parts, [(_, shape)] if matches!(shape.as_slice(), [rows, _] if heads > 0 && rows.is_multiple_of(2 * heads)))
    }
}

/// The values of a tensor of `shape` with its last two dimensions in each other's place.
fn transposed(shape: &[usize], values: &[f32]) -> Vec<f32> {
    let [.., rows, columns] = shape else {
        return values.to_vec();
    };
    let mut out = Vec::with_capacity(values.len());
    for matrix in values.chunks_exact((rows * columns).max(1)) {
        for column in 0..*columns {
            out.extend((0..*rows).map(|row| matrix[row * columns + column]));
        }
    }
    out
}

/// Rows `[heads, 2, pairs]` as `[heads, pairs, 2]`: what is turned by halves is turned by neighbours then.
fn neighbours(shape: &[usize], heads: usize, values: &[f32]) -> Vec<f32> {
    let [rows, columns] = shape else {
        return values.to_vec();
    };
    let pairs = rows / (2 * heads.max(1));
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for pair in 0..pairs {
            for half in 0..2 {
                let row = (head * 2 + half) * pairs + pair;
                out.extend_from_slice(&values[row * columns..][..*columns]);
            }
        }
    }
    out
}
