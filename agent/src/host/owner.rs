//! As whom a program is run that lies in somebody's directory: as its owner, never as root. Whoever
//! can write there would be root otherwise.

use std::{borrow::Cow, fs, os::unix::fs::MetadataExt as _, path::Path};

use hostler_proto::wire::{ErrorCode, Failure};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::exec::Program;

/// Programs of applications run one after the other: the memory of the agent is theirs, too.
static TURN: Semaphore = Semaphore::const_new(1);

/// The user that owns nothing.
const NOBODY: Owner = Owner {
    uid: 65534,
    gid: 65534,
    whose: 0,
    name: Cow::Borrowed("nobody"),
    home: Cow::Borrowed("/nonexistent"),
};

/// A user as whom programs are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    gid: u32,
    /// To whom the path belongs: root, where this is nobody in its stead.
    whose: u32,
    name: Cow<'static, str>,
    /// The user's own directory.
    pub home: Cow<'static, str>,
}

impl Owner {
    /// The owner of a path that holds no link, who alone decides what lies there; of root's own it is
    /// nobody. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be looked at, when others can write there, or when this process could not be its
    /// owner.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let uid = looked_at(path)?.uid();
        let own = rustix::process::geteuid();
        let owner = match uid {
            // What only reads needs no more than this.
            0 => NOBODY,
            _ => account(&users, uid).unwrap_or_else(|| Self {
                uid,
                gid: uid,
                whose: uid,
                name: Cow::Owned(uid.to_string()),
                home: NOBODY.home,
            }),
        };
        if uid != 0 && !own.is_root() && own.as_raw() != uid {
            let message = format!("the agent is not root, and cannot be {}", owner.name);
            return Err(Failure::new(ErrorCode::PreconditionFailed, message)
                .hint("as itself it must not run what another user wrote"));
        }
        owner.alone(path)?;
        Ok(owner)
    }

    /// That only the owner and root decide what is at another path that holds no link. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// When it cannot be looked at, or others can write there or anywhere above it.
    pub fn alone(&self, path: &Path) -> Result<(), Failure> {
        // Nobody's group is no reason to trust what lies in root's directory.
        let (who, group) = if self.whose == 0 { ("root", 0) } else { (self.name(), self.gid) };
        for above in path.ancestors() {
            let seen = looked_at(above)?;
            let (mode, sticky) = (seen.mode(), seen.mode() & 0o1000 != 0 && above != path);
            let others = (mode & 0o002 != 0 && !sticky)
                || (mode & 0o020 != 0 && !sticky && ![0, group].contains(&seen.gid()))
                || ![0, self.whose].contains(&seen.uid());
            if others {
                let message = format!(
                    "others than {who} can write in {}: what lies there is not run",
                    above.display()
                );
                let hint = "it and all above it must belong to its owner or to root, and be writable \
                            for no others";
                return Err(Failure::new(ErrorCode::PreconditionFailed, message).hint(hint));
            }
        }
        Ok(())
    }

    /// Whether it is nobody, and what lies there is root's.
    pub fn in_roots_stead(&self) -> bool {
        self.whose == 0
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program at an absolute path, as this user, in the directory of nobody.
    pub fn program(&self, path: impl Into<Cow<'static, str>>) -> Program {
        Program::as_user(path, self.uid, self.gid).directory("/").env("HOME", &*self.home)
    }
}

/// Waits until no other program of an application runs.
pub async fn turn() -> Option<SemaphorePermit<'static>> {
    TURN.acquire().await.ok()
}

/// What a user is called; its number where it has no name. Blocks on the disk.
pub fn name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    account(&users, uid).map_or_else(|| uid.to_string(), |user| user.name.into_owned())
}

fn looked_at(path: &Path) -> Result<fs::Metadata, Failure> {
    fs::symlink_metadata(path).map_err(|e| {
        let message = format!("{} cannot be looked at: {e}", path.display());
        match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                Failure::new(ErrorCode::PermissionDenied, message)
            }
            _ => Failure::new(ErrorCode::NotFound, message),
        }
    })
}

/// A user of /etc/passwd.
fn account(users: &str, uid: u32) -> Option<Owner> {
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, number, group, _, home, ..] = fields[..] else { return None };
        (number.parse() == Ok(uid)).then_some(())?;
        let (name, home) = (Cow::Owned(name.to_owned()), Cow::Owned(home.to_owned()));
        Some(Owner { uid, gid: group.parse().ok()?, whose: uid, name, home })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_user_is_known_by_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:1001::/home/ann:/bin/sh\n";
        let ann = account(users, 1000).expect("ann");
        assert_eq!((ann.gid, ann.name(), &*ann.home), (1001, "ann", "/home/ann"));
        assert_eq!(account(users, 7), None);
    }

    #[test]
    fn what_is_roots_own_is_run_as_nobody() {
        assert_eq!(Owner::of(Path::new("/usr")).expect("root's").name(), "nobody");
    }

    #[test]
    fn where_others_can_write_nothing_is_run() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path().canonicalize().expect("real");
        let chmod = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
        };
        chmod(&root, 0o755);
        let own = root.join("own");
        fs::create_dir(&own).expect("made");
        chmod(&own, 0o755);
        assert_eq!(Owner::of(&own).expect("root's").name(), "nobody");
        chmod(&own, 0o777);
        let refused = Owner::of(&own).expect_err("root's, where everybody can write");
        assert!(refused.message.starts_with("others than root"), "{refused:?}");
        chmod(&own, 0o755);
        std::os::unix::fs::chown(&own, Some(4321), Some(4321)).expect("owner");
        assert_eq!(Owner::of(&own).expect("its owner's").uid, 4321);
        chmod(&own, 0o775);
        assert!(Owner::of(&own).is_ok(), "its own group");
        std::os::unix::fs::chown(&own, None, Some(4322)).expect("group");
        assert!(Owner::of(&own).is_err(), "a group of others");
        chmod(&own, 0o757);
        assert!(Owner::of(&own).is_err(), "everybody");
        chmod(&own, 0o755);
        chmod(&root, 0o777);
        let refused = Owner::of(&own).expect_err("above it");
        assert!(refused.message.contains(&root.display().to_string()), "{refused:?}");
        std::os::unix::fs::chown(&root, Some(77), None).expect("owner");
        chmod(&root, 0o755);
        assert!(Owner::of(&own).is_err(), "another user's directory");
    }
}
