//! How data is shown: one table for all operations made from the descriptors of their results,
//! and the same data for programs.

use std::str::FromStr;

pub mod audit;
pub mod downtimes;
pub mod fleet;
pub mod grid;
pub mod health;
pub mod history;
pub mod json;
pub mod problems;
pub mod report;
pub mod status;
pub mod table;
pub mod value;

/// The form of data on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Tables for people.
    Table,
    /// Tables with everything.
    Wide,
    /// One JSON document.
    Json,
    /// One JSON object on each line, as they arrive.
    Jsonl,
    /// One YAML document.
    Yaml,
    /// Names alone.
    Name,
}

impl Form {
    /// Whether programs are to read it.
    pub fn is_data(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl | Self::Yaml)
    }

    /// What `-o` says.
    pub fn of(matches: &clap::ArgMatches) -> Self {
        let given = matches.try_get_one::<String>("output").ok().flatten();
        given.and_then(|f| f.parse().ok()).unwrap_or(Self::Table)
    }
}

impl FromStr for Form {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "table" => Self::Table,
            "wide" => Self::Wide,
            "json" => Self::Json,
            "jsonl" => Self::Jsonl,
            "yaml" => Self::Yaml,
            "name" => Self::Name,
            _ => return Err(()),
        })
    }
}
