use std::os::unix::fs::symlink;

use super::*;

struct Units(tempfile::TempDir);

impl Units {
    /// Files with their own name as content.
    fn new(files: &[&str]) -> Self {
        let units = Self(tempfile::tempdir().expect("a directory"));
        for file in files {
            let path = units.path(file);
            fs::create_dir_all(path.parent().expect("below ours")).expect("made");
            fs::write(path, file).expect("written");
        }
        units
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn read(&self, file: &str) -> Unit {
        read(&self.path(file)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The contents in order, and that each source is called by its path.
    fn texts(&self, file: &str) -> Vec<String> {
        let unit = self.read(file);
        let text = |source: Source| {
            let text = String::from_utf8(source.text).expect("text");
            assert_eq!(Path::new(&source.name), self.path(&text));
            text
        };
        unit.sources.into_iter().map(text).collect()
    }

    fn error(&self, file: &str) -> String {
        let error = read(&self.path(file)).expect_err(file);
        assert!(!error.remedy.is_empty(), "{error}");
        error.to_string()
    }
}

#[test]
fn drop_ins_follow_the_file_in_the_order_of_their_names() {
    let units = Units::new(&[
        "web.service",
        "web.service.d/20-b.conf",
        "web.service.d/10-a.conf",
        "web.service.d/9.conf",
        "web.service.d/.hidden.conf",
        "web.service.d/10-a.conf~",
        "web.service.d/README",
        "web.socket.d/10-a.conf",
    ]);
    let expected =
        ["web.service", "web.service.d/10-a.conf", "web.service.d/20-b.conf", "web.service.d/9.conf"];
    assert_eq!(units.texts("web.service"), expected);
    let unit = units.read("web.service");
    assert_eq!((unit.name.full(), unit.path), ("web.service", units.path("web.service")));
}

#[test]
fn an_instance_is_read_from_its_template_unless_it_has_a_file() {
    let units = Units::new(&[
        "x@.service",
        "x@own.service",
        "x@.service.d/a.conf",
        "x@.service.d/c.conf",
        "x@own.service.d/b.conf",
        "x@own.service.d/c.conf",
        "x@blue.service.d/b.conf",
    ]);
    let own = ["x@own.service", "x@.service.d/a.conf", "x@own.service.d/b.conf", "x@own.service.d/c.conf"];
    assert_eq!(units.texts("x@own.service"), own);
    let blue = ["x@.service", "x@.service.d/a.conf", "x@blue.service.d/b.conf", "x@.service.d/c.conf"];
    assert_eq!(units.texts("x@blue.service"), blue);
    let unit = units.read("x@blue.service");
    assert_eq!((unit.name.full(), unit.path), ("x@blue.service", units.path("x@.service")));
    assert!(units.error("x@.service").contains("x@NAME.service"));
}

#[test]
fn a_name_without_a_slash_is_looked_for_here() {
    let error = read(Path::new("no-such-unit-anywhere.service")).expect_err("missing");
    assert!(error.to_string().contains("no such file in this directory"), "{error}");
    let error = read(Path::new("no-such-unit@blue.service")).expect_err("missing");
    assert!(error.place == "no-such-unit@blue.service", "the name as typed: {error}");
}

#[test]
fn what_is_no_unit_is_refused_with_its_place() {
    let units = Units::new(&["web.timer", "web.service.d/a.conf"]);
    fs::create_dir(units.path("dir.service")).expect("made");
    symlink("/dev/null", units.path("masked.service")).expect("linked");
    symlink("loop.service", units.path("loop.service")).expect("linked");
    fs::write(units.path("plain"), "").expect("written");
    for (file, what) in [
        ("web.timer", "suffix is neither"),
        ("plain", "suffix is neither"),
        ("web.service", "no such file"),
        ("dir.service", "no regular file"),
        ("masked.service", "masked"),
        ("loop.service", "cannot be read"),
        ("plain/x.service", "cannot be read"),
    ] {
        let error = units.error(file);
        let place = format!("{}: ", units.path(file).display());
        assert!(error.starts_with(&place) && error.contains(what), "{error}");
    }
    for nameless in ["", "/", "..", "."] {
        assert!(read(Path::new(nameless)).is_err(), "{nameless:?}");
    }
}

#[test]
fn a_fifo_does_not_block_and_a_huge_file_is_cut() {
    let units = Units::new(&["web.service", "web.service.d/b.conf"]);
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&units.path("fifo.service"), mode).expect("made");
    assert!(units.error("fifo.service").contains("no regular file"));
    symlink("/dev/null", units.path("web.service.d/a.conf")).expect("linked");
    assert_eq!(units.read("web.service").sources.len(), 2, "a masked drop-in is left out");
    nix::unistd::mkfifo(&units.path("web.service.d/c.conf"), mode).expect("made");
    symlink("/no/such", units.path("web.service.d/d.conf")).expect("linked");
    let unit = units.read("web.service");
    assert_eq!((unit.sources.len(), unit.skipped.len()), (2, 2), "systemd goes on without them: {unit:?}");

    let huge = units.path("huge.service");
    File::create(&huge).expect("made").set_len(1 << 40).expect("sparse");
    let unit = units.read("huge.service");
    assert_eq!(unit.sources[0].text.len(), FILE_BYTES + 1);
    assert!(crate::config::unit_file::parse(&unit.sources[0]).is_err());
}

#[test]
fn drop_ins_are_counted() {
    let files: Vec<String> = (0..=DROP_INS).map(|number| format!("web.service.d/{number}.conf")).collect();
    let mut files: Vec<&str> = files.iter().map(String::as_str).collect();
    files.push("web.service");
    let units = Units::new(&files);
    assert!(units.error("web.service").contains("more than 256 drop-ins"));
    fs::remove_file(units.path("web.service.d/0.conf")).expect("removed");
    assert_eq!(units.read("web.service").sources.len(), 1 + DROP_INS);
}
