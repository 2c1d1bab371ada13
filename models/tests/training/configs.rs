//! The configurations that come with the crate.

use std::path::Path;

use spillway_models::Tokenizer;
use spillway_models::train::TrainConfig;

#[test]
fn every_configuration_is_read_and_has_its_files() {
    let folder = Path::new("configs");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let config = TrainConfig::load(&path).unwrap_or_else(|error| panic!("{error}"));
        let data = config.data.as_ref().expect("next tokens are foretold");
        let tokenizer = match &config.model.tokenizer {
            Some(file) => Tokenizer::from_file(&config.base().join(file), 1032).unwrap(),
            None => Tokenizer::bytes(),
        };
        let source = data.open(config.base(), config.sequences, config.length, &tokenizer, 1);
        let mut source = source.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let batch = source
            .next()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            batch.ids.len(),
            config.sequences * config.length,
            "{}",
            path.display()
        );
        found += 1;
    }
    assert!(found > 5, "{found} configurations");
}
