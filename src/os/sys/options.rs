//! Socket options without a type in nix, and those that are compared or copied whatever they are.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// setsockopt(2) with an int, for options without a type in nix.
pub fn set_int_option(
    socket: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` is readable for `length` bytes, and the borrow keeps the fd open.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// O_NONBLOCK of the open file by one call (FIONBIO of ioctl(2)).
pub fn set_non_blocking(file: impl AsFd, on: bool) -> io::Result<()> {
    let on = libc::c_int::from(on);
    // SAFETY: the kernel only reads the int; the borrow keeps the fd open.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::FIONBIO, &raw const on) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// getsockopt(2) with an int.
pub fn int_option(socket: impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `value` is writable for `length` bytes, and the borrow keeps the fd open.
    let result = unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Copies a socket option of up to 20 bytes from `model` to `target` where they differ. One that `model` lacks is left
/// alone.
pub fn copy_option(
    model: impl AsFd,
    target: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<()> {
    let Ok(wanted) = option(model, level, name) else { return Ok(()) };
    if option(&target, level, name)? == wanted {
        return Ok(());
    }
    let OptionBytes(value, length) = wanted;
    let target = target.as_fd().as_raw_fd();
    // SAFETY: `value` is readable for `length` bytes, which getsockopt(2) made no larger than it is; the borrow keeps the
    // fd open.
    let result = unsafe { libc::setsockopt(target, level, name, value.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether an option has the same value on two sockets, or neither has it.
pub fn is_same_option(one: impl AsFd, other: impl AsFd, level: libc::c_int, name: libc::c_int) -> bool {
    option(one, level, name).ok() == option(other, level, name).ok()
}

/// The value of a socket option and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionBytes([u8; 20], libc::socklen_t);

/// getsockopt(2) of any option of up to 20 bytes; what is longer is cut.
pub fn option(socket: impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<OptionBytes> {
    let mut value = [0u8; 20];
    let mut length = size_of_val(&value) as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `value` is writable for `length` bytes, and the borrow keeps the fd open.
    let result = unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut length) };
    if result == 0 { Ok(OptionBytes(value, length)) } else { Err(io::Error::last_os_error()) }
}

/// Connections in the accept queue of a listening TCP socket, and the limit of that queue: for a listener the kernel
/// reports them as tcpi_unacked and tcpi_sacked of TCP_INFO (Linux 2.6.32).
pub fn tcp_listen_queue(socket: impl AsFd) -> io::Result<(u32, u32)> {
    // The beginning of struct tcp_info (linux/tcp.h): eight bytes of flags, then u32 fields, of which these are the
    // fifth and the sixth.
    let [.., unacked, sacked] = numbers::<8>(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok((unacked, sacked))
}

/// What the kernel has dropped at a socket since it was made: at a listening TCP socket SYNs and the last ACKs of
/// handshakes that found its queue full, and strays (Linux 4.12).
pub fn drops(socket: impl AsFd) -> io::Result<u32> {
    // The last number of linux/sock_diag.h, SK_MEMINFO_DROPS.
    let [.., drops] = numbers::<9>(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    Ok(drops)
}

/// SO_RCVBUF and SO_SNDBUF of a socket, by one call (Linux 4.12).
pub fn socket_buffers(socket: impl AsFd) -> io::Result<[u32; 2]> {
    // SK_MEMINFO_RCVBUF and SK_MEMINFO_SNDBUF of linux/sock_diag.h.
    let [_, receive, _, send] = numbers::<4>(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    Ok([receive, send])
}

/// The first N numbers of a socket option. The kernel fills no more than the given room.
fn numbers<const N: usize>(socket: impl AsFd, level: i32, option: i32) -> io::Result<[u32; N]> {
    let mut info = [0u32; N];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: `info` is writable for `length` bytes, any bytes are valid u32s, and the borrow keeps the fd open.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, option, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < size_of_val(&info) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(info)
}
