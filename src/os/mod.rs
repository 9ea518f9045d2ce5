//! The shell around the core, with all its I/O: gathers facts and carries out orders, in one event loop with one poll
//! in the main thread.
//!
//! There are two other kinds of threads. [`intercept`] has one for each process under InterceptBind=, which answers what that
//! process binds, and sends the loop a message where its own copies of the sockets are not enough. `within` has one for each
//! question that may never be answered.
//!
//! The core decides what becomes of a generation. The shell decides how to carry out an order: [`listeners`] repairs what
//! servers do to the sockets, picks the way on which waiting connections are passed on, and settles which families of a
//! port stay bound; [`questions`] judges what the kernel shows: which connections are idle, who waits on a socket, whether
//! only a connection from supervise can tell, and which remedy a hint has.
//!
//! [`run`] opens what an instance needs and runs the event loop. Each turn gathers facts in a fixed order and gives each
//! to the core, whose actions are carried out before the next fact. The order, and its reasons:
//!
//! 1. notify datagrams: the last READY=1 or STATUS= of a process that has already ended still counts;
//! 2. exits, then what is left of their process groups: after this nothing signals a process that has ended;
//! 3. signals, 4. control requests, 5. the control socket's own file, 6. connections;
//! 7. time: what arrived in the same turn as a deadline was in time.

pub mod background;
pub mod children;
pub mod control;
pub mod diag;
pub mod directories;
pub mod exec;
pub mod fd_store;
pub mod fetch;
pub mod host;
pub mod instances;
pub mod intercept;
pub mod keeper;
pub mod launch;
pub mod listeners;
pub mod logger;
pub mod manager;
pub mod notify;
pub mod outbox;
pub mod own;
pub mod probe;
pub mod questions;
pub mod reap;
pub mod relay;
pub mod saved;
pub mod signal;
pub mod snapshot;
pub mod socket;
pub mod spawn;
pub mod sys;
pub mod tokens;
pub mod unit_files;
pub mod users;
pub mod waiters;
pub mod warning;

mod begin;
mod cgroup;
mod proc;
mod shell;
mod within;

pub use begin::begin;
pub use shell::{LeftState, Reader, TRY, left_state, resume, run, try_saved};
