//! Four arms that are all combinations of two settings: what each does, and whether they add up.
//!
//! With L(i, j) of an arm at level i of the first and j of the second factor, seed by seed,
//!
//! ```text
//! effect of the first    ½ (L(1,0) − L(0,0)) + ½ (L(1,1) − L(0,1))
//! effect of the second   ½ (L(0,1) − L(0,0)) + ½ (L(1,1) − L(1,0))
//! interaction            (L(1,1) − L(0,1)) − (L(1,0) − L(0,0))
//! ```
//!
//! An interaction of 0 says that the one does as much whatever the other. Settings that always change together are one factor.

use super::arm::{ArmReport, Measure};
use crate::studies::estimate::Estimate;
use serde::Serialize;

/// Two factors and their effects.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Factorial {
    /// The factors; level 0 is that of the first arm.
    pub factors: [Factor; 2],
    /// Names of the arms at levels (0,0), (1,0), (0,1), (1,1).
    pub arms: [String; 4],
    /// Effects on each measure.
    pub effects: Vec<Effects>,
}

/// Settings that change together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Factor {
    /// The setting that stands for them.
    pub field: String,
    /// The factor's two values.
    pub levels: [String; 2],
}

/// Effects on a measure, in nats per token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effects {
    /// The measure that the effects are on.
    pub measure: Measure,
    /// Main effect of the first factor.
    pub first: Estimate,
    /// Main effect of the second factor.
    pub second: Estimate,
    /// Interaction of the factors: how much more the one does with the other.
    pub interaction: Estimate,
}

impl Factorial {
    /// `None` unless there are four arms, each with another combination of the levels of two factors.
    pub fn of(arms: &[ArmReport]) -> Option<Self> {
        let [_, _, _, _] = arms else { return None };
        // Which arms have another value than the first, for each setting; settings that agree in that are one factor.
        let mut factors: Vec<(Vec<bool>, Factor)> = Vec::new();
        for (index, setting) in arms[0].settings.iter().enumerate() {
            let values: Vec<&str> = arms
                .iter()
                .map(|arm| arm.settings[index].value.as_str())
                .collect();
            let changed: Vec<bool> = values.iter().map(|value| *value != values[0]).collect();
            let other = values.iter().find(|value| **value != values[0])?;
            if values.iter().any(|value| value != other && *value != values[0]) {
                return None;
            }
            let factor = Factor {
                field: setting.field.clone(),
                levels: [values[0].into(), (*other).into()],
            };
            match factors.iter_mut().find(|(known, _)| *known == changed) {
                Some((_, known)) if stands_before(&factor.field, &known.field) => *known = factor,
                Some(_) => {}
                None => factors.push((changed, factor)),
            }
        }
        // In the order of the arms that show them first.
        factors.sort_by_key(|(changed, _)| changed.iter().position(|changed| *changed));
        let [(first, a), (second, b)] = factors.try_into().ok()?;
        let at = |level: (bool, bool)| {
            arms.iter()
                .enumerate()
                .find(|(index, _)| (first[*index], second[*index]) == level)
                .map(|(_, arm)| arm)
        };
        let cells = [
            at((false, false))?,
            at((true, false))?,
            at((false, true))?,
            at((true, true))?,
        ];
        Some(Self {
            factors: [a, b],
            arms: cells.map(|arm| arm.name.clone()),
            effects: Measure::ALL
                .into_iter()
                .filter_map(|measure| effects(measure, cells))
                .collect(),
        })
    }
}

/// Whether `field` says better what a factor is: what is evaluated follows from what is trained, and short names are the main ones.
fn stands_before(field: &str, known: &str) -> bool {
    let rank = |field: &str| (field.starts_with("evaluation"), field.len());
    rank(field) < rank(known)
}

fn effects(measure: Measure, cells: [&ArmReport; 4]) -> Option<Effects> {
    let of = |arm: &ArmReport| arm.at_end(measure);
    let [base, first, second, both] = [of(cells[0])?, of(cells[1])?, of(cells[2])?, of(cells[3])?];
    let value = |cell: &[(u64, f64)], seed: u64| {
        cell.iter()
            .find(|(other, _)| *other == seed)
            .map(|(_, value)| *value)
    };
    let each: Vec<[f64; 4]> = base
        .iter()
        .filter_map(|&(seed, base)| {
            Some([
                base,
                value(&first, seed)?,
                value(&second, seed)?,
                value(&both, seed)?,
            ])
        })
        .collect();
    let over =
        |combine: fn([f64; 4]) -> f64| Estimate::of(each.iter().map(|cells| combine(*cells)).collect());
    Some(Effects {
        measure,
        first: over(|[base, first, second, both]| ((first - base) + (both - second)) / 2.0),
        second: over(|[base, first, second, both]| ((second - base) + (both - first)) / 2.0),
        interaction: over(|[base, first, second, both]| (both - second) - (first - base)),
    })
}
