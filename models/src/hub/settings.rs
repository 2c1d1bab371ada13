//! What the environment says of a hub, by the names that Hugging Face's own tools read.
//!
//! | what | variables, the first that is set |
//! |---|---|
//! | endpoint | `HF_ENDPOINT` |
//! | cache | `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME`/hub, `XDG_CACHE_HOME`/huggingface/hub, `HOME`/.cache/huggingface/hub |
//! | token | `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, the file `HF_TOKEN_PATH`, the file `token` in `HF_HOME` or its default |
//! | offline | `HF_HUB_OFFLINE`: 1, true, yes or on |

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::HubError;
use crate::input;

/// The hub that is meant where none is named.
const ENDPOINT: &str = "https://huggingface.co";
/// The longest file of a token.
const MAX_TOKEN: u64 = 1 << 12;

/// Settings of a hub: where it is, where its repositories are kept, who asks, and whether anything may be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Scheme and host, without a slash at the end.
    pub endpoint: String,
    /// The folder that repositories are kept in.
    pub cache: PathBuf,
    /// Who asks; sent to the endpoint and nobody else.
    pub token: Option<Token>,
    /// Whether nothing may be fetched.
    pub offline: bool,
}

/// A secret, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Settings {
    /// What this process's environment says.
    ///
    /// # Errors
    /// [`HubError::NoCache`] where not even a home is named.
    pub fn from_environment() -> Result<Self, HubError> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// As [`Settings::from_environment`] of other variables.
    ///
    /// # Errors
    /// As there.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let folder = |name: &str| set(name).map(PathBuf::from);
        let user = || folder("HOME").or_else(|| folder("USERPROFILE"));
        let caches = || folder("XDG_CACHE_HOME").or_else(|| Some(user()?.join(".cache")));
        let home = folder("HF_HOME").or_else(|| Some(caches()?.join("huggingface")));
        let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| in_home("hub"));
        let stored = || {
            let path = folder("HF_TOKEN_PATH").or_else(|| in_home("token"))?;
            // There need not be one.
            input::read_text(&path, MAX_TOKEN).ok()
        };
        let token = text("HF_TOKEN")
            .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
            .or_else(stored);
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache: cache.ok_or(HubError::NoCache)?,
            token: token
                .map(|token| Token(token.trim().into()))
                .filter(|token| !token.0.is_empty()),
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| is_yes(&value)),
        })
    }
}

fn is_yes(value: &str) -> bool {
    ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Settings::from_variables(variable).unwrap()
    }

    #[test]
    fn the_cache_is_where_other_tools_have_it() {
        let cache = |variables: &[(&str, &str)]| settings(variables).cache;
        let home = ("HOME", "/home/me");
        assert_eq!(cache(&[home]), Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(
            cache(&[home, ("XDG_CACHE_HOME", "/c")]),
            Path::new("/c/huggingface/hub")
        );
        assert_eq!(cache(&[home, ("HF_HOME", "/h")]), Path::new("/h/hub"));
        assert_eq!(
            cache(&[home, ("HF_HOME", "/h"), ("HF_HUB_CACHE", "/k")]),
            Path::new("/k")
        );
        assert_eq!(
            cache(&[home, ("HF_HUB_CACHE", "")]),
            Path::new("/home/me/.cache/huggingface/hub")
        );
        assert!(matches!(
            Settings::from_variables(|_| None),
            Err(HubError::NoCache)
        ));
    }

    #[test]
    fn the_token_is_the_variable_s_or_the_file_s_and_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token, None);
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let found = settings(&[("HF_HOME", home)]);
        assert_eq!(found.token, Some(Token("from-file".into())));
        assert!(!format!("{found:?}").contains("from-file"));
        let found = settings(&[("HF_HOME", home), ("HF_TOKEN", "from-variable")]);
        assert_eq!(found.token, Some(Token("from-variable".into())));
    }

    #[test]
    fn endpoint_and_offline_are_read_as_other_tools_read_them() {
        let home = ("HOME", "/h");
        assert_eq!(settings(&[home]).endpoint, ENDPOINT);
        assert_eq!(
            settings(&[home, ("HF_ENDPOINT", "http://mirror:8080/")]).endpoint,
            "http://mirror:8080"
        );
        let offline = |value: &str| settings(&[home, ("HF_HUB_OFFLINE", value)]).offline;
        assert!(offline("1") && offline("TRUE") && offline("yes") && offline("ON"));
        assert!(!offline("0") && !offline("") && !offline("no") && !settings(&[home]).offline);
    }
}
