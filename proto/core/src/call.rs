//! What travels with a call beside its message: who asks for what, under which id, how long it may
//! take. And the codec with which an operation's messages pass as bytes, unread.

use std::{str::FromStr, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use hostler_proto::wire::{ErrorCode, Failure};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::{MetadataMap, MetadataValue},
};

use crate::clock::InvocationId;

const INVOCATION: &str = "hostler-invocation";
const MODE: &str = "hostler-mode";
const PLAN_DIGEST: &str = "hostler-plan-digest";
const OPERATOR: &str = "hostler-operator";
const TIMEOUT: &str = "grpc-timeout";

/// Whether an action is only to say what it would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Show the plan, change nothing.
    Plan,
    /// Carry it out.
    Apply,
}

/// The circumstances of one call of one operation on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The request that this belongs to, on one or many hosts.
    pub invocation: InvocationId,
    /// Plan or apply; without meaning for a probe.
    pub mode: Mode,
    /// Only this plan may be carried out.
    pub plan_digest: Option<String>,
    /// Who asked the controller for it; empty when a client called the agent directly.
    pub operator: String,
    /// How long it may take; the operation's own deadline when it is left open.
    pub timeout: Option<Duration>,
}

impl Call {
    /// Writes it into a call's metadata.
    pub fn write(&self, metadata: &mut MetadataMap) {
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = MetadataValue::from_str(value) {
                metadata.insert(name, value);
            }
        };
        set(INVOCATION, &self.invocation.to_string());
        set(MODE, if self.mode == Mode::Plan { "plan" } else { "apply" });
        if let Some(digest) = &self.plan_digest {
            set(PLAN_DIGEST, digest);
        }
        set(OPERATOR, &self.operator);
        if let Some(timeout) = self.timeout {
            // Eight digits at most: seconds reach beyond three years.
            set(TIMEOUT, &format!("{}S", timeout.as_secs().clamp(1, 99_999_999)));
        }
    }

    /// Reads it from a call's metadata; `fresh` is the id of a call that came without one.
    ///
    /// # Errors
    /// Names the first header that cannot be read.
    pub fn read(metadata: &MetadataMap, fresh: InvocationId) -> Result<Self, Failure> {
        let get = |name: &'static str| match metadata.get(name).map(MetadataValue::to_str) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(bad(name, "it is no text")),
        };
        let invocation = match get(INVOCATION)? {
            Some(text) => text.parse().map_err(|_| bad(INVOCATION, "it is no invocation id"))?,
            None => fresh,
        };
        let mode = match get(MODE)? {
            Some("plan") => Mode::Plan,
            None | Some("apply") => Mode::Apply,
            Some(_) => return Err(bad(MODE, "it is neither plan nor apply")),
        };
        let timeout = get(TIMEOUT)?
            .map(|text| timeout(text).ok_or_else(|| bad(TIMEOUT, "it is no gRPC timeout")))
            .transpose()?;
        Ok(Self {
            invocation,
            mode,
            plan_digest: get(PLAN_DIGEST)?.map(ToOwned::to_owned),
            operator: get(OPERATOR)?.unwrap_or_default().chars().take(63).collect(),
            timeout,
        })
    }
}

fn bad(header: &str, problem: &str) -> Failure {
    Failure::new(ErrorCode::InvalidArgument, format!("the header {header} is refused: {problem}"))
}

/// A timeout as gRPC writes it: up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

/// The room that a stream's buffers have at first, and at how much waiting bytes are passed on. Thousands
/// of streams are open that say a little once a minute; what says more gets more room.
fn buffers() -> BufferSettings {
    BufferSettings::new(1 << 10, 32 << 10)
}

/// Passes messages as the bytes that they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::FixedClock;

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let clock = FixedClock::at("2026-01-01T00:00:00Z".parse().expect("time"));
        let call = Call {
            invocation: InvocationId::new(&clock),
            mode: Mode::Plan,
            plan_digest: Some("ab12".into()),
            operator: "alice".into(),
            timeout: Some(Duration::from_secs(90)),
        };
        let mut metadata = MetadataMap::new();
        call.write(&mut metadata);
        assert_eq!(Call::read(&metadata, InvocationId::new(&clock)).expect("read"), call);
    }

    #[test]
    fn a_mode_that_is_misspelt_is_not_taken_for_apply() {
        let clock = FixedClock::at("2026-01-01T00:00:00Z".parse().expect("time"));
        let mut metadata = MetadataMap::new();
        metadata.insert(MODE, MetadataValue::from_static("paln"));
        let error = Call::read(&metadata, InvocationId::new(&clock)).expect_err("misspelt");
        assert_eq!(
            error.message,
            "the header hostler-mode is refused: it is neither plan nor apply"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_timeout_parser_panic(text in "\\PC{0,12}") {
            let _ = timeout(&text);
        }
    }
}
