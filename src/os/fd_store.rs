//! The file descriptor store (stub).
use crate::core::Notify;
use std::os::fd::OwnedFd;
#[derive(Debug, Default)]
pub struct FdStore {
    max: u32,
}
impl FdStore {
    pub fn new(max: u32) -> Self {
        Self { max }
    }
    pub fn max(&self) -> u32 {
        self.max
    }
    pub fn set_max(&mut self, max: u32) {
        self.max = max;
    }
    pub fn take(&mut self, _notify: &Notify, _fds: Vec<OwnedFd>) {}
    pub fn watch(&mut self, _registry: &mio::Registry, _base: usize) {}
    pub fn hung_up(&mut self, _number: usize) {}
}
