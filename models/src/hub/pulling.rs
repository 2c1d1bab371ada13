//! A checkpoint of a hub brought into the cache.

use std::fs;

use super::cache::{MAX_INDEX, Repository, place};
use super::client::{Client, Listing};
use super::selection::Selection;
use super::transfer::fetch;
use super::{HubError, OnProgress, Pulled, PulledFile, Reference, Settings};
use crate::input;

/// As [`super::pull`], by way of the hub.
pub(super) fn bring(
    settings: &Settings,
    reference: &Reference,
    on_progress: &mut OnProgress<'_>,
) -> Result<Pulled, HubError> {
    let client = Client::new(settings);
    let listing = client.listing(reference)?;
    let selection = Selection::of(reference, &listing.names)?;
    let mut pulling = Pulling {
        client,
        repository: Repository::new(settings, reference),
        reference,
        listing: &listing,
        on_progress,
        files: Vec::new(),
    };
    // The weights last: where they are, everything is.
    for name in selection.beside.iter().chain([&selection.weights]) {
        pulling.bring(name)?;
    }
    if selection.is_index() {
        for shard in pulling.shards(&selection)? {
            pulling.bring(&shard)?;
        }
    }
    pulling.repository.remember(reference, &listing.commit)?;
    Ok(Pulled {
        path: place(pulling.repository.snapshot(&listing.commit), reference),
        files: pulling.files,
        commit: listing.commit.clone(),
    })
}

/// A checkpoint on its way into the cache.
struct Pulling<'p, 'f> {
    client: Client<'p>,
    repository: Repository,
    reference: &'p Reference,
    listing: &'p Listing,
    on_progress: &'p mut OnProgress<'f>,
    files: Vec<PulledFile>,
}

impl Pulling<'_, '_> {
    /// Brings a file into the snapshot.
    fn bring(&mut self, name: &str) -> Result<(), HubError> {
        let commit = &self.listing.commit;
        let there = self.repository.snapshot(commit).join(name);
        let (bytes, fetched) = match fs::metadata(&there) {
            // A commit never changes.
            Ok(found) => (found.len(), 0),
            Err(_) => self.bring_blob(name)?,
        };
        self.files.push(PulledFile {
            name: name.into(),
            bytes,
            fetched,
        });
        Ok(())
    }

    /// Brings the contents of a file, and links to them; their size, and how much had to be fetched.
    fn bring_blob(&mut self, name: &str) -> Result<(u64, u64), HubError> {
        let commit = &self.listing.commit;
        let url = self.client.url(self.reference, commit, name);
        let info = self.client.info(&url)?;
        let blob = self.repository.blob(&info.hash);
        let _lock = self.repository.lock(&info.hash)?;
        let fetched = match blob.exists() {
            true => 0,
            false => fetch(&self.client, (&url, name), &info, &blob, self.on_progress)?,
        };
        self.repository.link(commit, name, &info.hash)?;
        Ok((info.bytes, fetched))
    }

    /// The shards that the index names, which is there; they are files of the repository.
    fn shards(&self, selection: &Selection) -> Result<Vec<String>, HubError> {
        let (commit, index) = (&self.listing.commit, &selection.weights);
        let path = self.repository.snapshot(commit).join(index);
        let text = input::read_text(&path, MAX_INDEX).map_err(HubError::io(&path, "reading"))?;
        let wrong = |found: String| HubError::Answer {
            url: self.client.url(self.reference, commit, index),
            expected: "an index whose weight_map names files of the repository",
            found,
        };
        let Some(shards) = selection.shards(&text) else {
            return Err(wrong(text.chars().take(80).collect()));
        };
        match shards.iter().find(|shard| !self.listing.names.contains(shard)) {
            Some(missing) => Err(wrong(missing.clone())),
            None => Ok(shards),
        }
    }
}
