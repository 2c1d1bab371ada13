//! A mitigation of one's own, in every command of the program: `fade:N,C` keeps only the share C of the state after every N
//! tokens, a reset that does not forget everything at once.
//!
//!     cargo run --release -p spillway --example own_mitigation
//!     cargo run --release -p spillway --example own_mitigation -- diagnose --mitigation fade:64,0.25

use burn::tensor::Tensor;
use spillway_mitigations::mitigation::Role;
use spillway_mitigations::pieces::{in_pieces, next_multiple};
use spillway_mitigations::written::Written;
use spillway_mitigations::{Form, Parameter, ParseError, Part};
use spillway_ssm_core::{
    Error, Gates, Incompatible, Intervention, InterventionState, Next, Rule, Site, State,
};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

/// How it is written, for the parser, its messages and `spillway mitigations`.
const FADE: Form = Form {
    name: "fade",
    syntax: "fade:N,C",
    summary: "keep only the share C of the state after every N tokens",
    parameters: &[
        Parameter::required("N", "period in tokens, at least 1"),
        Parameter::required("C", "share of the state that is kept, above 0 and at most 1"),
    ],
    works_on: "every model but RWKV-4",
    calibrated: false,
    example: "fade:64,0.25",
    parse,
};

fn parse(written: &Written<'_>) -> Result<Arc<dyn Part>, ParseError> {
    let [period, share] = written.exactly()?;
    Ok(Arc::new(Fade {
        period: written.tokens("period", period)?,
        share: written.share("share", share)?,
    }))
}

#[derive(Debug)]
struct Fade {
    period: u64,
    share: f64,
}

impl Intervention for Fade {
    fn text(&self) -> String {
        format!("fade:{},{}", self.period, self.share)
    }

    /// What it cannot work on is refused before the first token, with what works instead.
    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        match site.rule {
            Rule::WeightedSum | Rule::Delta => Ok(()),
            Rule::Mean => Err(Incompatible {
                intervention: self.text(),
                layer: site.layer,
                reason:
                    "a weighted mean does not change when its sums shrink together; use forget:C or reset:N"
                        .into(),
            }),
        }
    }

    /// Positions are absolute, and pieces end at multiples of the period: it never shows how a caller splits a sequence.
    fn on_recurrence(
        &self,
        _site: &Site,
        gates: Gates,
        state: &mut State,
        _own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let cut = |position| next_multiple(position, self.period);
        in_pieces(gates, state, cut, |piece, state| {
            let output = next(piece, state)?;
            if state.position.is_multiple_of(self.period) {
                state.memory = state.take() * self.share;
            }
            Ok(output)
        })
    }
}

impl Part for Fade {
    /// As a reset, it goes with anything but a window.
    fn role(&self) -> Role {
        Role::Reset
    }
}

fn main() -> ExitCode {
    if let Err(error) = spillway_mitigations::register(FADE) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.len() == 1 {
        let prompt = "In the beginning God created the heaven and the earth. ".repeat(8);
        let words = [
            "generate",
            "--prompt",
            &prompt,
            "--mitigation",
            "fade:64,0.25",
            "--max-tokens",
            "64",
        ];
        arguments.extend(words.map(OsString::from));
    }
    spillway::main_with(arguments)
}
