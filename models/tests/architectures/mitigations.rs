//! Every mitigation on every layout there is: it runs, the same in prefill, in decode and in any mixture, saved and restored
//! in the middle; or it is refused with the reason and what works instead. Which pairs are refused is written down here.

use crate::common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Tensor;
use common::relative_error;
use spillway_mitigations::{Mitigation, Observer};
use spillway_models::checkpoint::WriteDtype;
use spillway_models::init::{preset, write_random};
use spillway_models::layout::Layout;
use spillway_models::registry::written_layouts;
use spillway_models::{LoadOptions, Logits, Model, ModelError, ModelState};
use spillway_ssm_core::Rule;
use tempfile::TempDir;

const TIME: usize = 90;

/// Two f32 computations of the same thing.
const REORDERED: f64 = 1e-4;

/// A difference of states loses what cancels, and every later layer reads it.
const DIFFERENCE: f64 = 1e-3;

/// A number between two of bf16 may be rounded to the other where two computations differ in their last bits.
const ROUNDED: f64 = 1e-2;

/// One of each, with numbers that act within a few tens of tokens.
const SPECS: [&str; 26] = [
    "forget:0.97",
    "remember:0.6",
    "rri:0.98,0.7",
    "cap:12",
    "cap:12,at=0/1.0",
    "cap-mean:4",
    "a-scale:2",
    "position-decay:20",
    "position-spectrum:20",
    "delta-scale:0.5",
    "scales:0.5,2,1,1,1,1,1,1",
    "delta-filter:300",
    "decimate:0.5",
    "state-norm:0.001",
    "state-norm:auto*0.5,chunk=8",
    "window:24",
    "window-exact:24,chunk=8",
    "window-writes:24",
    "reset:32",
    "reset-overlap:32,8",
    "fitted-noise:2,seed=5",
    "state-dtype:bf16,chunk=8",
    "c-scale:0.5",
    "ablate:0/1.0",
    "forget:0.97+window-exact:24,chunk=8",
    "reset:32+state-norm:auto*0.5",
];

/// What an architecture refuses beside what needs step sizes; all others refuse nothing.
fn refused(architecture: &str) -> &'static [&'static str] {
    match architecture {
        "linear_attn" | "rebased" | "based" => &["a-scale:2"],
        // Its state begins with a prefix.
        "jrt" => &[
            "a-scale:2",
            "window-exact:24,chunk=8",
            "forget:0.97+window-exact:24,chunk=8",
        ],
        "delta_net" => &["a-scale:2", "window:24"],
        "gated_deltanet" | "gated_deltaproduct" | "kda" | "comba" | "gdn2" | "qwen3_5" | "qwen3_5_moe"
        | "qwen3_next" | "kimi_linear" | "olmo_hybrid" | "rwkv7" => &["window:24"],
        "rwkv4" => &[
            "state-norm:0.001",
            "state-norm:auto*0.5,chunk=8",
            "reset:32+state-norm:auto*0.5",
            "window:24",
            "fitted-noise:2,seed=5",
            "state-dtype:bf16,chunk=8",
        ],
        _ => &[],
    }
}

/// What only models that forget take, at rates that may differ between tokens.
const NEEDS_DECAYS: [&str; 2] = ["position-decay:20", "position-spectrum:20"];

/// What only models of delta rules take.
const NEEDS_DELTA_RULE: &str = "window-writes:24";

/// What only models that discretise take.
const NEEDS_STEPS: [&str; 4] = [
    "delta-scale:0.5",
    "scales:0.5,2,1,1,1,1,1,1",
    "delta-filter:300",
    "decimate:0.5",
];

/// Factors cancel where a layer normalises what it reads, and random heads may forget fast enough already.
const MAY_CHANGE_NOTHING: [&str; 4] = ["c-scale", "remember", "cap", "delta-filter"];

fn load(layout: &Layout, folder: &Path) -> Model {
    let name = format!("{} ({})", layout.architecture, layout.name);
    let tiny = preset(layout, "tiny").unwrap_or_else(|| panic!("{name} has no tiny preset"));
    let path = folder.join("model");
    write_random(&path, layout, tiny.config, WriteDtype::F32, 7)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    Model::load(&path, &LoadOptions::default()).unwrap()
}

fn ids(model: &Model) -> Vec<u32> {
    let vocabulary = model.info().vocab_size as u64;
    (0..TIME as u64)
        .map(|i| ((i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % vocabulary) as u32)
        .collect()
}

fn values(tensor: Tensor<3>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Logits of all tokens, taken in calls of these lengths and one for the rest.
fn run(model: &Model, ids: &[u32], calls: &[usize], state: &mut ModelState) -> Result<Vec<f32>, ModelError> {
    let (mut logits, mut rest) = (Vec::new(), ids);
    for call in calls.iter().chain([&usize::MAX]) {
        let (now, later) = rest.split_at((*call).min(rest.len()));
        logits.extend(values(model.logits_batched(now, state, Logits::All)?));
        rest = later;
    }
    Ok(logits)
}

/// Whatever needs calibration is calibrated on the first half of the tokens.
fn mitigation(spec: &str, model: &Model, ids: &[u32]) -> Mitigation {
    let observer = Observer::start();
    let mut state = model.start(&observer.chain(), 1).unwrap();
    run(model, &ids[..TIME / 2], &[5; TIME / 10], &mut state).unwrap();
    let parsed: Mitigation = spec.parse().unwrap();
    parsed.calibrated(&observer.calibration(1.0).unwrap()).unwrap()
}

/// Whether the mitigation runs, and runs alike however the tokens are split; the reason where it is refused.
fn try_pair(name: &str, spec: &str, model: &Model, folder: &Path, plain: &[f64]) -> Result<(), String> {
    let ids = ids(model);
    let chain = mitigation(spec, model, &ids).chain();
    let mut state = model.start(&chain, 1).map_err(|error| error.to_string())?;
    let prefilled = run(model, &ids, &[], &mut state).map_err(|error| error.to_string())?;
    let expected: Vec<f64> = prefilled.iter().map(|v| f64::from(*v)).collect();
    let bound = match spec {
        spec if spec.starts_with("window:") => DIFFERENCE,
        spec if spec.starts_with("state-dtype:") => ROUNDED,
        _ => REORDERED,
    };
    for calls in [&[1; TIME][..], &[3, 29, 0, 1, 40]] {
        let mut state = model.start(&chain, 1).unwrap();
        let found = run(model, &ids, calls, &mut state).unwrap();
        let error = relative_error(found, expected.iter().copied());
        assert!(
            error <= bound,
            "{name}, {spec}: relative error {error:e} in calls of {calls:?}"
        );
    }
    // The steps of Samba's one fresh recurrence vary so little that calibration counts them all in one bin of its histogram.
    let is_coarse = name.starts_with("samba") && spec == "decimate:0.5";
    if !is_coarse && !MAY_CHANGE_NOTHING.iter().any(|part| spec.starts_with(part)) {
        let change = relative_error(prefilled, plain.iter().copied());
        assert!(change > 1e-6, "{name}, {spec} changes nothing: {change:e}");
    }
    restored(name, spec, model, &chain, folder);
    Ok(())
}

/// From a file in the middle, the same bits.
fn restored(name: &str, spec: &str, model: &Model, chain: &spillway_ssm_core::Chain, folder: &Path) {
    let ids = ids(model);
    let mut state = model.start(chain, 1).unwrap();
    run(model, &ids[..53], &[20], &mut state).unwrap();
    let path = folder.join("state");
    state.save(&path).unwrap();
    let mut restored = model.restore(&path, chain).unwrap();
    let expected = run(model, &ids[53..], &[11], &mut state).unwrap();
    let found = run(model, &ids[53..], &[11], &mut restored).unwrap();
    assert!(
        found == expected,
        "{name}, {spec}: a restored state goes on otherwise"
    );
}

#[test]
fn every_mitigation_runs_alike_on_every_layout_or_says_what_does() {
    let mut refusals: BTreeMap<String, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for layout in written_layouts() {
        let name = format!("{} ({})", layout.architecture, layout.name);
        let folder = TempDir::new().unwrap();
        let model = load(layout, folder.path());
        let mut state = model.start(&spillway_ssm_core::Chain::default(), 1).unwrap();
        if state.recurrences().next().is_none() {
            continue;
        }
        let ids = ids(&model);
        let plain: Vec<f64> = run(&model, &ids, &[], &mut state)
            .unwrap()
            .into_iter()
            .map(f64::from)
            .collect();
        let steps = model.info().sites.iter().all(|site| site.has_step_size);
        let (mut found, mut expected) = (Vec::new(), refused(layout.architecture).to_vec());
        if !steps {
            expected.extend(NEEDS_STEPS);
        }
        let sites = &model.info().sites;
        if !sites.iter().all(|site| site.decays && site.rule != Rule::Mean) {
            expected.extend(NEEDS_DECAYS);
        }
        if !sites.iter().all(|site| site.rule == Rule::Delta) {
            expected.push(NEEDS_DELTA_RULE);
        }
        for spec in SPECS {
            if let Err(reason) = try_pair(&name, spec, &model, folder.path(), &plain) {
                let first = spec.split('+').next_back().unwrap_or(spec);
                assert!(
                    reason.contains(first) && reason.contains("cannot work at layer"),
                    "{name}, {spec}: {reason}"
                );
                assert!(
                    reason.contains("use ") || reason.contains("instead"),
                    "{name}, {spec}: {reason}"
                );
                found.push(spec);
            }
        }
        found.sort_unstable();
        expected.sort_unstable();
        if found != expected {
            refusals.insert(name, (found, expected));
        }
    }
    assert!(
        refusals.is_empty(),
        "refused, and what was written down: {refusals:#?}"
    );
}
