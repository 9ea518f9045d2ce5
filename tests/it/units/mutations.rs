//! Unit files from a careless editor: bytes lost, doubled, swapped and invented, a hundred thousand times. Nothing
//! panics, and no file takes long.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use socket_supervise::config::specifier::UnitName;
use socket_supervise::config::unit::load;
use socket_supervise::config::unit_file::{Source, Unit};

use super::{SEED_SERVICE, SEED_SOCKET};

const FILES: usize = 100_000;
const THREADS: usize = 4;
/// Far beyond what these small files need, on a machine that does something else as well.
const LONGEST: Duration = Duration::from_secs(2);

/// A service that says more than the seed.
const RICH_SERVICE: &str = "\
[Unit]
Description=A %p of %H
StartLimitIntervalSec=1min
StartLimitBurst=3
[Service]
Type=notify
NotifyAccess=all
Environment=\"A=1 2\" B=%n 'C=\\x41'
EnvironmentFile=-/etc/default/%N*
ExecCondition=/bin/test -e /etc
ExecStartPre=-/bin/mkdir -p \\
# between
  \"/run/%p dir\"
ExecStart=@/usr/bin/server zero --flag='a b' ${A} $B ; %%x
ExecStartPost=+/bin/sh -c 'echo \"$MAINPID\" >>/run/x'
ExecReload=:/bin/kill -HUP $MAINPID
ExecStop=!/bin/true
Restart=on-abnormal
RestartSec=1min 30s
RestartSteps=4
RestartMaxDelaySec=infinity
SuccessExitStatus=75 SIGUSR1 TEMPFAIL
TimeoutSec=5
KillMode=mixed
KillSignal=SIGINT
LimitNOFILE=1K:infinity
UMask=0027
OpenFile=/etc/motd:motd:read-only
RuntimeDirectory=a b/c
StandardOutput=append:/var/log/x
WorkingDirectory=-~
ProtectSystem=strict
[X-Supervise]
Bake=2s
";
const RICH_SOCKET: &str = "\
[Socket]
ListenStream=127.0.0.1:80
ListenStream=[::1]:80%%lo
ListenDatagram=@%n
ListenSequentialPacket=/run/%N/%i
SocketMode=0660
SocketUser=root
Backlog=128
KeepAliveTimeSec=2h
ReceiveBuffer=8M
Symlinks=/run/a /run/b
TriggerLimitBurst=0
";

/// What else a unit file may hold, to be mixed in.
const PIECES: [&str; 24] = [
    "[",
    "]",
    "=",
    "\\\n",
    "\\",
    "\"",
    "'",
    "%",
    "%n",
    "%I",
    "$",
    "${",
    "}",
    ";",
    " ; ",
    "\n",
    "\r",
    "\0",
    "\u{feff}",
    "\\x4",
    "\\u00e9",
    "99999999999999999999",
    "ListenStream=",
    "ExecStart=",
];

fn mutate(text: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let at = random.usize(..=text.len());
    let length = random.usize(..=(text.len() - at).min(20));
    match random.u8(..6) {
        0 => drop(text.drain(at..at + length)),
        1 => {
            let again = text[at..at + length].to_vec();
            text.splice(at..at, again);
        }
        2 if at < text.len() => text[at] = random.u8(..),
        3 if at < text.len() => {
            let other = random.usize(..text.len());
            text.swap(at, other);
        }
        _ => drop(text.splice(at..at, PIECES[random.usize(..PIECES.len())].bytes())),
    }
}

fn unit(name: &str, texts: Vec<Vec<u8>>) -> Unit {
    Unit {
        name: UnitName::parse(name).unwrap(),
        path: PathBuf::from("/etc/systemd/system").join(name),
        sources: texts.into_iter().map(|text| Source { name: name.to_owned(), text }).collect(),
        skipped: Vec::new(),
    }
}

/// Reads this many pairs of files; how many of them were sound.
fn read_pairs(count: usize, seed: u64) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut mutated = |original: &str| {
        let mut text = original.as_bytes().to_vec();
        (0..random.usize(1..=8)).for_each(|_| mutate(&mut text, &mut random));
        text
    };
    let pairs = [(SEED_SOCKET, SEED_SERVICE), (RICH_SOCKET, RICH_SERVICE)];
    let host = |letter: char| letter.is_ascii_uppercase().then(|| "host".to_owned());
    let mut sound = 0;
    for number in 0..count {
        let (socket, service) = pairs[number % pairs.len()];
        let units = [
            unit("server@a-b.socket", vec![mutated(socket)]),
            unit("server@a-b.service", vec![mutated(service)]),
        ];
        let began = Instant::now();
        match load(&units, &[], &host).config {
            Ok(_config) => sound += 1,
            Err(error) => {
                assert!(!error.to_string().contains('\n'), "a message is one line: {error:?}");
            }
        }
        assert!(began.elapsed() < LONGEST, "{units:?}");
    }
    sound
}

#[test]
fn a_hundred_thousand_mutated_files_are_read_to_their_end() {
    // Two files at a time, in threads, each with a seed of its own.
    let pairs = FILES / 2 / THREADS;
    let sound: usize = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|seed| scope.spawn(move || read_pairs(pairs, seed as u64))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Else it would be the same error, fifty thousand times.
    assert!(sound > 1_000 && sound < FILES / 2 - 1_000, "{sound} of {} pairs were sound", FILES / 2);
}
