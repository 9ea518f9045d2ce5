//! Clients for the tests of steering: datagrams, and connections that are kept open.

pub(super) mod datagrams;
pub(super) mod kept;
