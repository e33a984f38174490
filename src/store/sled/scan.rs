//! Scans large parts of the tree with limited memory.
//!
//! sled records page accesses, and evicts pages only when the access buffer of a page's shard is full: 64 accesses in
//! each of 256 shards. A scan accesses each page once, so up to 16 384 pages of 16 KiB and more stay in memory,
//! whatever the cache capacity is. So a scan accesses a page once more for every KiB it returns, which fills the
//! buffers in proportion to the bytes, and at most 16 MiB are not accounted for.

use ::sled::{Error, IVec, Iter, Tree};

/// The bytes after which a page is accessed once more.
const BYTES: usize = 1 << 10;

/// The entries of a scan.
pub(super) struct Scan<'a> {
    tree: &'a Tree,
    entries: Iter,
    /// Bytes returned since the last additional access.
    bytes: usize,
}

/// All entries whose keys begin with `prefix`.
pub(super) fn prefix(tree: &Tree, prefix: impl AsRef<[u8]>) -> Scan<'_> {
    Scan::of(tree, tree.scan_prefix(prefix))
}

impl<'a> Scan<'a> {
    /// Like the previous method, for any entries of a tree.
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
