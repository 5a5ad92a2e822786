//! Writes archives that the kernel unpacks as its first file system: cpio's `newc` form.
//!
//! Sources: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel, and cpio(5).

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

/// File types of `st_mode`.
const DIRECTORY: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const EXECUTABLE: u32 = 0o100_755;
/// Headers and contents end at multiples of this.
const ALIGNMENT: usize = 4;

/// An archive in the making.
pub(crate) struct Archive<W> {
    out: W,
    directories: BTreeSet<String>,
    entries: u32,
}

/// What an entry is, besides its name and content.
#[derive(Clone, Copy)]
struct Kind {
    mode: u32,
    /// Major and minor number of a device.
    device: (u32, u32),
}

impl<W: Write> Archive<W> {
    pub(crate) const fn new(out: W) -> Self {
        Self { out, directories: BTreeSet::new(), entries: 0 }
    }

    /// Adds an executable file, and the directories above it.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, Kind { mode: EXECUTABLE, device: (0, 0) }, content)
    }

    /// Adds a directory, and those above it.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.parents(path)?;
        if self.directories.insert(path.to_owned()) {
            self.entry(path, Kind { mode: DIRECTORY, device: (0, 0) }, &[])?;
        }
        Ok(())
    }

    /// Adds a character device, and the directories above it.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, Kind { mode: CHARACTER_DEVICE, device: (major, minor) }, &[])
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", Kind { mode: 0, device: (0, 0) }, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        match Path::new(path).parent().and_then(Path::to_str) {
            Some(parent) if !parent.is_empty() => self.directory(parent),
            _ => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, kind: Kind, content: &[u8]) -> io::Result<()> {
        let too_big = || io::Error::new(io::ErrorKind::FileTooLarge, format!("{path} does not fit into an archive"));
        let size = u32::try_from(content.len()).map_err(|_| too_big())?;
        let name_size = u32::try_from(path.len() + 1).map_err(|_| too_big())?;
        self.entries += 1;
        let (major, minor) = kind.device;
        let links = 1;
        // Inode, mode, owner, group, links, time, size, device twice (of the file, of what it stands for), name, sum.
        let fields = [self.entries, kind.mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header += &format!("{field:08X}");
        }
        header += path;
        header.push('\0');
        self.padded(header.as_bytes())?;
        self.padded(content)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        self.out.write_all([0; ALIGNMENT].get(..padding).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode, content and device numbers.
    type Entry = (String, u32, Vec<u8>, (u32, u32));

    /// Every entry, read field by field as the kernel does.
    fn read(mut archive: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&archive[..6], b"070701");
            let field = |n: usize| {
                u32::from_str_radix(std::str::from_utf8(&archive[6 + 8 * n..14 + 8 * n]).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let device = (field(9), field(10));
            let name = std::str::from_utf8(&archive[110..110 + name_size - 1]).unwrap().to_owned();
            assert_eq!(archive[110 + name_size - 1], 0);
            let content = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(archive.len(), content);
                return entries;
            }
            entries.push((name, mode, archive[content..content + size].to_vec(), device));
            archive = &archive[(content + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut archive = Archive::new(Vec::new());
        archive.file("lib/one", b"12345").unwrap();
        archive.file("lib/deep/two", b"").unwrap();
        archive.directory("lib/deep").unwrap();
        archive.device("dev/console", 5, 1).unwrap();
        archive.file("init", &[7; 4]).unwrap();
        let names: Vec<_> = read(&archive.finish().unwrap());
        let expected = [
            ("lib", 0o040_755, &b""[..], (0, 0)),
            ("lib/one", 0o100_755, b"12345", (0, 0)),
            ("lib/deep", 0o040_755, b"", (0, 0)),
            ("lib/deep/two", 0o100_755, b"", (0, 0)),
            ("dev", 0o040_755, b"", (0, 0)),
            ("dev/console", 0o020_600, b"", (5, 1)),
            ("init", 0o100_755, &[7; 4], (0, 0)),
        ];
        assert_eq!(names, expected.map(|(name, mode, content, device)| (name.into(), mode, content.to_vec(), device)));
    }

    #[test]
    fn directories_come_before_what_lies_in_them_and_once() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b/c", b"").unwrap();
        archive.file("a/b/d", b"").unwrap();
        let names: Vec<_> = read(&archive.finish().unwrap()).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d"]);
    }
}
