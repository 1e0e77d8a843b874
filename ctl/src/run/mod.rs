//! Runs one operation: whom it concerns, whether it may go ahead, what comes back, how it ended.

use std::sync::Arc;

use clap::ArgMatches;
use hostler_core::clock::{Clock, InvocationId, SystemClock};
use hostler_proto::{
    catalogue::OperationSpec,
    wire::{Effect, HostsReply, HostsRequest, Kind, RunRequest},
};

use crate::{
    command,
    connect::Controller,
    exit::{Exit, Problem},
    screen::Screen,
    show::Form,
};

pub mod collect;
pub mod confirm;
pub mod interrupt;
pub mod selector;
pub mod stream;

/// The clock of the machine.
pub fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// One run as the command line asks for it, checked before anything is sent.
#[derive(Debug)]
pub struct Run {
    request: RunRequest,
    form: Form,
    yes: bool,
}

impl Run {
    /// Reads an operation's command line.
    ///
    /// # Errors
    /// When a parameter or the selector is wrong.
    pub fn read(spec: &OperationSpec, matches: &ArgMatches) -> Result<Self, Problem> {
        let on = matches.get_one::<String>("on").map(String::as_str).unwrap_or_default();
        let set = |id| matches.try_get_one::<bool>(id).ok().flatten().copied().unwrap_or(false);
        let number = |id| matches.get_one::<u32>(id).copied().unwrap_or(0);
        let reason = matches.get_one::<String>("reason").cloned().unwrap_or_default();
        let run = Self {
            request: RunRequest {
                operation: spec.name.clone(),
                request: command::request(spec, matches)?,
                on: selector::read(on)?,
                plan: set("plan"),
                timeout_s: number("timeout"),
                parallel: number("parallel"),
                confirmed: 0,
                invocation: String::new(),
                reason,
            },
            form: Form::of(matches),
            yes: set("yes"),
        };
        if matches!(run.form, Form::Json | Form::Yaml) && follows(spec, &run.request.request) {
            return Err(Problem::usage("a document that never ends cannot be written")
                .hint("use -o jsonl with --follow"));
        }
        Ok(run)
    }

    /// Reads the command line of `diagnose HOST [SERVICE]`.
    ///
    /// # Errors
    /// When the host is not one, or the service cannot be one.
    pub fn diagnose(spec: &OperationSpec, matches: &ArgMatches) -> Result<Self, Problem> {
        let text = |id| matches.get_one::<String>(id).cloned().unwrap_or_default();
        let service = text("service");
        let given = (!service.is_empty()).then_some(("service", service.as_str()));
        let message = hostler_proto::args::from_text(spec, given)?;
        let request = RunRequest {
            operation: spec.name.clone(),
            request: prost::Message::encode_to_vec(&message),
            on: selector::one_host(&text("host"))?,
            ..RunRequest::default()
        };
        Ok(Self { request, form: Form::of(matches), yes: false })
    }

    /// Carries it out.
    ///
    /// # Errors
    /// When it was not carried out, or the connection to the controller was lost on the way.
    pub async fn carry_out(
        mut self,
        spec: &OperationSpec,
        controller: &Controller,
        clock: &dyn Clock,
        screen: &mut Screen,
    ) -> Result<Exit, Problem> {
        let acts = spec.kind == Kind::Action && !self.request.plan;
        // What only looks needs no number that is confirmed: the run itself tells it.
        if !acts {
            self.request.invocation = InvocationId::new(clock).to_string();
            return stream::run(spec, controller, self.request, self.form, screen).await;
        }
        let HostsReply { hosts, of } = matching(controller, &self.request.on).await?;
        if hosts.len() > 1 {
            screen.say(&how_many(&spec.name, hosts.len(), of));
        }
        // The controller refuses when the selector has come to match another number.
        self.request.confirmed = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        if spec.effect == Effect::Destructive && !self.yes {
            confirm::possible(screen)?;
            let mut plan = self.request.clone();
            plan.plan = true;
            plan.invocation = InvocationId::new(clock).to_string();
            let planned = stream::run(spec, controller, plan, Form::Table, screen).await?;
            if planned != Exit::AllWell {
                return Err(Problem::new(planned, "the plan cannot be carried out everywhere")
                    .hint("nothing was changed; leave out the hosts that failed"));
            }
            let names: Vec<_> = hosts.iter().map(|h| h.name.as_str()).collect();
            confirm::ask(screen, &spec.name, &names).await?;
        }
        self.request.invocation = InvocationId::new(clock).to_string();
        stream::run(spec, controller, self.request, self.form, screen).await
    }
}

/// The hosts that a selector matches, of which there must be one at least.
///
/// # Errors
/// When it matches none, or the controller does not tell.
pub async fn matching(controller: &Controller, on: &str) -> Result<HostsReply, Problem> {
    let request = HostsRequest { on: on.to_owned() };
    controller.answer_of_host(controller.fleet().hosts(request)).await
}

/// On how many of how many hosts something is done; a slip in a selector shows in it.
fn how_many(operation: &str, hosts: usize, of: u32) -> String {
    match of {
        // An older controller does not tell.
        0 => format!("{operation} on {hosts} hosts"),
        of => format!("{operation} on {hosts} of {of} hosts"),
    }
}

/// Whether it goes on until it is cancelled.
pub fn follows(spec: &OperationSpec, request: &[u8]) -> bool {
    let asked = || {
        let message = prost_reflect::DynamicMessage::decode(spec.request.clone(), request).ok()?;
        message.get_field_by_name("follow")?.as_bool()
    };
    spec.follows && asked().unwrap_or(false)
}
