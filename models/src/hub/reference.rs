//! The name of a checkpoint on a hub.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::HubError;

/// What a reference begins with where a path could stand as well.
pub const PREFIX: &str = "hf:";
/// The branch that is meant where none is named.
const DEFAULT_REVISION: &str = "main";

/// `OWNER/NAME`, with `@REVISION` (a branch, a tag or a commit; `main` without it) and `:FILE`, where a repository holds several
/// models; `hf:` may stand before it.
///
/// ```
/// use spillway_models::hub::Reference;
///
/// let reference: Reference = "hf:state-spaces/mamba2-130m@main".parse()?;
/// assert_eq!((reference.owner(), reference.name()), ("state-spaces", "mamba2-130m"));
/// assert_eq!(reference.to_string(), "state-spaces/mamba2-130m");
/// # Ok::<(), spillway_models::hub::HubError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    owner: String,
    name: String,
    revision: String,
    file: Option<String>,
}

impl Reference {
    /// The reference that stands in a path's place; `None` for a path.
    ///
    /// # Errors
    /// [`HubError::Reference`] for what begins with `hf:` and names no repository.
    pub fn of_path(path: &Path) -> Result<Option<Self>, HubError> {
        match path.to_str() {
            Some(text) if text.starts_with(PREFIX) => text.parse().map(Some),
            _ => Ok(None),
        }
    }

    /// Name of the owner of the repository.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Name of the repository, without its owner's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The file of weights, where it was named.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Whether the revision is a commit, which never changes.
    pub(super) fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }
}

/// Whether a text is the hash of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A part of a path that can only lie below the folder that it is joined to.
fn is_plain(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)
}

/// A name in a repository that can only lie below the folder that it is joined to.
pub(super) fn is_name_below(name: &str) -> bool {
    let is_part = |part: &str| !["", ".", ".."].contains(&part);
    name.split('/').all(is_part) && !name.contains(['\\', ':', '\0'])
}

impl FromStr for Reference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Reference { found: text.into() };
        let rest = text.strip_prefix(PREFIX).unwrap_or(text);
        let (rest, file) = match rest.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (rest, None),
        };
        let (repository, revision) = rest.split_once('@').unwrap_or((rest, DEFAULT_REVISION));
        let (owner, name) = repository.split_once('/').ok_or_else(wrong)?;
        let is_good = is_plain(owner)
            && is_plain(name)
            && revision.split('/').all(is_plain)
            && file.is_none_or(is_name_below);
        match is_good {
            true => Ok(Self {
                owner: owner.into(),
                name: name.into(),
                revision: revision.into(),
                file: file.map(Into::into),
            }),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        if self.revision != DEFAULT_REVISION {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_and_written() {
        for text in [
            "a/b",
            "a/b@v1.0",
            "a/b@refs/pr/3",
            "a/b:x.pth",
            "BlinkDL/rwkv-7-world@abc:sub/RWKV x.pth",
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), text);
            assert_eq!(format!("{PREFIX}{text}").parse::<Reference>().unwrap(), reference);
        }
        let reference: Reference = "a/b@main".parse().unwrap();
        assert_eq!(
            (reference.to_string().as_str(), reference.revision()),
            ("a/b", "main")
        );
        let commit: Reference = format!("a/b@{}", "0123456789abcdef0123456789abcdef01234567")
            .parse()
            .unwrap();
        assert!(commit.is_commit() && !reference.is_commit());
    }

    #[test]
    fn what_names_no_repository_or_leads_out_of_the_cache_is_refused() {
        for text in [
            "", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a/b@/x", "a/b:", "a/b:../x",
            "a/b:/x", "a/b:x//y", "a b/c",
        ] {
            assert!(
                matches!(text.parse::<Reference>(), Err(HubError::Reference { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn a_path_is_no_reference() {
        assert_eq!(Reference::of_path(Path::new("a/b")).unwrap(), None);
        assert!(Reference::of_path(Path::new("hf:a/b")).unwrap().is_some());
        assert!(Reference::of_path(Path::new("hf:a")).is_err());
    }
}
