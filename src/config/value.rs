//! The types [`Span`] and [`Signal`]: how time spans and signals are parsed and printed. Numbers are in
//! [`super::number`], lists of exit statuses in [`super::status`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Problem;

/// A length of time in nanoseconds; the maximum is systemd's `infinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub struct Span(u64);

/// Units in microseconds, the resolution of systemd. The first match counts, so a name stands before its own prefixes.
const UNITS: [(&str, u64); 30] = [
    ("seconds", 1_000_000),
    ("second", 1_000_000),
    ("sec", 1_000_000),
    ("s", 1_000_000),
    ("minutes", 60_000_000),
    ("minute", 60_000_000),
    ("min", 60_000_000),
    ("months", 2_629_800_000_000),
    ("month", 2_629_800_000_000),
    ("M", 2_629_800_000_000),
    ("msec", 1_000),
    ("ms", 1_000),
    ("m", 60_000_000),
    ("hours", 3_600_000_000),
    ("hour", 3_600_000_000),
    ("hr", 3_600_000_000),
    ("h", 3_600_000_000),
    ("days", 86_400_000_000),
    ("day", 86_400_000_000),
    ("d", 86_400_000_000),
    ("weeks", 604_800_000_000),
    ("week", 604_800_000_000),
    ("w", 604_800_000_000),
    ("years", 31_557_600_000_000),
    ("year", 31_557_600_000_000),
    ("y", 31_557_600_000_000),
    ("usec", 1),
    ("us", 1),
    ("µs", 1),
    ("μs", 1),
];

const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];
const TRY_SPANS: &str = "try 5s, 500ms, 1min 30s or infinity; m is minutes, M months";

impl Span {
    pub const ZERO: Self = Self(0);
    pub const INFINITY: Self = Self(u64::MAX);

    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    pub const fn is_infinite(self) -> bool {
        self.0 == u64::MAX
    }

    /// Reads a time span (systemd.time(7)), in seconds where no unit is given, rounded down to microseconds. A span
    /// longer than 584 years, the range of nanoseconds, is [`Span::INFINITY`].
    ///
    /// # Errors
    /// No span, or one beyond systemd's range of microseconds.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        Self::parse_with_unit(text, 1_000_000)
    }

    /// The same with another default unit, in microseconds (LimitRTTIME= has microseconds).
    pub(super) fn parse_with_unit(text: &str, default_unit: u64) -> Result<Self, Problem> {
        let mut rest = text.trim_matches(BLANKS);
        if rest.is_empty() {
            return Err(Problem::new("no time span", TRY_SPANS));
        }
        if rest == "infinity" {
            return Ok(Self::INFINITY);
        }
        let mut total = 0_u64;
        while !rest.is_empty() {
            let (micros, after) = component(rest, default_unit)?;
            total = total.checked_add(micros).filter(|total| *total < u64::MAX).ok_or_else(too_long)?;
            rest = after.trim_start_matches(BLANKS);
        }
        Ok(Self(total.saturating_mul(1_000)))
    }
}

/// Reads one `NUM[.FRAC][ ]UNIT` at the start of `text`: its microseconds and what follows it.
fn component(text: &str, default_unit: u64) -> Result<(u64, &str), Problem> {
    if text.starts_with('-') {
        return Err(Problem::new("a time span cannot be negative", TRY_SPANS));
    }
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let (whole, after) = digits(unsigned);
    let (fraction, after) = match after.strip_prefix('.') {
        // As in systemd, `.5` is valid and `+.5` is not.
        Some(after) if !whole.is_empty() || unsigned == text => {
            let (fraction, after) = digits(after);
            if fraction.is_empty() {
                return Err(Problem::new("digits are missing after the point", TRY_SPANS));
            }
            (fraction, after)
        }
        _ if whole.is_empty() => return Err(no_unit(text)),
        _ => ("", after),
    };
    let trimmed = after.trim_start_matches(BLANKS);
    let unit = UNITS.iter().find_map(|(name, micros)| Some((*micros, trimmed.strip_prefix(name)?)));
    let (unit, after) = match unit {
        Some(found) => found,
        // After a number without a unit the next one needs a blank: `12.34.56` is a typing error.
        None if trimmed.len() == after.len() && !after.is_empty() => return Err(no_unit(after)),
        None => (default_unit, trimmed),
    };
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_long())? };
    let mut micros = whole.unsigned_abs().checked_mul(unit).ok_or_else(too_long)?;
    let mut place = unit / 10;
    for digit in fraction.bytes() {
        micros = micros.checked_add(u64::from(digit - b'0') * place).ok_or_else(too_long)?;
        place /= 10;
    }
    Ok((micros, after))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

fn no_unit(text: &str) -> Problem {
    let word: String = text.chars().take_while(|c| !BLANKS.contains(c) && !c.is_ascii_digit()).collect();
    let word = super::printable(if word.is_empty() { text } else { &word });
    Problem::new(format!("unknown time unit {word:?}"), TRY_SPANS)
}

fn too_long() -> Problem {
    Problem::new("the time span is too long", "write infinity for no limit")
}

/// Prints a sum of whole units, exact to the microsecond; it parses back to the same span.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: [(&str, u64); 9] = [
            ("y", 31_557_600_000_000),
            ("month", 2_629_800_000_000),
            ("w", 604_800_000_000),
            ("d", 86_400_000_000),
            ("h", 3_600_000_000),
            ("min", 60_000_000),
            ("s", 1_000_000),
            ("ms", 1_000),
            ("us", 1),
        ];
        if self.is_infinite() {
            return f.write_str("infinity");
        }
        let mut left = self.0 / 1_000;
        if left == 0 {
            return f.write_str("0s");
        }
        let mut separator = "";
        for (name, micros) in SHOWN {
            if left >= micros {
                write!(f, "{separator}{}{name}", left / micros)?;
                separator = " ";
                left %= micros;
            }
        }
        Ok(())
    }
}

/// A signal by its number on Linux (1 to 64).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signal(i32);

/// The names of signal(7) on x86 and ARM, in order from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const SIGNAL_ALIASES: [(&str, i32); 3] = [("IOT", 6), ("CLD", 17), ("POLL", 29)];

/// SIGRTMIN as glibc has it, which keeps 32 and 33 for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl Signal {
    pub const HUP: Self = Self(1);
    pub const INT: Self = Self(2);
    pub const QUIT: Self = Self(3);
    pub const ABRT: Self = Self(6);
    pub const KILL: Self = Self(9);
    pub const PIPE: Self = Self(13);
    pub const TERM: Self = Self(15);
    pub const CONT: Self = Self(18);
    pub const STOP: Self = Self(19);
    pub const TSTP: Self = Self(20);
    pub const WINCH: Self = Self(28);

    /// `None` for a number outside 1 to 64.
    pub const fn from_number(number: i32) -> Option<Self> {
        if number >= 1 && number <= 64 { Some(Self(number)) } else { None }
    }

    pub const fn number(self) -> i32 {
        self.0
    }

    /// Reads a name with or without SIG, in any case, a number, `RTMIN+n` or `RTMAX-n`.
    ///
    /// # Errors
    /// `text` names no signal of Linux.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        Self::find(text).ok_or_else(|| {
            Problem::new(
                format!("{:?} is no signal", super::printable(text)),
                "try TERM, SIGINT, 15 or RTMIN+3; `kill -l` lists them",
            )
        })
    }

    /// The signal that `text` names, or `None`.
    pub(super) fn find(text: &str) -> Option<Self> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::from_number(text.parse().ok()?);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(offset) = name.strip_prefix("RTMIN") {
            return Self::real_time(RTMIN, offset, '+');
        }
        if let Some(offset) = name.strip_prefix("RTMAX") {
            return Self::real_time(RTMAX, offset, '-');
        }
        let plain = SIGNALS.iter().zip(1..).find(|(known, _)| **known == name).map(|(_, number)| number);
        let alias = || SIGNAL_ALIASES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        Self::from_number(plain.or_else(alias)?)
    }

    fn real_time(base: i32, offset: &str, sign: char) -> Option<Self> {
        if offset.is_empty() {
            return Some(Self(base));
        }
        let distance: u8 = offset.strip_prefix(sign)?.parse().ok()?;
        let number = if sign == '+' { base + i32::from(distance) } else { base - i32::from(distance) };
        (RTMIN..=RTMAX).contains(&number).then_some(Self(number))
    }
}

/// Prints `SIGTERM` or `SIGRTMIN+3`; the two numbers without a name print as `32` and `33`.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RTMIN => f.write_str("SIGRTMIN"),
            number if number > RTMIN => write!(f, "SIGRTMIN+{}", number - RTMIN),
            number => match usize::try_from(number - 1).ok().and_then(|index| SIGNALS.get(index)) {
                Some(name) => write!(f, "SIG{name}"),
                None => write!(f, "{number}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `systemd-analyze timespan` (systemd 252) says, in microseconds.
    const GOOD: [(&str, u64); 36] = [
        ("5", 5_000_000),
        ("5s", 5_000_000),
        ("5 s", 5_000_000),
        ("5\ts", 5_000_000),
        (" 5 ", 5_000_000),
        ("5sec", 5_000_000),
        ("5seconds", 5_000_000),
        ("100ms", 100_000),
        ("100msec", 100_000),
        ("7us", 7),
        ("7usec", 7),
        ("7µs", 7),
        ("7μs", 7),
        ("5min 20s", 320_000_000),
        ("1min30s", 90_000_000),
        ("1.5min", 90_000_000),
        ("1min.5s", 60_500_000),
        ("1h30", 3_630_000_000),
        ("1hr 1hour", 7_200_000_000),
        (".5", 500_000),
        ("5s500ms", 5_500_000),
        ("5ms5", 5_005_000),
        ("3.1s.2", 3_300_000),
        ("3 .5", 3_500_000),
        ("+3.1s", 3_100_000),
        ("5 +3", 8_000_000),
        ("1 2 3", 6_000_000),
        ("5m", 300_000_000),
        ("5 m 3", 303_000_000),
        ("1M", 2_629_800_000_000),
        ("2months", 5_259_600_000_000),
        ("1d 1w", 691_200_000_000),
        ("1y", 31_557_600_000_000),
        ("0y", 0),
        ("0.0000001", 0),
        ("0.1234567s", 123_456),
    ];

    const BAD: [&str; 26] = [
        "",
        " ",
        "-1",
        "-0",
        "3s-1",
        "5.",
        "5s.",
        ".",
        "5S",
        "5 foo",
        "foo",
        "12.34.56",
        "++5",
        "+.5",
        "+ 5",
        "1.+5",
        "5+3",
        "1e3",
        "0x10",
        "1,5",
        "1_000",
        "Infinity",
        "infinity s",
        "1mon",
        "584543y",
        "9999999999999999999999",
    ];

    #[test]
    fn spans_are_read_as_systemd_reads_them() {
        for (text, micros) in GOOD {
            assert_eq!(Span::parse(text), Ok(Span::from_nanos(micros * 1_000)), "{text:?}");
        }
        for text in BAD {
            assert!(Span::parse(text).is_err(), "{text:?}");
        }
        for text in ["infinity", " infinity ", "292277y"] {
            assert_eq!(Span::parse(text), Ok(Span::INFINITY), "{text:?}");
        }
    }

    #[test]
    fn a_wrong_span_names_what_is_wrong() {
        let cause = |text| Span::parse(text).expect_err("bad").cause;
        assert_eq!(cause("5x"), "unknown time unit \"x\"");
        assert_eq!(cause("5 foo"), "unknown time unit \"foo\"");
        assert_eq!(cause("-1"), "a time span cannot be negative");
        assert_eq!(cause("5."), "digits are missing after the point");
        assert_eq!(cause("9999999999999999999999"), "the time span is too long");
    }

    #[test]
    fn a_printed_span_reads_back() {
        let shown = [
            ("100ms", "100ms"),
            ("90", "1min 30s"),
            ("5", "5s"),
            ("0", "0s"),
            ("infinity", "infinity"),
            ("3.3", "3s 300ms"),
            ("1y 1M 1w 1d 1h 1min 1s 1ms 1us", "1y 1month 1w 1d 1h 1min 1s 1ms 1us"),
        ];
        for (text, printed) in shown {
            assert_eq!(Span::parse(text).expect("good").to_string(), printed);
        }
        for (text, _) in GOOD {
            let span = Span::parse(text).expect("good");
            assert_eq!(Span::parse(&span.to_string()), Ok(span), "{text:?}");
        }
    }

    #[test]
    fn signals_by_name_number_and_offset() {
        let good = [
            ("TERM", 15, "SIGTERM"),
            ("SIGTERM", 15, "SIGTERM"),
            ("sigterm", 15, "SIGTERM"),
            ("15", 15, "SIGTERM"),
            ("usr1", 10, "SIGUSR1"),
            ("SYS", 31, "SIGSYS"),
            ("POLL", 29, "SIGIO"),
            ("CLD", 17, "SIGCHLD"),
            ("33", 33, "33"),
            ("RTMIN", 34, "SIGRTMIN"),
            ("SIGRTMIN+3", 37, "SIGRTMIN+3"),
            ("rtmax", 64, "SIGRTMIN+30"),
            ("RTMAX-1", 63, "SIGRTMIN+29"),
        ];
        for (text, number, shown) in good {
            let signal = Signal::parse(text).expect(text);
            assert_eq!((signal.number(), signal.to_string().as_str()), (number, shown), "{text}");
        }
        for bad in [
            "",
            "0",
            "65",
            "-9",
            "+9",
            "TERMINATE",
            "SIG",
            "SIG15",
            "RTMIN-1",
            "RTMIN+31",
            "RTMAX+1",
            "RTMIN+x",
        ] {
            assert!(Signal::parse(bad).is_err(), "{bad:?}");
        }
        for number in 1..=64 {
            let signal = Signal::from_number(number).expect("valid");
            assert_eq!(Signal::parse(&signal.to_string()), Ok(signal));
        }
    }
}
