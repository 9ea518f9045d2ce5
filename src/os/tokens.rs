//! The token numbers under which each source of events is registered with the poll.

use mio::Token;

use crate::core::GenerationId;

pub const SIGNALS: Token = Token(0);
/// The question that Ready=http: asks.
pub const PROBE: Token = Token(1);
/// inotify(7) of unix paths.
pub const PATHS: Token = Token(2);
/// A thread that answers what a server binds has something to tell.
pub const INTERCEPTED: Token = Token(3);
/// The keeper has ended.
pub const KEEPER: Token = Token(4);
/// The slots of held sockets have this plus the index of what is watched.
pub const SOCKETS: usize = 1 << 20;
/// The control socket and its clients have the tokens from here on.
pub const CONTROL: usize = 1 << 24;
/// A stored fd has this plus its number.
pub const STORED: usize = 1 << 25;
/// Each generation has two tokens: its notify socket, and its main process where we did not start it.
pub const GENERATIONS: usize = 1 << 26;

pub fn notify(generation: GenerationId) -> Token {
    Token(GENERATIONS + 2 * generation.0 as usize)
}

pub fn main(generation: GenerationId) -> Token {
    Token(GENERATIONS + 2 * generation.0 as usize + 1)
}
