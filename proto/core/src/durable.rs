//! Files that are whole at any moment: the old one or the new one.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Puts a file durably in another one's place, readable by its owner alone. Blocks on the disk.
///
/// # Errors
/// When the directory or the file cannot be written; the older one then stays as it was.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&new).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    if let Err(error) = written {
        // Half of it would take the space that is missing.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_its_owners_alone_and_what_cannot_be_written_leaves_the_old_one() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("state").join("a.toml");
        replace(&path, b"one").expect("written");
        replace(&path, b"two").expect("replaced");
        let read = || fs::read_to_string(&path).expect("read");
        assert_eq!(read(), "two");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::create_dir(path.with_file_name("a.toml.new")).expect("in the way");
        replace(&path, b"three").expect_err("there is something in the way");
        assert_eq!(read(), "two");
    }
}
