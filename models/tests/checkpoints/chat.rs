//! Chat templates are rendered as transformers renders them.

mod golden {
    use std::fs;
    use std::path::Path;

    use serde_json::Value;
    use spillway_models::chat::{ChatTemplate, Message, TemplateError};

    #[test]
    fn templates_give_the_text_that_transformers_gives() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/chat"));
        let json = |name: &str| -> Value {
            serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
        };
        let (cases, expected) = (json("cases.json"), json("expected.json"));
        let checkpoint = tempfile::tempdir().unwrap();
        let config = r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}}"#;
        fs::write(checkpoint.path().join("tokenizer_config.json"), config).unwrap();
        let mut expected = expected.as_array().unwrap().iter();
        for case in cases.as_array().unwrap() {
            let name = case["template"].as_str().unwrap();
            let template = ChatTemplate::from_file(&folder.join(name), Some(checkpoint.path())).unwrap();
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            for asking in [false, true] {
                let found = template.render(&messages, asking).unwrap();
                assert_eq!(
                    found,
                    expected.next().unwrap().as_str().unwrap(),
                    "{name}, {asking}"
                );
            }
        }
        assert!(expected.next().is_none());
    }

    #[test]
    fn a_template_that_never_ends_is_an_error() {
        let text = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
        let endless = ChatTemplate::new(text.into(), "a test".into());
        let error = endless.render(&[], true).unwrap_err();
        assert!(matches!(error, TemplateError::Template { .. }), "{error}");
    }
}
