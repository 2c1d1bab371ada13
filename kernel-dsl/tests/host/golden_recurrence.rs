//! The recurrence against what other people's software computed.

mod golden {
    #[path = "recurrence/mamba2.rs"]
    mod mamba2;
    #[path = "recurrence/normalized.rs"]
    mod normalized;
    #[path = "recurrence/prepared.rs"]
    mod prepared;

    use spillway_kernel_dsl::DecayKind;
    use spillway_kernel_dsl::recurrence::{Problem, ReadOut};

    use crate::support::cases;
    use prepared::Prepared;

    #[test]
    fn simple_gla_agrees() {
        for case in cases("simple_gla") {
            let mut prepared = Prepared::new(&case, DecayKind::PerHeadToken, ReadOut::Inclusive, "q");
            prepared.log_decay = case.input("g").to_vec();
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case, ["q", "k", "v", "g", "u", "h0"]);
        }
    }

    #[test]
    fn gla_agrees() {
        for case in cases("gla") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKeyToken, ReadOut::Inclusive, "q");
            prepared.log_decay = case.input("gk").to_vec();
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case, ["q", "k", "v", "gk", "u", "h0"]);
        }
    }

    #[test]
    fn retention_agrees() {
        for case in cases("retention") {
            let mut prepared = Prepared::new(&case, DecayKind::PerHead, ReadOut::Inclusive, "q");
            let gamma = |head: usize| 1.0 - 2.0_f64.powi(-5 - head as i32);
            prepared.log_decay = (0..case.dim("H")).map(|head| gamma(head).ln() as f32).collect();
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case, ["q", "k", "v", "g", "u", "h0"]);
        }
    }

    #[test]
    fn lightning_attention_agrees() {
        for case in cases("lightning_attn") {
            let mut prepared = Prepared::new(&case, DecayKind::PerHead, ReadOut::Inclusive, "q");
            let heads = case.dim("H");
            let depth = 1.0 - case.scalar("layer_idx") / case.scalar("num_layers");
            let slope = |head: usize| -8.0 / heads as f64 * depth * head as f64;
            prepared.log_decay = (0..heads).map(|head| slope(head) as f32).collect();
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case, ["q", "k", "v", "g", "u", "h0"]);
        }
    }

    #[test]
    fn rwkv5_agrees() {
        for case in cases("rwkv5") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKey, ReadOut::Bonus, "r");
            let raw = case.input("time_decay").iter();
            prepared.log_decay = raw.map(|w| -f64::from(*w).exp() as f32).collect();
            prepared.bonus = Some(case.input("u").to_vec());
            prepared.check(&case, ["r", "k", "v", "w", "u", "h0"]);
            // ln a = −exp(w) has the derivative ln a by w.
            for (form, gradients) in prepared.gradients(case.cotangent("o"), case.cotangent_if_any("ht")) {
                let by_log_decay = gradients.log_decay.either().expect("RWKV-5 decays");
                let by_raw = by_log_decay.iter().zip(&prepared.log_decay);
                let by_raw: Vec<f32> = by_raw.map(|(gradient, g)| gradient * g).collect();
                case.check_gradient(&form, "time_decay", &by_raw);
            }
        }
    }

    #[test]
    fn rwkv6_agrees() {
        for case in cases("rwkv6") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKeyToken, ReadOut::Bonus, "q");
            prepared.log_decay = case.input("w").to_vec();
            prepared.bonus = Some(case.input("u").to_vec());
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case, ["q", "k", "v", "w", "u", "h0"]);
        }
    }

    /// One head per channel, whose state is one value; query and key are 1.
    #[test]
    fn hgrn_agrees() {
        for case in cases("hgrn") {
            let (batch, time, channels) = (case.dim("B"), case.dim("T"), case.dim("D"));
            let zeros = vec![0.0; batch * channels];
            let prepared = Prepared {
                problem: Problem {
                    batch,
                    time,
                    heads: channels,
                    groups: 1,
                    key_dim: 1,
                    value_dim: 1,
                    decay: DecayKind::PerHeadToken,
                    read_out: ReadOut::Inclusive,
                },
                query: vec![1.0; batch * time],
                key: vec![1.0; batch * time],
                value: case.input("x").to_vec(),
                log_decay: case.input("g").to_vec(),
                step_size: None,
                bonus: None,
                skip: None,
                scale: 1.0,
                state: case.input_if_any("h0").map_or(zeros, <[f32]>::to_vec),
            };
            for (form, out, state) in prepared.run() {
                case.check(&form, "o", &out);
                case.check(&form, "ht", &state);
            }
            for (form, gradients) in prepared.gradients(case.cotangent("o"), case.cotangent_if_any("ht")) {
                case.check_gradient(&form, "x", &gradients.value);
                case.check_gradient(&form, "g", &gradients.log_decay.either().expect("HGRN decays"));
                if case.gradient_if_any("h0").is_some() {
                    case.check_gradient(&form, "h0", &gradients.state);
                }
            }
        }
    }
}
