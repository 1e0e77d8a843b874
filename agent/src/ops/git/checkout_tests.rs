use std::{
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use hostler_proto::{
    operation::GitStatus,
    ops::{GitStatus as Report, GitStatusRequest},
    wire::Status,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    host::Host,
    operation::{Answer, Probe},
};

/// A user that owns nothing else here.
const NOBODY: u32 = 65534;

/// A checkout of root that everybody can read, with one commit, and a filter that its configuration
/// names: it writes down as whom it ran.
struct Lab {
    _dir: tempfile::TempDir,
    path: PathBuf,
    ran: PathBuf,
}

impl Lab {
    /// None where this process could not be somebody else.
    async fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/git").exists() {
            return None;
        }
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path().canonicalize().expect("real");
        mode(&root, 0o755);
        let (path, ran) = (root.join("app"), root.join("ran"));
        fs::create_dir(&ran).expect("made");
        mode(&ran, 0o777);
        let filter = root.join("filter");
        fs::write(&filter, format!("#!/bin/sh\nid -u >{0}/u\nid -g >{0}/g\ncat\n", ran.display()))
            .expect("written");
        mode(&filter, 0o755);
        let lab = Self { _dir: dir, path, ran };
        let (app, filter) = (lab.path.display().to_string(), filter.display().to_string());
        lab.git(&["init", "-q", "-b", "main", &app]).await;
        lab.git(&["-C", &app, "config", "filter.x.clean", &filter]).await;
        fs::write(lab.path.join("kept"), "a\n").expect("written");
        lab.git(&["-C", &app, "add", "."]).await;
        let name = ["-c", "user.name=x", "-c", "user.email=x@x"];
        lab.git(&[&["-C", &app], &name[..], &["commit", "-q", "-m", "first"]].concat()).await;
        fs::create_dir_all(lab.path.join(".git/info")).expect("made");
        fs::write(lab.path.join(".git/info/attributes"), "* filter=x\n").expect("written");
        // As long as before: git has to look into it.
        fs::write(lab.path.join("kept"), "b\n").expect("written");
        Some(lab)
    }

    async fn git(&self, words: &[&str]) {
        let git = Program::new("/usr/bin/git").env("HOME", "/nonexistent");
        let git = words.iter().fold(git, |git, word| git.arg(*word));
        let said = git.output().await.expect("run");
        assert_eq!(said.end.code, Some(0), "{said:?}");
    }

    async fn look(&self) -> Result<Answer<Report>, Failure> {
        self.look_at(&self.path, self.path.parent().expect("a directory")).await
    }

    /// Looks where the policy allows a directory alone.
    async fn look_at(&self, path: &Path, allowed: &Path) -> Result<Answer<Report>, Failure> {
        let mut host = Host::showing(Path::new("/nonexistent"));
        host.policy.paths = vec![allowed.to_owned()];
        let (events, _receiver) = tokio::sync::mpsc::channel(1);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let request = GitStatusRequest { path: path.display().to_string() };
        GitStatus::observe(request, &cx).await
    }

    /// Commits all that is there, without the filter.
    async fn commit(&self) {
        let app = self.path.display().to_string();
        let _ = fs::remove_file(self.path.join(".git/info/attributes"));
        self.git(&["-C", &app, "add", "."]).await;
        let name = ["-c", "user.name=x", "-c", "user.email=x@x"];
        self.git(&[&["-C", &app], &name[..], &["commit", "-q", "-m", "next"]].concat()).await;
    }

    /// User and group of the filter, when it ran.
    fn ran_as(&self) -> Option<(String, String)> {
        let read = |name: &str| fs::read_to_string(self.ran.join(name)).ok();
        Some((read("u")?.trim().to_owned(), read("g")?.trim().to_owned()))
    }

    fn give(&self, path: &Path, uid: u32, gid: u32) {
        chown(path, Some(uid), Some(gid)).expect("given");
        if path.is_dir() {
            for entry in fs::read_dir(path).expect("a directory").flatten() {
                self.give(&entry.path(), uid, gid);
            }
        }
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
}

#[tokio::test]
async fn git_runs_in_roots_checkout_as_nobody_and_in_a_users_with_that_ones_own_group() {
    let Some(lab) = Lab::new().await else { return };
    let answer = lab.look().await.expect("an answer");
    assert_eq!(
        (answer.data.changed.as_slice(), answer.data.subject.as_str()),
        (&["kept".to_owned()][..], "first")
    );
    assert_eq!(lab.ran_as().expect("it ran").0, NOBODY.to_string());
    // The directory's group is root; the user's is not.
    lab.give(&lab.path, 1, 0);
    for name in ["u", "g"] {
        fs::remove_file(lab.ran.join(name)).expect("removed");
    }
    lab.look().await.expect("an answer");
    assert_eq!(lab.ran_as(), Some(("1".into(), "1".into())));
}

#[tokio::test]
async fn where_others_can_write_what_git_runs_nothing_is_run() {
    let Some(lab) = Lab::new().await else { return };
    let git = lab.path.join(".git");
    for place in [git.clone(), git.join("config"), git.join("info"), git.join("info/attributes")] {
        let before = fs::metadata(&place).expect("there").permissions().mode();
        chown(&place, None, Some(NOBODY)).expect("group");
        mode(&place, before | 0o020);
        let refused = lab.look().await.expect_err("a group of others can write there");
        let named = format!("others than root can write in {}:", place.display());
        assert!(refused.message.starts_with(&named), "{refused:?}");
        mode(&place, before);
        chown(&place, Some(NOBODY), None).expect("owner");
        assert!(lab.look().await.is_err(), "{} belongs to another", place.display());
        chown(&place, Some(0), Some(0)).expect("owner");
    }
    assert_eq!(lab.ran_as(), None);
    lab.look().await.expect("an answer");
}

#[tokio::test]
async fn a_checkout_of_two_users_is_refused_with_both_of_them() {
    let Some(lab) = Lab::new().await else { return };
    chown(&lab.path, Some(1), None).expect("owner");
    let refused = lab.look().await.expect_err("git is root's");
    let (app, user) = (lab.path.display(), owner::name(1));
    let said = format!("{app} belongs to {user} and {app}/.git belongs to root");
    assert!(refused.message.starts_with(&said), "{refused:?}");
    assert!(refused.hint.contains(&format!("chown -R {user} {app}")), "{refused:?}");
}

#[tokio::test]
async fn what_only_root_can_read_is_named_and_is_no_change() {
    let Some(lab) = Lab::new().await else { return };
    mode(&lab.path.join("kept"), 0o600);
    let answer = lab.look().await.expect("an answer");
    assert_eq!((answer.data.changed_files, answer.status), (0, Status::Unknown), "{answer:?}");
    let said = "nobody, as whom git runs there, cannot read kept";
    assert_eq!(answer.findings[0].summary, said);
    for hidden in [lab.path.join(".git"), lab.path.clone()] {
        mode(&hidden, 0o700);
        let refused = lab.look().await.expect_err("hidden");
        let named = format!("{} is root's, and nobody", hidden.display());
        assert!(refused.message.starts_with(&named), "{refused:?}");
    }
}

#[tokio::test]
async fn however_many_files_only_root_can_read_none_of_them_counts_as_changed() {
    let Some(lab) = Lab::new().await else { return };
    let secrets: Vec<PathBuf> =
        (0..150).map(|n| lab.path.join(format!("secret-{n}.txt"))).collect();
    let [hidden, changed] = ["b\u{e4}r.txt", "z\u{e4}h \"er\".txt"].map(|name| lab.path.join(name));
    for file in secrets.iter().chain([&hidden, &changed]) {
        fs::write(file, "a\n").expect("written");
    }
    lab.commit().await;
    // Git has to look into each of them once more.
    secrets.iter().chain([&hidden]).for_each(|file| mode(file, 0o600));
    fs::write(&changed, "b\n").expect("written");
    let answer = lab.look().await.expect("an answer");
    assert_eq!(answer.data.changed, ["z\u{e4}h \"er\".txt"]);
    assert_eq!((answer.data.changed_files, answer.findings.len()), (1, 2), "{answer:?}");
    secrets.iter().for_each(|file| mode(file, 0o644));
    let said = "nobody, as whom git runs there, cannot read b\u{e4}r.txt";
    let answer = lab.look().await.expect("an answer");
    assert_eq!(answer.findings.last().map(|f| f.summary.as_str()), Some(said), "{answer:?}");
}

#[tokio::test]
async fn a_directory_of_a_checkout_that_the_policy_does_not_allow_as_a_whole_is_refused() {
    let Some(lab) = Lab::new().await else { return };
    let below = lab.path.join("below");
    fs::create_dir(&below).expect("made");
    let refused = lab.look_at(&below, &below).await.expect_err("its names lie above");
    assert_eq!(refused.code(), ErrorCode::PermissionDenied);
    assert!(refused.message.ends_with(&format!("to read {}", lab.path.display())), "{refused:?}");
    let answer = lab.look_at(&below, &lab.path).await.expect("an answer");
    assert_eq!(answer.data.changed, ["kept"]);
    mode(&lab.path.join("kept"), 0o600);
    let answer = lab.look_at(&below, &lab.path).await.expect("an answer");
    assert_eq!(answer.data.changed_files, 0, "only root can read it");
}
