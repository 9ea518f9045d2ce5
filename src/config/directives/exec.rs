//! Rows of systemd.exec(5) in [Service]: users, environment, streams, directories, limits.

use std::path::{Component, PathBuf};

use super::super::choice::choice;
use super::super::number::{boolean, integer, limit, octal};
use super::super::{
    Config, Directory, DirectoryPath, EnvironmentFile, Input, ManagedDirectory, Output, Preserve, Problem,
    Resource, address, command_line, environment, printable,
};
use super::row::Heading::{Limits, Process};
use super::row::Section::Service;
use super::row::{
    Context, Directive, LIST, MODE, NUMBER, SIZE, SPAN, SWITCH, SetResult, expanded, row, scoped,
};
use super::values::{grow, optional, put};

#[rustfmt::skip]
pub(super) const ROWS: &[Directive] = &[
    expanded("User", Service, Process, "USER", |c, v| optional(v, &mut c.launch.user),
        "run the server as this user, by name or number").flag("user").short('u'),
    expanded("Group", Service, Process, "GROUP", |c, v| optional(v, &mut c.launch.group),
        "run the server as this group").flag("group").short('g'),
    expanded("SupplementaryGroups", Service, Process, LIST, |c, v| {
            grow(&mut c.launch.supplementary_groups, v.split_whitespace().map(str::to_owned).collect(), v)
        },
        "supplementary groups, separated by blanks"),
    expanded("WorkingDirectory", Service, Process, "DIR", directory,
        "the working directory of the server; without it ours, entered by its path at each start")
            .flag("working-directory").short('C'),
    scoped("Environment", Service, Process, "N[=V]", environment_line,
        "set an environment variable; without a value pass our own on").flag("setenv").short('E'),
    expanded("EnvironmentFile", Service, Process, "FILE", environment_file,
        "read variables from a file at each start; `-` before it: if it exists").flag("environment-file"),
    scoped("PassEnvironment", Service, Process, LIST,
        |c, v, s| names(v, s, false, &mut c.launch.pass_environment),
        "our own variables to pass on where InheritEnvironment= is off"),
    scoped("UnsetEnvironment", Service, Process, LIST,
        |c, v, s| names(v, s, true, &mut c.launch.unset_environment),
        "variables to remove once all others are set; NAME or NAME=VALUE"),
    expanded("ExecSearchPath", Service, Process, "DIRS", search_path,
        "directories for programs without a slash, separated by colons"),
    row("UMask", Service, Process, MODE, |c, v| put(Some(octal(v, 0o777)?), &mut c.launch.umask),
        "the file mode mask, octal").flag("umask"),
    scoped("StandardInput", Service, Process, "WHAT", standard_input,
        "the server's stdin; null, inherit, socket, data, file:PATH or fd:NAME").flag("stdin").default("null"),
    scoped("StandardInputText", Service, Process, "TEXT", input_text,
        "a line for StandardInput=data"),
    row("StandardInputData", Service, Process, "BASE64", input_data,
        "bytes for StandardInput=data"),
    scoped("StandardOutput", Service, Process, "WHAT", |c, v, s| output(v, s, "stdout", &mut c.launch.stdout),
        "inherit, null, journal (ours), socket, file:PATH, append:PATH, truncate:PATH or fd:NAME"),
    scoped("StandardError", Service, Process, "WHAT", |c, v, s| output(v, s, "stderr", &mut c.launch.stderr),
        "like StandardOutput=; inherit: as stdout"),
    row("IgnoreSIGPIPE", Service, Process, SWITCH, |c, v| put(boolean(v)?, &mut c.launch.ignore_sigpipe),
        "start the server with SIGPIPE ignored").default("no"),
    row("Nice", Service, Process, NUMBER, |c, v| number(v, -20, 19, &mut c.launch.nice),
        "the scheduling priority, -20 to 19"),
    row("OOMScoreAdjust", Service, Process, NUMBER, |c, v| number(v, -1000, 1000, &mut c.launch.oom_score_adjust),
        "-1000 (spare it) to 1000 (kill it first) when memory runs out"),
    scoped("RuntimeDirectory", Service, Process, LIST,
        |c, v, s| directories(v, s, &mut c.launch.directories.runtime),
        "directories in /run, made before the start and owned by the user"),
    scoped("StateDirectory", Service, Process, LIST, |c, v, s| directories(v, s, &mut c.launch.directories.state),
        "the same in /var/lib"),
    scoped("CacheDirectory", Service, Process, LIST, |c, v, s| directories(v, s, &mut c.launch.directories.cache),
        "the same in /var/cache"),
    scoped("LogsDirectory", Service, Process, LIST, |c, v, s| directories(v, s, &mut c.launch.directories.logs),
        "the same in /var/log"),
    scoped("ConfigurationDirectory", Service, Process, LIST,
        |c, v, s| directories(v, s, &mut c.launch.directories.configuration),
        "the same in /etc"),
    row("RuntimeDirectoryMode", Service, Process, MODE, |c, v| mode(v, &mut c.launch.directories.runtime),
        "its mode, octal").default("0755"),
    row("StateDirectoryMode", Service, Process, MODE, |c, v| mode(v, &mut c.launch.directories.state),
        "its mode, octal").default("0755"),
    row("CacheDirectoryMode", Service, Process, MODE, |c, v| mode(v, &mut c.launch.directories.cache),
        "its mode, octal").default("0755"),
    row("LogsDirectoryMode", Service, Process, MODE, |c, v| mode(v, &mut c.launch.directories.logs),
        "its mode, octal").default("0755"),
    row("ConfigurationDirectoryMode", Service, Process, MODE,
        |c, v| mode(v, &mut c.launch.directories.configuration),
        "its mode, octal").default("0755"),
    row("RuntimeDirectoryPreserve", Service, Process, "WHEN", preserve,
        "whether runtime directories stay; no, restart or yes").default("no"),
];

#[rustfmt::skip]
pub(super) const LIMITS: &[Directive] = &[
    row("LimitCPU", Service, Limits, SPAN, |c, v| set_limit(c, Resource::Cpu, v),
        "RLIMIT_CPU, soft[:hard] like all of these"),
    row("LimitFSIZE", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Fsize, v),
        "RLIMIT_FSIZE"),
    row("LimitDATA", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Data, v),
        "RLIMIT_DATA"),
    row("LimitSTACK", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Stack, v),
        "RLIMIT_STACK"),
    row("LimitCORE", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Core, v),
        "RLIMIT_CORE"),
    row("LimitRSS", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Rss, v),
        "RLIMIT_RSS"),
    row("LimitNOFILE", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Nofile, v),
        "RLIMIT_NOFILE"),
    row("LimitAS", Service, Limits, SIZE, |c, v| set_limit(c, Resource::As, v),
        "RLIMIT_AS"),
    row("LimitNPROC", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Nproc, v),
        "RLIMIT_NPROC"),
    row("LimitMEMLOCK", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Memlock, v),
        "RLIMIT_MEMLOCK"),
    row("LimitLOCKS", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Locks, v),
        "RLIMIT_LOCKS"),
    row("LimitSIGPENDING", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Sigpending, v),
        "RLIMIT_SIGPENDING"),
    row("LimitMSGQUEUE", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Msgqueue, v),
        "RLIMIT_MSGQUEUE"),
    row("LimitNICE", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Nice, v),
        "RLIMIT_NICE; with a sign it is the nice level"),
    row("LimitRTPRIO", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Rtprio, v),
        "RLIMIT_RTPRIO"),
    row("LimitRTTIME", Service, Limits, SPAN, |c, v| set_limit(c, Resource::Rttime, v),
        "RLIMIT_RTTIME, microseconds without a unit"),
];

fn number(text: &str, min: i32, max: i32, field: &mut Option<i32>) -> SetResult {
    if text.is_empty() {
        return put(None, field);
    }
    let number = integer(text, min.into(), max.into())?;
    put(Some(i32::try_from(number).expect("between two i32")), field)
}

fn directory(config: &mut Config, text: &str) -> SetResult {
    if text.is_empty() {
        return put(None, &mut config.launch.directory);
    }
    let (path, optional) = match text.strip_prefix('-') {
        Some(path) => (path, true),
        None => (text, false),
    };
    if path.is_empty() || path.starts_with("~/") {
        let cause = format!("{:?} is no directory", printable(text));
        return Err(Problem::new(cause, "write its path, or ~ alone for the user's home"));
    }
    let path = if path == "~" { DirectoryPath::Home } else { DirectoryPath::Path(PathBuf::from(path)) };
    put(Some(Directory { path, optional }), &mut config.launch.directory)
}

/// Environment= of a unit file; the command line has `-E`, which is one assignment.
fn environment_line(config: &mut Config, text: &str, scope: &Context<'_>) -> SetResult {
    let mut new = Vec::new();
    for word in words(text, scope)? {
        if !word.contains('=') {
            let cause = format!("{:?} is no assignment", printable(&word));
            (scope.warn)(Problem::new(cause, "write NAME=VALUE, or -E NAME to pass ours on"));
            continue;
        }
        match environment::assignment(&word, |_| None) {
            Ok(variable) => new.push(variable),
            Err(problem) => (scope.warn)(problem),
        }
    }
    grow(&mut config.launch.environment, new, text)
}

fn environment_file(config: &mut Config, text: &str) -> SetResult {
    let files = &mut config.launch.environment_files;
    let (path, optional) = match text.strip_prefix('-') {
        Some(path) => (path, true),
        None => (text, false),
    };
    match (path, optional) {
        ("", false) => files.clear(),
        ("", true) => {
            return Err(Problem::new("no file after `-`", "write -FILE for one that may be missing"));
        }
        _ => files.push(EnvironmentFile { path: path.into(), optional }),
    }
    Ok(())
}

/// The words of a list with their specifiers replaced. One that cannot be replaced is skipped with a warning.
fn words(text: &str, scope: &Context<'_>) -> Result<Vec<String>, Problem> {
    let words = command_line::unquote(text, scope.warn)?;
    Ok(words.iter().filter_map(|word| (scope.expand)(word).map_err(scope.warn).ok()).collect())
}

/// Names of variables; with `values` also NAME=VALUE. An empty text empties `field`.
fn names(text: &str, scope: &Context<'_>, values: bool, field: &mut Vec<String>) -> SetResult {
    let mut new = Vec::new();
    for word in words(text, scope)? {
        let name = if values { word.split('=').next().unwrap_or_default() } else { &word };
        if environment::is_name(name) {
            new.push(word);
        } else {
            let cause = format!("{:?} is no name of a variable", printable(&word));
            (scope.warn)(Problem::new(cause, "write names with blanks between: LANG TZ"));
        }
    }
    grow(field, new, text)
}

fn search_path(config: &mut Config, text: &str) -> SetResult {
    let new: Vec<PathBuf> = text.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    if new.iter().any(|path| !path.is_absolute()) {
        return Err(Problem::new("a directory is not absolute", "write /opt/bin:/usr/bin"));
    }
    grow(&mut config.launch.search_path, new, text)
}

fn standard_input(config: &mut Config, text: &str, scope: &Context<'_>) -> SetResult {
    if matches!(text, "tty" | "tty-force" | "tty-fail") {
        let problem =
            Problem::new("this version hands no terminal over", "use null, or inherit with a pipe or a file");
        (scope.warn)(problem);
        return put(Input::Null, &mut config.launch.stdin);
    }
    let input = if let Some(path) = text.strip_prefix("file:") {
        Input::File(absolute(&(scope.expand)(path)?)?)
    } else if let Some(name) = text.strip_prefix("fd:").or_else(|| (text == "fd").then_some("stdin")) {
        Input::Fd(fd_name(&(scope.expand)(name)?)?)
    } else if text == "data" {
        match std::mem::replace(&mut config.launch.stdin, Input::Null) {
            data @ Input::Data(_) => data,
            _ => Input::Data(Vec::new()),
        }
    } else {
        choice(text, &[("null", 0), ("inherit", 1), ("socket", 2)])
            .map(|index| [Input::Null, Input::Inherit, Input::Socket][index].clone())
            .map_err(|problem| Problem {
                remedy: format!("{}, data, file:PATH or fd:NAME", problem.remedy),
                ..problem
            })?
    };
    put(input, &mut config.launch.stdin)
}

fn fd_name(name: &str) -> Result<String, Problem> {
    address::check_name(name).map(|()| name.to_owned())
}

fn absolute(path: &str) -> Result<PathBuf, Problem> {
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    let cause = format!("{:?} is no absolute path", printable(path));
    Err(Problem::new(cause, "write it from the root on: /var/log/web.log"))
}

fn input_text(config: &mut Config, text: &str, scope: &Context<'_>) -> SetResult {
    if text.is_empty() {
        return reset_data(config);
    }
    // The text is one quoted item: its blanks stay, its escapes are replaced.
    let quoted = format!("\"{}\"", text.replace('"', "\\\""));
    let line = command_line::unquote(&quoted, scope.warn)?.concat();
    append_data(config, format!("{}\n", (scope.expand)(&line)?).as_bytes())
}

fn input_data(config: &mut Config, text: &str) -> SetResult {
    if text.is_empty() {
        return reset_data(config);
    }
    let bytes = base64(text)
        .ok_or_else(|| Problem::new("this is no Base64", "`base64 -w0 FILE` writes what belongs here"))?;
    append_data(config, &bytes)
}

fn reset_data(config: &mut Config) -> SetResult {
    if let Input::Data(data) = &mut config.launch.stdin {
        data.clear();
    }
    Ok(())
}

/// Appends to the input data. As in systemd this does not depend on StandardInput=data.
fn append_data(config: &mut Config, bytes: &[u8]) -> SetResult {
    const MOST: usize = 1 << 20;
    if !matches!(config.launch.stdin, Input::Data(_)) {
        config.launch.stdin = Input::Data(Vec::new());
    }
    let Input::Data(data) = &mut config.launch.stdin else { return Ok(()) };
    if data.len() + bytes.len() > MOST {
        return Err(Problem::new("more than 1 MiB of input", "use StandardInput=file:PATH"));
    }
    data.extend_from_slice(bytes);
    Ok(())
}

/// Decodes base64 (RFC 4648), ignoring blanks; `None` where it is malformed.
fn base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(&text);
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let (mut out, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in digits {
        let value = DIGITS.iter().position(|known| known == digit)?;
        bits = (bits << 6 | u32::try_from(value).ok()?) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(out)
}

fn output(text: &str, scope: &Context<'_>, default_fd: &str, field: &mut Output) -> SetResult {
    let path = |text: &str| absolute(&(scope.expand)(text)?);
    let output = if let Some(rest) = text.strip_prefix("file:") {
        Output::File(path(rest)?)
    } else if let Some(rest) = text.strip_prefix("append:") {
        Output::Append(path(rest)?)
    } else if let Some(rest) = text.strip_prefix("truncate:") {
        Output::Truncate(path(rest)?)
    } else if let Some(name) = text.strip_prefix("fd:").or_else(|| (text == "fd").then_some(default_fd)) {
        Output::Fd(fd_name(&(scope.expand)(name)?)?)
    } else {
        match text {
            "inherit" => Output::Inherit,
            "null" => Output::Null,
            "socket" => Output::Socket,
            "journal" | "journal+console" | "kmsg" | "kmsg+console" | "syslog" | "syslog+console" | "tty" => {
                Output::Ours
            }
            _ => {
                let cause = format!("unknown value {:?}", printable(text));
                let remedy =
                    "it takes inherit, null, journal, socket, file:PATH, append:PATH, truncate:PATH, fd:NAME";
                return Err(Problem::new(cause, remedy));
            }
        }
    };
    put(output, field)
}

fn directories(text: &str, scope: &Context<'_>, field: &mut ManagedDirectory) -> SetResult {
    let mut new = Vec::new();
    for word in words(text, scope)? {
        let (name, link) =
            word.split_once(':').map_or((word.as_str(), None), |(name, link)| (name, Some(link)));
        if link.is_some() {
            let cause = format!("no symbolic link is made for {:?}", printable(&word));
            (scope.warn)(Problem::new(cause, "make it by ExecStartPre="));
        }
        let path = PathBuf::from(name);
        if !name.is_empty() && path.components().all(|part| matches!(part, Component::Normal(_))) {
            new.push(path);
        } else {
            let cause = format!("{:?} is no relative path", printable(name));
            (scope.warn)(Problem::new(
                cause,
                "write it without a slash before it and without `..`: web/cache",
            ));
        }
    }
    grow(&mut field.names, new, text)
}

fn mode(text: &str, field: &mut ManagedDirectory) -> SetResult {
    put(octal(text, 0o7777)?, &mut field.mode)
}

fn preserve(config: &mut Config, text: &str) -> SetResult {
    let value = match boolean(text) {
        Ok(true) => Preserve::Yes,
        Ok(false) => Preserve::No,
        Err(_) => {
            choice(text, &[("no", Preserve::No), ("restart", Preserve::Restart), ("yes", Preserve::Yes)])?
        }
    };
    put(value, &mut config.launch.directories.preserve)
}

/// Sets the limit of one resource, replacing an earlier one; an empty text removes it.
fn set_limit(config: &mut Config, resource: Resource, text: &str) -> SetResult {
    let new = if text.is_empty() { None } else { Some(limit(resource, text)?) };
    config.launch.limits.retain(|limit| limit.resource != resource);
    config.launch.limits.extend(new);
    Ok(())
}
