//! Mitigations act in a whole model: in prefill as in decode, and in a state that was saved and restored.

use crate::common;

use spillway_models::Logits;
use spillway_models::checkpoint::Checkpoint;
use spillway_ssm_core::Chain;

use common::{Case, SMALL, relative_error};

const CASE: Case = Case { seed: 11, ..SMALL };

const SPECS: [&str; 8] = [
    "none",
    "rri:0.99,0.75",
    "delta-scale:0.5",
    "state-norm:1.5",
    "window:24",
    "window-exact:24,chunk=8",
    "reset:32",
    "rri:0.99,0.75+window:24",
];

fn chain(spec: &str) -> Chain {
    spec.parse::<spillway_mitigations::Mitigation>().unwrap().chain()
}

fn logits(model: &spillway_models::Model, ids: &[u32], state: &mut spillway_models::ModelState) -> Vec<f32> {
    model
        .logits(ids, state, Logits::All)
        .unwrap()
        .into_data()
        .iter::<f32>()
        .collect()
}

#[test]
fn prefill_is_decode_with_every_mitigation() {
    let (folder, model) = CASE.load();
    let ids = CASE.ids(100);
    let plain = common::reference::logits(&CASE, &Checkpoint::open(folder.path()).unwrap(), &ids);
    let plain: Vec<f64> = plain.into_iter().flatten().collect();
    for spec in SPECS {
        let chain = chain(spec);
        let prefilled = logits(&model, &ids, &mut model.start(&chain, 1).unwrap());
        let mut state = model.start(&chain, 1).unwrap();
        let decoded: Vec<f32> = ids
            .iter()
            .flat_map(|id| logits(&model, &[*id], &mut state))
            .collect();
        let error = relative_error(decoded, prefilled.iter().map(|v| f64::from(*v)));
        assert!(error <= 1e-3, "{spec}: relative error {error:e}");
        let change = relative_error(prefilled, plain.iter().copied());
        assert_eq!(
            change > 1e-3,
            spec != "none",
            "{spec} changes the logits by {change:e}"
        );
    }
}

#[test]
fn a_saved_state_continues_bit_for_bit_with_every_mitigation() {
    let (folder, model) = CASE.load();
    let ids = CASE.ids(120);
    for spec in SPECS {
        let chain = chain(spec);
        let mut state = model.start(&chain, 1).unwrap();
        model.advance(&ids[..70], &mut state).unwrap();
        let path = folder.path().join("state");
        state.save(&path).unwrap();
        let mut restored = model.restore(&path, &chain).unwrap();
        let mut cloned = state.clone();
        let expected = logits(&model, &ids[70..], &mut state);
        assert_eq!(
            logits(&model, &ids[70..], &mut restored),
            expected,
            "{spec}: restored"
        );
        assert_eq!(
            logits(&model, &ids[70..], &mut cloned),
            expected,
            "{spec}: cloned"
        );
        if spec != "none" {
            let error = model.restore(&path, &Chain::default()).unwrap_err().to_string();
            assert!(error.contains(spec) && error.contains("expected none"), "{error}");
        }
    }
}
