//! Channel mixing, with and without a gate by the receptance.

use spillway_attention_linear::rwkv::{ChannelMix, ChannelMixConfig};

use super::support::{Draw, FIRST, Row, WIDTH, compare, product, shifted, sigmoid, times};

const HIDDEN: usize = 14;

fn config(receptance: bool) -> ChannelMixConfig {
    ChannelMixConfig {
        model_dim: WIDTH,
        hidden_dim: HIDDEN,
        receptance,
        depth: FIRST,
    }
}

#[test]
fn channel_mixing_is_the_plain_loop() {
    let mut draw = Draw::new(1);
    let mk = draw.shift("key_shift");
    let (wk, wv) = (
        draw.linear("key", HIDDEN, WIDTH),
        draw.linear("value", WIDTH, HIDDEN),
    );
    let hidden = |x: &Row, before: &Row| {
        let squares = product(&wk, &shifted(x, before, &mk))
            .iter()
            .map(|x| x.max(0.0).powi(2))
            .collect();
        product(&wv, &squares)
    };
    let mut source = draw.source();
    let plain = ChannelMix::read(config(false), &mut source).unwrap();
    source.finish();
    compare(&plain, 0, Box::new(|x, before, _| hidden(x, before)));
    let (mr, wr) = (
        draw.shift("receptance_shift"),
        draw.linear("receptance", WIDTH, WIDTH),
    );
    let mut source = draw.source();
    let gated = ChannelMix::read(config(true), &mut source).unwrap();
    source.finish();
    compare(
        &gated,
        0,
        Box::new(|x, before, _| {
            let gate = product(&wr, &shifted(x, before, &mr))
                .iter()
                .map(|x| sigmoid(*x))
                .collect();
            times(&gate, &hidden(x, before))
        }),
    );
}

#[test]
fn weights_of_another_shape_are_refused() {
    let mut draw = Draw::new(3);
    draw.shift("key_shift");
    draw.linear("key", HIDDEN, WIDTH);
    draw.linear("value", WIDTH, 13);
    let error = ChannelMix::read(config(false), &mut draw.source()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("expected shape [10, 14], found [10, 13]"),
        "{error}"
    );
}
