//! RWKV-4: a weighted mean of values per channel.

use attention_linear::rwkv::{Rwkv4, Rwkv4Weights, TokenShift};

use super::support::{Draw, Row, WIDTH, compare, product, shifted, sigmoid, tensor};

#[test]
fn rwkv4_is_the_plain_loop() {
    let mut draw = Draw(4);
    let channels = 6;
    let [mr, mk, mv] = [draw.row(WIDTH), draw.row(WIDTH), draw.row(WIDTH)];
    // Its files store the share of the current token.
    let shift = |share: &Row| {
        let current: Row = share.iter().map(|share| 1.0 - share).collect();
        TokenShift::of_current(tensor([WIDTH], &current))
    };
    let ((receptance, wr), (key, wk)) = (draw.linear(channels, WIDTH), draw.linear(channels, WIDTH));
    let ((value, wv), (output, wo)) = (draw.linear(channels, WIDTH), draw.linear(WIDTH, channels));
    let ((time_decay, decay), (bonus, u)) = (draw.vector(channels), draw.vector(channels));
    let mixer = Rwkv4::new(Rwkv4Weights {
        receptance_shift: shift(&mr),
        key_shift: shift(&mk),
        value_shift: shift(&mv),
        receptance,
        key,
        value,
        output,
        time_decay,
        bonus,
    })
    .unwrap();
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
