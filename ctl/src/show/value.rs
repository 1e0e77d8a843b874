//! Values as people read them, and messages as programs read them.

use data_encoding::BASE64;
use hostler_proto::catalogue::Catalogue;
use jiff::{Timestamp, tz::TimeZone};
use prost::Name;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

/// What a field counts: "bytes", "s", "percent"; empty when it does not say.
pub fn unit(field: &FieldDescriptor) -> String {
    let unit = || {
        let pool = field.parent_pool();
        let option = pool.get_extension_by_name("hostler.v1.parameter")?;
        let options = field.options();
        let options = options.get_extension(&option);
        let unit = options.as_message()?.get_field_by_name("unit")?;
        Some(unit.as_str()?.to_owned())
    };
    unit().unwrap_or_default()
}

/// A field's name as people read it: without the unit, which its values carry.
pub fn label(field: &FieldDescriptor, unit: &str) -> String {
    let name = field.name();
    let suffix = match unit {
        "s" | "ms" | "bytes" => format!("_{unit}"),
        "time" => "_s".to_owned(),
        "percent" => return name.replace("_percent", " %").replace('_', " "),
        _ => return name.replace('_', " "),
    };
    name.strip_suffix(&suffix).unwrap_or(name).replace('_', " ")
}

/// A value for people; nothing in it is made harmless yet.
pub fn human(field: &FieldDescriptor, unit: &str, value: &Value) -> String {
    match value {
        Value::List(list) => {
            let parts: Vec<_> = list.iter().map(|v| human(field, unit, v)).collect();
            parts.join(", ")
        }
        Value::Map(map) => {
            let mut parts: Vec<_> =
                map.iter().map(|(k, v)| format!("{}={}", key(k), human(field, "", v))).collect();
            parts.sort_unstable();
            parts.join(", ")
        }
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => text.clone(),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::EnumNumber(number) => enum_word(field, *number),
        Value::Message(_) => "...".into(),
        number => measured(unit, number),
    }
}

fn measured(unit: &str, value: &Value) -> String {
    // Shown with three digits: what a float cannot hold of a large number does not matter.
    #[allow(clippy::cast_precision_loss)]
    let number = match value {
        Value::I32(v) => f64::from(*v),
        Value::U32(v) => f64::from(*v),
        Value::I64(v) => *v as f64,
        Value::U64(v) => *v as f64,
        Value::F32(v) => f64::from(*v),
        Value::F64(v) => *v,
        _ => return String::new(),
    };
    match (unit, value) {
        ("bytes", _) => bytes(number),
        ("s", _) => duration(number),
        #[allow(clippy::cast_possible_truncation)]
        ("time", _) => moment((number * 1e6) as i64),
        ("ms", _) => duration(number / 1000.0),
        ("percent", _) => format!("{number:.1}"),
        (_, Value::F32(_) | Value::F64(_)) => format!("{number:.2}"),
        (_, Value::I64(v)) => v.to_string(),
        (_, Value::U64(v)) => v.to_string(),
        _ => number.to_string(),
    }
}

/// An amount of bytes: `512 B`, `1.5 KiB`.
pub fn bytes(number: f64) -> String {
    let mut number = number;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if number.abs() < 1023.95 {
            return match unit {
                "B" => format!("{number:.0} B"),
                _ => format!("{number:.1} {unit}"),
            };
        }
        number /= 1024.0;
    }
    format!("{number:.1} PiB")
}

/// A time span in its two largest units: `340 ms`, `1.5 s`, `3m 20s`, `2h 5m`, `3d 4h`.
pub fn duration(seconds: f64) -> String {
    let rounded = seconds.round();
    // Whatever does not fit is centuries away.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = rounded as u64;
    let two = |a: u64, b: u64, units: [&str; 2]| match b {
        0 => format!("{a}{}", units[0]),
        _ => format!("{a}{} {b}{}", units[0], units[1]),
    };
    match whole {
        _ if !seconds.is_finite() => "unknown".into(),
        _ if seconds < 0.0 => format!("-{}", duration(-seconds)),
        _ if seconds != 0.0 && seconds < 0.00995 => format!("{:.1} ms", seconds * 1000.0),
        _ if seconds < 0.9995 => format!("{:.0} ms", seconds * 1000.0),
        _ if seconds < 9.95 && seconds.fract() != 0.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => two(whole / 60, whole % 60, ["m", "s"]),
        3600..86_400 => two(whole / 3600, whole % 3600 / 60, ["h", "m"]),
        _ => two(whole / 86_400, whole % 86_400 / 3600, ["d", "h"]),
    }
}

/// How long ago something was, as of `now`.
pub fn ago(then_us: i64, now_us: i64) -> String {
    match then_us {
        0 => String::new(),
        _ => duration(seconds(now_us.saturating_sub(then_us).max(0))),
    }
}

/// Microseconds as seconds.
pub fn seconds(us: i64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let seconds = us as f64 / 1e6;
    seconds
}

/// A moment in UTC, to the second; empty for none.
pub fn moment(us: i64) -> String {
    stamp(us, "%Y-%m-%d %H:%M:%SZ")
}

/// A moment in UTC, to the millisecond; empty for none.
pub fn fine_moment(us: i64) -> String {
    stamp(us, "%Y-%m-%dT%H:%M:%S.%3fZ")
}

fn stamp(us: i64, form: &str) -> String {
    match Timestamp::from_microsecond(us) {
        Ok(time) if us != 0 => time.to_zoned(TimeZone::UTC).strftime(form).to_string(),
        _ => String::new(),
    }
}

/// A time span as people type it, in whole seconds: `90`, `90s`, `5m`, `2h`, `7d`, `2w`.
///
/// # Errors
/// When it is none, or none that fits.
pub fn span(text: &str) -> Result<u32, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err("write 90s, 5m, 2h or 7d".into()),
    };
    let number: u32 = number.parse().map_err(|_| "write 90s, 5m, 2h or 7d")?;
    match number.checked_mul(factor) {
        Some(seconds @ 1..) => Ok(seconds),
        _ => Err("it must be at least a second, and at most a century".into()),
    }
}

fn enum_word(field: &FieldDescriptor, number: i32) -> String {
    let Kind::Enum(shape) = field.kind() else { return number.to_string() };
    let Some(value) = shape.get_value(number) else { return number.to_string() };
    let prefix: String = shape
        .name()
        .chars()
        .flat_map(|c| match c.is_ascii_uppercase() {
            true => vec!['_', c],
            false => vec![c.to_ascii_uppercase()],
        })
        .collect();
    let word = value.name().strip_prefix(&prefix[1..]).unwrap_or(value.name());
    word.trim_start_matches('_').to_lowercase().replace('_', "-")
}

fn key(key: &MapKey) -> String {
    match key {
        MapKey::String(s) => s.clone(),
        MapKey::Bool(v) => v.to_string(),
        MapKey::I32(v) => v.to_string(),
        MapKey::I64(v) => v.to_string(),
        MapKey::U32(v) => v.to_string(),
        MapKey::U64(v) => v.to_string(),
    }
}

/// Decodes a message by its full name; nothing when this build does not know it.
pub fn decode(pool: &DescriptorPool, name: &str, bytes: &[u8]) -> Option<DynamicMessage> {
    let shape: MessageDescriptor = pool.get_message_by_name(name)?;
    DynamicMessage::decode(shape, bytes).ok()
}

/// A message of the contract, with its description.
pub fn dynamic<M: prost::Message + Name>(message: &M) -> Option<DynamicMessage> {
    decode(Catalogue::messages().ok()?, &M::full_name(), &message.encode_to_vec())
}

/// A message as programs read it: fields by their names in the contract and in its order, numbers
/// as numbers, enumerations as words, bytes in base64, and every field present.
#[derive(Debug)]
pub struct Plain<'a>(pub &'a DynamicMessage);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields: Vec<_> = self.0.descriptor().fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        for field in &fields {
            let absent = field.supports_presence() && !self.0.has_field(field);
            let value = self.0.get_field(field);
            let value = (!absent).then_some(PlainValue { field, value: value.as_ref() });
            map.serialize_entry(field.name(), &value)?;
        }
        map.end()
    }
}

struct PlainValue<'a> {
    field: &'a FieldDescriptor,
    value: &'a Value,
}

impl Serialize for PlainValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let inner = |value| PlainValue { field: self.field, value };
        match self.value {
            Value::Bool(v) => serializer.serialize_bool(*v),
            Value::I32(v) => serializer.serialize_i32(*v),
            Value::I64(v) => serializer.serialize_i64(*v),
            Value::U32(v) => serializer.serialize_u32(*v),
            Value::U64(v) => serializer.serialize_u64(*v),
            Value::F32(v) if v.is_finite() => serializer.serialize_f32(*v),
            Value::F64(v) if v.is_finite() => serializer.serialize_f64(*v),
            Value::F32(_) | Value::F64(_) => serializer.serialize_none(),
            Value::String(v) => serializer.serialize_str(v),
            Value::Bytes(v) => serializer.serialize_str(&BASE64.encode(v)),
            Value::EnumNumber(v) => serializer.serialize_str(&enum_word(self.field, *v)),
            Value::Message(v) => Plain(v).serialize(serializer),
            Value::List(v) => serializer.collect_seq(v.iter().map(inner)),
            Value::Map(v) => {
                let mut entries: Vec<_> = v.iter().map(|(k, v)| (key(k), v)).collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                let field = match self.field.kind() {
                    Kind::Message(entry) if entry.is_map_entry() => entry.map_entry_value_field(),
                    _ => self.field.clone(),
                };
                let entries =
                    entries.iter().map(|(k, v)| (k, PlainValue { field: &field, value: v }));
                serializer.collect_map(entries)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::{
        ops::HostProcess,
        wire::{Connection, HostRecord},
    };

    use super::*;

    #[test]
    fn sizes_and_spans_are_shown_in_units_that_a_person_would_choose() {
        let sizes = [0.0, 1023.0, 1024.0, 1_048_575.0, 1.5e12, 1e18].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.4 TiB", "888.2 PiB"]);
        let spans = [0.0004, 0.34, 1.0, 1.5, 59.0, 200.0, 7500.0, 86_400.0, 273_700.0, -86_400.0]
            .map(duration);
        let expected =
            ["0.4 ms", "340 ms", "1 s", "1.5 s", "59 s", "3m 20s", "2h 5m", "1d", "3d 4h", "-1d"];
        assert_eq!(spans, expected);
    }

    #[test]
    fn a_span_is_typed_with_its_unit() {
        assert_eq!(
            ["90", "90s", "5m", "2h", "7d"].map(|t| span(t).expect(t)),
            [90, 90, 300, 7200, 604_800]
        );
        for wrong in ["", "h", "5y", "-1", "0", "99999999w"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_shown_in_utc_and_none_is_empty() {
        assert_eq!(moment(1_774_742_399_000_000), "2026-03-28 23:59:59Z");
        assert_eq!(moment(0), "");
        assert_eq!(moment(i64::MAX), "");
    }

    #[test]
    fn programs_read_words_numbers_and_every_field() {
        let record = HostRecord {
            name: "web-1".into(),
            connection: Connection::Up.into(),
            labels: [("role".into(), "web".into())].into(),
            ..HostRecord::default()
        };
        let message = dynamic(&record).expect("known");
        let json = serde_json::to_value(Plain(&message)).expect("json");
        assert_eq!(json["connection"], "up");
        assert_eq!(json["labels"]["role"], "web");
        assert_eq!(json["last_seen_us"], 0);
    }

    #[test]
    fn a_time_is_shown_as_one() {
        let spec = Catalogue::embedded().get("git.status").expect("an operation");
        let field = spec.result.get_field_by_name("committed_s").expect("a field");
        let unit = unit(&field);
        assert_eq!(label(&field, &unit), "committed");
        assert_eq!(human(&field, &unit, &Value::I64(1_795_690_755)), "2026-11-26 10:59:15Z");
        assert_eq!(human(&field, &unit, &Value::F64(1_795_690_755.4)), "2026-11-26 10:59:15Z");
        assert_eq!(human(&field, &unit, &Value::I64(0)), "", "there is none");
    }

    #[test]
    fn a_field_is_labelled_without_its_unit_and_valued_with_it() {
        let process = HostProcess { memory_bytes: 1 << 30, ..HostProcess::default() };
        let spec = Catalogue::embedded().get("host.processes").expect("an operation");
        let name = HostProcess::full_name();
        let message =
            decode(spec.result.parent_pool(), &name, &prost::Message::encode_to_vec(&process));
        let message = message.expect("known");
        let field = message.descriptor().get_field_by_name("memory_bytes").expect("field");
        let unit = unit(&field);
        assert_eq!((label(&field, &unit), unit.as_str()), ("memory".into(), "bytes"));
        assert_eq!(human(&field, &unit, &message.get_field(&field)), "1.0 GiB");
    }
}
