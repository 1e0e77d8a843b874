//! Which handler runs which operation. The list comes from the contract: an operation without a
//! handler does not compile.

use std::{collections::HashMap, fmt::Debug, marker::PhantomData, pin::Pin, sync::LazyLock};

use hostler_core::call::Mode;
use hostler_proto::{
    operation::Operation,
    wire::{ErrorCode, Failure, Finding, Outcome, PlanStep, Status},
};
use prost::{Message, Name};
use prost_reflect::DynamicMessage;
use sha2::{Digest, Sha256};

use crate::operation::{Action, Answer, Context, Probe, Unmeasured};

/// An operation under way.
pub(super) type Running = Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>>;

/// What an action is to do with its plan.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// Show it or carry it out.
    pub mode: Mode,
    /// Carry out only the plan with this digest.
    pub plan_digest: Option<String>,
}

trait Handler: Send + Sync {
    fn run(&self, request: DynamicMessage, order: Order, cx: Context) -> Running;
}

/// The handlers by the path of their rpc.
pub(super) struct Registry(HashMap<&'static str, Box<dyn Handler>>);

impl Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Registry").field(&self.0.len()).finish()
    }
}

macro_rules! handlers {
    (probes [ $($probe:ty,)* ] actions [ $($action:ty,)* ]) => {{
        let mut all: HashMap<&'static str, Box<dyn Handler>> = HashMap::new();
        $(all.insert(<$probe as Operation>::PATH, Box::new(Probing::<$probe>(PhantomData)));)*
        $(all.insert(<$action as Operation>::PATH, Box::new(Acting::<$action>(PhantomData)));)*
        Registry(all)
    }};
}

impl Registry {
    /// All operations of the contract.
    pub(super) fn complete() -> &'static Self {
        static COMPLETE: LazyLock<Registry> =
            LazyLock::new(|| hostler_proto::for_each_operation!(handlers));
        &COMPLETE
    }

    /// Begins an operation; none when there is no rpc of that path.
    pub(super) fn run(
        &self,
        path: &str,
        request: DynamicMessage,
        order: Order,
        cx: Context,
    ) -> Option<Running> {
        Some(self.0.get(path)?.run(request, order, cx))
    }
}

struct Probing<P>(PhantomData<fn() -> P>);

impl<P: Probe> Handler for Probing<P> {
    fn run(&self, request: DynamicMessage, _: Order, cx: Context) -> Running {
        Box::pin(async move {
            let request = typed::<P>(&request)?;
            P::observe(request, &cx)
                .await
                .map(outcome)
                .or_else(|failure| unmeasured(P::NAME, failure))
        })
    }
}

/// What a probe is told of that the host did not let itself be measured: nothing is known, which is an
/// answer. A request that cannot be meant, or may not be made, stays a failure.
fn unmeasured(operation: &str, failure: Failure) -> Result<Outcome, Failure> {
    match failure.code() {
        ErrorCode::Unreachable
        | ErrorCode::HostFault
        | ErrorCode::PreconditionFailed
        | ErrorCode::Unsupported
        | ErrorCode::LimitExceeded => {}
        _ => return Err(failure),
    }
    let finding = Finding::new(Status::Unknown, operation, failure.message).why(failure.hint);
    Ok(Outcome {
        status: Status::Unknown.into(),
        summary: finding.summary.clone(),
        findings: vec![finding],
        evidence: failure.evidence,
        ..Outcome::default()
    })
}

struct Acting<A>(PhantomData<fn() -> A>);

impl<A: Action> Handler for Acting<A> {
    fn run(&self, request: DynamicMessage, order: Order, cx: Context) -> Running {
        Box::pin(async move {
            let request = typed::<A>(&request)?;
            let plan = A::plan(&request, &cx).await?;
            let digest = digest(&plan.steps, &plan.details);
            if order.plan_digest.as_ref().is_some_and(|wanted| *wanted != digest) {
                let message = format!("{}: the host has changed since the plan was made", A::NAME);
                return Err(Failure::new(ErrorCode::PreconditionFailed, message)
                    .hint("look at the plan again with --plan"));
            }
            let steps = plan.steps.len();
            for step in plan.steps {
                cx.step(step).await;
            }
            if steps == 0 || order.mode == Mode::Plan {
                let summary = match steps {
                    0 => "nothing to do".to_owned(),
                    1 => "would do 1 step".to_owned(),
                    n => format!("would do {n} steps"),
                };
                let answer = Answer::ok(summary, A::Result::default());
                // Nothing was done, so there is no result.
                let answer = Answer { unmeasured: Some(Unmeasured::Otherwise), ..answer };
                return Ok(Outcome { unchanged: true, plan_digest: digest, ..outcome(answer) });
            }
            let answer = A::apply(plan.details, &cx).await?;
            Ok(Outcome { plan_digest: digest, ..outcome(answer) })
        })
    }
}

fn typed<O: Operation>(request: &DynamicMessage) -> Result<O::Request, Failure> {
    request.transcode_to().map_err(|_| {
        let message = format!("{}: the request does not have the operation's form", O::NAME);
        Failure::new(ErrorCode::Internal, message)
    })
}

fn outcome<R: Message + Name>(answer: Answer<R>) -> Outcome {
    let (r#type, data) = match answer.unmeasured {
        Some(_) => (String::new(), Vec::new()),
        None => (R::full_name(), answer.data.encode_to_vec()),
    };
    Outcome {
        status: answer.status.into(),
        summary: answer.summary,
        findings: answer.findings,
        r#type,
        data,
        evidence: answer.evidence,
        figures: answer.figures,
        ..Outcome::default()
    }
}

/// Two plans with one digest do the same: it covers every step and every detail.
fn digest(steps: &[PlanStep], details: &impl Debug) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{steps:?}\n{details:?}"));
    data_encoding::HEXLOWER.encode(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use hostler_proto::{catalogue::Catalogue, wire::Evidence};

    use super::*;

    #[test]
    fn an_answer_in_which_nothing_was_measured_has_no_result() {
        use hostler_proto::ops::RedisStatus;
        let finding = Finding::new(Status::Critical, "main", "redis \"main\" does not answer");
        let none = outcome(Answer::<RedisStatus>::unmeasured(finding));
        assert_eq!((none.r#type.as_str(), none.data.len()), ("", 0));
        assert_eq!(none.status(), Status::Critical);
        assert_eq!(none.summary, "redis \"main\" does not answer");
        let measured = outcome(Answer::ok("", RedisStatus::default()));
        assert_eq!(measured.r#type, "hostler.ops.v1.RedisStatus");
    }

    #[test]
    fn a_host_that_cannot_be_measured_is_unknown_and_a_wrong_request_is_none() {
        let evidence = Evidence::new("argv", "nginx -t");
        let failed = |code| {
            let failure = Failure::new(code, "nginx is not there").hint("install it");
            unmeasured("nginx.test", failure.evidence(evidence.clone()))
        };
        let told = failed(ErrorCode::Unsupported).expect("an answer");
        assert_eq!((told.status(), told.summary.as_str()), (Status::Unknown, "nginx is not there"));
        assert_eq!((told.r#type.as_str(), &told.evidence), ("", &vec![evidence.clone()]));
        assert_eq!((told.findings[0].why.as_str(), told.findings.len()), ("install it", 1));
        for code in [ErrorCode::InvalidArgument, ErrorCode::NotFound, ErrorCode::PermissionDenied] {
            assert_eq!(failed(code).expect_err("a failure").code(), code);
        }
    }

    #[test]
    fn every_operation_of_the_catalogue_has_a_handler_and_no_other_exists() {
        let registry = Registry::complete();
        let operations = Catalogue::embedded().all().expect("a catalogue");
        assert_eq!(registry.0.len(), operations.len());
        for spec in operations {
            assert!(registry.0.contains_key(spec.path.as_str()), "{}", spec.path);
        }
    }
}
