//! (being written)

/// The whole core.
#[derive(Debug)]
pub struct Supervisor;
