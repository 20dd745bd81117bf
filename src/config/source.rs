//! `Source`: one file of a configuration, as it was read; and the patterns that name further ones.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::parse::LARGEST_FILE;
use crate::diag::{Invalid, open_regular};
use crate::values::Wildcard;

pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) exposure: Exposure,
    /// The byte each line begins with.
    lines: Vec<usize>,
}

/// Who can read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposure {
    Private,
    /// Others than its owner.
    Exposed,
}

impl Source {
    /// The file that was asked for, which may be a pipe.
    pub(super) fn read(path: &Path) -> Result<Self, Invalid> {
        Source::read_from(path, File::open(path), THE_FILE)
    }

    /// A fault of reading it is told where it is named, and so names it.
    pub(super) fn read_included(path: &Path) -> Result<Self, Invalid> {
        Source::read_from(path, open_regular(path), &format!("`{}`", path.display()))
    }

    /// `called` is what messages call the file.
    fn read_from(path: &Path, file: io::Result<File>, called: &str) -> Result<Self, Invalid> {
        let unreadable = |e: io::Error| Invalid::new(format!("{called} cannot be read: {e}"));
        let file = file.map_err(unreadable)?;
        let exposure = exposure(&file.metadata().map_err(unreadable)?);
        Source::checked(path, read_bounded(file).map_err(unreadable)?, exposure, called)
    }

    pub(super) fn checked(
        path: &Path,
        bytes: Vec<u8>,
        exposure: Exposure,
        called: &str,
    ) -> Result<Self, Invalid> {
        if bytes.len() > LARGEST_FILE {
            return Err(Invalid::new(format!("{called} is larger than {} MiB", LARGEST_FILE >> 20))
                .hint("split it, and name the parts under `include`"));
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
            Invalid::new(format!("{called} is not UTF-8: line {line} has other bytes"))
                .hint("save it as UTF-8")
        })?;
        Ok(Source::new(path.to_owned(), text, exposure))
    }

    fn new(path: PathBuf, text: String, exposure: Exposure) -> Self {
        let starts = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Source { path, text, exposure, lines }
    }

    /// A file that could not be read: it has a name and nothing else.
    pub(super) fn missing(path: &Path) -> Self {
        Source::new(path.to_owned(), String::new(), Exposure::Private)
    }

    /// The number of the line, counted from 0, in which the byte is.
    pub(super) fn line_of(&self, byte: usize) -> usize {
        self.lines.partition_point(|start| *start <= byte).saturating_sub(1)
    }

    /// The bytes of a line, without its break.
    pub(super) fn line(&self, number: usize) -> std::ops::Range<usize> {
        let start = self.lines.get(number).copied().unwrap_or(self.text.len());
        let end = self.lines.get(number + 1).map_or(self.text.len(), |next| next - 1);
        let text = &self.text[start..end];
        start..start + text.strip_suffix('\r').unwrap_or(text).len()
    }
}

/// What the file that was asked for is called.
pub(super) const THE_FILE: &str = "the file";

/// At most one byte more than a file may have.
fn read_bounded(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(LARGEST_FILE).unwrap_or(u64::MAX);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn exposure(metadata: &Metadata) -> Exposure {
    if metadata.permissions().mode() & 0o077 == 0 { Exposure::Private } else { Exposure::Exposed }
}

/// The files a pattern names, sorted. `*` and `?` stand for any characters of the last part, except a leading dot.
pub(super) fn expand(base: &Path, pattern: &str) -> Result<Vec<PathBuf>, Invalid> {
    let path = base.join(pattern);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Err(Invalid::new(format!("`{pattern}` names no file")));
    };
    if directory.to_string_lossy().contains(['*', '?']) {
        return Err(Invalid::new(format!("`{pattern}` has a wildcard in a directory"))
            .hint("`*` and `?` are for the last part, as in `conf.d/*.yaml`"));
    }
    if !name.contains(['*', '?']) {
        return Ok(vec![path]);
    }
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Invalid::new(format!("`{}` cannot be listed: {e}", directory.display()))),
    };
    let pattern = Wildcard::new(name.to_owned());
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let hits = names.filter(|found| !found.starts_with('.') && pattern.matches(found));
    let mut paths: Vec<_> = hits.map(|found| directory.join(found)).filter(|path| !path.is_dir()).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_bytes() {
        let source = Source::new("x".into(), "ä: 1\r\nb: 2\n".into(), Exposure::Private);
        assert_eq!((source.line_of(0), source.line_of(6), source.line_of(7)), (0, 0, 1));
        assert_eq!(&source.text[source.line(0)], "ä: 1");
        assert_eq!(&source.text[source.line(1)], "b: 2");
        assert_eq!(&source.text[source.line(2)], "");
    }
}
