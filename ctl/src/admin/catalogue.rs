//! Help from the catalogue: which operations there are, and all about one.

use clap::{Arg, ArgMatches, Command, builder::PossibleValuesParser};
use hostler_proto::{
    catalogue::{Catalogue, OperationSpec},
    wire::Kind,
};
use prost_reflect::{FieldDescriptor, Kind as FieldKind, MessageDescriptor};
use serde::Serialize;

use super::required;
use crate::{
    command::{self, output},
    complete,
    exit::{self, Exit, Problem},
    screen::{Screen, Traits},
    show::{
        Form,
        grid::{Cell, grid, pairs},
        json, value,
    },
};

pub(super) fn commands() -> Vec<Command> {
    let words = Arg::new("operation").required(true).num_args(1..=2).value_name("OPERATION");
    let topic = Arg::new("topic").num_args(0..).value_name("COMMAND");
    let shells = PossibleValuesParser::new(["bash", "zsh", "fish"]);
    vec![
        Command::new("operations").about("Lists every operation").arg(output()),
        Command::new("explain")
            .about("Tells all about an operation: what it does, takes, answers and costs")
            .arg(words.help("As domain.verb or as domain and verb"))
            .arg(output()),
        Command::new("completion")
            .about("Writes a script that teaches the shell to complete, names of hosts included")
            .after_help("Example: source <(hostlerctl completion bash)")
            .arg(required("shell", "The shell").value_parser(shells)),
        Command::new("help")
            .about("Shows help for a command, or `exit-codes`")
            .arg(topic.help("The command, or exit-codes")),
    ]
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    kind: &'static str,
    effect: &'static str,
    help: &'a str,
    deadline_s: u64,
    cost: &'a str,
    locks: &'a [String],
    example: &'a str,
    parameters: Vec<ShownParameter<'a>>,
    result: &'a str,
}

#[derive(Debug, Serialize)]
struct ShownParameter<'a> {
    name: &'a str,
    r#type: &'static str,
    list: bool,
    required: bool,
    positional: bool,
    default: &'a str,
    unit: &'a str,
    min: Option<f64>,
    max: Option<f64>,
    one_of: &'a [String],
    secret: bool,
    help: &'a str,
}

fn shown(spec: &OperationSpec) -> Shown<'_> {
    let parameters = spec.parameters.iter().map(|p| ShownParameter {
        name: &p.name,
        r#type: p.type_name(),
        list: p.field.is_list(),
        required: p.options.required,
        positional: p.options.positional,
        default: &p.options.default,
        unit: &p.options.unit,
        min: p.options.min,
        max: p.options.max,
        one_of: &p.options.one_of,
        secret: p.options.secret,
        help: &p.help,
    });
    Shown {
        name: &spec.name,
        kind: kind(spec.kind),
        effect: command::effect(spec.effect),
        help: &spec.help,
        deadline_s: spec.deadline.as_secs(),
        cost: &spec.cost,
        locks: &spec.locks,
        example: &spec.example,
        parameters: parameters.collect(),
        result: spec.result.full_name(),
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "not stated",
        Kind::Probe => "probe",
        Kind::Action => "action",
    }
}

/// `operations`
pub(crate) fn operations(
    catalogue: &Catalogue,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let form = Form::of(matches);
    let all = catalogue.all().map_err(|e| Problem::new(Exit::Failed, e.to_string()))?;
    let text = match form {
        Form::Name => all.iter().map(|o| format!("{}\n", o.name)).collect(),
        Form::Table | Form::Wide => {
            let row = |o: &&std::sync::Arc<OperationSpec>| {
                vec![
                    Cell::text(&o.name),
                    Cell::text(kind(o.kind)),
                    Cell::text(command::effect(o.effect)),
                    Cell::text(o.summary()),
                    Cell::text(if form == Form::Wide { o.cost.as_str() } else { "" }),
                ]
            };
            let headers = ["OPERATION", "KIND", "EFFECT", "WHAT IT DOES", "COST"];
            grid(&headers, &all.iter().map(row).collect::<Vec<_>>(), screen.traits())
        }
        _ => json::list(&all.iter().map(|o| shown(o)).collect::<Vec<_>>(), form)?,
    };
    screen.data(&text)?;
    Ok(Exit::AllWell)
}

/// `explain`
pub(crate) fn explain(
    catalogue: &Catalogue,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let words: Vec<_> = matches.get_many::<String>("operation").into_iter().flatten().collect();
    let name = words.iter().map(|w| w.as_str()).collect::<Vec<_>>().join(".");
    let spec = catalogue.get(&name).map_err(|e| {
        Problem::usage(e.to_string()).hint("`hostlerctl operations` lists every one")
    })?;
    let form = Form::of(matches);
    let text = match form.is_data() {
        true => json::document(&shown(spec), form)?,
        false => page(spec, screen.traits()),
    };
    screen.data(&text)?;
    Ok(Exit::AllWell)
}

fn page(spec: &OperationSpec, traits: Traits) -> String {
    let pair = |name: &str, text: &str| (name.to_owned(), Cell::text(text));
    let mut about = vec![
        pair("kind", kind(spec.kind)),
        pair("effect", command::effect(spec.effect)),
        pair("deadline", &value::duration(spec.deadline.as_secs_f64())),
        pair("cost", &spec.cost),
        pair("holds", &spec.locks.join(", ")),
        pair("example", &format!("hostlerctl {}", spec.example)),
    ];
    about.retain(|(_, cell)| !cell.text.is_empty());
    let mut page = format!("{}\n\n{}\n\n{}", spec.name, spec.help, pairs(&about, traits));
    if !spec.parameters.is_empty() {
        let row = |p: &hostler_proto::catalogue::Parameter| {
            let name = format!("--{}", command::typed_name(p));
            let mut notes = Vec::new();
            notes.extend(p.options.required.then_some("required"));
            notes.extend(p.options.positional.then_some("its name may be left out"));
            notes.extend(p.field.is_list().then_some("may be repeated"));
            let one_of = p.options.one_of.join("|");
            vec![
                Cell::text(name),
                Cell::text(if one_of.is_empty() { p.type_name() } else { &one_of }),
                Cell::text(command::help(p)),
                Cell::text(notes.join(", ")),
            ]
        };
        let rows: Vec<_> = spec.parameters.iter().map(row).collect();
        page.push('\n');
        page.push_str(&grid(&["PARAMETER", "TYPE", "", "NOTE"], &rows, traits));
    }
    let mut fields = Vec::new();
    answers("", &spec.result, &mut fields);
    if !fields.is_empty() {
        page.push('\n');
        page.push_str(&grid(&["ANSWERS", "UNIT"], &fields, traits));
    }
    page
}

/// The fields of a result, those of its parts below them.
fn answers(prefix: &str, shape: &MessageDescriptor, out: &mut Vec<Vec<Cell>>) {
    let mut fields: Vec<_> = shape.fields().collect();
    fields.sort_by_key(FieldDescriptor::number);
    for field in fields {
        let list = if field.is_list() { "[]" } else { "" };
        let name = format!("{prefix}{}{list}", field.name());
        out.push(vec![Cell::text(&name), Cell::text(value::unit(&field))]);
        // A message cannot hold itself for ever in a contract; three levels are plenty to read.
        if let FieldKind::Message(inner) = field.kind()
            && prefix.matches('.').count() < 3
        {
            answers(&format!("{name}."), &inner, out);
        }
    }
}

/// `completion`
pub(crate) fn completion(matches: &ArgMatches, screen: &mut Screen) -> Result<Exit, Problem> {
    let shell = matches.get_one::<String>("shell").map(String::as_str).unwrap_or_default();
    screen.data(&complete::script(shell)?)?;
    Ok(Exit::AllWell)
}

/// `help`
pub(crate) fn help(matches: &ArgMatches, screen: &mut Screen) -> Result<Exit, Problem> {
    let words: Vec<_> = matches.get_many::<String>("topic").into_iter().flatten().collect();
    if let [topic] = words.as_slice()
        && topic.as_str() == "exit-codes"
    {
        screen.data(&exit::table())?;
        return Ok(Exit::AllWell);
    }
    let mut root = command::tree();
    root.build();
    let mut command = &mut root;
    for word in words {
        let unknown = || {
            Problem::usage(format!("there is no command \"{word}\""))
                .hint("`hostlerctl help` lists those that there are")
        };
        command = command.find_subcommand_mut(word.as_str()).ok_or_else(unknown)?;
    }
    let text = command.render_long_help().to_string();
    screen.data(&text)?;
    Ok(Exit::AllWell)
}
