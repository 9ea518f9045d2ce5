//! The seccomp(2) filter of a child: installed by itself, its listener handed to us over a socket.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_long, sock_filter};
use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};

use super::failure;
use super::report::{ChildStep, Reported, StepReport};
use super::status::check;
use crate::core::StartFailure;

/// Our end and that of the child.
pub(super) fn channel() -> Result<(OwnedFd, OwnedFd), StartFailure> {
    socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| failure::resources("make a socket pair", &errno.into()))
}

/// What the child has sent before its execve(2). An error where there is nothing: it was killed on its way, or it reports
/// why.
pub(super) fn receive(ours: &OwnedFd) -> io::Result<OwnedFd> {
    let mut control = cmsg_space!(RawFd);
    let mut byte = [0u8];
    let mut buffers = [io::IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(ours.as_fd().as_raw_fd(), &mut buffers, Some(&mut control), flags)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part
            && let [number] = numbers[..]
        {
            // SAFETY: the kernel has put it into our table just now, and nobody else knows its number.
            return Ok(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

// The functions from here on run in the child.

/// Without no_new_privs where we may, so that sudo and other set-user-ID programs work in the server.
pub(super) fn install(filter: &[sock_filter], channel: RawFd) -> Reported<c_long> {
    let mut listener = listen(filter);
    if matches!(&listener, Err(report) if report.errno == libc::EACCES) {
        // SAFETY: plain integers.
        let result = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        check(ChildStep::Filter, result)?;
        listener = listen(filter);
    }
    // Under a filter without a listener it could never bind anything: that stops the start.
    send(channel, listener? as RawFd).map_err(|report| StepReport { step: ChildStep::Descriptors, ..report })
}

/// The listener is close-on-exec. A call that we have begun to answer is not given up for a signal that does not kill (Linux
/// 5.19). Before we have, some 10 µs, and in older kernels until the end, it is begun anew, or fails with EINTR where the
/// handler is without SA_RESTART.
fn listen(filter: &[sock_filter]) -> Reported<c_long> {
    // The filter has a few instructions, so their number fits.
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let install = |flags: libc::c_ulong| {
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: a whole struct that points to its instructions, which the kernel copies.
        check(ChildStep::Filter, unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) })
    };
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    match install(listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(report) if report.errno == libc::EINVAL => install(listener),
        result => result,
    }
}

/// One cmsghdr with one fd, as cmsg(3) lays it out.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    fd: RawFd,
}

fn send(channel: RawFd, fd: RawFd) -> Reported<c_long> {
    let byte = 0u8;
    let mut part = libc::iovec { iov_base: ptr::from_ref(&byte).cast_mut().cast(), iov_len: 1 };
    // SAFETY: both are plain integers and pointers, for which zero is a value; musl has private padding in them.
    let (mut rights, mut message) = unsafe { (mem::zeroed::<Rights>(), mem::zeroed::<libc::msghdr>()) };
    rights.header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<RawFd>()) as _;
    rights.header.cmsg_level = libc::SOL_SOCKET;
    rights.header.cmsg_type = libc::SCM_RIGHTS;
    rights.fd = fd;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut rights).cast();
    message.msg_controllen = size_of::<Rights>() as _;
    // SAFETY: the message and all it points to live in this frame.
    check(ChildStep::Filter, unsafe { libc::syscall(libc::SYS_sendmsg, channel, &raw const message, 0) })
}
