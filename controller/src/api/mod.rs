//! What the controller answers to operators and to hosts that want a certificate. Each file has one
//! service; what they share is here.

pub mod access;
mod audit;
pub mod credentials;
pub mod enrolment;
mod fleet;
mod health;
mod hearing;
mod itself;
mod listener;
mod operations;
mod outcomes;
mod reconcile;
mod series;

pub(crate) use fleet::authority_until;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hostler_core::{
    clock::Clock,
    identity::{FleetName, PrincipalName},
    link::Keepalive,
    pki::CertificateFacts,
};
use hostler_proto::{
    catalogue::Catalogue,
    name::HostName,
    wire::{ErrorCode, Failure, HelloReply, Status as Health},
};
use tonic::{Request, Status};

use self::outcomes::Outcomes;
use crate::{
    audit::{Auditor, Entry},
    authz::{Caller, Candidate, What, authorise},
    config::Config,
    health::{
        Fleet, Standing,
        absence::{Absence, Lost},
        figures::Figures,
        outlook::Outlooks,
        problems::word,
        recorder::Recorder,
    },
    links::{Link, Links, Twin},
    metrics::Metrics,
    presence::Presence,
    runs::Runs,
    selector::Selector,
    sessions::Sessions,
    store::{Change, Connection, HostRow, Store, StoreError},
    vault::Vault,
};

/// For how long a clone of a host is told of after it was last seen.
const TWIN_US: i64 = 3_600_000_000;

/// The controller's parts, as its services see them. A clone is the same controller.
#[derive(Debug, Clone)]
pub struct Api(pub Arc<App>);

/// Everything that a controller is made of.
#[derive(Debug)]
pub struct App {
    /// The fleet's name.
    pub fleet: FleetName,
    /// Its configuration.
    pub config: Config,
    /// The keepalive of every connection.
    pub keepalive: Keepalive,
    /// Keys and certificates.
    pub vault: Vault,
    /// What must outlive it.
    pub store: Store,
    /// The way into the audit.
    pub auditor: Auditor,
    /// Agents that are connected.
    pub links: Links,
    /// Operators that are connected.
    pub sessions: Sessions,
    /// Requests that are under way.
    pub runs: Runs,
    /// The operations of this build.
    pub catalogue: &'static Catalogue,
    /// Time and ids.
    pub clock: Arc<dyn Clock>,
    /// Which hosts are linked, for the store.
    pub presence: Presence,
    /// How every check of every host stands.
    pub health: Fleet,
    /// What of it is written down.
    pub recorder: Recorder,
    /// The figures of checks over time.
    pub figures: Figures,
    /// What of them runs out soon.
    pub outlooks: Outlooks,
    /// What is counted.
    pub metrics: Metrics,
}

/// Who makes this call; put there by the connection that carries it.
fn caller<T>(request: &Request<T>) -> Result<Arc<Caller>, Status> {
    let caller = request.extensions().get::<Arc<Caller>>();
    caller.cloned().ok_or_else(|| {
        Failure::new(ErrorCode::Unauthenticated, "the call came over no operator's session").into()
    })
}

/// How a check stands that has no state yet; no selector asks for it.
const PENDING: &str = "pending";

/// A failure of the store, as callers see it.
pub(crate) fn unstored(error: impl std::fmt::Display) -> Status {
    let message = format!("the store cannot be used: {error}");
    Failure::new(ErrorCode::Unreachable, message).hint("look at the controller's log").into()
}

/// As much of a selector as a record needs to tell what was looked at.
fn shortened(subject: &str) -> String {
    const LONGEST: usize = 200;
    match subject.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &subject[..end]),
        None => subject.to_owned(),
    }
}

impl Api {
    /// Who stands behind an operator's certificate; none when it may not come in.
    ///
    /// # Errors
    /// When the store cannot say it.
    pub(crate) async fn caller_of(
        &self,
        name: &PrincipalName,
        peer: &CertificateFacts,
    ) -> Result<Option<Caller>, StoreError> {
        Ok(match self.0.store.operator(name).await {
            Ok(Some(row)) if row.revoked_us.is_none() && row.key == peer.key.to_string() => {
                Some(Caller {
                    name: name.clone(),
                    role: row.role,
                    scope: row.scope,
                    operations: row.operations,
                })
            }
            Ok(_) => {
                tracing::warn!(operator = %name, "refused: revoked, replaced or not known here");
                None
            }
            Err(error) => {
                tracing::error!(%error, "the store cannot say who this operator is");
                return Err(error);
            }
        })
    }

    /// A record of the audit that begins with who asks.
    fn entry(&self, caller: &Caller) -> Entry {
        Entry {
            principal: format!("operator/{}", caller.name),
            role: caller.role.to_string(),
            ..Entry::default()
        }
    }

    /// Permits something, or records that it was denied.
    async fn authorise(
        &self,
        caller: &Caller,
        what: What<'_>,
        host: Option<&Candidate<'_>>,
        operation: &str,
        subject: &str,
    ) -> Result<(), Status> {
        let Err(denied) = authorise(caller, what, host) else { return Ok(()) };
        let entry = Entry {
            kind: "denied",
            operation: operation.to_owned(),
            subject: subject.to_owned(),
            outcome: "denied".to_owned(),
            ..self.entry(caller)
        };
        self.0.auditor.record_all(vec![entry]).await.map_err(operations::unaudited)?;
        Err(Failure::from(denied).into())
    }

    /// Permits a look at what the controller knows, and records it.
    async fn look(&self, caller: &Caller, operation: &str, subject: &str) -> Result<(), Status> {
        self.authorise(caller, What::Look, None, operation, subject).await?;
        self.looked(caller, operation, subject);
        Ok(())
    }

    /// Records a look that was permitted.
    fn looked(&self, caller: &Caller, operation: &str, subject: &str) {
        let (operation, subject) = (operation.to_owned(), shortened(subject));
        self.0.auditor.looked(Entry { operation, subject, ..self.entry(caller) });
    }

    /// Makes a change: first it is in the audit, then it is made, then how it came out is there too.
    async fn change<T>(
        &self,
        caller: &Caller,
        operation: &str,
        subject: &str,
        detail: serde_json::Value,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let intent = Entry {
            kind: "intent",
            invocation: self.0.clock.id().to_string(),
            operation: operation.to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_string(),
            ..self.entry(caller)
        };
        let recorded = self.0.auditor.record_all(vec![intent.clone()]).await;
        recorded.map_err(operations::unaudited)?;
        let done = work.await;
        let (outcome, summary) = match &done {
            Ok(_) => ("ok", ""),
            Err(status) => ("failed", status.message()),
        };
        let outcome = Entry {
            kind: "outcome",
            outcome: outcome.to_owned(),
            detail: serde_json::json!({ "summary": summary }).to_string(),
            ..intent
        };
        self.came_out(outcome).await;
        done
    }

    /// Records how something came out. It is done and cannot be undone by hiding it, and its answer may
    /// hold what is told only once: what cannot be recorded now is recorded later.
    async fn came_out(&self, outcome: Entry) {
        let (operation, subject) = (outcome.operation.clone(), outcome.subject.clone());
        let mut outcomes = Outcomes::new(self.0.auditor.clone(), self.0.store.clone());
        outcomes.add([outcome]);
        if outcomes.write_soon().await.is_some() {
            tracing::error!(operation, subject, "its outcome is not in the audit yet");
        }
    }

    /// The hosts that a selector matches, by name.
    async fn select(&self, on: &str) -> Result<Vec<Arc<HostRow>>, Status> {
        let selector: Selector = on.parse().map_err(operations::invalid)?;
        let hosts = self.0.store.hosts().await.map_err(unstored)?;
        let health = match selector.asks_for_health() {
            true => self.health_words(&hosts),
            false => HashMap::new(),
        };
        let absences = match selector.asks_for_absence() {
            true => self.absences().await?,
            false => HashMap::new(),
        };
        let none = BTreeMap::new();
        let matches = |h: &HostRow| {
            let candidate = h.candidate_with(health.get(&h.name).unwrap_or(&none));
            let state = absences.get(&h.name).and_then(Absence::state);
            selector.matches(&Candidate { state: state.unwrap_or(candidate.state), ..candidate })
        };
        if let Some(unknown) = selector.unknown_name(hosts.iter().map(|h| &h.name)) {
            return Err(Failure::new(ErrorCode::NotFound, unknown)
                .hint("list the hosts with: hostlerctl hosts --on all")
                .into());
        }
        // A revoked host is no longer one of "all": it is meant only by its name or its state.
        let meant = |h: &Arc<HostRow>| {
            matches(h) && (h.revoked_us.is_none() || selector.asks_for_revoked(&h.name))
        };
        let matching: Vec<_> = hosts.into_iter().filter(meant).collect();
        if matching.is_empty() {
            let message = format!("no host matches \"{}\"", shortened(on));
            return Err(Failure::new(ErrorCode::NotFound, message)
                .hint("list the hosts with: hostlerctl hosts --on all")
                .into());
        }
        Ok(matching)
    }

    /// How many hosts there are, without those that were revoked.
    async fn size(&self) -> Result<u32, Status> {
        let hosts = self.0.store.hosts().await.map_err(unstored)?;
        let count = hosts.iter().filter(|h| h.revoked_us.is_none()).count();
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// How checks stand, in the words of selectors; of a host that is away nobody knows.
    fn health_words(&self, hosts: &[Arc<HostRow>]) -> HashMap<HostName, BTreeMap<String, String>> {
        let now = self.0.clock.now().as_microsecond();
        self.0.health.look(|health| {
            let words = |host: &Arc<HostRow>| {
                let status = |s: &Standing| match host.connection {
                    Connection::Up if s.pending() => PENDING,
                    Connection::Up => word(s.shown(now)),
                    _ => word(Health::Unknown),
                };
                let checks = health.get(&host.name)?.checks.iter();
                let words = checks.map(|(name, s)| (name.to_owned(), status(s).to_owned()));
                Some((host.name.clone(), words.collect()))
            };
            hosts.iter().filter_map(words).collect()
        })
    }

    pub(crate) async fn connected(&self, link: &Link, hello: HelloReply, peer: &CertificateFacts) {
        let at_us = self.0.clock.now().as_microsecond();
        let certificate_until_us = peer.not_after.as_microsecond();
        let (host, address) = (link.host.clone(), link.address.clone());
        tracing::info!(%host, from = address, "linked");
        let (left, silent) = self.0.health.arrived(&host, at_us);
        let hello = Box::new(hello);
        let change = Change::Up { host, address, hello, certificate_until_us, left, silent, at_us };
        self.0.presence.tell(change).await;
    }

    pub(crate) async fn disconnected(&self, link: &Link, lost: Lost, reason: &str) {
        let at_us = self.0.clock.now().as_microsecond();
        let (host, reason) = (link.host.clone(), reason.to_owned());
        tracing::warn!(%host, reason, "the link is lost");
        let left = self.0.health.left(&host);
        let seen_us = link.seen_us(at_us);
        self.0.presence.tell(Change::Down { host, lost, reason, left, seen_us, at_us }).await;
    }

    pub(crate) async fn report_clone(
        &self,
        host: &HostName,
        linked: &str,
        from: std::net::SocketAddr,
    ) {
        let now = self.0.clock.now().as_microsecond();
        let twin = Twin { from: from.to_string(), seen_us: now, silent: false };
        let before = self.0.links.note_twin(host.clone(), twin);
        // It comes back again and again; the audit needs it once an hour.
        if before.is_some_and(|t| !t.silent && t.seen_us > now - TWIN_US) {
            return;
        }
        tracing::error!(%host, linked, %from, "two agents use one host's key");
        let entry = Entry {
            kind: "denied",
            principal: format!("agent/{host}"),
            operation: "host.link".into(),
            subject: host.to_string(),
            outcome: "denied".into(),
            detail: serde_json::json!({
                "reason": "clone: another agent is linked with the same key",
                "linked": linked,
                "refused": from.to_string(),
            })
            .to_string(),
            ..Entry::default()
        };
        if let Err(error) = self.0.auditor.record_all(vec![entry]).await {
            tracing::error!(%host, %error, "a clone could not be audited");
        }
    }

    /// A link that did not answer lost its place to another agent with the host's key. That is a host
    /// that lost power and is back, or a copy of one that hangs.
    pub(crate) async fn report_replaced(&self, link: &Link, before: &Link) {
        let host = &link.host;
        let rebooted = link.rebooted(before);
        tracing::warn!(%host, from = link.address, before = before.address, rebooted,
            "an agent took the place of one that did not answer");
        if !rebooted {
            let seen_us = self.0.clock.now().as_microsecond();
            let twin = Twin { from: before.address.clone(), seen_us, silent: true };
            self.0.links.note_twin(host.clone(), twin);
        }
        let entry = Entry {
            kind: "change",
            principal: format!("agent/{host}"),
            operation: "host.link".into(),
            subject: host.to_string(),
            outcome: "ok".into(),
            detail: serde_json::json!({
                "reason": "the agent that was linked did not answer, and lost its place to this one",
                "before": before.address,
                "from": link.address,
                "rebooted": rebooted,
            })
            .to_string(),
            ..Entry::default()
        };
        if let Err(error) = self.0.auditor.record_all(vec![entry]).await {
            tracing::error!(%host, %error, "the change of a host's link could not be audited");
        }
    }
}
