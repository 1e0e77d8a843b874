//! The controller's process, and what it takes.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::agents::Error;

/// A controller that is set up.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    program: PathBuf,
    dir: PathBuf,
}

/// One that runs; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Running(Child);

fn command(program: &Path) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the bench starts what it measures")]
    Command::new(program)
}

impl Process {
    /// Makes a fleet in a directory.
    pub(crate) fn init(programs: &Path, dir: &Path, address: &str) -> Result<Self, Error> {
        let program = programs.join("hostler-controller");
        let config = format!(
            "listen = \"{address}\"\naddresses = [\"{address}\"]\nstate_dir = \"{}\"\n",
            dir.join("state").display()
        );
        std::fs::write(dir.join("controller.toml"), config)?;
        let made = command(&program)
            .arg("--config")
            .arg(dir.join("controller.toml"))
            .args(["init", "--fleet", "bench", "--context"])
            .arg(dir.join("admin.toml"))
            .output()?;
        match made.status.success() {
            true => Ok(Self { program, dir: dir.to_owned() }),
            false => Err(String::from_utf8_lossy(&made.stderr).into()),
        }
    }

    /// Starts it.
    pub(crate) fn run(&self) -> Result<Running, Error> {
        let log = File::create(self.dir.join("controller.log"))?;
        let child = command(&self.program)
            .arg("--config")
            .arg(self.dir.join("controller.toml"))
            .arg("run")
            .env("HOSTLER_LOG", "warn")
            // As the unit file in deploy/ sets it.
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Running(child))
    }
}

impl Running {
    fn process(&self) -> Result<procfs::process::Process, Error> {
        Ok(procfs::process::Process::new(i32::try_from(self.0.id())?)?)
    }

    /// Its resident memory, in bytes.
    pub(crate) fn resident(&self) -> Result<u64, Error> {
        let status = self.process()?.status()?;
        Ok(status.vmrss.ok_or("no VmRSS")? * 1024)
    }

    /// Its share of one processor over a while, in percent.
    pub(crate) async fn busy_percent(&self, window: Duration) -> Result<f64, Error> {
        let ticks = || -> Result<u64, Error> {
            let stat = self.process()?.stat()?;
            Ok(stat.utime + stat.stime)
        };
        let before = ticks()?;
        tokio::time::sleep(window).await;
        let spent = ticks()?.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "ticks of half a minute")]
        let percent =
            spent as f64 * 100.0 / procfs::ticks_per_second() as f64 / window.as_secs_f64();
        Ok(percent)
    }
}

impl Running {
    /// Asks it to end, and waits until it has written everything down.
    pub(crate) fn stop(mut self) -> Result<(), Error> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.0.id())?).ok_or("no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
