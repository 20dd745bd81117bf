//! `NamedFile`: a file that a value of the configuration names.
//!
//! Whoever compiles it reads it through here, so that the book knows the very bytes that were compiled: the file may be another
//! one a moment later.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::{Diagnostics, Invalid};

pub struct NamedFile<'a> {
    pub(super) book: &'a Diagnostics,
    pub(super) path: PathBuf,
}

impl NamedFile<'_> {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of the file, when it has no more bytes than `most`. They become part of the configuration's digest.
    pub fn read(&self, most: u64) -> Result<Vec<u8>, Invalid> {
        let bytes = read(&self.path, most)?;
        let mut files = self.book.files.borrow_mut();
        let digest = files.entry(self.path.clone()).or_default();
        // One that is read twice may have changed in between.
        let mut hasher = DefaultHasher::new();
        (*digest, &bytes).hash(&mut hasher);
        *digest = hasher.finish();
        Ok(bytes)
    }
}

/// The same for a file that is no part of the configuration.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Invalid> {
    let bytes = read_bounded(path, most.saturating_add(1))
        .map_err(|e| Invalid::new(format!("`{}` cannot be read: {e}", path.display())))?;
    if bytes.len() as u64 > most {
        return Err(Invalid::new(format!("`{}` is larger than {most} bytes", path.display())));
    }
    Ok(bytes)
}

fn read_bounded(path: &Path, bound: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(bound).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens what is a regular file at the end of its links. A FIFO would wait for a writer, and a device may never end; so they are
/// looked at and not opened.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    let what = match kind {
        kind if kind.is_file() => return File::open(path),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(io::Error::other(format!("it is {what}, and no regular file")))
}
