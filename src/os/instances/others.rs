//! Finds the instances of other users for root, in the default directories of those users.
//!
//! A user may put anything into such a directory, and a link or socket there may lead anywhere. So a directory counts
//! only while it belongs to the user whose number is in its path, and we speak only to a process of that user
//! (SO_PEERCRED). A thread does the look-up, because a file system of the user's own (FUSE) may never answer.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{LivingInstance, answering, connect, is_name, names_in, peer, usable_by};
use crate::os::own;
use crate::os::users;
use crate::os::within::within_a_second;

/// The most entries of /tmp that are looked at.
const ENTRIES: usize = 65_536;

/// A directory that may hold instances of another user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    pub dir: PathBuf,
    pub uid: u32,
}

/// The directories of all other users, sorted; none unless we are root.
pub fn homes() -> Vec<Home> {
    if own::euid() == 0 { homes_in(Path::new("/run/user"), Path::new("/tmp")) } else { Vec::new() }
}

fn homes_in(run_user: &Path, tmp: &Path) -> Vec<Home> {
    let numbers = |dir: &Path, prefix: &str| -> Vec<u32> {
        let entries = fs::read_dir(dir).into_iter().flatten().take(ENTRIES);
        let uid = |name: &str| {
            let uid: u32 = name.strip_prefix(prefix)?.parse().ok()?;
            // Only the number exactly as we write it counts.
            (uid != own::euid() && name == format!("{prefix}{uid}")).then_some(uid)
        };
        let mut found: Vec<u32> =
            entries.filter_map(|entry| uid(entry.ok()?.file_name().to_str()?)).collect();
        found.sort_unstable();
        found
    };
    let of_run = numbers(run_user, "").into_iter();
    let of_run = of_run.map(|uid| Home { dir: run_user.join(uid.to_string()).join("supervise"), uid });
    let of_tmp = numbers(tmp, "supervise-").into_iter();
    let of_tmp = of_tmp.map(|uid| Home { dir: tmp.join(format!("supervise-{uid}")), uid });
    of_run.chain(of_tmp).collect()
}

/// Every instance that answers in these directories.
pub fn living(homes: &[Home]) -> Vec<LivingInstance> {
    let mut found = Vec::new();
    for home in homes {
        let names = in_time(home, |opened, _| names_in(opened)).unwrap_or_default();
        for name in names {
            // A user whose directory does not answer is waited for once.
            let Some(answer) = in_time(home, move |opened, home| theirs(opened, home, name)) else { break };
            found.extend(answer);
        }
    }
    found
}

/// The instance `name` of this user, given by name or number.
pub fn named(homes: &[Home], user: &str, name: &str) -> Option<LivingInstance> {
    let uid = users::find_user(user).map_or_else(|_| user.parse().ok(), |user| Some(user.uid))?;
    let name = Some(name).filter(|name| is_name(name))?;
    homes.iter().filter(|home| home.uid == uid).find_map(|home| {
        let name = name.to_owned();
        in_time(home, move |opened, home| theirs(opened, home, name)).flatten()
    })
}

/// Asks a question about the directory within a time limit, if the directory is its user's. The question gets the
/// opened directory, so that a link that is changed meanwhile does not matter.
fn in_time<T: Send + 'static>(
    home: &Home,
    question: impl FnOnce(&Path, &Home) -> T + Send + 'static,
) -> Option<T> {
    let home = home.clone();
    let answer = within_a_second(move || {
        let dir = usable_by(&home.dir, false, home.uid).ok()?;
        Some(question(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())), &home))
    });
    answer.flatten()
}

fn theirs(opened: &Path, home: &Home, name: String) -> Option<LivingInstance> {
    let found = answering(opened, name)?;
    let stream = connect(&found.path, Duration::ZERO).ok()?;
    let is_theirs = peer(&stream).is_ok_and(|peer| peer.uid() == home.uid);
    let path = home.dir.join(found.path.file_name()?);
    is_theirs.then_some(LivingInstance { owner: Some(home.uid), path, ..found })
}

/// The name of a user, or the number where there is none.
pub fn owner_name(uid: u32) -> String {
    users::find_user(&uid.to_string()).map_or_else(|_| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::os::unix::net::UnixListener;

    use super::super::CONTROL_MODE;
    use super::*;

    fn listen(path: &Path) -> UnixListener {
        let listener = UnixListener::bind(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(CONTROL_MODE)).unwrap();
        listener
    }

    #[test]
    fn only_numbers_of_other_users_are_their_directories() {
        let top = tempfile::tempdir().unwrap();
        let (run, tmp) = (top.path().join("run"), top.path().join("tmp"));
        let own = own::euid();
        for name in ["4001", "04002", "+4003", "x", "4294967296", &own.to_string()] {
            fs::create_dir_all(run.join(name)).unwrap();
            fs::create_dir_all(tmp.join(format!("supervise-{name}"))).unwrap();
        }
        let dirs: Vec<PathBuf> = homes_in(&run, &tmp).into_iter().map(|home| home.dir).collect();
        assert_eq!(dirs, [run.join("4001/supervise"), tmp.join("supervise-4001")]);
    }

    /// Links, directories of others and sockets that somebody else listens on: all that a user can put there.
    #[test]
    fn nobody_is_taken_for_another() {
        if own::euid() != 0 {
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("dir");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        // We are root, and so is the process that answers.
        let _roots = listen(&dir.join("roots.sock"));
        let of_root = [Home { dir: dir.clone(), uid: 0 }];
        assert_eq!(living(&of_root).len(), 1);
        assert_eq!(named(&of_root, "root", "roots").map(|found| found.path), Some(dir.join("roots.sock")));
        assert!(named(&of_root, "4001", "roots").is_none(), "it is not of this user");
        // The directory belongs to another user by now, but who answers does not.
        chown(&dir, Some(4001), Some(4001)).unwrap();
        let home = [Home { dir: dir.clone(), uid: 4001 }];
        assert!(living(&home).is_empty() && named(&home, "4001", "roots").is_none());
        assert!(living(&of_root).is_empty(), "it is not root's");
        // A link in the place of the directory, or of the socket.
        let link = top.path().join("link");
        symlink(&dir, &link).unwrap();
        assert!(living(&[Home { dir: link, uid: 4001 }]).is_empty());
        let _elsewhere = listen(&top.path().join("elsewhere.sock"));
        symlink(top.path().join("elsewhere.sock"), dir.join("linked.sock")).unwrap();
        assert!(named(&home, "4001", "linked").is_none() && named(&home, "4001", "../elsewhere").is_none());
    }
}
