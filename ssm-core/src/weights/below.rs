//! A part of a source, under names of its own.

use super::{Init, WeightSource};
use crate::linear::Linear;
use burn::tensor::Tensor;

/// The tensors of a source below a prefix; see [`WeightSource::below`].
#[derive(Debug)]
pub struct Below<'s, S: ?Sized> {
    source: &'s mut S,
    prefix: String,
    names: &'s [(&'s str, &'s str)],
}

impl<'s, S: ?Sized> Below<'s, S> {
    pub(super) fn new(source: &'s mut S, prefix: String, names: &'s [(&'s str, &'s str)]) -> Self {
        Self {
            source,
            prefix,
            names,
        }
    }

    /// The source that this is a part of.
    pub fn source(&mut self) -> &mut S {
        self.source
    }

    /// The same part under other names.
    pub fn with_names<'t>(&'t mut self, names: &'t [(&'t str, &'t str)]) -> Below<'t, S> {
        Below::new(self.source, self.prefix.clone(), names)
    }

    /// What a tensor is called in the source.
    pub fn name(&self, name: &str) -> String {
        let renamed = self.names.iter().find_map(|(own, published)| {
            let rest = name.strip_prefix(own)?;
            (rest.is_empty() || rest.starts_with('.')).then(|| format!("{published}{rest}"))
        });
        format!("{}.{}", self.prefix, renamed.as_deref().unwrap_or(name))
    }
}

impl<S: WeightSource + ?Sized> WeightSource for Below<'_, S> {
    type Error = S::Error;

    fn linear_with(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
        init: Init,
    ) -> Result<Linear, Self::Error> {
        let name = self.name(name);
        self.source.linear_with(&name, shape, bias, init)
    }

    fn stacked(
        &mut self,
        parts: &[(&str, usize)],
        in_features: usize,
        bias: bool,
    ) -> Result<Linear, Self::Error> {
        let names: Vec<String> = parts.iter().map(|(name, _)| self.name(name)).collect();
        if let [first, rest @ ..] = names.as_slice()
            && rest.iter().all(|name| name == first)
        {
            let rows = parts.iter().map(|(_, rows)| rows).sum();
            return self.source.linear(first, [rows, in_features], bias);
        }
        let parts: Vec<(&str, usize)> = names
            .iter()
            .zip(parts)
            .map(|(name, (_, rows))| (name.as_str(), *rows))
            .collect();
        self.source.stacked(&parts, in_features, bias)
    }

    fn matrices(&mut self, name: &str, shape: [usize; 3]) -> Result<Vec<Linear>, Self::Error> {
        let name = self.name(name);
        self.source.matrices(&name, shape)
    }

    fn set_share(&mut self, chosen: usize, count: usize) {
        self.source.set_share(chosen, count);
    }

    fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: Init,
    ) -> Result<Tensor<D>, Self::Error> {
        let name = self.name(name);
        self.source.tensor(&name, shape, init)
    }
}
