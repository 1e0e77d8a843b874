//! Everything that was asked for, and how it came out.

use hostler_proto::wire::{
    AuditListRequest, AuditRecord, AuditShowRequest, AuditVerifyReply, AuditVerifyRequest,
    audit_server::Audit,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Api, caller, unstored};
use crate::{
    audit::{CONTROLLER, INIT, LOCAL, LOOK, Record, verify},
    store::AuditFilter,
};

/// Records that are read at a time, so that a long list costs no memory.
const PAGE: u32 = 500;
/// Records between two words on how far the walk through the chain is.
const TOLD: u64 = 50_000;

fn wire(r: Record) -> AuditRecord {
    AuditRecord {
        seq: r.seq,
        time_us: r.time_us,
        kind: r.kind,
        principal: r.principal,
        role: r.role,
        invocation: r.invocation,
        operation: r.operation,
        subject: r.subject,
        outcome: r.outcome,
        detail: r.detail,
        hash: r.hash,
    }
}

/// Who is meant by a name: an operator, unless it says of whom else it is, or is the controller itself or
/// one of those who had its keys and were nobody's.
fn principal(name: &str) -> String {
    match name.is_empty() || name.contains('/') || [CONTROLLER, INIT, LOCAL].contains(&name) {
        true => name.to_owned(),
        false => format!("operator/{name}"),
    }
}

type Records = ReceiverStream<Result<AuditRecord, Status>>;
type Verified = ReceiverStream<Result<AuditVerifyReply, Status>>;

impl Api {
    fn records(&self, mut filter: AuditFilter) -> Response<Records> {
        let (out, records) = mpsc::channel(64);
        let store = self.0.store.clone();
        tokio::spawn(async move {
            let mut left = filter.limit;
            while left > 0 {
                filter.limit = left.min(PAGE);
                let page = match store.audit(&filter).await {
                    Ok(page) => page,
                    Err(error) => {
                        let _ = out.send(Err(unstored(error))).await;
                        return;
                    }
                };
                let Some(last) = page.last() else { return };
                filter.before = last.seq;
                left -= u32::try_from(page.len()).unwrap_or(left).min(left);
                for record in page {
                    if out.send(Ok(wire(record))).await.is_err() {
                        return;
                    }
                }
            }
        });
        Response::new(ReceiverStream::new(records))
    }
}

#[tonic::async_trait]
impl Audit for Api {
    type ListStream = Records;
    type ShowStream = Records;
    type VerifyStream = Verified;

    async fn list(&self, request: Request<AuditListRequest>) -> Result<Response<Records>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        self.look(&caller, "audit.list", &request.host).await?;
        Ok(self.records(AuditFilter {
            since_us: request.since_us,
            subject: request.host,
            principal: principal(&request.operator),
            operation: request.operation,
            without: if request.looks { "" } else { LOOK },
            limit: if request.limit == 0 { 100 } else { request.limit },
            ..AuditFilter::default()
        }))
    }

    async fn show(&self, request: Request<AuditShowRequest>) -> Result<Response<Records>, Status> {
        let caller = caller(&request)?;
        let invocation = request.into_inner().invocation;
        self.look(&caller, "audit.show", &invocation).await?;
        Ok(self.records(AuditFilter { invocation, limit: u32::MAX, ..AuditFilter::default() }))
    }

    async fn verify(
        &self,
        request: Request<AuditVerifyRequest>,
    ) -> Result<Response<Verified>, Status> {
        let caller = caller(&request)?;
        self.look(&caller, "audit.verify", "").await?;
        let (out, verified) = mpsc::channel(4);
        let store = self.0.store.clone();
        tokio::spawn(async move {
            let told = verify(&store, |records| {
                if records.is_multiple_of(TOLD) {
                    let so_far = AuditVerifyReply {
                        intact: true,
                        goes_on: true,
                        records,
                        ..AuditVerifyReply::default()
                    };
                    // A slow reader is told less often.
                    let _ = out.try_send(Ok(so_far));
                }
                !out.is_closed()
            });
            let reply = match told.await {
                // The caller has left.
                Ok(None) => return,
                Ok(Some((walk, problem))) => Ok(AuditVerifyReply {
                    intact: problem.is_none(),
                    broken_at: if problem.is_some() { walk.records + 1 } else { 0 },
                    records: walk.records,
                    head: walk.head,
                    problem: problem.unwrap_or_default(),
                    goes_on: false,
                }),
                Err(error) => Err(unstored(error)),
            };
            let _ = out.send(reply).await;
        });
        Ok(Response::new(ReceiverStream::new(verified)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_an_operator_and_what_was_done_at_the_controller_itself_can_be_asked_for() {
        for (name, meant) in [
            ("", ""),
            ("alice", "operator/alice"),
            ("agent/web-1", "agent/web-1"),
            ("local", "local"),
            ("init", "init"),
            ("controller", "controller"),
            ("operator/local", "operator/local"),
        ] {
            assert_eq!(principal(name), meant);
        }
    }
}
