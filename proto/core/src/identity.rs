//! Who a peer is. The name stands in its certificate as the only URI: `spiffe://FLEET/ROLE/NAME`.

use std::{fmt, str::FromStr};

use hostler_proto::name::HostName;
use thiserror::Error;

/// Why a text is no identity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{text}\" is no identity of a fleet: {problem}")]
pub struct InvalidIdentity {
    text: String,
    problem: &'static str,
}

/// The name of a fleet: 1 to 63 of a-z, 0-9, '-', '.', beginning and ending with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FleetName(String);

impl FromStr for FleetName {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match is_name(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(invalid(text, "a fleet's name has 1 to 63 of a-z, 0-9, '-' and '.'")),
        }
    }
}

impl fmt::Display for FleetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The name of an operator or a controller, with the same letters as a fleet's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrincipalName(String);

impl FromStr for PrincipalName {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match is_name(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(invalid(text, "a name has 1 to 63 of a-z, 0-9, '-' and '.'")),
        }
    }
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a peer is to the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The agent of the host of that name.
    Agent(HostName),
    /// A controller.
    Controller(PrincipalName),
    /// A person, or a program that acts for one.
    Operator(PrincipalName),
}

/// A member of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The fleet that vouches for it.
    pub fleet: FleetName,
    /// What it is there.
    pub principal: Principal,
}

impl Identity {
    /// The agent of a host.
    pub fn agent(fleet: &FleetName, host: HostName) -> Self {
        Self { fleet: fleet.clone(), principal: Principal::Agent(host) }
    }

    /// A controller.
    pub fn controller(fleet: &FleetName, name: PrincipalName) -> Self {
        Self { fleet: fleet.clone(), principal: Principal::Controller(name) }
    }

    /// An operator.
    pub fn operator(fleet: &FleetName, name: PrincipalName) -> Self {
        Self { fleet: fleet.clone(), principal: Principal::Operator(name) }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (role, name): (_, &dyn fmt::Display) = match &self.principal {
            Principal::Agent(host) => ("agent", host),
            Principal::Controller(name) => ("controller", name),
            Principal::Operator(name) => ("operator", name),
        };
        write!(f, "spiffe://{}/{role}/{name}", self.fleet)
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form =
            || invalid(text, "it has the form spiffe://FLEET/agent|controller|operator/NAME");
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let mut parts = rest.splitn(3, '/');
        let (Some(fleet), Some(role), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        let fleet: FleetName = fleet.parse()?;
        let principal = match role {
            "agent" => Principal::Agent(name.parse().map_err(|_| form())?),
            "controller" => Principal::Controller(name.parse()?),
            "operator" => Principal::Operator(name.parse()?),
            _ => return Err(form()),
        };
        Ok(Self { fleet, principal })
    }
}

fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| inner(b) || b == b'-' || b == b'.')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

fn invalid(text: &str, problem: &'static str) -> InvalidIdentity {
    InvalidIdentity { text: text.chars().take(120).collect(), problem }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_identity_prints_as_the_uri_that_it_is_read_from() {
        for uri in [
            "spiffe://prod/agent/web-1.example.org",
            "spiffe://prod/controller/main",
            "spiffe://eu.prod/operator/alice",
        ] {
            assert_eq!(uri.parse::<Identity>().expect(uri).to_string(), uri);
        }
    }

    #[test]
    fn what_is_almost_an_identity_is_none() {
        for uri in [
            "",
            "spiffe://prod",
            "spiffe://prod/agent",
            "spiffe://prod/agent/",
            "spiffe://prod/agent/a/b",
            "spiffe://prod/root/a",
            "spiffe:///agent/a",
            "https://prod/agent/a",
            "spiffe://Prod/agent/a",
            "spiffe://prod/agent/all",
            "spiffe://prod/operator/a b",
            "spiffe://prod/operator/a?x=1",
            "spiffe://prod:1/agent/a",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri}");
        }
    }

    proptest! {
        #[test]
        fn every_text_is_an_identity_that_prints_the_same_or_none(text in "(spiffe://)?[a-z/.-]{0,20}|\\PC*") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }
}
