//! A hub on this machine: one repository, and another address that its large files lie at.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Files from this size on are named by SHA-256 and lie elsewhere.
const LARGE: usize = 2000;

/// What the hub holds, and how it misbehaves.
#[derive(Clone, Default)]
pub struct Contents {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Who is let in, if not everybody.
    pub token: Option<String>,
    /// Bytes of a large file after which the connection is closed.
    pub cut: Option<usize>,
    /// Answers with whole files whatever is asked for.
    pub ignores_ranges: bool,
    /// Sends something else for every file, of the same size.
    pub damaged: bool,
    /// What is listed beside the files.
    pub listed: Vec<String>,
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Clone)]
pub struct Server {
    pub endpoint: String,
    contents: Arc<Mutex<Contents>>,
    /// Those to the endpoint, and those to where large files lie.
    pub requests: Arc<Mutex<Vec<Request>>>,
    pub elsewhere: Arc<Mutex<Vec<Request>>>,
    sent: Arc<Mutex<usize>>,
}

impl Server {
    pub fn start(contents: Contents) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (here, there) = (bind(), bind());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let server = Self {
            endpoint: address(&here),
            contents: Arc::new(Mutex::new(contents)),
            requests: Arc::default(),
            elsewhere: Arc::default(),
            sent: Arc::default(),
        };
        let large = address(&there);
        for (listener, requests) in [(here, server.requests.clone()), (there, server.elsewhere.clone())] {
            let (server, large) = (server.clone(), large.clone());
            // It ends with the test's process.
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // A client that hangs up is none of its business.
                    let _ = server.answer(stream, &requests, &large);
                }
            });
        }
        server
    }

    pub fn change(&self, change: impl FnOnce(&mut Contents)) {
        change(&mut self.contents.lock().unwrap());
    }

    /// Bytes of files that were sent so far.
    pub fn sent(&self) -> usize {
        *self.sent.lock().unwrap()
    }

    /// The requests for files' bytes so far, wherever to.
    pub fn gets(&self, name: &str) -> Vec<Request> {
        let is_one = |request: &&Request| request.method == "GET" && request.path.ends_with(name);
        let (here, there) = (self.requests.lock().unwrap(), self.elsewhere.lock().unwrap());
        let large = there.iter().filter(is_one).cloned().collect::<Vec<_>>();
        match large.is_empty() {
            true => here.iter().filter(is_one).cloned().collect(),
            false => large,
        }
    }

    fn answer(&self, stream: TcpStream, requests: &Mutex<Vec<Request>>, large: &str) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_string()),
            }
        }
        let first = lines.first().cloned().unwrap_or_default();
        let mut words = first.split(' ').map(String::from);
        let header = |name: &str| {
            let found = lines.iter().skip(1).filter_map(|line| line.split_once(": "));
            let mut found = found.filter(|(key, _)| key.eq_ignore_ascii_case(name));
            found.next().map(|(_, value)| value.to_string())
        };
        let request = Request {
            method: words.next().unwrap_or_default(),
            path: words.next().unwrap_or_default(),
            range: header("range"),
            authorization: header("authorization"),
        };
        requests.lock().unwrap().push(request.clone());
        self.reply(stream, &request, large)
    }

    fn reply(&self, mut stream: TcpStream, request: &Request, large: &str) -> std::io::Result<()> {
        let contents = self.contents.lock().unwrap().clone();
        let expected = contents.token.as_ref().map(|token| format!("Bearer {token}"));
        let is_here = !request.path.starts_with("/large/");
        if is_here && expected.is_some() && request.authorization != expected {
            return status(&mut stream, "401 Unauthorized");
        }
        if request.path == "/api/models/some/model/revision/main" {
            let names = contents.files.keys().chain(&contents.listed);
            let names: Vec<_> = names
                .map(|name| serde_json::json!({ "rfilename": name }))
                .collect();
            let listing = serde_json::json!({ "sha": COMMIT, "siblings": names }).to_string();
            let length = listing.len();
            return write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{listing}"
            );
        }
        let name = match is_here {
            true => request
                .path
                .strip_prefix(&format!("/some/model/resolve/{COMMIT}/")),
            false => request.path.strip_prefix("/large/"),
        };
        let Some((name, bytes)) = name.and_then(|name| contents.files.get_key_value(name)) else {
            return status(&mut stream, "404 Not Found");
        };
        if is_here && bytes.len() >= LARGE {
            return write!(
                stream,
                "HTTP/1.1 302 Found\r\nLocation: {large}/large/{name}\r\nX-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\n\
                 ETag: \"no-{COMMIT}\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                hash(bytes),
                bytes.len()
            );
        }
        self.send(stream, request, &contents, bytes)
    }

    fn send(
        &self,
        mut stream: TcpStream,
        request: &Request,
        contents: &Contents,
        bytes: &[u8],
    ) -> std::io::Result<()> {
        let begin = request.range.as_ref().filter(|_| !contents.ignores_ranges);
        let begin = begin.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let (status, range) = match begin {
            Some(begin) => (
                "206 Partial Content",
                format!(
                    "Content-Range: bytes {begin}-{}/{}\r\n",
                    bytes.len() - 1,
                    bytes.len()
                ),
            ),
            None => ("200 OK", String::new()),
        };
        let rest = &bytes[begin.unwrap_or(0usize)..];
        write!(
            stream,
            "HTTP/1.1 {status}\r\nETag: W/\"{}\"\r\nContent-Length: {}\r\n{range}Connection: close\r\n\r\n",
            hash(bytes),
            rest.len()
        )?;
        if request.method == "HEAD" {
            return Ok(());
        }
        let cut = contents.cut.filter(|_| bytes.len() >= LARGE);
        let now = &rest[..cut.unwrap_or(rest.len()).min(rest.len())];
        *self.sent.lock().unwrap() += now.len();
        match contents.damaged {
            true => stream.write_all(&vec![b'?'; now.len()]),
            false => stream.write_all(now),
        }
    }
}

fn status(stream: &mut TcpStream, status: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

/// What a hub names a file by.
pub fn hash(bytes: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match bytes.len() >= LARGE {
        true => hex(&Sha256::digest(bytes)),
        false => hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len()))
            .chain_update(bytes)
            .finalize()),
    }
}
