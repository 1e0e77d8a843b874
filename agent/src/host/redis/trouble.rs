//! Why a Redis server does not do what it is asked, and what to do about it.

use std::fmt;

use hostler_proto::wire::{ErrorCode, Failure};
use redis::RedisError;

use crate::host::why::{innermost, own_fault, untrusted};

/// Why a server does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers there.
    Unreachable(String),
    /// Nothing comes back from there.
    Silent(String),
    /// It takes connections, and answers nothing.
    Hung(String),
    /// It takes connections, and ends them at the first word.
    Ended(String),
    /// Its certificate does not show that it is the one.
    Untrusted(String),
    /// It does not let us in: no password, a wrong one, no such user.
    Denied(String),
    /// It has as many clients as it takes.
    Full(String),
    /// It let us in, and does not allow this.
    Forbidden(String),
    /// It reads its data and answers later.
    Loading,
    /// It answers with an error.
    Refused(String),
    /// What the stack file says cannot be used.
    Stack(String),
    /// Nobody waits for the answer any more.
    Cancelled,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Silent(why) | Self::Hung(why) => {
                write!(f, "does not answer: {why}")
            }
            Self::Ended(why) => write!(f, "takes connections and ends them: {why}"),
            Self::Untrusted(why) => write!(f, "is not trusted: {why}"),
            Self::Denied(why) => write!(f, "does not let the agent in: {why}"),
            Self::Full(why) => write!(f, "has no free connection: {why}"),
            Self::Forbidden(why) => write!(f, "does not allow this to the agent: {why}"),
            Self::Loading => f.write_str("still loads its data and serves nobody"),
            Self::Refused(why) => write!(f, "answers with an error: {why}"),
            Self::Stack(why) => write!(f, "cannot be asked: {why}"),
            Self::Cancelled => f.write_str("was not heard to the end: the operation was cancelled"),
        }
    }
}

impl Trouble {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Silent(_) => {
                "see whether it runs, in its unit and at its address"
            }
            Self::Hung(_) => {
                "it hangs, is stopped by a signal, or one command keeps it from all others"
            }
            Self::Ended(_) => {
                "it is ending, or it takes TLS only: then name it with rediss:// in the url of its [[redis]]"
            }
            Self::Untrusted(_) => {
                "clients that check its certificate refuse it as well; where none does, it is ca_file, or \
                 the host in the url, of its [[redis]]"
            }
            Self::Denied(_) => {
                "look at username and password_file of its [[redis]] in the stack file"
            }
            Self::Full(_) => {
                "new clients are turned away: on the host `ss -tnp` shows who holds its connections; \
                 a pool in that program, or more maxclients, keeps it from coming back"
            }
            Self::Forbidden(_) => "docs/checks.md has the ACL that the agent needs",
            Self::Loading => "wait until it has; its log says how far it is",
            Self::Refused(_) => "look at the server's log",
            Self::Stack(_) => "look at its [[redis]] in the stack file",
            Self::Cancelled => "ask again",
        }
    }

    /// The failure of an operation that cannot go on.
    pub fn failure(&self, server: &str) -> Failure {
        let code = match self {
            Self::Unreachable(_)
            | Self::Silent(_)
            | Self::Hung(_)
            | Self::Ended(_)
            | Self::Untrusted(_)
            | Self::Loading
            | Self::Full(_) => ErrorCode::Unreachable,
            // It is not the policy that forbids it: what the server is told of the agent is to be mended.
            Self::Denied(_) | Self::Forbidden(_) | Self::Stack(_) => ErrorCode::PreconditionFailed,
            Self::Refused(_) => ErrorCode::HostFault,
            Self::Cancelled => ErrorCode::Cancelled,
        };
        Failure::new(code, format!("redis \"{server}\" {self}")).hint(self.hint())
    }
}

/// How a server begins that has as many clients as it takes.
const FULL: &str = "max number of clients";

/// How one begins that has no password, and takes nobody who comes from elsewhere.
const PROTECTED: &str = "DENIED";

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        // Of many questions the first refusal counts; together they have no code.
        let refusals = error.clone().into_server_errors();
        if let Some((_, first)) = refusals.as_deref().and_then(<[_]>::first) {
            return Self::refused(first.code(), first.details());
        }
        if let Some(code) = error.code() {
            return Self::refused(code, error.detail());
        }
        let said = || error.detail().map_or_else(|| error.to_string(), ToOwned::to_owned);
        if error.is_timeout() {
            return Self::Hung("it takes connections, and gave no answer in time".to_owned());
        }
        match error.kind() {
            redis::ErrorKind::AuthenticationFailed => Self::Denied(said()),
            redis::ErrorKind::InvalidClientConfig => Self::Stack(said()),
            _ if error.is_io_error() => {
                let why = innermost(&error);
                match own_fault(&why) {
                    Some(fault) => Self::Stack(fault.to_owned()),
                    None if untrusted(&why) => Self::Untrusted(why),
                    None => Self::Unreachable(why),
                }
            }
            _ => Self::Refused(said()),
        }
    }
}

impl Trouble {
    /// What a server says to whoever it does not take, without having been asked.
    pub(super) fn of_stranger(said: &str) -> Option<Self> {
        match said.split_once(' ') {
            Some((PROTECTED, detail)) => Some(Self::protected(detail)),
            _ => said.contains(FULL).then(|| Self::Full(said.to_owned())),
        }
    }

    /// Whether it takes nobody who comes from elsewhere.
    pub fn is_protected(&self) -> bool {
        matches!(self, Self::Denied(said) if said.starts_with(PROTECTED))
    }

    fn protected(detail: &str) -> Self {
        // A page of advice follows.
        let said = detail.split(" because ").next().unwrap_or_default();
        Self::Denied(format!("{PROTECTED} {said}"))
    }

    /// What a server's own no means.
    fn refused(code: &str, detail: Option<&str>) -> Self {
        let said = detail.map_or_else(|| code.to_owned(), |detail| format!("{code} {detail}"));
        match (code, detail.unwrap_or_default()) {
            ("NOAUTH" | "WRONGPASS", _) => Self::Denied(said),
            (PROTECTED, detail) => Self::protected(detail),
            ("NOPERM", _) => Self::Forbidden(said),
            ("LOADING", _) => Self::Loading,
            (_, detail) if detail.starts_with(FULL) => Self::Full(said),
            // The library gives the refusal of a database no code of its own.
            (_, detail) if detail.starts_with("Authentication required") => Self::Denied(said),
            (_, detail) if detail.contains("has no permissions") => Self::Forbidden(said),
            (_, detail) if detail.starts_with("DB index is out of range") => Self::Stack(said),
            _ => Self::Refused(said),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_refuses_the_agent_is_not_taken_for_the_hosts_policy() {
        let said = "WRONGPASS invalid username-password pair".to_owned();
        for trouble in [Trouble::Denied(said.clone()), Trouble::Forbidden(said)] {
            let failure = trouble.failure("main");
            assert_eq!(failure.code(), ErrorCode::PreconditionFailed, "{failure}");
            assert!(!failure.hint.is_empty());
        }
    }

    #[test]
    fn a_database_that_is_refused_is_told_from_a_server_that_fails() {
        let of = |said: &str| {
            let kind = redis::ServerErrorKind::ResponseError.into();
            let refused = "Redis server refused to switch database";
            Trouble::from(RedisError::from((kind, refused, said.to_owned())))
        };
        let acl = "User hostler has no permissions to run the 'select' command";
        assert!(matches!(of(acl), Trouble::Forbidden(said) if said.ends_with(acl)));
        assert!(matches!(of("DB index is out of range"), Trouble::Stack(_)));
        assert!(matches!(of("SELECT is not allowed in cluster mode"), Trouble::Refused(_)));
    }
}
