//! Well-known servers by the name of their program, one row each: what keeps one in the foreground, and why two of one
//! kind cannot run at the same time.

/// What is known of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    pub(super) names: &'static [&'static str],
    /// What to write so that it stays in the foreground. Empty: it does so by default.
    pub(super) foreground: &'static str,
    /// What two of them would fight for. Empty: two can run.
    pub(super) alone: &'static str,
}

const fn row(names: &'static [&'static str], foreground: &'static str, alone: &'static str) -> Server {
    Server { names, foreground, alone }
}

const DATA: &str = "its data folder";
const PID_FILE: &str = "its pid file";
const CONTROL: &str = "its control socket";

#[rustfmt::skip]
pub(super) const SERVERS: &[Server] = &[
    row(&["angie", "nginx"], "-g 'daemon off;'", ""),
    row(&["apache", "httpd"], "-D FOREGROUND", PID_FILE),
    row(&["apachectl", "apache2ctl"], "-D FOREGROUND", PID_FILE),
    row(&["chronyd"], "-n", PID_FILE),
    row(&["cupsd"], "-f, or -l where it is to take its sockets from LISTEN_FDS", ""),
    row(&["dnsmasq"], "--keep-in-foreground", ""),
    row(&["dovecot"], "-F", PID_FILE),
    row(&["dropbear"], "-F", ""),
    row(&["etcd"], "", DATA),
    row(&["exim"], "-bdf", ""),
    row(&["gunicorn"], "no --daemon", ""),
    row(&["haproxy"], "-W or -db, and no `daemon` in its configuration", ""),
    row(&["hypnotoad"], "-f", "its pid file, by which a new one stops the old one"),
    row(&["knotd"], "no --daemonize", "its database"),
    row(&["lighttpd"], "-D", ""),
    row(&["mariadbd", "mariadbd-safe", "mysqld_safe"], "", DATA),
    row(&["memcached"], "no -d", ""),
    row(&["mongod"], "no --fork", DATA),
    row(&["mosquitto"], "no -d", ""),
    row(&["mysqld"], "no --daemonize", DATA),
    row(&["named"], "-f", ""),
    row(&["ngircd"], "--nodaemon", ""),
    row(&["nsd"], "-d", ""),
    row(&["pdns_server"], "--daemon=no", CONTROL),
    row(&["pg_ctl", "pg_ctlcluster"], "(postgres itself in the place of this script)", DATA),
    row(&["pgbouncer"], "no -d", ""),
    row(&["php-fpm"], "-F", ""),
    row(&["pm2-runtime"], "", "its PM2_HOME"),
    row(&["postgres"], "", DATA),
    row(&["privoxy"], "--no-daemon", ""),
    row(&["proftpd"], "--nodaemon", ""),
    row(&["prometheus"], "", DATA),
    row(&["redis-server", "valkey-server"], "--daemonize no", ""),
    row(&["rsync"], "--daemon --no-detach", ""),
    row(&["slapd"], "-d 0", ""),
    row(&["nmbd", "samba", "smbd"], "--foreground --no-process-group", ""),
    row(&["squid"], "--foreground", PID_FILE),
    row(&["sshd"], "-D", ""),
    row(&["starman"], "no --daemonize", ""),
    row(&["supervisord"], "--nodaemon", ""),
    row(&["tinyproxy"], "-d", ""),
    row(&["tor"], "--RunAsDaemon 0", DATA),
    row(&["unbound"], "-d", ""),
    row(&["unicorn"], "no -D", ""),
    row(&["uwsgi"], "no --daemonize", ""),
    row(&["varnishd"], "-F", "its working folder (-n)"),
    row(&["vsftpd"], "-obackground=NO", ""),
];
