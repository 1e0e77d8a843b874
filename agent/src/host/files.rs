//! Files beneath the allowed directories: found by pattern, opened so that no link leads out.

use std::{
    fs::File,
    io::Read as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt, MetadataExt as _},
    },
    path::{Component, Path, PathBuf},
};

use hostler_proto::wire::{ErrorCode, Failure};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use crate::policy::Policy;

/// Most files that patterns may stand for.
pub const MOST: usize = 256;

/// Opens a file for reading and says which one is really meant. Blocks on the disk.
///
/// # Errors
/// When it does not exist, is not allowed, or is no ordinary file.
pub fn open(policy: &Policy, path: &Path) -> Result<(PathBuf, File), Failure> {
    let (allowed, rest) = policy.beneath(path)?;
    open_at(&allowed, &rest)
}

/// Opens what lies at `rest` beneath a directory; neither holds a link. Blocks on the disk.
///
/// # Errors
/// When it does not exist, or is no ordinary file.
pub(super) fn open_at(allowed: &Path, rest: &Path) -> Result<(PathBuf, File), Failure> {
    let real = if rest.as_os_str().is_empty() { allowed.to_owned() } else { allowed.join(rest) };
    let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
    let failed = |e: std::io::Error| {
        let message = format!("{} cannot be read: {e}", real.display());
        match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                Failure::new(ErrorCode::PermissionDenied, message)
                    .hint("the agent's user must be allowed to read it")
            }
            std::io::ErrorKind::NotFound => Failure::new(ErrorCode::NotFound, message),
            _ => Failure::new(ErrorCode::HostFault, message),
        }
    };
    let directory = File::open(allowed).map_err(failed)?;
    // The path holds no link any more; one that is put there now is not followed. Without waiting:
    // a pipe that nobody writes to would block for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file =
        openat2(&directory, rest, flags, Mode::empty(), beneath).map_err(|e| failed(e.into()))?;
    let file = File::from(file);
    let kind = file.metadata().map_err(failed)?.file_type();
    if kind.is_file() {
        return Ok((real, file));
    }
    let what = match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () => "a device",
    };
    let message = format!("{} is {what}, not a file", real.display());
    Err(Failure::new(ErrorCode::InvalidArgument, message))
}

/// Most of a file that [`small`] reads.
const SMALL: u64 = 4 << 20;

/// A small ordinary file of some program, which may belong to anybody: no link is followed, nothing is
/// waited for, and no more than four MiB are read. Blocks on the disk.
///
/// # Errors
/// When it is not there, is no such file, or cannot be read.
pub fn small(path: &Path) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no ordinary file"));
    }
    let mut bytes = Vec::new();
    file.take(SMALL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file that the stack file names, as a certificate.
///
/// # Errors
/// With its path, when it cannot be read.
pub(super) async fn of_stack(path: &Path) -> Result<Vec<u8>, String> {
    let file = path.to_owned();
    let read = super::blocking(move || Ok(std::fs::read(file))).await.map_err(|f| f.message)?;
    read.map_err(|e| format!("{}: {e}", path.display()))
}

/// The password that stands in a file which the stack file names.
///
/// # Errors
/// With its path, when it cannot be read.
pub(super) async fn password(path: &Path) -> Result<String, String> {
    let text = String::from_utf8(of_stack(path).await?);
    let text = text.map_err(|_| format!("{}: it is no text in UTF-8", path.display()))?;
    Ok(text.trim_end().to_owned())
}

/// A small file whose content a user will get: it is that one's own or root's, and no link leads to
/// it, else somebody could have root read what is not for that user. Blocks on the disk.
///
/// # Errors
/// When it is not there, cannot be read, or is another one's.
pub fn small_of(path: &Path, uid: u32) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let file = File::from(file.map_err(|e| match e {
        rustix::io::Errno::LOOP => std::io::Error::other("a symbolic link leads to it"),
        other => other.into(),
    })?);
    let seen = file.metadata()?;
    if !seen.is_file() || ![0, uid].contains(&seen.uid()) {
        return Err(std::io::Error::other("it is no ordinary file of that user or of root"));
    }
    let mut bytes = Vec::new();
    file.take(SMALL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The files that patterns (`*`, `?`, `[..]`) stand for, in order; a path without a pattern stands
/// for itself. `looks` says whether a pattern may look into its directory, the part before the first
/// wildcard; `told` whether a file may be told of. Blocks on the disk.
///
/// # Errors
/// When a pattern cannot be read or looks where it may not, or they stand for more than [`MOST`] files.
pub(super) fn expand(
    patterns: &[String],
    looks: impl Fn(&str, &Path) -> Result<(), Failure>,
    told: impl Fn(&Path) -> bool,
) -> Result<Vec<PathBuf>, Failure> {
    let options = glob::MatchOptions {
        require_literal_separator: true,
        // With it the crate panics on names that are no UTF-8.
        require_literal_leading_dot: false,
        ..glob::MatchOptions::new()
    };
    let mut found = std::collections::BTreeSet::new();
    for pattern in patterns {
        if !pattern.contains(['*', '?', '[']) {
            found.insert(PathBuf::from(pattern));
            continue;
        }
        let wild = Path::new(pattern);
        if wild.components().any(|c| c == Component::ParentDir) || pattern.contains("**") {
            let message = format!("the pattern {pattern} holds \"..\" or \"**\"");
            return Err(Failure::new(ErrorCode::InvalidArgument, message)
                .hint("name each level: /srv/*/logs/*.log"));
        }
        // Only directories that may be read are looked into, so that a pattern tells of no others.
        let fixed = pattern.split(['*', '?', '[']).next().unwrap_or_default();
        looks(pattern, Path::new(fixed.rsplit_once('/').map_or("/", |(parent, _)| parent)))?;
        let paths = glob::glob_with(pattern, options).map_err(|e| {
            let message = format!("the pattern {pattern} cannot be read: {e}");
            Failure::new(ErrorCode::InvalidArgument, message)
        })?;
        let hidden = |path: &Path| path.file_name().is_some_and(|n| n.as_bytes().starts_with(b"."));
        let dots = hidden(wild);
        // A link in between may lead out: what is not allowed is not told of.
        let meant = |p: &PathBuf| (dots || !hidden(p)) && !p.is_dir() && told(p);
        found.extend(paths.flatten().filter(meant).take(MOST + 1));
    }
    match found.len() {
        0..=MOST => Ok(found.into_iter().collect()),
        _ => {
            Err(Failure::new(ErrorCode::LimitExceeded, format!("more than {MOST} files are meant"))
                .hint("use narrower patterns"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_ordinary_files_beneath_allowed_directories_are_opened() {
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path().canonicalize().expect("real");
        let (inside, outside) = (root.join("inside"), root.join("outside"));
        for path in [&inside, &outside] {
            std::fs::create_dir(path).expect("made");
            std::fs::write(path.join("a.log"), "text").expect("written");
        }
        symlink(outside.join("a.log"), inside.join("out.log")).expect("link");
        symlink(inside.join("a.log"), outside.join("in.log")).expect("link");
        let policy = Policy { paths: vec![inside.clone()], ..Policy::default() };
        let mut text = String::new();
        let (real, mut file) = open(&policy, &outside.join("in.log")).expect("leads in");
        file.read_to_string(&mut text).expect("read");
        assert_eq!((real, text.as_str()), (inside.join("a.log"), "text"));
        let code = |path: &Path| open(&policy, path).expect_err("refused").code();
        assert_eq!(code(&inside.join("out.log")), ErrorCode::PermissionDenied);
        assert_eq!(code(&outside.join("a.log")), ErrorCode::PermissionDenied);
        assert_eq!(code(&inside.join("none.log")), ErrorCode::NotFound);
        assert_eq!(code(&inside), ErrorCode::InvalidArgument);
    }
}
