//! RWKV-5 and RWKV-6: gated heads with a bonus for the current token, and decays that are constant or follow the token.

use spillway_attention_linear::rwkv::{LowRankActivation, Rwkv5, Rwkv5Config, Rwkv6, Rwkv6Config};
use spillway_ssm_core::Error;

use super::support::{
    Draw, EPS, FIRST, Matrix, RANK, Row, SHAPE, WIDTH, add, compare, elements, normed, product, shifted,
    silu, times,
};

/// The recurrence of versions 5 and 6 for one token: r (S + u k v), then S ← w S + k v.
fn weighted_sum([r, w, k, v, u]: [&Row; 5], state: &mut Row) -> Row {
    let mut y = vec![0.0; SHAPE.values()];
    for (h, i, j) in elements() {
        let (key, value) = (h * SHAPE.key_dim + i, h * SHAPE.value_dim + j);
        let held = &mut state[key * SHAPE.value_dim + j];
        y[value] += r[key] * (*held + u[key] * k[key] * v[value]);
        *held = w[key] * *held + k[key] * v[value];
    }
    y
}

/// Projections of versions 5 and 6 and the norm, for the loops.
struct Plain {
    wr: Matrix,
    wk: Matrix,
    wv: Matrix,
    wg: Matrix,
    wo: Matrix,
    u: Row,
    norm: [Row; 2],
}

fn gated_heads(draw: &mut Draw) -> Plain {
    let [wr, wk] = ["receptance", "key"].map(|name| draw.linear(name, SHAPE.keys(), WIDTH));
    let [wv, wg] = ["value", "gate"].map(|name| draw.linear(name, SHAPE.values(), WIDTH));
    Plain {
        wr,
        wk,
        wv,
        wg,
        wo: draw.linear("output", WIDTH, SHAPE.values()),
        u: draw.by_head("bonus"),
        norm: draw.norm(),
    }
}

impl Plain {
    /// From the four shifted inputs r, k, v, g and the decay.
    fn of(&self, [r, k, v, g]: [Row; 4], w: &Row, state: &mut Row) -> Row {
        let (r, k, v) = (
            product(&self.wr, &r),
            product(&self.wk, &k),
            product(&self.wv, &v),
        );
        let y = weighted_sum([&r, w, &k, &v, &self.u], state);
        let gate = product(&self.wg, &g).iter().map(|x| silu(*x)).collect();
        product(&self.wo, &times(&normed(&y, &self.norm), &gate))
    }
}

#[test]
fn rwkv5_is_the_plain_loop() {
    let mut draw = Draw::new(5);
    let [mr, mk, mv, mg] =
        ["receptance_shift", "key_shift", "value_shift", "gate_shift"].map(|name| draw.shift(name));
    let plain = gated_heads(&mut draw);
    let decay = draw.by_head("time_decay");
    let config = Rwkv5Config {
        shape: SHAPE,
        norm_eps: EPS as f32,
        depth: FIRST,
    };
    let mut source = draw.source();
    let mixer = Rwkv5::read(config, &mut source).unwrap();
    source.finish();
    let w: Row = decay.iter().map(|x| (-x.exp()).exp()).collect();
    compare(
        &mixer,
        SHAPE.keys() * SHAPE.value_dim,
        Box::new(|x, before, state| {
            let shifted = [&mr, &mk, &mv, &mg].map(|share| shifted(x, before, share));
            plain.of(shifted, &w, state)
        }),
    );
}

const RWKV6: Rwkv6Config = Rwkv6Config {
    shape: SHAPE,
    mix_rank: 2,
    decay_rank: RANK,
    norm_eps: EPS as f32,
    depth: FIRST,
};

#[test]
fn rwkv6_is_the_plain_loop() {
    let mut draw = Draw::new(6);
    let rank = RWKV6.mix_rank;
    let (mx, d) = (
        draw.shift("shift.input"),
        draw.linear("shift.down", 5 * rank, WIDTH),
    );
    let plain = gated_heads(&mut draw);
    // In the order w, k, v, r, g, of which the parts of the narrow layer are a permutation.
    let parts = [3, 0, 4, 1, 2];
    let names = ["w", "k", "v", "r", "g"].map(|letter| format!("shift.{letter}"));
    let shares = names
        .each_ref()
        .map(|name| draw.vector(&format!("{name}.bias"), WIDTH));
    let ups = names.each_ref().map(|name| draw.linear(name, WIDTH, rank));
    let plain_decay = draw.low_rank("decay", LowRankActivation::Tanh, SHAPE.keys(), true);
    let mut source = draw.source();
    source.parts = parts;
    let mixer = Rwkv6::read(RWKV6, &mut source).unwrap();
    source.finish();
    compare(
        &mixer,
        SHAPE.keys() * SHAPE.value_dim,
        Box::new(|x, before, state| {
            let hidden: Row = product(&d, &shifted(x, before, &mx))
                .iter()
                .map(|x| x.tanh())
                .collect();
            let read = |index: usize| {
                let part: Row = hidden[parts[index] * rank..][..rank].to_vec();
                shifted(x, before, &add(&product(&ups[index], &part), &shares[index]))
            };
            let w = plain_decay
                .of(&read(0))
                .iter()
                .map(|x| (-x.exp()).exp())
                .collect();
            plain.of([read(3), read(1), read(2), read(4)], &w, state)
        }),
    );
}

#[test]
fn two_weights_of_an_interpolation_cannot_read_one_part() {
    let mut draw = Draw::new(6);
    gated_heads(&mut draw);
    draw.shift("shift.input");
    draw.linear("shift.down", 10, WIDTH);
    for name in ["w", "k", "v", "r", "g"].map(|letter| format!("shift.{letter}")) {
        draw.linear(&name, WIDTH, 2);
        draw.vector(&format!("{name}.bias"), WIDTH);
    }
    draw.low_rank("decay", LowRankActivation::Tanh, SHAPE.keys(), true);
    let mut source = draw.source();
    source.parts = [1; 5];
    assert!(matches!(
        Rwkv6::read(RWKV6, &mut source),
        Err(Error::Value { .. })
    ));
}
