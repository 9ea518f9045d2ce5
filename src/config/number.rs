//! Numbers, switches and limits as systemd.exec(5), systemd.socket(5) and systemd.syntax(7) write them.

use super::{Limit, Problem, Resource, Span, printable};

/// Reads `1 yes y true t on` or `0 no n false f off`, in any case.
pub fn boolean(text: &str) -> Result<bool, Problem> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Ok(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Ok(false),
        _ => Err(Problem::new(format!("{:?} is neither yes nor no", printable(text)), "write yes or no")),
    }
}

/// Reads a decimal number from `min` to `max`.
pub fn integer(text: &str, min: i64, max: i64) -> Result<i64, Problem> {
    text.parse().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| {
        Problem::new(format!("{:?} is no number that fits", printable(text)), format!("{min} to {max}"))
    })
}

pub fn unsigned(text: &str) -> Result<u32, Problem> {
    let number = integer(text, 0, i64::from(u32::MAX))?;
    Ok(u32::try_from(number).expect("the range was checked"))
}

/// Reads a number of bytes, with an optional K, M, G, T, P or E to the base of 1024.
pub fn size(text: &str) -> Result<u64, Problem> {
    let (digits, shift) = match text.bytes().last() {
        Some(b'B') => (&text[..text.len() - 1], 0),
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(b'T') => (&text[..text.len() - 1], 40),
        Some(b'P') => (&text[..text.len() - 1], 50),
        Some(b'E') => (&text[..text.len() - 1], 60),
        _ => (text, 0),
    };
    let number: Option<u64> = digits.trim_end().parse().ok().filter(|_| !digits.starts_with('+'));
    number.and_then(|number| number.checked_mul(1 << shift)).ok_or_else(|| {
        Problem::new(
            format!("{:?} is no size", printable(text)),
            "write bytes, or a whole number and K, M, G or T: 64K",
        )
    })
}

/// Reads the bits of a file mode in octal, up to `max`.
pub fn octal(text: &str, max: u32) -> Result<u32, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= max);
    mode.ok_or_else(|| {
        Problem::new(format!("{:?} is no octal mode", printable(text)), format!("0000 to {max:04o}"))
    })
}

/// Reads `soft[:hard]`; a single value sets both. `infinity` becomes `None`.
pub fn limit(resource: Resource, text: &str) -> Result<Limit, Problem> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let (soft, hard) = (limit_value(resource, soft)?, limit_value(resource, hard)?);
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        return Err(Problem::new(
            "the soft limit is above the hard limit",
            "write the lower one first: SOFT:HARD",
        ));
    }
    Ok(Limit { resource, soft, hard })
}

fn limit_value(resource: Resource, text: &str) -> Result<Option<u64>, Problem> {
    if text == "infinity" {
        return Ok(None);
    }
    match resource {
        Resource::Cpu => finite(Span::parse(text)?, 1_000_000_000),
        Resource::Rttime => finite(Span::parse_with_unit(text, 1)?, 1_000),
        Resource::Nice => nice_limit(text).map(Some),
        Resource::Nofile | Resource::Nproc | Resource::Locks | Resource::Sigpending | Resource::Rtprio => {
            let number = integer(text, 0, i64::MAX)?;
            Ok(Some(number.unsigned_abs()))
        }
        Resource::Fsize
        | Resource::Data
        | Resource::Stack
        | Resource::Core
        | Resource::Rss
        | Resource::As
        | Resource::Memlock
        | Resource::Msgqueue => size(text).map(Some),
    }
}

/// The span in whole `unit`s (nanoseconds each), rounded up: 100 ms of CPU time must not become 0. `None` for infinity.
fn finite(span: Span, unit: u64) -> Result<Option<u64>, Problem> {
    Ok((!span.is_infinite()).then(|| span.as_nanos().div_ceil(unit)))
}

/// Reads a value of RLIMIT_NICE, which is 20 minus the nice level. A number with a sign is a nice level.
fn nice_limit(text: &str) -> Result<u64, Problem> {
    let number =
        if text.starts_with(['+', '-']) { 20 - integer(text, -20, 19)? } else { integer(text, 0, 40)? };
    Ok(number.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches() {
        for text in ["1", "yes", "Y", "true", "T", "ON"] {
            assert_eq!(boolean(text), Ok(true), "{text}");
        }
        for text in ["0", "no", "n", "False", "f", "off"] {
            assert_eq!(boolean(text), Ok(false), "{text}");
        }
        for text in ["", "2", "ja", "yes "] {
            assert!(boolean(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_sizes_and_modes() {
        assert_eq!(unsigned("4294967295"), Ok(u32::MAX));
        for text in ["", "-1", "4294967296", "1k", " 1"] {
            assert!(unsigned(text).is_err(), "{text:?}");
        }
        assert_eq!(integer("-20", -20, 19), Ok(-20));
        assert!(integer("20", -20, 19).is_err());
        for (text, bytes) in
            [("0", 0), ("17", 17), ("17B", 17), ("64K", 65_536), ("3 M", 3 << 20), ("2T", 2 << 40)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1K", "+1K", "1k", "1KB", "16E", "1.5K", "64é"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(octal("0660", 0o777), Ok(0o660));
        for text in ["", "8", "1000", "+7", "rw"] {
            assert!(octal(text, 0o777).is_err(), "{text}");
        }
    }

    #[test]
    fn limits() {
        let pair = |resource, text| limit(resource, text).map(|limit| (limit.soft, limit.hard)).ok();
        assert_eq!(pair(Resource::Nofile, "1024"), Some((Some(1024), Some(1024))));
        assert_eq!(pair(Resource::Nofile, "1024:infinity"), Some((Some(1024), None)));
        assert_eq!(pair(Resource::Core, "infinity"), Some((None, None)));
        assert_eq!(pair(Resource::As, "1G:2G"), Some((Some(1 << 30), Some(2 << 30))));
        assert_eq!(pair(Resource::Cpu, "1min:1500ms"), None);
        assert_eq!(pair(Resource::Cpu, "1500ms:1min"), Some((Some(2), Some(60))));
        assert_eq!(pair(Resource::Rttime, "200:1ms"), Some((Some(200), Some(1000))));
        assert_eq!(pair(Resource::Nice, "+5:-10"), Some((Some(15), Some(30))));
        assert_eq!(pair(Resource::Nice, "13"), Some((Some(13), Some(13))));
        for bad in ["", "10:5", "infinity:5", "1:", ":1", "1:2:3", "-1", "1K"] {
            assert_eq!(pair(Resource::Nofile, bad), None, "{bad:?}");
        }
    }
}
