//! Files whose content is shown to people: those beneath `policy.logs`, and the log files that the
//! stack file names. The agent reads as root, so that what holds secrets is never one of them.

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use hostler_proto::wire::{ErrorCode, Failure};

use super::{Host, files};
use crate::{
    policy::{below, resolved},
    stack::Stack,
};

/// Directories of Hostler itself, beside the one in which this agent keeps its state.
const OWN: [&str; 3] = ["/etc/hostler", crate::config::STATE, "/var/lib/hostler-controller"];
/// Files that hold keys of Hostler, wherever somebody put them: what is beside them is its state.
const KEYS: [&str; 2] = ["fleet.toml", "identity.toml"];
/// Directories of users' keys.
const SECRET: [&str; 2] = [".ssh", ".gnupg"];
/// Ends of names of keys.
const ENDS: [&str; 4] = ["key", "pem", "p12", "pfx"];
/// What compressed logs are called.
const PACKED: [&str; 4] = [".gz", ".xz", ".zst", ".bz2"];

/// Opens a file that may be shown, and says which one is really meant. Blocks on the disk.
///
/// # Errors
/// When it does not exist, may not be shown, or is no ordinary file.
pub fn open(host: &Host, path: &Path) -> Result<(PathBuf, File), Failure> {
    let found = find(host, path)?;
    let (real, file) = files::open_at(&found.root, &found.rest)?;
    // Of the file that was opened: another one may have its name by now.
    let mode = file.metadata().map_err(|e| {
        let message = format!("{} cannot be looked at: {e}", real.display());
        Failure::new(ErrorCode::HostFault, message)
    })?;
    let private = mode.mode() & 0o044 == 0;
    match private && !found.named && !among_logs(&real) {
        true => Err(secret(path, "only its owner can read it, and no directory of logs holds it")),
        false => Ok((real, file)),
    }
}

/// The files that patterns stand for, as [`files::expand`] says; those that may be shown. Blocks on
/// the disk.
///
/// # Errors
/// When a pattern cannot be read or looks where it may not, or too many files are meant.
pub fn expand(host: &Host, patterns: &[String]) -> Result<Vec<PathBuf>, Failure> {
    let named = named(&host.stack);
    let looks = |pattern: &str, directory: &Path| {
        let real = resolved(directory, &host.policy.logs);
        let allowed = named.contains(&pattern)
            || matches!(&real, Some(Ok(real)) if below(real, &host.policy.logs).is_some()
                || named.iter().any(|n| parents(n).contains(real)));
        match real {
            _ if allowed => Ok(()),
            Some(Err(failure)) => Err(failure),
            _ => Err(outside(host, Path::new(pattern))),
        }
    };
    files::expand(patterns, looks, |path| find(host, path).is_ok())
}

/// A file that may be shown, unless its mode says otherwise.
struct Found {
    /// The directory beneath which it lies.
    root: PathBuf,
    rest: PathBuf,
    /// The stack file names it.
    named: bool,
}

fn find(host: &Host, path: &Path) -> Result<Found, Failure> {
    let named = named(&host.stack);
    let mut known = host.policy.logs.clone();
    known.extend(named.iter().filter_map(|n| Path::new(n).parent().map(Path::to_owned)));
    let real = resolved(path, &known).unwrap_or_else(|| Err(outside(host, path)))?;
    let found = match below(&real, &host.policy.logs) {
        Some((root, rest)) => Some(Found { root, rest, named: false }),
        None => named.iter().find_map(|pattern| fits(pattern, path, &real)),
    };
    let found = found.ok_or_else(|| outside(host, path))?;
    match why_secret(host, &real) {
        Some(why) => Err(secret(path, why)),
        None => Ok(found),
    }
}

/// The log files that the stack file names: files and patterns.
fn named(stack: &Stack) -> Vec<&str> {
    let checked = stack.check.iter().filter(|(name, change)| {
        let operation = change.operation.as_deref().unwrap_or_default();
        name.starts_with("logs:")
            || *name == "nginx-requests"
            || operation.starts_with("logs.")
            || operation == "nginx.access-report"
    });
    let checked = checked.filter_map(|(_, change)| change.parameters.get("path"));
    let texts = checked.flat_map(|value| match value {
        serde_json::Value::Array(all) => all.iter().filter_map(|v| v.as_str()).collect(),
        one => one.as_str().into_iter().collect::<Vec<_>>(),
    });
    let access = stack.nginx.iter().filter_map(|n| n.access_log.as_deref());
    let logs = stack.logs.iter().flat_map(|l| l.paths.iter().map(String::as_str));
    texts.chain(access).chain(logs).collect()
}

/// The directories, free of links, that a pattern's files lie in.
fn parents(pattern: &str) -> Vec<PathBuf> {
    let parent = pattern.rsplit_once('/').map_or("", |(parent, _)| parent);
    let all = match parent.contains(['*', '?', '[']) {
        true => glob::glob(parent).into_iter().flatten().flatten().take(files::MOST).collect(),
        false => vec![PathBuf::from(parent)],
    };
    all.iter().filter_map(|directory| directory.canonicalize().ok()).collect()
}

/// The file, when a pattern means it: by its name, or by that of the log that it was before its
/// rotation. A link in the same directory is as good as the file.
fn fits(pattern: &str, path: &Path, real: &Path) -> Option<Found> {
    let name = path.file_name()?.to_str()?;
    let wanted = glob::Pattern::new(pattern.rsplit_once('/')?.1).ok()?;
    if !wanted.matches(name) && !wanted.matches(before_rotation(name)) {
        return None;
    }
    let root = parents(pattern).into_iter().find(|root| real.parent() == Some(root))?;
    let rest = PathBuf::from(real.file_name()?);
    // Whoever may write into the directory could make a link to what only another one may read.
    Some(Found { named: rest.to_str() == Some(name), root, rest })
}

/// `app.log` of `app.log`, `app.log.1`, `app.log.2.gz` and `app.log-20261126`.
fn before_rotation(name: &str) -> &str {
    let plain = PACKED.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let stem = plain.trim_end_matches(|c: char| c.is_ascii_digit());
    match stem.strip_suffix(['.', '-']) {
        Some(stem) if stem.len() + 1 < plain.len() && !stem.is_empty() => stem,
        _ => plain,
    }
}

/// Why a file is never shown, whatever the policy says.
fn why_secret(host: &Host, real: &Path) -> Option<&'static str> {
    let has = |directories: &[&str]| {
        real.components().any(|c| directories.iter().any(|d| c.as_os_str() == OsStr::new(d)))
    };
    let beneath = |directory: &Path| {
        directory.canonicalize().is_ok_and(|directory| real.starts_with(directory))
    };
    let stack = &host.stack;
    let passwords = stack.postgres.iter().filter_map(|p| p.password_file.as_deref());
    let passwords = passwords.chain(stack.redis.iter().filter_map(|r| r.password_file.as_deref()));
    let passwords = passwords.chain(stack.redis.iter().filter_map(|r| r.key_file.as_deref()));
    let mut passwords =
        passwords.chain(stack.celery.iter().filter_map(|c| c.environment_file.as_deref()));
    let mut own = OWN.iter().map(Path::new).chain([&*host.policy.state_dir, &*host.policy.file]);
    let beside = |key: &str| real.parent().is_some_and(|parent| parent.join(key).exists());
    let name = real.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let end = before_rotation(name).rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase());
    match () {
        () if own.any(beneath) || KEYS.iter().any(|key| beside(key)) => {
            Some("it belongs to Hostler itself")
        }
        () if has(&SECRET) => Some("it lies in a directory of keys"),
        () if end.is_some_and(|end| ENDS.contains(&end.as_str())) => {
            Some("by its name it is a key")
        }
        () if passwords.any(beneath) => Some("the stack file names it as the place of a password"),
        () => None,
    }
}

/// Whether a directory of logs holds a file: such files are often their owner's alone.
fn among_logs(real: &Path) -> bool {
    let directories = real.parent().into_iter().flat_map(Path::components);
    directories.map(|c| c.as_os_str()).any(|c| c == "log" || c == "logs")
}

fn secret(path: &Path, why: &str) -> Failure {
    let message = format!("{} is not shown to anybody: {why}", path.display());
    Failure::new(ErrorCode::PermissionDenied, message)
        .hint("no policy allows it; read it on the host")
}

fn outside(host: &Host, path: &Path) -> Failure {
    host.policy.refused(&format!("to show {}", path.display()), "policy.logs")
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    struct Files {
        _dir: tempfile::TempDir,
        root: PathBuf,
    }

    impl Files {
        /// Files that everybody can read, beneath a directory of this test.
        fn new(names: &[&str]) -> Self {
            let dir = tempfile::tempdir().expect("directory");
            let files = Self { root: dir.path().canonicalize().expect("real"), _dir: dir };
            for name in names {
                let path = files.root.join(name);
                std::fs::create_dir_all(path.parent().expect("in a directory")).expect("made");
                std::fs::write(&path, *name).expect("written");
                files.mode(name, 0o644);
            }
            files
        }

        fn mode(&self, name: &str, mode: u32) {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(self.root.join(name), mode).expect("changed");
        }

        fn read(&self, host: &Host, name: &str) -> Result<String, ErrorCode> {
            let (_, mut file) = open(host, &self.root.join(name)).map_err(|f| f.code())?;
            let mut text = String::new();
            file.read_to_string(&mut text).expect("read");
            Ok(text)
        }

        fn stack(&self, text: &str) -> Stack {
            toml::from_str(&text.replace("ROOT", &self.root.display().to_string())).expect("stack")
        }
    }

    #[test]
    fn keys_and_what_belongs_to_hostler_are_shown_under_no_policy() {
        let names = [
            "a.log",
            "controller/fleet.toml",
            "controller/store.sqlite",
            "agent/identity.toml",
            "state/journal.jsonl",
            "etc/redis.password",
            "logs/server.key",
            "logs/chain.PEM",
            "home/.ssh/id_ed25519",
            "home/.netrc",
        ];
        let files = Files::new(&names);
        files.mode("home/.netrc", 0o600);
        let mut host = Host::showing(&files.root);
        host.policy.state_dir = files.root.join("state");
        host.stack = files.stack(
            "[[redis]]\nname = \"a\"\nurl = \"redis://a/0\"\n\
             password_file = \"ROOT/etc/redis.password\"",
        );
        assert_eq!(files.read(&host, "a.log").as_deref(), Ok("a.log"));
        for name in &names[1..] {
            assert_eq!(files.read(&host, name), Err(ErrorCode::PermissionDenied), "{name}");
        }
        for (number, name) in names.iter().enumerate().skip(1) {
            let link = format!("link-{number}.log");
            symlink(files.root.join(name), files.root.join(&link)).expect("link");
            assert_eq!(files.read(&host, &link), Err(ErrorCode::PermissionDenied), "{name}");
        }
        let all = expand(&host, &[files.root.join("controller/*").display().to_string()]);
        assert_eq!(all.expect("expanded"), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_log_that_only_its_owner_can_read_is_shown_from_a_directory_of_logs() {
        let files = Files::new(&["app/logs/a.log", "app/.env"]);
        let host = Host::showing(&files.root);
        for name in ["app/logs/a.log", "app/.env"] {
            files.mode(name, 0o600);
        }
        assert!(files.read(&host, "app/logs/a.log").is_ok());
        assert_eq!(files.read(&host, "app/.env"), Err(ErrorCode::PermissionDenied));
    }

    #[test]
    fn of_a_directory_that_the_stack_names_only_the_logs_are_shown() {
        let names =
            ["app/a.log", "app/a.log.1", "app/a.log-20261126.gz", "app/.env", "app/x/b.log"];
        let files = Files::new(&names);
        let mut host = Host::showing(Path::new("/nonexistent"));
        host.stack = files.stack("[[logs]]\nname = \"app\"\npaths = [\"ROOT/app/*.log\"]");
        files.mode("app/a.log", 0o600);
        symlink(files.root.join("app/.env"), files.root.join("app/env")).expect("link");
        symlink("/etc/passwd", files.root.join("app/out.log")).expect("link");
        for name in &names[..3] {
            assert_eq!(files.read(&host, name).as_deref(), Ok(*name));
        }
        for name in ["app/.env", "app/env", "app/out.log", "app/x/b.log"] {
            assert_eq!(files.read(&host, name), Err(ErrorCode::PermissionDenied), "{name}");
        }
        assert_eq!(files.read(&host, "app/none.log"), Err(ErrorCode::NotFound));
        let all = |pattern: &str| expand(&host, &[files.root.join(pattern).display().to_string()]);
        assert_eq!(all("app/*").expect("expanded").len(), 3);
        assert_eq!(all("*/*.log").expect_err("elsewhere").code(), ErrorCode::PermissionDenied);
        let mut wild = Host::showing(Path::new("/nonexistent"));
        wild.stack = files.stack(
            "[check.x]\noperation = \"logs.errors\"\nparameters = { path = [\"ROOT/*/*.log\"] }",
        );
        let pattern = files.root.join("*/*.log").display().to_string();
        assert_eq!(expand(&wild, &[pattern]).expect("expanded"), [files.root.join("app/a.log")]);
    }

    #[test]
    fn a_pattern_stands_for_its_files_and_a_path_for_itself() {
        let files = Files::new(&["b.log", "a.log", ".hidden.log", "c.txt", "d.log/inside"]);
        let at = |name: &str| files.root.join(name).display().to_string();
        let host = Host::showing(&files.root);
        let patterns = [at("*.log"), at("a.log"), at("none")];
        let found = expand(&host, &patterns).expect("expanded");
        assert_eq!(found, ["a.log", "b.log", "none"].map(|n| files.root.join(n)));
        let code = |p: String| expand(&host, &[p]).expect_err("refused").code();
        assert_eq!(code(at("[")), ErrorCode::InvalidArgument);
        assert_eq!(code("/etc/*".into()), ErrorCode::PermissionDenied);
        assert_eq!(code("/*".into()), ErrorCode::PermissionDenied);
    }

    #[test]
    fn a_rotated_log_is_known_by_the_name_that_it_had() {
        for (name, before) in [
            ("app.log", "app.log"),
            ("app.log.1", "app.log"),
            ("app.log.12.gz", "app.log"),
            ("app.log-20261126", "app.log"),
            ("app.log.gz", "app.log"),
            ("app-1", "app"),
            (".1", ".1"),
            ("1", "1"),
        ] {
            assert_eq!(before_rotation(name), before);
        }
    }
}
