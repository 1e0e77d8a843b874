//! The words of a notice.

use std::collections::BTreeMap;

use hostler_proto::wire::Status;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::health::problems::{severity, word};

/// The text that is used when a target has none of its own.
pub const STANDARD: &str = "{STATUS} {what}: {summary}{with}{then}";

/// What a template may have between braces.
const PLACES: [&str; 11] =
    ["host", "check", "what", "status", "STATUS", "was", "summary", "with", "next", "then", "time"];

/// Whether every word between braces is a place: one that is not would be told as it stands, to
/// people who wait for what it means.
///
/// # Errors
/// With the first that is none.
pub fn usable(template: &str) -> Result<(), String> {
    let mut rest = template;
    while let Some((_, after)) = rest.split_once('{') {
        rest = after;
        let Some((name, behind)) = after.split_once('}') else { break };
        if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            if !PLACES.contains(&name) {
                let places = PLACES.map(|place| format!("{{{place}}}")).join(", ");
                return Err(format!("template has no place {{{name}}}; its places are {places}"));
            }
            rest = behind;
        }
    }
    Ok(())
}

/// A value as it is.
pub fn plain(value: &str) -> String {
    value.to_owned()
}

/// A value as Slack shows it and does not obey it: what a host says calls nobody, and makes no links.
pub fn escaped(value: &str) -> String {
    value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

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
    /// What the target was told of it before.
    pub before: Option<Status>,
    /// It changes again and again.
    pub flapping: bool,
    /// What the check said.
    pub summary: String,
    /// What to type next; empty for a recovery.
    pub next: String,
    /// Checks that are not well either, because of this.
    pub follows: Vec<String>,
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

    /// A template with its places filled, each with its value as `write` makes it. What is no place
    /// stays as it is.
    pub fn fill(&self, template: &str, write: impl Fn(&str) -> String) -> String {
        let time = Timestamp::from_microsecond(self.at_us).map_or(String::new(), |t| t.to_string());
        let then = if self.next.is_empty() { String::new() } else { format!("\n{}", self.next) };
        let with = match self.follows.as_slice() {
            [] => String::new(),
            follows => format!("; with it {}", follows.join(", ")),
        };
        let value = |place: &str| {
            Some(match place {
                "host" => self.host.clone(),
                "check" => self.check.clone(),
                "what" => self.what(),
                "status" => word(self.became).to_owned(),
                "STATUS" => word(self.became).to_uppercase(),
                "was" => word(self.was).to_owned(),
                "summary" => self.summary.clone(),
                "with" => with.clone(),
                "next" => self.next.clone(),
                "then" => then.clone(),
                "time" => time.clone(),
                _ => return None,
            })
        };
        let mut out = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let place = after
                .split_once('}')
                .and_then(|(name, behind)| value(name).map(|value| (value, behind)));
            match place {
                Some((value, behind)) => {
                    out.push_str(&write(&value));
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
            "follows": self.follows, "flapping": self.flapping,
            "time": Timestamp::from_microsecond(self.at_us).map(|t| t.to_string()).ok(),
            "labels": self.labels,
        })
    }

    /// For Prometheus' Alertmanager, API version 2: an alert that goes on until some time, unless it is
    /// told again before; or its end. How bad it is is part of what an alert is, so that one that gets
    /// worse is another, and the one before it ends.
    pub fn to_alerts(&self, goes_on: bool, until_us: i64, now_us: i64) -> Vec<Value> {
        let time = |us: i64| Timestamp::from_microsecond(us).map(|t| t.to_string()).ok();
        let alert = |status: Status| {
            let mut labels = self.labels.clone();
            labels.insert("alertname".into(), "HostlerProblem".into());
            labels.insert("severity".into(), word(status).into());
            labels.insert("host".into(), self.host.clone());
            labels.insert("check".into(), self.check.clone());
            let labels: BTreeMap<_, _> =
                labels.iter().map(|(k, v)| (label_name(k), v.clone())).collect();
            let status = word(self.became);
            json!({
                "labels": labels,
                "annotations": {
                    "summary": self.summary, "next": self.next, "status": status,
                    "follows": self.follows.join(", "),
                },
            })
        };
        let mut alerts = Vec::new();
        let other = |before: &Status| severity(*before) > 0 && !(goes_on && *before == self.became);
        if let Some(before) = self.before.filter(other) {
            let mut ended = alert(before);
            ended["endsAt"] = json!(time(now_us));
            alerts.push(ended);
        }
        if goes_on {
            let mut begun = alert(self.became);
            begun["startsAt"] = json!(time(self.at_us.min(now_us)));
            begun["endsAt"] = json!(time(until_us));
            alerts.push(begun);
        }
        alerts
    }
}

/// The name of a label as Prometheus takes it: with neither dots nor slashes, and no digit first.
fn label_name(key: &str) -> String {
    let name = key.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("_{name}"),
        false => name,
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
            before: None,
            flapping: false,
            summary: "/ is {97} % full".into(),
            next: "hostlerctl disk tree / --on web-1".into(),
            follows: Vec::new(),
            at_us: 1_700_000_000_000_000,
            labels: [("role.x", "web"), ("2nd", "dc")].map(|(k, v)| (k.into(), v.into())).into(),
        }
    }

    #[test]
    fn a_template_is_filled_once_and_what_is_no_place_stays() {
        let message = message(Status::Critical);
        assert_eq!(
            message.fill(STANDARD, plain),
            "CRITICAL web-1 disk: / is {97} % full\nhostlerctl disk tree / --on web-1"
        );
        assert_eq!(message.fill("{host} {nope} { {status", plain), "web-1 {nope} { {status");
    }

    #[test]
    fn what_a_host_says_is_escaped_for_slack_and_what_the_operator_wrote_is_not() {
        let summary = "load <!channel> & <http://evil.example|x>".to_owned();
        let message = Message { summary, ..message(Status::Critical) };
        assert_eq!(
            message.fill("<!here> {summary} & more", escaped),
            "<!here> load &lt;!channel&gt; &amp; &lt;http://evil.example|x&gt; & more"
        );
    }

    #[test]
    fn a_template_with_a_place_that_there_is_not_is_refused_and_other_braces_are_not() {
        let said = usable("{host} says {foo}").expect_err("no such place");
        assert!(said.contains("no place {foo}") && said.contains("{host}, {check}"), "{said}");
        for place in PLACES.map(|place| format!("{{{place}}}")) {
            assert_ne!(message(Status::Critical).fill(&place, plain), place);
        }
        for text in [STANDARD, "{ \"a\": \"{host}\" }", "{}", "a { b", "{{host}}"] {
            usable(text).expect(text);
        }
    }

    #[test]
    fn a_cause_names_what_follows_from_it() {
        let follows = vec!["http:app".to_owned(), "celery:app".to_owned()];
        let message = Message { follows, next: String::new(), ..message(Status::Critical) };
        assert_eq!(
            message.fill(STANDARD, plain),
            "CRITICAL web-1 disk: / is {97} % full; with it http:app, celery:app"
        );
    }

    #[test]
    fn an_alert_keeps_its_identity_and_ends_when_it_recovers() {
        let (at, later) = (1_700_000_001_000_000, 1_700_000_601_000_000);
        let begins = message(Status::Critical).to_alerts(true, later, at);
        assert_eq!((begins.len(), &begins[0]["labels"]["role_x"]), (1, &"web".into()));
        assert_eq!(begins[0]["labels"]["_2nd"], "dc", "no name of theirs begins with a digit");
        assert_eq!(begins[0]["startsAt"], "2023-11-14T22:13:20Z");
        assert_eq!(begins[0]["endsAt"], "2023-11-14T22:23:21Z");
        let ends = Message { before: Some(Status::Critical), ..message(Status::Ok) };
        let ends = ends.to_alerts(false, later, at);
        assert_eq!((ends.len(), &ends[0]["labels"]), (1, &begins[0]["labels"]));
        assert_eq!(ends[0]["endsAt"], "2023-11-14T22:13:21Z");
    }

    #[test]
    fn an_alert_that_gets_worse_is_another_and_the_one_before_ends() {
        let worse = Message { before: Some(Status::Warning), ..message(Status::Critical) };
        let alerts = worse.to_alerts(true, 20_000_000, 10_000_000);
        let told: Vec<_> =
            alerts.iter().map(|a| (&a["labels"]["severity"], &a["endsAt"])).collect();
        let of = |severity: &str, end: &str| (json!(severity), json!(end));
        let (first, second) =
            (of("warning", "1970-01-01T00:00:10Z"), of("critical", "1970-01-01T00:00:20Z"));
        assert_eq!(told, [(&first.0, &first.1), (&second.0, &second.1)]);
    }
}
