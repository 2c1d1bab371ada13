//! Every form that streams is the same in any pieces; fields that no block has are refused.

use serde_json::json;
use spillway_models::Logits;
use spillway_models::checkpoint::WriteDtype;
use spillway_models::init::{preset, write_random};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

use super::support::{IDS, close, fresh, layout, load, logits, merge};

#[test]
fn every_form_that_streams_gives_the_same_in_any_pieces_and_from_a_saved_state() {
    for (layer, model) in [
        (
            json!({"mode": "nplr", "init": "legs"}),
            json!({"prenorm": false, "ff": 2}),
        ),
        (json!({"disc": "bilinear", "channels": 2}), json!({"norm": "rms"})),
        (json!({"disc": "dss-exp"}), json!({"norm": "none"})),
        (
            json!({"disc": "dss", "init": "diag-legs", "l_max": 5}),
            json!({"prenorm": false}),
        ),
        (
            json!({"l_max": 4, "n_ssm": 4}),
            json!({"prenorm": false, "norm": "rms"}),
        ),
        (
            json!({"mode": "nplr", "rank": 2, "init": "legt", "l_max": 3}),
            json!({}),
        ),
        (json!({"gate": 1}), json!({})),
        (
            json!({"gate": 3, "gate_act": "silu", "mult_act": "gelu", "channels": 2}),
            json!({}),
        ),
        (json!({"final_act": "id"}), json!({"ff": 1})),
    ] {
        let what = format!("{layer} {model}");
        let (folder, model) = fresh(&layer, &model);
        let whole = logits(&model, &[&IDS]);
        let singly: Vec<&[u32]> = IDS.chunks(1).collect();
        close(&what, &logits(&model, &singly), &whole);
        close(
            &what,
            &logits(&model, &[&IDS[..2], &IDS[2..7], &IDS[7..]]),
            &whole,
        );

        let mut state = model.start(&Chain::default(), 1).expect("a state");
        model.advance(&IDS[..6], &mut state).expect("advanced");
        let path = folder.path().join("state");
        state.save(&path).expect("saved");
        let mut restored = model.restore(&path, &Chain::default()).expect("restored");
        let after = |state: &mut spillway_models::ModelState| {
            let logits = model
                .logits_batched(&IDS[6..], state, Logits::All)
                .expect("logits");
            logits.into_data().iter::<f32>().collect::<Vec<f32>>()
        };
        assert_eq!(after(&mut restored), after(&mut state), "{what}");
    }
}

#[test]
fn every_tiny_size_is_a_model() {
    for size in ["tiny", "tiny-s4d", "tiny-dss"] {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("model");
        let config = preset(layout(), size).expect(size).config;
        write_random(&path, layout(), config, WriteDtype::F32, 1)
            .unwrap_or_else(|error| panic!("{size}: {error}"));
        let model = load(&path);
        let singly: Vec<&[u32]> = IDS.chunks(1).collect();
        close(size, &logits(&model, &singly), &logits(&model, &[&IDS]));
    }
}

#[test]
fn fields_that_no_block_has_are_refused_by_name() {
    for (layer, model, words) in [
        (json!({"mode": "companion"}), json!({}), "layer.mode"),
        (json!({"disc": "euler"}), json!({}), "layer.disc"),
        (json!({"mode": "nplr", "disc": "dss"}), json!({}), "layer.disc"),
        (json!({"gate": -1}), json!({}), "layer.gate"),
        (
            json!({"gate": 1, "gate_act": "softsign"}),
            json!({}),
            "layer.gate_act",
        ),
        (json!({"l_max": 1.5}), json!({}), "layer.l_max"),
        (json!({"n_ssm": 3}), json!({}), "layer.n_ssm"),
        (json!({"d_state": 5}), json!({}), "layer.d_state"),
        (json!({"final_act": "softmax"}), json!({}), "layer.final_act"),
        (json!({}), json!({"norm": "batch"}), "norm"),
        (json!({"init": "nothing"}), json!({}), "initialisation"),
    ] {
        let folder = TempDir::new().expect("a folder");
        let mut config = json!({"model_type": "s4", "d_model": 8, "n_layers": 1, "vocab_size": 16, "layer": {
            "mode": "diag", "d_state": 4}});
        merge(&mut config["layer"], &layer);
        merge(&mut config, &model);
        let path = folder.path().join("model");
        let error = write_random(&path, layout(), &config.to_string(), WriteDtype::F32, 5);
        let error = error.expect_err(words).to_string();
        assert!(error.contains(words), "{config}: {error}");
    }
}
