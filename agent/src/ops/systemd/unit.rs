//! A unit's properties, read into plain values.

use std::collections::HashMap;

use hostler_proto::ops::UnitStatus;
use zbus::zvariant::{OwnedValue, Value};

/// A unit as it stands: what people see of it, and what a judgement needs beside that.
#[derive(Debug, Clone, Default)]
pub(super) struct Unit {
    /// What people see.
    pub(super) status: UnitStatus,
    /// `simple`, `oneshot`, `notify`, ...; empty for what is no service.
    pub(super) kind: String,
    /// It runs nothing by itself: a oneshot whose program is `true`.
    pub(super) dummy: bool,
    /// It stays active when its process has ended.
    pub(super) remains: bool,
    /// The conditions in its file held when it was last started.
    pub(super) conditions_met: bool,
    /// It can be started by hand.
    pub(super) can_start: bool,
    /// It can be stopped by hand.
    pub(super) can_stop: bool,
    /// It can read its configuration again.
    pub(super) can_reload: bool,
    /// All its names, aliases included.
    pub(super) names: Vec<String>,
    /// Units that can start it again by themselves.
    pub(super) triggered_by: Vec<String>,
    /// One of them is active; looked up only where it matters.
    pub(super) triggered: bool,
    /// When it came into its state, in microseconds since 1970; 0 when it never did.
    pub(super) since_us: u64,
    /// Its object on the bus.
    pub(super) object: String,
}

/// A unit from the properties of its common interface, and of that of its type.
pub(super) fn read(
    common: &HashMap<String, OwnedValue>,
    own: &HashMap<String, OwnedValue>,
    now_us: i64,
) -> Unit {
    // What goes on below, as a reload does, changes nothing of since when a unit has been active.
    let since = match text(common, "ActiveState").as_str() {
        "active" | "reloading" | "refreshing" => "ActiveEnterTimestamp",
        _ => "StateChangeTimestamp",
    };
    let since_us = number(common, since);
    let passed = u64::try_from(now_us).unwrap_or(0).saturating_sub(since_us);
    let counted =
        |name| Some(number(own, name)).filter(|n| own.contains_key(name) && *n != u64::MAX);
    let main_pid = number(own, "MainPID") as u32;
    // 1 is CLD_EXITED: the process ended by itself and was not killed.
    let ended = main_pid == 0 && number(own, "ExecMainCode") == 1;
    let kind = text(own, "Type");
    let remains = flag(own, "RemainAfterExit");
    let program = own.get("ExecStart").and_then(program).unwrap_or_default();
    let nothing = program == "/bin/true" || program == "/usr/bin/true";
    #[expect(clippy::cast_precision_loss, reason = "2^53 ns are a hundred days, to the nanosecond")]
    let cpu_s = counted("CPUUsageNSec").map(|ns| ns as f64 / 1e9);
    Unit {
        dummy: kind == "oneshot" && remains && nothing,
        remains,
        kind,
        conditions_met: flag(common, "ConditionResult")
            || number(common, "ConditionTimestamp") == 0,
        can_start: flag(common, "CanStart"),
        can_stop: flag(common, "CanStop"),
        can_reload: flag(common, "CanReload"),
        names: texts(common, "Names"),
        triggered_by: texts(common, "TriggeredBy"),
        triggered: false,
        object: String::new(),
        since_us,
        status: UnitStatus {
            name: text(common, "Id"),
            description: text(common, "Description"),
            load_state: text(common, "LoadState"),
            active_state: text(common, "ActiveState"),
            sub_state: text(common, "SubState"),
            result: text(own, "Result"),
            enabled: text(common, "UnitFileState"),
            since_s: if since_us == 0 { 0 } else { passed / 1_000_000 },
            restarts: number(own, "NRestarts") as u32,
            main_pid,
            memory_bytes: counted("MemoryCurrent"),
            cpu_s,
            exit_status: ended.then(|| number(own, "ExecMainStatus") as i32),
            fragment: text(common, "FragmentPath"),
        },
    }
}

/// Path of the first program of an `ExecStart`.
fn program(value: &OwnedValue) -> Option<String> {
    let Value::Array(commands) = &**value else { return None };
    let Ok(Some(Value::Structure(command))) = commands.get::<Value<'_>>(0) else { return None };
    match command.fields().first() {
        Some(Value::Str(path)) => Some(path.to_string()),
        _ => None,
    }
}

pub(super) fn text(all: &HashMap<String, OwnedValue>, name: &str) -> String {
    all.get(name).map(as_text).unwrap_or_default()
}

pub(super) fn as_text(value: &OwnedValue) -> String {
    match &**value {
        Value::Str(text) => text.to_string(),
        _ => String::new(),
    }
}

pub(super) fn texts(all: &HashMap<String, OwnedValue>, name: &str) -> Vec<String> {
    match all.get(name).map(|v| &**v) {
        Some(Value::Array(array)) => array
            .iter()
            .filter_map(|v| if let Value::Str(text) = v { Some(text.to_string()) } else { None })
            .collect(),
        _ => Vec::new(),
    }
}

pub(super) fn number(all: &HashMap<String, OwnedValue>, name: &str) -> u64 {
    all.get(name).map(as_number).unwrap_or_default()
}

pub(super) fn as_number(value: &OwnedValue) -> u64 {
    match &**value {
        Value::U64(n) => *n,
        Value::U32(n) => u64::from(*n),
        Value::I32(n) => u64::try_from(*n).unwrap_or(0),
        Value::I64(n) => u64::try_from(*n).unwrap_or(0),
        _ => 0,
    }
}

fn flag(all: &HashMap<String, OwnedValue>, name: &str) -> bool {
    matches!(all.get(name).map(|v| &**v), Some(Value::Bool(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_active_since_it_became_so_whatever_changed_below() {
        let text = |text: &str| OwnedValue::try_from(Value::from(text)).expect("a value");
        let mut common = HashMap::from([
            ("ActiveState".to_owned(), text("active")),
            ("ActiveEnterTimestamp".to_owned(), OwnedValue::from(10_000_000_u64)),
            ("StateChangeTimestamp".to_owned(), OwnedValue::from(70_000_000_u64)),
        ]);
        let since =
            |common: &HashMap<_, _>| read(common, &HashMap::new(), 80_000_000).status.since_s;
        assert_eq!(since(&common), 70, "it was reloaded ten seconds ago");
        common.insert("ActiveState".to_owned(), text("failed"));
        assert_eq!(since(&common), 10);
    }

    #[test]
    fn properties_that_systemd_does_not_count_are_absent_and_not_huge() {
        let own = HashMap::from([
            ("MemoryCurrent".to_owned(), OwnedValue::from(u64::MAX)),
            ("CPUUsageNSec".to_owned(), OwnedValue::from(1_500_000_000_u64)),
        ]);
        let unit = read(&HashMap::new(), &own, 0);
        assert_eq!(unit.status.memory_bytes, None);
        assert_eq!(unit.status.cpu_s, Some(1.5));
        assert_eq!(unit.status.exit_status, None);
    }
}
