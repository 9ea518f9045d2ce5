//! Clients that only the tests of steering need.

pub(super) mod datagrams;
pub(super) mod kept;
