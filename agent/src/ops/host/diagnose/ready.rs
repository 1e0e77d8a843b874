//! Endpoints: a unit that is active is not yet one that does its work.

use hostler_proto::{
    operation::HttpCheck,
    ops::{HttpCheck as Report, HttpCheckRequest},
    wire::{Finding, Status},
};

use super::Search;
use crate::{
    operation::Answer,
    ops::{http, systemd::full_name},
};

/// Seconds that an endpoint gets: several together are far below the deadline.
const PATIENCE_S: u32 = 3;
/// How a proxy says that whoever it passes requests to did not answer.
const BAD_GATEWAY: [u32; 2] = [502, 504];

impl Search<'_> {
    /// An endpoint of the stack, what its check is after, and to whom its proxy passes requests.
    pub(super) async fn http(&mut self, name: &str) {
        let stack = &self.cx.host.stack;
        let Some(entry) = stack.http.iter().find(|entry| entry.name == name) else { return };
        if !self.seen.insert(format!("http:{name}")) {
            return;
        }
        let Some(checked) = self.as_checked::<HttpCheck>(&format!("http:{name}")) else { return };
        let request = HttpCheckRequest {
            url: entry.url.clone(),
            status: entry.status.unwrap_or_default(),
            expect: entry.expect.clone(),
            timeout_s: PATIENCE_S,
            ..checked
        };
        let shown = format!("http check {}", http::shown(&entry.url));
        let answer = self.look::<HttpCheck>(&shown, request).await;
        let bad = answer.as_ref().is_none_or(|answer| answer.status != Status::Ok);
        let before = self.causes.len();
        self.needs(&entry.after).await;
        if bad && entry.after.is_empty() {
            self.behind(entry).await;
        }
        let gateway = |answer: &Answer<Report>| BAD_GATEWAY.contains(&answer.data.status);
        if here(&entry.url).is_some() && answer.as_ref().is_some_and(gateway) {
            self.upstreams().await;
        }
        // What it needs lies deeper.
        let deeper = self.causes.len() > before;
        let unit = entry.after.iter().find_map(|after| after.strip_prefix("unit:")).map(full_name);
        let runs = unit.as_ref().is_some_and(|unit| self.running.contains(unit));
        let answer = answer.map(|mut answer| {
            let findings = answer.findings.into_iter();
            answer.findings = findings.map(|f| told(f, unit.as_deref(), runs && !deeper)).collect();
            answer
        });
        self.causes_of(answer, Status::Warning);
    }
}

/// The port of this host that a URL names.
pub(super) fn here(url: &str) -> Option<u16> {
    http::place(url)?.port_here()
}

/// What is said of an endpoint: of whose unit it is, when that runs and nothing else explains it, and what to
/// look at next.
fn told(finding: Finding, unit: Option<&str>, explains: bool) -> Finding {
    let critical = finding.status() == Status::Critical;
    let summary = match unit {
        Some(unit) if explains && critical => {
            format!("{unit} is active and not ready: {}", finding.summary)
        }
        _ => finding.summary.clone(),
    };
    let next = match unit {
        Some(unit) => format!("journal read --unit {unit} --lines 50"),
        None => finding.next.clone(),
    };
    Finding { summary, next, ..finding }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_is_active_and_answers_nothing_is_not_ready() {
        let refused = || {
            let refused = Finding::new(Status::Critical, "web", "it cannot be connected to");
            refused.why("no answer").next("net port-owner 8077")
        };
        let found = told(refused(), Some("web.service"), true);
        let expected = "web.service is active and not ready: it cannot be connected to";
        assert_eq!(found.summary, expected);
        assert_eq!(found.next, "journal read --unit web.service --lines 50");
        let slow = Finding::new(Status::Warning, "web", "it took 2500 ms");
        assert_eq!(told(slow, Some("web.service"), true).summary, "it took 2500 ms");
        let explained = told(refused(), Some("web.service"), false);
        assert_eq!(explained.summary, "it cannot be connected to", "what it needs is down");
        assert_eq!(told(refused(), None, false).next, "net port-owner 8077");
    }
}
