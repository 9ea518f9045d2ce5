//! The built `supervise` with real processes, sockets and signals: the servers of tests/servers and examples under
//! every trouble that README.md promises to survive. One binary, so that all tests share one link step.
//!
//! Each test has a directory, ports and processes of its own and may run beside any other, as root or not.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

mod candidate;
mod cgroup;
mod child;
mod cli;
mod conformance;
mod control;
mod detach;
mod dialect;
mod docs;
mod errors;
mod findings;
mod idle;
mod init;
mod intercept;
mod keeper;
mod load;
mod notify;
mod readme;
mod ready;
mod reexec;
mod relay;
mod restart;
mod run;
mod scale;
mod signals;
mod steer;
mod support;
mod swap;
mod tidy;
mod units;
mod vandals;
mod wrappers;
