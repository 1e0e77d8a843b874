//! One entry of the journal, from the JSON that journalctl writes.

use hostler_proto::wire::LogLine;
use serde::Deserialize;
use serde_json::Value;

/// The fields that are asked for, beside those that journalctl always gives.
pub(super) const FIELDS: &str =
    "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_COMM,_PID,_SYSTEMD_UNIT,UNIT,_TRANSPORT";

/// The fields that tell the start of a unit that an entry belongs to.
pub(super) const STARTS: &str = "INVOCATION_ID,_SYSTEMD_INVOCATION_ID";

/// What a unit said, or systemd of it, and in which of its runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Spoken {
    /// The number of the unit's start; empty when systemd gives none.
    pub(crate) invocation: String,
    /// The line, with who said it.
    pub(crate) text: String,
}

#[derive(Deserialize)]
struct Start {
    #[serde(rename = "INVOCATION_ID", default)]
    about: Value,
    #[serde(rename = "_SYSTEMD_INVOCATION_ID", default)]
    own: Value,
}

/// The line that an entry is, with the run of its unit; none when it is not in journalctl's form.
pub(super) fn spoken(json: &[u8]) -> Option<Spoken> {
    let line = line(json)?;
    let start: Start = serde_json::from_slice(json).ok()?;
    // Of what systemd says about a unit, its own start is no start of the unit.
    let invocation = [&start.about, &start.own].map(text).into_iter().find(|t| !t.is_empty());
    let invocation = match line.text.starts_with("systemd[1]: ") {
        true => text(&start.about),
        false => invocation.unwrap_or_default(),
    };
    Some(Spoken { invocation, text: line.text })
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "__CURSOR", default)]
    cursor: String,
    #[serde(rename = "__REALTIME_TIMESTAMP", default)]
    time_us: String,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
    #[serde(rename = "PRIORITY", default)]
    priority: Value,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: Value,
    #[serde(rename = "_COMM", default)]
    command: Value,
    #[serde(rename = "_PID", default)]
    pid: Value,
    #[serde(rename = "_SYSTEMD_UNIT", default)]
    unit: Value,
    #[serde(rename = "UNIT", default)]
    about: Value,
    #[serde(rename = "_TRANSPORT", default)]
    transport: Value,
}

/// Priority of entries that carry none, as for systemd's own standard output: "info".
const INFO: u32 = 6;

/// The line that an entry is; none when it is not in journalctl's form.
pub(super) fn line(json: &[u8]) -> Option<LogLine> {
    // serde would take a list for the fields in their order.
    let entry: Entry = json.starts_with(b"{").then(|| serde_json::from_slice(json).ok())??;
    let program = [&entry.identifier, &entry.command].map(text).into_iter().find(|t| !t.is_empty());
    let program = program.unwrap_or_else(|| text(&entry.transport));
    let pid = text(&entry.pid);
    let unit = [&entry.about, &entry.unit].map(text).into_iter().find(|t| !t.is_empty());
    let tag = if pid.is_empty() { program } else { format!("{program}[{pid}]") };
    Some(LogLine {
        time_us: entry.time_us.parse().unwrap_or(0),
        source: unit.unwrap_or_default(),
        priority: text(&entry.priority).parse().unwrap_or(INFO),
        text: format!("{tag}: {}", text(&entry.message)),
        cursor: entry.cursor,
    })
}

/// A field's text. What is not UTF-8 comes as an array of bytes, what occurs twice as an array of
/// texts, and what is too long as null.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_u64) => {
            let byte = |v: &Value| u8::try_from(v.as_u64().unwrap_or(0)).unwrap_or(b'?');
            String::from_utf8_lossy(&items.iter().map(byte).collect::<Vec<u8>>()).into_owned()
        }
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_message_is_read() {
        let of = |message: &str| {
            let json = format!(
                r#"{{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"17","MESSAGE":{message},
                "_PID":"8","SYSLOG_IDENTIFIER":"web","PRIORITY":"3","_SYSTEMD_UNIT":"web.service"}}"#
            );
            line(json.as_bytes()).expect("entry")
        };
        let plain = of(r#""a \"quoted\" one""#);
        assert_eq!(plain.text, r#"web[8]: a "quoted" one"#);
        assert_eq!((plain.time_us, plain.priority, plain.cursor.as_str()), (17, 3, "s=1"));
        assert_eq!(plain.source, "web.service");
        assert_eq!(of("[104,105,255]").text, "web[8]: hi\u{fffd}");
        assert_eq!(of(r#"["one","two"]"#).text, "web[8]: one two");
        assert_eq!(of("null").text, "web[8]: ");
    }

    #[test]
    fn what_systemd_says_about_a_unit_counts_as_that_units() {
        let json = br#"{"MESSAGE":"Started web.","UNIT":"web.service","_SYSTEMD_UNIT":"init.scope",
            "_COMM":"systemd","_PID":"1"}"#;
        let line = line(json).expect("entry");
        assert_eq!((line.source.as_str(), line.priority), ("web.service", INFO));
        assert_eq!(line.text, "systemd[1]: Started web.");
    }

    #[test]
    fn what_is_said_belongs_to_the_run_of_the_unit_in_which_it_was_said() {
        let own = br#"{"MESSAGE":"hello","_PID":"8","SYSLOG_IDENTIFIER":"web",
            "_SYSTEMD_INVOCATION_ID":"a1"}"#;
        assert_eq!(spoken(own).map(|s| s.invocation).as_deref(), Some("a1"));
        let about = br#"{"MESSAGE":"Started web.","UNIT":"web.service","_PID":"1",
            "SYSLOG_IDENTIFIER":"systemd","INVOCATION_ID":"b2","_SYSTEMD_INVOCATION_ID":"00"}"#;
        assert_eq!(spoken(about).map(|s| s.invocation).as_deref(), Some("b2"));
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for json in [&b"-- No entries --"[..], b"", b"[]", b"{\"MESSAGE\":"] {
            assert!(line(json).is_none());
        }
    }
}
