//! The options of commands that generate: how tokens are drawn, and what acts on the states meanwhile.

use crate::calibration::{self, Calibrator};
use crate::context::Context;
use crate::error::ProgramError;
use crate::model_args::{ModelArgs, train_length};
use crate::text;
use crate::trial::{self, Trial};
use crate::values::parse_tokens;
use clap::Args;
use spillway_mitigations::state_dtype::StateDtype;
use spillway_models::Model;
use spillway_models::generation::Sampling;
use spillway_ssm_core::Chain;

/// How tokens are drawn.
#[derive(Clone, Debug, Args)]
pub struct SamplingArgs {
    /// Logits are divided by this before a token is drawn; 0 always takes the likeliest
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Draw from the K likeliest tokens only [default: from all]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens whose probabilities reach P in sum [default: from all]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Make tokens that have occurred less likely by this factor; 1 leaves them alone
    #[arg(long, value_name = "R", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repetition_penalty: f32,
    /// Seed of the draws: the same seed draws the same tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl SamplingArgs {
    /// The choices, which are possible.
    ///
    /// # Errors
    /// [`ProgramError`] for a number out of range.
    pub fn sampling(&self) -> Result<Sampling, ProgramError> {
        let sampling = Sampling {
            repetition_penalty: self.repetition_penalty,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
        };
        sampling.validate()?;
        Ok(sampling)
    }
}

/// What acts on the states.
#[derive(Clone, Debug, Args)]
pub struct TreatmentArgs {
    /// Mitigation to generate with, such as window:8192, or @FILE as spillway diagnose writes it [default: none]
    #[arg(long, value_name = "SPEC")]
    pub mitigation: Option<String>,
    /// Type that states are stored in after every token: f32, bf16, f16, fp8-e4m3, fp8-e5m2 or int8, with options as in
    /// `int8,scale=row,rounding=stochastic`; short for a mitigation state-dtype:TYPE, beside the other one if there is one [default: as they
    /// are computed, f32]
    #[arg(long, value_name = "TYPE")]
    pub state_dtype: Option<StateDtype>,
    /// Text to calibrate the mitigation on, if it takes its numbers from text: a text file, `ids:FILE` with token ids,
    /// `random` ids, or `newlines` [default for the model that comes with Spillway: the text that comes with it]
    #[arg(long, value_name = "FILE|ids:FILE|random|newlines", requires = "mitigation")]
    pub calibrate: Option<String>,
    /// Length the model was trained on, in tokens, which is calibrated on [default: what the checkpoint says, else 2048]
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens, requires = "mitigation")]
    pub train_length: Option<u64>,
}

impl TreatmentArgs {
    /// The interventions, none without `--mitigation` and `--state-dtype`.
    ///
    /// # Errors
    /// [`ProgramError`] for a mitigation that cannot be used with this model, or a text that it cannot be calibrated on.
    pub fn chain(&self, args: &ModelArgs, model: &Model, context: &Context) -> Result<Chain, ProgramError> {
        Ok(match self.spec()? {
            Some(spec) => self
                .trial(&spec, args, model, context)?
                .treatment()
                .chain()
                .clone(),
            None => Chain::default(),
        })
    }

    /// The text form of all that was asked for.
    fn spec(&self) -> Result<Option<String>, ProgramError> {
        let Some(dtype) = &self.state_dtype else {
            return Ok(self.mitigation.clone());
        };
        match &self.mitigation {
            Some(file) if file.starts_with('@') => Err(ProgramError::usage(
                "--state-dtype",
                "a --mitigation as text beside it",
                file,
            )),
            Some(spec) => Ok(Some(format!("{spec}+state-dtype:{dtype}"))),
            None => Ok(Some(format!("state-dtype:{dtype}"))),
        }
    }

    /// The mitigation that was asked for, with its numbers.
    fn trial(
        &self,
        spec: &str,
        args: &ModelArgs,
        model: &Model,
        context: &Context,
    ) -> Result<Trial, ProgramError> {
        let trial = Trial::parse(spec, model)?.expect_usable(spec)?;
        if !trial.mitigation().needs_calibration() {
            if self.calibrate.is_some() {
                let expected = "a --mitigation that takes its numbers from text, such as state-norm:auto";
                return Err(ProgramError::usage("--calibrate", expected, spec));
            }
            return trial.expect_possible(model);
        }
        if self.calibrate.is_none() && args.checkpoint.is_some() {
            let expected = format!(
                "--calibrate FILE, the text that {spec} takes its numbers from, or @FILE as spillway diagnose writes it"
            );
            return Err(ProgramError::usage(
                format!("--mitigation {spec}"),
                expected,
                "neither",
            ));
        }
        let (train_length, _) = train_length(self.train_length, model)?;
        let text = text::beginning(
            self.calibrate.as_deref(),
            model,
            calibration::most_tokens(train_length),
        )
        .map_err(|error| error.with_option("--calibrate"))?;
        context.remark(format_args!("calibrating {spec} on {}", text.name()));
        let mut calibrator = Calibrator::new(model, &text, train_length).watched(context);
        trial
            .possible(&mut calibrator)
            .map_err(|reason| trial::refused(spec, reason))
    }
}
