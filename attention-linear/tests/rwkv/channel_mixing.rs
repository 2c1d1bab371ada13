//! Channel mixing, with and without a gate by the receptance.

use attention_linear::rwkv::{ChannelMix, ChannelMixWeights, ReceptanceGate};

use super::support::{Draw, Row, WIDTH, compare, product, shifted, sigmoid, times};

#[test]
fn channel_mixing_is_the_plain_loop() {
    let mut draw = Draw(1);
    let ((key_shift, mk), (shift, mr)) = (draw.shift(), draw.shift());
    let ((key, wk), (value, wv)) = (draw.linear(14, WIDTH), draw.linear(WIDTH, 14));
    let (projection, wr) = draw.linear(WIDTH, WIDTH);
    let hidden = |x: &Row, before: &Row| {
        let squares = product(&wk, &shifted(x, before, &mk))
            .iter()
            .map(|x| x.max(0.0).powi(2))
            .collect();
        product(&wv, &squares)
    };
    let mut weights = ChannelMixWeights {
        key_shift,
        key,
        value,
        receptance: None,
    };
    let plain = ChannelMix::new(weights.clone()).unwrap();
    compare(&plain, 0, Box::new(|x, before, _| hidden(x, before)));
    weights.receptance = Some(ReceptanceGate { shift, projection });
    let gated = ChannelMix::new(weights).unwrap();
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
    let mut draw = Draw(3);
    let weights = ChannelMixWeights {
        key_shift: draw.shift().0,
        key: draw.linear(14, WIDTH).0,
        value: draw.linear(WIDTH, 13).0,
        receptance: None,
    };
    let error = ChannelMix::new(weights).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("expected shape [10, 14], found [10, 13]"),
        "{error}"
    );
}
