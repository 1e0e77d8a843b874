//! Whether nginx writes its requests where everybody looks for them, and as the probe reads them. A host with
//! a format of its own would be UNKNOWN for ever.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use crate::ops::nginx;

/// Where they stand.
pub(super) const STANDARD: &str = "/var/log/nginx/access.log";

/// Whether the requests of nginx, which has those main processes, can be read; none where nobody can tell.
/// Blocks on the disk.
pub(super) fn is_read(masters: &[u32]) -> Option<bool> {
    read_at(Path::new(STANDARD), masters).ok().flatten()
}

fn read_at(log: &Path, masters: &[u32]) -> io::Result<Option<bool>> {
    if masters.is_empty() {
        return Ok(None);
    }
    let mut open = Vec::new();
    for master in masters {
        open.extend(fs::read_dir(format!("/proc/{master}/fd"))?.flatten());
    }
    let log_itself = match fs::symlink_metadata(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(false)),
        other => other?,
    };
    let same = |entry: &fs::DirEntry| {
        let open = fs::metadata(entry.path());
        open.is_ok_and(|o| (o.dev(), o.ino()) == (log_itself.dev(), log_itself.ino()))
    };
    // The probe follows a link only to where it may; and what lies there may be from former times.
    let plain = log_itself.is_file() && fs::canonicalize(log)? == log;
    if !plain || !open.iter().any(same) {
        return Ok(Some(false));
    }
    // Just after a rotation the lines are in the file before.
    let before = log.with_extension("log.1");
    for file in [log, &before] {
        let told = match File::open(file) {
            Ok(file) => nginx::understood(&file)?,
            Err(_) => None,
        };
        if told.is_some() {
            return Ok(told);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn requests_can_be_read_where_nginx_writes_them_in_a_format_that_the_probe_knows() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path().canonicalize().expect("a path");
        let log = directory.join("access.log");
        let of = || read_at(&log, &[std::process::id()]).expect("read");
        assert_eq!(of(), Some(false), "there is none");
        let combined =
            "192.0.2.7 - - [26/Nov/2026:06:12:01 +0100] \"GET / HTTP/1.1\" 200 612 \"-\" \"-\"\n";
        fs::write(&log, combined).expect("written");
        assert_eq!(of(), Some(false), "nobody writes there any more");
        let _written = OpenOptions::new().append(true).open(&log).expect("open");
        assert_eq!(of(), Some(true));
        fs::write(&log, format!("{combined}{{\"status\": 200}}\n")).expect("written");
        assert_eq!(of(), Some(false), "somebody has changed the format");
        fs::write(&log, "").expect("written");
        assert_eq!(of(), None, "nothing was asked for so far");
        for (before, told) in [(combined, true), ("{}\n", false)] {
            fs::write(directory.join("access.log.1"), before).expect("written");
            assert_eq!(of(), Some(told), "it was rotated");
        }
        let link = directory.join("link.log");
        std::os::unix::fs::symlink(&log, &link).expect("linked");
        assert_eq!(read_at(&link, &[std::process::id()]).expect("read"), Some(false));
        assert!(read_at(&log, &[u32::MAX]).is_err(), "it has just ended");
        assert_eq!(read_at(&log, &[]).expect("read"), None, "it does not run");
    }
}
