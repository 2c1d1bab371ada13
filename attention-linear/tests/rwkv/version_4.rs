//! RWKV-4: a weighted mean of values per channel.

use spillway_attention_linear::rwkv::{Rwkv4, Rwkv4Config};

use super::support::{Draw, FIRST, Row, WIDTH, compare, product, shifted, sigmoid};

#[test]
fn rwkv4_is_the_plain_loop() {
    let mut draw = Draw::new(4);
    let channels = 6;
    // Its files store the share of the current token.
    let [mr, mk, mv] = ["receptance_shift", "key_shift", "value_shift"].map(|name| {
        let share = draw.row(WIDTH);
        let current: Row = share.iter().map(|share| 1.0 - share).collect();
        draw.put(name, [WIDTH], &current);
        share
    });
    let [wr, wk, wv] = ["receptance", "key", "value"].map(|name| draw.linear(name, channels, WIDTH));
    let wo = draw.linear("output", WIDTH, channels);
    let (decay, u) = (
        draw.vector("time_decay", channels),
        draw.vector("time_first", channels),
    );
    let config = Rwkv4Config {
        model_dim: WIDTH,
        channels,
        depth: FIRST,
    };
    let mut source = draw.source();
    source.current_shares = true;
    let mixer = Rwkv4::read(config, &mut source).unwrap();
    source.finish();
    compare(
        &mixer,
        2 * channels,
        Box::new(|x, before, state| {
            let r = product(&wr, &shifted(x, before, &mr));
            let (k, v) = (
                product(&wk, &shifted(x, before, &mk)),
                product(&wv, &shifted(x, before, &mv)),
            );
            let y: Row = (0..channels)
                .map(|c| {
                    let (now, kept) = ((u[c] + k[c]).exp(), (-decay[c].exp()).exp());
                    let mean = (state[2 * c] + now * v[c]) / (state[2 * c + 1] + now);
                    state[2 * c] = kept * state[2 * c] + k[c].exp() * v[c];
                    state[2 * c + 1] = kept * state[2 * c + 1] + k[c].exp();
                    sigmoid(r[c]) * mean
                })
                .collect();
            product(&wo, &y)
        }),
    );
}
