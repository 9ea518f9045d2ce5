//! The text of an sd_notify(3) datagram.

use super::limits;

/// What a datagram said, as far as we act on it. Lines we do not know are skipped, as systemd does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// READY=1
    pub ready: bool,
    /// WATCHDOG=1
    pub watchdog: bool,
    /// WATCHDOG=trigger: as if the watchdog had run out.
    pub watchdog_trigger: bool,
    /// STATUS=: Some("") clears it.
    pub status: Option<String>,
    pub reloading: bool,
    pub notify_access: Option<crate::config::NotifyAccess>,
    pub stopping: bool,
    pub monotonic_usec: Option<u64>,
    pub errno: Option<i32>,
    pub main_pid: Option<i32>,
    pub watchdog_usec: Option<u64>,
    pub extend_timeout_usec: Option<u64>,
}

impl Notify {
    /// Reads one datagram. Never fails: what cannot be understood is as if it were not there.
    pub fn parse(datagram: &[u8]) -> Self {
        let mut notify = Self::default();
        let datagram = datagram.strip_suffix(b"\0").unwrap_or(datagram);
        if datagram.contains(&0) {
            return notify;
        }
        for line in datagram.split(|byte| *byte == b'\n') {
            match line {
                b"READY=1" => notify.ready = true,
                b"WATCHDOG=1" => notify.watchdog = true,
                b"WATCHDOG=trigger" => notify.watchdog_trigger = true,
                _ => {
                    if let Some(text) = line.strip_prefix(b"STATUS=") {
                        notify.status = status_text(text);
                    }
                }
            }
        }
        notify
    }
}

/// UTF-8 without control characters, cut to the limit at a character; None for anything else.
fn status_text(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let mut clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while clean.len() > limits::STATUS_BYTES {
        clean.pop();
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_independent_and_unknown_ones_skipped() {
        let notify = Notify::parse(b"READY=1\nX_FOO=1\nSTATUS=serving 3 clients\nREADY=0\n\n");
        assert!(notify.ready && !notify.watchdog);
        assert_eq!(notify.status.as_deref(), Some("serving 3 clients"));
    }

    #[test]
    fn one_trailing_nul_is_allowed_an_embedded_one_is_not() {
        assert!(Notify::parse(b"READY=1\0").ready);
        assert_eq!(Notify::parse(b"READY=1\0STOPPING=1"), Notify::default());
    }

    #[test]
    fn a_status_is_bounded_and_printable() {
        let mut datagram = b"STATUS=a\x1b[31m".to_vec();
        datagram.extend("é".repeat(1000).bytes());
        let status = Notify::parse(&datagram).status.expect("a status");
        assert!(status.len() <= limits::STATUS_BYTES && !status.contains('\x1b'));
        assert_eq!(Notify::parse(b"STATUS=\xff").status, None);
    }
}
