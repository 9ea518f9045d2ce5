//! Directories below a temporary base, so that no test writes to the system's.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn runtime(names: &[&str], mode: u32) -> Directories {
    let names = names.iter().map(PathBuf::from).collect();
    Directories { runtime: ManagedDirectory { names, mode }, ..Directories::default() }
}

fn make_in(base: &Path, directories: &Directories) -> Result<Vec<(&'static str, OsString)>, StartFailure> {
    make_below(directories, &Identity::default(), |_| Ok(base.to_owned()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

#[test]
fn a_directory_gets_its_mode_and_its_variable_and_those_above_the_usual_one() {
    let base = tempfile::tempdir().expect("a directory");
    let base = base.path();
    let variables = make_in(base, &runtime(&["web", "web/a/b"], 0o2770)).expect("makes");
    let both = format!("{0}/web:{0}/web/a/b", base.display());
    assert_eq!(variables, [("RUNTIME_DIRECTORY", OsString::from(both))]);
    let modes = ["web", "web/a", "web/a/b"].map(|name| mode(&base.join(name)) & 0o777);
    assert_eq!(modes, [0o770, 0o755, 0o770]);
    fs::set_permissions(base.join("web"), fs::Permissions::from_mode(0o700)).expect("chmod");
    make_in(base, &runtime(&["web"], 0o751)).expect("it may be there");
    assert_eq!(mode(&base.join("web")), 0o751);
}

#[test]
fn the_user_gets_the_last_one_but_not_the_configuration() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let base = tempfile::tempdir().expect("a directory");
    let owner = Identity { uid: Some(65533), gid: Some(65532), ..Identity::default() };
    let one = || ManagedDirectory { names: vec!["a/b".into()], mode: 0o755 };
    let directories = Directories { state: one(), ..Directories::default() };
    make_below(&directories, &owner, |_| Ok(base.path().to_owned())).expect("makes");
    let owners = ["a", "a/b"].map(|name| fs::metadata(base.path().join(name)).expect("made").uid());
    assert_eq!(owners, [0, 65533]);
    let base = tempfile::tempdir().expect("a directory");
    let directories = Directories { configuration: one(), ..Directories::default() };
    make_below(&directories, &owner, |_| Ok(base.path().to_owned())).expect("makes");
    assert_eq!(fs::metadata(base.path().join("a/b")).expect("made").uid(), 0);
}

#[test]
fn links_files_and_ways_out_are_refused() {
    let base = tempfile::tempdir().expect("a directory");
    let base = base.path();
    symlink("/", base.join("link")).expect("links");
    fs::write(base.join("file"), "").expect("writes");
    for name in ["link", "link/x", "file", "file/x"] {
        let failure = make_in(base, &runtime(&[name], 0o755)).expect_err(name);
        assert_eq!(failure.stage, Stage::RuntimeDirectory, "{name}");
        assert!(failure.what.contains("remove that") && failure.what.contains(name), "{}", failure.what);
    }
    for name in ["../x", "/x", "."] {
        let failure = make_in(base, &runtime(&[name], 0o755)).expect_err(name);
        assert_eq!(failure.errno, libc::EINVAL, "{name}");
    }
}

#[test]
fn removing_follows_no_link() {
    let base = tempfile::tempdir().expect("a directory");
    let precious = tempfile::tempdir().expect("a directory");
    let kept = precious.path().join("kept");
    fs::create_dir(&kept).expect("mkdir");
    let base = base.path();
    fs::create_dir_all(base.join("web/deep/er")).expect("mkdir");
    fs::write(base.join("web/deep/file"), "x").expect("writes");
    symlink(precious.path(), base.join("web/link")).expect("links");
    symlink(precious.path(), base.join("way")).expect("links");
    remove_below(base, &["web".into(), "way/kept".into(), "none".into()], &[]);
    assert!(!base.join("web").exists() && kept.exists());
    remove_below(base, &["way".into()], &[]);
    assert!(!base.join("way").exists() && kept.exists(), "the link alone");
}

#[test]
fn removing_ends_where_it_is_too_deep() {
    let base = tempfile::tempdir().expect("a directory");
    let deep: PathBuf = std::iter::repeat_n("d", DEPTH + 1).collect();
    fs::create_dir_all(base.path().join(&deep)).expect("mkdir");
    assert_eq!(remove_one(base.path(), Path::new("d"), &Kept::new()), Err(Errno::ENAMETOOLONG));
    let deep: PathBuf = std::iter::repeat_n("e", DEPTH).collect();
    fs::create_dir_all(base.path().join(&deep)).expect("mkdir");
    assert_eq!(remove_one(base.path(), Path::new("e"), &Kept::new()), Ok(()));
}

#[test]
fn bases_are_the_system_s_or_the_user_s() {
    let none = |_: &str| None;
    let roots = DirectoryKind::ALL.map(|kind| kind.base(true, none).expect("fixed"));
    assert_eq!(roots, ["/run", "/var/lib", "/var/cache", "/var/log", "/etc"].map(PathBuf::from));
    let home = |name: &str| (name == "HOME").then(|| "/h".into());
    let users = DirectoryKind::ALL.map(|kind| kind.base(false, home).ok());
    let want = ["/h/.local/state", "/h/.cache", "/h/.local/state/log", "/h/.config"];
    assert_eq!(users[0], None);
    assert_eq!(users[1..], want.map(|path| Some(PathBuf::from(path))));
    let xdg = |name: &str| Some(format!("/x/{name}").into());
    assert_eq!(DirectoryKind::Runtime.base(false, xdg), Ok("/x/XDG_RUNTIME_DIR".into()));
    assert_eq!(DirectoryKind::Logs.base(false, xdg), Ok("/x/XDG_STATE_HOME/log".into()));
    let relative = |_: &str| Some("x".into());
    assert!(DirectoryKind::Cache.base(false, relative).is_err(), "a relative one is none");
}
