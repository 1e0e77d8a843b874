//! What the controller itself needs somebody for: its audit, and the certificates that end.

use hostler_proto::wire::Status as Health;
use tonic::Status;

use super::{Api, fleet::authority_until, unstored};
use crate::{
    health::{clock::Clock, problems::Problem},
    store::OperatorRow,
};

pub(super) const DAY_US: i64 = 86_400_000_000;
/// With fewer days than this a certificate is a problem. An authority's successor has to be brought to
/// every host, the controller signs itself a new certificate long before, and an operator's holiday is
/// shorter.
pub(super) const AUTHORITY_DAYS: i64 = 180;
pub(super) const CONTROLLER_DAYS: i64 = 60;
const OPERATOR_DAYS: i64 = 14;

impl Api {
    /// The problems that are no host's.
    pub(super) async fn own_problems(&self, now_us: i64) -> Result<Vec<Problem>, Status> {
        let mut problems = Vec::new();
        if let Some(why) = self.0.auditor.trouble() {
            problems.push(problem(
                Health::Critical,
                format!("the audit cannot be written, and nothing runs: {why}"),
                "look at the controller's disk and its log".to_owned(),
                now_us,
            ));
        }
        if let Some(wrong) = self.0.health.look(|health| Clock::new(health, now_us).wrong()) {
            let next = "ask on the controller's machine why: timedatectl status".to_owned();
            problems.push(problem(Health::Warning, wrong, next, now_us));
        }
        let mut ends = |whose: &str, until_us: i64, days: i64, next: String| {
            let left = (until_us - now_us).div_euclid(DAY_US);
            if left < days {
                let status = if left < days / 7 { Health::Critical } else { Health::Warning };
                let summary = match until_us <= now_us {
                    true => format!("the certificate of {whose} has ended"),
                    false => format!("the certificate of {whose} ends in {left} days"),
                };
                problems.push(problem(status, summary, next, until_us - days * DAY_US));
            }
        };
        let vault = &self.0.vault;
        if let Some(until_us) = authority_until(vault.authority.certificate()) {
            let next = "see docs/security.md, \"When the authority ends\"".to_owned();
            ends("the authority", until_us, AUTHORITY_DAYS, next);
        }
        if let Ok(own) = vault.credentials.facts() {
            let next = "look at the controller's log: it renews it itself".to_owned();
            ends("the controller", own.not_after.as_microsecond(), CONTROLLER_DAYS, next);
        }
        let operators = self.0.store.operators().await.map_err(unstored)?;
        for row in operators.into_iter().filter(|row| row.revoked_us.is_none()) {
            if let Some(days) = warned(&row, now_us) {
                let whose = format!("operator {}", row.name);
                let next = format!("{} runs: hostlerctl context renew", row.name);
                ends(&whose, row.certificate_until_us, days, next);
            }
        }
        Ok(problems)
    }
}

/// With how many days left an operator's certificate is a problem: at most a third of its life. One that
/// was made to end is none, nor is one that has ended: who needs it is told when it is refused.
pub(super) fn warned(row: &OperatorRow, now_us: i64) -> Option<i64> {
    let life = (row.certificate_until_us - row.created_us) / DAY_US;
    let counts = row.renewable && row.certificate_until_us > now_us;
    counts.then(|| OPERATOR_DAYS.min(life / 3))
}

fn problem(status: Health, summary: String, next: String, since_us: i64) -> Problem {
    Problem {
        status,
        summary,
        next,
        since_us,
        hosts: Vec::new(),
        check: String::new(),
        follows: Vec::new(),
        handled: String::new(),
        flapping: false,
        unconfirmed: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::{Operations, Role};

    #[test]
    fn a_certificate_that_was_made_to_end_or_has_ended_alarms_nobody() {
        let operator = |days: i64, renewable| OperatorRow {
            name: "alice".parse().expect("a name"),
            role: Role::Operator,
            scope: None,
            operations: Operations::default(),
            serial: String::new(),
            key: String::new(),
            renewable,
            created_us: 0,
            certificate_until_us: days * DAY_US,
            revoked_us: None,
        };
        assert_eq!(warned(&operator(90, true), 0), Some(OPERATOR_DAYS));
        assert_eq!(warned(&operator(9, true), 0), Some(3), "not from its first day on");
        assert_eq!(warned(&operator(1, false), 0), None);
        assert_eq!(warned(&operator(9, true), 9 * DAY_US), None);
    }
}
