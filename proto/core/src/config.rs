//! Reading configuration: TOML in which a key that nobody knows is an error.

use std::{io, path::Path};

use hostler_proto::name::nearest;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why a configuration cannot be used; each says which file and what to do.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no valid configuration.
    #[error("{path}{place}: {problem}")]
    Content {
        /// The file.
        path: String,
        /// `:LINE:COLUMN`, where it is known.
        place: String,
        /// What is wrong, and the key that was probably meant.
        problem: String,
    },
}

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read, is no TOML, or has unknown keys or values of the wrong kind.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: name.clone(), source })?;
    parse(&name, &text)
}

/// Reads a configuration from text; `name` is for messages.
///
/// # Errors
/// As [`read`].
pub fn parse<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let place = error.span().map(|span| {
            let before = text.get(..span.start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!(":{line}:{column}")
        });
        let problem = explain(error.message());
        ConfigError::Content { path: name.to_owned(), place: place.unwrap_or_default(), problem }
    })
}

/// serde names the unknown key first and then every known one, each between backticks.
fn explain(message: &str) -> String {
    if !message.starts_with("unknown field") {
        // What is expected stands on lines of its own, and this is one sentence.
        return message.trim_end().lines().collect::<Vec<_>>().join(", ");
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next().unwrap_or_default();
    let known: Vec<_> = quoted.collect();
    match nearest(unknown, known.iter().copied()) {
        Some(meant) => format!("there is no key \"{unknown}\"; did you mean \"{meant}\"?"),
        None => format!("there is no key \"{unknown}\"; known here are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "only its name counts")]
        keepalive_s: u32,
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place_and_the_one_that_was_meant() {
        let message = |text| parse::<Sample>("a.toml", text).expect_err(text).to_string();
        assert_eq!(
            message("\nkeepaliv_s = 3"),
            "a.toml:2:1: there is no key \"keepaliv_s\"; did you mean \"keepalive_s\"?"
        );
        assert!(message("zebra = 3").ends_with("known here are keepalive_s"));
        assert!(message("keepalive_s = \"x\"").starts_with("a.toml:1:15: invalid type"));
        assert!(message("=").starts_with("a.toml:1:1: "));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read::<Sample>(Path::new("/nonexistent/a.toml")).expect_err("missing");
        assert!(error.to_string().starts_with("the configuration /nonexistent/a.toml cannot be"));
    }
}
