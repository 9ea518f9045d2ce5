//! The table of well-known servers by the name of their program: what keeps each in the foreground, and why two
//! instances of one cannot run at the same time.

/// What is known of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    pub(super) names: &'static [&'static str],
    pub(super) foreground: Foreground,
    /// The resource that two instances would fight for; empty where two can run.
    pub(super) alone: &'static str,
}

/// How a server is kept in the foreground.
#[derive(Clone, Copy, Debug)]
pub(super) enum Foreground {
    /// It stays in the foreground unless one of these words is there.
    Without(&'static [&'static str]),
    /// `add` keeps it there, unless one of `told` does so already.
    With { add: &'static str, told: &'static [&'static str] },
}

/// `add` keeps it in the foreground, or one of `told`.
const fn with(add: &'static str, told: &'static [&'static str]) -> Foreground {
    Foreground::With { add, told }
}

const fn without(options: &'static [&'static str]) -> Foreground {
    Foreground::Without(options)
}

const STAYS: Foreground = without(&[]);

const fn row(names: &'static [&'static str], foreground: Foreground, alone: &'static str) -> Server {
    Server { names, foreground, alone }
}

const DATA: &str = "its data folder";
const PID_FILE: &str = "its pid file";
const CONTROL: &str = "its control socket";

#[rustfmt::skip]
pub(super) const SERVERS: &[Server] = &[
    row(&["angie", "nginx"], with("-g 'daemon off;'", &["daemon off;"]), ""),
    row(&["apache", "httpd"], with("-D FOREGROUND", &["-D FOREGROUND", "-DFOREGROUND", "-X"]), PID_FILE),
    row(&["apachectl", "apache2ctl"], with("-D FOREGROUND", &["-D FOREGROUND", "-DFOREGROUND", "-X"]), PID_FILE),
    row(&["chronyd"], with("-n", &["-n", "-d"]), PID_FILE),
    row(&["cupsd"], with("-f, or -l where it is to take its sockets from LISTEN_FDS", &["-f", "-F", "-l"]), ""),
    row(&["dnsmasq"], with("--keep-in-foreground", &["--keep-in-foreground", "-k", "--no-daemon", "-d"]), ""),
    row(&["dovecot"], with("-F", &["-F"]), PID_FILE),
    row(&["dropbear"], with("-F", &["-F"]), ""),
    row(&["etcd"], STAYS, DATA),
    row(&["exim"], with("-bdf", &["-bdf"]), ""),
    row(&["gunicorn"], without(&["-D", "--daemon"]), ""),
    row(&["haproxy"], with("-db, or -W and no `daemon` in its configuration", &["-db", "-Ws", "-W"]), ""),
    row(&["hypnotoad"], with("-f", &["-f", "--foreground"]), "its pid file, by which a new one stops the old one"),
    row(&["knotd"], without(&["-d", "--daemonize"]), "its database"),
    row(&["lighttpd"], with("-D", &["-D"]), ""),
    row(&["mariadbd", "mariadbd-safe", "mysqld_safe"], STAYS, DATA),
    row(&["memcached"], without(&["-d", "--daemon"]), ""),
    row(&["mongod"], without(&["--fork"]), DATA),
    row(&["mosquitto"], without(&["-d", "--daemon"]), ""),
    row(&["mysqld"], without(&["--daemonize"]), DATA),
    row(&["named"], with("-f", &["-f", "-g"]), ""),
    row(&["ngircd"], with("--nodaemon", &["--nodaemon", "-n"]), ""),
    row(&["nsd"], with("-d", &["-d"]), ""),
    row(&["pdns_server"], with("--daemon=no", &["--daemon=no"]), CONTROL),
    row(&["pg_ctl"], with("postgres itself in the place of this program", &[]), DATA),
    row(&["pg_ctlcluster"], with("--foreground", &["--foreground"]), DATA),
    row(&["pgbouncer"], without(&["-d", "--daemon"]), ""),
    row(&["php-fpm"], with("-F", &["-F", "--nodaemonize"]), ""),
    row(&["pm2-runtime"], STAYS, "its PM2_HOME"),
    row(&["postgres"], STAYS, DATA),
    row(&["privoxy"], with("--no-daemon", &["--no-daemon"]), ""),
    row(&["proftpd"], with("--nodaemon", &["--nodaemon", "-n"]), ""),
    row(&["prometheus"], STAYS, DATA),
    row(&["redis-server", "valkey-server"], with("--daemonize no", &["--daemonize no"]), ""),
    row(&["rsync"], with("--daemon --no-detach", &["--no-detach"]), ""),
    row(&["slapd"], with("-d 0", &["-d"]), ""),
    row(&["nmbd", "samba", "smbd"], with("--foreground --no-process-group", &["--foreground", "-F", "-i", "--interactive"]), ""),
    row(&["squid"], with("--foreground", &["--foreground", "-N"]), PID_FILE),
    row(&["sshd"], with("-D", &["-D", "-d"]), ""),
    row(&["starman"], without(&["-D", "--daemonize"]), ""),
    row(&["supervisord"], with("--nodaemon", &["--nodaemon", "-n"]), ""),
    row(&["tinyproxy"], with("-d", &["-d"]), ""),
    row(&["tor"], with("--RunAsDaemon 0", &["--RunAsDaemon 0"]), DATA),
    row(&["unbound"], with("-d", &["-d"]), ""),
    row(&["unicorn"], without(&["-D", "--daemonize"]), ""),
    row(&["uwsgi", "uwsgi-core"], without(&["-d", "--daemonize", "--daemonize2"]), ""),
    row(&["varnishd"], with("-F", &["-F", "-d"]), "its working folder (-n)"),
    row(&["vsftpd"], with("-obackground=NO after the name of its configuration", &["-obackground=NO"]), ""),
];
