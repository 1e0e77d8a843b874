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
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// The variables of the OpenTelemetry specification that name where traces go.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Why traces cannot be exported.
#[derive(Debug, Error)]
#[error("traces cannot be exported ({ENDPOINTS:?}): {0}")]
pub struct TelemetryError(#[from] opentelemetry_otlp::ExporterBuildError);

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
/// When the endpoint cannot be used.
pub fn start(service: &'static str, logs: Logs) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::try_from_env("HOSTLER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
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
