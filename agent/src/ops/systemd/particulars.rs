//! What a unit's file and its last start say that explains why it does not run.

use std::collections::HashMap;

use hostler_proto::wire::Failure;
use zbus::zvariant::{OwnedValue, Value};

use super::{
    bus::Bus,
    unit::{number, text, texts},
};

/// Units that one requires are looked at up to this many.
const MOST: usize = 50;

/// The particulars of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Particulars {
    /// The number of its last start, as the journal has it; empty when it was never started.
    pub(crate) invocation: String,
    /// Units without which it is not started, and which do not run.
    pub(crate) lacking: Vec<Lacking>,
    /// Memory that it may use.
    pub(crate) memory_max: Option<u64>,
    /// Its WorkingDirectory.
    pub(crate) directory: String,
    /// Its User.
    pub(crate) user: String,
    /// Its Group.
    pub(crate) group: String,
    /// Every EnvironmentFile that has to be there.
    pub(crate) environment_files: Vec<String>,
}

/// A unit that another one requires, and that does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lacking {
    pub(crate) name: String,
    /// It failed, or keeps crashing, and is not just stopped.
    pub(crate) failed: bool,
    /// It has no file.
    pub(crate) absent: bool,
}

/// The particulars of a unit by its full name.
pub(crate) async fn particulars(name: &str) -> Result<Particulars, Failure> {
    let bus = Bus::connect().await?;
    let (common, own) = bus.all(name).await?;
    let mut particulars = read(&common, &own);
    let kinds = ["Requires", "Requisite", "BindsTo"];
    for required in kinds.into_iter().flat_map(|kind| texts(&common, kind)).take(MOST) {
        let status = bus.unit(&required, 0).await?.status;
        if status.active_state != "active" && status.active_state != "reloading" {
            particulars.lacking.push(Lacking {
                failed: status.active_state == "failed" || status.restarts > 0,
                absent: status.load_state == "not-found",
                name: required,
            });
        }
    }
    Ok(particulars)
}

fn read(common: &HashMap<String, OwnedValue>, own: &HashMap<String, OwnedValue>) -> Particulars {
    let bound = |name| Some(number(own, name)).filter(|bytes| *bytes > 0 && *bytes != u64::MAX);
    Particulars {
        invocation: common.get("InvocationID").map(|v| hex(v)).unwrap_or_default(),
        lacking: Vec::new(),
        memory_max: bound("MemoryMax").or_else(|| bound("MemoryLimit")),
        // systemd marks one that need not be there.
        directory: text(own, "WorkingDirectory").trim_start_matches('!').to_owned(),
        user: text(own, "User"),
        group: text(own, "Group"),
        environment_files: own.get("EnvironmentFiles").map(|v| needed(v)).unwrap_or_default(),
    }
}

/// Bytes as the journal writes them; empty when there are none but zeros.
fn hex(value: &Value<'_>) -> String {
    let Value::Array(array) = value else { return String::new() };
    let bytes: Vec<u8> =
        array.iter().map(|v| if let Value::U8(byte) = v { *byte } else { 0 }).collect();
    match bytes.iter().all(|byte| *byte == 0) {
        true => String::new(),
        false => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// The files of a list that have to be there: each has a flag when it may be missing.
fn needed(value: &Value<'_>) -> Vec<String> {
    let Value::Array(array) = value else { return Vec::new() };
    let file = |value: &Value<'_>| match value {
        Value::Structure(file) => match file.fields() {
            [Value::Str(path), Value::Bool(false)] => Some(path.to_string()),
            _ => None,
        },
        _ => None,
    };
    array.iter().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_start_has_the_number_that_the_journal_gives_it() {
        assert_eq!(hex(&Value::from(vec![0xa1_u8, 0x02])), "a102");
        assert_eq!(hex(&Value::from(vec![0_u8; 16])), "", "it was never started");
    }

    #[test]
    fn only_files_that_have_to_be_there_count() {
        let files = vec![("/etc/web.env", false), ("/etc/default/web", true)];
        assert_eq!(needed(&Value::from(files)), ["/etc/web.env"]);
    }
}
