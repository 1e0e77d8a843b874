//! Who may do what, on which host. The only place that decides it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use globset::{Glob, GlobMatcher};
use hostler_core::identity::PrincipalName;
use hostler_proto::{
    catalogue::{Catalogue, OperationSpec},
    name::HostName,
    wire::{self, Effect, ErrorCode, Failure},
};
use thiserror::Error;

use crate::selector::Selector;

/// What an operator is trusted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Acts, too.
    Operator,
    /// Says who may do what, too.
    Admin,
}

impl Role {
    /// What stands before it.
    pub fn article(self) -> &'static str {
        match self {
            Self::Viewer => "a",
            Self::Operator | Self::Admin => "an",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// A text is no role.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is no role; use viewer, operator or admin")]
pub struct InvalidRole(String);

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            other => Err(InvalidRole(other.chars().take(40).collect())),
        }
    }
}

impl TryFrom<wire::Role> for Role {
    type Error = InvalidRole;

    fn try_from(role: wire::Role) -> Result<Self, Self::Error> {
        match role {
            wire::Role::Viewer => Ok(Self::Viewer),
            wire::Role::Operator => Ok(Self::Operator),
            wire::Role::Admin => Ok(Self::Admin),
            wire::Role::Unspecified => Err(InvalidRole(String::new())),
        }
    }
}

impl From<Role> for wire::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
            Role::Admin => Self::Admin,
        }
    }
}

/// The operations that somebody may ask for, by patterns (`systemd.*`); without any it is all of them.
#[derive(Debug, Clone, Default)]
pub struct Operations(Vec<GlobMatcher>);

/// A text names no operations.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is no pattern of operations; write for example systemd.* or redis.status")]
pub struct InvalidOperations(String);

impl Operations {
    fn allow(&self, operation: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.is_match(operation))
    }

    /// The first pattern that no operation fits: most likely it is a slip.
    pub fn without_any(&self) -> Option<&str> {
        let fits = |p: &&GlobMatcher| Catalogue::names().any(|name| p.is_match(name));
        self.0.iter().find(|p| !fits(p)).map(|p| p.glob().glob())
    }
}

impl FromStr for Operations {
    type Err = InvalidOperations;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let patterns = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        let read = |pattern: &str| match Glob::new(pattern) {
            Ok(glob) => Ok(glob.compile_matcher()),
            Err(_) => Err(InvalidOperations(pattern.chars().take(80).collect())),
        };
        patterns.map(read).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns: Vec<_> = self.0.iter().map(|p| p.glob().glob()).collect();
        f.pad(&patterns.join(","))
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The name in the certificate.
    pub name: PrincipalName,
    /// What it is trusted with.
    pub role: Role,
    /// On which hosts; none is all.
    pub scope: Option<Selector>,
    /// By which operations.
    pub operations: Operations,
}

/// A host, as far as selectors and this file look at it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a HostName,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its facts.
    pub facts: &'a BTreeMap<String, String>,
    /// "up", "down", "never", "revoked".
    pub state: &'a str,
    /// How its checks stand, by their names; empty where nobody asks for that.
    pub health: &'a BTreeMap<String, String>,
}

impl Candidate<'_> {
    /// A label, a fact (`fact.NAME`) or the state.
    pub fn get(&self, key: &str) -> Option<&str> {
        match (key, key.strip_prefix("fact.")) {
            ("state", _) => Some(self.state),
            (_, Some(fact)) => self.facts.get(fact).map(String::as_str),
            (label, None) => self.labels.get(label).map(String::as_str),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// An operation on a host.
    Operation {
        /// Which.
        spec: &'a OperationSpec,
        /// Only to show what it would do.
        plan: bool,
    },
    /// To see hosts, the fleet's state, the audit.
    Look,
    /// To say that somebody knows of a host's problems, or that they are expected.
    Silence,
    /// To end a downtime that covers no host now.
    EndDowntime {
        /// It is the caller's own.
        own: bool,
    },
    /// To end what runs.
    Cancel,
    /// To change labels, tokens, operators, hosts.
    Administer,
}

/// It was permitted. Nothing but [`authorise`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Permit(());

/// It was not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{caller}, {} {role}, may not {what}", role.article())]
pub struct Denied {
    caller: PrincipalName,
    role: Role,
    what: String,
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Failure::new(ErrorCode::PermissionDenied, denied.to_string())
            .hint("an admin can say what you may: hostlerctl operator list")
    }
}

/// Decides. An operation needs its host; everything else concerns the fleet.
///
/// # Errors
/// When it is not permitted.
pub fn authorise(
    caller: &Caller,
    what: What<'_>,
    host: Option<&Candidate<'_>>,
) -> Result<Permit, Denied> {
    let denied = |what: String| Denied { caller: caller.name.clone(), role: caller.role, what };
    let needs = match what {
        What::Look => Role::Viewer,
        What::Cancel | What::Silence | What::EndDowntime { .. } => Role::Operator,
        What::Administer => Role::Admin,
        What::Operation { plan: true, .. } => Role::Viewer,
        What::Operation { spec, plan: false } => match spec.effect {
            Effect::Read => Role::Viewer,
            Effect::Safe | Effect::Disruptive | Effect::Destructive => Role::Operator,
            Effect::Unspecified => Role::Admin,
        },
    };
    let (described, in_scope) = match (what, host) {
        (What::Operation { spec, .. }, Some(host)) => {
            let within = caller.scope.as_ref().is_none_or(|scope| scope.matches(host))
                && caller.operations.allow(&spec.name);
            (format!("use {} on {}", spec.name, host.name), within)
        }
        // An operation without a host is nobody's.
        (What::Operation { spec, .. }, None) => (format!("use {}", spec.name), false),
        (What::Silence, Some(host)) => {
            let within = caller.scope.as_ref().is_none_or(|scope| scope.matches(host));
            (format!("silence problems of {}", host.name), within)
        }
        (What::Silence, None) => ("silence problems".to_owned(), false),
        (What::EndDowntime { own }, _) => {
            let what = if own { "end a downtime" } else { "end a downtime that another made" };
            (what.to_owned(), own || caller.scope.is_none())
        }
        (What::Look, _) => ("look at the fleet".to_owned(), true),
        (What::Cancel, _) => ("end what runs".to_owned(), true),
        (What::Administer, _) => ("change hosts, tokens or operators".to_owned(), true),
    };
    match caller.role >= needs && in_scope {
        true => Ok(Permit(())),
        false => Err(denied(described)),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use hostler_proto::catalogue::Catalogue;

    use super::*;

    #[test]
    fn patterns_of_operations_are_kept_as_they_are_written_and_slips_are_found() {
        let read = |text: &str| text.parse::<Operations>().expect(text);
        assert_eq!(read(" redis.status, systemd.* ").to_string(), "redis.status,systemd.*");
        assert_eq!(read("redis.status,systemd.*").without_any(), None);
        assert_eq!(read("systemd.stpo").without_any(), Some("systemd.stpo"));
        assert!(read("").allow("host.facts") && !read("systemd.*").allow("host.facts"));
        assert!("[".parse::<Operations>().is_err());
    }

    #[test]
    fn a_denial_says_who_somebody_is_in_plain_words() {
        for (role, said) in [
            (Role::Viewer, "carol, a viewer, may not silence problems"),
            (Role::Operator, "carol, an operator, may not silence problems"),
        ] {
            let (name, operations) = ("carol".parse().expect("name"), Operations::default());
            let caller = Caller { name, role, scope: None, operations };
            let denied = authorise(&caller, What::Silence, None).expect_err("without a host");
            assert_eq!(denied.to_string(), said);
        }
    }

    /// Role × what × host, reviewed as text: `UPDATE_GOLDEN=1 cargo test` writes it anew.
    #[test]
    fn the_matrix_of_permissions_is_the_reviewed_one() {
        let (facts, name) = (BTreeMap::new(), "h".parse().expect("name"));
        let labels = |role: &str| BTreeMap::from([("role".to_owned(), role.to_owned())]);
        let (inside, outside) = (labels("web"), labels("db"));
        let mut matrix = String::from(
            "# what: viewer operator admin, each limited to role=web, and an operator of systemd.*\n",
        );
        let mut line = |what: &str, asked: What<'_>, labels: Option<&BTreeMap<String, String>>| {
            write!(matrix, "{what}:").expect("text");
            let callers = [
                (Role::Viewer, ""),
                (Role::Operator, ""),
                (Role::Admin, ""),
                (Role::Operator, "systemd.*"),
            ];
            for (role, operations) in callers {
                let name_of = "a".parse().expect("name");
                let scope = Some("role=web".parse().expect("selector"));
                let operations = operations.parse().expect("patterns");
                let caller = Caller { name: name_of, role, scope, operations };
                let host = labels.map(|labels| Candidate {
                    name: &name,
                    labels,
                    facts: &facts,
                    state: "up",
                    health: &facts,
                });
                let may = authorise(&caller, asked, host.as_ref()).is_ok();
                write!(matrix, " {}", if may { "yes" } else { "no" }).expect("text");
            }
            matrix.push('\n');
        };
        line("look", What::Look, None);
        line("cancel", What::Cancel, None);
        line("administer", What::Administer, None);
        line("silence inside", What::Silence, Some(&inside));
        line("silence outside", What::Silence, Some(&outside));
        line("silence nowhere", What::Silence, None);
        line("end own downtime", What::EndDowntime { own: true }, None);
        line("end another's downtime", What::EndDowntime { own: false }, None);
        for spec in Catalogue::embedded().all().expect("a catalogue") {
            for (place, labels) in [("inside", &inside), ("outside", &outside)] {
                let name = format!("{} {place}", spec.name);
                line(&name, What::Operation { spec, plan: false }, Some(labels));
            }
            let name = format!("{} plan inside", spec.name);
            line(&name, What::Operation { spec, plan: true }, Some(&inside));
            line(&format!("{} nowhere", spec.name), What::Operation { spec, plan: false }, None);
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/authz_matrix.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &matrix).expect("written");
        }
        assert_eq!(matrix, std::fs::read_to_string(path).expect("the reviewed matrix"));
    }
}
