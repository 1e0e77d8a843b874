//! Parameters as people type them, checked against the catalogue.
//!
//! The same checks run in hostlerctl before anything is sent and on the agent before anything is
//! done: an agent trusts nobody's client.

mod pairs;

use prost_reflect::{Cardinality, DynamicMessage, Kind, Value};
use thiserror::Error;

use crate::{
    catalogue::{OperationSpec, Parameter},
    failure,
    name::nearest,
    wire::{ErrorCode, Failure},
};

/// Most characters of a text whose definition states no bound.
pub const MAX_TEXT: usize = 4096;
/// Most elements of a list whose definition states no bound.
pub const MAX_LIST: usize = 256;

/// What is wrong with the parameters of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArgumentError {
    /// The operation has no such parameter.
    #[error("{operation} has no parameter \"{name}\"{}", did_you_mean(.nearest))]
    Unknown {
        /// The operation.
        operation: String,
        /// What was given.
        name: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// A parameter that must be given was not.
    #[error("{operation} needs --{name}")]
    Missing {
        /// The operation.
        operation: String,
        /// What is missing.
        name: String,
    },
    /// A value does not fit its parameter.
    #[error("--{name} {value}: {problem}")]
    Value {
        /// The parameter.
        name: String,
        /// What was given, unless it is a secret.
        value: String,
        /// Why that will not do.
        problem: String,
    },
    /// A request's bytes are not the operation's request message.
    #[error("the request is no {0}")]
    Undecodable(String),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default()
}

impl From<ArgumentError> for Failure {
    fn from(error: ArgumentError) -> Self {
        let hint = match &error {
            ArgumentError::Unknown { operation, .. } | ArgumentError::Missing { operation, .. } => {
                format!("`hostlerctl explain {operation}` lists its parameters")
            }
            ArgumentError::Value { .. } => String::new(),
            ArgumentError::Undecodable(_) => {
                String::from("the caller and this host may have different versions")
            }
        };
        Failure::new(ErrorCode::InvalidArgument, error.to_string()).hint(hint)
    }
}

impl ArgumentError {
    /// Exit status of a command that ends with it.
    pub fn exit(&self) -> u8 {
        failure::meaning(ErrorCode::InvalidArgument).exit
    }
}

/// Makes a request from names and texts, with defaults filled in and every check applied.
///
/// A name may come more than once where the parameter is a list.
///
/// # Errors
/// Names the first parameter that is unknown, missing or ill-typed.
pub fn from_text<'a>(
    spec: &OperationSpec,
    given: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<DynamicMessage, ArgumentError> {
    let mut request = DynamicMessage::new(spec.request.clone());
    for (name, text) in given {
        let parameter = find(spec, name)?;
        let value = parse(parameter, text)?;
        // On the wire a zero is the same as what is left out, and would become the default.
        check(parameter, &value)?;
        if !parameter.field.is_list() {
            if request.has_field(&parameter.field) {
                return Err(bad(parameter, text, "is given twice"));
            }
            request.set_field(&parameter.field, value);
        } else if let Value::List(list) = request.get_field_mut(&parameter.field) {
            list.push(value);
        }
    }
    complete(spec, request)
}

/// Makes a request from a JSON object, with defaults filled in and every check applied.
///
/// # Errors
/// Names the first parameter that is unknown, missing or ill-typed.
pub fn from_json(
    spec: &OperationSpec,
    object: &serde_json::Map<String, serde_json::Value>,
) -> Result<DynamicMessage, ArgumentError> {
    use serde_json::Value as Json;
    let mut given = Vec::new();
    for (name, value) in object {
        let parameter = find(spec, name)?;
        let scalar = |v: &Json| match v {
            Json::String(s) => Ok(s.clone()),
            Json::Number(n) => Ok(n.to_string()),
            Json::Bool(b) => Ok(b.to_string()),
            _ => Err(bad(parameter, &v.to_string(), "is neither text, number nor true or false")),
        };
        match value {
            Json::Null => {}
            Json::Array(values) if parameter.field.is_list() => {
                for v in values {
                    given.push((name.clone(), scalar(v)?));
                }
            }
            other => given.push((name.clone(), scalar(other)?)),
        }
    }
    from_text(spec, given.iter().map(|(n, v)| (n.as_str(), v.as_str())))
}

/// Reads a request that came over the wire, with defaults filled in and every check applied.
///
/// # Errors
/// When the bytes are not the operation's request, or a check refuses a value.
pub fn from_wire(spec: &OperationSpec, bytes: &[u8]) -> Result<DynamicMessage, ArgumentError> {
    let undecodable = || ArgumentError::Undecodable(spec.request.name().to_owned());
    let request = DynamicMessage::decode(spec.request.clone(), bytes).map_err(|_| undecodable())?;
    if let Some(field) = request.unknown_fields().next() {
        return Err(ArgumentError::Unknown {
            operation: spec.name.clone(),
            name: format!("number {}", field.number()),
            nearest: None,
        });
    }
    complete(spec, request)
}

/// The request as a JSON object in which secrets are masked, for people and for the audit.
pub fn to_json(spec: &OperationSpec, request: &DynamicMessage) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    for parameter in &spec.parameters {
        if !request.has_field(&parameter.field) {
            continue;
        }
        let value = if parameter.options.secret {
            serde_json::Value::from("***")
        } else {
            match request.get_field(&parameter.field).as_ref() {
                Value::List(list) => list.iter().map(scalar_json).collect(),
                other => scalar_json(other),
            }
        };
        object.insert(parameter.name.clone(), value);
    }
    serde_json::Value::Object(object)
}

fn scalar_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(v) => (*v).into(),
        Value::I32(v) => (*v).into(),
        Value::I64(v) => (*v).into(),
        Value::U32(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        Value::F32(v) => (*v).into(),
        Value::F64(v) => (*v).into(),
        Value::String(v) => v.clone().into(),
        other => other.to_string().into(),
    }
}

fn find<'a>(spec: &'a OperationSpec, name: &str) -> Result<&'a Parameter, ArgumentError> {
    spec.parameter(name).ok_or_else(|| ArgumentError::Unknown {
        operation: spec.name.clone(),
        name: name.to_owned(),
        nearest: nearest(name, spec.parameters.iter().map(|p| p.name.as_str())).map(Into::into),
    })
}

fn bad(parameter: &Parameter, value: &str, problem: impl Into<String>) -> ArgumentError {
    let shown: String = match parameter.options.secret {
        true => "***".into(),
        false => masked(value).chars().take(120).collect(),
    };
    ArgumentError::Value { name: parameter.name.clone(), value: shown, problem: problem.into() }
}

/// A text in which nothing is shown of whom a URL names before its host: that may be a password,
/// wherever its characters seem to end the address.
pub fn masked(text: &str) -> String {
    let shown = text.split_once("://").and_then(|(scheme, rest)| {
        let (_, place) = rest.rsplit_once('@')?;
        Some(format!("{scheme}://***@{place}"))
    });
    shown.unwrap_or_else(|| text.to_owned())
}

/// Fills in defaults and checks every parameter.
fn complete(
    spec: &OperationSpec,
    mut request: DynamicMessage,
) -> Result<DynamicMessage, ArgumentError> {
    for parameter in &spec.parameters {
        if !request.has_field(&parameter.field) {
            if parameter.options.required {
                return Err(ArgumentError::Missing {
                    operation: spec.name.clone(),
                    name: parameter.name.clone(),
                });
            }
            if parameter.options.default.is_empty() {
                continue;
            }
            let value = pairs::default(spec, parameter, &request)?;
            let value = if parameter.field.is_list() { Value::List(vec![value]) } else { value };
            request.set_field(&parameter.field, value);
        }
        match request.get_field(&parameter.field).as_ref() {
            Value::List(list) => {
                let most = bound(parameter, MAX_LIST);
                if list.len() > most {
                    let problem = format!("at most {most} may be given");
                    return Err(bad(parameter, &format!("({} values)", list.len()), problem));
                }
                list.iter().try_for_each(|v| check(parameter, v))?;
            }
            value => check(parameter, value)?,
        }
    }
    pairs::in_order(spec, &request)?;
    Ok(request)
}

/// The number that a parameter has when it is left out; none where it is left out then, or is no number.
pub fn default_of(parameter: &Parameter) -> Option<f64> {
    number(&parse(parameter, &parameter.options.default).ok()?)
}

fn bound(parameter: &Parameter, general: usize) -> usize {
    match parameter.options.max_len {
        0 => general,
        n => n as usize,
    }
}

fn check(parameter: &Parameter, value: &Value) -> Result<(), ArgumentError> {
    let options = &parameter.options;
    if let Value::String(text) = value {
        let most = if parameter.field.is_list() { MAX_TEXT } else { bound(parameter, MAX_TEXT) };
        if text.chars().count() > most {
            return Err(bad(parameter, text, format!("is longer than {most} characters")));
        }
        if text.contains('\0') {
            return Err(bad(parameter, "(text)", "holds a NUL character"));
        }
        if !options.one_of.is_empty() && !options.one_of.contains(text) {
            let guess = nearest(text, options.one_of.iter().map(String::as_str))
                .map(|n| format!("; did you mean \"{n}\"?"))
                .unwrap_or_default();
            let list = options.one_of.join(", ");
            return Err(bad(parameter, text, format!("must be one of {list}{guess}")));
        }
        if parameter.pattern.as_ref().is_some_and(|p| !p.is_match(text)) {
            return Err(bad(parameter, text, format!("must have the form {}", options.pattern)));
        }
        return Ok(());
    }
    let Some(number) = number(value) else { return Ok(()) };
    let unit = if options.unit.is_empty() { String::new() } else { format!(" {}", options.unit) };
    if number.is_nan() {
        return Err(bad(parameter, "NaN", "is not a number"));
    }
    if let Some(min) = options.min.filter(|min| number < *min) {
        return Err(bad(parameter, &number.to_string(), format!("must be at least {min}{unit}")));
    }
    if let Some(max) = options.max.filter(|max| number > *max) {
        return Err(bad(parameter, &number.to_string(), format!("must be at most {max}{unit}")));
    }
    Ok(())
}

fn number(value: &Value) -> Option<f64> {
    Some(match value {
        Value::I32(v) => f64::from(*v),
        Value::U32(v) => f64::from(*v),
        Value::F32(v) => f64::from(*v),
        Value::F64(v) => *v,
        // Bounds are far below 2^53, where the conversion stops being exact.
        #[allow(clippy::cast_precision_loss)]
        Value::I64(v) => *v as f64,
        #[allow(clippy::cast_precision_loss)]
        Value::U64(v) => *v as f64,
        _ => return None,
    })
}

fn parse(parameter: &Parameter, text: &str) -> Result<Value, ArgumentError> {
    let whole = || whole_number(&parameter.options.unit, text).map_err(|p| bad(parameter, text, p));
    let narrow = |_| bad(parameter, text, "is out of range");
    Ok(match parameter.field.kind() {
        Kind::Bool => match text {
            "true" | "yes" => Value::Bool(true),
            "false" | "no" => Value::Bool(false),
            _ => return Err(bad(parameter, text, "is neither true nor false")),
        },
        Kind::String => Value::String(text.to_owned()),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(u32::try_from(whole()?).map_err(narrow)?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::try_from(whole()?).map_err(narrow)?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            Value::I32(i32::try_from(whole()?).map_err(narrow)?)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            Value::I64(i64::try_from(whole()?).map_err(narrow)?)
        }
        Kind::Double | Kind::Float => {
            let number: f64 = text.parse().map_err(|_| bad(parameter, text, "is not a number"))?;
            match parameter.field.kind() {
                #[allow(clippy::cast_possible_truncation)]
                Kind::Float => Value::F32(number as f32),
                _ => Value::F64(number),
            }
        }
        Kind::Bytes | Kind::Message(_) | Kind::Enum(_) => {
            let cardinality = match parameter.field.cardinality() {
                Cardinality::Repeated => "a list of structures",
                _ => "a structure",
            };
            return Err(bad(parameter, text, format!("is {cardinality}, which text cannot give")));
        }
    })
}

/// A whole number with the suffixes that its unit allows: `90`, `90s`, `5m`, `2h`, `7d` for
/// seconds; `512`, `64KiB`, `10MB`, `2G` for bytes (K, M, G, T alone count by 1024).
fn whole_number(unit: &str, text: &str) -> Result<i128, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: i128 = number.parse().map_err(|_| match unit {
        "s" => "is no time span; write 90s, 5m, 2h or 7d".to_owned(),
        "bytes" => "is no size; write 512, 64KiB or 2GB".to_owned(),
        _ => "is not a whole number".to_owned(),
    })?;
    let factor: i128 = match (unit, suffix) {
        (_, "") | ("s", "s") | ("bytes", "B") | ("percent", "%") => 1,
        ("s", "m" | "min") => 60,
        ("s", "h") => 3600,
        ("s", "d") => 86_400,
        ("s", "w") => 604_800,
        ("bytes", "K" | "KiB") => 1 << 10,
        ("bytes", "M" | "MiB") => 1 << 20,
        ("bytes", "G" | "GiB") => 1 << 30,
        ("bytes", "T" | "TiB") => 1 << 40,
        ("bytes", "KB" | "kB") => 1_000,
        ("bytes", "MB") => 1_000_000,
        ("bytes", "GB") => 1_000_000_000,
        ("bytes", "TB") => 1_000_000_000_000,
        ("s", _) => return Err(format!("\"{suffix}\" is no unit of time; use s, m, h, d or w")),
        ("bytes", _) => return Err(format!("\"{suffix}\" is no unit of size; use KiB, MiB, GiB")),
        _ => return Err("is not a whole number".to_owned()),
    };
    number.checked_mul(factor).ok_or_else(|| "is out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::{catalogue::Catalogue, ops::HostProcessesRequest};

    fn processes() -> Arc<OperationSpec> {
        let catalogue = Catalogue::embedded();
        Arc::clone(catalogue.get("host.processes").expect("host.processes"))
    }

    fn read(given: &[(&str, &str)]) -> Result<HostProcessesRequest, String> {
        let message = from_text(&processes(), given.iter().copied()).map_err(|e| e.to_string())?;
        Ok(message.transcode_to().expect("same shape"))
    }

    #[test]
    fn what_is_left_out_gets_its_default() {
        let request = read(&[]).expect("all optional");
        assert_eq!((request.top, request.by.as_str(), request.interval_s), (10, "cpu", 1));
    }

    #[test]
    fn a_zero_that_was_typed_is_refused_where_it_makes_no_sense_and_counts_where_it_does() {
        let refused = read(&[("top", "0")]).expect_err("no processes");
        assert_eq!(refused, "--top 0: must be at least 1 processes");
        let spec = Arc::clone(Catalogue::embedded().get("postgres.indexes").expect("an operation"));
        let scans = |given: &[(&str, &str)]| {
            let message = from_text(&spec, given.iter().copied()).expect("a request");
            let bytes = message.encode_to_vec();
            let request = from_wire(&spec, &bytes).expect("the same on the host");
            request.transcode_to::<crate::ops::PostgresIndexesRequest>().expect("its shape").scans
        };
        assert_eq!((scans(&[]), scans(&[("scans", "0")])), (Some(50), Some(0)));
    }

    #[test]
    fn a_url_with_a_password_is_refused_and_the_password_is_not_told() {
        let check = |url: &str| {
            let spec = Arc::clone(Catalogue::embedded().get("http.check").expect("an operation"));
            from_text(&spec, [("url", url)]).map(|_| ()).map_err(|e| e.to_string())
        };
        for url in [
            "http://admin:hunter2@web/#x",
            // Whoever reads these takes admin for the host, and the rest for the path or the query.
            "http://admin:hun/ter2@web/#x",
            "http://admin:hun?ter2@web/#x",
        ] {
            for url in [url, &url.replace("#x", "")] {
                let said = check(url).expect_err("a password");
                assert!(said.contains("http://***@web/") && !said.contains("ter2"), "{said}");
                assert!(said.contains(": must have the form"), "{said}");
            }
        }
        for url in ["http://web", "https://[::1]:8443/a@b", "http://web:80?to=a@b", "http://é/"] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        assert_eq!(masked("http://web/a"), "http://web/a");
    }

    #[test]
    fn no_parameter_takes_what_is_typed_for_left_out() {
        for spec in Catalogue::embedded().all().expect("a catalogue") {
            for parameter in spec.parameters.iter().filter(|p| !p.options.default.is_empty()) {
                let default = parse(parameter, &parameter.options.default).expect("a value");
                let nothing = parameter.field.default_value();
                let hidden = !parameter.field.supports_presence() && !parameter.field.is_list();
                let counts = !matches!(nothing, Value::String(_)) && default != nothing;
                let taken = hidden && counts && check(parameter, &nothing).is_ok();
                assert!(!taken, "{} --{}: make it optional", spec.name, parameter.name);
            }
        }
    }

    #[test]
    fn time_spans_may_carry_their_unit() {
        assert_eq!(read(&[("interval-s", "1m")]).expect("a minute").interval_s, 60);
        assert_eq!(
            read(&[("interval-s", "5q")]).expect_err("no unit"),
            "--interval-s 5q: \"q\" is no unit of time; use s, m, h, d or w"
        );
    }

    #[test]
    fn every_wrong_parameter_is_named_with_what_would_be_right() {
        let cases = [
            (("tpo", "3"), "host.processes has no parameter \"tpo\"; did you mean \"top\"?"),
            (("top", "many"), "--top many: is not a whole number"),
            (("top", "201"), "--top 201: must be at most 200 processes"),
            (("top", "-1"), "--top -1: is out of range"),
            (("by", "memroy"), "--by memroy: must be one of cpu, memory; did you mean \"memory\"?"),
        ];
        for (given, message) in cases {
            assert_eq!(read(&[given]).expect_err(given.0), message);
        }
    }

    #[test]
    fn a_request_from_the_wire_is_checked_like_one_that_was_typed() {
        let spec = processes();
        let bytes = HostProcessesRequest { top: 500, ..Default::default() }.encode_to_vec();
        let error = from_wire(&spec, &bytes).expect_err("too many");
        assert_eq!(error.to_string(), "--top 500: must be at most 200 processes");
        assert!(from_wire(&spec, b"\xff").is_err());
        let unknown = from_wire(&spec, &[0xf8, 0x06, 0x01]).expect_err("field 111");
        assert_eq!(unknown.to_string(), "host.processes has no parameter \"number 111\"");
    }

    #[test]
    fn json_and_text_make_the_same_request() {
        let object = serde_json::json!({"top": 7, "by": "memory", "interval_s": "2s"});
        let spec = processes();
        let json = from_json(&spec, object.as_object().expect("object")).expect("json");
        let text = from_text(&spec, [("top", "7"), ("by", "memory"), ("interval-s", "2")]);
        assert_eq!(json, text.expect("text"));
        let shown = serde_json::json!({"top": 7, "by": "memory", "interval-s": 2});
        assert_eq!(to_json(&spec, &json), shown);
    }

    proptest! {
        #[test]
        fn no_input_makes_a_parser_panic(name in "[a-z-]{0,12}", value in "\\PC{0,24}", bytes: Vec<u8>) {
            let _ = from_text(&processes(), [(name.as_str(), value.as_str())]);
            let _ = from_text(&processes(), [("top", value.as_str()), ("by", value.as_str())]);
            let _ = from_wire(&processes(), &bytes);
        }

        #[test]
        fn whatever_is_accepted_is_within_bounds(top: u32, interval: u32) {
            let bytes = HostProcessesRequest { top, interval_s: interval, ..Default::default() };
            if let Ok(message) = from_wire(&processes(), &bytes.encode_to_vec()) {
                let request: HostProcessesRequest = message.transcode_to().expect("same shape");
                prop_assert!((1..=200).contains(&request.top));
                prop_assert!((1..=60).contains(&request.interval_s));
            }
        }
    }
}
