//! Servers that put themselves into the background (Type=forking) and write their title over their environment: found,
//! followed through restarts and swaps, and gone after a stop.

use std::fs;
use std::net::TcpListener;

use super::load;
use super::packages::{unit, unpack};
use super::support::{Launch, Place, descendants, wait_for};

/// A port that the kernel has just found free.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_there(pid: i32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

/// Three restarts and three swaps of a unit that holds no socket; then nobody is left.
fn three_times(place: &Place, unit: &str, address: &str) {
    let mut daemon = Launch::new(place).arg("run").arg(unit).start();
    let mut all = Vec::new();
    // Each binds its own port, and is in the background before its workers answer.
    let answers = || {
        let answer = || load::get(address, "/").ok().filter(|answer| answer.starts_with("hello"));
        wait_for("an answer", answer);
    };
    daemon.wait_generation(1);
    for (verb, generation) in ["restart", "restart", "restart", "swap", "swap", "swap"].into_iter().zip(2..) {
        answers();
        all.extend(descendants(daemon.pid()));
        daemon.verb(verb).expect(0);
        daemon.wait_generation(generation);
    }
    all.extend(descendants(daemon.pid()));
    answers();
    daemon.verb("stop").expect(0);
    daemon.end().expect(0);
    wait_for("the end of all of it", || (!all.iter().any(|(pid, _)| is_there(*pid))).then_some(()));
}

#[test]
fn nginx_by_the_unit_of_its_package() {
    let place = Place::new();
    unpack(&place, "nginx-common");
    let service = unit(&place, "nginx.service");
    let address = format!("127.0.0.1:{}", port());
    let here = place.path("");
    let temporary: Vec<String> = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {here}{kind};"))
        .collect();
    place.write(
        "nginx.conf",
        &format!(
            "pid {here}pid; error_log {here}errors; worker_processes 2; events {{}}\n\
             http {{ access_log off; {} server {{ listen {address}; location / {{ return 200 hello; }} }} }}\n",
            temporary.concat()
        ),
    );
    // The commands are those of the package, with our files in place of those of the system.
    let nginx = format!("/usr/sbin/nginx -c {here}nginx.conf -g 'daemon on; master_process on;'");
    let stop = format!("-/sbin/start-stop-daemon --quiet --stop --retry QUIT/5 --pidfile {here}pid");
    fs::create_dir(format!("{service}.d")).unwrap();
    let lines = format!(
        "[Service]\nPIDFile={here}pid\nExecStartPre=\nExecStartPre={nginx} -t -q\nExecStart=\nExecStart={nginx}\n\
         ExecReload=\nExecReload={nginx} -s reload\nExecStop=\nExecStop={stop}\n"
    );
    fs::write(format!("{service}.d/scratch.conf"), lines).unwrap();
    three_times(&place, &service, &address);
}

#[test]
fn starman_with_and_without_a_pid_file() {
    for has_pid_file in [true, false] {
        let place = Place::new();
        place.write(
            "app.psgi",
            "sub { [200, ['Content-Type', 'text/plain', 'Content-Length', 5], ['hello']] }\n",
        );
        let address = format!("127.0.0.1:{}", port());
        let here = place.path("");
        let (option, line) = if has_pid_file {
            (format!("--pid {here}pid"), format!("PIDFile={here}pid\n"))
        } else {
            (String::new(), String::new())
        };
        let command = format!(
            "starman --daemonize {option} --workers 2 --listen {address} --error-log {here}errors {here}app.psgi"
        );
        place.write("starman.service", &format!("[Service]\nType=forking\n{line}ExecStart={command}\n"));
        three_times(&place, &place.path("starman.service"), &address);
    }
}
