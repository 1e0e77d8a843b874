//! The words of a notice.

use std::collections::BTreeMap;

use hostler_proto::wire::Status;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::health::problems::word;

/// The text that is used when a target has none of its own.
pub const STANDARD: &str = "{STATUS} {what}: {summary}{then}";

/// What a notice tells.
#[derive(Debug, Clone)]
pub struct Message {
    /// The host.
    pub host: String,
    /// The check; empty for the host itself.
    pub check: String,
    /// From what.
    pub was: Status,
    /// To what.
    pub became: Status,
    /// What the check said.
    pub summary: String,
    /// What to type next; empty for a recovery.
    pub next: String,
    /// When it changed.
    pub at_us: i64,
    /// Labels of the host.
    pub labels: BTreeMap<String, String>,
}

impl Message {
    /// The host and its check.
    pub fn what(&self) -> String {
        match self.check.as_str() {
            "" => self.host.clone(),
            check => format!("{} {check}", self.host),
        }
    }

    /// Whether it tells that all is well again.
    pub fn recovers(&self) -> bool {
        matches!(self.became, Status::Ok | Status::Unspecified)
    }

    /// A template with its places filled: {host}, {check}, {what}, {status}, {STATUS}, {was},
    /// {summary}, {next}, {then}, {time}. What is no place stays as it is.
    pub fn fill(&self, template: &str) -> String {
        let time = Timestamp::from_microsecond(self.at_us).map_or(String::new(), |t| t.to_string());
        let then = if self.next.is_empty() { String::new() } else { format!("\n{}", self.next) };
        let places = [
            ("host", self.host.clone()),
            ("check", self.check.clone()),
            ("what", self.what()),
            ("status", word(self.became).to_owned()),
            ("STATUS", word(self.became).to_uppercase()),
            ("was", word(self.was).to_owned()),
            ("summary", self.summary.clone()),
            ("next", self.next.clone()),
            ("then", then),
            ("time", time),
        ];
        let mut out = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let place = after.split_once('}').and_then(|(name, behind)| {
                let (_, value) = places.iter().find(|(place, _)| *place == name)?;
                Some((value, behind))
            });
            match place {
                Some((value, behind)) => {
                    out.push_str(value);
                    rest = behind;
                }
                None => {
                    out.push('{');
                    rest = after;
                }
            }
        }
        out + rest
    }

    /// For a program that is called.
    pub fn to_json(&self) -> Value {
        json!({
            "host": self.host, "check": self.check, "was": word(self.was),
            "status": word(self.became), "summary": self.summary, "next": self.next,
            "time": Timestamp::from_microsecond(self.at_us).map(|t| t.to_string()).ok(),
            "labels": self.labels,
        })
    }

    /// For Prometheus' Alertmanager, API version 2. An alert has one identity for as long as it lasts,
    /// and its end is told by the time at which it ended.
    pub fn to_alert(&self, now_us: i64) -> Value {
        let time = |us: i64| Timestamp::from_microsecond(us).map(|t| t.to_string()).ok();
        let mut labels = self.labels.clone();
        labels.insert("alertname".into(), "HostlerProblem".into());
        labels.insert("host".into(), self.host.clone());
        labels.insert("check".into(), self.check.clone());
        // A name of theirs takes neither dots nor slashes.
        let name = |key: &String| key.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| (name(k), v.clone())).collect();
        let mut alert = json!([{
            "labels": labels,
            "annotations": { "summary": self.summary, "next": self.next, "status": word(self.became) },
        }]);
        // One that goes on has no end: otherwise it would be resolved by itself.
        match self.recovers() {
            true => alert[0]["endsAt"] = json!(time(now_us)),
            false => {
                alert[0]["startsAt"] = json!(time(self.at_us));
                alert[0]["endsAt"] = json!(time(now_us + 7 * 86_400_000_000));
            }
        }
        alert
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(became: Status) -> Message {
        Message {
            host: "web-1".into(),
            check: "disk".into(),
            was: Status::Ok,
            became,
            summary: "/ is {97} % full".into(),
            next: "hostlerctl disk tree / --on web-1".into(),
            at_us: 1_700_000_000_000_000,
            labels: BTreeMap::from([("role.x".to_owned(), "web".to_owned())]),
        }
    }

    #[test]
    fn a_template_is_filled_once_and_what_is_no_place_stays() {
        let message = message(Status::Critical);
        assert_eq!(
            message.fill(STANDARD),
            "CRITICAL web-1 disk: / is {97} % full\nhostlerctl disk tree / --on web-1"
        );
        assert_eq!(message.fill("{host} {nope} { {status"), "web-1 {nope} { {status");
    }

    #[test]
    fn an_alert_keeps_its_identity_and_ends_when_it_recovers() {
        let (begins, ends) =
            (message(Status::Critical).to_alert(5), message(Status::Ok).to_alert(5));
        assert_eq!(begins[0]["labels"], ends[0]["labels"]);
        assert_eq!(begins[0]["labels"]["role_x"], "web");
        assert_eq!(ends[0]["endsAt"], "1970-01-01T00:00:00.000005Z");
        assert!(begins[0]["startsAt"].is_string());
    }
}
