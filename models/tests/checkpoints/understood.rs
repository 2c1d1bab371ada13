//! What changes a model and is not followed is refused in every layout.

use serde_json::{Value, json};
use spillway_models::checkpoint::WriteDtype;
use spillway_models::init::{preset, write_random};
use spillway_models::registry::written_layouts;
use tempfile::TempDir;

#[test]
fn a_field_that_no_layout_follows_is_refused_by_all_and_not_where_it_says_nothing() {
    let folder = TempDir::new().unwrap();
    let mut layouts = 0;
    for layout in written_layouts() {
        let Some(tiny) = preset(layout, "tiny") else {
            continue;
        };
        let write = |name: &str, value: Value| {
            let mut config: Value = serde_json::from_str(tiny.config).unwrap();
            config[name] = value;
            let to = folder.path().join(format!("{layouts}-{name}"));
            write_random(&to, layout, &config.to_string(), WriteDtype::F32, 0)
        };
        let refused = |name: &str, value: Value| {
            let error = write(name, value).expect_err(layout.architecture).to_string();
            assert!(error.contains(name), "{}: {error}", layout.architecture);
        };
        refused("quantization_config", json!({"bits": 4}));
        refused("final_logit_softcapping", json!(30.0));
        refused("clip_qkv", json!(8.0));
        write("final_logit_softcapping", Value::Null).expect(layout.architecture);
        write("alibi", json!(false)).expect(layout.architecture);
        layouts += 1;
    }
    assert!(layouts > 30, "{layouts}");
}

#[test]
fn a_factor_is_refused_by_the_layouts_that_have_none() {
    let folder = TempDir::new().unwrap();
    for layout in written_layouts().filter(|layout| layout.architecture == "llama") {
        let tiny = preset(layout, "tiny").unwrap();
        let mut config: Value = serde_json::from_str(tiny.config).unwrap();
        config["logits_scaling"] = json!(8.0);
        let to = folder.path().join("scaled");
        let error = write_random(&to, layout, &config.to_string(), WriteDtype::F32, 0).unwrap_err();
        assert!(error.to_string().contains("logits_scaling"), "{error}");
        config["logits_scaling"] = json!(1.0);
        write_random(&to, layout, &config.to_string(), WriteDtype::F32, 0).unwrap();
    }
}
