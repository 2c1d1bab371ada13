use spillway_kernel_dsl::taylor_attention::{DEFAULT_CHUNK_SIZE, Expansion, Inputs, Problem, chunked};
use spillway_kernel_dsl::{Rows, Sequences};

#[test]
fn prefix_time() {
    for time in [2048usize, 16384] {
        let mut best = [f64::MAX; 2];
        for round in 0..8 {
            for (which, prefix) in [0, time / 2].into_iter().enumerate() {
                let problem = Problem {
                    batch: 1,
                    time,
                    prefix,
                    heads: 16,
                    key_dim: 16,
                    value_dim: 64,
                    scale: 0.25,
                    expansion: Expansion::Taylor,
                    normalizer: Some(1e-6),
                };
                let fill = |n: usize| {
                    (0..n)
                        .map(|i| ((i * 7919 % 1000) as f32) / 500.0 - 1.0)
                        .collect::<Vec<f32>>()
                };
                let (q, k, v) = (fill(time * 256), fill(time * 256 + 3), fill(time * 1024));
                let (pk, pv) = (fill(prefix * 256), fill(prefix * 1024));
                let view = |x: &'static [f32], rows, cols| Rows::contiguous(x, rows, cols).expect("rows");
                let leak = |x: Vec<f32>| -> &'static [f32] { Box::leak(x.into_boxed_slice()) };
                let inputs = Inputs {
                    query: view(leak(q), time, 256),
                    key: view(&leak(k)[3..], time, 256),
                    value: view(leak(v), time, 1024),
                    prefix_key: (prefix > 0).then(|| view(leak(pk), prefix, 256)),
                    prefix_value: (prefix > 0).then(|| view(leak(pv), prefix, 1024)),
                    log_decay: None,
                    sequences: Sequences::Equal,
                    prefix_padding: None,
                };
                let mut state = vec![0.0; problem.state_len()];
                let mut out = vec![0.0; time * 1024];
                let begin = std::time::Instant::now();
                chunked(&problem, &inputs, DEFAULT_CHUNK_SIZE, &mut state, &mut out).expect("valid");
                let seconds = begin.elapsed().as_secs_f64();
                if round > 0 {
                    best[which] = best[which].min(seconds);
                }
            }
        }
        println!(
            "TIME {time}: based {:.4} s, prefix {:.4} s, ratio {:.3}",
            best[0],
            best[1],
            best[1] / best[0]
        );
    }
}
