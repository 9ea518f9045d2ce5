//! Keeps for each living generation what InterceptBind= needs: the interceptors of its processes, and the launcher
//! with the sockets it holds by now.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::Children;
use crate::core::GenerationId;
use crate::os::intercept::Interceptor;
use crate::os::launch::Launcher;

/// A process that was started.
#[derive(Debug)]
pub struct Started {
    pub pid: i32,
    /// The listener of its filter, if it was to have one ([`crate::os::spawn::Child`]).
    pub listener: Option<io::Result<OwnedFd>>,
}

impl Children {
    /// Keeps the interceptor until the generation is forgotten.
    pub fn intercept(&mut self, generation: GenerationId, interceptor: Interceptor) {
        if let Some(running) = self.generations.get_mut(&generation) {
            running.interceptors.push(interceptor);
        }
    }

    /// The threads receive no further call, for another program takes our place.
    pub fn rest_intercepting(&self) {
        self.generations.values().flat_map(|running| &running.interceptors).for_each(Interceptor::rest);
    }

    /// No other program has taken our place.
    pub fn go_on_intercepting(&self) {
        self.generations.values().flat_map(|running| &running.interceptors).for_each(Interceptor::go_on);
    }

    /// What it holds has changed: what another process of it is started with has as well.
    pub fn set_launcher(&mut self, generation: GenerationId, launcher: Rc<Launcher>) {
        if let Some(running) = self.generations.get_mut(&generation) {
            running.launcher = launcher;
        }
    }

    pub fn interceptors(&self, generation: GenerationId) -> &[Interceptor] {
        self.generations.get(&generation).map_or(&[], |running| &running.interceptors)
    }
}
