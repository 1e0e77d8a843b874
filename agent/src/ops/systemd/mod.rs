//! Units of systemd, over its D-Bus interface: no tool's output is parsed.

pub(super) mod bus;
mod change;
mod judgement;
mod particulars;
mod reload;
mod restart;
mod serving;
mod start;
mod status;
mod stop;
mod unit;
mod vital;

use std::{collections::BTreeMap, time::Duration};

use hostler_proto::wire::{ErrorCode, Failure};

pub(crate) use particulars::{Particulars, particulars};
pub(crate) use serving::stopped;

/// How long systemd may take to say that the host goes down: the agent is being stopped meanwhile.
const FAREWELL: Duration = Duration::from_secs(2);

/// Whether the whole host is being shut down or booted anew; false when nobody can tell.
pub(crate) async fn host_stopping() -> bool {
    let asked = async {
        match bus::Bus::connect().await {
            Ok(bus) => bus.host_stopping().await,
            Err(_) => false,
        }
    };
    tokio::time::timeout(FAREWELL, asked).await.unwrap_or(false)
}

/// Whether the clock is in step with others; none when nobody can tell.
pub(crate) async fn clock_synchronised() -> Option<bool> {
    let asked = async { bus::Bus::connect().await.ok()?.clock_synchronised().await.ok() };
    tokio::time::timeout(FAREWELL, asked).await.ok().flatten()
}

/// That there is no unit of that full name, with the nearest one; none where there is one, and where
/// nobody can tell.
pub(crate) async fn missing(unit: &str, now_us: i64) -> Option<Failure> {
    let failure = bus::Bus::connect().await.ok()?.existing(unit, now_us).await.err()?;
    (failure.code() == ErrorCode::NotFound).then_some(failure)
}

/// A unit as a list of units knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its own name, where another one was asked for.
    pub(crate) name: String,
    /// It exists.
    pub(crate) exists: bool,
    /// It is not up, and no job that has done its work or waits for its time.
    pub(crate) down: bool,
}

/// Units by the full names that they were asked by; none when nobody can tell.
pub(crate) async fn known(names: Vec<String>) -> Option<BTreeMap<String, Known>> {
    let bus = bus::Bus::connect().await.ok()?;
    let mut all = BTreeMap::new();
    for full in names {
        let unit = bus.unit(&full, 0).await.ok()?;
        let state = unit.status.active_state.as_str();
        let known = Known {
            exists: unit.status.load_state != "not-found" || state == "active",
            down: ["inactive", "failed"].contains(&state) && unit.kind != "oneshot",
            name: unit.status.name,
        };
        all.insert(full, known);
    }
    Some(all)
}

/// Names of the loaded units that fit a pattern.
pub(crate) async fn like(pattern: &str) -> Result<Vec<String>, Failure> {
    bus::Bus::connect().await?.like(pattern).await
}

/// The types that a unit can have.
const TYPES: [&str; 11] = [
    "automount",
    "device",
    "mount",
    "path",
    "scope",
    "service",
    "slice",
    "socket",
    "swap",
    "target",
    "timer",
];

/// A unit's full name: a service unless the name says otherwise.
pub(crate) fn full_name(name: &str) -> String {
    // As the name of its check has it; none of a unit has a `/`.
    let name = &name.replace('/', "\\");
    match name.rsplit_once('.') {
        Some((stem, kind)) if !stem.is_empty() && TYPES.contains(&kind) => name.to_owned(),
        _ => format!("{name}.service"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_without_a_type_is_a_service() {
        for (given, full) in [
            ("nginx", "nginx.service"),
            ("nginx.service", "nginx.service"),
            ("logrotate.timer", "logrotate.timer"),
            ("postgresql@15-main", "postgresql@15-main.service"),
            ("python3.11-worker", "python3.11-worker.service"),
            ("-.mount", "-.mount"),
            (".service", ".service.service"),
        ] {
            assert_eq!(full_name(given), full);
        }
    }

    proptest! {
        #[test]
        fn a_full_name_stays_as_it_is(name in "[A-Za-z0-9:_.\\\\@-]{1,40}") {
            let full = full_name(&name);
            prop_assert_eq!(full_name(&full), full);
        }
    }
}
