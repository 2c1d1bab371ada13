//! Where norms stand, against the blocks put together by hand.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;
use spillway_models::checkpoint::Checkpoint;
use spillway_ssm_core::operators::linear_state_space::Rule;
use spillway_ssm_core::s4::{ModeSum, Projection, S4, S4Config};
use spillway_ssm_core::state_space::init::{StepRange, Transform};
use spillway_ssm_core::{Chain, Chunking, Context, Mixer, Shared, WeightMap, WeightSource};

use super::support::{IDS, close, fresh, logits, read, shape_of};

/// The tensors of a checkpoint below a prefix, without it, by the names of the block.
fn block_weights(checkpoint: &Checkpoint, layer: usize) -> WeightMap {
    let prefix = format!("model.layers.{layer}.layer.");
    let own = |name: &str| {
        let name = name.strip_prefix(&prefix)?;
        let name = name.strip_prefix("layer.").unwrap_or(name);
        Some(name.replace("output_linear.0", "output_linear"))
    };
    let named = checkpoint.names().filter_map(|name| Some((own(name)?, name)));
    let tensors = named.map(|(own, name)| {
        (
            own,
            TensorData::new(read(checkpoint, name), shape_of(checkpoint, name)),
        )
    });
    WeightMap::new(tensors.collect::<BTreeMap<_, _>>(), Device::flex())
}

fn norm(rows: &[f32], width: usize, weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let each = rows.chunks(width).flat_map(|row| {
        let mean = row.iter().sum::<f32>() / width as f32;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / width as f32;
        let scale = 1.0 / (variance + 1e-5).sqrt();
        let columns = row.iter().zip(weight).zip(bias);
        columns
            .map(|((x, w), b)| (x - mean) * scale * w + b)
            .collect::<Vec<_>>()
    });
    each.collect()
}

fn plain_block(width: usize, state_dim: usize) -> S4Config {
    S4Config {
        model_dim: width,
        channels: 1,
        state_dim,
        rank: 0,
        copies: 1,
        rule: Rule::ZeroOrderHold,
        modes: ModeSum::Pairs,
        bidirectional: false,
        taps: None,
        step_transform: Transform::Exp,
        rate_transform: Transform::Exp,
        gate: None,
        projection: Projection::Glu,
        fresh: "diag-lin".into(),
        fresh_steps: StepRange::default(),
        truncated_at: 0,
    }
}

/// What a block gives for a whole sequence.
fn mixed(block: &S4, rows: &[f32], width: usize) -> Vec<f32> {
    let time = rows.len() / width;
    let (chain, mut shared) = (Chain::default(), Shared::default());
    let mut context = Context {
        chain: &chain,
        layer: 0,
        chunking: Chunking::Fastest,
        positions: &[0],
        lengths: None,
        prefix: None,
        shared: &mut shared,
    };
    let mut state = block.start(0, 1, &chain, &Device::flex());
    let input = Tensor::from_data(TensorData::new(rows.to_vec(), [1, time, width]), &Device::flex());
    let found = block.forward(input, &mut state, &mut context).expect("it fits");
    found.into_data().iter::<f32>().collect()
}

#[test]
fn norms_stand_before_the_layers_or_after_them() {
    let width = 8;
    for prenorm in [true, false] {
        let (folder, model) = fresh(&json!({}), &json!({ "prenorm": prenorm }));
        let checkpoint = Checkpoint::open(folder.path().join("model")).expect("a checkpoint");
        let get = |name: &str| read(&checkpoint, name);
        let embedding = get("encoder.0.weight");
        let mut r: Vec<f32> = IDS
            .iter()
            .flat_map(|id| embedding[*id as usize * width..][..width].to_vec())
            .collect();
        let of = |rows: &[f32], name: &str| {
            let (weight, bias) = (
                get(&format!("{name}.norm.norm.weight")),
                get(&format!("{name}.norm.norm.bias")),
            );
            norm(rows, width, &weight, &bias)
        };
        let add = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        for layer in 0..2 {
            let block =
                S4::read(plain_block(width, 4), &mut block_weights(&checkpoint, layer)).expect("a block");
            let name = format!("model.layers.{layer}");
            r = match prenorm {
                true => add(&r, &mixed(&block, &of(&r, &name), width)),
                false => of(&add(&r, &mixed(&block, &r, width)), &name),
            };
        }
        if prenorm {
            r = of(&r, "model");
        }
        assert_eq!(checkpoint.has("model.norm.norm.weight"), prenorm);
        let mut head = WeightMap::new(
            ["weight", "bias"]
                .map(|part| {
                    let name = format!("decoder.0.output_transform.{part}");
                    (
                        format!("head.{part}"),
                        TensorData::new(get(&name), shape_of(&checkpoint, &name)),
                    )
                })
                .into(),
            Device::flex(),
        );
        let head = head.linear("head", [16, width], true).expect("a head");
        let rows = Tensor::from_data(TensorData::new(r, [1, IDS.len(), width]), &Device::flex());
        let expected: Vec<f32> = head
            .forward(rows)
            .expect("logits")
            .into_data()
            .iter::<f32>()
            .collect();
        close(&format!("prenorm {prenorm}"), &logits(&model, &[&IDS]), &expected);
    }
}
