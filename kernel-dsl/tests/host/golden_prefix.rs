//! Prefix linear attention, and Based whose numerator decays, agree with other people's software, gradients included.

mod golden {
    use spillway_kernel_dsl::taylor_attention::{backward, chunked, sequential};

    use crate::golden_prefix_cases::golden;

    #[test]
    fn prefix_linear_attention_and_decaying_based_agree() {
        for golden in golden() {
            let (problem, inputs) = (&golden.problem, golden.inputs());
            for chunk_size in [0, 1, 16, 64] {
                let form = format!("chunks of {chunk_size}");
                let mut out =
                    vec![f32::NAN; problem.batch * problem.time * problem.heads * problem.value_dim];
                let mut state = vec![0.0; problem.state_len()];
                match chunk_size {
                    0 => sequential(problem, &inputs, &mut state, &mut out).expect("valid"),
                    size => chunked(problem, &inputs, size, &mut state, &mut out).expect("valid"),
                }
                golden.check(&form, &out, &state);
                let (mut found, initial) = (golden.buffers(), vec![0.0; problem.state_len()]);
                let cotangents = golden.cotangents();
                let gradients = &mut found.as_written();
                backward(problem, &inputs, chunk_size, &initial, &cotangents, gradients).expect("valid");
                golden.check_gradients(&form, &out, &found);
            }
        }
    }
}
