//! States of fewer bits: what a model does whose recurrent states are stored in another type than they are computed in.
//!
//! ```text
//! y_t = q_tᵀ ĥ_t,   ĥ_t = a_t ∘ h_{t−1} + k_t v_tᵀ          h_t = round(ĥ_t)
//! ```
//!
//! per head, for any rule by which tokens are taken in. A token is computed in f32 and reads the state as computed; what the next token
//! finds is what was stored. That is a kernel whose state lives in registers while it computes and in memory between two tokens.
//!
//! | text | when the state is stored | in prefill |
//! |---|---|---|
//! | `state-dtype:T` | after every token | token by token |
//! | `state-dtype:T,chunk=64` | after every 64th token, by absolute position | chunks |
//!
//! The second is an engine that writes states back after a chunk of prefill, or after so many tokens of decode. Either does the same
//! however the tokens are split among calls. Nothing else is rounded: weights, gates, caches of attention and convolutions stay as they
//! are, and a state that is not the recurrence's own (the sums of `window-exact`) too. `f32` is what states are computed in: it changes
//! nothing, and is there to be compared with.
//!
//! It cures nothing. It answers how precise a state must be. The lagged state of a window by difference is stored like the other: it is then
//! exactly the one that the model had so many tokens ago, and what is read is the difference of two rounded states.
//!
//! [`storage`] says what the types are and how numbers are rounded.

pub mod storage;

use crate::form::{Form, Parameter};
use crate::mitigation::{Part, Role};
use crate::pieces::{in_pieces, next_multiple};
use crate::written::{ParseError, Written};
use burn::tensor::{Tensor, TensorData};
use spillway_ssm_core::intervention::Next;
use spillway_ssm_core::{Error, Gates, Incompatible, Intervention, InterventionState, Rule, Site, State};
use std::fmt::{Display, Formatter};
use std::str::FromStr;
use std::sync::Arc;
use storage::{Draws, ElementType, Rounding, Scale, Storage};

const TYPES: &str = "f32, bf16, f16, fp8-e4m3, fp8-e5m2 or int8";

pub(crate) const FORM: Form = Form {
    name: "state-dtype",
    syntax: "state-dtype:T[,scale=S][,rounding=R][,seed=N][,chunk=Q]",
    summary: "store states in type T between tokens: a diagnosis of how precise they must be",
    parameters: &[
        Parameter::required("T", "f32, bf16, f16, fp8-e4m3, fp8-e5m2 or int8"),
        Parameter::optional(
            "scale",
            "what shares a scale: none, head, row (the values under one key) or tile (16 x 16); types of 8 bits only",
            "head for int8, none for others",
        ),
        Parameter::optional("rounding", "nearest or stochastic", "nearest"),
        Parameter::optional(
            "seed",
            "whole number that chooses the draws of stochastic rounding",
            "0",
        ),
        Parameter::optional(
            "chunk",
            "store the state after every Q-th token only, Q in tokens",
            "after every token",
        ),
    ],
    works_on: "every model but RWKV-4",
    calibrated: false,
    example: "state-dtype:bf16",
    parse: |written| parse(written).map(|dtype| Arc::new(dtype) as Arc<dyn Part>),
};

/// `state-dtype:T`, with `,scale=S`, `,rounding=stochastic`, `,seed=N` and `,chunk=Q`.
///
/// In a chain it stands inside all others but state normalisation, whose states it stores: the parser puts it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDtype {
    /// In what states are stored.
    pub storage: Storage,
    /// The seed of stochastic rounding; `None` rounds to the nearest.
    pub stochastic: Option<u64>,
    /// `None` stores after every token, `Some(Q)` after every Q-th.
    pub chunk: Option<u64>,
}

/// What stands behind the colon of `state-dtype:T`: `bf16`, `int8,scale=row,rounding=stochastic`.
impl FromStr for StateDtype {
    type Err = ParseError;

    fn from_str(arguments: &str) -> Result<Self, ParseError> {
        parse(&Written::cut(arguments, FORM.syntax, arguments))
    }
}

/// As [`FromStr`] reads it.
impl Display for StateDtype {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.arguments())
    }
}

impl StateDtype {
    /// Numbers of a type, stored after every token and rounded to the nearest.
    pub fn new(element: ElementType) -> Self {
        Self {
            storage: Storage::new(element),
            stochastic: None,
            chunk: None,
        }
    }

    /// What states of a head are rounded by after the token at `position`.
    pub fn rounding(&self, layer: usize, head: usize, position: u64) -> Rounding {
        match self.stochastic {
            None => Rounding::Nearest,
            Some(seed) => Rounding::Stochastic(Draws::new(seed, layer as u64, head as u64, position)),
        }
    }

    /// The state as it is read back.
    fn store(&self, site: &Site, state: &mut State) -> Result<(), Error> {
        let device = state.memory.device();
        if device.is_autodiff() {
            return Err(Error::Value {
                what: "state to be rounded by state-dtype",
                expected: "one outside training, because rounding has no derivative",
                found: "one that a loss is to be derived by".into(),
            });
        }
        let memory = state.take();
        let dims = memory.dims();
        let [_, heads, keys, values] = dims;
        let mut numbers: Vec<f32> = memory.into_data().iter::<f32>().collect();
        // The token before this position was the last.
        let position = state.position.saturating_sub(1);
        for (index, head) in numbers.chunks_mut((keys * values).max(1)).enumerate() {
            let mut rounding = self.rounding(site.layer, site.first_head + index % heads.max(1), position);
            self.storage.store(head, values, &mut rounding);
        }
        state.memory = Tensor::from_data(TensorData::new(numbers, dims), &device);
        Ok(())
    }

    /// What stands behind the name.
    fn arguments(&self) -> String {
        let Storage { element, scale } = self.storage;
        let mut text = element.to_string();
        if scale != Storage::new(element).scale {
            text += &format!(",scale={scale}");
        }
        if let Some(seed) = self.stochastic {
            text += ",rounding=stochastic";
            if seed != 0 {
                text += &format!(",seed={seed}");
            }
        }
        if let Some(chunk) = self.chunk {
            text += &format!(",chunk={chunk}");
        }
        text
    }
}

impl Intervention for StateDtype {
    fn text(&self) -> String {
        format!("state-dtype:{self}")
    }

    fn looks_at_positions(&self) -> bool {
        !self.storage.is_exact() && (self.chunk.is_some() || self.stochastic.is_some())
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        match site.rule {
            Rule::WeightedSum | Rule::Delta => Ok(()),
            Rule::Mean => Err(Incompatible {
                intervention: self.text(),
                layer: site.layer,
                reason: "this layer keeps two sums relative to a maximum, three numbers that want different types; use a model \
                         whose state is a matrix"
                    .into(),
            }),
        }
    }

    fn on_recurrence(
        &self,
        site: &Site,
        gates: Gates,
        state: &mut State,
        _own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        if self.storage.is_exact() {
            return next(gates, state);
        }
        let chunk = self.chunk.unwrap_or(1);
        let cut = |position| next_multiple(position, chunk);
        in_pieces(gates, state, cut, |piece, state| {
            let output = next(piece, state)?;
            if state.position.is_multiple_of(chunk) {
                self.store(site, state)?;
            }
            Ok(output)
        })
    }
}

impl Part for StateDtype {
    fn role(&self) -> Role {
        Role::Storage
    }
}

fn parse(written: &Written<'_>) -> Result<StateDtype, ParseError> {
    let ([element], [scale, rounding, seed, chunk]) =
        written.values_and(["scale", "rounding", "seed", "chunk"])?;
    let element: ElementType = element
        .parse()
        .map_err(|()| written.wrong_number("type of the state", TYPES, element))?;
    let storage = Storage {
        element,
        scale: scale.map_or(Ok(Storage::new(element).scale), |scale| {
            parse_scale(written, element, scale)
        })?,
    };
    let wrong_seed = |seed| written.wrong_number("seed", "a whole number of at least 0", seed);
    let stochastic = match (rounding, seed) {
        (None | Some("nearest"), None) => None,
        (Some("stochastic"), None) => Some(0),
        (Some("stochastic"), Some(seed)) => Some(seed.parse().map_err(|_| wrong_seed(seed))?),
        (None | Some("nearest"), Some(_)) => {
            return Err(written.wrong_arguments("seed= without rounding=stochastic"));
        }
        (Some(other), _) => return Err(written.wrong_number("rounding", "nearest or stochastic", other)),
    };
    Ok(StateDtype {
        storage,
        stochastic,
        chunk: chunk.map(|chunk| written.tokens("chunk", chunk)).transpose()?,
    })
}

fn parse_scale(written: &Written<'_>, element: ElementType, scale: &str) -> Result<Scale, ParseError> {
    let known = scale.parse().ok();
    let fitting = known.filter(|scale| Storage::scales(element).contains(scale));
    fitting.ok_or_else(|| {
        let expected = match element {
            ElementType::Int8 => "head, row or tile for int8",
            ElementType::Fp8E4m3 | ElementType::Fp8E5m2 => "none, head, row or tile for fp8",
            ElementType::F32 | ElementType::Bf16 | ElementType::F16 => {
                "none: types of 8 bits only have scales"
            }
        };
        written.wrong_number("scale", expected, scale)
    })
}
