//! `spillway bench`.

use crate::*;

#[test]
fn every_configuration_is_measured_in_a_process_of_its_own() {
    let options = [
        "--dtype",
        "f32,int8",
        "--threads",
        "1",
        "--prefill",
        "64",
        "--decode",
        "8",
        "--repeats",
        "3",
    ];
    let table = stdout_of(&[&["bench"][..], &options].concat());
    assert!(
        table.contains("prefill 64") && table.contains("decode 8"),
        "{table}"
    );
    let json = json_of(&[&["bench", "--json"][..], &options].concat());
    let configurations = json["configurations"].as_array().expect("configurations");
    assert_eq!(configurations.len(), 2);
    for configuration in configurations {
        for speed in configuration["speeds"].as_array().expect("speeds") {
            let number = |name: &str| speed[name].as_f64().expect("a number");
            assert!(0.0 < number("slowest") && number("slowest") <= number("tokens_per_second"));
            assert!(number("tokens_per_second") <= number("fastest"));
            // No upper bound: a model this small lives in the cache, which is faster than memory.
            assert!(0.0 < number("fraction_of_limit"));
        }
        let measured = &configuration["measured"];
        assert_eq!(
            measured["prefill"][0]["seconds"].as_array().map(Vec::len),
            Some(3)
        );
        if cfg!(target_os = "linux") {
            assert!(measured["peak_memory_bytes"].as_u64() > measured["weight_bytes"].as_u64());
        }
    }
}

#[test]
fn impossible_measurements_are_refused() {
    fails(
        &["bench", "--threads", "0"],
        2,
        &["--threads", "from 1", "found 0"],
    );
    fails(&["bench", "--prefill", "0"], 2, &["--prefill", "at least 1"]);
    fails(&["bench", "--repeats", "0"], 2, &["--repeats"]);
    fails(&["bench", "--dtype", "f16"], 2, &["--dtype", "f16"]);
    fails(
        &["bench", "/no/such/model", "--threads", "1", "--dtype", "f32"],
        1,
        &["/no/such/model"],
    );
}
