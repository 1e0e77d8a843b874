//! The closed table of error codes: what each means to gRPC, to a retry, and to an exit status.

use tonic::{Code, Status};

use crate::wire::{ErrorCode, Evidence, Failure};

/// What the rest of the world makes of an error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// Stable name for machines, e.g. `not-found`.
    pub name: &'static str,
    /// The nearest gRPC code.
    pub grpc: Code,
    /// The same request may succeed later without anybody changing it.
    pub retryable: bool,
    /// Exit status of hostlerctl when a command ends with it.
    pub exit: u8,
}

/// The one table of meanings.
pub fn meaning(code: ErrorCode) -> Meaning {
    use ErrorCode as E;
    let (name, grpc, retryable, exit) = match code {
        E::Unspecified | E::Internal => ("internal", Code::Internal, false, 1),
        E::InvalidArgument => ("invalid-argument", Code::InvalidArgument, false, 2),
        E::NotFound => ("not-found", Code::NotFound, false, 1),
        E::AlreadyExists => ("already-exists", Code::AlreadyExists, false, 1),
        E::PreconditionFailed => ("precondition-failed", Code::FailedPrecondition, false, 1),
        E::PermissionDenied => ("permission-denied", Code::PermissionDenied, false, 4),
        E::Unauthenticated => ("unauthenticated", Code::Unauthenticated, false, 4),
        E::Busy => ("busy", Code::Aborted, true, 1),
        E::LimitExceeded => ("limit-exceeded", Code::ResourceExhausted, true, 1),
        E::Unreachable => ("unreachable", Code::Unavailable, true, 3),
        E::Timeout => ("timeout", Code::DeadlineExceeded, true, 3),
        E::Unsupported => ("unsupported", Code::Unimplemented, false, 1),
        E::HostFault => ("host-fault", Code::Unknown, false, 1),
        E::Cancelled => ("cancelled", Code::Cancelled, true, 3),
        E::OutcomeUnknown => ("outcome-unknown", Code::DataLoss, false, 3),
    };
    Meaning { name, grpc, retryable, exit }
}

impl Failure {
    /// A failure that says what happened, to what.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), ..Self::default() }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Adds what was really asked of the system.
    #[must_use]
    pub fn evidence(mut self, evidence: Evidence) -> Self {
        self.evidence.push(evidence);
        self
    }

    /// The code's meaning; an unknown number is treated as a defect.
    pub fn meaning(&self) -> Meaning {
        meaning(ErrorCode::try_from(self.code).unwrap_or(ErrorCode::Internal))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}{}", self.message, joint(&self.message, &self.hint), self.hint)
    }
}

impl std::error::Error for Failure {}

/// Bytes of a message, and of a hint, that a status takes. It travels in headers, of which a peer takes
/// 16 KiB, once as text in which a byte may need three, and once in the details.
const MESSAGE: usize = 1000;
/// Bytes of evidence that it takes; what is longer stays behind.
const EVIDENCE: usize = 3000;

/// What stands between what happened and what to do next: a message may end in a question.
pub fn joint(message: &str, hint: &str) -> &'static str {
    match (hint.is_empty(), message.ends_with('?')) {
        (true, _) => "",
        (false, true) => " ",
        (false, false) => "; ",
    }
}

/// Carries a failure over gRPC: the encoded message rides in the status's details, so that a
/// Hostler peer gets all of it and any other client still gets code and message.
impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut failure = failure;
        shorten(&mut failure.message);
        shorten(&mut failure.hint);
        if failure.evidence.iter().map(prost::Message::encoded_len).sum::<usize>() > EVIDENCE {
            failure.evidence.clear();
        }
        let details = prost::Message::encode_to_vec(&failure);
        Status::with_details(failure.meaning().grpc, failure.to_string(), details.into())
    }
}

fn shorten(text: &mut String) {
    if text.len() > MESSAGE {
        let end = (0..=MESSAGE).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
}

impl Failure {
    /// The failure that a peer put into a status; none when the status was made on the way, by a
    /// connection that broke.
    pub fn told(status: &Status) -> Option<Self> {
        let failure = <Failure as prost::Message>::decode(status.details()).ok()?;
        (failure.code != 0).then_some(failure)
    }
}

/// Reads a failure back; a status that did not come from Hostler is translated by its code.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if let Some(failure) = Self::told(&status) {
            return failure;
        }
        let code = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => ErrorCode::InvalidArgument,
            Code::NotFound => ErrorCode::NotFound,
            Code::AlreadyExists => ErrorCode::AlreadyExists,
            Code::FailedPrecondition => ErrorCode::PreconditionFailed,
            Code::PermissionDenied => ErrorCode::PermissionDenied,
            Code::Unauthenticated => ErrorCode::Unauthenticated,
            Code::Aborted => ErrorCode::Busy,
            Code::ResourceExhausted => ErrorCode::LimitExceeded,
            Code::Unavailable => ErrorCode::Unreachable,
            Code::DeadlineExceeded => ErrorCode::Timeout,
            Code::Unimplemented => ErrorCode::Unsupported,
            Code::Cancelled => ErrorCode::Cancelled,
            Code::DataLoss => ErrorCode::OutcomeUnknown,
            Code::Ok | Code::Unknown | Code::Internal => ErrorCode::Internal,
        };
        Failure::new(code, status.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes() -> impl Iterator<Item = ErrorCode> {
        (1..=i32::from(u8::MAX)).map_while(|n| ErrorCode::try_from(n).ok())
    }

    #[test]
    fn every_code_has_a_name_of_its_own() {
        let mut names: Vec<_> = codes().map(|c| meaning(c).name).collect();
        assert_eq!(names.len(), 15);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 15);
    }

    #[test]
    fn a_failure_survives_the_way_through_a_grpc_status() {
        for code in codes() {
            let failure = Failure::new(code, "disk /srv is full").hint("free some space");
            assert_eq!(Failure::from(Status::from(failure.clone())), failure);
        }
    }

    #[test]
    fn advice_follows_a_question_without_another_sign() {
        let shown = |message: &str, hint: &str| {
            Failure::new(ErrorCode::NotFound, message).hint(hint).to_string()
        };
        assert_eq!(shown("it is gone", "look elsewhere"), "it is gone; look elsewhere");
        assert_eq!(shown("did you mean web-1?", "list them"), "did you mean web-1? list them");
        assert_eq!(shown("it is gone", ""), "it is gone");
    }

    #[test]
    fn a_status_of_another_server_is_read_by_its_code() {
        let failure = Failure::from(Status::unavailable("connection reset"));
        assert_eq!(failure.code(), ErrorCode::Unreachable);
        assert_eq!(failure.message, "connection reset");
    }

    #[test]
    fn a_failure_of_any_length_fits_into_the_headers_of_an_answer() {
        let evidence = Evidence { what: "x".repeat(9000), ..Evidence::default() };
        let mut failure =
            Failure::new(ErrorCode::NotFound, "ä".repeat(9000)).hint("ö".repeat(9000));
        failure.evidence.push(evidence);
        let status = Status::from(failure);
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).expect("headers");
        let size: usize = headers.iter().map(|(name, v)| name.as_str().len() + v.len() + 32).sum();
        assert!(size < 16 << 10, "{size}");
        let told = Failure::told(&status).expect("a failure");
        assert!(told.message.ends_with("ä…") && told.message.len() <= MESSAGE + 3);
    }
}
