//! Looks up users and groups by name or number in /etc/passwd and /etc/group.
//!
//! This does without NSS: a static binary has none (glibc loads its modules at run time), and a look-up over the
//! network could block our only thread. Users that only LDAP or the like knows must be given by number.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;

use nix::unistd;

use crate::config::Launch;
use crate::core::{Stage, StartFailure};
use crate::os::own;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// The most that is read of a file: more than a hundred thousand users.
const FILE_BYTES: u64 = 16 << 20;

/// One line of passwd(5) with the groups that list the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    /// `None` for a number without a line in /etc/passwd, whose group is unknown.
    pub gid: Option<u32>,
    pub home: Option<OsString>,
    /// `None` also for nologin and false, as in systemd: no program can use them.
    pub shell: Option<OsString>,
    /// Its own group, and the groups of /etc/group that list the user.
    pub groups: Vec<u32>,
}

/// The credentials of a server; `None` keeps ours for that part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user, for USER, LOGNAME, HOME, SHELL and for messages.
    pub user: Option<User>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// The supplementary groups (setgroups(2)).
    pub groups: Option<Vec<u32>>,
}

impl Identity {
    /// Looks up User=, Group= and SupplementaryGroups= (systemd.exec(5)) in the files as they are now.
    pub fn resolve(launch: &Launch) -> Result<Self, StartFailure> {
        let user = match &launch.user {
            Some(name) => Some(find_user(name).map_err(|what| failure(Stage::User, what))?),
            None => None,
        };
        let group = |name: &String| find_group(name).map_err(|what| failure(Stage::Group, what));
        let mut identity = Self { gid: launch.group.as_ref().map(group).transpose()?, ..Self::default() };
        let extra = launch.supplementary_groups.iter().map(group).collect::<Result<Vec<_>, _>>()?;
        if let Some(user) = user {
            identity.uid = Some(user.uid);
            identity.gid = identity.gid.or(user.gid);
            if identity.gid.is_none() {
                let what = format!(
                    "uid {} has no line in {PASSWD}, so its group is unknown (add -g GROUP)",
                    user.uid
                );
                return Err(failure(Stage::Group, what));
            }
            identity.groups = Some(user.groups.clone());
            identity.user = Some(user);
        }
        if !extra.is_empty() {
            let mut groups = match identity.groups.take() {
                Some(groups) => groups,
                None => our_groups()?,
            };
            groups.extend(extra);
            identity.groups = Some(groups);
        } else if identity.changes_credentials() && identity.is_already_ours() {
            // So `-u app` works for app itself, who may call neither setgroups(2) nor setresuid(2).
            (identity.uid, identity.gid, identity.groups) = (None, None, None);
        }
        if let Some(groups) = &mut identity.groups {
            groups.sort_unstable();
            groups.dedup();
        }
        Ok(identity)
    }

    /// Whether the child has to call setgroups(2), setresgid(2) or setresuid(2).
    pub fn changes_credentials(&self) -> bool {
        self.uid.is_some() || self.gid.is_some() || self.groups.is_some()
    }

    fn is_already_ours(&self) -> bool {
        let (uid, gid) = (own::euid(), own::egid());
        let same_uid = uid == own::uid() && self.uid.is_none_or(|wanted| wanted == uid);
        let same_gid = gid == own::gid() && self.gid.is_none_or(|wanted| wanted == gid);
        uid != 0 && same_uid && same_gid
    }
}

fn our_groups() -> Result<Vec<u32>, StartFailure> {
    let groups = unistd::getgroups()
        .map_err(|error| failure(Stage::Group, format!("cannot read our own groups: {}", error.desc())))?;
    Ok(groups.into_iter().map(unistd::Gid::as_raw).collect())
}

fn failure(stage: Stage, what: String) -> StartFailure {
    StartFailure { stage, errno: libc::ESRCH, what }
}

/// A user by name, or by number if `name` is all digits. The error is a sentence.
pub fn find_user(name: &str) -> Result<User, String> {
    parse_user(name, &read(PASSWD)?, &read(GROUP)?)
}

/// A group by name, or by number if `name` is all digits; a number needs no line in the file. The error is a sentence.
pub fn find_group(name: &str) -> Result<u32, String> {
    match name.parse::<u32>() {
        Ok(gid) => usable(gid, name),
        Err(_) => parse_group(name, &read(GROUP)?),
    }
}

/// The name of a group; `None` where /etc/group has none for it.
pub fn group_name(gid: u32) -> Option<String> {
    let text = read(GROUP).ok()?;
    let entry = entries(&text, 3).find(|entry| id(entry[2]) == Some(gid))?;
    String::from_utf8(entry[0].to_vec()).ok()
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    // A container made from scratch has no such file, so it knows no names.
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(text),
        Err(error) => return Err(format!("cannot read {path}: {error}")),
    };
    let count =
        file.take(FILE_BYTES + 1).read_to_end(&mut text).map_err(|e| format!("cannot read {path}: {e}"))?;
    if count as u64 > FILE_BYTES {
        return Err(format!("{path} is larger than {} MiB", FILE_BYTES >> 20));
    }
    Ok(text)
}

/// setresuid(2) takes the highest number for "unchanged", so a server would keep our rights.
fn usable(id: u32, name: &str) -> Result<u32, String> {
    if id == u32::MAX { Err(format!("{name} is no valid number of a user or group")) } else { Ok(id) }
}

/// The fields of each line; NIS lines (`+`, `-`) and short ones are skipped.
fn entries(text: &[u8], fields: usize) -> impl Iterator<Item = Vec<&[u8]>> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !matches!(line.first(), None | Some(b'+' | b'-' | b'#')))
        .map(|line| line.split(|byte| *byte == b':').collect::<Vec<_>>())
        .filter(move |entry| entry.len() >= fields)
}

fn id(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

fn parse_user(wanted: &str, passwd: &[u8], group: &[u8]) -> Result<User, String> {
    let number = wanted.parse::<u32>().ok();
    for entry in entries(passwd, 7) {
        let [name, _, uid, gid, _, home, shell, ..] = entry[..] else { continue };
        let (Some(uid), Some(gid)) = (id(uid), id(gid)) else { continue };
        if number.map_or_else(|| name == wanted.as_bytes(), |number| number == uid) {
            return Ok(User {
                name: String::from_utf8_lossy(name).into_owned(),
                uid,
                gid: Some(gid),
                home: filled(home),
                shell: filled(shell).filter(|_| !shell.ends_with(b"/nologin") && !shell.ends_with(b"/false")),
                groups: groups_of(name, gid, group),
            });
        }
    }
    let Some(number) = number else {
        return Err(format!(
            "no user \"{wanted}\" in {PASSWD} (create it; one that another source has, such as LDAP, is given by its number)"
        ));
    };
    let uid = usable(number, wanted)?;
    Ok(User { name: wanted.to_owned(), uid, gid: None, home: None, shell: None, groups: Vec::new() })
}

fn filled(field: &[u8]) -> Option<OsString> {
    if field.is_empty() { None } else { Some(OsString::from_vec(field.to_vec())) }
}

fn groups_of(user: &[u8], own: u32, group: &[u8]) -> Vec<u32> {
    let mut groups = vec![own];
    for entry in entries(group, 4) {
        let [_, _, gid, members, ..] = entry[..] else { continue };
        if members.split(|byte| *byte == b',').any(|member| member == user) {
            groups.extend(id(gid).filter(|gid| !groups.contains(gid)));
        }
    }
    groups
}

fn parse_group(wanted: &str, group: &[u8]) -> Result<u32, String> {
    for entry in entries(group, 3) {
        let [name, _, gid, ..] = entry[..] else { continue };
        if let (true, Some(gid)) = (name == wanted.as_bytes(), id(gid)) {
            return Ok(gid);
        }
    }
    Err(format!(
        "no group \"{wanted}\" in {GROUP} (create it; one that another source has, such as LDAP, is given by its number)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const USERS: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n+::::::\nbroken:x:1\n\
        app:x:1001:1002:App,,,:/srv/app:/usr/sbin/nologin\nevil:x:4294967295:0::/:/bin/sh\n\xff:x:7:7::/:\n";
    const GROUPS: &[u8] = b"root:x:0:\nwww:x:33:app,root\ntls:x:44:root,app\napp:x:1002:app\nx:x:-1:app\n";

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let app = parse_user("app", USERS, GROUPS).expect("app is there");
        assert_eq!((app.uid, app.gid, app.name.as_str()), (1001, Some(1002), "app"));
        assert_eq!(app.home.as_deref(), Some("/srv/app".as_ref()));
        assert_eq!(app.shell, None, "nologin is nobody's shell");
        assert_eq!(app.groups, [1002, 33, 44]);
        assert_eq!(parse_user("1001", USERS, GROUPS).as_ref(), Ok(&app));
        assert_eq!(parse_user("root", USERS, GROUPS).expect("root").shell, Some("/bin/bash".into()));
    }

    #[test]
    fn errors_name_the_file() {
        let error = parse_user("ap", USERS, GROUPS).expect_err("no such user");
        assert!(error.starts_with("no user \"ap\" in /etc/passwd"), "{error}");
        let error = parse_group("ww", GROUPS).expect_err("no such group");
        assert!(error.starts_with("no group \"ww\" in /etc/group"), "{error}");
        assert_eq!(parse_group("tls", GROUPS), Ok(44));
    }

    #[test]
    fn a_number_without_a_line_has_no_group() {
        let user = parse_user("4242", USERS, GROUPS).expect("numbers need no line");
        assert_eq!((user.uid, user.gid, user.home), (4242, None, None));
        let mut launch = Config::for_command_line().launch;
        launch.user = Some("4000000001".to_owned());
        let error = Identity::resolve(&launch).expect_err("no group known");
        assert!(error.what.contains("-g GROUP"), "{}", error.what);
        launch.group = Some("4000000002".to_owned());
        let identity = Identity::resolve(&launch).expect("all known");
        assert_eq!((identity.uid, identity.gid), (Some(4_000_000_001), Some(4_000_000_002)));
        assert_eq!(identity.groups, Some(Vec::new()), "none of ours is kept");
    }

    #[test]
    fn the_number_that_means_unchanged_is_refused() {
        assert!(parse_user("4294967295", USERS, GROUPS).is_err());
        assert!(parse_user("evil", USERS, GROUPS).is_err());
        assert!(find_group("4294967295").is_err());
    }

    #[test]
    fn nobody_asked_for_changes_nothing() {
        let launch = Config::for_command_line().launch;
        let identity = Identity::resolve(&launch).expect("nothing to look up");
        assert!(!identity.changes_credentials() && identity.user.is_none());
    }
}
