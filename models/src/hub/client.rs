//! HTTP: what a repository holds, what a file is, and its bytes from anywhere on.
//!
//! Redirects are followed here, one by one: what the first answer says of a large file is not said again where it leads to, and the token
//! goes to the endpoint alone.

use std::io::Read;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

use super::reference::{is_commit, is_name_below};
use super::{HubError, Reference, Settings};
use crate::input;

/// Redirects from one another.
const MOST_REDIRECTS: usize = 8;
/// Until a connection is there.
const CONNECT: Duration = Duration::from_secs(30);
/// Without a byte, after which a connection counts as broken.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest list of a repository's files.
const MAX_LISTING: u64 = 64 << 20;

/// What the hub names a large file by, and its size, in the answer that says where it lies.
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";

/// What talks to the hub.
#[derive(Debug)]
pub(super) struct Client<'a> {
    settings: &'a Settings,
    agent: Agent,
}

/// What a revision is.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// Hash of the commit that the revision is at.
    pub(super) commit: String,
    /// The names of its files.
    pub(super) names: Vec<String>,
}

/// What is known of a file before its first byte.
#[derive(Clone, Debug)]
pub(super) struct FileInfo {
    /// What the hub names its contents by.
    pub(super) hash: String,
    /// Size of the file in bytes.
    pub(super) bytes: u64,
}

/// Bytes of a file that come.
pub(super) struct Rest {
    /// Offset of the first of them in the file: where they were asked for, or 0 from a server that gives whole files only.
    pub(super) begin: u64,
    /// Reader of the file's bytes from `begin` on.
    pub(super) bytes: Box<dyn Read>,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// The headers alone, which say what the file is.
    Head,
    /// The whole content, from its first byte on.
    Get,
    /// The content from this byte on.
    From(u64),
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("spillway/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build();
        Self {
            settings,
            agent: config.new_agent(),
        }
    }

    /// The commit that a revision is at, and its files.
    pub(super) fn listing(&self, reference: &Reference) -> Result<Listing, HubError> {
        let url = format!(
            "{}/api/models/{}/{}/revision/{}",
            self.settings.endpoint,
            reference.owner(),
            reference.name(),
            escaped(reference.revision(), false)
        );
        let answer = self.follow(&url, Ask::Get)?;
        let body = answer.into_body().into_reader();
        let text = input::read_up_to(body, MAX_LISTING).map_err(|error| connection(&url, &error))?;
        let wrong = |expected, found: &str| HubError::Answer {
            url: url.clone(),
            expected,
            found: found.chars().take(80).collect(),
        };
        let expected = "JSON with sha, a commit, and siblings, its files";
        let Ok(listing) = serde_json::from_slice::<Value>(&text) else {
            return Err(wrong(expected, &String::from_utf8_lossy(&text)));
        };
        let commit = listing["sha"].as_str().filter(|commit| is_commit(commit));
        let names = listing["siblings"].as_array().and_then(|files| {
            let names = files
                .iter()
                .map(|file| file["rfilename"].as_str().map(String::from));
            names.collect::<Option<Vec<_>>>()
        });
        let (Some(commit), Some(mut names)) = (commit, names) else {
            return Err(wrong(expected, &listing.to_string()));
        };
        // They become names of files here.
        names.retain(|name| is_name_below(name));
        Ok(Listing {
            commit: commit.into(),
            names,
        })
    }

    /// Where a file of a commit is.
    pub(super) fn url(&self, reference: &Reference, commit: &str, name: &str) -> String {
        let endpoint = &self.settings.endpoint;
        let (owner, repository, name) = (reference.owner(), reference.name(), escaped(name, true));
        format!("{endpoint}/{owner}/{repository}/resolve/{commit}/{name}")
    }

    /// What a file is.
    pub(super) fn info(&self, url: &str) -> Result<FileInfo, HubError> {
        let answer = self.follow(url, Ask::Head)?;
        let headers = answer.headers();
        let wrong = |expected, found: Option<&str>| HubError::Answer {
            url: url.into(),
            expected,
            found: found.unwrap_or("none").into(),
        };
        let tag = text(headers, LINKED_ETAG).or_else(|| text(headers, "etag"));
        let hash = tag.map(|tag| tag.trim_start_matches("W/").trim_matches('"'));
        let is_plain = |hash: &&str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            !hash.is_empty() && hash.len() <= 128 && hash.bytes().all(plain)
        };
        let Some(hash) = hash.filter(is_plain) else {
            return Err(wrong("an ETag of letters and digits", tag));
        };
        let size = text(headers, LINKED_SIZE).or_else(|| text(headers, "content-length"));
        let Some(bytes) = size.and_then(|size| size.parse().ok()) else {
            return Err(wrong("a size", size));
        };
        let hash = hash.into();
        Ok(FileInfo { hash, bytes })
    }

    /// The bytes of a file from `begin` on.
    pub(super) fn rest(&self, url: &str, begin: u64) -> Result<Rest, HubError> {
        let answer = self.follow(url, if begin == 0 { Ask::Get } else { Ask::From(begin) })?;
        let begin = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(answer.headers(), "content-range").unwrap_or("none");
                if !range.starts_with(&format!("bytes {begin}-")) {
                    return Err(HubError::Answer {
                        url: url.into(),
                        expected: "the range that was asked for",
                        found: range.into(),
                    });
                }
                begin
            }
            // The whole file, whatever was asked for.
            _ => 0,
        };
        let bytes = Box::new(answer.into_body().into_reader());
        Ok(Rest { begin, bytes })
    }

    /// The answer that a request leads to. A question about a file goes no further than the answer that knows it.
    fn follow(&self, url: &str, ask: Ask) -> Result<Response<Body>, HubError> {
        let mut at = url.to_string();
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.request(&at, ask)?;
            let status = answer.status();
            let knows = ask == Ask::Head && answer.headers().contains_key(LINKED_ETAG);
            if status.is_success() || (status.is_redirection() && knows) {
                return Ok(answer);
            }
            let location = text(answer.headers(), "location");
            match location {
                Some(location) if status.is_redirection() => at = joined(&at, location),
                _ => return Err(self.refused(&at, status)),
            }
        }
        Err(HubError::Connection {
            url: url.into(),
            reason: format!("more than {MOST_REDIRECTS} redirects"),
        })
    }

    fn request(&self, url: &str, ask: Ask) -> Result<Response<Body>, HubError> {
        let mut request = match ask {
            Ask::Head => self.agent.head(url),
            Ask::Get | Ask::From(_) => self.agent.get(url),
        };
        if let Ask::From(begin) = ask {
            request = request.header("range", format!("bytes={begin}-"));
        }
        if let Some(token) = self.token_for(url) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.call().map_err(|error| connection(url, &error))
    }

    /// The token, for what lies at the endpoint.
    fn token_for(&self, url: &str) -> Option<&str> {
        let token = self.settings.token.as_ref()?;
        (origin(url) == origin(&self.settings.endpoint)).then_some(token.0.as_str())
    }

    fn refused(&self, url: &str, status: StatusCode) -> HubError {
        let (had_token, url, status) = (self.token_for(url).is_some(), url.into(), status.as_u16());
        match status {
            401 | 403 => HubError::Unauthorized {
                url,
                status,
                had_token,
            },
            404 => HubError::NotFound { url },
            _ => HubError::Status { url, status },
        }
    }
}

fn connection(url: &str, reason: &dyn std::error::Error) -> HubError {
    HubError::Connection {
        url: url.into(),
        reason: reason.to_string(),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let begin = url.find("://").map_or(0, |at| at + 3);
    let end = url[begin..].find(['/', '?', '#']);
    end.map_or(url, |end| &url[..begin + end])
}

/// Where `location` leads from `url`.
fn joined(url: &str, location: &str) -> String {
    match location.starts_with('/') && !location.starts_with("//") {
        true => format!("{}{location}", origin(url)),
        false => location.into(),
    }
}

/// A text as part of a path; slashes stay where they are to.
fn escaped(text: &str, slashes: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'/' if slashes => escaped.push('/'),
            byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) => escaped.push(char::from(byte)),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_redirect_stays_at_its_origin_and_another_one_does_not() {
        let url = "https://hub:8080/a/b?c";
        assert_eq!(origin(url), "https://hub:8080");
        assert_eq!(origin("http://hub"), "http://hub");
        assert_eq!(joined(url, "/x/y"), "https://hub:8080/x/y");
        assert_eq!(joined(url, "https://other/x"), "https://other/x");
        assert_ne!(origin("http://hub.evil/x"), origin("http://hub/x"));
    }

    #[test]
    fn names_are_escaped_in_addresses() {
        assert_eq!(escaped("refs/pr/3", false), "refs%2Fpr%2F3");
        assert_eq!(escaped("sub/a b+ü.pth", true), "sub/a%20b%2B%C3%BC.pth");
    }
}
