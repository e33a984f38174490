//! Going through much of the tree without holding much of it in memory.
//!
//! sled notes which pages are accessed, and looks at its notes for what to evict only when the note pad of a page's
//! shard is full: 64 accesses, in each of 256 shards. A scan accesses each page once, so up to 16 384 pages stay in
//! memory whatever the cache's capacity is, 16 KiB and more each. So a scan here accesses a page once more for every
//! KiB it gives: the note pads fill with the bytes, and at most 16 MiB are not yet accounted for.

use ::sled::{Error, IVec, Iter, Tree};

/// After so many bytes a page is accessed once more.
const BYTES: usize = 1 << 10;

/// The entries of a scan.
pub(super) struct Scan<'a> {
    tree: &'a Tree,
    entries: Iter,
    /// Given, and not yet answered with an access.
    bytes: usize,
}

/// All entries whose keys begin with `prefix`.
pub(super) fn prefix(tree: &Tree, prefix: impl AsRef<[u8]>) -> Scan<'_> {
    Scan::of(tree, tree.scan_prefix(prefix))
}

impl<'a> Scan<'a> {
    /// The same for any entries of a tree.
    pub(super) fn of(tree: &'a Tree, entries: Iter) -> Self {
        Self {
            tree,
            entries,
            bytes: 0,
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<(IVec, IVec), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = match self.entries.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        self.bytes += key.len() + value.len();
        while self.bytes >= BYTES {
            self.bytes -= BYTES;
            if let Err(error) = self.tree.get(&key) {
                return Some(Err(error));
            }
        }
        Some(Ok((key, value)))
    }
}
