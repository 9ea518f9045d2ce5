use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Barrier;

use nix::poll::{PollFd, PollFlags, poll};

use super::*;

/// In milliseconds; longer than any step takes, on any machine.
const PATIENCE: u16 = 20_000;

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let mode = Permissions::from_mode(0o700);
        Self { dir: tempfile::Builder::new().permissions(mode).tempdir().unwrap() }
    }

    fn dirs(&self) -> Vec<PathBuf> {
        vec![self.dir.path().join("run")]
    }

    fn open(&self, choice: &Instance) -> Result<Option<ControlSocket>, ControlError> {
        ControlSocket::open_in(self.dirs(), choice, "node", false)
    }

    fn socket(&self) -> ControlSocket {
        watched(self.open(&Instance::default()).unwrap().unwrap())
    }
}

fn watched(mut socket: ControlSocket) -> ControlSocket {
    socket.watch();
    socket
}

fn named(name: &str) -> Instance {
    Instance { name: Some(name.to_owned()), control: Control::Search, detach: false }
}

fn at(path: &Path) -> Instance {
    Instance { name: None, control: Control::Path(path.to_owned()), detach: false }
}

/// Whether the watch is readable within the test's patience.
fn noticed(socket: &ControlSocket, patience: u16) -> bool {
    let mut fds = [PollFd::new(socket.watch_fd().unwrap(), PollFlags::POLLIN)];
    poll(&mut fds, patience).unwrap() == 1
}

#[test]
fn the_second_instance_of_a_name_gets_the_next_one() {
    let home = Home::new();
    let sockets = [home.socket(), home.socket(), home.socket()];
    assert_eq!(sockets.each_ref().map(|socket| socket.name()), ["node", "node-2", "node-3"]);
    let found = fs::metadata(sockets[1].path()).unwrap();
    assert_eq!(found.mode() & 0o7777, instances::CONTROL_MODE);

    let [_first, second, _third] = sockets;
    drop(second);
    assert_eq!(home.socket().name(), "node-2", "a stale socket is replaced");
}

#[test]
fn an_explicit_name_that_lives_names_its_holder() {
    let home = Home::new();
    let first = home.open(&named("web")).unwrap().unwrap();
    let error = home.open(&named("web")).unwrap_err().to_string();
    assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
    drop(first);
    assert_eq!(home.open(&named("web")).unwrap().unwrap().name(), "web");
    assert!(home.open(&named("a/b")).unwrap_err().to_string().contains("not a name"));
}

#[test]
fn a_name_that_lives_in_another_directory_is_taken() {
    let home = Home::new();
    let first = home.socket();
    let dirs = vec![home.dir.path().join("better"), home.dirs().remove(0)];
    let second = ControlSocket::open_in(dirs.clone(), &Instance::default(), "node", false).unwrap().unwrap();
    assert_eq!((first.name(), second.name()), ("node", "node-2"));
    assert_eq!(second.path(), dirs[0].join("node-2.sock"));
    assert!(ControlSocket::open_in(dirs, &named("node"), "x", false).is_err());
}

#[test]
fn an_explicit_path_is_taken_only_from_the_dead() {
    let home = Home::new();
    let path = home.dir.path().join("here.sock");
    let first = home.open(&at(&path)).unwrap().unwrap();
    assert_eq!((first.name(), first.path()), ("here", path.as_path()));
    assert!(home.open(&at(&path)).unwrap_err().to_string().contains("in use by pid"));
    drop(first);
    drop(home.open(&at(&path)).unwrap().unwrap());
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    assert!(home.open(&at(&path)).unwrap_err().to_string().contains("no socket"));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert!(home.open(&at(&home.dir.path().join("no/x.sock"))).is_err());
    assert!(home.open(&at(Path::new("/"))).is_err());
}

#[test]
fn nowhere_to_put_the_default_one_is_no_error() {
    let home = Home::new();
    let open = home.dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
    let link = home.dir.path().join("link");
    std::os::unix::fs::symlink(home.dir.path(), &link).unwrap();
    let dirs = vec![open, link, home.dir.path().join("no/parent")];
    assert!(ControlSocket::open_in(dirs.clone(), &Instance::default(), "node", false).unwrap().is_none());
    assert!(ControlSocket::open_in(dirs.clone(), &named("web"), "node", false).unwrap().is_none());

    let none = Instance { name: None, control: Control::None, detach: false };
    assert!(home.open(&none).unwrap().is_none() && !home.dirs()[0].exists());

    // One usable directory behind the others is enough.
    let dirs = [dirs, home.dirs()].concat();
    let found = ControlSocket::open_in(dirs, &Instance::default(), "node", false).unwrap().unwrap();
    assert_eq!(found.path(), home.dirs()[0].join("node.sock"));
}

#[test]
fn starts_in_the_same_instant_get_different_names() {
    for _ in 0..20 {
        let home = Home::new();
        // What the dead left behind is where two starts can hurt each other most: each may remove the other's socket.
        drop(home.socket());
        let barrier = Barrier::new(8);
        let sockets: Vec<ControlSocket> = std::thread::scope(|scope| {
            let start = || {
                barrier.wait();
                home.socket()
            };
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let mut names: Vec<&str> = sockets.iter().map(ControlSocket::name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 8);
        assert!(sockets.iter().all(ControlSocket::is_in_place));
    }
}

#[test]
fn a_lock_that_nobody_gives_back_does_not_stop_a_start() {
    let home = Home::new();
    fs::create_dir(home.dirs().remove(0)).unwrap();
    fs::set_permissions(&home.dirs()[0], Permissions::from_mode(0o700)).unwrap();
    let held = lock(File::open(&home.dirs()[0]).unwrap(), Duration::ZERO);
    assert!(held.is_some());
    assert!(lock(File::open(&home.dirs()[0]).unwrap(), Duration::from_millis(20)).is_none());
    assert_eq!(home.socket().name(), "node");
}

#[test]
fn a_removed_socket_is_noticed_and_bound_again() {
    let home = Home::new();
    let mut socket = home.socket();
    assert!(!noticed(&socket, 0));
    // The coming and going of others in the directory is none of our business.
    let other = home.socket();
    drop(other);
    assert!(!noticed(&socket, 0));

    for _ in 0..2 {
        fs::remove_file(socket.path()).unwrap();
        assert!(noticed(&socket, PATIENCE));
        assert!(socket.heal().unwrap().is_some());
        UnixStream::connect(socket.path()).unwrap();
        socket.listener().accept().unwrap();
        assert!(socket.heal().unwrap().is_none(), "once is enough");
        assert!(!noticed(&socket, 0));
    }
    assert_eq!(socket.name(), "node");
}

#[test]
fn a_directory_that_was_removed_or_moved_away_is_made_again() {
    let home = Home::new();
    let mut socket = home.socket();
    fs::remove_dir_all(&home.dirs()[0]).unwrap();
    assert!(noticed(&socket, PATIENCE));
    assert!(socket.heal().unwrap().is_some());

    fs::rename(&home.dirs()[0], home.dir.path().join("away")).unwrap();
    assert!(noticed(&socket, PATIENCE));
    assert!(socket.heal().unwrap().is_some());
    UnixStream::connect(home.dirs()[0].join("node.sock")).unwrap();
}

#[test]
fn a_directory_that_cannot_be_made_again_leaves_the_next_one() {
    let home = Home::new();
    let (first, second) = (home.dir.path().join("parent/run"), home.dirs().remove(0));
    fs::create_dir(home.dir.path().join("parent")).unwrap();
    let dirs = vec![first, second.clone()];
    let mut socket = ControlSocket::open_in(dirs, &Instance::default(), "node", false).unwrap().unwrap();
    fs::remove_dir_all(home.dir.path().join("parent")).unwrap();
    assert!(socket.heal().unwrap().is_some());
    assert_eq!(socket.path(), second.join("node.sock"));
}

#[test]
fn what_took_our_place_is_left_alone() {
    let home = Home::new();
    let mut socket = home.open(&named("web")).unwrap().unwrap();
    let path = socket.path().to_owned();
    fs::remove_file(&path).unwrap();
    let thief = UnixListener::bind(&path).unwrap();
    assert!(socket.heal().unwrap_err().to_string().contains("in use by pid"));
    let second = home.open(&named("other")).unwrap().unwrap();
    fs::remove_file(second.path()).unwrap();
    let other_path = second.path().to_owned();
    let other_thief = UnixListener::bind(&other_path).unwrap();
    drop(second);
    assert!(other_path.exists(), "it is not ours to remove");
    drop((thief, other_thief));
    assert!(socket.heal().unwrap().is_some());
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn a_path_longer_than_an_address_works_alike() {
    let home = Home::new();
    let deep = home.dir.path().join("d".repeat(150));
    let dirs = vec![deep.clone()];
    let open = |choice: &Instance| ControlSocket::open_in(dirs.clone(), choice, "node", false);
    let mut socket = watched(open(&Instance::default()).unwrap().unwrap());
    assert!(socket.path().as_os_str().as_bytes().len() > 150);
    assert_eq!(open(&Instance::default()).unwrap().unwrap().name(), "node-2");
    assert_eq!(fs::metadata(socket.path()).unwrap().mode() & 0o777, 0o600);
    fs::remove_file(socket.path()).unwrap();
    assert!(noticed(&socket, PATIENCE));
    assert!(socket.heal().unwrap().is_some());
    instances::connect(socket.path(), Duration::from_secs(5)).unwrap();
    socket.listener().accept().unwrap();

    let longest = deep.join(format!("{}.sock", "n".repeat(64)));
    assert!(open(&at(&longest)).unwrap().is_some());
    assert!(open(&at(&deep.join("n".repeat(120)))).unwrap_err().to_string().contains("cannot be bound"));
}
