//! What a ring, a scan and a step of a training would cost on machines that are not here: the tables of `bench/docs/parallel.md`.
//!
//! ```text
//! cargo run --release -p spillway-models --example ranks
//! ```

use spillway_models::parallel::cost::{Cost, Machine, Shape, ring, scan, training_bytes, training_step};

/// A rank of a cluster: a server's processors, and a network of 100 Gbit/s.
const MACHINE: Machine = Machine {
    operations: 2e12,
    latency: 1e-4,
    bandwidth: 1e10,
};

/// A model of published sizes: operations are two for each weight of a layer, states are f32.
struct Published {
    name: &'static str,
    shape: Shape,
    /// What an element of a layer costs beside its tokens, and its bytes.
    element: Option<(f64, f64)>,
}

fn published() -> Vec<Published> {
    let shape = |layers: usize, weights: f64, state: f64, cache: f64| Shape {
        layers,
        operations_per_token: 2.0 * weights / layers as f64,
        state_bytes: 4.0 * state,
        cache_bytes_per_token: 4.0 * cache,
    };
    vec![
        Published {
            name: "Mamba-2 2.7B: 64 layers, 80 heads of 128 × 64",
            shape: shape(64, 2.7e9, 80.0 * 128.0 * 64.0, 0.0),
            // Its recurrence is some 3 % of the operations of a layer.
            element: Some((0.015, 4.0 * 80.0 * (128.0 * 64.0 + 1.0))),
        },
        Published {
            name: "RWKV-7 2.9B: 32 layers, 40 heads of 64 × 64, dense elements",
            shape: shape(32, 2.9e9, 40.0 * 64.0 * 64.0, 0.0),
            element: Some((0.06, 4.0 * 40.0 * 2.0 * 64.0 * 64.0)),
        },
        Published {
            name: "Llama 3 8B: 32 layers of attention, 8 heads of keys and values of 128",
            shape: shape(32, 8.0e9, 0.0, 2.0 * 8.0 * 128.0),
            element: None,
        },
    ]
}

fn row(name: &str, ranks: usize, cost: &Cost) {
    println!(
        "| {ranks} | {name} | {:.1} s | {:.0} % | {} | {:.1} GB |",
        cost.seconds,
        100.0 * cost.efficiency,
        cost.messages,
        cost.bytes / 1e9
    );
}

fn main() {
    const TOKENS: u64 = 1 << 20;
    for model in published() {
        println!("\n{}: {TOKENS} tokens\n", model.name);
        println!("| ranks | by | time | efficiency | messages | bytes |\n|---|---|---|---|---|---|");
        for ranks in [1, 4, 16, 64, 256, 1024, 4096] {
            // As `Ring::new` cuts it: at most 16 segments of 256 tokens.
            let stretch = TOKENS.div_ceil(ranks as u64).clamp(256, 4096);
            row(
                "ring",
                ranks,
                &ring(&model.shape, &MACHINE, ranks, TOKENS, stretch),
            );
            if let Some(element) = model.element {
                row(
                    "scan",
                    ranks,
                    &scan(&model.shape, &MACHINE, ranks, TOKENS, element),
                );
            }
        }
    }
    const PARAMETERS: u64 = 2_700_000_000;
    println!(
        "\na step with {PARAMETERS} parameters\n\n| ranks | messages take | memory of a rank |\n|---|---|---|"
    );
    for ranks in [1, 2, 4, 16, 256, 4096] {
        let seconds = training_step(&MACHINE, ranks, PARAMETERS);
        let bytes = training_bytes(ranks, PARAMETERS) / 1e9;
        println!("| {ranks} | {seconds:.1} s | {bytes:.1} GB |");
    }
}
