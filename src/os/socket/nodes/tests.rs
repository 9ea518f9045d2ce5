use std::fs::Permissions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{Gid, chown, getgroups};
use tempfile::TempDir;

use super::super::tests::{options, unix};
use super::*;
use crate::config::{Kind, SocketOptions};

const A: SlotId = SlotId(0);
const B: SlotId = SlotId(1);
const C: SlotId = SlotId(2);

fn hold_with(path: &Path, options: SocketOptions) -> Nodes {
    Nodes::hold(&Rc::new(Listener { options: options.into(), ..unix(Kind::Unix, path) }), path).unwrap()
}

/// Slots at `sock` in a directory of their own.
fn slots() -> (TempDir, PathBuf, Nodes) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let nodes = hold_with(&path, options());
    (directory, path, nodes)
}

fn to(slot: SlotId) -> Steering {
    Steering::all_to(slot)
}

/// The end at the server, if anybody waits there.
fn accept(nodes: &Nodes, slot: SlotId) -> Option<UnixStream> {
    let listener = UnixListener::from(nodes.fd_of(slot).try_clone().unwrap());
    listener.set_nonblocking(true).unwrap();
    listener.accept().ok().map(|(stream, _)| stream)
}

/// Connects to the public path; which slots have got it.
fn reached(nodes: &Nodes, path: &Path) -> Vec<SlotId> {
    let client = UnixStream::connect(path).unwrap();
    // A slot that got a new socket while clients had another has the name that it has.
    let name = client.peer_addr().unwrap();
    let name = name.as_pathname().unwrap();
    assert!(
        name == path || name.parent().is_some_and(|hidden| hidden.ends_with(".sock.supervise")),
        "{name:?}"
    );
    SlotId::all().filter(|slot| accept(nodes, *slot).is_some()).collect()
}

fn shut_down(nodes: &Nodes, slot: SlotId) {
    shutdown(nodes.fd_of(slot).as_raw_fd(), Shutdown::Both).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn inode(path: &Path) -> (u64, u64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.dev(), metadata.ino())
}

#[test]
fn the_path_leads_to_one_slot_after_the_other_and_all_bear_its_name() {
    let (directory, path, mut nodes) = slots();
    for slot in [A, B, A, C, C, B] {
        nodes.ready_slot(slot).unwrap();
        nodes.steer(&to(slot)).unwrap();
        assert_eq!(nodes.target(), slot);
        assert_eq!(reached(&nodes, &path), [slot]);
        assert_eq!(inode(&nodes.hidden_path(slot)), inode(&path));
        let client = UnixStream::connect(nodes.hidden_path(C));
        if slot == C {
            assert_eq!(client.unwrap().peer_addr().unwrap().as_pathname(), Some(&*path));
            assert_eq!(accept(&nodes, C).unwrap().local_addr().unwrap().as_pathname(), Some(&*path));
        }
    }
    assert_eq!(names(directory.path()), [".sock.supervise", "sock"]);
    assert_eq!(names(&directory.path().join(".sock.supervise")), ["0", "1", "2", "3", "4", "5", "6", "7"]);
    drop(nodes);
    assert!(names(directory.path()).is_empty());
}

#[test]
fn no_connection_is_refused_while_the_path_is_switched() {
    let (_directory, path, mut nodes) = slots();
    let ends = Arc::new(AtomicBool::new(false));
    let client = thread::spawn({
        let (ends, path) = (Arc::clone(&ends), path.clone());
        move || {
            let mut made = 0;
            while !ends.load(Ordering::Relaxed) {
                UnixStream::connect(&path).unwrap_or_else(|error| panic!("after {made}: {error}"));
                made += 1;
            }
            made
        }
    });
    let mut taken = [0; 2];
    let mut count = |nodes: &Nodes| {
        for slot in [A, B] {
            while accept(nodes, slot).is_some() {
                taken[index(slot)] += 1;
            }
        }
        taken[0].min(taken[1])
    };
    let mut turns = 0_u32;
    while (count(&nodes) < 200 || turns < 500) && !client.is_finished() {
        turns += 1;
        nodes.steer(&to(SlotId((turns % 2) as u8))).unwrap();
        thread::yield_now();
    }
    ends.store(true, Ordering::Relaxed);
    // The client may sit in connect(2) before a queue that is full.
    while !client.is_finished() {
        count(&nodes);
    }
    let made: i32 = client.join().unwrap();
    count(&nodes);
    assert_eq!(taken.iter().sum::<i32>(), made, "{taken:?}");
}

#[test]
fn a_slot_that_nobody_was_given_yet_refuses() {
    let (_directory, _path, mut nodes) = slots();
    assert!(
        UnixStream::connect(nodes.hidden_path(A)).is_ok()
            && UnixStream::connect(nodes.hidden_path(B)).is_ok()
    );
    let error = UnixStream::connect(nodes.hidden_path(C)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    assert!(!nodes.mend(C).unwrap(), "it hangs up because nobody listens, not because it is dead");
    nodes.ready_slot(C).unwrap();
    UnixStream::connect(nodes.hidden_path(C)).unwrap();
}

#[test]
fn a_vandal_unlinks_the_path_or_the_hidden_name() {
    let (directory, path, mut nodes) = slots();
    nodes.steer(&to(B)).unwrap();
    let check = |nodes: &mut Nodes, state| {
        assert_eq!(nodes.look_after_path().unwrap(), Checked { state, anew: Vec::new() });
        assert_eq!(reached(nodes, &path), [B]);
    };
    check(&mut nodes, PathState::Ours);
    fs::remove_file(&path).unwrap();
    check(&mut nodes, PathState::LinkedBack);
    // Another slot of ours.
    fs::remove_file(&path).unwrap();
    fs::hard_link(nodes.hidden_path(A), &path).unwrap();
    check(&mut nodes, PathState::LinkedBack);
    fs::remove_file(nodes.hidden_path(B)).unwrap();
    check(&mut nodes, PathState::Ours);
    assert_eq!(inode(&nodes.hidden_path(B)), inode(&path));
    // The whole hidden directory: only the target still has a name.
    fs::remove_dir_all(directory.path().join(".sock.supervise")).unwrap();
    let checked = nodes.look_after_path().unwrap();
    assert_eq!(checked, Checked { state: PathState::Ours, anew: vec![A] });
    assert_eq!(reached(&nodes, &path), [B]);
    nodes.ready_slot(C).unwrap();
    for slot in [A, C] {
        nodes.steer(&to(slot)).unwrap();
        assert_eq!(reached(&nodes, &path), [slot]);
    }
}

#[test]
fn with_all_names_gone_there_are_new_sockets_under_the_old_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/sock");
    let mut nodes = hold_with(&path, options());
    let old = nodes.fd_of(A);
    fs::remove_dir_all(directory.path().join("run")).unwrap();
    let checked = nodes.look_after_path().unwrap();
    assert_eq!(checked, Checked { state: PathState::LinkedBack, anew: vec![A, B] });
    assert!(!Rc::ptr_eq(&old, &nodes.fd_of(A)));
    assert_eq!(reached(&nodes, &path), [A]);
    assert_eq!(nodes.look_after_path().unwrap(), Checked { state: PathState::Ours, anew: Vec::new() });
}

#[test]
fn a_slot_that_was_shut_down_gets_a_new_socket() {
    let (_directory, path, mut nodes) = slots();
    assert!(!nodes.mend(A).unwrap());
    let waits = UnixStream::connect(&path).unwrap();
    let old = nodes.fd_of(A);
    shut_down(&nodes, A);
    let error = UnixStream::connect(&path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    nodes.refresh().unwrap();
    UnixStream::connect(&path).expect_err("listen(2) revives TCP only");
    assert!(nodes.mend(A).unwrap());
    assert_eq!(reached(&nodes, &path), [A]);
    assert_eq!(inode(&nodes.hidden_path(A)), inode(&path));
    // What was in the queue can still be had from the old socket.
    UnixListener::from(old.try_clone().unwrap()).accept().unwrap();
    drop(waits);
    // One that is not the target; by half a shutdown, which no epoll that asks for hang-ups alone shows.
    shutdown(nodes.fd_of(B).as_raw_fd(), Shutdown::Read).unwrap();
    let old = nodes.fd_of(B);
    assert!(!Rc::ptr_eq(&old, &nodes.ready_slot(B).unwrap()));
    assert_eq!(nodes.target(), A);
    assert_eq!(reached(&nodes, &path), [A]);
    nodes.steer(&to(B)).unwrap();
    assert_eq!(reached(&nodes, &path), [B]);
}

#[test]
fn what_somebody_else_has_put_at_the_path_stays() {
    let (directory, path, mut nodes) = slots();
    let hidden = directory.path().join(".sock.supervise");
    fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    let number = inode(&path);
    let is_theirs = |nodes: &mut Nodes| {
        assert_eq!(nodes.look_after_path().unwrap().state, PathState::Taken);
        let error = nodes.steer(&to(B)).unwrap_err();
        assert!(error.to_string().starts_with("somebody else has taken /"), "{error}");
        assert_eq!(nodes.target(), A);
        shut_down(nodes, B);
        assert!(nodes.mend(B).unwrap(), "which takes nothing of theirs");
        assert_eq!(names(&hidden).len(), crate::core::limits::GENERATIONS);
        assert_eq!(inode(&path), number);
    };
    is_theirs(&mut nodes);
    UnixStream::connect(&path).unwrap();
    // Dead now, and still not ours.
    drop(theirs);
    is_theirs(&mut nodes);
    // Not even when everything of ours is gone, nor at our end.
    fs::remove_dir_all(&hidden).unwrap();
    assert_eq!(nodes.look_after_path().unwrap().state, PathState::Taken);
    drop(nodes);
    assert_eq!((inode(&path), names(directory.path())), (number, vec!["sock".to_owned()]));
}

#[test]
fn a_path_in_use_is_not_taken_and_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let theirs = UnixDatagram::bind(&path).unwrap();
    let failure = || match Nodes::hold(&Rc::new(unix(Kind::Unix, &path)), &path).unwrap_err() {
        NoSlots::Bind(error) => error,
        NoSlots::Shared(reason) => panic!("{reason}"),
    };
    assert_eq!(failure().errno, Some(libc::EADDRINUSE));
    assert_eq!(names(directory.path()), ["sock"]);
    drop(theirs);
    fs::remove_file(&path).unwrap();
    // Another supervisor, also while its path is gone.
    let mut nodes = hold_with(&path, options());
    assert!(failure().by_us);
    fs::remove_file(&path).unwrap();
    assert_eq!(failure().errno, Some(libc::EADDRINUSE));
    assert_eq!(nodes.look_after_path().unwrap().state, PathState::LinkedBack);
    assert_eq!(reached(&nodes, &path), [A]);
}

#[test]
fn a_killed_predecessor_leaves_nothing_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let hidden = directory.path().join(".sock.supervise");
    make_directories(&hidden.join("x"), 0o700).unwrap();
    for name in ["0", "1", "7", "new"] {
        UnixListener::bind(hidden.join(name)).unwrap();
    }
    fs::hard_link(hidden.join("1"), &path).unwrap();
    let nodes = hold_with(&path, options());
    assert_eq!(reached(&nodes, &path), [A]);
    assert_eq!(names(&hidden), ["0", "1", "2", "3", "4", "5", "6", "7"]);
    drop(nodes);
    assert!(names(directory.path()).is_empty());
}

fn why_shared(path: &Path) -> String {
    match Nodes::hold(&Rc::new(unix(Kind::Unix, path)), path).unwrap_err() {
        NoSlots::Shared(reason) => reason,
        NoSlots::Bind(error) => panic!("{error}"),
    }
}

#[test]
fn a_hidden_directory_that_is_not_ours_means_one_socket_for_all() {
    let directory = tempfile::tempdir().unwrap();
    let (path, hidden) = (directory.path().join("sock"), directory.path().join(".sock.supervise"));
    fs::write(&hidden, "precious").unwrap();
    let reason = why_shared(&path);
    assert!(reason.contains(".sock.supervise cannot be made: "), "{reason}");
    fs::remove_file(&hidden).unwrap();
    make_directories(&hidden.join("x"), 0o700).unwrap();
    for name in ["8", "0"] {
        fs::write(hidden.join(name), "precious").unwrap();
        let reason = why_shared(&path);
        assert!(reason.ends_with(".sock.supervise has files that are not ours"), "{reason}");
        assert_eq!(names(&hidden), [name]);
        fs::remove_file(hidden.join(name)).unwrap();
    }
    fs::set_permissions(&hidden, Permissions::from_mode(0o755)).unwrap();
    assert!(why_shared(&path).ends_with("belongs to somebody else"));
    fs::remove_dir(&hidden).unwrap();
    std::os::unix::fs::symlink(directory.path(), &hidden).unwrap();
    assert!(why_shared(&path).contains("cannot be made: "));
    assert!(!path.exists());
}

#[test]
fn every_slot_has_the_mode_and_owner_that_clients_see() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let mut nodes = hold_with(&path, SocketOptions { mode: 0o620, ..options() });
    let look = |path: &Path| {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.mode() & 0o7777, metadata.gid())
    };
    let (_, group) = look(&path);
    nodes.steer(&to(B)).unwrap();
    assert_eq!(look(&path), (0o620, group));
    // The administrator changes what clients see. Root may give it to any group, others to one of theirs.
    let other = if own::euid() == 0 { Some(Gid::from_raw(12345)) } else { getgroups().unwrap().pop() };
    fs::set_permissions(&path, Permissions::from_mode(0o606)).unwrap();
    if let Some(other) = other {
        chown(&path, None, Some(other)).unwrap();
    }
    let seen = look(&path);
    nodes.ready_slot(C).unwrap();
    nodes.steer(&to(A)).unwrap();
    for slot in [A, B, C] {
        assert_eq!(look(&nodes.hidden_path(slot)), seen);
    }
    shut_down(&nodes, A);
    assert!(nodes.mend(A).unwrap());
    assert_eq!(look(&path), seen);
}

#[test]
fn a_small_backlog_of_a_server_is_mended() {
    let (_directory, path, mut nodes) = slots();
    sys::listen(nodes.fd_of(A), 0).unwrap();
    let connect = || {
        let client = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_NONBLOCK,
            None,
        );
        let client = client.unwrap();
        let address = nix::sys::socket::UnixAddr::new(&path).unwrap();
        nix::sys::socket::connect(client.as_raw_fd(), &address).map(|()| client)
    };
    let _first = connect().unwrap();
    assert_eq!(connect().unwrap_err(), Errno::EAGAIN);
    nodes.refresh().unwrap();
    connect().unwrap();
}

/// More clients than there is room for, all of them in connect(2), or in its queue.
fn crowd(path: &Path, count: usize) -> Vec<thread::JoinHandle<UnixStream>> {
    let mut threads = Vec::new();
    for _ in 0..count {
        let path = path.to_path_buf();
        let (to_us, theirs) = std::sync::mpsc::channel();
        threads.push(thread::spawn(move || {
            to_us.send(nix::unistd::gettid()).unwrap();
            UnixStream::connect(path).unwrap()
        }));
        let syscall = format!("/proc/self/task/{}/syscall", theirs.recv().unwrap());
        let connects = format!("{} ", libc::SYS_connect);
        let thread = threads.last().unwrap();
        while !thread.is_finished()
            && !fs::read_to_string(&syscall).is_ok_and(|text| text.starts_with(&connects))
        {
            thread::yield_now();
        }
    }
    threads
}

#[test]
fn nobody_waits_for_the_queue_of_a_slot_that_the_path_has_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let mut nodes = hold_with(&path, SocketOptions { backlog: 3, ..options() });
    nodes.ready_slot(B).unwrap();
    let clients = crowd(&path, 40);
    nodes.steer(&to(B)).unwrap();
    // Nobody accepts at the old one; and those who had their place there keep it.
    let queued = 4;
    let arrive = |slot: SlotId, nodes: &Nodes, count: usize| {
        let before = std::time::Instant::now();
        let mut arrived = 0;
        while arrived < count && before.elapsed().as_secs() < 20 {
            match accept(nodes, slot) {
                Some(_) => arrived += 1,
                None => thread::yield_now(),
            }
        }
        assert_eq!(arrived, count, "at {slot:?}");
    };
    arrive(B, &nodes, 40 - queued);
    arrive(A, &nodes, queued);
    clients.into_iter().for_each(|client| drop(client.join().unwrap()));
    // Clients are answered as well where a server shuts its slot down while they wait.
    let clients = crowd(&path, 20);
    shut_down(&nodes, B);
    let old = nodes.fd_of(B);
    assert!(nodes.mend(B).unwrap());
    arrive(B, &nodes, 20 - queued);
    drop((old, nodes));
    clients.into_iter().for_each(|client| drop(client.join().unwrap()));
}

#[test]
fn only_the_public_path_has_to_fit() {
    let directory = tempfile::tempdir().unwrap();
    let room = crate::os::socket::node::LONGEST_PATH - directory.path().as_os_str().len() - 1;
    let path = directory.path().join("x".repeat(room));
    let mut nodes = hold_with(&path, options());
    nodes.steer(&to(B)).unwrap();
    assert_eq!(reached(&nodes, &path), [B]);
    let client = UnixStream::connect(nodes.hidden_path(A)).unwrap();
    assert_eq!(client.peer_addr().unwrap().as_pathname(), Some(&*path));
    assert!(accept(&nodes, A).is_some());
    fs::remove_dir_all(nodes.watch_paths()[0].parent().unwrap()).unwrap();
    nodes.look_after_path().unwrap();
    UnixStream::connect(nodes.hidden_path(A)).unwrap();
}

#[test]
fn the_watch_sees_every_way_to_lose_the_path_and_no_client() {
    let (directory, path, mut nodes) = slots();
    let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
    let watch_all = |nodes: &Nodes| {
        for path in nodes.watch_paths() {
            watch.add_watch(&path, WATCH).unwrap();
        }
    };
    let woke = || match watch.read_events() {
        Ok(events) => !events.is_empty(),
        Err(errno) => {
            assert_eq!(errno, Errno::EAGAIN);
            false
        }
    };
    watch_all(&nodes);
    assert_eq!(reached(&nodes, &path), [A]);
    let other = directory.path().join("other");
    fs::write(&other, "").unwrap();
    assert!(!woke(), "clients and strangers' files");
    type Vandal<'a> = &'a dyn Fn();
    let vandals: [Vandal; 4] = [
        &|| fs::remove_file(&path).unwrap(),
        &|| fs::rename(&path, &other).unwrap(),
        &|| fs::rename(directory.path().join(".sock.supervise/0"), directory.path().join("third")).unwrap(),
        &|| fs::remove_dir_all(directory.path().join(".sock.supervise")).unwrap(),
    ];
    for vandal in vandals {
        vandal();
        assert!(woke());
        nodes.look_after_path().unwrap();
        watch_all(&nodes);
        woke();
        assert_eq!(reached(&nodes, &path), [A]);
        assert!(!woke());
    }
    // Not `other`, which a vandal made a link of ours: rename(2) does nothing then.
    let stranger = directory.path().join("stranger");
    fs::write(&stranger, "").and_then(|()| fs::rename(&stranger, &path)).unwrap();
    assert!(woke(), "a rename over it");
}

#[test]
fn a_path_that_others_take_and_leave_without_rest_is_no_error() {
    let (_directory, path, mut nodes) = slots();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let _ours_or_nobodys = (fs::write(&path, ""), fs::remove_file(&path));
            }
        });
        let failed = (0..20_000).find_map(|_| nodes.look_after_path().err());
        is_over.store(true, Ordering::Relaxed);
        assert!(failed.is_none(), "{failed:?}");
    });
}
