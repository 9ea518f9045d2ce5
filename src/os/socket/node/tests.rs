use std::os::unix::net::{UnixListener, UnixStream};

use nix::unistd;

use super::super::bind_all;
use super::super::tests::{bind_with, options, unix};
use super::*;
use crate::config::Handover;
use crate::config::{Kind, SocketOptions};
use crate::os::socket::Inherited;

#[test]
fn what_is_not_the_inode_meant_is_put_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let _live = UnixListener::bind(&path).unwrap();
    let inode = Inode::of(&fs::symlink_metadata(&path).unwrap());
    let other = Inode { number: inode.number + 1, ..inode };
    assert!(!remove_inode(&path, other, || true).unwrap());
    assert!(!remove_inode(&path, inode, || false).unwrap());
    assert_eq!(Inode::of(&fs::symlink_metadata(&path).unwrap()), inode);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    UnixStream::connect(&path).unwrap();
    assert!(remove_inode(&path, inode, || true).unwrap());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn missing_directories_are_made_with_their_mode_and_stay() {
    let directory = tempfile::tempdir().unwrap();
    let before = mode_of(directory.path());
    let (outer, inner) = (directory.path().join("a"), directory.path().join("a/b"));
    let path = inner.join("sock");
    // 0o777 is more than any usual umask leaves.
    let options = SocketOptions { directory_mode: 0o777, ..options() };
    drop(bind_with(unix(Kind::Unix, &path), &options).unwrap());
    assert_eq!((mode_of(&outer), mode_of(&inner)), (0o777, 0o777));
    assert_eq!(mode_of(directory.path()), before, "what is there is left alone");
    assert!(!path.exists());
    fs::write(directory.path().join("file"), "precious").unwrap();
    let error = bind_with(unix(Kind::Unix, &directory.path().join("file/sock")), &options).unwrap_err();
    assert!(error.cause.ends_with("file is not a directory"), "{error}");
}

#[test]
fn a_path_that_is_not_to_be_removed_stays_and_is_taken_over_by_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let (path, link) = (directory.path().join("sock"), directory.path().join("link"));
    let options = SocketOptions { remove_on_stop: false, symlinks: vec![link.clone()], ..options() };
    for _ in 0..2 {
        drop(bind_with(unix(Kind::Unix, &path), &options).unwrap());
        assert!(path.exists() && link.exists());
    }
    // A start that fails takes back what it made.
    let other = directory.path().join("other");
    let mut listeners = [unix(Kind::Unix, &other), unix(Kind::Unix, &directory.path().join("file/x"))];
    std::rc::Rc::make_mut(&mut listeners[0].options).remove_on_stop = false;
    fs::write(directory.path().join("file"), "").unwrap();
    bind_all(&listeners, &Inherited::default(), Handover::Shared).expect_err("no directory");
    assert!(!other.exists());
}

#[test]
fn symlinks_replace_symlinks_only_and_go_with_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    symlink("nowhere", at("old")).unwrap();
    fs::write(at("file"), "precious").unwrap();
    let symlinks = ["new/link", "old", "file"].map(at).to_vec();
    let held = bind_with(unix(Kind::Unix, &at("sock")), &SocketOptions { symlinks, ..options() }).unwrap();
    UnixStream::connect(at("new/link")).unwrap();
    UnixStream::connect(at("old")).unwrap();
    assert_eq!(fs::read(at("file")).unwrap(), b"precious", "a warning, as with systemd");
    fs::remove_file(at("old")).unwrap();
    symlink("elsewhere", at("old")).unwrap();
    drop(held);
    assert_eq!(fs::read_link(at("old")).unwrap(), Path::new("elsewhere"), "not ours any more");
    assert!(fs::symlink_metadata(at("new/link")).is_err() && !at("sock").exists());
}

#[test]
fn the_owner_is_set_or_asked_for_in_vain() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let owned_by = |user: &str, group: &str| {
        let (user, group) = (Some(user.to_owned()), Some(group.to_owned()));
        bind_with(unix(Kind::Unix, &path), &SocketOptions { user, group, ..options() })
    };
    let (us, ours) = (unistd::geteuid().to_string(), unistd::getegid().to_string());
    drop(owned_by(&us, &ours).expect("to ourselves everybody may"));
    match owned_by("4242", "4243") {
        Ok(_held) => {
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (4242, 4243));
        }
        Err(error) => assert!(error.remedy.contains("run as root"), "{error}"),
    }
    assert!(!path.exists());
    let error = owned_by("no-such-user-anywhere", &ours).expect_err("nobody");
    assert!(error.cause.contains("SocketUser= no user \"no-such-user-anywhere\""), "{error}");
    let error = owned_by(&us, "no-such-group-anywhere").expect_err("no group");
    assert!(error.cause.contains("SocketGroup= no group"), "{error}");
}
