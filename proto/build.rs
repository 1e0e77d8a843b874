//! Compiles the contract without a system protoc, and generates one type per operation from the
//! descriptors, so that an agent without a handler for one of them does not compile.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use prost_reflect::{
    DescriptorPool, DynamicMessage, MethodDescriptor, ServiceDescriptor, Value, prost::Message as _,
};

const OPERATIONS: &str = "hostler.ops.v1";
const DESCRIPTOR: &str = "google/protobuf/descriptor.proto";

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
    let encoded = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(encoded.as_slice())?;
    fs::write(out.join("descriptors.rs"), descriptors(&encoded, &pool, &out)?)?;

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

    fs::write(out.join("operations.rs"), operations(&pool)?)?;
    Ok(())
}

/// Writes every compiled file in two parts, its shape and its comments, and a table of them: a
/// message of protobuf is the same in parts behind each other. Of the places in the sources only
/// those of comments are kept, the others are eight times as many and nobody asks for them.
fn descriptors(
    encoded: &[u8],
    pool: &DescriptorPool,
    out: &Path,
) -> Result<String, Box<dyn Error>> {
    let global = DescriptorPool::global();
    let shape = |name| global.get_message_by_name(name).ok_or("a descriptor has no shape");
    let set = DynamicMessage::decode(shape("google.protobuf.FileDescriptorSet")?, encoded)?;
    let files = set.get_field_by_name("file").ok_or("a set without files")?;
    let (mut shared, mut own, mut domains) = (String::new(), String::new(), String::new());
    let mut whole = String::new();
    let mut commented = 0;
    for file in files.as_list().unwrap_or_default().iter().filter_map(Value::as_message) {
        let name = file.get_field_by_name("name").ok_or("a file without a name")?;
        let name = name.as_str().unwrap_or_default();
        let mut bare = file.clone();
        bare.clear_field_by_name("source_code_info");
        let mut comments = DynamicMessage::new(shape("google.protobuf.FileDescriptorProto")?);
        let info = file.get_field_by_name("source_code_info").ok_or("no places")?;
        let mut info = info.into_owned();
        let places = info.as_message_mut().and_then(|i| i.get_field_by_name_mut("location"));
        let places = places.and_then(Value::as_list_mut).ok_or("no places")?;
        places.retain(|place| {
            place.as_message().is_some_and(|p| p.has_field_by_name("leading_comments"))
        });
        commented += places.len();
        comments.set_field_by_name("source_code_info", info);

        let stem = name.replace('/', ".");
        fs::write(out.join(format!("{stem}.shape")), bare.encode_to_vec())?;
        fs::write(out.join(format!("{stem}.comments")), comments.encode_to_vec())?;
        let part = |part| format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{stem}.{part}\"))");
        let parts = format!("File {{ shape: {}, comments: {} }}", part("shape"), part("comments"));
        let descriptor = pool.get_file_by_name(name).ok_or("a file that is not in the pool")?;
        match descriptor.services().next() {
            None if name == DESCRIPTOR => {
                fs::write(out.join("extended.shape"), extended(&mut bare)?.encode_to_vec())?;
                whole = parts;
            }
            Some(service) if service.package_name() == OPERATIONS => {
                writeln!(domains, "{},", domain(&service, &parts))?;
            }
            Some(_) => writeln!(own, "{parts},")?,
            None => writeln!(shared, "{parts},")?,
        }
    }
    match commented {
        0 => Err("the descriptors have no comments".into()),
        _ => Ok(format!(
            "static DESCRIPTOR: File = {whole};\n\
             pub(crate) static EXTENDED: &[u8] =\n    \
             include_bytes!(concat!(env!(\"OUT_DIR\"), \"/extended.shape\"));\n\
             pub(crate) static SHARED: &[File] = &[\n{shared}];\n\
             pub(crate) static OWN: &[File] = &[\n{own}];\n\
             pub(crate) const DOMAINS: &[Domain] = &[\n{domains}];\n"
        )),
    }
}

/// Protobuf's own description of itself without all that only tools for descriptors ask for: the two
/// messages that our options extend are left, and that of messages, which every map has. It would be two
/// thirds of what a domain needs. What has options whose message is not here costs as much again: the
/// library then builds all of its well-known types.
fn extended(file: &mut DynamicMessage) -> Result<&DynamicMessage, Box<dyn Error>> {
    file.clear_field_by_name("enum_type");
    file.clear_field_by_name("options");
    let messages = file.get_field_by_name_mut("message_type").and_then(Value::as_list_mut);
    let messages = messages.ok_or("a descriptor without messages")?;
    messages.retain(|message| {
        let name = message.as_message().and_then(|m| m.get_field_by_name("name"));
        let name = name.as_ref().and_then(|n| n.as_str()).unwrap_or_default();
        ["MethodOptions", "FieldOptions", "MessageOptions"].contains(&name)
    });
    for message in messages.iter_mut().filter_map(Value::as_message_mut) {
        for part in ["field", "nested_type", "enum_type", "oneof_decl", "options"] {
            message.clear_field_by_name(part);
        }
    }
    Ok(file)
}

/// What is known of a domain before its file is read.
fn domain(service: &ServiceDescriptor, parts: &str) -> String {
    let name = kebab(service.name());
    let mut operations: Vec<_> = service.methods().collect();
    operations.sort_by_key(|m| kebab(m.name()));
    let operations = operations.iter().map(|method| {
        let path = format!("/{}/{}", service.full_name(), method.name());
        format!("Name {{ name: \"{name}.{}\", path: {path:?} }}, ", kebab(method.name()))
    });
    let operations: String = operations.collect();
    let file = service.parent_file();
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let mut places = info.into_iter().flat_map(|i| &i.location);
    let place = places.find(|p| p.path == service.path());
    let comment = place.map(|p| p.leading_comments()).unwrap_or_default();
    format!(
        "Domain {{ name: {name:?}, comment: {comment:?}, operations: &[{operations}], file: {parts} }}"
    )
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
