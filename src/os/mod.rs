//! (being written)

pub mod control;
pub mod notify;
pub mod reap;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod sys;
pub mod users;
