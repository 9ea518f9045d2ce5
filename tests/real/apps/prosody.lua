daemonize = false
pidfile = nil
run_as_root = true
data_path = "@DIR@"
log = { warn = "*console" }
modules_enabled = { "saslauth" }
modules_disabled = { "s2s", "offline" }
c2s_ports = { @PORT@ }
c2s_interfaces = { "127.0.0.1" }
s2s_ports = {}
interfaces = { "127.0.0.1" }
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
VirtualHost "localhost"
