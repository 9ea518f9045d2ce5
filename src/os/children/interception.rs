//! What a start has to do with InterceptBind=.

use std::io;
use std::os::fd::OwnedFd;

use super::Children;
use crate::core::GenerationId;
use crate::os::intercept::Interceptor;

/// A process that was started.
#[derive(Debug)]
pub struct Started {
    pub pid: i32,
    /// Of its filter, where it was to have one ([`crate::os::spawn::Child`]).
    pub listener: Option<io::Result<OwnedFd>>,
}

impl Children {
    /// It goes with the generation.
    pub fn intercept(&mut self, generation: GenerationId, interceptor: Interceptor) {
        if let Some(running) = self.generations.get_mut(&generation) {
            running.interceptors.push(interceptor);
        }
    }

    pub fn interceptors(&self, generation: GenerationId) -> &[Interceptor] {
        self.generations.get(&generation).map_or(&[], |running| &running.interceptors)
    }
}
