//! What is known of programs: how each of them is told to take a socket that is held for it.

/// A held socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub name: String,
    pub address: String,
}

/// What to do so that this command takes these sockets, in words to go on with after a colon.
pub fn remedy(words: &[String], sockets: &[Socket]) -> String {
    let _program = words.first();
    let name = sockets.first().map_or("NAME", |socket| socket.name.as_str());
    format!(
        "have it take the socket that is passed as LISTEN_FDS, give it the number with {{fd:{name}}} in its command, put \
         \"supervise exec --\" before a server that a wrapper starts, or let --intercept-bind give it the socket"
    )
}
