//! The one place that starts programs: an absolute path and arguments, never a shell; nothing on
//! its input, a clean environment, lines of bounded length, and a process group of its own that
//! outlives neither the program nor whoever waits for it. A process that leaves that group (setsid) does;
//! what it says is not waited for.

use std::{
    borrow::Cow, collections::VecDeque, ffi::OsString, path::PathBuf, process::Stdio,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use hostler_proto::wire::{ErrorCode, Evidence, Failure};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncRead,
    process::{Child, ChildStdout},
    task::JoinHandle,
};
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, FramedRead};

use super::lingering::{Lingering, UnderWay};

/// The longest line that is given out.
pub const LINE: usize = 256 * 1024;
/// Bytes that [`Program::output`] keeps.
const PRINTED: usize = 4 << 20;
/// What a line takes beside its text: empty ones are not free.
const EACH: usize = 64;
/// How long the rest of its output may take when a program has ended.
const REST: Duration = Duration::from_secs(1);
/// Lines of the error output that are kept, and characters of each.
const TAIL: usize = 20;
const SAID: usize = 1000;

/// A program with its arguments.
#[derive(Debug, Clone)]
pub struct Program {
    path: Cow<'static, str>,
    args: Vec<OsString>,
    variables: Vec<(String, OsString)>,
    user: Option<(u32, u32)>,
    longest_line: usize,
    directory: Option<PathBuf>,
}

/// One that runs. Dropping it ends the program and what it started, but for what has left its process
/// group.
#[derive(Debug)]
pub struct Running {
    argv: String,
    child: Child,
    group: Option<Pid>,
    lines: FramedRead<ChildStdout, AnyDelimiterCodec>,
    /// The last line was too long.
    paused: bool,
    /// The program has ended, and what it left behind in its group.
    over: bool,
    /// That it runs, for whoever would start it again.
    under_way: Option<UnderWay>,
    errors: JoinHandle<VecDeque<String>>,
}

/// A line of output.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Its text, without the line's end.
    Text(BytesMut),
    /// It was longer than [`LINE`] and was left out.
    TooLong,
}

impl Program {
    /// The program at an absolute path.
    pub fn new(path: impl Into<Cow<'static, str>>) -> Self {
        let (args, variables) = (Vec::new(), Vec::new());
        Self { path: path.into(), args, variables, directory: None, user: None, longest_line: LINE }
    }

    /// The program, run as another user, with that user's groups and nothing of this one's. Where
    /// this process is no root it runs as what it is.
    pub fn as_user(path: impl Into<Cow<'static, str>>, uid: u32, gid: u32) -> Self {
        if !rustix::process::geteuid().is_root() || uid == 0 {
            return Self::new(path);
        }
        Self::new("/usr/bin/setpriv")
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={gid}"))
            .arg("--init-groups")
            .arg("--no-new-privs")
            .arg("--")
            .arg(path.into().into_owned())
    }

    /// Adds an argument. It reaches the program as it is: nothing in it has a meaning before.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets a variable of its environment, which holds no others of this process.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Runs it as another user, with that one's main group alone. Nothing that is root sees its
    /// variables, as it would with [`Program::as_user`]: so those of that user can be given to it.
    /// Where this process is no root it runs as what it is.
    #[must_use]
    pub fn of_user(mut self, uid: u32, gid: u32) -> Self {
        self.user = rustix::process::geteuid().is_root().then_some((uid, gid));
        self
    }

    /// Takes lines that are longer than [`LINE`].
    #[must_use]
    pub fn longest_line(mut self, bytes: usize) -> Self {
        self.longest_line = bytes;
        self
    }

    /// The directory in which it starts; this process's own when it is left out.
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// What is run, for people.
    pub fn argv(&self) -> String {
        let mut argv = self.path.to_string();
        for arg in &self.args {
            argv.push(' ');
            argv.push_str(&arg.to_string_lossy());
        }
        argv
    }

    /// Runs it to its end, and takes what it prints.
    ///
    /// # Errors
    /// When it cannot be started, or its output cannot be read. A status that says no is none.
    pub async fn output(self) -> Result<Output, Failure> {
        let mut running = self.start()?;
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while let Some(line) = running.line().await? {
            if let Line::Text(text) = line {
                bytes += text.len() + EACH;
                if bytes <= PRINTED {
                    lines.push(String::from_utf8_lossy(&text).into_owned());
                }
            }
        }
        Ok(Output { lines, end: running.end().await? })
    }

    /// Starts it.
    ///
    /// # Errors
    /// When there is no such program, or it cannot be started.
    pub fn start(self) -> Result<Running, Failure> {
        let argv = self.argv();
        #[expect(clippy::disallowed_methods, reason = "this is the process runner")]
        let mut command = tokio::process::Command::new(&*self.path);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .envs(self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some((uid, gid)) = self.user {
            // The standard library takes root's other groups away with it.
            command.uid(uid).gid(gid);
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let mut child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                let message = format!("this host has no {}", self.path);
                Failure::new(ErrorCode::Unsupported, message)
            }
            _ => {
                Failure::new(ErrorCode::HostFault, format!("{} cannot be started: {e}", self.path))
            }
        })?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let missing = || Failure::new(ErrorCode::Internal, "a program has no output");
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let errors = tokio::spawn(tail(child.stderr.take().ok_or_else(missing)?));
        let lines = FramedRead::new(stdout, codec(self.longest_line));
        // Without its arguments: those of a plugin may be secret.
        let under_way = Lingering::here(|| match child.id() {
            Some(pid) => format!("{}, process {pid}", self.path),
            None => self.path.to_string(),
        });
        Ok(Running { argv, child, group, lines, paused: false, over: false, under_way, errors })
    }
}

impl Running {
    /// What is run.
    pub fn argv(&self) -> &str {
        &self.argv
    }

    /// The next line of its output; none after the last.
    ///
    /// # Errors
    /// When its output cannot be read.
    pub async fn line(&mut self) -> Result<Option<Line>, Failure> {
        let next = match self.decoded().await {
            // After an error the decoder pauses once; that is not the end.
            None if std::mem::take(&mut self.paused) => self.decoded().await,
            next => next,
        };
        self.paused = matches!(&next, Some(Err(AnyDelimiterCodecError::MaxChunkLengthExceeded)));
        match next {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(Line::Text(BytesMut::from(&text[..])))),
            Some(Err(AnyDelimiterCodecError::MaxChunkLengthExceeded)) => Ok(Some(Line::TooLong)),
            Some(Err(AnyDelimiterCodecError::Io(e))) => {
                let program = self.argv.split(' ').next().unwrap_or_default();
                let message = format!("the output of {program} cannot be read: {e}");
                Err(Failure::new(ErrorCode::HostFault, message))
            }
        }
    }

    /// What comes next of its output. Once it has ended nobody else is to write there: what it left behind
    /// in its group ends, and what left the group is not waited for.
    async fn decoded(&mut self) -> Option<Result<Bytes, AnyDelimiterCodecError>> {
        if !self.over {
            tokio::select! {
                biased;
                next = self.lines.next() => return next,
                _ = self.child.wait() => {}
            }
            self.end_group();
            self.over = true;
        }
        tokio::time::timeout(REST, self.lines.next()).await.unwrap_or_default()
    }

    /// Waits for its end after its last line.
    ///
    /// # Errors
    /// When it said no, with the last lines of its error output.
    pub async fn ended(self) -> Result<(), Failure> {
        let end = self.end().await?;
        if end.code == Some(0) {
            return Ok(());
        }
        Err(end.failure())
    }

    /// As [`Running::ended`], for a program whose exit status says more than yes or no.
    ///
    /// # Errors
    /// When nobody can tell how it ended.
    pub async fn end(mut self) -> Result<End, Failure> {
        let status = self.child.wait().await.map_err(|e| {
            Failure::new(
                ErrorCode::HostFault,
                format!("nobody can tell how {} ended: {e}", self.argv),
            )
        })?;
        // What it left behind in its group keeps its error output open, and what left the group may keep
        // it open still.
        self.end_group();
        let tail = tokio::time::timeout(REST, &mut self.errors).await;
        let tail = tail.ok().and_then(Result::ok).unwrap_or_default().into();
        Ok(End { argv: self.argv.clone(), code: status.code(), status: status.to_string(), tail })
    }

    fn end_group(&mut self) {
        let Some(group) = self.group.take() else { return };
        // It is gone already in most cases, which is as well.
        let killed = kill_process_group(group, Signal::KILL).is_ok();
        if let Some(under_way) = self.under_way.take()
            && killed
        {
            under_way.until_gone(group);
        }
    }
}

/// What a program printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its lines; without those that are too long, and those beyond four MiB.
    pub lines: Vec<String>,
    /// How it ended.
    pub end: End,
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct End {
    /// What was run.
    pub argv: String,
    /// Its exit status; none when a signal ended it.
    pub code: Option<i32>,
    /// The last lines of its error output.
    pub tail: Vec<String>,
    status: String,
}

impl End {
    /// What was run and how it ended.
    pub fn evidence(&self) -> Evidence {
        Evidence {
            kind: "argv".to_owned(),
            what: self.argv.clone(),
            exit_code: self.code,
            tail: self.tail.clone(),
        }
    }

    /// That it said no, and why.
    pub fn failure(&self) -> Failure {
        let said = self.tail.last().map_or("it said nothing", String::as_str);
        let program = self.argv.split(' ').next().unwrap_or_default();
        let message = format!("{program} ended with {}: {said}", self.status);
        Failure::new(ErrorCode::HostFault, message).evidence(self.evidence())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // As long as the child was not waited for, its number belongs to nobody else.
        if self.child.id().is_some() {
            self.end_group();
        }
        self.errors.abort();
    }
}

fn codec(longest: usize) -> AnyDelimiterCodec {
    AnyDelimiterCodec::new_with_max_length(b"\n".to_vec(), b"\n".to_vec(), longest)
}

async fn tail(output: impl AsyncRead + Unpin) -> VecDeque<String> {
    let mut lines = FramedRead::new(output, codec(LINE));
    let mut last = VecDeque::with_capacity(TAIL);
    while let Some(line) = lines.next().await {
        if last.len() == TAIL {
            last.pop_front();
        }
        match line {
            Ok(line) => {
                last.push_back(String::from_utf8_lossy(&line).chars().take(SAID).collect());
            }
            Err(AnyDelimiterCodecError::MaxChunkLengthExceeded) => {}
            Err(AnyDelimiterCodecError::Io(_)) => break,
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;

    #[tokio::test]
    async fn arguments_have_no_meaning_for_a_shell_and_the_environment_is_clean() {
        let mut echo = Program::new("/bin/echo").arg("$(id); `id` > /tmp/x").start().expect("run");
        assert_eq!(echo.line().await, Ok(Some(Line::Text(b"$(id); `id` > /tmp/x"[..].into()))));
        assert_eq!(echo.line().await, Ok(None));
        echo.ended().await.expect("ended well");
        let mut env = Program::new("/usr/bin/env").start().expect("run");
        let mut names = Vec::new();
        while let Ok(Some(Line::Text(line))) = env.line().await {
            names.push(String::from_utf8_lossy(&line).split('=').next().map(str::to_owned));
        }
        names.sort();
        assert_eq!(names, ["LC_ALL", "PATH", "TZ"].map(|n| Some(n.to_owned())));
    }

    #[tokio::test]
    async fn what_runs_as_another_user_has_nothing_of_root() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let status = Program::new("/bin/grep").arg("-E").arg("^(Uid|Gid|Groups):");
        let status = status.arg("/proc/self/status").of_user(65534, 65534);
        let mut status = status.start().expect("run");
        let mut lines = Vec::new();
        while let Ok(Some(Line::Text(line))) = status.line().await {
            lines.push(String::from_utf8_lossy(&line).trim().to_owned());
        }
        let all = "65534\t65534\t65534\t65534";
        assert_eq!(lines, [format!("Uid:\t{all}"), format!("Gid:\t{all}"), "Groups:".to_owned()]);
    }

    #[tokio::test]
    async fn a_program_has_the_variables_and_the_directory_that_it_is_given() {
        let shell = Program::new("/bin/sh").arg("-c").arg("pwd; echo \"$HOME\"; exit 3");
        let said = shell.env("HOME", "/nowhere").directory("/usr").output().await.expect("run");
        assert_eq!((said.lines, said.end.code), (vec!["/usr".into(), "/nowhere".into()], Some(3)));
    }

    #[tokio::test]
    async fn a_program_that_says_no_is_quoted() {
        let mut ls = Program::new("/bin/ls").arg("/no/such/file").start().expect("run");
        assert_eq!(ls.line().await, Ok(None));
        let failure = ls.ended().await.expect_err("failed");
        assert_eq!(failure.code(), ErrorCode::HostFault);
        assert!(failure.evidence[0].tail[0].contains("No such file"), "{failure:?}");
        assert_eq!(failure.evidence[0].exit_code, Some(2));
        let missing = Program::new("/no/such/program").start().expect_err("missing");
        assert_eq!(missing.code(), ErrorCode::Unsupported);
    }

    #[tokio::test]
    async fn empty_lines_are_bounded_and_a_long_complaint_is_cut() {
        let script = "head -c 200000 /dev/zero | tr '\\0' '\\n'
                      head -c 5000 /dev/zero | tr '\\0' x >&2";
        let said = Program::new("/bin/sh").arg("-c").arg(script).output().await.expect("run");
        assert_eq!(said.lines.len(), PRINTED / EACH);
        assert_eq!(said.end.tail.iter().map(String::len).collect::<Vec<_>>(), [SAID]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_left_out_and_takes_no_memory() {
        let mut head = Program::new("/usr/bin/head").arg("-c").arg("5000000").arg("/dev/zero");
        head = head.clone();
        let mut head = head.start().expect("run");
        assert_eq!(head.line().await, Ok(Some(Line::TooLong)));
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_does_not_keep_its_output_open() {
        for left in ["sleep 300", "setsid sleep 30"] {
            let script = format!("{left} & echo fine; echo warned >&2; exit 3");
            let said = Program::new("/bin/sh").arg("-c").arg(script).output();
            let said = tokio::time::timeout(Duration::from_secs(10), said).await;
            let said = said.expect("an end").expect("run");
            assert_eq!((said.lines, said.end.code), (vec!["fine".to_owned()], Some(3)), "{left}");
        }
    }

    #[tokio::test]
    async fn what_a_program_started_ends_with_it() {
        let mut shell = Program::new("/bin/sh")
            .arg("-c")
            .arg("sleep 300 & echo $!; wait")
            .start()
            .expect("run");
        let Ok(Some(Line::Text(pid))) = shell.line().await else { panic!("no line") };
        let child = format!("/proc/{}/stat", String::from_utf8_lossy(&pid));
        assert!(Path::new(&child).exists());
        drop(shell);
        let gone = async {
            // Killed, and taken in by whoever is the parent now; until then it is a zombie.
            while std::fs::read_to_string(&child).is_ok_and(|s| !s.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the grandchild ended");
    }
}
