//! gunicorn says READY=1 before its workers have imported the application. A release whose import takes its time delays
//! nobody, and one that cannot be imported is not taken.

use std::time::Duration;

use super::load::Load;
use super::support::{Daemon, Launch, Place};

const APPLICATION: &str = r#"
import time

KIND

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "7")])
    return [b"served\n"]
"#;

#[test]
fn gunicorn_that_imports_late_or_never() {
    for is_unit in [false, true] {
        let place = Place::new();
        let release = |kind: &str| place.write("application.py", &APPLICATION.replace("KIND", kind));
        release("");
        let mut daemon = start(&place, is_unit);
        daemon.wait_generation(1);
        let load = Load::start(&daemon.address("http"), 60);
        load.let_pass(30);
        release("time.sleep(3)");
        let swap = daemon.verb("swap --json").expect(0).json();
        assert!(swap["ready_ms"].as_u64().is_some_and(|ready| ready >= 3000), "{swap}");
        daemon.wait_generation(2);
        release("raise ImportError('no such setting')");
        let swap = daemon.verb("swap --json").expect(1).json();
        assert_eq!(swap["outcome"], "rolled-back", "{swap}");
        load.let_pass(30);
        let samples = load.samples();
        let times = [0.5, 0.99, 1.0].map(|share| samples.quantile(share));
        println!("gunicorn: {}; 50 %, 99 %, all within {times:?}", samples.counts());
        assert_eq!(samples.counts().failed(), 0, "{}", daemon.stderr());
        assert!(times[2] < Duration::from_secs(2), "somebody waited for the import: {times:?}");
    }
}

/// Starts it by the command line, or by unit files of Type=notify.
fn start(place: &Place, is_unit: bool) -> Daemon {
    let gunicorn =
        format!("{}/bin/gunicorn", std::env::var("VENV").expect("VENV, as tests/real/run sets it"));
    let words = [&gunicorn, "--workers", "2", "--chdir", &place.path(""), "application:app"];
    if !is_unit {
        return Launch::new(place).args("--listen 127.0.0.1:0=http").command(&words).start();
    }
    place.write("g.socket", "[Socket]\nListenStream=127.0.0.1:0\nFileDescriptorName=http\n");
    place.write("g.service", &format!("[Service]\nType=notify\nExecStart={}\n", words.join(" ")));
    Launch::units(place, &["g.socket", "g.service"]).start()
}
