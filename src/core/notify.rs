//! Parses the text of an sd_notify(3) datagram.

use super::limits;
use crate::config::{NotifyAccess, address};

/// The variables of a datagram that we act on. Lines we do not know, and values that cannot be, are skipped, as systemd
/// does. Of a variable that is given twice the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// READY=1
    pub ready: bool,
    /// RELOADING=1, and when it began: MONOTONIC_USEC=, microseconds of CLOCK_MONOTONIC.
    pub reloading: bool,
    pub monotonic_usec: Option<u64>,
    /// STOPPING=1
    pub stopping: bool,
    /// STATUS=: Some("") clears it.
    pub status: Option<String>,
    /// ERRNO=
    pub errno: Option<i32>,
    /// MAINPID=
    pub main_pid: Option<i32>,
    /// WATCHDOG=1
    pub watchdog: bool,
    /// WATCHDOG=trigger: as if the watchdog had run out.
    pub watchdog_trigger: bool,
    /// WATCHDOG_USEC=: a new period, microseconds; 0 switches the watchdog off.
    pub watchdog_usec: Option<u64>,
    /// EXTEND_TIMEOUT_USEC=, microseconds from now on.
    pub extend_timeout_usec: Option<u64>,
    /// NOTIFYACCESS=
    pub notify_access: Option<NotifyAccess>,
    /// What the fds that came along are for: FDSTORE=1, FDSTOREREMOVE=1, FDNAME=, FDPOLL=0.
    pub fd_store: bool,
    pub fd_store_remove: bool,
    pub fd_name: Option<String>,
    pub fd_no_poll: bool,
    /// BARRIER=1; the rest of its message is ignored.
    pub barrier: bool,
    /// X_SUPERVISE_FETCH=1, which asks for the sockets of the generation; the rest of its message is ignored.
    pub fetch: bool,
}

impl Notify {
    /// Reads one datagram. What cannot be parsed is skipped.
    pub fn parse(datagram: &[u8]) -> Self {
        let mut notify = Self::default();
        let datagram = datagram.strip_suffix(b"\0").unwrap_or(datagram);
        if datagram.contains(&0) {
            return notify;
        }
        // A carriage return ends a line for systemd, too. Backwards, so that the first of a variable stays.
        for line in datagram.split(|byte| matches!(byte, b'\n' | b'\r')).rev() {
            let Some(equals) = line.iter().position(|byte| *byte == b'=') else { continue };
            // One line that is not UTF-8 spoils no other.
            if let (Ok(key), Ok(value)) =
                (std::str::from_utf8(&line[..equals]), std::str::from_utf8(&line[equals + 1..]))
            {
                notify.read(key, value);
            }
        }
        if notify.barrier { Self { barrier: true, ..Self::default() } } else { notify }
    }

    fn read(&mut self, key: &str, value: &str) {
        match (key, value) {
            ("READY", "1") => self.ready = true,
            ("RELOADING", "1") => self.reloading = true,
            ("STOPPING", "1") => self.stopping = true,
            ("BARRIER", "1") => self.barrier = true,
            ("X_SUPERVISE_FETCH", "1") => self.fetch = true,
            ("WATCHDOG", text) => (self.watchdog, self.watchdog_trigger) = (text == "1", text == "trigger"),
            ("FDSTORE", "1") => self.fd_store = true,
            ("FDSTOREREMOVE", "1") => self.fd_store_remove = true,
            ("FDPOLL", "0") => self.fd_no_poll = true,
            ("MONOTONIC_USEC", text) => self.monotonic_usec = number(text),
            ("WATCHDOG_USEC", text) => self.watchdog_usec = number(text),
            ("EXTEND_TIMEOUT_USEC", text) => self.extend_timeout_usec = number(text),
            ("ERRNO", text) => self.errno = number(text).and_then(errno),
            ("MAINPID", text) => {
                self.main_pid = number(text).and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
            }
            ("STATUS", text) => self.status = Some(status_text(text)),
            ("FDNAME", text) => self.fd_name = address::check_name(text).is_ok().then(|| text.to_owned()),
            ("NOTIFYACCESS", "none") => self.notify_access = Some(NotifyAccess::None),
            ("NOTIFYACCESS", "main") => self.notify_access = Some(NotifyAccess::Main),
            ("NOTIFYACCESS", "exec") => self.notify_access = Some(NotifyAccess::Exec),
            ("NOTIFYACCESS", "all") => self.notify_access = Some(NotifyAccess::All),
            _ => {}
        }
    }
}

/// Digits alone: what parse() takes beyond them (`+5`) systemd does not.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// MAX_ERRNO of the kernel is the last one.
fn errno(number: u64) -> Option<i32> {
    i32::try_from(number).ok().filter(|errno| *errno <= 4095)
}

/// Without control characters, cut to the limit at a character.
fn status_text(text: &str) -> String {
    let mut clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while clean.len() > limits::STATUS_BYTES {
        clean.pop();
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_independent_and_unknown_ones_skipped() {
        let notify = Notify::parse(b"READY=1\nX_FOO=1\nSTATUS=serving 3 clients\nREADY=0\nFDNAME=\xff\n\n");
        assert!(notify.ready && !notify.watchdog);
        assert_eq!(notify.status.as_deref(), Some("serving 3 clients"));
        assert_eq!(notify.fd_name, None);
    }

    #[test]
    fn every_line_that_systemd_knows() {
        let text = b"RELOADING=1\nMONOTONIC_USEC=77\nSTOPPING=1\nERRNO=13\nMAINPID=42\nWATCHDOG=1\n\
            WATCHDOG_USEC=5000\nEXTEND_TIMEOUT_USEC=9\nNOTIFYACCESS=exec\nFDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=a b\n\
            FDPOLL=0";
        let expected = Notify {
            ready: false,
            reloading: true,
            monotonic_usec: Some(77),
            stopping: true,
            status: None,
            errno: Some(13),
            main_pid: Some(42),
            watchdog: true,
            watchdog_trigger: false,
            watchdog_usec: Some(5000),
            extend_timeout_usec: Some(9),
            notify_access: Some(NotifyAccess::Exec),
            fd_store: true,
            fd_store_remove: true,
            fd_name: Some("a b".to_owned()),
            fd_no_poll: true,
            barrier: false,
            fetch: false,
        };
        assert_eq!(Notify::parse(text), expected);
        assert!(Notify::parse(b"WATCHDOG=trigger").watchdog_trigger);
        assert_eq!(Notify::parse(b"WATCHDOG_USEC=0").watchdog_usec, Some(0));
    }

    #[test]
    fn the_first_of_a_variable_counts_and_lines_may_end_in_crlf() {
        let notify = Notify::parse(b"STATUS=a\r\nREADY=1\r\nSTATUS=b\nWATCHDOG=trigger\nWATCHDOG=1");
        assert_eq!(notify.status.as_deref(), Some("a"));
        assert!(notify.ready && notify.watchdog_trigger && !notify.watchdog);
    }

    #[test]
    fn a_barrier_comes_alone() {
        let alone = Notify { barrier: true, ..Notify::default() };
        assert_eq!(Notify::parse(b"BARRIER=1"), alone);
        assert_eq!(Notify::parse(b"READY=1\nBARRIER=1\nFDSTORE=1"), alone);
    }

    #[test]
    fn what_cannot_be_is_as_if_absent() {
        for text in [
            "MAINPID=1",
            "MAINPID=-5",
            "MAINPID=99999999999999999999999",
            "MAINPID=",
            "ERRNO=+1",
            "ERRNO=4096",
        ] {
            assert_eq!(Notify::parse(text.as_bytes()), Notify::default(), "{text}");
        }
        for text in ["WATCHDOG_USEC=x", "WATCHDOG=2", "FDNAME=a:b", "NOTIFYACCESS=some", "READY", "=1"] {
            assert_eq!(Notify::parse(text.as_bytes()), Notify::default(), "{text}");
        }
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

    /// 100,000 real messages with something done to them.
    #[test]
    fn no_datagram_panics_or_grows() {
        let seeds: [&[u8]; 4] = [
            b"READY=1\nSTATUS=up\nMAINPID=4711\n",
            b"RELOADING=1\nMONOTONIC_USEC=123456789\nFDSTORE=1\nFDNAME=state\nFDPOLL=0",
            b"WATCHDOG=1\nWATCHDOG_USEC=20000000\nEXTEND_TIMEOUT_USEC=30000000\nERRNO=2",
            b"STOPPING=1\nNOTIFYACCESS=all\nBARRIER=1\nFDSTOREREMOVE=1\nBUSERROR=x\0",
        ];
        let mut rng = fastrand::Rng::with_seed(3);
        for round in 0..100_000 {
            let mut text = seeds[round % seeds.len()].to_vec();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(..=text.len());
                match rng.u8(..6) {
                    0 => text.truncate(at),
                    1 => text.insert(at, rng.u8(..)),
                    2 => text.splice(at..at, *b"99999999999999999999999").for_each(drop),
                    3 => text.splice(at..at, *b"\nSTATUS=").for_each(drop),
                    4 => text.extend_from_within(at..),
                    _ => {
                        if let Some(byte) = text.get_mut(at) {
                            *byte ^= 1 << rng.u8(..8);
                        }
                    }
                }
            }
            let notify = Notify::parse(&text);
            assert!(notify.status.is_none_or(|status| status.len() <= limits::STATUS_BYTES));
            assert!(notify.main_pid.is_none_or(|pid| pid > 1));
        }
    }
}
