//! The way to systemd: its D-Bus interface.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use hostler_proto::{
    name::nearest,
    wire::{ErrorCode, Evidence, Failure},
};
use zbus::{
    connection::Builder,
    fdo::PropertiesProxy,
    names::InterfaceName,
    proxy::CacheProperties,
    zvariant::{OwnedObjectPath, OwnedValue, Value},
};

use super::unit::{Unit, as_number, as_text, read, text, texts};

/// Where every systemd listens.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// How long systemd may take to answer one call.
const PATIENCE: Duration = Duration::from_secs(10);
const SERVICE: &str = "org.freedesktop.systemd1";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
/// systemd's service for the clock. It asks the kernel, which it would not let this agent do: the call that
/// tells is the one that sets.
const CLOCK: &str = "org.freedesktop.timedate1";

/// What `ListUnitsFiltered` tells of a unit: name, description, load, active and sub state,
/// followed unit, object, id, type and object of its job.
type Listed =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// Properties by name.
type Properties = HashMap<String, OwnedValue>;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn list_units_filtered(&self, states: &[&str]) -> zbus::Result<Vec<Listed>>;
    fn list_units_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<Vec<Listed>>;
    fn list_unit_files(&self) -> zbus::Result<Vec<(String, String)>>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn subscribe(&self) -> zbus::Result<()>;
    #[zbus(property)]
    fn system_state(&self) -> zbus::Result<String>;

    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

/// What can be asked of systemd for a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Stop it when it runs, and start it.
    Restart,
    /// Have it read its configuration again.
    Reload,
}

impl Verb {
    /// As one says it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
            Self::Restart => "RestartUnit",
            Self::Reload => "ReloadUnit",
        }
    }
}

/// The few properties by which one sees whether a unit stays up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pulse {
    /// `active`, `failed`, ...
    pub(super) active: String,
    /// Main process.
    pub(super) pid: u32,
    /// Restarts by systemd itself.
    pub(super) restarts: u32,
}

/// A connection to systemd.
#[derive(Debug, Clone)]
pub(super) struct Bus {
    connection: zbus::Connection,
    manager: ManagerProxy<'static>,
}

impl Bus {
    /// Connects over the system bus.
    pub(super) async fn connect() -> Result<Self, Failure> {
        Self::at(SYSTEM_BUS).await
    }

    /// Connects over the bus at that address.
    pub(super) async fn at(address: &str) -> Result<Self, Failure> {
        let absent = |problem: String| {
            let message = format!("systemd cannot be reached over the system bus: {problem}");
            Failure::new(ErrorCode::Unsupported, message)
                .hint("this needs a host that was booted with systemd and runs D-Bus")
        };
        let connect = async {
            let connection = Builder::address(address)?.method_timeout(PATIENCE).build().await?;
            let manager = ManagerProxy::builder(&connection)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            zbus::Result::Ok(Self { connection, manager })
        };
        match tokio::time::timeout(PATIENCE, connect).await {
            Ok(Ok(bus)) => Ok(bus),
            Ok(Err(error)) => Err(absent(error.to_string())),
            Err(_) => Err(absent(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    /// Whether the whole host is being shut down or booted anew.
    pub(super) async fn host_stopping(&self) -> bool {
        self.manager.system_state().await.is_ok_and(|state| state == "stopping")
    }

    /// Whether the kernel takes its clock to be in step with others, whoever keeps it so.
    pub(super) async fn clock_synchronised(&self) -> zbus::Result<bool> {
        let proxy = PropertiesProxy::builder(&self.connection)
            .destination(CLOCK)?
            .path("/org/freedesktop/timedate1")?
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let value = proxy.get(InterfaceName::try_from(CLOCK)?, "NTPSynchronized").await?;
        Ok(matches!(&*value, Value::Bool(true)))
    }

    /// Every property of a unit: of the common interface, and of that of its type.
    pub(super) async fn all(&self, name: &str) -> Result<(Properties, Properties), Failure> {
        let object =
            self.manager.load_unit(name).await.map_err(|e| refused("LoadUnit", name, e))?;
        let common = self.properties(&object, name, UNIT).await?;
        let own = match interface(name) {
            Some(interface) => self.properties(&object, name, &interface).await?,
            None => HashMap::new(),
        };
        Ok((common, own))
    }

    /// A unit by its full name, loaded or not; `now_us` is what its times are measured against.
    pub(super) async fn unit(&self, name: &str, now_us: i64) -> Result<Unit, Failure> {
        let object =
            self.manager.load_unit(name).await.map_err(|e| refused("LoadUnit", name, e))?;
        let common = self.properties(&object, name, UNIT).await?;
        let load = text(&common, "LoadState");
        let own = match interface(name) {
            Some(interface) if load == "loaded" || text(&common, "ActiveState") == "active" => {
                self.properties(&object, name, &interface).await?
            }
            _ => HashMap::new(),
        };
        Ok(Unit { object: object.to_string(), ..read(&common, &own, now_us) })
    }

    /// A unit that must exist; a misspelt name is answered with the nearest one.
    pub(super) async fn existing(&self, name: &str, now_us: i64) -> Result<Unit, Failure> {
        let unit = self.unit(name, now_us).await?;
        let gone = unit.status.load_state == "not-found" && unit.status.active_state == "inactive";
        if !gone {
            return Ok(unit);
        }
        let failure = Failure::new(ErrorCode::NotFound, format!("there is no unit {name}"));
        let known = self.unit_files().await.unwrap_or_default();
        Err(match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => failure.hint(format!("did you mean {near}?")),
            None => failure.hint("`systemd status` without a name lists what has failed"),
        })
    }

    /// Units that systemd stops, or starts anew, together with one.
    pub(super) async fn dependents(&self, name: &str) -> Result<Vec<String>, Failure> {
        let object =
            self.manager.load_unit(name).await.map_err(|e| refused("LoadUnit", name, e))?;
        let common = self.properties(&object, name, UNIT).await?;
        let kinds = ["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf"];
        Ok(kinds.into_iter().flat_map(|kind| texts(&common, kind)).collect())
    }

    /// Names of the units that are in one of those states, whatever kind of state it is.
    pub(super) async fn in_state(&self, states: &[&str]) -> Result<Vec<String>, Failure> {
        let listed = self.manager.list_units_filtered(states).await;
        let listed = listed.map_err(|e| refused("ListUnitsFiltered", &states.join(" "), e))?;
        Ok(listed.into_iter().map(|unit| unit.0).collect())
    }

    /// Names of the loaded units that fit a pattern.
    pub(super) async fn like(&self, pattern: &str) -> Result<Vec<String>, Failure> {
        let listed = self.manager.list_units_by_patterns(&[], &[pattern]).await;
        let listed = listed.map_err(|e| refused("ListUnitsByPatterns", pattern, e))?;
        Ok(listed.into_iter().map(|unit| unit.0).collect())
    }

    /// Whether and how a unit runs at this moment.
    pub(super) async fn pulse(&self, name: &str) -> Result<Pulse, Failure> {
        let object =
            self.manager.load_unit(name).await.map_err(|e| refused("LoadUnit", name, e))?;
        let active = self.property(&object, UNIT, "ActiveState").await;
        let active = active.map_err(|e| refused("Get ActiveState", name, e))?;
        let mut pulse = Pulse { active: as_text(&active), ..Pulse::default() };
        if let Some(interface) = interface(name).filter(|_| name.ends_with(".service")) {
            let pid = self.property(&object, &interface, "MainPID").await;
            pulse.pid = as_number(&pid.map_err(|e| refused("Get MainPID", name, e))?) as u32;
            // systemd before 235 does not count restarts.
            if let Ok(restarts) = self.property(&object, &interface, "NRestarts").await {
                pulse.restarts = as_number(&restarts) as u32;
            }
        }
        Ok(pulse)
    }

    /// Has systemd do that and waits for the end of its job. Tells the job's result, or none when
    /// `until` came first: the job goes on then.
    pub(super) async fn change(
        &self,
        verb: Verb,
        name: &str,
        until: impl Future<Output = ()>,
    ) -> Result<Option<String>, Failure> {
        let failed = |e| refused(verb.method(), name, e);
        self.manager.subscribe().await.map_err(failed)?;
        // Before the call: a short job can end before its reply is read.
        let mut ended = self.manager.receive_job_removed().await.map_err(failed)?;
        let job = match verb {
            Verb::Start => self.manager.start_unit(name, "replace").await,
            Verb::Stop => self.manager.stop_unit(name, "replace").await,
            Verb::Restart => self.manager.restart_unit(name, "replace").await,
            Verb::Reload => self.manager.reload_unit(name, "replace").await,
        };
        let job = job.map_err(failed)?;
        let result = async {
            while let Some(signal) = ended.next().await {
                if let Ok(args) = signal.args()
                    && *args.job() == job
                {
                    return Ok(Some(args.result().clone()));
                }
            }
            let message = format!("the bus went away while systemd was to {} {name}", verb.word());
            Err(Failure::new(ErrorCode::OutcomeUnknown, message)
                .hint(format!("look at `systemd status {name}`")))
        };
        tokio::select! {
            result = result => result,
            () = until => Ok(None),
        }
    }

    async fn unit_files(&self) -> Result<Vec<String>, Failure> {
        let files = self.manager.list_unit_files().await;
        let files = files.map_err(|e| refused("ListUnitFiles", "", e))?;
        Ok(files.iter().filter_map(|(path, _)| path.rsplit('/').next()).map(Into::into).collect())
    }

    async fn proxy(&self, object: &OwnedObjectPath) -> zbus::Result<PropertiesProxy<'static>> {
        PropertiesProxy::builder(&self.connection)
            .destination(SERVICE)?
            .path(object.clone())?
            .cache_properties(CacheProperties::No)
            .build()
            .await
    }

    async fn property(
        &self,
        object: &OwnedObjectPath,
        interface: &str,
        name: &str,
    ) -> zbus::Result<OwnedValue> {
        Ok(self.proxy(object).await?.get(InterfaceName::try_from(interface)?, name).await?)
    }

    async fn properties(
        &self,
        object: &OwnedObjectPath,
        name: &str,
        interface: &str,
    ) -> Result<HashMap<String, OwnedValue>, Failure> {
        let all = async {
            let interface = InterfaceName::try_from(interface)?;
            zbus::Result::Ok(self.proxy(object).await?.get_all(interface).await?)
        };
        all.await.map_err(|e| refused("GetAll", name, e))
    }
}

/// The interface that units of this name's type have beside the common one.
fn interface(name: &str) -> Option<String> {
    let (_, suffix) = name.rsplit_once('.')?;
    let first = suffix.get(..1)?.to_ascii_uppercase();
    Some(format!("{SERVICE}.{first}{}", &suffix[1..]))
}

/// What systemd's refusal means to the caller.
fn refused(method: &str, name: &str, error: zbus::Error) -> Failure {
    let (kind, detail) = match &error {
        zbus::Error::MethodError(kind, detail, _) => {
            (kind.as_str().to_owned(), detail.clone().unwrap_or_default())
        }
        zbus::Error::FDO(fdo) => (String::new(), fdo.to_string()),
        other => (String::new(), other.to_string()),
    };
    let (code, hint) = match kind.rsplit('.').next().unwrap_or_default() {
        "NoSuchUnit" | "LoadFailed" => (ErrorCode::NotFound, ""),
        "InvalidArgs" => (ErrorCode::InvalidArgument, ""),
        "UnitMasked" => (ErrorCode::PreconditionFailed, "somebody masked it on purpose"),
        "OnlyByDependency" => {
            (ErrorCode::PreconditionFailed, "its file allows it only as a dependency of others")
        }
        "JobTypeNotApplicable" | "TransactionIsDestructive" | "TransactionJobsConflicting" => {
            (ErrorCode::PreconditionFailed, "another job of systemd may stand in its way")
        }
        "AccessDenied" | "InteractiveAuthorizationRequired" => {
            (ErrorCode::PermissionDenied, "the agent must run as root to change units")
        }
        _ => (ErrorCode::HostFault, ""),
    };
    let evidence = Evidence::new("dbus", format!("{method} {name}").trim_end());
    Failure::new(code, format!("systemd refused {method} {name}: {detail}"))
        .hint(hint)
        .evidence(evidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_of_unit_has_an_interface_of_its_own() {
        assert_eq!(interface("a.b.service").as_deref(), Some("org.freedesktop.systemd1.Service"));
        assert_eq!(interface("x.timer").as_deref(), Some("org.freedesktop.systemd1.Timer"));
        assert_eq!(interface("x"), None);
        assert_eq!(interface("x."), None);
    }

    #[tokio::test]
    async fn a_host_without_a_system_bus_is_told_so() {
        let failure = Bus::at("unix:path=/nonexistent/bus").await.expect_err("no bus");
        assert_eq!(failure.code(), ErrorCode::Unsupported);
        assert!(failure.hint.contains("booted with systemd"), "{failure}");
    }
}
