//! Compiles the contract without a system protoc, and generates one type per operation from the
//! descriptors, so that an agent without a handler for one of them does not compile.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value, prost::Message as _};

const OPERATIONS: &str = "hostler.ops.v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=hostler");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut files = Vec::new();
    for dir in ["hostler/v1", "hostler/ops/v1"] {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    // The encoded form keeps custom options, which prost's own descriptor types drop.
    let encoded = commented(&compiler.encode_file_descriptor_set())?;
    fs::write(out.join("descriptors.bin"), &encoded)?;
    let mut bare = protox::Compiler::new(["."])?;
    bare.include_source_info(false).include_imports(true).open_files(&files)?;
    fs::write(out.join("bare.bin"), bare.encode_file_descriptor_set())?;

    let mut fds = compiler.file_descriptor_set();
    for file in &mut fds.file {
        if file.package() == OPERATIONS {
            // Operations are dispatched by their descriptors; tonic's code for them is not used.
            file.service.clear();
        }
    }
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure().build_transport(false).compile_fds_with_config(fds, config)?;

    fs::write(
        out.join("operations.rs"),
        operations(&DescriptorPool::decode(encoded.as_slice())?)?,
    )?;
    Ok(())
}

/// The same descriptors with the places of their comments alone. Those of all other words are eight
/// times as many, and nobody who reads the set asks for them.
fn commented(encoded: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let shape = DescriptorPool::global().get_message_by_name("google.protobuf.FileDescriptorSet");
    let mut set = DynamicMessage::decode(shape.ok_or("no shape of a descriptor set")?, encoded)?;
    let mut commented = 0;
    let files = set.get_field_by_name_mut("file").and_then(Value::as_list_mut);
    for file in files.into_iter().flatten().filter_map(Value::as_message_mut) {
        let info = file.get_field_by_name_mut("source_code_info").and_then(Value::as_message_mut);
        let places = info.and_then(|i| i.get_field_by_name_mut("location")?.as_list_mut());
        let Some(places) = places else { continue };
        places.retain(|place| {
            place.as_message().is_some_and(|p| p.has_field_by_name("leading_comments"))
        });
        commented += places.len();
    }
    match commented {
        0 => Err("the descriptors have no comments".into()),
        _ => Ok(set.encode_to_vec()),
    }
}

fn operations(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let (mut code, mut probes, mut actions) = (String::new(), String::new(), String::new());
    let option = pool.get_extension_by_name("hostler.v1.operation").ok_or("no operation option")?;
    let mut services: Vec<_> = pool.services().filter(|s| s.package_name() == OPERATIONS).collect();
    services.sort_by(|a, b| a.name().cmp(b.name()));
    for method in services.iter().flat_map(|s| s.methods()) {
        let options = method.options();
        let value = options.get_extension(&option);
        let Value::Message(op) = value.as_ref() else { return Err("option is no message".into()) };
        let result = op.get_field_by_name("result").and_then(|v| v.as_str().map(str::to_owned));
        let result = result.filter(|r| !r.is_empty()).ok_or_else(|| missing(&method, "result"))?;
        let kind = op.get_field_by_name("kind").and_then(|v| v.as_enum_number()).unwrap_or(0);
        let service = method.parent_service().name().to_owned();
        let ty = format!("{service}{}", method.name());
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let input = message(method.input().full_name())?;
        let comment = format!("`{}.{}`", kebab(&service), kebab(method.name()));
        writeln!(
            code,
            "/// {comment}\n#[derive(Debug, Clone, Copy)]\npub struct {ty};\n\
             impl Operation for {ty} {{\n    type Request = crate::ops::{input};\n    \
             type Result = crate::ops::{};\n    const NAME: &'static str = \"{}.{}\";\n    \
             const PATH: &'static str = \"{path}\";\n}}",
            message(&result)?,
            kebab(&service),
            kebab(method.name()),
        )?;
        let list = match kind {
            1 => &mut probes,
            2 => &mut actions,
            _ => return Err(missing(&method, "kind").into()),
        };
        write!(list, "$crate::operation::{ty}, ")?;
    }
    writeln!(
        code,
        "/// Calls a macro with the types of all probes and of all actions.\n#[macro_export]\n\
         macro_rules! for_each_operation {{\n    ($callback:ident) => {{ $callback! {{ probes [ \
         {probes}] actions [ {actions}] }} }};\n}}"
    )?;
    Ok(code)
}

fn missing(method: &MethodDescriptor, option: &str) -> String {
    format!("{}: the operation option has no {option}", method.full_name())
}

/// The Rust name of a message of the operations' package.
fn message(full: &str) -> Result<String, Box<dyn Error>> {
    let name = full.strip_prefix(OPERATIONS).and_then(|n| n.strip_prefix('.'));
    Ok(name.ok_or_else(|| format!("{full} is not in {OPERATIONS}"))?.to_owned())
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
