//! The one table for all operations, made from the descriptors of their results.

use std::collections::BTreeMap;

use hostler_proto::{catalogue::OperationSpec, finding::command_line};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::{
    Form,
    grid::{Cell, grid, pairs},
    report::{Report, word},
    value,
};
use crate::{
    exit::Exit,
    screen::{Traits, harmless},
};

/// More hosts than this that say the same are shown as one line.
const FOLD_ABOVE: usize = 8;
/// How many hosts are named where a plan is the same on all of them.
const NAMED: usize = 8;

/// What the hosts answered. The reports stand in the order in which they are to be shown.
pub fn reports(reports: &[Report], spec: &OperationSpec, form: Form, traits: Traits) -> String {
    let mut parts = Vec::new();
    let wide = form == Form::Wide;
    let decoded: Vec<_> = reports.iter().map(|r| result(r, spec)).collect();
    match reports {
        [report] => {
            parts.push(head(report, traits));
            if let Some(message) = &decoded[0] {
                let mut found = Vec::new();
                scalars("", message, wide, &mut found);
                parts.push(pairs(&found, traits));
            }
        }
        many => parts.push(states(many, wide, traits)),
    }
    parts.push(plans(reports));
    let hosts: Vec<_> = reports
        .iter()
        .zip(&decoded)
        .filter_map(|(r, d)| Some((r.host.as_str(), d.as_ref()?)))
        .collect();
    parts.extend(rows(&spec.result, &hosts, reports.len() > 1, wide, traits));
    parts.push(findings(reports, traits));
    parts.push(evidence(reports));
    parts.retain(|p| !p.is_empty());
    parts.join("\n")
}

/// Only the states of the given hosts, for operations whose data are log lines.
pub fn states(reports: &[Report], wide: bool, traits: Traits) -> String {
    let mut same: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for report in reports {
        *same.entry((report.word(), report.summary())).or_default() += 1;
    }
    let mut rows = Vec::new();
    for report in reports {
        let Some(count) = same.get_mut(&(report.word(), report.summary())) else { continue };
        let folded = *count > FOLD_ABOVE && !wide;
        let host = if folded { format!("{count} hosts") } else { report.host.clone() };
        if *count > 0 {
            rows.push(vec![
                Cell::text(host),
                Cell::word(report.word()),
                Cell::text(report.summary()),
            ]);
        }
        if folded {
            // The line stands for all of them.
            *count = 0;
        }
    }
    grid(&["HOST", "STATUS", "SUMMARY"], &rows, traits)
}

fn head(report: &Report, traits: Traits) -> String {
    let row = [Cell::text(&report.host), Cell::word(report.word()), Cell::text(report.summary())];
    let row = vec![row.to_vec()];
    let text = grid(&["", "", ""], &row, traits);
    // The header is empty here.
    text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default()
}

fn result(report: &Report, spec: &OperationSpec) -> Option<DynamicMessage> {
    let outcome = report.outcome()?;
    value::decode(spec.result.parent_pool(), &outcome.r#type, &outcome.data)
}

fn is_rows(field: &FieldDescriptor) -> bool {
    field.is_list() && matches!(field.kind(), Kind::Message(_))
}

fn fields(shape: &MessageDescriptor) -> Vec<FieldDescriptor> {
    let mut fields: Vec<_> = shape.fields().collect();
    fields.sort_by_key(FieldDescriptor::number);
    fields
}

/// Every field that is not a table of its own, by name and value.
fn scalars(prefix: &str, message: &DynamicMessage, wide: bool, out: &mut Vec<(String, Cell)>) {
    for field in fields(&prost_reflect::ReflectMessage::descriptor(message)) {
        if is_rows(&field) || (field.supports_presence() && !message.has_field(&field)) {
            continue;
        }
        let unit = value::unit(&field);
        let name = format!("{prefix}{}", value::label(&field, &unit));
        let value = message.get_field(&field);
        if let Value::Message(inner) = value.as_ref() {
            scalars(&format!("{name} "), inner, wide, out);
            continue;
        }
        let text = value::human(&field, &unit, &value);
        // Within a part only what it says for itself is worth a line.
        let idle = !prefix.is_empty() && !message.has_field(&field);
        if wide || !(text.is_empty() || idle) {
            out.push((name, Cell::text(text)));
        }
    }
}

/// One table for each list of messages in the result; without any and for many hosts, the scalar
/// fields as columns when everything is wanted.
fn rows(
    shape: &MessageDescriptor,
    hosts: &[(&str, &DynamicMessage)],
    many: bool,
    wide: bool,
    traits: Traits,
) -> Vec<String> {
    let lists: Vec<_> = fields(shape).into_iter().filter(is_rows).collect();
    if lists.is_empty() && many && wide {
        let rows: Vec<_> = hosts.iter().map(|(h, m)| (*h, (*m).clone())).collect();
        return vec![listing(&rows, shape, many, wide, traits)];
    }
    let mut parts = Vec::new();
    for list in &lists {
        let Kind::Message(inner) = list.kind() else { continue };
        let mut rows = Vec::new();
        for (host, message) in hosts {
            // A result of another version may not have the field; the descriptors are the same.
            if let Some(Value::List(values)) = message.get_field_by_name(list.name()).as_deref() {
                rows.extend(values.iter().filter_map(|v| Some((*host, v.as_message()?.clone()))));
            }
        }
        if rows.is_empty() {
            continue;
        }
        let table = listing(&rows, &inner, many, wide, traits);
        parts.push(match lists.len() {
            1 => table,
            _ => format!("{}:\n{table}", list.name().replace('_', " ")),
        });
    }
    parts
}

fn listing(
    rows: &[(&str, DynamicMessage)],
    shape: &MessageDescriptor,
    many: bool,
    wide: bool,
    traits: Traits,
) -> String {
    let columns: Vec<_> = fields(shape)
        .into_iter()
        .filter(|f| !is_rows(f) && !matches!(f.kind(), Kind::Message(_)))
        // A column of which nothing is set tells nothing.
        .filter(|f| wide || rows.iter().any(|(_, m)| m.has_field(f)))
        .map(|f| {
            let unit = value::unit(&f);
            (value::label(&f, &unit).to_uppercase(), unit, f)
        })
        .collect();
    let mut headers: Vec<&str> = columns.iter().map(|(label, ..)| label.as_str()).collect();
    if many {
        headers.insert(0, "HOST");
    }
    let cells = |(host, message): &(&str, DynamicMessage)| {
        let mut cells: Vec<_> = many.then(|| Cell::text(host)).into_iter().collect();
        for (_, unit, field) in &columns {
            let absent = field.supports_presence() && !message.has_field(field);
            let value = message.get_field(field);
            let text = if absent { String::new() } else { value::human(field, unit, &value) };
            let number = !field.is_list()
                && !matches!(field.kind(), Kind::String | Kind::Bool | Kind::Bytes | Kind::Enum(_));
            cells.push(if number { Cell::number(text) } else { Cell::text(text) });
        }
        cells
    };
    grid(&headers, &rows.iter().map(cells).collect::<Vec<_>>(), traits)
}

/// What would be or was done, once for all hosts on which it is the same.
fn plans(reports: &[Report]) -> String {
    let mut plans: Vec<(&Report, Vec<&str>)> = Vec::new();
    for report in reports.iter().filter(|r| !r.steps.is_empty()) {
        match plans.iter_mut().find(|(first, _)| first.steps == report.steps) {
            Some((_, hosts)) => hosts.push(&report.host),
            None => plans.push((report, vec![&report.host])),
        }
    }
    let mut text = String::new();
    for (report, hosts) in plans {
        let more = hosts.len().saturating_sub(NAMED);
        let named = hosts[..hosts.len() - more].join(", ");
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        text.push_str(&format!("plan for {}{more}:\n", harmless(&named)));
        for (i, step) in report.steps.iter().enumerate() {
            text.push_str(&format!("  {}. {}", i + 1, harmless(&step.summary)));
            let undo = match step.undo.is_empty() {
                true => "cannot be undone".to_owned(),
                false => format!("undo: {}", harmless(&step.undo)),
            };
            text.push_str(&format!("  ({undo})\n"));
        }
    }
    text
}

/// What tools said where it did not go well.
fn evidence(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports.iter().filter(|r| r.exit() != Exit::AllWell) {
        for evidence in report.evidence().iter().filter(|e| !e.tail.is_empty()) {
            let ended = evidence.exit_code.map(|c| format!(" (exit status {c})"));
            let (host, what) = (harmless(&report.host), harmless(&evidence.what));
            text.push_str(&format!("{host} $ {what}{}\n", ended.unwrap_or_default()));
            for line in &evidence.tail {
                text.push_str(&format!("    {}\n", harmless(line)));
            }
        }
    }
    text
}

/// What deserves attention, the worst first.
pub fn findings(reports: &[Report], traits: Traits) -> String {
    let mut all: Vec<_> = reports
        .iter()
        .flat_map(|r| r.outcome().into_iter().flat_map(|o| &o.findings).map(move |f| (r, f)))
        .collect();
    let rank = |status| match word(status) {
        "critical" => 0,
        "unknown" => 1,
        "warning" => 2,
        _ => 3,
    };
    all.sort_by_key(|(_, f)| rank(f.status()));
    let mut text = String::new();
    for (report, finding) in all {
        let status = Cell::word(word(finding.status()));
        let line = vec![vec![
            status,
            Cell::text(&report.host),
            Cell::text(match finding.summary.contains(&finding.subject) {
                true => finding.summary.clone(),
                false => format!("{}: {}", finding.subject, finding.summary),
            }),
        ]];
        let shown = grid(&["", "", ""], &line, Traits { fitted: false, ..traits });
        text.push_str(shown.split_once('\n').map_or("", |(_, rest)| rest));
        if !finding.why.is_empty() {
            text.push_str(&format!("    why: {}\n", harmless(&finding.why)));
        }
        if !finding.next.is_empty() {
            let next = command_line(&finding.next, &report.host);
            text.push_str(&format!("    next: {}\n", harmless(&next)));
        }
    }
    text
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
