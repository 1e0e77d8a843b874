//! What belongs to applications beside their processes: Python environments, front ends, backups. It is
//! looked for where processes run from and in a few usual places; no disk is searched.

use std::{
    collections::BTreeSet,
    io::Cursor,
    path::{Path, PathBuf},
};

use crate::{
    dumps::{self, Effort},
    host::files,
};

/// Names of environments within an application's directory.
const ENVIRONMENTS: [&str; 3] = [".venv", "venv", "env"];
/// Directories that are looked into for front ends.
const PARTS: usize = 200;
/// Names of directories of backups within an application's directory.
const BACKUPS: [&str; 3] = ["backups", "backup", "dumps"];
/// Where backups of a whole host lie.
const USUAL: [&str; 6] = [
    "/var/backups",
    "/var/backups/postgresql",
    "/var/lib/postgresql/backups",
    "/srv/backups",
    "/opt/backups",
    "/backups",
];
/// Files of a directory that are looked at to see whether it holds dumps.
const FILES: usize = 50;

/// Characters of a name: that of a check, which has its kind before it, has an end.
const LONGEST: usize = 60;

/// The Python environment that a program lies in: `/opt/app/.venv` for `/opt/app/.venv/bin/celery`.
pub(super) fn environment(program: &str) -> Option<PathBuf> {
    let programs = Path::new(program).parent().filter(|p| p.is_absolute() && p.ends_with("bin"))?;
    programs.parent().filter(|p| is_environment(p)).map(Path::to_path_buf)
}

/// Those of a checkout.
pub(super) fn environments(checkout: &Path) -> impl Iterator<Item = PathBuf> {
    ENVIRONMENTS.iter().map(|name| checkout.join(name)).filter(|path| is_environment(path))
}

fn is_environment(path: &Path) -> bool {
    path.join("pyvenv.cfg").is_file()
}

/// The front ends in a directory and directly below it.
pub(super) fn frontends(directory: &Path) -> Vec<PathBuf> {
    let below = std::fs::read_dir(directory).into_iter().flatten().flatten().take(PARTS);
    let below = below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
    let all = std::iter::once(directory.to_owned()).chain(below);
    let is =
        |path: &PathBuf| ["package.json", "pnpm-lock.yaml"].iter().all(|f| path.join(f).is_file());
    all.filter(is).collect()
}

/// The directories that hold a dump, of some checkouts and of the usual ones.
pub(super) fn backups(checkouts: &BTreeSet<PathBuf>) -> impl Iterator<Item = PathBuf> {
    let own = checkouts.iter().flat_map(|c| BACKUPS.iter().map(|name| c.join(name)));
    let all = own.chain(USUAL.iter().map(PathBuf::from));
    all.filter(|path| holds_dump(path))
}

fn holds_dump(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_file())).take(FILES);
    files.map(|e| e.path()).any(|path| {
        let bytes = files::small(&path).unwrap_or_default();
        let effort = Effort { verify: false, stop: &|| false, progress: &|_| {} };
        let size = bytes.len() as u64;
        let kinds = ["plain", "custom", "tar"];
        dumps::look(&mut Cursor::new(bytes), size, &effort)
            .is_ok_and(|dump| kinds.iter().any(|kind| dump.kind.starts_with(kind)))
    })
}

/// Names for paths, each once: that of the directory, or of the one above where it only says what it is.
pub(super) fn named(paths: &BTreeSet<PathBuf>) -> Vec<(String, &Path)> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut named = Vec::new();
    for path in paths {
        let says = |name: &str| !ENVIRONMENTS.contains(&name) && !BACKUPS.contains(&name);
        let parts = path.ancestors().filter_map(|p| p.file_name()?.to_str());
        let name = parts.clone().find(|n| says(n)).or(parts.clone().next()).unwrap_or("app");
        let allowed = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
        let name: String = name.chars().filter(|c| allowed(*c)).take(LONGEST).collect();
        let name = name.trim_start_matches(['.', '_', '-']);
        let name = if name.is_empty() { "app" } else { name };
        let more = (2..).map(|n| format!("{name}-{n}"));
        let mut free = std::iter::once(name.to_owned()).chain(more);
        if let Some(name) = free.find(|n| !names.contains(n)) {
            names.insert(name.clone());
            named.push((name, path.as_path()));
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_belongs_to_an_application_is_found_beside_it() {
        let dir = tempfile::tempdir().expect("directory");
        let app = dir.path().join("app");
        for path in [".venv/bin", "web", "other", "backups", "dumps"] {
            fs::create_dir_all(app.join(path)).expect("made");
        }
        for path in
            [".venv/pyvenv.cfg", "web/package.json", "web/pnpm-lock.yaml", "other/package.json"]
        {
            fs::write(app.join(path), "").expect("written");
        }
        fs::write(app.join("dumps/README"), "nothing here").expect("written");
        fs::write(app.join("backups/x"), "--\n-- PostgreSQL database dump\n--\n").expect("written");
        let program = app.join(".venv/bin/celery");
        assert_eq!(environment(program.to_str().expect("text")), Some(app.join(".venv")));
        assert_eq!(environment("/usr/bin/python3"), None);
        assert_eq!(environment("bin/python3"), None);
        assert_eq!(environments(&app).collect::<Vec<_>>(), [app.join(".venv")]);
        assert_eq!(frontends(&app), [app.join("web")]);
        let checkouts = BTreeSet::from([app.clone()]);
        let own = backups(&checkouts).filter(|p| p.starts_with(dir.path()));
        assert_eq!(own.collect::<Vec<_>>(), [app.join("backups")]);
    }

    #[test]
    fn every_path_has_a_name_of_its_own() {
        let paths = ["/opt/app/.venv", "/opt/app/venv", "/srv/my shop/backups", "/env", "/opt/web"];
        let paths: BTreeSet<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let names: Vec<_> = named(&paths).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["env", "app", "app-2", "web", "myshop"]);
    }
}
