//! An interceptor as it goes over to the program that takes our place: the listener of its filter, the sockets that it
//! gives, and the call that it has received, which nobody else would answer.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::answer::HeldPlace;
use super::{Common, Held, Interceptor, News};
use crate::os::saved::KeptFds;
use crate::os::sys::left::LeftFds;
use crate::os::sys::seccomp::Call;

#[derive(Debug, Serialize, Deserialize)]
pub struct SavedInterceptor {
    listener: RawFd,
    call: Option<Call>,
    has_passed: bool,
    held: Vec<SavedHeld>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedHeld {
    place: HeldPlace,
    socket: RawFd,
    inode: u64,
    address: String,
    is_steered: bool,
    is_given: bool,
    is_narrow: bool,
}

impl Interceptor {
    /// The thread receives no call from now on until [`Self::go_on`].
    pub fn rest(&self) {
        self.common.desk().rests = true;
    }

    /// A call that was received may be answered meanwhile; to answer it twice does no harm. `None` where no process is left
    /// under the filter.
    pub fn save(&self, fds: &mut KeptFds) -> Option<SavedInterceptor> {
        let (listener, call) = {
            let desk = self.common.desk();
            (desk.listener?, desk.call)
        };
        let held = |held: &Arc<Held>| SavedHeld {
            place: held.place.clone(),
            socket: fds.keep_number(held.socket.as_raw_fd()),
            inode: held.inode,
            address: held.address.clone(),
            is_steered: held.is_steered,
            is_given: held.is_given.load(Ordering::Relaxed),
            is_narrow: held.is_narrow.load(Ordering::Relaxed),
        };
        let held = self.common.held().iter().map(held).collect();
        fds.keep_number(listener);
        Some(SavedInterceptor { listener, call, has_passed: self.may_have_failed(), held })
    }

    /// Nobody has taken our place.
    pub fn go_on(&self) {
        self.common.desk().rests = false;
        self.common.goes_on.notify_all();
    }

    /// # Errors
    /// A sentence: an fd is missing, or no further thread can be created.
    pub fn from_saved(
        saved: SavedInterceptor,
        fds: &mut LeftFds,
        is_alone: Arc<AtomicBool>,
        tell: impl Fn(News) + Send + 'static,
    ) -> Result<Self, String> {
        let mut held = Vec::new();
        for one in saved.held {
            held.push(Held {
                place: one.place,
                socket: fds.take(one.socket)?,
                inode: one.inode,
                address: one.address,
                is_steered: one.is_steered,
                is_given: AtomicBool::new(one.is_given),
                is_narrow: AtomicBool::new(one.is_narrow),
            });
        }
        let listener = fds.take(saved.listener)?;
        let common = Common::new(held, is_alone);
        common.has_passed.store(saved.has_passed, Ordering::Relaxed);
        common.desk().call = saved.call;
        let this = Self::start(common, tell).map_err(|error| format!("cannot start a thread: {error}"))?;
        this.answer(listener);
        Ok(this)
    }
}
