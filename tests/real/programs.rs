//! Programs that run from the units they came with: started, asked, swapped, asked again and stopped. Only what names
//! a user, a path or a port of the machine is another, by drop-in.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::Command;

use super::fastcgi::ping;
use super::load::get_unix;
use super::packages::{unit, unpack};
use super::support::{Daemon, Launch, Place, wait_for};

/// What the documentation of gunicorn says (docs.gunicorn.org, Deploying Gunicorn, Systemd).
const GUNICORN_SOCKET: &str = "\
[Unit]
Description=gunicorn socket

[Socket]
ListenStream=/run/gunicorn.sock
SocketUser=www-data
SocketMode=0660

[Install]
WantedBy=sockets.target
";
const GUNICORN_SERVICE: &str = "\
[Unit]
Description=gunicorn daemon
Requires=gunicorn.socket
After=network.target

[Service]
Type=notify
NotifyAccess=main
User=someuser
Group=someuser
RuntimeDirectory=gunicorn
WorkingDirectory=/home/someuser/applicationroot
ExecStart=/usr/bin/gunicorn applicationname.wsgi
ExecReload=/bin/kill -s HUP $MAINPID
KillMode=mixed
TimeoutStopSec=5
PrivateTmp=true

[Install]
WantedBy=multi-user.target
";

/// Copies the units out of their packages, so that drop-ins may lie beside them.
fn ship(place: &Place, packages: &[&str], units: &[&str]) {
    packages.iter().for_each(|package| unpack(place, package));
    for name in units {
        place.write(name, &fs::read_to_string(unit(place, name)).unwrap());
    }
}

fn drop_in(place: &Place, unit: &str, lines: &[&str]) {
    fs::create_dir(place.path(&format!("{unit}.d"))).unwrap();
    place.write(&format!("{unit}.d/test.conf"), &format!("{}\n", lines.join("\n")));
}

fn start(place: &Place, units: &[&str]) -> Daemon {
    let mut daemon = Launch::units(place, units).env("XDG_RUNTIME_DIR", &place.path("")).start();
    daemon.wait_generation(1);
    daemon
}

/// Answers before and after a swap, and nothing is left when it is stopped.
#[track_caller]
fn serves_over_a_swap(mut daemon: Daemon, ask: impl Fn()) {
    ask();
    let swap = daemon.verb("swap --json").expect(0).json();
    assert_eq!(
        (&swap["to"], &swap["outcome"]),
        (&2.into(), &"swapped".into()),
        "{swap}: {}",
        daemon.stderr()
    );
    // As long as both share the listener, an old one that was told to stop may accept and take the client with it, as
    // dbus-daemon does.
    daemon.wait_until("the old one is gone", |status| {
        status["generation"] == 2 && status["generations"].as_array().is_some_and(|all| all.len() == 1)
    });
    ask();
    daemon.verb("stop").expect(0);
    assert_eq!(daemon.processes(), [0; 0], "{}", daemon.stderr());
    assert_eq!(daemon.end().status, 0);
}

/// The output of a client that must succeed.
#[track_caller]
fn client(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}: run tests/real/run", words[0]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn gunicorn_by_its_documented_pair() {
    let place = Place::new();
    let venv = std::env::var("VENV").expect("VENV, as tests/real/run sets it");
    place.write("gunicorn.socket", GUNICORN_SOCKET);
    place.write("gunicorn.service", GUNICORN_SERVICE);
    place.write(
        "applicationname.py",
        "def wsgi(environ, start_response):\n    start_response('200 OK', [('Content-Length', '3')])\n    return [b'yes']\n",
    );
    let socket = place.path("gunicorn.sock");
    drop_in(
        &place,
        "gunicorn.socket",
        &["[Socket]", "SocketUser=", "ListenStream=", &format!("ListenStream={socket}")],
    );
    let start_line = format!("ExecStart={venv}/bin/gunicorn applicationname:wsgi");
    let directory = format!("WorkingDirectory={}", place.path(""));
    let name = format!("RuntimeDirectory=gunicorn-test-{}", std::process::id());
    drop_in(
        &place,
        "gunicorn.service",
        &["[Service]", "User=", "Group=", "RuntimeDirectory=", &name, &directory, "ExecStart=", &start_line],
    );
    let mut daemon = start(&place, &["gunicorn.socket", "gunicorn.service"]);
    assert!(daemon.stderr().contains("PrivateTmp"), "what is not honoured is said: {}", daemon.stderr());
    let server = daemon.server();
    daemon.verb("reload").expect(0);
    assert_eq!(get_unix(&socket).unwrap(), "yes");
    daemon.wait_generation(1);
    assert_eq!(daemon.server(), server, "HUP renews the workers alone");
    serves_over_a_swap(daemon, || assert_eq!(get_unix(&socket).unwrap(), "yes"));
}

#[test]
fn dbus_by_the_units_of_debian() {
    let place = Place::new();
    ship(&place, &["dbus", "dbus-system-bus-common"], &["dbus.socket", "dbus.service"]);
    let socket = place.path("bus");
    drop_in(&place, "dbus.socket", &["[Socket]", "ListenStream=", &format!("ListenStream={socket}")]);
    // The rules of a session bus: those of the system's want its users.
    let line =
        "ExecStart=/usr/bin/dbus-daemon --session --address=systemd: --nofork --nopidfile --syslog-only";
    drop_in(&place, "dbus.service", &["[Service]", "OOMScoreAdjust=0", "ExecStart=", line]);
    let bus = format!("--bus=unix:path={socket}");
    let daemon = start(&place, &["dbus.socket", "dbus.service"]);
    serves_over_a_swap(daemon, || {
        let words = [
            "dbus-send",
            &bus,
            "--print-reply",
            "--dest=org.freedesktop.DBus",
            "/",
            "org.freedesktop.DBus.ListNames",
        ];
        assert!(client(&words).contains("org.freedesktop.DBus"));
    });
}

#[test]
fn rsync_by_the_unit_of_debian() {
    let place = Place::new();
    ship(&place, &["rsync"], &["rsync.service"]);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::create_dir(place.path("module")).unwrap();
    let module = place.path("module");
    place.write("rsyncd.conf", &format!("use chroot = no\n[module]\npath = {module}\ncomment = a test\n"));
    // The server binds for itself, and two of them cannot run at once.
    let line = format!(
        "ExecStart=/usr/bin/rsync --daemon --no-detach --address=127.0.0.1 --port={} --config={}",
        address.port(),
        place.path("rsyncd.conf")
    );
    let lines = [
        "[Unit]",
        "ConditionPathExists=",
        "[Service]",
        "ExecStart=",
        &line,
        "[X-Supervise]",
        "Handover=stop-first",
    ];
    drop_in(&place, "rsync.service", &lines);
    serves_over_a_swap(start(&place, &["rsync.service"]), || {
        wait_for("its port", || std::net::TcpStream::connect(address).ok());
        assert!(client(&["rsync", &format!("rsync://{address}/")]).contains("a test"));
    });
}

#[test]
fn php_fpm_by_the_unit_of_debian() {
    let place = Place::new();
    let program = fs::read_dir("/usr/sbin").unwrap().find_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_prefix("php-fpm").filter(|version| !version.is_empty()).map(str::to_owned)
    });
    let version = program.expect("php-fpm: run tests/real/run");
    let service = format!("php{version}-fpm.service");
    ship(&place, &[&format!("php{version}-fpm")], &[&service]);
    let socket = place.path("php.sock");
    // As root it asks for a user; as anybody else it only says that it cannot change.
    place.write(
        "fpm.conf",
        &format!(
            "[global]\nerror_log = /proc/self/fd/2\n[www]\nlisten = {socket}\nuser = nobody\npm = static\n\
             pm.max_children = 1\nping.path = /ping\n"
        ),
    );
    let line =
        format!("ExecStart=/usr/sbin/php-fpm{version} --nodaemonize --fpm-config {}", place.path("fpm.conf"));
    // Two of it cannot listen on one path, and ExecStopPost= is gone with its socket of the system.
    let lines = [
        "[Service]",
        "ExecStart=",
        &line,
        "ExecStartPost=",
        "ExecStopPost=",
        "[X-Supervise]",
        "Handover=stop-first",
    ];
    drop_in(&place, &service, &lines);
    serves_over_a_swap(start(&place, &[&service]), || {
        let stream = wait_for("its socket", || UnixStream::connect(&socket).ok());
        assert!(ping(stream).unwrap().contains("pong"));
    });
}

/// What `check` says of how old and new follow each other.
fn handover(place: &Place, unit: &str) -> String {
    let said = Launch::new(place).args("check").arg(&place.path(unit)).run().text();
    said.lines().find(|line| line.starts_with("handover: ")).unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// Two cannot have one data folder: the second gives up after half a minute. Nothing in the unit says so.
#[test]
fn mariadb_by_the_unit_of_debian() {
    let place = Place::new();
    ship(&place, &["mariadb-server"], &["mariadb.service"]);
    let (data, socket) = (place.path("data"), place.path("sock"));
    let user = client(&["id", "-un"]);
    let own = format!("--no-defaults --datadir={data} --user={}", user.trim());
    let mut install =
        vec!["mariadb-install-db", "--skip-test-db", "--auth-root-authentication-method=normal"];
    install.splice(1..1, own.split(' '));
    client(&install);
    let options = format!(
        "Environment=\"MYSQLD_OPTS={own} --socket={socket} --skip-networking --pid-file={data}/pid\""
    );
    // Its own user, and a command that asks the server of the system.
    drop_in(&place, "mariadb.service", &["[Service]", "User=", "Group=", &options, "ExecStartPost="]);
    let how = handover(&place, "mariadb.service");
    assert!(how.contains("stop-first") && how.contains("two of mariadbd cannot run at once"), "{how}");
    serves_over_a_swap(start(&place, &["mariadb.service"]), || {
        let socket = format!("--socket={socket}");
        let words = ["mariadb", "--no-defaults", &socket, "--user=root", "--execute=select 6 * 7"];
        assert!(client(&words).contains("42"));
    });
}

#[test]
fn apache_by_the_unit_of_debian() {
    let place = Place::new();
    ship(&place, &["apache2"], &["apache2.service"]);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let directory = place.path("");
    let directory = directory.trim_end_matches('/');
    place.write("envvars", "");
    place.write(
        "apache2.conf",
        &format!(
            "ServerName localhost\nPidFile {directory}/pid\nListen {address}\nUser nobody\nGroup nogroup\n\
             ErrorLog /dev/stderr\nDefaultRuntimeDir {directory}\nDocumentRoot {directory}\n\
             LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
             LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n"
        ),
    );
    let places = format!("Environment=APACHE_CONFDIR={directory} APACHE_ENVVARS={directory}/envvars");
    drop_in(&place, "apache2.service", &["[Service]", &places]);
    let how = handover(&place, "apache2.service");
    assert!(how.contains("stop-first") && how.contains("because of"), "{how}");
    serves_over_a_swap(start(&place, &["apache2.service"]), || {
        let mut stream = wait_for("its port", || std::net::TcpStream::connect(address).ok());
        write!(stream, "GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        // The folder is ours alone, so whatever it answers will do.
        assert!(text.contains("Server: Apache"), "{text}");
    });
}

#[test]
fn podman_by_the_units_of_debian() {
    let place = Place::new();
    ship(&place, &["podman"], &["podman.socket", "podman.service"]);
    let socket = place.path("podman.sock");
    drop_in(&place, "podman.socket", &["[Socket]", "ListenStream=", &format!("ListenStream={socket}")]);
    // Its containers, of which there are none, in a place of ours.
    let homes = ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"]
        .map(|name| format!("Environment={name}={}", place.path("")));
    drop_in(&place, "podman.service", &["[Service]", &homes[0], &homes[1], &homes[2]]);
    let daemon = start(&place, &["podman.socket", "podman.service"]);
    serves_over_a_swap(daemon, || assert_eq!(get_unix_path(&socket, "/_ping"), "OK"));
}

/// `GET path`, the body up to where the server ends it.
fn get_unix_path(socket: &str, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: d\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned()).unwrap_or_else(|| panic!("{text}"))
}
