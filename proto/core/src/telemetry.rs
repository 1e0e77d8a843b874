//! Logs for people or machines, and traces over OTLP when an endpoint is named in the environment:
//! one trace from the operator's command through the controller to every agent.

use std::io::IsTerminal;

use opentelemetry::{
    global,
    propagation::{Extractor, Injector},
    trace::TracerProvider as _,
};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use thiserror::Error;
use tonic::metadata::{KeyRef, MetadataKey, MetadataMap, MetadataValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// The variables of the OpenTelemetry specification that name where traces go.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// The variable that says what is logged.
const FILTER: &str = "HOSTLER_LOG";

/// Why there are no logs or no traces.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The endpoint cannot be used.
    #[error("traces cannot be exported ({ENDPOINTS:?}): {0}")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The environment asks for logs in words that mean nothing.
    #[error(
        "{FILTER}=\"{0}\" is no filter of logs; write warn, info, debug, or for example \
         info,hostler_agent=debug"
    )]
    Filter(String),
}

/// How a program logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logs {
    /// For people, on standard error.
    Text,
    /// One JSON object in a line, on standard error.
    Json,
    /// Not at all: the program talks to its user itself.
    None,
}

/// Sends what is left of the traces when it is dropped.
#[derive(Debug)]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

/// Begins to log, and to trace when an endpoint is named. Call it once, inside the runtime.
///
/// # Errors
/// When the endpoint or the filter of logs cannot be used.
pub fn start(service: &'static str, logs: Logs) -> Result<Telemetry, TelemetryError> {
    let filter = match std::env::var(FILTER) {
        Ok(text) if logs != Logs::None => filter(&text)?,
        _ => Targets::new().with_default(LevelFilter::INFO),
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let base = tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(std::io::stderr);
    let lines = match logs {
        Logs::Text => Some(base.with_target(false).boxed()),
        Logs::Json => Some(base.json().boxed()),
        Logs::None => None,
    };
    let provider = match ENDPOINTS.iter().any(|name| std::env::var_os(name).is_some()) {
        true => {
            let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().build()?;
            let resource = Resource::builder().with_service_name(service).build();
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource)
                .build();
            global::set_text_map_propagator(TraceContextPropagator::new());
            Some(provider)
        }
        false => None,
    };
    let tracer = provider.as_ref().map(|p| p.tracer("hostler"));
    let traces = tracer.map(|t| {
        let own = tracing_subscriber::filter::filter_fn(|meta| {
            meta.is_span() && meta.target().starts_with("hostler")
        });
        tracing_opentelemetry::layer().with_tracer(t).with_filter(own)
    });
    tracing_subscriber::registry().with(traces).with(lines.with_filter(filter)).init();
    Ok(Telemetry(provider))
}

/// Levels, for all or for a part: `warn`, `info,hostler_agent=debug`.
fn filter(text: &str) -> Result<Targets, TelemetryError> {
    let unusable = || TelemetryError::Filter(text.to_owned());
    // A word alone is a level. As the name of a part, which it could be too, it would hide a typing error.
    let level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let known = |part: &str| part.contains('=') || level(part);
    match text.split(',').all(|part| known(part.trim())) {
        true => text.parse().map_err(|_| unusable()),
        false => Err(unusable()),
    }
}

struct Outgoing<'m>(&'m mut MetadataMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) =
            (MetadataKey::from_bytes(key.as_bytes()), MetadataValue::try_from(value))
        {
            self.0.insert(key, value);
        }
    }
}

struct Incoming<'m>(&'m MetadataMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        let text = |key| match key {
            KeyRef::Ascii(key) => Some(key.as_str()),
            KeyRef::Binary(_) => None,
        };
        self.0.keys().filter_map(text).collect()
    }
}

/// Sends the current span along with a call, as `traceparent`.
pub fn send(metadata: &mut MetadataMap) {
    let context = Span::current().context();
    global::get_text_map_propagator(|p| p.inject_context(&context, &mut Outgoing(metadata)));
}

/// Makes a span a part of the caller's trace, when the call came with one.
pub fn join(span: &Span, metadata: &MetadataMap) {
    let context = global::get_text_map_propagator(|p| p.extract(&Incoming(metadata)));
    // Without a trace to join the span begins one of its own.
    let _ = span.set_parent(context);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_logs_is_levels_for_all_or_for_a_part() {
        let made = filter("info,hostler_agent=debug").expect("a filter");
        assert!(made.would_enable("hostler_agent::run", &tracing::Level::DEBUG));
        assert!(!made.would_enable("h2", &tracing::Level::DEBUG));
        assert!(filter("off").is_ok() && filter("WARN").is_ok());
        for wrong in ["", "waarn", "info,hostler_agent", "hostler_agent=loud"] {
            let said = filter(wrong).expect_err(wrong).to_string();
            assert!(said.contains(wrong) && said.contains("write warn"), "{said}");
        }
    }
}
