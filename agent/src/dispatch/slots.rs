//! How much runs at one time for those who call. What looks, what follows and what acts have rooms of their
//! own: however many look on, something can still be done.

use std::sync::Arc;

use hostler_proto::{
    catalogue::OperationSpec,
    wire::{ErrorCode, Failure},
};
use prost_reflect::{DynamicMessage, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Operations that look, plans included.
const LOOKING: usize = 32;
/// Operations that follow something, for as long as somebody reads.
const FOLLOWING: usize = 16;
/// Actions that are carried out.
const ACTING: usize = 16;

/// Which room an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    Looks,
    Follows,
    Acts,
}

impl Pool {
    pub(super) fn of(spec: &OperationSpec, request: &DynamicMessage, acts: bool) -> Self {
        let asked = request.get_field_by_name("follow");
        match asked.as_deref() {
            _ if acts => Self::Acts,
            Some(Value::Bool(true)) if spec.follows => Self::Follows,
            _ => Self::Looks,
        }
    }
}

#[derive(Debug)]
pub(super) struct Slots {
    looking: Arc<Semaphore>,
    following: Arc<Semaphore>,
    acting: Arc<Semaphore>,
}

impl Default for Slots {
    fn default() -> Self {
        let room = |slots| Arc::new(Semaphore::new(slots));
        Self { looking: room(LOOKING), following: room(FOLLOWING), acting: room(ACTING) }
    }
}

impl Slots {
    /// A slot, taken until it is dropped.
    ///
    /// # Errors
    /// When all of that room are taken.
    pub(super) fn take(&self, pool: Pool) -> Result<OwnedSemaphorePermit, Failure> {
        let (room, message) = match pool {
            Pool::Looks => {
                (&self.looking, format!("{LOOKING} operations already look at this host"))
            }
            Pool::Follows => {
                let message =
                    format!("{FOLLOWING} operations already follow something on this host");
                (&self.following, message)
            }
            Pool::Acts => (&self.acting, format!("{ACTING} actions already run on this host")),
        };
        Arc::clone(room).try_acquire_owned().map_err(|_| {
            Failure::new(ErrorCode::LimitExceeded, message).hint("try again when some have ended")
        })
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::{args, catalogue::Catalogue};
    use serde_json::json;

    use super::*;

    #[test]
    fn those_who_follow_leave_room_for_those_who_look_and_who_act() {
        let slots = Slots::default();
        let followers: Vec<_> =
            (0..FOLLOWING).map(|_| slots.take(Pool::Follows).expect("room")).collect();
        let refused = slots.take(Pool::Follows).expect_err("full");
        assert_eq!(refused.code(), ErrorCode::LimitExceeded);
        assert!(refused.message.contains("follow"), "{refused}");
        let lookers: Vec<_> =
            (0..LOOKING).map(|_| slots.take(Pool::Looks).expect("room")).collect();
        slots.take(Pool::Looks).expect_err("full");
        let acts = slots.take(Pool::Acts).expect("room");
        drop((followers, lookers, acts));
        drop(slots.take(Pool::Follows).expect("room again"));
    }

    #[test]
    fn what_could_follow_and_only_reads_is_no_follower() {
        let catalogue = Catalogue::embedded();
        let pool = |name: &str, parameters: serde_json::Value, acts| {
            let spec = catalogue.get(name).expect("an operation");
            let parameters = parameters.as_object().expect("parameters").clone();
            Pool::of(spec, &args::from_json(spec, &parameters).expect("a request"), acts)
        };
        assert_eq!(pool("journal.read", json!({}), false), Pool::Looks);
        assert_eq!(pool("journal.read", json!({ "follow": true }), false), Pool::Follows);
        assert_eq!(pool("host.facts", json!({}), false), Pool::Looks);
        assert_eq!(pool("systemd.stop", json!({ "unit": "x" }), false), Pool::Looks);
        assert_eq!(pool("systemd.stop", json!({ "unit": "x" }), true), Pool::Acts);
    }
}
