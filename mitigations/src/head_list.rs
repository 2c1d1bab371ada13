//! Lists of layers and heads, written `2/5.0/5.3`: all of layer 2, and heads 0 and 3 of layer 5.

use spillway_ssm_core::Site;
use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// What is expected where a list is written.
pub(crate) const EXPECTED: &str =
    "layers, or heads as LAYER.HEAD, counted from 0 and separated by /, such as 2/5.0/5.3";

/// Layers and heads, in the order written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadList(Vec<Entry>);

/// A layer, or one head of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    layer: usize,
    /// `None` for all heads.
    head: Option<usize>,
}

impl HeadList {
    /// Whether a head of `site`, numbered within it, is listed.
    pub fn cover(&self, site: &Site, head: usize) -> bool {
        let listed = |entry: &Entry| {
            entry.layer == site.layer && entry.head.is_none_or(|listed| listed == site.first_head + head)
        };
        self.0.iter().any(listed)
    }

    /// Whether single heads are listed.
    pub fn single_heads(&self) -> bool {
        self.0.iter().any(|entry| entry.head.is_some())
    }
}

/// Not a list of layers and heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAHeadList;

impl FromStr for HeadList {
    type Err = NotAHeadList;

    fn from_str(text: &str) -> Result<Self, NotAHeadList> {
        let index = |text: &str| text.trim().parse::<usize>().map_err(|_| NotAHeadList);
        let entry = |text: &str| {
            Ok(match text.split_once('.') {
                None => Entry {
                    layer: index(text)?,
                    head: None,
                },
                Some((layer, head)) => Entry {
                    layer: index(layer)?,
                    head: Some(index(head)?),
                },
            })
        };
        text.split('/').map(entry).collect::<Result<_, _>>().map(Self)
    }
}

impl Display for HeadList {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        for (index, entry) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "/" };
            write!(formatter, "{separator}{}", entry.layer)?;
            if let Some(head) = entry.head {
                write!(formatter, ".{head}")?;
            }
        }
        Ok(())
    }
}
