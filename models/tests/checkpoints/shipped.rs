//! The checkpoint that comes with the crate does what its page says.

use spillway_models::{LoadOptions, Model, shipped_text};
use spillway_ssm_core::Chain;

/// Mean loss in nats per byte of `streams` streams of 16,384 bytes that begin 40,000 bytes apart, at positions
/// 0–64, 64–128, …, 8,192–16,384, measured with transformers on the same files (`bench/peers/loss_by_position.py`).
const EDGES: [usize; 10] = [0, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
const LOSS: [f64; 9] = [1.463, 1.507, 1.635, 1.727, 2.076, 2.329, 2.571, 3.012, 3.605];

#[test]
fn loss_by_position_is_that_of_its_page() {
    let model = Model::shipped(&LoadOptions::default()).unwrap();
    let text = shipped_text();
    assert_eq!(text.len(), 400_000);
    let ids: Vec<u32> = text.bytes().map(u32::from).collect();
    let (mut sums, length) = ([0.0f64; 9], 16_384);
    for stream in 0..8 {
        let ids = &ids[stream * 40_000..][..length + 1];
        let mut state = model.start(&Chain::default(), 1).unwrap();
        let losses = model.losses(&ids[..length], &ids[1..], &mut state).unwrap();
        for (sum, edges) in sums.iter_mut().zip(EDGES.windows(2)) {
            *sum += losses[edges[0]..edges[1]]
                .iter()
                .map(|l| f64::from(*l))
                .sum::<f64>();
        }
    }
    let counts = EDGES.windows(2).map(|edges| (8 * (edges[1] - edges[0])) as f64);
    let found: Vec<f64> = sums.iter().zip(counts).map(|(sum, count)| sum / count).collect();
    println!("{found:.4?}");
    // The page gives three decimals.
    for (found, expected) in found.iter().zip(LOSS) {
        assert!((found - expected).abs() <= 0.0015, "{found} is not {expected}");
    }
}

#[test]
fn it_is_what_its_page_says() {
    let model = Model::shipped(&LoadOptions::default()).unwrap();
    let info = model.info();
    assert_eq!(
        (info.parameters, info.train_length, info.vocab_size),
        (138_456, Some(64), 256)
    );
    assert_eq!(
        (
            info.layers,
            info.sites[0].heads,
            info.sites[0].key_dim,
            info.sites[0].value_dim
        ),
        (2, 4, 256, 32)
    );
    assert_eq!(
        info.state_bytes,
        model.start(&Chain::default(), 1).unwrap().bytes() as u64
    );
    let packed = info.weight_bytes as f64 / (4 * info.parameters) as f64;
    assert!(
        (1.0..1.05).contains(&packed),
        "f32 weights take {packed} of their size"
    );
    assert!(model.tokenizer().is_byte_level());
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-mamba2-kjv");
    let loaded = Model::load(&path, &LoadOptions::default()).unwrap();
    let fields = |model: &Model| serde_json::to_value(model.info()).unwrap();
    assert_eq!(fields(&loaded), fields(&model));
}
