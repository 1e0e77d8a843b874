//! The operations as data: names, help, parameters and options, read from compiled descriptors.
//!
//! A controller and hostlerctl know operations only through this; they hold no code per operation.
//! What a domain's operations are is read when one of them is first asked for.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, FileDescriptor,
    Kind as FieldKind, MessageDescriptor, MethodDescriptor,
};
use regex_lite::Regex;
use thiserror::Error;

use crate::{
    descriptors::{DOMAINS, EXTENDED, File, OWN, SHARED},
    name::nearest,
    wire::{Effect, Kind, OperationOptions, ParameterOptions},
};

/// Why descriptors do not make a catalogue.
#[derive(Debug, Error)]
pub enum CatalogueError {
    /// The bytes are no descriptor set.
    #[error("the operation descriptors cannot be read")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    /// An operation's definition contradicts itself.
    #[error("{operation}: {problem}")]
    Definition {
        /// Full name of the rpc.
        operation: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no such operation.
    #[error(transparent)]
    Unknown(#[from] UnknownOperation),
}

/// There is no operation of that name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no operation \"{name}\"{}", self.did_you_mean())]
pub struct UnknownOperation {
    /// What was asked for.
    pub name: String,
    /// The operation that was probably meant.
    pub nearest: Option<String>,
}

impl UnknownOperation {
    fn did_you_mean(&self) -> String {
        self.nearest.as_ref().map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default()
    }
}

/// All operations that this build knows.
#[derive(Debug)]
pub struct Catalogue {
    help: bool,
    domains: [OnceLock<Vec<Arc<OperationSpec>>>; DOMAINS.len()],
}

/// One operation.
#[derive(Debug, Clone)]
pub struct OperationSpec {
    /// `domain.verb`.
    pub name: String,
    /// The part before the dot.
    pub domain: String,
    /// The part after the dot.
    pub verb: String,
    /// Help, from the rpc's comment.
    pub help: String,
    /// PROBE or ACTION.
    pub kind: Kind,
    /// The worst it may do.
    pub effect: Effect,
    /// After which the agent ends it.
    pub deadline: Duration,
    /// Templates of what it holds while it runs.
    pub locks: Vec<String>,
    /// One line to type, without the program's name.
    pub example: String,
    /// What it costs the host.
    pub cost: String,
    /// Can go on until it is cancelled.
    pub follows: bool,
    /// The parameters in the order of their definition.
    pub parameters: Vec<Parameter>,
    /// Shape of the request.
    pub request: MessageDescriptor,
    /// Shape of the result.
    pub result: MessageDescriptor,
    /// Path of the rpc: `/hostler.ops.v1.Host/Facts`.
    pub path: String,
}

/// One parameter of an operation.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// As people type it: kebab case.
    pub name: String,
    /// Help, from the field's comment.
    pub help: String,
    /// The checks and the default.
    pub options: ParameterOptions,
    /// The compiled `pattern`, anchored at both ends.
    pub pattern: Option<Regex>,
    /// The field it fills.
    pub field: FieldDescriptor,
}

impl Parameter {
    /// The type in words, for help.
    pub fn type_name(&self) -> &'static str {
        match self.field.kind() {
            FieldKind::Bool => "switch",
            FieldKind::Float | FieldKind::Double => "number",
            FieldKind::String => "text",
            FieldKind::Bytes => "base64",
            FieldKind::Message(_) | FieldKind::Enum(_) => "structure",
            _ => "whole number",
        }
    }
}

impl Catalogue {
    const fn new(help: bool) -> Self {
        Self { help, domains: [const { OnceLock::new() }; DOMAINS.len()] }
    }

    /// The operations with their help.
    pub fn embedded() -> &'static Self {
        static EMBEDDED: Catalogue = Catalogue::new(true);
        &EMBEDDED
    }

    /// The same without any help, which takes half of the memory: for those who show nobody any.
    pub fn bare() -> &'static Self {
        static BARE: Catalogue = Catalogue::new(false);
        &BARE
    }

    /// Every operation's name, in order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        DOMAINS.iter().flat_map(|domain| domain.operations).map(|operation| operation.name)
    }

    /// Every domain with its help, in order.
    pub fn domains() -> impl Iterator<Item = (&'static str, String)> {
        DOMAINS.iter().map(|domain| (domain.name, prose(domain.comment)))
    }

    /// The shapes of the messages that are no operation's own.
    ///
    /// # Errors
    /// When the embedded descriptors contradict themselves, which a test excludes.
    pub fn messages() -> Result<&'static DescriptorPool, CatalogueError> {
        static MESSAGES: OnceLock<DescriptorPool> = OnceLock::new();
        if let Some(pool) = MESSAGES.get() {
            return Ok(pool);
        }
        let mut pool = shared()?.clone();
        for file in OWN {
            pool.decode_file_descriptor_proto(file.encoded(false).as_slice())?;
        }
        Ok(MESSAGES.get_or_init(|| pool))
    }

    /// The operations of a domain, in the order of their names; none when there is no such domain.
    ///
    /// # Errors
    /// As [`Catalogue::messages`].
    pub fn domain(&self, name: &str) -> Result<&[Arc<OperationSpec>], CatalogueError> {
        let mut domains = DOMAINS.iter().zip(&self.domains);
        let Some((domain, read)) = domains.find(|(domain, _)| domain.name == name) else {
            return Ok(&[]);
        };
        if let Some(operations) = read.get() {
            return Ok(operations);
        }
        let operations = self.read(&domain.file)?;
        Ok(read.get_or_init(|| operations))
    }

    /// Every operation, in the order of their names.
    ///
    /// # Errors
    /// As [`Catalogue::messages`].
    pub fn all(&self) -> Result<Vec<&Arc<OperationSpec>>, CatalogueError> {
        let domains = DOMAINS.iter().map(|domain| self.domain(domain.name));
        Ok(domains.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// The operation of that name.
    ///
    /// # Errors
    /// When there is none; the error names the nearest one. As [`Catalogue::messages`] too.
    pub fn get(&self, name: &str) -> Result<&Arc<OperationSpec>, CatalogueError> {
        let (domain, _) = name.split_once('.').unwrap_or_default();
        let found = self.domain(domain)?.iter().find(|spec| spec.name == name);
        let unknown = || UnknownOperation {
            name: name.to_owned(),
            nearest: nearest(name, Self::names()).map(str::to_owned),
        };
        Ok(found.ok_or_else(unknown)?)
    }

    /// The operation behind the path of an rpc, when there is one.
    ///
    /// # Errors
    /// As [`Catalogue::messages`].
    pub fn at(&self, path: &str) -> Result<Option<&Arc<OperationSpec>>, CatalogueError> {
        let mut names = DOMAINS.iter().flat_map(|domain| domain.operations);
        names.find(|known| known.path == path).map(|known| self.get(known.name)).transpose()
    }

    fn read(&self, file: &File) -> Result<Vec<Arc<OperationSpec>>, CatalogueError> {
        let mut pool = shared()?.clone();
        pool.decode_file_descriptor_proto(file.encoded(self.help).as_slice())?;
        let extension = |name| {
            pool.get_extension_by_name(name).ok_or_else(|| CatalogueError::Definition {
                operation: String::from(name),
                problem: String::from("the descriptors do not define this option"),
            })
        };
        let operation = extension("hostler.v1.operation")?;
        let parameter = extension("hostler.v1.parameter")?;
        let mut operations = Vec::new();
        for service in pool.services() {
            let file = service.parent_file();
            let comments = Comments::of(&file);
            for method in service.methods() {
                let spec = OperationSpec::read(&method, &operation, &parameter, &comments)?;
                operations.push(Arc::new(spec));
            }
        }
        operations.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(operations)
    }
}

/// The options and the messages that all operations use.
fn shared() -> Result<&'static DescriptorPool, CatalogueError> {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    if let Some(pool) = POOL.get() {
        return Ok(pool);
    }
    let mut pool = DescriptorPool::new();
    pool.decode_file_descriptor_proto(EXTENDED)?;
    for file in SHARED {
        pool.decode_file_descriptor_proto(file.encoded(false).as_slice())?;
    }
    Ok(POOL.get_or_init(|| pool))
}

impl OperationSpec {
    fn read(
        method: &MethodDescriptor,
        operation: &ExtensionDescriptor,
        parameter: &ExtensionDescriptor,
        comments: &Comments<'_>,
    ) -> Result<Self, CatalogueError> {
        let wrong = |problem: String| CatalogueError::Definition {
            operation: method.full_name().to_owned(),
            problem,
        };
        let options: OperationOptions = extension_value(&method.options(), operation)
            .map_err(|e| wrong(format!("its operation option cannot be read: {e}")))?;
        let result = method
            .parent_pool()
            .get_message_by_name(&options.result)
            .ok_or_else(|| wrong(format!("its result \"{}\" is not defined", options.result)))?;
        let request = method.input();
        let mut fields: Vec<_> = request.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        let parameters = fields
            .into_iter()
            .map(|field| {
                let options: ParameterOptions = extension_value(&field.options(), parameter)
                    .map_err(|e| wrong(format!("{}: {e}", field.name())))?;
                let pattern = (!options.pattern.is_empty())
                    .then(|| Regex::new(&format!("^(?:{})$", options.pattern)))
                    .transpose()
                    .map_err(|e| wrong(format!("{}: its pattern is wrong: {e}", field.name())))?;
                Ok(Parameter {
                    name: field.name().replace('_', "-"),
                    help: comments.before(field.path()),
                    options,
                    pattern,
                    field,
                })
            })
            .collect::<Result<_, CatalogueError>>()?;
        let service = method.parent_service();
        let (domain, verb) = (kebab(service.name()), kebab(method.name()));
        Ok(Self {
            name: format!("{domain}.{verb}"),
            help: comments.before(method.path()),
            kind: options.kind(),
            effect: options.effect(),
            deadline: Duration::from_secs(options.deadline_s.into()),
            path: format!("/{}/{}", service.full_name(), method.name()),
            locks: options.locks,
            example: options.example,
            cost: options.cost,
            follows: options.follows,
            domain,
            verb,
            parameters,
            request,
            result,
        })
    }

    /// The parameter of that name, in kebab or snake case.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|p| p.name == name || p.field.name() == name)
    }

    /// First sentence of the help.
    pub fn summary(&self) -> &str {
        let end = self.help.find(". ").or_else(|| self.help.find(": ")).unwrap_or(self.help.len());
        self.help[..end].trim_end_matches('.')
    }
}

fn extension_value<M: prost::Message + Default>(
    options: &DynamicMessage,
    extension: &ExtensionDescriptor,
) -> Result<M, prost::DecodeError> {
    match options.get_extension(extension).as_message() {
        Some(message) => message.transcode_to(),
        None => Ok(M::default()),
    }
}

/// What stands before the definitions of one file.
struct Comments<'f>(HashMap<&'f [i32], &'f str>);

impl<'f> Comments<'f> {
    fn of(file: &'f FileDescriptor) -> Self {
        let info = file.file_descriptor_proto().source_code_info.as_ref();
        let locations = info.into_iter().flat_map(|i| &i.location);
        let commented = locations.filter(|l| l.leading_comments.is_some());
        Self(commented.map(|l| (l.path.as_slice(), l.leading_comments())).collect())
    }

    /// The comment before a definition.
    fn before(&self, path: &[i32]) -> String {
        prose(self.0.get(path).copied().unwrap_or_default())
    }
}

/// A comment as one line of prose per paragraph.
fn prose(comment: &str) -> String {
    comment
        .split("\n\n")
        .map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|p| !p.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

fn kebab(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (i, c) in name.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(catalogue: &'static Catalogue) -> Vec<&'static Arc<OperationSpec>> {
        catalogue.all().expect("the embedded descriptors are a catalogue")
    }

    #[test]
    fn without_comments_the_operations_are_the_same() {
        let (bare, full) = (all(Catalogue::bare()), all(Catalogue::embedded()));
        let of = |specs: &[&Arc<OperationSpec>]| {
            let parameters = |s: &OperationSpec| {
                s.parameters.iter().map(|p| p.options.clone()).collect::<Vec<_>>()
            };
            specs
                .iter()
                .map(|s| (s.name.clone(), s.effect, s.deadline, parameters(s)))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&bare), of(&full));
        assert!(bare.iter().all(|s| s.help.is_empty()) && full.iter().all(|s| !s.help.is_empty()));
    }

    #[test]
    fn what_is_known_of_an_operation_before_its_domain_is_read_is_what_is_read() {
        let catalogue = Catalogue::embedded();
        let read = all(catalogue).into_iter().map(|s| s.name.as_str());
        assert_eq!(Catalogue::names().collect::<Vec<_>>(), read.collect::<Vec<_>>());
        for op in all(catalogue) {
            let found = catalogue.at(&op.path).expect("a catalogue").expect("an operation");
            assert_eq!(found.name, op.name);
        }
        assert!(catalogue.at("/hostler.ops.v1.Host/Nothing").expect("a catalogue").is_none());
    }

    #[test]
    fn every_operation_is_defined_completely() {
        let operations = all(Catalogue::embedded());
        assert!(operations.len() >= 3);
        for op in operations {
            let name = &op.name;
            assert!(op.help.ends_with('.'), "{name}: its comment is no sentence: {:?}", op.help);
            assert_ne!(op.kind, Kind::Unspecified, "{name} has no kind");
            assert_ne!(op.effect, Effect::Unspecified, "{name} has no effect");
            let reads = op.effect == Effect::Read;
            assert_eq!(op.kind == Kind::Probe, reads, "{name}: a probe reads, an action does not");
            assert!(op.deadline >= Duration::from_secs(1), "{name} has no deadline");
            assert!(!op.cost.is_empty(), "{name} does not say what it costs");
            let start = format!("{} {} ", op.domain, op.verb);
            assert!(op.example.starts_with(&start), "{name}: example {:?}", op.example);
            for p in &op.parameters {
                assert!(p.help.ends_with('.'), "{name} {}: no comment", p.name);
            }
            if op.kind == Kind::Action {
                assert!(!op.locks.is_empty(), "{name} locks nothing");
            }
        }
    }

    #[test]
    fn every_field_of_every_result_is_documented() {
        fn walk(message: &MessageDescriptor, seen: &mut Vec<String>) {
            if seen.iter().any(|s| s == message.full_name()) {
                return;
            }
            seen.push(message.full_name().to_owned());
            let file = message.parent_file();
            let comments = Comments::of(&file);
            for field in message.fields() {
                let help = comments.before(field.path());
                assert!(!help.is_empty(), "{} has no comment", field.full_name());
                if let FieldKind::Message(inner) = field.kind() {
                    walk(&inner, seen);
                }
            }
        }
        let whole = DescriptorPool::decode(crate::descriptors::set().as_slice()).expect("a set");
        let mut seen = Vec::new();
        for op in all(Catalogue::embedded()) {
            let result = whole.get_message_by_name(op.result.full_name()).expect("in the set");
            walk(&result, &mut seen);
        }
        assert!(seen.len() >= 3);
    }

    #[test]
    fn every_domain_says_what_it_is_about() {
        for (name, help) in Catalogue::domains() {
            assert!(!help.is_empty(), "{name}");
        }
    }

    #[test]
    fn locks_name_parameters_that_exist() {
        for op in all(Catalogue::embedded()) {
            for lock in &op.locks {
                for name in lock.split('{').skip(1).filter_map(|s| s.split('}').next()) {
                    assert!(op.parameter(name).is_some(), "{}: {lock}", op.name);
                }
            }
        }
    }

    #[test]
    fn an_unknown_operation_is_answered_with_the_nearest_one() {
        let error = Catalogue::embedded().get("host.fact").expect_err("no such operation");
        assert_eq!(
            error.to_string(),
            "there is no operation \"host.fact\"; did you mean \"host.facts\"?"
        );
    }
}
