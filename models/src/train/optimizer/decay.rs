//! Which parameters are pulled towards zero: matrices and embeddings, and nothing else.
//!
//! Two rules decide, on published names and shapes:
//!
//! 1. A tensor with fewer than two dimensions larger than 1 is a vector, and does not decay: norms, biases, skips, rates, vectors
//!    that interpolate between tokens.
//! 2. Some vectors are stored with two dimensions, mostly as heads × channels. They are known by the ends of their names.
//!
//! What is left are projections, low-rank ones included, the taps of short convolutions, and embeddings.

use crate::train::Parameter;

/// Ends of names that do not decay, whatever their shape.
const NO_DECAY: [&str; 31] = [
    // Of projections, norms and convolutions.
    "bias",
    // Mamba, Gated DeltaNet: logarithms of rates, [heads] or [channels, state]; the skip; the bias of the step size.
    "A_log",
    "D",
    "dt_bias",
    // Mamba-3: biases of B and C, [heads, 1, state].
    "B_bias",
    "C_bias",
    // Zamba: the same in groups, [groups, channels of a group].
    "dt_proj_bias",
    // RecurrentGemma: biases of block-diagonal gates, [blocks, channels of a block].
    "input_gate_bias",
    "recurrent_gate_bias",
    // RWKV-4 to 6: rates and bonus, [channels] or [heads, channels of a head].
    "time_decay",
    "time_first",
    "time_faaaa",
    // RWKV-6 and 7 of flash-linear-attention, RWKV-7: the bonus.
    "bonus",
    "r_k",
    // RWKV-6 of flash-linear-attention: five vectors that interpolate between tokens, [5, channels].
    "x_bias",
    // HGRN: bounds of the forget gates, [layers, channels].
    "lower_bounds",
    // S4 and H3: the parameters of linear systems, [copies or channels, modes].
    "kernel.A_real",
    "kernel.A_imag",
    "kernel.inv_A_real",
    "kernel.inv_dt",
    "kernel.log_dt",
    "kernel.B",
    "kernel.C",
    "kernel.P",
    // The free kernel that stands in their place.
    "kernel.K",
    // GSS: what the modes are read by, [channels, modes].
    "dss.C_real",
    "dss.C_imag",
    // Block-State Transformers: the same, logarithms of rates and frequencies, [channels, modes]; free kernels, [channels, taps].
    "A_re_log",
    "A_im",
    "C",
    "K",
];

/// Whether weight decay applies to a parameter; [`OptimizerConfig::no_decay`](super::OptimizerConfig::no_decay) can except more.
pub fn decays(parameter: &Parameter) -> bool {
    decays_by(&parameter.name, &parameter.shape)
}

/// [`decays`] on a name and a shape.
pub(super) fn decays_by(name: &str, shape: &[usize]) -> bool {
    let directions = shape.iter().filter(|length| **length > 1).count();
    let of_axis = without_number(name);
    let is_excepted =
        |end: &&str| ends_with(name, end) || of_axis.as_ref().is_some_and(|name| ends_with(name, end));
    directions >= 2 && !NO_DECAY.iter().any(is_excepted)
}

/// A name without the number before its last part, where there is one: S4ND numbers the axes that its kernels belong to.
fn without_number(name: &str) -> Option<String> {
    let (before, last) = name.rsplit_once('.')?;
    let (before, number) = before.rsplit_once('.')?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| format!("{before}.{last}"))
}

/// Whether `end` is the last part, or the last parts, of a name of parts between dots.
pub(in crate::train) fn ends_with(name: &str, end: &str) -> bool {
    let before = name.strip_suffix(end);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Map, Value};

    use super::*;
    use crate::checkpoint::{Fields, TensorPlan, parse_object};
    use crate::layout::Layout;
    use crate::loader::Loader;
    use crate::registry;

    /// What a layout asks for in its tiny sizes.
    fn tensors(layout: &Layout) -> Vec<TensorPlan> {
        let tiny = layout.presets.iter().filter(|p| p.size.starts_with("tiny"));
        let tensors = tiny.flat_map(|preset| {
            let path = Path::new(preset.size);
            let config: Map<String, Value> = parse_object(path, preset.config).unwrap();
            let mut loader = Loader::blank();
            layout.load(&Fields::new(path, &config), &mut loader).unwrap();
            let plans = loader.asked().iter().map(|asked| asked.plan.clone());
            plans.collect::<Vec<_>>()
        });
        tensors.collect()
    }

    fn layouts() -> impl Iterator<Item = (String, Vec<TensorPlan>)> {
        registry::written_layouts().map(|layout| {
            let name = format!("{} ({})", layout.architecture, layout.name);
            let tensors = tensors(layout);
            assert!(!tensors.is_empty(), "{name} has no tiny size");
            (name, tensors)
        })
    }

    /// Names in the order of the file, with layer numbers as `N`, each once.
    fn undecayed(layout: &str) -> Vec<String> {
        let (_, tensors) = layouts().find(|(name, _)| name == layout).unwrap();
        let mut names = Vec::new();
        for plan in tensors.iter().filter(|plan| !decays_by(&plan.name, &plan.shape)) {
            let parts = plan.name.split('.').map(|part| match part.parse::<u32>() {
                Ok(_) => "N",
                Err(_) => part,
            });
            let name = parts.collect::<Vec<_>>().join(".");
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.sort();
        names
    }

    #[test]
    fn in_every_layout_vectors_stay_and_projections_and_embeddings_decay() {
        for (layout, tensors) in layouts() {
            for TensorPlan { name, shape } in &tensors {
                let leaf = name.rsplit('.').next().unwrap_or_default();
                let above = name.rsplit('.').nth(1).unwrap_or_default();
                let found = decays_by(name, shape);
                let case = format!("{layout}: {name} {shape:?}");
                // What stands on a diagonal or between tokens, by how the architectures call it.
                let of_norm = above.contains("norm") || above.starts_with("ln");
                let between = |leaf: &str| leaf.starts_with("x_") && leaf != "x_proj_weight";
                let interpolation = leaf.starts_with("time_mix_") || leaf == "mu" || between(leaf);
                let of_rates = [
                    "A_log",
                    "D",
                    "dt_bias",
                    "time_decay",
                    "time_first",
                    "time_faaaa",
                    "bonus",
                ];
                let of_system = ["kernel.kernel", "layer.kernel"];
                let of_system =
                    of_system.iter().any(|system| name.contains(system)) || leaf == "B" || leaf == "C";
                let of_rwkv7 = ["k_k", "k_a", "r_k", "w0", "a0", "v0"];
                if of_norm
                    || interpolation
                    || leaf == "bias"
                    || of_rates.contains(&leaf)
                    || of_rwkv7.contains(&leaf)
                    || of_system
                {
                    assert!(!found, "{case} decays");
                }
                // The direction of a projection whose weight is normalised.
                let is_weight = leaf == "weight" || leaf == "weight_v";
                let projection = (is_weight || leaf.ends_with("w1") || leaf.ends_with("w2"))
                    && shape.iter().filter(|length| **length > 1).count() >= 2;
                if projection || (above.contains("embedding") && !of_norm) {
                    assert!(found, "{case} does not decay");
                }
                // Nothing escapes both: what decays is a projection, taps, or low rank.
                let low_rank = ["w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"];
                let of_experts = ["gate_up_proj", "down_proj"];
                let known = is_weight
                    || leaf.ends_with("_weight")
                    || of_experts.contains(&leaf)
                    || low_rank.contains(&leaf)
                    || ["time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2"].contains(&leaf);
                assert!(!found || known, "{case} decays and is no projection");
            }
        }
    }

    #[test]
    fn systems_of_numbered_axes_stay_as_others_do() {
        let layer = "model.layers.0.layer";
        for part in ["inv_dt", "A_real", "A_imag", "B", "C", "P"] {
            assert!(
                !decays_by(&format!("{layer}.layer.kernel.1.{part}"), &[4, 8, 2]),
                "{part}"
            );
        }
        for part in ["output_linear.0.weight", "kernel.1.weight", "1.C.weight"] {
            assert!(decays_by(&format!("{layer}.{part}"), &[8, 4]), "{part}");
        }
    }

    #[test]
    fn these_do_not_decay_in_mamba() {
        let mixer = |names: &[&str]| -> Vec<String> {
            let names = names.iter().map(|n| format!("backbone.layers.N.mixer.{n}"));
            let norms = ["backbone.layers.N.norm.weight", "backbone.norm_f.weight"];
            names.chain(norms.map(String::from)).collect()
        };
        assert_eq!(
            undecayed("mamba1 (Hugging Face)"),
            mixer(&["A_log", "D", "conv1d.bias", "dt_proj.bias"])
        );
        assert_eq!(
            undecayed("mamba2 (Hugging Face)"),
            mixer(&["A_log", "D", "conv1d.bias", "dt_bias", "norm.weight"])
        );
    }

    #[test]
    fn these_do_not_decay_in_gated_deltanet() {
        let expected = [
            "model.layers.N.attn.A_log",
            "model.layers.N.attn.dt_bias",
            "model.layers.N.attn.o_norm.weight",
            "model.layers.N.attn_norm.weight",
            "model.layers.N.mlp_norm.weight",
            "model.norm.weight",
        ];
        assert_eq!(undecayed("gated_deltanet (flash-linear-attention)"), expected);
    }

    #[test]
    fn these_do_not_decay_in_rwkv6() {
        let attention = [
            "ln_x.bias",
            "ln_x.weight",
            "time_decay",
            "time_faaaa",
            "time_maa_g",
            "time_maa_k",
            "time_maa_r",
            "time_maa_v",
            "time_maa_w",
            "time_maa_x",
        ];
        let names = attention.map(|name| format!("blocks.N.att.{name}"));
        let rest = [
            "blocks.N.ffn.time_maa_k",
            "blocks.N.ffn.time_maa_r",
            "blocks.N.ln0.bias",
            "blocks.N.ln0.weight",
            "blocks.N.ln1.bias",
            "blocks.N.ln1.weight",
            "blocks.N.ln2.bias",
            "blocks.N.ln2.weight",
            "ln_out.bias",
            "ln_out.weight",
        ];
        let expected: Vec<String> = names.into_iter().chain(rest.map(String::from)).collect();
        assert_eq!(undecayed("rwkv6 (BlinkDL)"), expected);
    }

    #[test]
    fn an_end_is_whole_parts_of_a_name() {
        assert!(ends_with("layers.0.mixer.D", "D"));
        assert!(ends_with("D", "D"));
        assert!(ends_with("layers.0.mixer.conv1d.weight", "conv1d.weight"));
        assert!(!ends_with("layers.0.mixer.BCD", "D"));
        assert!(!ends_with("blocks.0.att.time_decay_w1", "time_decay"));
        assert!(decays_by("blocks.0.att.time_decay_w1", &[64, 32]));
        assert!(!decays_by("a.weight", &[1, 64]) && !decays_by("a.weight", &[64]) && !decays_by("a", &[]));
    }
}
