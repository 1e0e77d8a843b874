//! How the checks of its hosts stand.

use hostler_proto::wire::{self, health_server::Health};
use tonic::Response;

use super::{Fake, Reply, selected};

#[tonic::async_trait]
impl Health for Fake {
    async fn problems(
        &self,
        request: tonic::Request<wire::ProblemsRequest>,
    ) -> Reply<wire::ProblemsReply> {
        selected(&request.get_ref().on)?;
        Ok(Response::new(wire::ProblemsReply::default()))
    }

    async fn host(
        &self,
        request: tonic::Request<wire::HostHealthRequest>,
    ) -> Reply<wire::HostHealth> {
        let host = request.into_inner().host;
        selected(&host)?;
        let check = |name: String| {
            let state = wire::CheckState { check: name, ..wire::CheckState::default() };
            wire::CheckHealth { state: Some(state), stale: false }
        };
        let checks = [format!("http:{host}"), "disk".to_owned()].map(check).into();
        Ok(Response::new(wire::HostHealth { host, checks, ..wire::HostHealth::default() }))
    }

    async fn history(
        &self,
        request: tonic::Request<wire::HistoryRequest>,
    ) -> Reply<wire::HistoryReply> {
        selected(&request.get_ref().host)?;
        Ok(Response::new(wire::HistoryReply::default()))
    }

    async fn acknowledge(
        &self,
        _: tonic::Request<wire::AcknowledgeRequest>,
    ) -> Reply<wire::AcknowledgeReply> {
        Ok(Response::new(wire::AcknowledgeReply::default()))
    }

    async fn unacknowledge(
        &self,
        _: tonic::Request<wire::UnacknowledgeRequest>,
    ) -> Reply<wire::UnacknowledgeReply> {
        Ok(Response::new(wire::UnacknowledgeReply::default()))
    }

    async fn add_downtime(
        &self,
        request: tonic::Request<wire::AddDowntimeRequest>,
    ) -> Reply<wire::DowntimeRecord> {
        selected(&request.get_ref().on)?;
        Ok(Response::new(wire::DowntimeRecord::default()))
    }

    async fn downtimes(
        &self,
        _: tonic::Request<wire::DowntimesRequest>,
    ) -> Reply<wire::DowntimesReply> {
        Ok(Response::new(wire::DowntimesReply::default()))
    }

    async fn end_downtime(
        &self,
        _: tonic::Request<wire::EndDowntimeRequest>,
    ) -> Reply<wire::EndDowntimeReply> {
        Ok(Response::new(wire::EndDowntimeReply::default()))
    }
}
