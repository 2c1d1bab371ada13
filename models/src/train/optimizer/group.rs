//! Parameters that are trained otherwise than the rest.

use serde::{Deserialize, Serialize};

use super::OptimizerError;
use super::decay::ends_with;
use crate::train::Parameter;

/// Parameters with a learning rate or a weight decay of their own, by the ends of their names. The schedule is that of all.
///
/// State-space parameters are commonly trained at a lower rate and without decay: a step in log Δ or in an eigenvalue changes what
/// every state remembers.
///
/// ```
/// use spillway_models::train::OptimizerConfig;
///
/// let config: OptimizerConfig = toml::from_str(r#"
///     learning_rate = 5e-3
///     groups = [{ names = ["A_log", "dt_bias"], learning_rate = 1e-3, weight_decay = 0.0 }]
/// "#)?;
/// config.validate(1000)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Ends of the names, as whole parts: `A_log`, `conv1d.weight`.
    pub names: Vec<String>,
    /// η at its peak; 0 keeps the parameters as they are. Default: that of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// λ, for every parameter of the group. Default: that of all, for those that decay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

impl GroupConfig {
    /// Whether a parameter of this name is named.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|end| ends_with(name, end))
    }

    /// Checks the numbers, beside learning rate and weight decay of all, which hold where the group has none.
    pub(super) fn validate(&self, (learning_rate, weight_decay): (f64, f64)) -> Result<(), OptimizerError> {
        let rate = self.learning_rate.unwrap_or(learning_rate);
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(OptimizerError::option(
                "groups.learning_rate",
                "a number from 0 on",
                rate,
            ));
        }
        let decay = self.weight_decay.unwrap_or(weight_decay);
        if !(decay >= 0.0 && decay * rate < 1.0) {
            let expected = "at least 0, and below 1 / learning_rate";
            return Err(OptimizerError::option("groups.weight_decay", expected, decay));
        }
        Ok(())
    }

    /// Refuses names that no parameter has.
    pub(super) fn expect_names(&self, parameters: &[Parameter]) -> Result<(), OptimizerError> {
        let unknown = |end: &&String| !parameters.iter().any(|p| ends_with(&p.name, end));
        let expected = "ends of parameters' names, in whole parts between dots";
        match self.names.iter().find(unknown) {
            Some(end) => Err(OptimizerError::option(
                "groups.names",
                expected,
                format!("{end:?}"),
            )),
            None if self.names.is_empty() => Err(OptimizerError::option("groups.names", expected, "none")),
            None => Ok(()),
        }
    }
}
