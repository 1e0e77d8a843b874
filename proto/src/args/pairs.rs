//! Bounds that come in pairs: from where on something is a warning, and from where on it is critical.

use prost_reflect::{DynamicMessage, Value};

use super::{ArgumentError, bad, number, parse};
use crate::catalogue::{OperationSpec, Parameter};

/// What counts for a parameter that was left out. Of two bounds the one that is given moves the other
/// along where that one's default would be on its wrong side: it was chosen knowing nothing of it.
pub(super) fn default(
    spec: &OperationSpec,
    parameter: &Parameter,
    request: &DynamicMessage,
) -> Result<Value, ArgumentError> {
    let value = parse(parameter, &parameter.options.default)?;
    for (warning, critical) in pairs(spec) {
        let other = match parameter.name.as_str() {
            name if name == warning.name => critical,
            name if name == critical.name => warning,
            _ => continue,
        };
        let given = request.get_field(&other.field);
        let wrong = match (number(&value), number(&given)) {
            (Some(own), Some(given)) if other.name == critical.name => own > given,
            (Some(own), Some(given)) => own < given,
            _ => false,
        };
        let alike = other.field.kind() == parameter.field.kind();
        if wrong && alike && request.has_field(&other.field) {
            return Ok(given.into_owned());
        }
    }
    Ok(value)
}

/// A warning comes before what is critical: in every pair of such parameters more is worse.
pub(super) fn in_order(
    spec: &OperationSpec,
    request: &DynamicMessage,
) -> Result<(), ArgumentError> {
    for (warning, critical) in pairs(spec) {
        // A bound that is left out, and has no default, is none.
        let of = |p: &Parameter| match request.has_field(&p.field) {
            true => number(&request.get_field(&p.field)),
            false => None,
        };
        let (low, high) = (of(warning), of(critical));
        if let (Some(low), Some(high)) = (low, high)
            && low > high
        {
            let problem = format!("is beyond --{} {high}: it would never warn", critical.name);
            return Err(bad(warning, &low.to_string(), problem));
        }
    }
    Ok(())
}

/// The parameters from which on something is a warning, each with that from which on it is critical:
/// `x-warning` and `x-critical`, `x-s` and `x-critical-s`; and what has one bound only, with `critical-s`.
fn pairs(spec: &OperationSpec) -> impl Iterator<Item = (&Parameter, &Parameter)> {
    let other = |p: &Parameter| match p.name.strip_suffix("-s") {
        _ if p.name.contains("critical") => None,
        _ if p.name.contains("warning") => spec.parameter(&p.name.replace("warning", "critical")),
        Some("wait" | "long") => spec.parameter("critical-s"),
        Some(span) => spec.parameter(&format!("{span}-critical-s")),
        None => None,
    };
    spec.parameters.iter().filter_map(move |p| Some((p, other(p)?)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message;

    use super::{
        super::{from_text, from_wire, to_json},
        *,
    };
    use crate::catalogue::Catalogue;

    #[test]
    fn a_warning_beyond_what_is_critical_is_refused() {
        let all = Catalogue::embedded().all().expect("a catalogue");
        let of = |spec: &Arc<OperationSpec>| {
            pairs(spec).map(|(w, _)| w.name.clone()).collect::<Vec<_>>()
        };
        let found: Vec<(String, Vec<String>)> = all
            .iter()
            .map(|spec| (spec.name.clone(), of(spec)))
            .filter(|(_, p)| !p.is_empty())
            .collect();
        // One in which less is worse does not belong here.
        let pairs = |operation: &str, warnings: &[&str]| {
            (operation.to_owned(), warnings.iter().map(|w| (*w).to_owned()).collect())
        };
        let resources =
            ["cpu", "memory", "steal", "pressure"].map(|of| format!("{of}-warning-percent"));
        assert_eq!(
            found,
            [
                pairs("celery.queues", &["warning"]),
                pairs("disk.usage", &["warning-percent"]),
                pairs("host.resources", &resources.each_ref().map(String::as_str)),
                pairs("postgres.activity", &["long-s"]),
                pairs(
                    "postgres.connections",
                    &["warning-percent", "idle-s", "xid-warning", "multixact-warning"]
                ),
                pairs("postgres.locks", &["wait-s"]),
                pairs("postgres.ping", &["lag-s", "slot-warning-bytes"]),
                pairs("redis.status", &["memory-warning-percent", "clients-warning-percent"]),
            ]
        );
        let spec = Arc::clone(Catalogue::embedded().get("disk.usage").expect("an operation"));
        let read = |given: &[(&str, &str)]| {
            let read = from_text(&spec, given.iter().copied());
            read.map(|_| ()).map_err(|e| e.to_string())
        };
        let swapped = [("warning-percent", "95"), ("critical-percent", "85")];
        let refused = read(&swapped).expect_err("swapped");
        assert_eq!(
            refused,
            "--warning-percent 95: is beyond --critical-percent 85: it would never warn"
        );
        assert_eq!(read(&[("warning-percent", "95")]), Ok(()));
        // What is critical without being said moves with the warning.
        let spec = Arc::clone(Catalogue::embedded().get("redis.status").expect("an operation"));
        let high = [("memory-warning-percent", "99")];
        assert!(from_text(&spec, high).is_ok());
        let both = [high[0], ("memory-critical-percent", "95")];
        assert!(from_text(&spec, both).expect_err("swapped").to_string().contains("never warn"));
    }

    #[test]
    fn a_bound_that_is_given_moves_the_one_that_is_left_out_along() {
        let both = |operation: &str, names: [&str; 2], given: &[(&str, &str)]| {
            let spec = Catalogue::embedded().get(operation).expect("an operation");
            let request = from_text(spec, given.iter().copied()).expect("a request");
            // What one end filled in is as good at the other.
            let request = from_wire(spec, &request.encode_to_vec()).expect("the same on the host");
            let object = to_json(spec, &request);
            names.map(|name| object[name].as_u64().expect(name))
        };
        let disk = |given| both("disk.usage", ["warning-percent", "critical-percent"], given);
        assert_eq!(disk(&[]), [85, 95]);
        assert_eq!(disk(&[("warning-percent", "97")]), [97, 97]);
        assert_eq!(disk(&[("warning-percent", "70")]), [70, 95]);
        assert_eq!(disk(&[("critical-percent", "80")]), [80, 80]);
        assert_eq!(disk(&[("critical-percent", "99")]), [85, 99]);
        let waiting = |given| both("celery.queues", ["warning", "critical"], given);
        assert_eq!(waiting(&[("warning", "20000")]), [20_000, 20_000]);
    }
}
