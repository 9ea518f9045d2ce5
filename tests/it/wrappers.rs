//! `supervise exec` below the wrappers that every Debian has.

use std::os::unix::fs::PermissionsExt;
use std::{fs, slice};

use nix::unistd::geteuid;

use super::support::Place;
use super::support::wrapped::{after, assert_serves_below};

/// Both close all fds above 2 to what they start.
const SUBPROCESS: &str = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))";
const NEW_ENVIRONMENT: &str =
    "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:], env={'PATH': '/usr/bin:/bin'}))";

#[test]
fn below_a_subprocess_of_python() {
    for program in [SUBPROCESS, NEW_ENVIRONMENT] {
        assert_serves_below(&Place::new(), |server| after(&["python3", "-c", program], server));
    }
}

#[test]
fn below_a_shell_that_stays() {
    let script = "\"$@\"; exit $?";
    assert_serves_below(&Place::new(), |server| after(&["sh", "-c", script, "sh"], server));
}

#[test]
fn below_another_user() {
    // Only root may become another user.
    if !geteuid().is_root() {
        return;
    }
    let setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];
    assert_serves_below(&Place::new(), |server| after(&setpriv, server));
    let su = ["su", "nobody", "-s", "/bin/sh", "-c"];
    assert_serves_below(&Place::new(), |server| after(&su, &[&server.join(" ")]));
}

/// As images have it: it makes ready what root alone may, and becomes somebody else.
const ENTRYPOINT: &str = "#!/bin/sh
set -e
if [ \"$(id -u)\" = 0 ]; then
    exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" \"$@\"
fi
exec \"$@\"
";

#[test]
fn below_an_entrypoint_of_a_container() {
    let place = Place::new();
    place.write("docker-entrypoint.sh", ENTRYPOINT);
    let script = place.path("docker-entrypoint.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    assert_serves_below(&place, |server| after(slice::from_ref(&&*script), server));
}
