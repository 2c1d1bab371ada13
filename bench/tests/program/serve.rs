//! `spillway serve`, over a plain connection.

use crate::*;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const PROMPT: &str = "And God said, Let there be ";

/// A server that ends with the test.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_spillway"))
            .args(["serve", "--port", "0", "--json", "-q", "--template", "rwkv"])
            .args(options)
            .env_remove("SPILLWAY_API_KEY")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut said = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        while !said.ends_with('}') {
            said += &lines.next().expect("the document is whole").expect("text");
        }
        let said: Value = serde_json::from_str(&said).expect("a document");
        let address = said["address"].as_str().expect("an address");
        let address = address.strip_prefix("http://").expect("of HTTP").to_owned();
        Self { child, address }
    }

    fn connect(&self, method: &str, path: &str, headers: &str, body: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .expect("a time");
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
        .expect("it reads");
        BufReader::new(stream)
    }

    /// Status and body.
    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut response = String::new();
        self.connect(method, path, headers, body)
            .read_to_string(&mut response)
            .expect("text");
        let (head, body) = response.split_once("\r\n\r\n").expect("a head");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        let body = match head.to_lowercase().contains("transfer-encoding: chunked") {
            true => whole(body),
            false => body.to_owned(),
        };
        (status, body)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.send(method, path, "", &body.to_string());
        let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {text}"));
        (status, value)
    }

    /// The answer to what must succeed.
    fn post(&self, path: &str, body: Value) -> Value {
        let (status, value) = self.ask("POST", path, &body);
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    /// The data of a stream's events.
    fn events(&self, path: &str, body: &Value) -> Vec<String> {
        let (status, text) = self.send("POST", path, "", &body.to_string());
        assert_eq!(status, 200, "{text}");
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(str::to_owned).collect()
    }

    #[cfg(unix)]
    fn terminate(&mut self) -> std::process::ExitStatus {
        let id = i32::try_from(self.child.id()).expect("an id");
        // SAFETY: a signal to a child of ours, which has not been waited for.
        unsafe { libc::kill(id, libc::SIGTERM) };
        self.child.wait().expect("it ends")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A body of chunks: each after its length in a line.
fn whole(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).expect("a length");
        body += &rest[..length];
        chunks = rest[length..].strip_prefix("\r\n").unwrap_or_default();
    }
    body
}

fn greedy(prompt: &str, max_tokens: usize) -> Value {
    json!({ "prompt": prompt, "max_tokens": max_tokens, "temperature": 0 })
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().expect("a text")
}

#[test]
fn answers_are_those_of_generate_alone_streamed_and_in_a_crowd() {
    let server = Server::start(&["--rows", "4"]);
    let tokens = [
        "--prompt",
        PROMPT,
        "--max-tokens",
        "40",
        "--temperature",
        "0",
        "-q",
    ];
    let expected = stdout_of(&[&["generate"], &tokens[..]].concat());
    let expected = expected.trim_end_matches('\n');
    let answer = server.post("/v1/completions", greedy(PROMPT, 40));
    assert_eq!(text(&answer), expected);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 40);

    let mut streamed = greedy(PROMPT, 40);
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({ "include_usage": true });
    let events = server.events("/v1/completions", &streamed);
    let (done, events) = events.split_last().expect("events");
    assert_eq!(done, "[DONE]");
    let events: Vec<Value> = events
        .iter()
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect();
    let (usage, pieces) = events.split_last().expect("events");
    assert_eq!(usage["usage"]["completion_tokens"], 40);
    assert!(pieces.len() > 10);
    let pieces: String = pieces.iter().map(text).collect();
    assert_eq!(pieces, expected);

    // More than there are rows, of different lengths, at once.
    let lengths = [3, 40, 17, 40, 1, 40, 29, 8, 40, 5];
    std::thread::scope(|scope| {
        let server = &server;
        let asked: Vec<_> = lengths
            .iter()
            .map(|&length| scope.spawn(move || server.post("/v1/completions", greedy(PROMPT, length))))
            .collect();
        for (answer, length) in asked.into_iter().zip(lengths) {
            let answer = answer.join().expect("an answer");
            assert!(expected.starts_with(text(&answer)), "{length}: {answer}");
            assert_eq!(answer["usage"]["completion_tokens"], length);
        }
    });
}

#[test]
fn a_second_turn_reads_only_what_is_new_and_several_answers_read_once() {
    let server = Server::start(&[]);
    let user = |content: &str| json!({ "role": "user", "content": content });
    let ask = |messages: Value| json!({ "messages": messages, "max_tokens": 12, "temperature": 0 });
    let first = server.post("/v1/chat/completions", ask(json!([user("And God said")])));
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let said = first["choices"][0]["message"].clone();
    let second = server.post(
        "/v1/chat/completions",
        ask(json!([user("And God said"), said, user("Let there be")])),
    );
    let usage = &second["usage"];
    let read = usage["prompt_tokens"].as_u64().expect("a number")
        - usage["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .expect("a number");
    assert!((32..=48).contains(&read), "{usage}");

    let several = json!({ "prompt": PROMPT, "n": 3, "seed": 5, "max_tokens": 24, "logprobs": 2 });
    let several = server.post("/v1/completions", several);
    let choices = several["choices"].as_array().expect("a list");
    assert_eq!(choices.len(), 3);
    assert_ne!(choices[0]["text"], choices[1]["text"]);
    assert_eq!(
        several["usage"]["prompt_tokens_details"]["cached_tokens"],
        2 * (PROMPT.len() - 1)
    );
    let logprobs = &choices[0]["logprobs"];
    assert_eq!(logprobs["token_logprobs"].as_array().map(Vec::len), Some(24));
    assert!(logprobs["token_logprobs"][0].as_f64().expect("a number") <= 0.0);
    let alone = json!({ "prompt": PROMPT, "seed": 6, "max_tokens": 24 });
    assert_eq!(
        server.post("/v1/completions", alone)["choices"][0]["text"],
        choices[1]["text"]
    );
}

#[test]
fn states_go_on_fork_and_outlive_the_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().to_str().expect("text");
    let (begin, end) = PROMPT.split_at(12);
    let server = Server::start(&["--states", folder]);
    let whole = server.post("/v1/completions", greedy(PROMPT, 20));
    let made = server.post("/v1/states", json!({ "id": "begun", "prompt": begin }));
    assert_eq!(made["tokens"], 12);
    let mut rest = greedy(end, 20);
    rest["state"] = json!("begun");
    rest["save_state"] = json!("after");
    assert_eq!(text(&server.post("/v1/completions", rest.clone())), text(&whole));
    server.post("/v1/states/begun/fork", json!({ "id": "copy" }));
    let states = server.ask("GET", "/v1/states", &json!(null)).1;
    let names: Vec<_> = states["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|state| state["id"].clone())
        .collect();
    assert_eq!(names, ["after", "begun", "copy"]);
    assert_eq!(states["data"][0]["tokens"], PROMPT.len() + 19);
    server.post("/v1/states/copy/save", json!(null));
    assert_eq!(server.ask("DELETE", "/v1/states/begun", &json!(null)).0, 200);
    assert_eq!(server.ask("GET", "/v1/states/begun", &json!(null)).0, 404);
    drop(server);

    let server = Server::start(&["--states", folder]);
    server.post("/v1/states/copy/load", json!(null));
    rest["state"] = json!("copy");
    assert_eq!(text(&server.post("/v1/completions", rest)), text(&whole));
}

#[test]
fn what_cannot_be_answered_is_refused_with_its_field() {
    let server = Server::start(&["--api-key", "secret", "--max-tokens", "64", "--max-prompt", "100"]);
    assert_eq!(server.send("GET", "/health", "", "").0, 200);
    assert_eq!(server.send("POST", "/v1/completions", "", "{}").0, 401);
    let key = "Authorization: Bearer secret\r\n";
    let refused = |body: &str, status: u16, word: &str| {
        let (found, answer) = server.send("POST", "/v1/completions", key, body);
        assert_eq!(found, status, "{body}: {answer}");
        assert!(answer.contains(word), "{body}: {answer}");
    };
    refused("{", 400, "EOF");
    refused("{}", 400, "prompt: expected");
    refused(
        r#"{"prompt": "a", "max_tokens": 65}"#,
        400,
        "max_tokens: expected at most 64, found 65",
    );
    refused(r#"{"prompt": "a", "n": 0}"#, 400, "n: expected");
    refused(r#"{"prompt": "", "max_tokens": 1}"#, 500, "empty");
    refused(r#"{"prompt": [9999]}"#, 500, "9999");
    refused(r#"{"prompt": "a", "temperature": -1}"#, 400, "temperature");
    refused(r#"{"prompt": "a", "logit_bias": {"5": 1}}"#, 400, "logit_bias");
    refused(r#"{"prompt": "a", "state": "none"}"#, 404, "no state");
    refused(
        &json!({ "prompt": "a".repeat(101) }).to_string(),
        400,
        "at most 100 tokens",
    );
    let states = |body: &str| server.send("POST", "/v1/states", key, body);
    assert_eq!(states(r#"{"id": "../up", "prompt": "a"}"#).0, 400);
    assert_eq!(states(r#"{"id": "up", "prompt": "a"}"#).0, 200);
    assert_eq!(server.send("POST", "/v1/states/up/save", key, "").0, 400);
    assert_eq!(server.send("GET", "/nowhere", key, "").0, 404);
    let (status, metrics) = server.send("GET", "/metrics", key, "");
    assert_eq!(status, 200);
    assert!(
        metrics.contains("# TYPE spillway_jobs_total counter\nspillway_jobs_total "),
        "{metrics}"
    );
    let complaint = spillway(&["serve", "--host", "0.0.0.0", "--port", "0"]);
    assert_eq!(complaint.status.code(), Some(2));
}

#[test]
fn more_than_may_wait_is_refused_and_what_nobody_reads_ends() {
    let server = Server::start(&["--rows", "1", "--queue", "1", "--max-tokens", "10000000"]);
    let mut endless = greedy(PROMPT, 10_000_000);
    endless["stream"] = json!(true);
    let mut first = server.connect("POST", "/v1/completions", "", &endless.to_string());
    let mut line = String::new();
    while !line.starts_with("data:") {
        line.clear();
        first.read_line(&mut line).expect("it goes on");
    }
    let second = server.connect("POST", "/v1/completions", "", &endless.to_string());
    let begin = Instant::now();
    while !server
        .send("GET", "/metrics", "", "")
        .1
        .contains("spillway_queued 1\n")
    {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "the second does not wait"
        );
    }
    let short = json!({ "prompt": PROMPT, "max_tokens": 1 });
    let (status, third) = server.ask("POST", "/v1/completions", &short);
    assert_eq!(status, 429, "{third}");
    assert_eq!(third["error"]["type"], "rate_limit_error");
    drop((first, second));
    loop {
        let (status, answer) = server.ask("POST", "/v1/completions", &short);
        if status == 200 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{answer}");
    }
}

#[cfg(unix)]
#[test]
fn a_server_that_is_told_to_end_finishes_what_it_has_begun() {
    let mut server = Server::start(&[]);
    let mut asked = greedy(PROMPT, 200);
    asked["stream"] = json!(true);
    let mut answer = server.connect("POST", "/v1/completions", "", &asked.to_string());
    let mut line = String::new();
    while !line.starts_with("data:") {
        line.clear();
        answer.read_line(&mut line).expect("it goes on");
    }
    let rest = std::thread::spawn(move || {
        let mut rest = String::new();
        answer.read_to_string(&mut rest).expect("text");
        rest
    });
    assert!(server.terminate().success());
    assert!(rest.join().expect("it ends").contains("[DONE]"));

    let mut hasty = Server::start(&["--grace", "0", "--max-tokens", "1000000"]);
    let mut endless = greedy(PROMPT, 1_000_000);
    endless["stream"] = json!(true);
    let mut answer = hasty.connect("POST", "/v1/completions", "", &endless.to_string());
    line.clear();
    while !line.starts_with("data:") {
        line.clear();
        answer.read_line(&mut line).expect("it goes on");
    }
    assert!(hasty.terminate().success());
}
