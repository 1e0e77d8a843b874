//! What the host's owner allows. It bounds every controller and every operator.

use std::path::{Component, Path, PathBuf};

use globset::{Glob, GlobBuilder};
use hostler_proto::{
    args::masked,
    name::nearest,
    wire::{ErrorCode, Failure},
};
use serde::Deserialize;
use thiserror::Error;

/// The `[policy]` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Patterns of operations that are allowed.
    pub operations: Vec<String>,
    /// Patterns of operations that are not; this wins.
    pub deny: Vec<String>,
    /// Directories of which names, sizes and the like may be told.
    pub paths: Vec<PathBuf>,
    /// Directories whose files may be shown, beside the log files that the stack file names.
    pub logs: Vec<PathBuf>,
    /// Patterns of units that actions may change.
    pub units: Vec<String>,
    /// Patterns of URLs that may be requested; `*` matches no `/`, and `**` matches all.
    pub urls: Vec<String>,
    /// The file in which it stands, for those who are refused.
    #[serde(skip)]
    pub file: PathBuf,
    /// Where the agent keeps its key, which is never shown.
    #[serde(skip)]
    pub state_dir: PathBuf,
}

impl Default for Policy {
    fn default() -> Self {
        let any = || vec!["*".to_owned()];
        let paths = ["/var/log", "/srv", "/opt", "/home", "/var", "/tmp"];
        Self {
            operations: any(),
            deny: Vec::new(),
            paths: paths.iter().map(PathBuf::from).collect(),
            logs: vec![PathBuf::from("/var/log")],
            units: any(),
            urls: vec!["**".to_owned()],
            file: PathBuf::from(crate::config::STANDARD),
            state_dir: PathBuf::from(crate::config::STATE),
        }
    }
}

/// What means nothing. The agent does not run with it: in `deny` it would deny nothing.
#[derive(Debug, Error)]
pub enum InvalidPolicy {
    /// A pattern that cannot be read.
    #[error("policy.{key} holds \"{pattern}\", which is no pattern: {source}")]
    Pattern {
        /// The key.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// Why.
        source: globset::Error,
    },
    /// A pattern that fits no operation.
    #[error("policy.{key} holds \"{pattern}\", which fits no operation{hint}")]
    Fits {
        /// The key.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// What was probably meant.
        hint: String,
    },
    /// A directory that depends on where the agent was started.
    #[error("policy.{key} holds \"{}\", which is no absolute path", .path.display())]
    Relative {
        /// The key.
        key: &'static str,
        /// The path.
        path: PathBuf,
    },
}

impl Policy {
    /// Whether every pattern and path means something; `known` are the operations that there are.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn check(&self, known: &[&str]) -> Result<(), InvalidPolicy> {
        let lists = [
            ("operations", &self.operations),
            ("deny", &self.deny),
            ("units", &self.units),
            ("urls", &self.urls),
        ];
        for (key, patterns) in lists {
            for pattern in patterns {
                Glob::new(pattern).map_err(|source| {
                    let pattern = pattern.clone();
                    InvalidPolicy::Pattern { key, pattern, source }
                })?;
            }
        }
        for (key, patterns) in [("operations", &self.operations), ("deny", &self.deny)] {
            let fits =
                |p: &&String| known.iter().any(|name| any_matches(std::slice::from_ref(*p), name));
            if let Some(pattern) = patterns.iter().find(|p| !fits(p)) {
                let domains = known.iter().filter_map(|name| name.split_once('.'));
                let domains: Vec<String> =
                    domains.map(|(domain, _)| format!("{domain}.*")).collect();
                let all = known.iter().copied().chain(domains.iter().map(String::as_str));
                let meant = nearest(pattern, all);
                let hint = meant.map(|m| format!("; did you mean \"{m}\"?")).unwrap_or_default();
                return Err(InvalidPolicy::Fits { key, pattern: pattern.clone(), hint });
            }
        }
        for (key, paths) in [("paths", &self.paths), ("logs", &self.logs)] {
            if let Some(path) = paths.iter().find(|path| !path.is_absolute()) {
                return Err(InvalidPolicy::Relative { key, path: path.clone() });
            }
        }
        Ok(())
    }

    /// Whether an operation may be used here at all.
    ///
    /// # Errors
    /// When it may not.
    pub fn operation(&self, name: &str) -> Result<(), Failure> {
        let denied = any_matches(&self.deny, name) || !any_matches(&self.operations, name);
        if denied { Err(self.refused(name, "policy.operations or policy.deny")) } else { Ok(()) }
    }

    /// Whether actions may change a unit.
    ///
    /// # Errors
    /// When they may not.
    pub fn unit(&self, name: &str) -> Result<(), Failure> {
        match any_matches(&self.units, name) {
            true => Ok(()),
            false => Err(self.refused(&format!("to change {name}"), "policy.units")),
        }
    }

    /// Whether a URL may be requested.
    ///
    /// # Errors
    /// When it may not.
    pub fn url(&self, url: &str) -> Result<(), Failure> {
        // A `*` stays within a host's name or one part of the path.
        let matches = |p: &String| {
            let glob = GlobBuilder::new(p).literal_separator(true).build();
            glob.is_ok_and(|g| g.compile_matcher().is_match(url))
        };
        match self.urls.iter().any(matches) {
            true => Ok(()),
            false => Err(self.refused(&format!("to request {}", masked(url)), "policy.urls")),
        }
    }

    /// What a path really means, as the allowed directory that it lies beneath and the rest; no
    /// part of either is a link. Blocks on the disk.
    ///
    /// # Errors
    /// When it does not exist, or a link or `..` leads out of what is allowed.
    pub fn beneath(&self, path: &Path) -> Result<(PathBuf, PathBuf), Failure> {
        let outside = || self.refused(&format!("to read {}", path.display()), "policy.paths");
        let real = resolved(path, &self.paths).unwrap_or_else(|| Err(outside()))?;
        below(&real, &self.paths).ok_or_else(outside)
    }

    /// The directory that is really meant, when it lies beneath an allowed one. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Policy::beneath`].
    pub fn directory(&self, path: &Path) -> Result<PathBuf, Failure> {
        let (root, rest) = self.beneath(path)?;
        Ok(if rest.as_os_str().is_empty() { root } else { root.join(rest) })
    }

    /// The refusal of what a key of this policy does not allow.
    pub(crate) fn refused(&self, what: &str, key: &str) -> Failure {
        let message = format!("this host's policy does not allow {what}");
        let file = self.file.display();
        Failure::new(ErrorCode::PermissionDenied, message)
            .hint(format!("the host's owner can allow it with {key} in {file}"))
    }
}

/// What a path really means. None when that is not there and lies beneath none of `known`: it is then
/// refused in the same words as what is there. Blocks on the disk.
pub(crate) fn resolved(path: &Path, known: &[PathBuf]) -> Option<Result<PathBuf, Failure>> {
    let shown = path.display();
    if path.components().any(|c| c == Component::ParentDir) {
        let message = format!("{shown} holds \"..\"");
        return Some(Err(Failure::new(ErrorCode::InvalidArgument, message)));
    }
    match path.canonicalize() {
        Ok(real) => Some(Ok(real)),
        Err(error) => known.iter().any(|k| path.starts_with(k)).then(|| {
            let message = format!("{shown} cannot be looked at: {error}");
            Err(Failure::new(ErrorCode::NotFound, message))
        }),
    }
}

/// The directory of those beneath which a path without links lies, and the rest. Blocks on the disk.
pub(crate) fn below(real: &Path, roots: &[PathBuf]) -> Option<(PathBuf, PathBuf)> {
    let mut roots = roots.iter().filter_map(|root| root.canonicalize().ok());
    roots.find_map(|root| Some((root.clone(), real.strip_prefix(&root).ok()?.to_owned())))
}

/// Whether one of the patterns, all of which were checked, matches.
fn any_matches(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|p| Glob::new(p).is_ok_and(|g| g.compile_matcher().is_match(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_stays_denied_whatever_else_is_allowed() {
        let policy = Policy { deny: vec!["systemd.st*".into()], ..Policy::default() };
        assert!(policy.operation("systemd.restart").is_ok());
        assert!(policy.operation("systemd.stop").is_err());
        let slip = Policy { deny: vec!["[".into()], ..Policy::default() };
        let known = ["host.facts", "systemd.stop"];
        assert!(slip.check(&known).expect_err("no pattern").to_string().contains("policy.deny"));
        let narrow = Policy { operations: vec!["host.*".into()], ..Policy::default() };
        assert!(narrow.check(&known).is_ok());
        assert!(narrow.operation("host.facts").is_ok());
        assert!(narrow.operation("disk.usage").is_err());
    }

    #[test]
    fn what_denies_or_allows_nothing_by_a_slip_is_refused_with_what_was_meant() {
        let known = ["host.facts", "systemd.start", "systemd.stop"];
        let said = |policy: Policy| policy.check(&known).expect_err("a slip").to_string();
        let deny = |pattern: &str| Policy { deny: vec![pattern.into()], ..Policy::default() };
        assert!(said(deny("systemd.stpo")).contains("did you mean \"systemd.stop\"?"));
        assert!(said(deny("sytemd.*")).contains("did you mean \"systemd.*\"?"));
        assert!(said(deny("")).contains("fits no operation"));
        let operations = Policy { operations: vec!["hosts.facts".into()], ..Policy::default() };
        assert!(said(operations).contains("policy.operations"));
        for (key, policy) in [
            ("paths", Policy { paths: vec!["relative".into()], ..Policy::default() }),
            ("logs", Policy { logs: vec!["log".into()], ..Policy::default() }),
        ] {
            assert!(said(policy).contains(&format!("policy.{key}")), "{key}");
        }
        assert!(Policy::default().check(&known).is_ok());
    }

    #[test]
    fn a_link_that_leads_out_of_the_allowed_directories_is_not_followed() {
        let dir = tempfile::tempdir().expect("directory");
        let inside = dir.path().canonicalize().expect("real").join("inside");
        std::fs::create_dir(&inside).expect("made");
        let policy = Policy { paths: vec![inside.clone()], ..Policy::default() };
        assert_eq!(policy.directory(&inside).expect("inside"), inside);
        std::os::unix::fs::symlink("/etc", inside.join("out")).expect("link");
        assert!(policy.directory(&inside.join("out")).is_err());
        assert!(policy.directory(&inside.join("../inside")).is_err());
    }
}
