//! `plugin.run`: a plugin that the stack file names, and its verdict. A caller chooses among the
//! host's plugins; the command line is the host's alone.

use hostler_proto::{
    operation::PluginRun,
    ops::{PluginRun as Report, PluginRunRequest},
    wire::{ErrorCode, Evidence, Failure, Figure, Finding, Status},
};

use super::output::{Output, parse};
use crate::{
    host::exec::{End, Line, Program},
    operation::{Answer, Context, Probe},
    stack::{Plugin, named},
};

/// Output beyond this is left out; plugins print a few lines.
const PRINTED: usize = 64 * 1024;

impl Probe for PluginRun {
    async fn observe(request: PluginRunRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        let plugins = &cx.host.stack.plugins;
        let plugin = named(plugins, "plugin", &request.name, |p| &p.name)?;
        let Some((program, arguments)) = plugin.command.split_first() else {
            let message = format!("the command of plugin \"{}\" is empty", plugin.name);
            return Err(Failure::new(ErrorCode::PreconditionFailed, message));
        };
        let mut command = Program::new(program.clone());
        for argument in arguments {
            command = command.arg(argument);
        }
        let mut running = command.start()?;
        let mut printed = String::new();
        while let Some(line) = running.line().await? {
            if let Line::Text(text) = line
                && printed.len() + text.len() < PRINTED
            {
                printed.push_str(&String::from_utf8_lossy(&text));
                printed.push('\n');
            }
        }
        Ok(judge(plugin, &running.end().await?, parse(&printed)))
    }
}

fn judge(plugin: &Plugin, end: &End, output: Output) -> Answer<Report> {
    let status = match end.code {
        Some(0) => Status::Ok,
        Some(1) => Status::Warning,
        Some(2) => Status::Critical,
        _ => Status::Unknown,
    };
    let summary = match (output.summary.is_empty(), status) {
        (false, _) => output.summary,
        (true, Status::Unknown) => end.failure().message,
        (true, _) => format!("plugin \"{}\" said nothing", plugin.name),
    };
    let figure = |f: &hostler_proto::ops::PluginFigure| Figure {
        name: f.label.clone(),
        subject: String::new(),
        value: f.value,
        unit: f.unit.clone(),
        limit: f.max,
    };
    let figures = output.figures.iter().map(figure).collect();
    let data =
        Report { exit_code: end.code.unwrap_or(-1), text: output.text, figures: output.figures };
    let mut answer = Answer::ok(summary.clone(), data);
    answer.figures = figures;
    // The command line is the owner's, and may hold what others must not read.
    let what = plugin.command.first().cloned().unwrap_or_default();
    answer.evidence.push(Evidence { what, ..end.evidence() });
    match status {
        Status::Ok => answer,
        bad => answer.finding(
            Finding::new(bad, &plugin.name, summary).why("the plugin says so; see its own help"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::host::Host;

    #[tokio::test]
    async fn a_plugin_that_leaves_a_child_behind_is_heard() {
        let script = "sleep 300 & echo \"OK fine|a=1\"; exit 0";
        let command = ["/bin/sh", "-c", script].map(ToOwned::to_owned).to_vec();
        let mut host = Host::showing(std::path::Path::new("/nonexistent"));
        host.stack.plugins.push(Plugin { name: "left".into(), command, after: Vec::new() });
        let (events, _receiver) = tokio::sync::mpsc::channel(1);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let ran = PluginRun::observe(PluginRunRequest { name: "left".into() }, &cx);
        let ran = tokio::time::timeout(Duration::from_secs(10), ran).await;
        let answer = ran.expect("in time").expect("an answer");
        assert_eq!((answer.status, answer.summary.as_str()), (Status::Ok, "OK fine"));
    }
}
