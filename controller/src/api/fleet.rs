//! The hosts and how they are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hostler_core::pki::CertificateFacts;
use hostler_proto::{
    name::HostName,
    wire::{
        self, CertificateRecord, ErrorCode, Failure, FleetStatus, FleetStatusRequest, HostRecord,
        HostsReply, HostsRequest, LabelHostRequest, RemoveHostReply, RemoveHostRequest,
        RevokeHostRequest, RevokeReply, Status as Health, fleet_server::Fleet,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Api, TWIN_US, caller,
    itself::{AUTHORITY_DAYS, CONTROLLER_DAYS, DAY_US, warned},
    operations::invalid,
    unstored,
};
use crate::{
    authz::What,
    health::{
        Host,
        absence::{Absence, connection},
        problems::{Problem, fold, severity, sort},
    },
    store::{Connection, HostRow},
};

/// Problems that one answer lists.
const PROBLEMS: usize = 100;

fn record(row: &HostRow, seen_us: i64, absence: Option<&Absence>, whole: bool) -> HostRecord {
    let allowed = row.operations.split_whitespace().filter(|_| whole);
    HostRecord {
        connection: connection(row, absence).into(),
        name: row.name.to_string(),
        since_us: row.since_us,
        reason: row.reason.clone(),
        labels: row.labels.clone().into_iter().collect(),
        facts: row.facts.clone().into_iter().collect(),
        agent_version: row.agent_version.clone(),
        enrolled_us: row.enrolled_us,
        last_seen_us: seen_us,
        address: row.address.clone(),
        certificate_until_us: row.certificate_until_us,
        machine_id: row.machine_id.clone(),
        operations: allowed.map(str::to_owned).collect(),
    }
}

/// When a host was seen last. Of one that is linked its link knows that better than the store; of one
/// whose controller ended without a word, the last that was written down of its checks.
fn seen_us(row: &HostRow, link_us: Option<i64>, heard_us: Option<i64>) -> i64 {
    match row.connection {
        Connection::Up | Connection::Down => {
            link_us.max(heard_us).unwrap_or(0).max(row.last_seen_us)
        }
        // What else is known is of the machine that had its name before.
        Connection::Never | Connection::Revoked => row.last_seen_us,
    }
}

/// How the checks of some hosts stand together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Checks {
    ok: u32,
    bad: u32,
    pending: u32,
    /// Hosts with one that is not well.
    degraded: u32,
}

impl Checks {
    fn count<'h>(hosts: impl Iterator<Item = &'h Host>, now_us: i64) -> Self {
        let mut counted = Self::default();
        for host in hosts {
            let before = counted.bad;
            for check in host.checks.values() {
                *match severity(check.shown(now_us)) {
                    0 if check.pending() => &mut counted.pending,
                    0 => &mut counted.ok,
                    _ => &mut counted.bad,
                } += 1;
            }
            counted.degraded += u32::from(counted.bad > before);
        }
        counted
    }
}

impl Api {
    /// A host as it is told.
    fn recorded(&self, row: &HostRow, absence: Option<&Absence>, whole: bool) -> HostRecord {
        let now_us = self.0.clock.now().as_microsecond();
        let link = self.0.links.get(&row.name).map(|link| link.seen_us(now_us));
        let heard = self.0.health.look(|all| all.get(&row.name).map(|host| host.heard_us));
        record(row, seen_us(row, link, heard), absence, whole)
    }

    /// The certificates of the authority and the controller, and of the hosts and the operators those
    /// that end first.
    async fn certificates(
        &self,
        hosts: &[Arc<HostRow>],
        now_us: i64,
    ) -> Result<Vec<CertificateRecord>, Status> {
        let record = |subject: String, until_us: i64, count: usize, renewed_us: i64| {
            let overdue = until_us - now_us < renewed_us;
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            CertificateRecord { subject, until_us, count, overdue }
        };
        let mut certificates = Vec::new();
        let authority = authority_until(self.0.vault.authority.certificate());
        certificates.extend(
            authority.map(|until| record("authority".into(), until, 1, AUTHORITY_DAYS * DAY_US)),
        );
        if let Ok(own) = self.0.vault.credentials.facts() {
            let until = own.not_after.as_microsecond();
            certificates.push(record("controller".into(), until, 1, CONTROLLER_DAYS * DAY_US));
        }
        let hosts: Vec<_> = hosts.iter().filter(|h| h.revoked_us.is_none()).collect();
        if let Some(first) = hosts.iter().min_by_key(|h| h.certificate_until_us) {
            // They renew themselves at two thirds; some time before that is over is left for it.
            let life = self.0.config.agent_certificate.as_micros();
            let late_us = i64::try_from(life).unwrap_or(i64::MAX) / 4;
            let subject = format!("host {}", first.name);
            certificates.push(record(subject, first.certificate_until_us, hosts.len(), late_us));
        }
        let mut operators = self.0.store.operators().await.map_err(unstored)?;
        operators.retain(|row| row.revoked_us.is_none() && row.certificate_until_us > now_us);
        if let Some(first) = operators.iter().min_by_key(|row| row.certificate_until_us) {
            let late_us = warned(first, now_us).unwrap_or(0) * DAY_US;
            let subject = format!("operator {}", first.name);
            let count = operators.len();
            certificates.push(record(subject, first.certificate_until_us, count, late_us));
        }
        Ok(certificates)
    }
}

#[tonic::async_trait]
impl Fleet for Api {
    async fn status(
        &self,
        request: Request<FleetStatusRequest>,
    ) -> Result<Response<FleetStatus>, Status> {
        let caller = caller(&request)?;
        self.look(&caller, "fleet.status", "").await?;
        let now = self.0.clock.now().as_microsecond();
        let hosts = self.0.store.hosts().await.map_err(unstored)?;
        let absences = self.absences().await?;
        let mut counts: HashMap<wire::Connection, u32> = HashMap::new();
        for host in &hosts {
            *counts.entry(connection(host, absences.get(&host.name))).or_default() += 1;
        }
        let count = |of| counts.get(&of).copied().unwrap_or(0);
        let mut problems = self.problems_of(&hosts, &absences).await?;
        let twin = |h: &Arc<HostRow>| {
            self.0.links.twin(&h.name, now - TWIN_US).map(|twin| (h.name.clone(), twin))
        };
        problems.extend(hosts.iter().filter_map(twin).map(|(host, twin)| Problem {
            status: if twin.silent { Health::Warning } else { Health::Critical },
            check: String::new(),
            summary: match twin.silent {
                true => format!(
                    "perhaps a clone: another agent with the same key took the place of the one at {}, \
                     which did not answer: is it the right one?",
                    twin.from
                ),
                false => {
                    let from = &twin.from;
                    format!("a clone: an agent at {from} has the same key; revoke it and enrol both anew")
                }
            },
            since_us: twin.seen_us,
            next: match twin.silent {
                true => format!("hostlerctl audit list --host {host}"),
                false => format!("hostlerctl host revoke {host} --reason cloned"),
            },
            hosts: vec![host],
            follows: Vec::new(),
            handled: String::new(),
            flapping: false,
            unconfirmed: false,
        }));
        problems.extend(self.own_problems(now).await?);
        sort(&mut problems);
        let mut problems = fold(problems);
        let handled = problems.iter().filter(|p| !p.handled.is_empty()).count();
        let more = problems.len().saturating_sub(PROBLEMS);
        problems.truncate(PROBLEMS);
        let problems = problems.into_iter().map(hostler_proto::wire::Problem::from).collect();
        let checks = self.0.health.look(|health| {
            let up = hosts.iter().filter(|h| h.connection == Connection::Up);
            Checks::count(up.filter_map(|h| health.get(&h.name)), now)
        });
        let certificates = self.certificates(&hosts, now).await?;
        Ok(Response::new(FleetStatus {
            hosts: u32::try_from(hosts.len()).unwrap_or(u32::MAX),
            up: count(wire::Connection::Up),
            down: count(wire::Connection::Down),
            never: count(wire::Connection::Never),
            revoked: count(wire::Connection::Revoked),
            unreachable: count(wire::Connection::Unreachable),
            stopped: count(wire::Connection::Stopped),
            problems,
            more_problems: u32::try_from(more).unwrap_or(u32::MAX),
            certificates,
            fleet: self.0.fleet.to_string(),
            controller_version: env!("CARGO_PKG_VERSION").into(),
            now_us: now,
            checks_ok: checks.ok,
            checks_bad: checks.bad,
            checks_pending: checks.pending,
            degraded: checks.degraded,
            outlooks: self.outlooks_of(&hosts),
            handled: u32::try_from(handled).unwrap_or(u32::MAX),
        }))
    }

    async fn hosts(&self, request: Request<HostsRequest>) -> Result<Response<HostsReply>, Status> {
        let caller = caller(&request)?;
        self.look(&caller, "fleet.hosts", &request.get_ref().on).await?;
        let hosts = self.select(&request.get_ref().on).await?;
        let whole = hosts.len() == 1;
        let absences = self.absences().await?;
        let hosts = hosts.iter().map(|h| self.recorded(h, absences.get(&h.name), whole)).collect();
        Ok(Response::new(HostsReply { hosts, of: self.size().await? }))
    }

    async fn label(
        &self,
        request: Request<LabelHostRequest>,
    ) -> Result<Response<HostRecord>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        self.authorise(&caller, What::Administer, None, "host.label", &request.host).await?;
        let host: HostName = request.host.parse().map_err(invalid)?;
        let set: BTreeMap<_, _> = request.set.into_iter().collect();
        for (key, value) in &set {
            check_label(key, value)?;
        }
        let detail = serde_json::json!({ "set": set, "remove": request.remove });
        let label = async {
            let row = self.0.store.label(&host, set, &request.remove).await.map_err(unstored)?;
            row.ok_or_else(|| unknown(&host))
        };
        let row = self.change(&caller, "host.label", host.as_str(), detail, label).await?;
        let absences = self.absences().await?;
        Ok(Response::new(self.recorded(&row, absences.get(&row.name), true)))
    }

    async fn revoke(
        &self,
        request: Request<RevokeHostRequest>,
    ) -> Result<Response<RevokeReply>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        self.authorise(&caller, What::Administer, None, "host.revoke", &request.host).await?;
        let host: HostName = request.host.parse().map_err(invalid)?;
        let detail = serde_json::json!({ "reason": request.reason });
        let now = self.0.clock.now().as_microsecond();
        let reason = match request.reason.is_empty() {
            true => format!("revoked by {}", caller.name),
            false => format!("revoked by {}: {}", caller.name, request.reason),
        };
        let revoke = async {
            let revoked = self.0.store.revoke_host(&host, &reason, now).await.map_err(unstored)?;
            // Stored first: a link that is made in between finds the host revoked. One that is there
            // is cut even when it was revoked before.
            let link = self.0.links.get(&host);
            let known = self.0.store.host(&host).await.map_err(unstored)?;
            let cut = match known.is_none_or(|h| h.revoked_us.is_some()) {
                true => u32::from(link.inspect(|l| l.cut.cancel()).is_some()),
                false => 0,
            };
            if !revoked {
                return Err(unknown(&host));
            }
            // How it was is kept: what takes its name is compared with what people were told.
            Ok(cut)
        };
        let cut = self.change(&caller, "host.revoke", host.as_str(), detail, revoke).await?;
        Ok(Response::new(RevokeReply { cut }))
    }

    async fn remove(
        &self,
        request: Request<RemoveHostRequest>,
    ) -> Result<Response<RemoveHostReply>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        self.authorise(&caller, What::Administer, None, "host.remove", &request.host).await?;
        let host: HostName = request.host.parse().map_err(invalid)?;
        let detail = serde_json::json!({ "reason": request.reason });
        let remove = async {
            if self.0.store.remove_host(&host).await.map_err(unstored)? {
                // One that linked at this very moment has no record any more.
                self.0.links.get(&host).inspect(|link| link.cut.cancel());
                self.0.health.forget(&host);
                self.0.figures.forget(&host);
                self.0.outlooks.forget(&host);
                self.0.links.forget_twin(&host);
                return Ok(());
            }
            match self.0.store.host(&host).await.map_err(unstored)? {
                Some(_) => Err(linked(&host)),
                None => Err(unknown(&host)),
            }
        };
        self.change(&caller, "host.remove", host.as_str(), detail, remove).await?;
        Ok(Response::new(RemoveHostReply {}))
    }
}

/// A label that every selector can ask for.
pub(super) fn check_label(key: &str, value: &str) -> Result<(), Status> {
    hostler_proto::name::check_label(key, value).map_err(invalid)
}

fn linked(host: &HostName) -> Status {
    let message = format!("{host} is connected and cannot be removed");
    Failure::new(ErrorCode::PreconditionFailed, message)
        .hint(format!("stop its agent first, or: hostlerctl host revoke {host}"))
        .into()
}

pub(super) fn unknown(host: &HostName) -> Status {
    Failure::new(ErrorCode::NotFound, format!("there is no host {host}, or it is revoked"))
        .hint("list the hosts with: hostlerctl hosts --on all")
        .into()
}

/// End of the authority's certificate, which carries no identity.
pub(crate) fn authority_until(der: &[u8]) -> Option<i64> {
    CertificateFacts::until(der).map(|t| t.as_microsecond())
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::CheckState;

    use super::*;
    use crate::health::Standing;

    #[test]
    fn a_host_that_is_linked_was_seen_when_its_link_heard_of_it() {
        let of = |connection| HostRow { connection, last_seen_us: 5, ..HostRow::nobody() };
        assert_eq!(seen_us(&of(Connection::Up), Some(9), Some(7)), 9);
        assert_eq!(seen_us(&of(Connection::Up), None, None), 5, "its link has just ended");
        assert_eq!(seen_us(&of(Connection::Down), None, Some(7)), 7, "the controller was killed");
        assert_eq!(seen_us(&of(Connection::Down), None, Some(3)), 5);
        assert_eq!(
            seen_us(&of(Connection::Never), Some(9), Some(7)),
            5,
            "that was another machine"
        );
    }

    #[test]
    fn a_check_that_never_ran_is_not_well_and_a_host_with_one_that_is_not_is_degraded() {
        let host = |checks: &[(Health, i64)]| {
            let standing = |(number, (hard, checked_us)): (usize, &(Health, i64))| {
                let (check, hard) = (format!("c{number}"), (*hard).into());
                let state = CheckState {
                    check: check.clone(),
                    hard,
                    checked_us: *checked_us,
                    interval_s: 60,
                    ..CheckState::default()
                };
                (check, Standing::new(state, 1))
            };
            Host { checks: checks.iter().enumerate().map(standing).collect(), ..Host::default() }
        };
        let hosts = [
            host(&[(Health::Ok, 1), (Health::Unspecified, 0), (Health::Ok, 0)]),
            host(&[(Health::Critical, 1), (Health::Warning, 0)]),
        ];
        let counted = Checks::count(hosts.iter(), 1);
        assert_eq!(counted, Checks { ok: 1, bad: 2, pending: 2, degraded: 1 });
    }
}
