//! Names that are valid because they exist.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// Why a text is not a host's name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "\"{0}\" is no host name; use up to 253 of a-z, 0-9, '-' and '.', where each part between \
     dots has 1 to 63 and neither begins nor ends with '-'"
)]
pub struct InvalidHostName(String);

/// The name under which a host is enrolled: a DNS name in lower case.
///
/// `all` and the words of the selector grammar (`and`, `or`, `not`, `in`) are refused, because a
/// host of that name could never be selected.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        let reserved = ["all", "and", "or", "not", "in"].contains(&text);
        if text.len() <= 253 && !reserved && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidHostName(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why a text is not a check's name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "\"{0}\" is no check name; use 1 to 100 of a-z, A-Z, 0-9, and any of \":._@/-\" after the first"
)]
pub struct InvalidCheckName(String);

/// The name of a check on its host: `disk`, `unit:nginx`, `http:backend`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckName(String);

impl CheckName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CheckName {
    type Err = InvalidCheckName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b":._@/-".contains(&b);
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        match begins && text.len() <= 100 && text.bytes().all(fits) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidCheckName(text.chars().take(110).collect())),
        }
    }
}

impl fmt::Display for CheckName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why a pair is no label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "\"{key}={value}\" is no label; both sides have 1 to 63 of A-Z, a-z, 0-9, '-', '_', '.', '/', and \
     words of the selector grammar are not keys"
)]
pub struct InvalidLabel {
    key: String,
    value: String,
}

/// A label that every selector can ask for.
///
/// # Errors
/// When it is none.
pub fn check_label(key: &str, value: &str) -> Result<(), InvalidLabel> {
    let word = |text: &str| {
        (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
    };
    let reserved = ["state", "and", "or", "not", "in", "all", "has"].contains(&key);
    match word(key) && word(value) && !reserved && !key.starts_with("fact.") {
        true => Ok(()),
        false => Err(InvalidLabel {
            key: key.chars().take(80).collect(),
            value: value.chars().take(80).collect(),
        }),
    }
}

/// The candidate that a person most likely meant, if any is near enough to be worth naming.
///
/// Near is: a slip of the finger and one more for every four letters, or the same beginning.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let slips = 1 + wrong.chars().count() / 4;
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(wrong, c), strsim::jaro_winkler(wrong, c), c))
        .filter(|(distance, likeness, _)| *distance <= slips || *likeness > 0.85)
        .min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)))
        .map(|(_, _, c)| c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_label_is_one_that_a_selector_can_ask_for() {
        check_label("role", "web/a-1").expect("a label");
        for (key, value) in [("", "a"), ("role", ""), ("a b", "c"), ("not", "a"), ("fact.os", "a")]
        {
            assert!(check_label(key, value).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn names_that_hosts_have_are_accepted() {
        for name in ["h1", "web-3", "db-1.prod.example.org", "0", &"a".repeat(63)] {
            assert_eq!(name.parse::<HostName>().expect(name).as_str(), name);
        }
    }

    #[test]
    fn names_that_would_confuse_a_selector_a_path_or_a_certificate_are_refused() {
        let long = "a".repeat(64);
        let bad = [
            "", "all", "not", "-a", "a-", "a..b", "A", "a_b", "a/b", "a b", "a,b", "é", ".", &long,
        ];
        for name in bad {
            assert!(name.parse::<HostName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_understood_and_another_word_is_not() {
        let words = ["top", "interval", "by"];
        for (wrong, right) in [("tpo", Some("top")), ("intervall", Some("interval")), ("zq", None)]
        {
            assert_eq!(nearest(wrong, words), right, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_and_what_it_accepts_prints_as_it_was(text in "\\PC*") {
            if let Ok(name) = text.parse::<HostName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
