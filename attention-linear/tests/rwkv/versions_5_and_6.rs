//! RWKV-5 and RWKV-6: gated heads with a bonus for the current token, and decays that are constant or follow the token.

use attention_linear::rwkv::{
    DynamicShift, DynamicWeights, GatedHeads, LowRankActivation, Rwkv5, Rwkv5Weights, Rwkv6, Rwkv6Weights,
};
use ssm_core::{Error, Linear};

use super::support::{
    Draw, Matrix, Row, SHAPE, WIDTH, add, compare, elements, normed, product, shifted, silu, times,
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

fn gated_heads(draw: &mut Draw) -> (GatedHeads, Plain) {
    let ((receptance, wr), (key, wk)) = (draw.linear(SHAPE.keys(), WIDTH), draw.linear(SHAPE.keys(), WIDTH));
    let ((value, wv), (gate, wg)) = (
        draw.linear(SHAPE.values(), WIDTH),
        draw.linear(SHAPE.values(), WIDTH),
    );
    let (output, wo) = draw.linear(WIDTH, SHAPE.values());
    let ((bonus, u), (head_norm, norm)) = (draw.by_head(), draw.norm());
    let heads = GatedHeads {
        receptance,
        key,
        value,
        gate,
        output,
        bonus,
        norm: head_norm,
    };
    (
        heads,
        Plain {
            wr,
            wk,
            wv,
            wg,
            wo,
            u,
            norm,
        },
    )
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
    let mut draw = Draw(5);
    let ((receptance_shift, mr), (key_shift, mk)) = (draw.shift(), draw.shift());
    let ((value_shift, mv), (gate_shift, mg)) = (draw.shift(), draw.shift());
    let (heads, plain) = gated_heads(&mut draw);
    let (time_decay, decay) = draw.by_head();
    let weights = Rwkv5Weights {
        receptance_shift,
        key_shift,
        value_shift,
        gate_shift,
        heads,
        time_decay,
    };
    let mixer = Rwkv5::new(SHAPE, weights).unwrap();
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

#[test]
fn rwkv6_is_the_plain_loop() {
    let mut draw = Draw(6);
    let rank = 2;
    let (input, mx) = draw.shift();
    let (down, d) = draw.linear(5 * rank, WIDTH);
    let (heads, plain) = gated_heads(&mut draw);
    // In the order w, k, v, r, g, of which the parts of the narrow layer are a permutation.
    let parts = [3, 0, 4, 1, 2];
    let shares: Matrix = (0..5).map(|_| draw.row(WIDTH)).collect();
    let ups: Vec<(Linear, Matrix)> = shares
        .iter()
        .map(|share| draw.biased(WIDTH, rank, Some(share)))
        .collect();
    let weights = |index: usize| DynamicWeights {
        part: parts[index],
        up: ups[index].0.clone(),
    };
    let shift = DynamicShift {
        input,
        down,
        decay: weights(0),
        key: weights(1),
        value: weights(2),
        receptance: weights(3),
        gate: weights(4),
    };
    let (decay, plain_decay) = draw.low_rank(LowRankActivation::Tanh, SHAPE.keys(), true);
    let mixer = Rwkv6::new(SHAPE, Rwkv6Weights { shift, decay, heads }).unwrap();
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
                shifted(x, before, &add(&product(&ups[index].1, &part), &shares[index]))
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
    let mut draw = Draw(6);
    let (heads, _) = gated_heads(&mut draw);
    let up = DynamicWeights {
        part: 1,
        up: draw.linear(WIDTH, 2).0,
    };
    let weights = Rwkv6Weights {
        shift: DynamicShift {
            input: draw.shift().0,
            down: draw.linear(10, WIDTH).0,
            decay: up.clone(),
            key: up.clone(),
            value: up.clone(),
            receptance: up.clone(),
            gate: up,
        },
        decay: draw.low_rank(LowRankActivation::Tanh, SHAPE.keys(), true).0,
        heads,
    };
    assert!(matches!(Rwkv6::new(SHAPE, weights), Err(Error::Value { .. })));
}
