//! The operations as data: names, help, parameters and options, read from compiled descriptors.
//!
//! A controller and hostlerctl know operations only through this; they hold no code per operation.

use std::{
    collections::{BTreeMap, HashMap},
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

/// All operations of one agent, or of this build.
#[derive(Debug, Clone)]
pub struct Catalogue {
    operations: BTreeMap<String, Arc<OperationSpec>>,
    domains: BTreeMap<String, String>,
    pool: DescriptorPool,
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
    /// The operations that this build knows, read once.
    ///
    /// # Errors
    /// When the embedded descriptors contradict themselves, which a test excludes.
    pub fn embedded() -> Result<&'static Self, CatalogueError> {
        static EMBEDDED: OnceLock<Catalogue> = OnceLock::new();
        if let Some(catalogue) = EMBEDDED.get() {
            return Ok(catalogue);
        }
        let catalogue = Self::read(crate::DESCRIPTORS)?;
        Ok(EMBEDDED.get_or_init(|| catalogue))
    }

    /// The same without their help.
    ///
    /// # Errors
    /// As [`Catalogue::embedded`].
    pub fn bare() -> Result<Self, CatalogueError> {
        Self::read(crate::BARE)
    }

    /// Reads the operations from an encoded `FileDescriptorSet`, for example an agent's.
    ///
    /// # Errors
    /// When the bytes are no descriptor set or an operation's definition contradicts itself.
    pub fn read(descriptors: &[u8]) -> Result<Self, CatalogueError> {
        let pool = DescriptorPool::decode(descriptors)?;
        let extension = |name| {
            pool.get_extension_by_name(name).ok_or_else(|| CatalogueError::Definition {
                operation: String::from(name),
                problem: String::from("the descriptors do not define this option"),
            })
        };
        let operation = extension("hostler.v1.operation")?;
        let parameter = extension("hostler.v1.parameter")?;
        let (operations, domains) = (BTreeMap::new(), BTreeMap::new());
        let mut catalogue = Self { operations, domains, pool: pool.clone() };
        for service in pool.services() {
            let file = service.parent_file();
            let comments = Comments::of(&file);
            for method in service.methods().filter(|m| m.options().has_extension(&operation)) {
                let spec = OperationSpec::read(&method, &operation, &parameter, &comments)?;
                catalogue.domains.insert(spec.domain.clone(), comments.before(service.path()));
                catalogue.operations.insert(spec.name.clone(), Arc::new(spec));
            }
        }
        Ok(catalogue)
    }

    /// Every operation, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<OperationSpec>> {
        self.operations.values()
    }

    /// Every domain with its help.
    pub fn domains(&self) -> impl Iterator<Item = (&str, &str)> {
        self.domains.iter().map(|(name, help)| (name.as_str(), help.as_str()))
    }

    /// The shapes of all messages of the contract.
    pub fn messages(&self) -> &DescriptorPool {
        &self.pool
    }

    /// The operation of that name.
    ///
    /// # Errors
    /// When there is none; the error names the nearest one.
    pub fn get(&self, name: &str) -> Result<&Arc<OperationSpec>, UnknownOperation> {
        self.operations.get(name).ok_or_else(|| UnknownOperation {
            name: name.to_owned(),
            nearest: nearest(name, self.operations.keys().map(String::as_str)).map(str::to_owned),
        })
    }
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

    /// The comment before a definition, as one line of prose per paragraph.
    fn before(&self, path: &[i32]) -> String {
        let text = self.0.get(path).copied().unwrap_or_default();
        text.split("\n\n")
            .map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|p| !p.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    }
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

    fn catalogue() -> &'static Catalogue {
        Catalogue::embedded().expect("the embedded descriptors are a catalogue")
    }

    #[test]
    fn without_comments_the_operations_are_the_same() {
        let bare = Catalogue::bare().expect("the bare descriptors are a catalogue");
        let of = |c: &Catalogue| {
            let parameters = |s: &OperationSpec| {
                s.parameters.iter().map(|p| p.options.clone()).collect::<Vec<_>>()
            };
            c.iter()
                .map(|s| (s.name.clone(), s.effect, s.deadline, parameters(s)))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&bare), of(catalogue()));
        assert!(
            bare.iter().all(|s| s.help.is_empty())
                && catalogue().iter().all(|s| !s.help.is_empty())
        );
    }

    #[test]
    fn every_operation_is_defined_completely() {
        let catalogue = catalogue();
        assert!(catalogue.iter().count() >= 3);
        for op in catalogue.iter() {
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
        let mut seen = Vec::new();
        for op in catalogue().iter() {
            walk(&op.result, &mut seen);
        }
        assert!(seen.len() >= 3);
    }

    #[test]
    fn every_domain_says_what_it_is_about() {
        for (name, help) in catalogue().domains() {
            assert!(!help.is_empty(), "{name}");
        }
    }

    #[test]
    fn locks_name_parameters_that_exist() {
        for op in catalogue().iter() {
            for lock in &op.locks {
                for name in lock.split('{').skip(1).filter_map(|s| s.split('}').next()) {
                    assert!(op.parameter(name).is_some(), "{}: {lock}", op.name);
                }
            }
        }
    }

    #[test]
    fn an_unknown_operation_is_answered_with_the_nearest_one() {
        let error = catalogue().get("host.fact").expect_err("no such operation");
        assert_eq!(
            error.to_string(),
            "there is no operation \"host.fact\"; did you mean \"host.facts\"?"
        );
    }

    #[test]
    fn bytes_that_are_no_descriptors_are_refused() {
        assert!(Catalogue::read(b"\xff\xff\xff").is_err());
    }
}
