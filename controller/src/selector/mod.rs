//! Which hosts are meant. One grammar wherever hosts are named:
//!
//! ```text
//! all                                every host that is not revoked, and only by this word
//! web-1    web-1,web-2    web-*      a name, names, a pattern
//! role=db  role!=db  env in (a,b)    labels; fact.os_id=debian asks for a fact
//! has(canary)  !canary               a label is there, is not there
//! state=down                         up, down, stopped, unreachable, never, revoked
//! check(disk)=critical               ok, warning, critical, unknown; check(http:*)!=ok
//! a and (b or not c)
//! ```

mod parse;

use std::{collections::HashSet, fmt, str::FromStr};

use globset::{Glob, GlobMatcher};
use hostler_proto::name::{HostName, nearest};

pub use self::parse::InvalidSelector;
use crate::authz::Candidate;

/// States of a host that is away, where it is known why.
const STOPPED: &str = "stopped";
const UNREACHABLE: &str = "unreachable";

/// A selector that was understood.
#[derive(Debug, Clone)]
pub struct Selector(Expr);

#[derive(Debug, Clone)]
enum Expr {
    All,
    Name(HostName),
    Pattern(Pattern),
    Is { key: String, values: Vec<String> },
    Has(String),
    Check { name: Pattern, statuses: Vec<String> },
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    matcher: GlobMatcher,
}

impl Pattern {
    fn new(text: &str) -> Option<Self> {
        let matcher = Glob::new(text).ok()?.compile_matcher();
        Some(Self { text: text.to_owned(), matcher })
    }
}

impl Selector {
    /// Reads one that was understood before, and printed: what people may type is bounded, and what
    /// is printed of it is longer.
    ///
    /// # Errors
    /// When it was not printed by a controller.
    pub fn printed(text: &str) -> Result<Self, InvalidSelector> {
        parse::parse_printed(text).map(Self)
    }

    /// The hosts that are meant by both.
    #[must_use]
    pub fn within(self, other: &Self) -> Self {
        match self.to_string() == other.to_string() {
            true => self,
            false => Self(Expr::And(vec![self.0, other.0.clone()])),
        }
    }

    /// Whether a host is meant.
    pub fn matches(&self, host: &Candidate<'_>) -> bool {
        self.0.matches(host)
    }

    /// Whether a revoked host can be meant: it is named, or hosts are chosen by their state.
    pub fn asks_for_revoked(&self, host: &HostName) -> bool {
        self.0.mentions(&|expr| match expr {
            Expr::Name(name) => name == host,
            Expr::Is { key, .. } => key == "state",
            _ => false,
        })
    }

    /// Whether it depends on how checks stand.
    pub fn asks_for_health(&self) -> bool {
        self.0.mentions(&|expr| matches!(expr, Expr::Check { .. }))
    }

    /// Whether it depends on why hosts are away.
    pub fn asks_for_absence(&self) -> bool {
        let asks = |value: &String| [STOPPED, UNREACHABLE].contains(&value.as_str());
        self.0.mentions(
            &|expr| matches!(expr, Expr::Is { key, values } if key == "state" && values.iter().any(asks)),
        )
    }

    /// What of the moment is, for those to whom it is refused.
    pub const OF_THE_MOMENT: &str = "no check(…), and no state=…";

    /// Whether it depends on what changes by itself, so that nothing lasting can be said with it.
    pub fn is_of_the_moment(&self) -> bool {
        let state =
            |expr: &Expr| matches!(expr, Expr::Is { key, .. } | Expr::Has(key) if key == "state");
        self.asks_for_health() || self.0.mentions(&state)
    }

    /// A sentence for the first host that is named and does not exist.
    pub fn unknown_name<'a>(
        &self,
        known: impl Iterator<Item = &'a HostName> + Clone,
    ) -> Option<String> {
        let mut named = Vec::new();
        self.0.names(&mut named);
        if named.is_empty() {
            return None;
        }
        let all: HashSet<_> = known.clone().collect();
        let name = named.into_iter().find(|name| !all.contains(*name))?;
        let meant = nearest(name.as_str(), known.map(HostName::as_str));
        let guess = meant.map(|n| format!("; did you mean {n}?")).unwrap_or_default();
        Some(format!("there is no host {name}{guess}"))
    }
}

impl Expr {
    fn matches(&self, host: &Candidate<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Name(name) => name == host.name,
            Self::Pattern(pattern) => pattern.matcher.is_match(host.name.as_str()),
            Self::Is { key, values } => host.get(key).is_some_and(|value| {
                let away = key == "state" && [STOPPED, UNREACHABLE].contains(&value);
                values.iter().any(|v| v == value || away && v == "down")
            }),
            Self::Has(key) => host.get(key).is_some(),
            Self::Check { name, statuses } => host
                .health
                .iter()
                .any(|(check, status)| statuses.contains(status) && name.matcher.is_match(check)),
            Self::Not(inner) => !inner.matches(host),
            Self::And(all) => all.iter().all(|e| e.matches(host)),
            Self::Or(any) => any.iter().any(|e| e.matches(host)),
        }
    }

    fn mentions(&self, wanted: &dyn Fn(&Self) -> bool) -> bool {
        wanted(self)
            || match self {
                Self::Not(inner) => inner.mentions(wanted),
                Self::And(list) | Self::Or(list) => list.iter().any(|e| e.mentions(wanted)),
                _ => false,
            }
    }

    fn names<'a>(&'a self, into: &mut Vec<&'a HostName>) {
        match self {
            Self::Name(name) => into.push(name),
            Self::Not(inner) => inner.names(into),
            Self::And(list) | Self::Or(list) => list.iter().for_each(|e| e.names(into)),
            Self::All | Self::Pattern(_) | Self::Is { .. } | Self::Has(_) | Self::Check { .. } => {}
        }
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse::parse(text).map(Self)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Every compound stands in parentheses: what is printed is read back as the same.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, parts: &[Self], word: &str| {
            f.write_str("(")?;
            for (i, part) in parts.iter().enumerate() {
                if i > 0 {
                    write!(f, " {word} ")?;
                }
                part.fmt(f)?;
            }
            f.write_str(")")
        };
        match self {
            Self::All => f.write_str("all"),
            Self::Name(name) => name.fmt(f),
            Self::Pattern(pattern) => f.write_str(&pattern.text),
            Self::Is { key, values } => match values.as_slice() {
                [value] => write!(f, "{key}={value}"),
                values => write!(f, "{key} in ({})", values.join(",")),
            },
            Self::Has(key) => write!(f, "has({key})"),
            Self::Check { name, statuses } => match statuses.as_slice() {
                [status] => write!(f, "check({})={status}", name.text),
                many => write!(f, "check({}) in ({})", name.text, many.join(",")),
            },
            Self::Not(inner) => write!(f, "not ({inner})"),
            Self::And(parts) => list(f, parts, "and"),
            Self::Or(parts) => list(f, parts, "or"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn matching(selector: &str) -> Vec<String> {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let hosts = [
            ("web-1", map(&[("role", "web"), ("env", "prod")]), "up"),
            ("web-2", map(&[("role", "web"), ("env", "stage"), ("canary", "yes")]), "stopped"),
            ("db-1", map(&[("role", "db"), ("env", "prod")]), "up"),
        ];
        let facts = map(&[("os_id", "debian")]);
        let selector: Selector = selector.parse().expect(selector);
        let hosts = hosts.iter().filter(|(name, labels, state)| {
            let name = name.parse().expect("name");
            let disk = if *state == "up" { "critical" } else { "unknown" };
            let health = map(&[("disk", disk), ("http:backend", "ok")]);
            let (facts, health) = (&facts, &health);
            selector.matches(&Candidate { name: &name, labels, facts, state, health })
        });
        hosts.map(|(name, ..)| (*name).to_owned()).collect()
    }

    #[test]
    fn every_form_of_the_grammar_selects_what_it_says() {
        for (selector, expected) in [
            ("all", "web-1 web-2 db-1"),
            ("web-1", "web-1"),
            ("web-1,db-1", "web-1 db-1"),
            ("web-*", "web-1 web-2"),
            ("role=db", "db-1"),
            ("role!=db", "web-1 web-2"),
            ("env in (prod,stage) and role=web", "web-1 web-2"),
            ("has(canary)", "web-2"),
            ("!canary", "web-1 db-1"),
            ("state=down", "web-2"),
            ("state=stopped", "web-2"),
            ("state in (unreachable,stopped)", "web-2"),
            ("state=unreachable", ""),
            ("state!=down", "web-1 db-1"),
            ("*-* and ?b-1", "db-1"),
            ("check(disk)=critical", "web-1 db-1"),
            ("check(disk)!=critical and web-*", "web-2"),
            ("check(http:*) in (warning,ok) and role=db", "db-1"),
            ("check(nothing)!=ok", ""),
            ("fact.os_id=debian and not web-*", "db-1"),
            ("role=db or role=web and state=up", "web-1 db-1"),
            ("(role=db or role=web) and state=down", "web-2"),
        ] {
            assert_eq!(matching(selector).join(" "), expected, "{selector}");
        }
    }

    #[test]
    fn what_lies_within_itself_is_said_once() {
        let of = |text: &str| text.parse::<Selector>().expect(text);
        assert_eq!(of("role=db").within(&of("role=db")).to_string(), of("role=db").to_string());
        assert_ne!(of("role=web").within(&of("role=db")).to_string(), of("role=web").to_string());
    }

    #[test]
    fn what_is_wrong_is_shown_where_it_is() {
        for (text, problem) in [
            ("", "nothing is selected"),
            ("*", "write \"all\""),
            ("**", "write \"all\""),
            ("?*", "write \"all\""),
            ("web-1 or not *?", "column 14: write \"all\""),
            ("role=", "column 6"),
            ("(web-1", "column 7"),
            ("web-1 web-2", "column 7"),
            ("Web", "column 1"),
            ("state=dwon", "did you mean down"),
            ("state=stoped", "did you mean stopped"),
            ("web-1 and", "column 10"),
        ] {
            let error = text.parse::<Selector>().expect_err(text).to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let deep = "(".repeat(100_000);
        assert!(deep.parse::<Selector>().is_err());
        assert!("not ".repeat(10_000).parse::<Selector>().is_err());
    }

    #[test]
    fn a_named_host_that_does_not_exist_is_told_with_the_one_that_was_meant() {
        let known: Vec<HostName> = vec!["web-1".parse().expect("name")];
        let selector: Selector = "web-l or db-*".parse().expect("selector");
        assert_eq!(
            selector.unknown_name(known.iter()).expect("unknown"),
            "there is no host web-l; did you mean web-1?"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_and_what_it_reads_it_prints(
            text in "(all|web-1|web-\\*|\\*\\?|state=stopped|a=b|a!=b|a in \\(b,c\\)|!x|has\\(x\\)|not |and|or|\\(|\\)|,| ){0,12}|\\PC{0,30}"
        ) {
            if let Ok(selector) = text.parse::<Selector>() {
                let printed = selector.to_string();
                let again = Selector::printed(&printed);
                prop_assert_eq!(again.map(|s| s.to_string()).ok(), Some(printed));
            }
        }

        #[test]
        fn what_was_understood_is_read_back_however_long_and_deep_it_is(
            levels in proptest::collection::vec("not |\\(|\\(a and b or |a=b and not |!x or c,\\(", 0..64),
            names in 1..9000_usize,
        ) {
            let open = |text: &String| text.matches('(').count();
            let closed = ")".repeat(levels.iter().map(open).sum());
            let names = vec!["web-1"; names].join(",");
            let text = format!("{}({names}){closed}", levels.concat());
            if let Ok(selector) = text.parse::<Selector>() {
                let both = selector.clone().within(&selector);
                for selector in [selector, both] {
                    let printed = selector.to_string();
                    let again = Selector::printed(&printed);
                    prop_assert_eq!(again.map(|s| s.to_string()).ok(), Some(printed));
                }
            }
        }
    }
}
