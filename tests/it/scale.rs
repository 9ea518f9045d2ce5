//! Many sockets: what a swap, a status and the supervisor's CPU cost with them, compared with few of the same kind. Ratios
//! and not times, for the machine may be slow or busy.

use std::fs;
use std::time::{Duration, Instant};

use super::load::get;
use super::support::{Daemon, Launch, Place, example};

const MANY: usize = 300;
/// A debug build on a busy machine; with square growth these sockets take five times as much.
const SLACK: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
enum Of {
    Tcp,
    Unix,
    /// TCP, UDP and unix sockets in turn.
    Mixed,
}

/// The times that a supervisor with so many sockets has needed.
#[derive(Debug)]
struct Cost {
    /// The time until the first generation was ready.
    start: Duration,
    swaps: [Duration; 2],
    status: Duration,
    cpu: Duration,
}

fn start<'a>(place: &'a Place, count: usize, of: Of) -> Launch<'a> {
    place.write("how", "epoll");
    let listen = |launch: Launch<'a>, index: usize| {
        let path = place.path(&format!("{index}.sock"));
        launch.args(&match (of, index % 3) {
            (Of::Tcp, _) | (Of::Mixed, 0) => format!("--listen 127.0.0.1:0=s{index}"),
            (Of::Mixed, 1) => format!("--listen udp:127.0.0.1:0=s{index}"),
            (Of::Unix | Of::Mixed, _) => format!("--listen {path}=s{index}"),
        })
    };
    (0..count)
        .fold(Launch::new(place), listen)
        .args("--bake 0 --drain-quiet 50ms")
        .command(&[&example("waits"), &place.path("how")])
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

/// In nanoseconds, which /proc/PID/stat has not; a supervisor that intercepts nothing has one thread alone.
fn cpu(daemon: &Daemon) -> Duration {
    let text = fs::read_to_string(format!("/proc/{}/schedstat", daemon.pid())).unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

fn cost(count: usize, of: Of) -> Cost {
    let place = Place::new();
    let mut daemon = start(&place, count, of).start();
    daemon.wait_generation(1);
    let begun = cpu(&daemon);
    let swaps = [2, 3].map(|generation| {
        let needed = timed(|| drop(daemon.verb("swap").expect(0)));
        daemon.wait_generation(generation);
        needed
    });
    let ask = || timed(|| assert_eq!(daemon.status()["sockets"].as_array().unwrap().len(), count));
    let status = [ask(), ask(), ask()].into_iter().min().unwrap();
    let cost = Cost { start: begun, swaps, status, cpu: cpu(&daemon) - begun };
    let last = daemon.address(&format!("s{}", (count - 1) / 3 * 3));
    assert_eq!(get(&last, "/").unwrap(), "waits generation 3\n");
    daemon.verb("stop").expect(0);
    cost
}

#[test]
fn many_sockets_are_swapped_nearly_as_fast_as_one() {
    for of in [Of::Tcp, Of::Unix, Of::Mixed] {
        let (one, many) = (cost(1, of), cost(MANY, of));
        let allowed = one.swaps[0].mul_f64(1.5) + SLACK;
        assert!(many.swaps.iter().all(|swap| *swap <= allowed), "{of:?}: {one:?}, {many:?}");
        // The client is a process of its own, which takes most of this.
        assert!(many.status <= one.status * 2 + Duration::from_millis(150), "{of:?}: {one:?}, {many:?}");
    }
}

#[test]
fn cpu_time_grows_with_the_sockets_and_not_with_their_square() {
    for of in [Of::Tcp, Of::Unix, Of::Mixed] {
        let (some, mut more) = (cost(MANY / 4, of), cost(MANY, of));
        // What else the machine does only adds to it (its caches are shared): the least of three is what it takes.
        for _ in 0..2 {
            if more.cpu > some.cpu * 6 {
                more = cost(MANY, of);
            }
        }
        assert!(more.cpu <= some.cpu * 6, "{of:?}: {some:?}, {more:?}");
        // What a file system takes for thousands of sockets is its own matter.
        if matches!(of, Of::Tcp) {
            assert!(more.start <= some.start * 8, "{of:?}: {some:?}, {more:?}");
        }
    }
}

/// The limit is met while sockets are bound, or when they are passed to the server.
#[test]
fn the_limit_of_open_files_is_named_with_what_raises_it() {
    for (of, count, options) in [(Of::Unix, 40, ""), (Of::Tcp, 120, ""), (Of::Tcp, 120, "--handover shared")]
    {
        let place = Place::new();
        let limited = ["sh", "-c", "ulimit -n 200; exec \"$@\"", "sh"];
        let ended = start(&place, count, of).wrapper(&limited).args(options).run();
        let said = ended.stderr.lines().last().unwrap();
        assert!(ended.status >= 125 && said.contains("limit of open files is 200;"), "{of:?}: {ended:?}");
        assert!(said.contains("ulimit -Hn") && !said.contains(".supervise"), "{of:?}: {ended:?}");
        if options.is_empty() {
            assert!(said.contains("--listen "), "which one had no room: {ended:?}");
        }
    }
}
