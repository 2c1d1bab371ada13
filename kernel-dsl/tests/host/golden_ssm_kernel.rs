//! Kernels of state spaces agree with other people's software: S4D, DSS, EMA and S4, their states, rates and lengths.

mod golden {
    #[path = "ssm_kernel/diagonal.rs"]
    mod diagonal;
    #[path = "ssm_kernel/low_rank.rs"]
    mod low_rank;
    #[path = "ssm_kernel/system.rs"]
    mod system;

    use crate::support::cases;
    use diagonal::{check_diagonal, rule};
    use low_rank::{check_exact_rate, check_low_rank};

    #[test]
    fn states_agree() {
        for case in cases("s4_state_kernel") {
            match case.text("kind") {
                Some("diag") => check_diagonal(&case, rule(&case)),
                _ => check_low_rank(&case, case.scalar("l_kernel") as usize),
            }
        }
    }

    #[test]
    fn rates_and_band_limits_agree() {
        for case in cases("s4_rate") {
            match case.text("kind") {
                Some("diag") => check_diagonal(&case, rule(&case)),
                _ => {
                    check_low_rank(&case, case.scalar("l_kernel") as usize);
                    check_exact_rate(&case);
                }
            }
        }
    }
}
