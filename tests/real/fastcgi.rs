//! FastCGI enough for one request of php-fpm's ping page.

use std::io::{self, Read, Write};

const BEGIN: u8 = 1;
const PARAMETERS: u8 = 4;
const INPUT: u8 = 5;

/// `GET /ping` in the role of a responder; the records of the answer as they come.
pub(crate) fn ping(mut stream: impl Read + Write) -> io::Result<String> {
    let record = |kind: u8, body: &[u8]| {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&[1, kind, 0, 1, length[0], length[1], 0, 0], body].concat()
    };
    let parameters: Vec<u8> =
        [("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", "/ping"), ("SCRIPT_FILENAME", "/ping")]
            .iter()
            .flat_map(|(name, value)| {
                [&[name.len() as u8, value.len() as u8], name.as_bytes(), value.as_bytes()].concat()
            })
            .collect();
    let request = [
        record(BEGIN, &[0, 1, 0, 0, 0, 0, 0, 0]),
        record(PARAMETERS, &parameters),
        record(PARAMETERS, &[]),
        record(INPUT, &[]),
    ];
    stream.write_all(&request.concat())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
