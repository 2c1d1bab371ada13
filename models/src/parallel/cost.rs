//! What ranks send each other, and how long they wait: a model, to be held against measurements.
//!
//! A message of b bytes takes α + b / β seconds. A rank computes F operations a second, and does not send and compute at once.
//!
//! | | messages of a rank | bytes of a rank |
//! |---|---|---|
//! | ring, for each of its stretches | L | L S, and the keys and values before the stretch for attention |
//! | scan | L ⌈log₂ R⌉ | L E ⌈log₂ R⌉, of elements of E bytes |
//! | a step with n parameters, in pieces of p | 2 (R − 1) ⌈n / (R p)⌉ | 8 n (R − 1) / R |
//!
//! The last line is the reduce-scatter of the gradients and the all-gather of the parameters ([`reduction`](super::reduction));
//! the loss, the norm and which gradients there are come to a few numbers for each tensor.
//!
//! Nothing here is measured. [`ring`] is a simulation, message by message; without messages it comes to m L / (m L + R − 1),
//! which its tests hold it to.

use super::reduction::Parts;

/// A machine of equal ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Operations a second of one rank.
    pub operations: f64,
    /// Seconds that a message takes, however short: α.
    pub latency: f64,
    /// Bytes a second from one rank to another: β.
    pub bandwidth: f64,
}

/// What of a model counts here. Every layer is alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Number of layers: L.
    pub layers: usize,
    /// Operations of one layer for one token.
    pub operations_per_token: f64,
    /// Bytes of a layer's state that do not grow: S.
    pub state_bytes: f64,
    /// Bytes by which a layer's state grows with every token.
    pub cache_bytes_per_token: f64,
}

/// What a text costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Seconds from the beginning until the last rank is done.
    pub seconds: f64,
    /// Seconds that one rank alone would take, divided by the number of ranks and by `seconds`: 1 where nobody waits.
    pub efficiency: f64,
    /// Messages of all ranks.
    pub messages: u64,
    /// Bytes of all ranks.
    pub bytes: f64,
}

impl Machine {
    /// α + b / β.
    pub fn message(&self, bytes: f64) -> f64 {
        self.latency + bytes / self.bandwidth
    }
}

/// A text of `tokens` tokens through a ring of `ranks` ranks, in stretches of at most `stretch` tokens.
///
/// A layer of a stretch begins when the layer before it is done, when the state has come from the stretch before, and when
/// the rank is done with its last stretch.
pub fn ring(shape: &Shape, machine: &Machine, ranks: usize, tokens: u64, stretch: u64) -> Cost {
    let ranks = ranks.max(1);
    let turns = tokens.div_ceil(stretch.max(1));
    // When each layer's state arrives from the stretch before.
    let mut arrived = vec![0.0; shape.layers];
    let mut free = vec![0.0f64; ranks];
    let (mut end, mut messages, mut bytes) = (0.0f64, 0, 0.0);
    for turn in 0..turns {
        let begin = turn * stretch;
        let length = (tokens - begin).min(stretch);
        let work = length as f64 * shape.operations_per_token / machine.operations;
        let sends = ranks > 1 && turn + 1 < turns;
        let size = shape.state_bytes + shape.cache_bytes_per_token * (begin + length) as f64;
        let rank = (turn % ranks as u64) as usize;
        let mut now = free[rank];
        for state in &mut arrived {
            now = now.max(*state) + work;
            *state = now;
            if sends {
                now += machine.message(size);
                *state = now;
                messages += 1;
                bytes += size;
            }
        }
        free[rank] = now;
        end = end.max(now);
    }
    let alone = tokens as f64 * shape.layers as f64 * shape.operations_per_token / machine.operations;
    Cost {
        seconds: end,
        efficiency: if end > 0.0 {
            alone / (ranks as f64 * end)
        } else {
            1.0
        },
        messages,
        bytes,
    }
}

/// m L / (m L + R − 1) for R ≤ L, where messages cost nothing and each rank has m stretches.
pub fn efficiency_without_messages(layers: usize, ranks: usize, stretches: usize) -> f64 {
    let work = (layers * stretches) as f64;
    work / (work + ranks as f64 - 1.0)
}

/// A text through a scan: each rank has one stretch, computes `element` of a layer's work for its element, and the layers
/// follow each other. `element_bytes` is E.
pub fn scan(
    shape: &Shape,
    machine: &Machine,
    ranks: usize,
    tokens: u64,
    (element, element_bytes): (f64, f64),
) -> Cost {
    let ranks = ranks.max(1);
    let rounds = ranks.next_power_of_two().ilog2();
    let layers = shape.layers as f64;
    let alone = tokens as f64 * layers * shape.operations_per_token / machine.operations;
    let element = if ranks > 1 { element } else { 0.0 };
    let sent = layers * f64::from(rounds);
    let seconds = alone / ranks as f64 * (1.0 + element) + sent * machine.message(element_bytes);
    // In round i the last 2^i ranks send to nobody.
    let senders: usize = (0..rounds).map(|round| ranks - ranks.min(1 << round)).sum();
    Cost {
        seconds,
        efficiency: if seconds > 0.0 {
            alone / (ranks as f64 * seconds)
        } else {
            1.0
        },
        messages: (senders * shape.layers) as u64,
        bytes: senders as f64 * layers * element_bytes,
    }
}

/// Seconds in which the gradients of `values` f32 parameters are added up over `ranks` ranks, each a part of them, and the new
/// parameters come from each part to all ranks.
pub fn training_step(machine: &Machine, ranks: usize, values: u64) -> f64 {
    let ranks = ranks.max(1);
    let buckets = Parts::equal(values as usize, ranks).buckets();
    let part = 4.0 * values as f64 / ranks as f64;
    let to_one = buckets as f64 * machine.latency + part / machine.bandwidth;
    2.0 * (ranks as f64 - 1.0) * to_one
}

/// Bytes of a rank of `ranks` for `values` f32 parameters, their gradients, and its part of AdamW's two moments: 8 n + 8 n / R.
pub fn training_bytes(ranks: usize, values: u64) -> f64 {
    8.0 * values as f64 * (1.0 + 1.0 / ranks.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        layers: 24,
        operations_per_token: 1e6,
        state_bytes: 1e6,
        cache_bytes_per_token: 0.0,
    };

    fn without_messages() -> Machine {
        Machine {
            operations: 1e10,
            latency: 0.0,
            bandwidth: f64::INFINITY,
        }
    }

    #[test]
    fn without_messages_the_simulation_is_the_formula() {
        for ranks in [1usize, 2, 3, 5, 16, 24] {
            for stretches in [1usize, 2, 7] {
                let tokens = (ranks * stretches * 256) as u64;
                let found = ring(&SHAPE, &without_messages(), ranks, tokens, 256).efficiency;
                let expected = efficiency_without_messages(24, ranks, stretches);
                assert!(
                    (found / expected - 1.0).abs() < 1e-9,
                    "{ranks} {stretches}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn more_ranks_than_layers_are_of_no_use_in_a_ring() {
        let ranks = 4096;
        let cost = ring(&SHAPE, &without_messages(), ranks, ranks as u64 * 256 * 8, 256);
        assert!(cost.efficiency < 24.0 / 4096.0, "{cost:?}");
        assert!(cost.efficiency > 0.8 * 24.0 / 4096.0, "{cost:?}");
        let by_scan = scan(
            &SHAPE,
            &without_messages(),
            ranks,
            ranks as u64 * 256 * 8,
            (0.5, 1e6),
        );
        assert!((by_scan.efficiency - 2.0 / 3.0).abs() < 1e-9, "{by_scan:?}");
    }

    #[test]
    fn bytes_are_those_of_every_state_that_crosses() {
        let cost = ring(&SHAPE, &without_messages(), 3, 256 * 7, 256);
        assert_eq!((cost.messages, cost.bytes), (6 * 24, 6.0 * 24.0 * 1e6));
        let attention = Shape {
            state_bytes: 0.0,
            cache_bytes_per_token: 4.0,
            ..SHAPE
        };
        let cost = ring(&attention, &without_messages(), 3, 256 * 4, 256);
        assert_eq!(cost.bytes, 24.0 * 4.0 * (256.0 + 512.0 + 768.0));
    }

    #[test]
    fn a_step_of_a_training_sends_what_an_all_reduce_does() {
        let machine = Machine {
            operations: 1.0,
            latency: 0.0,
            bandwidth: 1e9,
        };
        for ranks in [1usize, 2, 5, 64] {
            let found = training_step(&machine, ranks, 1_000_000_000);
            let expected = 8.0 * (ranks as f64 - 1.0) / ranks as f64;
            assert!((found - expected).abs() < 1e-9, "{ranks}: {found} {expected}");
        }
        // Every message of 2^20 values of the 16 MiB of a part.
        let machine = Machine {
            latency: 1.0,
            bandwidth: f64::INFINITY,
            ..machine
        };
        assert_eq!(training_step(&machine, 64, 64 << 22), 2.0 * 63.0 * 4.0);
        assert_eq!((training_bytes(1, 10), training_bytes(4, 10)), (160.0, 100.0));
    }
}
