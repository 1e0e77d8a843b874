//! What was lost and can still be known: when a host is linked again, or an outcome was lost with a
//! link whose place another has taken, its agent is asked how the actions ended.

use std::{sync::Arc, time::Duration};

use hostler_proto::wire::{InvocationRequest, Kind, invocation_reply::State};

use super::{Api, operations::outcome_entry};
use crate::{
    audit::{Entry, Record},
    links::Link,
};

/// Lost outcomes that are asked for at a time; there are few, and the newest matter most.
const LOST: u32 = 20;
/// How long the agent may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How often an action that still runs is asked for again.
const AGAIN: Duration = Duration::from_secs(5);

impl Api {
    /// Asks the agent behind a link for every outcome that is unknown; ends with the link.
    pub(crate) async fn reconcile(&self, link: Arc<Link>) {
        let _one_at_a_time = link.reconciling.lock().await;
        let lost = match self.lost_outcomes(&link).await {
            Ok(lost) => lost,
            Err(error) => {
                tracing::error!(host = %link.host, %error, "lost outcomes cannot be looked up");
                return;
            }
        };
        for record in lost {
            let _ = link.cut.run_until_cancelled(self.reconcile_one(&link, &record)).await;
        }
    }

    /// Agents remember actions; a probe can be asked again.
    async fn lost_outcomes(
        &self,
        link: &Link,
    ) -> Result<Vec<Record>, Box<dyn std::error::Error + Send + Sync>> {
        let all = self.0.catalogue.all()?;
        let actions = all.iter().filter(|spec| spec.kind == Kind::Action);
        let actions: Vec<_> = actions.map(|spec| spec.name.as_str()).collect();
        Ok(self.0.store.unknown_outcomes(&link.host, &actions, LOST).await?)
    }

    async fn reconcile_one(&self, link: &Link, record: &Record) {
        let intent = Entry {
            kind: "intent",
            principal: record.principal.clone(),
            role: record.role.clone(),
            invocation: record.invocation.clone(),
            operation: record.operation.clone(),
            ..Entry::default()
        };
        let known = |outcome: &str, summary: &str| Entry {
            kind: "reconciled",
            subject: link.host.to_string(),
            outcome: outcome.to_owned(),
            detail: serde_json::json!({ "summary": summary }).to_string(),
            ..intent.clone()
        };
        let entry = loop {
            let request = InvocationRequest { id: record.invocation.clone() };
            let mut agent = link.agent();
            let asked = tokio::time::timeout(ANSWER, agent.invocation(request)).await;
            let Ok(Ok(reply)) = asked else { return };
            let reply = reply.into_inner();
            match (reply.state(), &reply.last) {
                (State::Running, _) => tokio::time::sleep(AGAIN).await,
                (State::Ended, Some(last)) => {
                    break Entry { kind: "reconciled", ..outcome_entry(&intent, &link.host, last) };
                }
                (State::Interrupted, _) => {
                    break known("interrupted", "the agent ended while it ran; look at the host");
                }
                (State::Unheard, _) => {
                    break known("not-carried-out", "the agent has not heard of it");
                }
                _ => return,
            }
        };
        let (invocation, outcome) = (entry.invocation.clone(), entry.outcome.clone());
        match self.0.auditor.record_all(vec![entry]).await {
            Ok(()) => {
                tracing::info!(host = %link.host, invocation, outcome, "a lost outcome is known");
            }
            Err(error) => tracing::error!(%error, "a lost outcome could not be audited"),
        }
    }
}
