//! Plans as real processes.
