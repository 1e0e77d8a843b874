//! The same data for programs: JSON and YAML.

use hostler_proto::{catalogue::OperationSpec, wire::LogLine};
use prost_reflect::DynamicMessage;
use serde::Serialize;
use serde_yaml_ng::Value;

use super::{
    Form,
    report::{End, Report, word},
    value::{self, Plain},
};
use crate::exit::{Exit, Problem};

/// A report as programs read it.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    host: &'a str,
    status: &'static str,
    summary: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Vec<Finding<'a>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evidence: Vec<Evidence<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    plan: Vec<Step<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    plan_digest: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<Line<'a>>,
}

#[derive(Debug)]
struct Data(DynamicMessage);

impl Serialize for Data {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Plain(&self.0).serialize(serializer)
    }
}

#[derive(Debug, Serialize)]
struct Finding<'a> {
    status: &'static str,
    subject: &'a str,
    summary: &'a str,
    why: &'a str,
    next: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    unit: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    critical: Option<f64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    source: &'a str,
}

#[derive(Debug, Serialize)]
struct Error<'a> {
    code: &'static str,
    message: &'a str,
    hint: &'a str,
    retryable: bool,
    delivery: String,
}

/// What was really asked of the system.
#[derive(Debug, Serialize)]
struct Evidence<'a> {
    kind: &'a str,
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    tail: &'a [String],
}

impl<'a> Evidence<'a> {
    fn all(of: &'a [hostler_proto::wire::Evidence]) -> Vec<Self> {
        let one = |e: &'a hostler_proto::wire::Evidence| Self {
            kind: &e.kind,
            what: &e.what,
            exit_code: e.exit_code,
            tail: &e.tail,
        };
        of.iter().map(one).collect()
    }
}

#[derive(Debug, Serialize)]
struct Step<'a> {
    summary: &'a str,
    undo: &'a str,
}

/// A log line as programs read it.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    time: String,
    source: &'a str,
    priority: u32,
    line: &'a str,
    cursor: &'a str,
}

impl<'a> Line<'a> {
    /// A line by itself, with its host.
    pub fn of(host: Option<&'a str>, line: &'a LogLine) -> Self {
        Self {
            host,
            time: value::fine_moment(line.time_us),
            source: &line.source,
            priority: line.priority,
            line: &line.text,
            cursor: &line.cursor,
        }
    }
}

impl<'a> Entry<'a> {
    /// The entry of a report.
    pub fn of(report: &'a Report, spec: &OperationSpec) -> Self {
        let plan = report.steps.iter().map(|s| Step { summary: &s.summary, undo: &s.undo });
        let mut entry = Self {
            host: &report.host,
            status: report.word(),
            summary: "",
            data: None,
            findings: None,
            evidence: Evidence::all(report.evidence()),
            error: None,
            unchanged: None,
            plan: plan.collect(),
            plan_digest: "",
            lines: report.lines.iter().map(|l| Line::of(None, l)).collect(),
        };
        match &report.end {
            End::Outcome(outcome) => {
                let pool = spec.result.parent_pool();
                let finding = |f: &'a hostler_proto::wire::Finding| Finding {
                    status: word(f.status()),
                    subject: &f.subject,
                    summary: &f.summary,
                    why: &f.why,
                    next: &f.next,
                    value: f.value,
                    unit: &f.unit,
                    warning: f.warning,
                    critical: f.critical,
                    source: &f.source,
                };
                entry.summary = &outcome.summary;
                entry.data = value::decode(pool, &outcome.r#type, &outcome.data).map(Data);
                entry.findings = Some(outcome.findings.iter().map(finding).collect());
                entry.plan_digest = &outcome.plan_digest;
                let action = spec.kind == hostler_proto::wire::Kind::Action;
                entry.unchanged = action.then_some(outcome.unchanged);
            }
            End::Failure(failure) => {
                let meaning = failure.meaning();
                let delivery = report.delivery.as_str_name().trim_start_matches("DELIVERY_");
                entry.summary = &failure.message;
                entry.error = Some(Error {
                    code: meaning.name,
                    message: &failure.message,
                    hint: &failure.hint,
                    retryable: meaning.retryable,
                    delivery: delivery.to_lowercase(),
                });
            }
        }
        entry
    }
}

/// A list in one of the forms for programs; an empty list is a document too.
///
/// # Errors
/// When a value has no such form, which would be a defect.
pub fn list<T: Serialize>(items: &[T], form: Form) -> Result<String, Problem> {
    match form {
        Form::Jsonl => items.iter().map(line).collect(),
        _ => document(&items, form),
    }
}

/// One value in one of the forms for programs.
///
/// # Errors
/// When the value has no such form, which would be a defect.
pub fn document(value: &impl Serialize, form: Form) -> Result<String, Problem> {
    match form {
        Form::Yaml => yaml(value),
        Form::Jsonl => line(value),
        _ => {
            let text = serde_json::to_string_pretty(value).map_err(|e| defect(&e))?;
            Ok(escaped(text) + "\n")
        }
    }
}

/// One JSON object on one line.
///
/// # Errors
/// When the value has no such form, which would be a defect.
pub fn line(value: &impl Serialize) -> Result<String, Problem> {
    Ok(escaped(serde_json::to_string(value).map_err(|e| defect(&e))?) + "\n")
}

fn defect(error: &dyn std::error::Error) -> Problem {
    Problem::new(Exit::Failed, format!("the answer cannot be written: {error}"))
}

/// What JSON and YAML allow to stand for itself and a terminal would obey.
fn risky(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes JSON's texts with escapes for what is risky.
fn escaped(text: String) -> String {
    if !text.contains(risky) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match risky(c) {
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

/// A document in YAML. An escape is one in double quotes alone: a text with something risky gets them,
/// as JSON has it. It is written under another name first, and that is replaced.
fn yaml(value: &impl Serialize) -> Result<String, Problem> {
    let text = serde_yaml_ng::to_string(value).map_err(|e| defect(&e))?;
    if !text.contains(risky) {
        return Ok(text);
    }
    // A name that the document does not have.
    let name = (0_u32..).map(|n| format!("escaped{n}x")).find(|name| !text.contains(name.as_str()));
    let name = name.unwrap_or_default();
    let mut value = serde_yaml_ng::to_value(value).map_err(|e| defect(&e))?;
    let mut quoted = Vec::new();
    rename(&mut value, &name, &mut quoted)?;
    let mut text = serde_yaml_ng::to_string(&value).map_err(|e| defect(&e))?;
    for (number, quoted) in quoted.iter().enumerate().rev() {
        text = text.replace(&format!("{name}{number}"), quoted);
    }
    Ok(text)
}

/// Puts names in place of the texts that hold something risky; those are kept as JSON has them.
fn rename(value: &mut Value, name: &str, quoted: &mut Vec<String>) -> Result<(), Problem> {
    match value {
        Value::String(text) if text.contains(risky) => {
            let other = format!("{name}{}", quoted.len());
            quoted.push(escaped(serde_json::to_string(text).map_err(|e| defect(&e))?));
            *text = other;
        }
        Value::Sequence(list) => {
            for value in list {
                rename(value, name, quoted)?;
            }
        }
        Value::Mapping(map) => {
            for (mut key, mut value) in std::mem::take(map) {
                rename(&mut key, name, quoted)?;
                rename(&mut value, name, quoted)?;
                map.insert(key, value);
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_holds_nothing_that_a_terminal_would_obey_and_still_says_it() {
        let text = "a\u{9b}31mb\x1b[0m\u{7f}\u{202e}";
        let json = line(&text).expect("json");
        assert!(!json.trim_end().contains(char::is_control), "{json:?}");
        assert_eq!(serde_json::from_str::<String>(&json).expect("same"), text);
    }

    #[test]
    fn yaml_says_what_was_said_whatever_that_is() {
        let texts =
            ["plain", "gpj.\u{202e}exe", "a\nb \u{2066}c", "'\u{200f}\"\\", "\u{85}", "escaped0x1"];
        let map = std::collections::BTreeMap::from([("key\u{202a}", texts.to_vec())]);
        let yaml = document(&map, Form::Yaml).expect("yaml");
        assert!(!yaml.contains(risky), "{yaml:?}");
        let back: std::collections::BTreeMap<String, Vec<String>> =
            serde_yaml_ng::from_str(&yaml).expect(&yaml);
        assert_eq!(back["key\u{202a}"], texts);
    }

    #[test]
    fn an_empty_list_is_a_valid_document() {
        assert_eq!(list::<u8>(&[], Form::Json).expect("json"), "[]\n");
        assert_eq!(list::<u8>(&[], Form::Jsonl).expect("jsonl"), "");
        assert_eq!(list::<u8>(&[], Form::Yaml).expect("yaml"), "[]\n");
    }
}
