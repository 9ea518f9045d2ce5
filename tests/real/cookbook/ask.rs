//! One request to a server of the cookbook, on a connection of its own, and what its answer must be.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use crate::fastcgi;
use crate::load::{Failure, Samples, connect};

type Ask = Box<dyn Fn(&str) -> Result<String, Failure> + Send + Sync>;

#[derive(Clone, Copy)]
pub(super) enum Protocol {
    Http,
    FastCgi,
    /// Counts in the server's one data directory.
    Redis,
}

impl Protocol {
    /// Asks a server of this name. An answer that is not the whole one is [`Failure::Empty`].
    pub(super) fn ask(self, name: &str) -> Ask {
        let body = format!("hello from {name}");
        match self {
            Self::Http => Box::new(move |address| http(address).filter_whole(|text| is_answer(text, &body))),
            Self::FastCgi => {
                Box::new(move |address| fast_cgi(address).filter_whole(|text| text.contains(&body)))
            }
            Self::Redis => Box::new(|address| redis(address).filter_whole(|text| count(text).is_some())),
        }
    }

    /// What all answers together must be: none of what was counted is lost, and nothing was counted twice.
    #[track_caller]
    pub(super) fn assert_whole(self, samples: &Samples) {
        if let Self::Redis = self {
            let counted: BTreeSet<u64> =
                samples.all.iter().filter_map(|sample| count(sample.result.as_ref().ok()?)).collect();
            let requests = samples.all.len() as u64;
            assert!(counted.iter().copied().eq(1..=requests), "{requests} requests, counted {counted:?}");
        }
    }
}

trait FilterWhole {
    fn filter_whole(self, is_whole: impl Fn(&str) -> bool) -> Self;
}

impl FilterWhole for Result<String, Failure> {
    fn filter_whole(self, is_whole: impl Fn(&str) -> bool) -> Self {
        self.and_then(|text| if is_whole(&text) { Ok(text) } else { Err(Failure::Empty) })
    }
}

/// The answer up to where the server ends it: not all of these servers say how long it is.
fn http(address: &str) -> Result<String, Failure> {
    exchange(address, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn is_answer(text: &str, body: &str) -> bool {
    let is_ok = text.starts_with("HTTP/1.1 200 ") || text.starts_with("HTTP/1.0 200 ");
    is_ok && text.split_once("\r\n\r\n").is_some_and(|(_, is)| is.trim_end() == body)
}

fn fast_cgi(address: &str) -> Result<String, Failure> {
    Ok(fastcgi::ping(connect(address)?)?)
}

fn redis(address: &str) -> Result<String, Failure> {
    exchange(address, "INCR requests\r\nQUIT\r\n")
}

/// `:17`, and the answer to QUIT.
fn count(text: &str) -> Option<u64> {
    text.strip_prefix(':')?.strip_suffix("\r\n+OK\r\n")?.parse().ok()
}

fn exchange(address: &str, request: &str) -> Result<String, Failure> {
    let mut stream = connect(address)?;
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
