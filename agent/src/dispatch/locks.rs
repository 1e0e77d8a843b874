//! What running operations hold, so that two of them never work on one thing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use hostler_core::clock::InvocationId;
use hostler_proto::{
    catalogue::OperationSpec,
    wire::{ErrorCode, Failure},
};
use prost_reflect::{DynamicMessage, Value};

/// The names that are held, and by whom.
#[derive(Debug, Clone, Default)]
pub(super) struct Locks(Arc<Mutex<HashMap<String, InvocationId>>>);

/// Holds some names until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    locks: Locks,
    names: Vec<String>,
}

impl Locks {
    /// Takes all names or none.
    ///
    /// # Errors
    /// Busy, with the one who holds a name. Nobody waits: a queue behind a lock would grow unseen.
    pub(super) fn take(&self, names: Vec<String>, by: InvocationId) -> Result<Held, Failure> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, other)) = names.iter().find_map(|n| held.get_key_value(n)) {
            let message = format!("{name} is held by invocation {other}");
            return Err(Failure::new(ErrorCode::Busy, message)
                .hint("wait until it has ended, or end it with: hostlerctl cancel INVOCATION"));
        }
        for name in &names {
            held.insert(name.clone(), by);
        }
        Ok(Held { locks: self.clone(), names })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.locks.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            held.remove(name);
        }
    }
}

/// The names that a request must hold: the operation's templates with its parameters filled in.
pub(super) fn names(spec: &OperationSpec, request: &DynamicMessage) -> Vec<String> {
    let fill = |template: &String| {
        spec.parameters.iter().fold(template.clone(), |name, parameter| {
            let value = match request.get_field(&parameter.field).as_ref() {
                // A unit may be named with or without its type.
                Value::String(text) => text.strip_suffix(".service").unwrap_or(text).to_owned(),
                Value::U32(number) => number.to_string(),
                Value::U64(number) => number.to_string(),
                _ => return name,
            };
            name.replace(&format!("{{{}}}", parameter.name), &value)
        })
    };
    spec.locks.iter().map(fill).collect()
}

#[cfg(test)]
mod tests {
    use hostler_core::clock::FixedClock;
    use hostler_proto::{args, catalogue::Catalogue};

    use super::*;

    #[test]
    fn one_unit_is_worked_on_by_one_invocation_whatever_it_is_called() {
        let catalogue = Catalogue::embedded();
        let of = |operation: &str, unit: &str| {
            let spec = catalogue.get(operation).expect("operation");
            names(spec, &args::from_text(spec, [("unit", unit)]).expect("request"))
        };
        let clock = FixedClock::at("2026-01-01T00:00:00Z".parse().expect("time"));
        let (a, b) = (InvocationId::new(&clock), InvocationId::new(&clock));
        let locks = Locks::default();
        let held = locks.take(of("systemd.restart", "nginx"), a).expect("free");
        let busy = locks.take(of("systemd.stop", "nginx.service"), b).expect_err("held");
        assert_eq!(busy.message, format!("unit/nginx is held by invocation {a}"));
        let other = locks.take(of("systemd.stop", "redis"), b).expect("another unit");
        drop(held);
        drop(other);
        locks.take(of("systemd.stop", "nginx.service"), b).expect("free again");
    }
}
