//! Threads of this very process that wait in each of the ways there are.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::select::{FdSet, select};
use nix::sys::stat::fstat;
use nix::unistd::getpid;

use super::*;
use crate::os::sys::tests::eventually;

fn inode(socket: impl AsFd) -> SocketInode {
    SocketInode::from(&fstat(socket).unwrap())
}

fn is_waited(socket: &impl AsFd) -> bool {
    let sight = look(&[getpid()], &[inode(socket)]);
    sight.waited == [true]
}

/// Nobody waits on the socket before a thread does this with it, somebody does then, and nobody after `wake`.
fn check<S: AsFd + Send + Sync + 'static>(socket: S, wait: impl Fn(&S) + Send + 'static, wake: impl Fn(&S)) {
    let socket = std::sync::Arc::new(socket);
    let (begin, begun) = channel();
    let for_waiter = std::sync::Arc::clone(&socket);
    let waiter = thread::spawn(move || {
        begun.recv().unwrap();
        wait(&for_waiter);
    });
    assert!(!is_waited(&*socket));
    begin.send(()).unwrap();
    eventually("somebody waits", || is_waited(&*socket).then_some(()));
    wake(&*socket);
    waiter.join().unwrap();
    assert!(!is_waited(&*socket));
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn connect(listener: &TcpListener) {
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
}

#[test]
fn accept_is_seen() {
    check(listener(), |listener| drop(listener.accept().unwrap()), connect);
    let place = tempdir();
    let path = place.join("socket");
    let wake = |_: &UnixListener| drop(std::os::unix::net::UnixStream::connect(&path).unwrap());
    check(UnixListener::bind(&path).unwrap(), |listener| drop(listener.accept().unwrap()), wake);
    fs::remove_dir_all(place).unwrap();
}

fn tempdir() -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("waiters-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn datagrams_are_seen() {
    let wake =
        |socket: &UdpSocket| assert_eq!(socket.send_to(b"x", socket.local_addr().unwrap()).unwrap(), 1);
    check(
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        |socket| assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1),
        wake,
    );
}

#[test]
fn poll_and_select_are_seen_for_input_alone() {
    let polls = |flags| {
        move |listener: &TcpListener| {
            let others: Vec<OwnedFd> =
                (0..30).map(|_| listener.as_fd().try_clone_to_owned().unwrap()).collect();
            let mut fds: Vec<PollFd> =
                others.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLERR)).collect();
            fds.push(PollFd::new(listener.as_fd(), flags));
            poll(&mut fds, PollTimeout::NONE).unwrap();
        }
    };
    check(listener(), polls(PollFlags::POLLIN), connect);
    check(
        listener(),
        |listener| {
            let mut set = FdSet::new();
            set.insert(listener.as_fd());
            select(None, &mut set, None, None, None).unwrap();
        },
        connect,
    );
    // A thread that waits for the socket to become writable serves nobody.
    let unread = listener();
    let fds = &mut [PollFd::new(unread.as_fd(), PollFlags::POLLPRI)];
    let inode = inode(&unread);
    thread::scope(|scope| {
        let looker = scope.spawn(move || {
            thread::park_timeout(Duration::from_millis(50));
            look(&[getpid()], &[inode]).waited
        });
        poll(fds, PollTimeout::from(200_u16)).unwrap();
        assert_eq!(looker.join().unwrap(), [false]);
    });
}

#[test]
fn an_epoll_counts_while_somebody_waits_in_it() {
    let socket = listener();
    let mut poll = mio::Poll::new().unwrap();
    let fd = socket.as_raw_fd();
    poll.registry().register(&mut SourceFd(&fd), Token(7), Interest::READABLE).unwrap();
    assert!(!is_waited(&socket), "it is registered, but nobody waits");
    let waiter = thread::spawn(move || {
        let mut events = mio::Events::with_capacity(4);
        poll.poll(&mut events, None).unwrap();
        poll.registry().deregister(&mut SourceFd(&fd)).unwrap();
        poll.poll(&mut events, Some(Duration::from_millis(200))).unwrap();
    });
    eventually("somebody waits", || is_waited(&socket).then_some(()));
    connect(&socket);
    thread::park_timeout(Duration::from_millis(50));
    assert!(!is_waited(&socket), "it is no longer registered");
    waiter.join().unwrap();
}

/// An epoll in which this is registered for input.
fn epoll_of(source: &impl AsFd) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    epoll.add(source, EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
    epoll
}

fn wait_in_poll(epoll: &Epoll) {
    poll(&mut [PollFd::new(epoll.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
}

fn wait_in_select(epoll: &Epoll) {
    let mut set = FdSet::new();
    set.insert(epoll.0.as_fd());
    select(None, &mut set, None, None, None).unwrap();
}

fn wait_in_epoll(epoll: &Epoll) {
    epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE).unwrap();
}

#[test]
fn an_epoll_in_a_set_or_in_another_epoll_is_followed() {
    for wait in [wait_in_poll, wait_in_select, wait_in_epoll] {
        check(listener(), move |listener| wait(&epoll_of(listener)), connect);
        let nested = move |listener: &TcpListener| {
            let inner = epoll_of(listener);
            let middle = epoll_of(&inner.0);
            wait(&epoll_of(&middle.0));
        };
        check(listener(), nested, connect);
    }
}

#[test]
fn epolls_in_epolls_are_followed_to_an_end() {
    let socket = listener();
    let inner = epoll_of(&socket);
    let outer = epoll_of(&inner.0);
    // What the number of the registered one leads to by now may be the outer one itself.
    let mut copy = inner.0.try_clone().unwrap();
    outer.add(&copy, EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
    nix::unistd::dup2(&outer.0, &mut copy).unwrap();
    let look = |epoll: &Epoll| {
        let fd = epoll.0.as_raw_fd() as u32;
        Files::default().registered(getpid(), fd, &[inode(&socket)])
    };
    assert_eq!(look(&outer).unwrap(), [true]);
    let wide = Epoll::new(EpollCreateFlags::empty()).unwrap();
    let many: Vec<Epoll> = (0..100).map(|_| epoll_of(&socket)).collect();
    for one in &many {
        wide.add(&one.0, EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
    }
    assert!(!is_gone(&look(&wide).unwrap_err()), "more than one look goes through");
}

#[test]
fn whoever_waits_for_more_than_this_may_be_at_work_elsewhere() {
    let sockets = || [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap()];
    let wake =
        |socket: &UdpSocket| assert_eq!(socket.send_to(b"x", socket.local_addr().unwrap()).unwrap(), 1);
    for (set, reads) in [(1, true), (2, false)] {
        let [one, other] = sockets();
        let (inodes, waker) = ([inode(&one)], one.try_clone().unwrap());
        let waiter = thread::spawn(move || {
            let mut fds =
                [PollFd::new(one.as_fd(), PollFlags::POLLIN), PollFd::new(other.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds[..set], PollTimeout::NONE).unwrap();
        });
        eventually("it waits", || look(&[getpid()], &inodes).waited[0].then_some(()));
        assert_eq!(look_for_readers(&[getpid()], &inodes).waited, [reads]);
        wake(&waker);
        waiter.join().unwrap();
    }
    let [one, _] = sockets();
    let (inodes, waker) = ([inode(&one)], one.try_clone().unwrap());
    let waiter = thread::spawn(move || one.recv(&mut [0]).unwrap());
    eventually("it reads", || look_for_readers(&[getpid()], &inodes).waited[0].then_some(()));
    wake(&waker);
    waiter.join().unwrap();
}

#[test]
fn each_socket_is_answered_for_and_a_process_that_is_gone_is_nobody() {
    let (one, other) = (listener(), listener());
    let inodes = [inode(&one), inode(&other)];
    let gone = std::process::Command::new("true").spawn().unwrap();
    let pid = Pid::from_raw(gone.id() as i32);
    drop(gone.wait_with_output());
    assert_eq!(look(&[pid], &inodes), Waiters { waited: vec![false, false], is_blind: false });
    let number = other.as_raw_fd();
    let waiter = thread::spawn(move || other.accept().unwrap());
    eventually("it waits", || (look(&[pid, getpid()], &inodes).waited == [false, true]).then_some(number));
    connect_to(&waiter, inodes[1]);
}

/// Ends an accept(2) of this process by finding its address again.
fn connect_to<T>(waiter: &thread::JoinHandle<T>, inode: SocketInode) {
    let mut fds = proc::numbers("/proc/self/fd").unwrap();
    let is_it =
        |fd: &i32| proc::socket(format!("/proc/self/fd/{fd}")).is_ok_and(|it| it == Some(inode.number));
    let number = fds.find(is_it).unwrap();
    let address: nix::sys::socket::SockaddrIn = nix::sys::socket::getsockname(number).unwrap();
    TcpStream::connect((address.ip(), address.port())).unwrap();
    eventually("it has accepted", || waiter.is_finished().then_some(()));
}

#[test]
fn what_proc_says_is_not_trusted() {
    for text in
        ["", "running", "-1 0x7ffd 0x7f2a", "x", "0", "0 3", "0 0x3", "0 0x3 0xz", "999 0x1 0x2", "\u{e9}"]
    {
        assert_eq!(WaitCall::parse(text), None, "{text}");
    }
    let accept = format!("{} 0xffffffff00000003 0x0 0x0", libc::SYS_accept4);
    assert_eq!(WaitCall::parse(&accept), Some(WaitCall::One { fd: 3 }));
    for set in [Set::Poll { address: 8, count: u64::MAX }, Set::Select { address: 8, count: u64::MAX }] {
        assert!(set.length() <= 1 << 20);
        assert_eq!(set.fds(&[]), [0; 0]);
    }
    assert_eq!(Set::Select { address: 0, count: 64 }.length(), 0);
    let set = Set::Select { address: 8, count: 66 };
    assert_eq!(set.length(), 16);
    let bits: Vec<u8> = [1_u64 << 63 | 1, 0b111].iter().flat_map(|word| word.to_ne_bytes()).collect();
    assert_eq!(set.fds(&bits), [0, 63, 64, 65]);
}

#[test]
fn each_call_in_which_a_socket_is_waited_for_is_known() {
    let parse =
        |number: i64| WaitCall::parse(&format!("{number} 0x3 0x14 0x5 0x0 0x0 0x0 0x7ffd10 0x7f2a20"));
    let reads =
        [libc::SYS_accept, libc::SYS_accept4, libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg];
    for number in reads.into_iter().chain([libc::SYS_read, libc::SYS_readv]) {
        assert_eq!(parse(number), Some(WaitCall::One { fd: 3 }), "{number}");
    }
    for number in [libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2] {
        assert_eq!(parse(number), Some(WaitCall::Epoll { fd: 3 }), "{number}");
    }
    let polls = Some(WaitCall::Many(Set::Poll { address: 3, count: 0x14 }));
    let selects = Some(WaitCall::Many(Set::Select { address: 0x14, count: 3 }));
    assert_eq!((parse(libc::SYS_ppoll), parse(libc::SYS_pselect6)), (polls, selects));
    #[cfg(target_arch = "x86_64")]
    {
        assert_eq!((parse(libc::SYS_poll), parse(libc::SYS_select)), (polls, selects));
        assert_eq!(parse(libc::SYS_epoll_wait), Some(WaitCall::Epoll { fd: 3 }));
    }
    // Whoever sleeps in one of these serves nobody; what sleeps in io_uring_enter(2) is not to be seen.
    let others = [libc::SYS_write, libc::SYS_connect, libc::SYS_futex, libc::SYS_nanosleep, libc::SYS_wait4];
    for number in others.into_iter().chain([libc::SYS_io_uring_enter]) {
        assert_eq!(parse(number), None, "{number}");
    }
}

#[test]
fn of_a_poll_set_what_is_left_out_and_what_is_cut_off_counts_for_nothing() {
    let entry = |fd: i32, events: i16| [&fd.to_ne_bytes()[..], &events.to_ne_bytes(), &[0; 2]].concat();
    let bytes = [
        entry(5, libc::POLLIN),
        entry(-6, libc::POLLIN),
        entry(7, libc::POLLOUT),
        entry(8, libc::POLLRDNORM | libc::POLLERR),
        entry(9, libc::POLLIN),
    ]
    .concat();
    let set = Set::Poll { address: 8, count: 5 };
    assert_eq!(set.length(), bytes.len());
    assert_eq!(set.fds(&bytes), [5, 8, 9]);
    assert_eq!(set.fds(&bytes[..bytes.len() - 1]), [5, 8], "the memory ended there");
}

#[test]
fn more_than_one_look_goes_through_may_hide_a_waiter() {
    let socket = listener();
    let gone = std::process::Command::new("true").spawn().unwrap();
    let pid = Pid::from_raw(gone.id() as i32);
    drop(gone.wait_with_output());
    for (processes, is_blind) in [(PROCESSES, false), (PROCESSES + 1, true)] {
        let sight = look(&vec![pid; processes], &[inode(&socket)]);
        assert_eq!(sight, Waiters { waited: vec![false], is_blind }, "{processes}");
    }
    let sockets = &[inode(&socket)];
    let mut look = Look {
        sockets,
        one_alone: false,
        threads: 1,
        files: Files::default(),
        epolls: HashMap::new(),
        found: HashSet::new(),
    };
    // The first of them is this one or that of the harness; there are two at least.
    let error = look.process(getpid(), &mut [false]).unwrap_err();
    assert!(!is_gone(&error), "{error}");
}
