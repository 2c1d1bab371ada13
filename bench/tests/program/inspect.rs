//! `spillway inspect`, and checkpoints that are wrong.

use crate::*;

#[test]
fn the_shipped_model_is_shown_with_its_sizes() {
    let json = json_of(&["inspect", "--json"]);
    assert_eq!(json["architecture"], "mamba2");
    assert_eq!(json["parameters"], 138_456);
    assert_eq!(json["train_length"], 64);
    // 2 layers × (4 heads × 256 × 32 recurrent + 640 × 3 convolution) values of 4 bytes.
    assert_eq!(json["state_bytes"], 2 * (4 * 256 * 32 + 640 * 3) * 4);
    // The head is the embedding, so that every weight is read for a token.
    let expected = json["weight_bytes"]
        .as_u64()
        .zip(json["state_bytes"].as_u64())
        .map(|(w, s)| w + 2 * s);
    assert_eq!(json["costs"]["decode_bytes"].as_u64(), expected);
    let flops = |name: &str| json["costs"][name].as_u64().expect("a number");
    assert_eq!(flops("decode_flops") - flops("prefill_flops"), 2 * 256 * 64);
    let table = stdout_of(&["inspect"]);
    assert!(table.contains("138,456") && table.contains("mamba2"), "{table}");
}

#[test]
fn narrower_weights_take_less_memory() {
    let bytes = |dtype| {
        json_of(&["inspect", "--json", "--dtype", dtype])["weight_bytes"]
            .as_u64()
            .expect("number")
    };
    assert!(bytes("f32") > bytes("bf16") && bytes("bf16") > bytes("int8"));
    assert!(bytes("int8") > bytes("int4"));
}

#[test]
fn broken_checkpoints_are_named_with_what_is_wrong() {
    let folder = tempfile::tempdir().expect("temporary folder");
    fails(&["inspect", "/no/such/model"], 1, &["/no/such/model"]);
    let path = tiny_checkpoint(folder.path());
    let (config, weights) = (
        Path::new(&path).join("config.json"),
        Path::new(&path).join("model.safetensors"),
    );
    let (good_config, good_weights) = (
        fs::read_to_string(&config).expect("config"),
        fs::read(&weights).expect("weights"),
    );

    fs::write(&weights, &good_weights[..good_weights.len() / 2]).expect("written");
    fails(&["inspect", &path], 1, &["model.safetensors"]);
    fs::write(&weights, &good_weights[..5]).expect("written");
    fails(&["inspect", &path], 1, &["model.safetensors", "found 5"]);
    fs::remove_file(&weights).expect("removed");
    fails(&["inspect", &path], 1, &["model.safetensors"]);
    fs::write(&weights, &good_weights).expect("written");

    fs::write(&config, "{\"d_model\": 64,").expect("written");
    fails(&["inspect", &path], 1, &["config.json", "JSON"]);
    let wrong_type = good_config.replace("\"d_model\": 64", "\"d_model\": \"wide\"");
    assert_ne!(wrong_type, good_config);
    fs::write(&config, wrong_type).expect("written");
    fails(&["inspect", &path], 1, &["config.json", "d_model", "wide"]);
    let wrong_width = good_config.replace("\"d_model\": 64", "\"d_model\": 128");
    fs::write(&config, wrong_width).expect("written");
    fails(
        &["inspect", &path],
        1,
        &["model.safetensors", "embedding", "[256, 128]", "found [256, 64]"],
    );
    fs::remove_file(&config).expect("removed");
    fails(&["inspect", &path], 1, &["config.json"]);
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = tiny_checkpoint(folder.path());
    let weights = Path::new(&path).join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    let header_len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).expect("JSON header");
    let begin = header["backbone.norm_f.weight"]["data_offsets"][0]
        .as_u64()
        .expect("offset") as usize;
    let begin = 8 + header_len + begin;
    bytes[begin..begin + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).expect("written");
    fails(
        &["inspect", &path],
        1,
        &["model.safetensors", "backbone.norm_f.weight", "NaN"],
    );
}
