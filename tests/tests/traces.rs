//! Traces, with a real collector: one trace from the operator's command to the host.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::eventually,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// A span as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    service: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<HashMap<String, Seen>>>);

impl Collector {
    fn span(&self, name: &str) -> Option<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_service in request.into_inner().resource_spans {
            let attributes = of_service.resource.unwrap_or_default().attributes;
            let service = attributes.into_iter().find(|a| a.key == "service.name");
            let service = format!("{:?}", service.and_then(|a| a.value));
            for span in of_service.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let (trace, id, parent) = (span.trace_id, span.span_id, span.parent_span_id);
                seen.insert(span.name, Seen { service: service.clone(), trace, id, parent });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn environment(collector: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}")),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
    ]
}

#[test]
fn an_operation_is_one_trace_from_the_command_through_the_controller_to_the_host() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let collector = Collector::default();
    let service = TraceServiceServer::new(collector.clone());
    let incoming = runtime.block_on(async { TcpIncoming::bind(([127, 0, 0, 1], 0).into()) });
    let incoming = incoming.expect("a port");
    let address = incoming.local_addr().expect("an address");
    runtime.spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming),
    );

    let mut fleet = Fleet::with(Place::Loopback, "", environment(address));
    fleet.join("web-1", &[], "");
    fleet.ctl(&["host", "facts", "--on", "web-1"]).exits(0);
    eventually("the host's span arrives", || collector.span("operation").is_some());
    eventually("the controller's span arrives", || collector.span("run").is_some());
    let [command, run, operation] =
        ["command", "run", "operation"].map(|name| collector.span(name).expect("a span"));
    assert!(command.service.contains("hostlerctl"), "{command:?}");
    assert!(run.service.contains("hostler-controller"), "{run:?}");
    assert!(operation.service.contains("hostler-agent"), "{operation:?}");
    assert!(command.parent.is_empty(), "{command:?}");
    assert_eq!(run.parent, command.id);
    assert_eq!((&run.trace, &operation.trace), (&command.trace, &command.trace));
    assert!(!operation.parent.is_empty(), "{operation:?}");
}

#[test]
fn a_collector_that_does_not_answer_holds_nobody_up() {
    // Nobody listens at the discard port.
    let mut fleet = Fleet::with(Place::Loopback, "", environment(([127, 0, 0, 1], 9).into()));
    fleet.join("web-1", &[], "");
    let began = Instant::now();
    fleet.ctl(&["host", "facts", "--on", "web-1"]).exits(0);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
