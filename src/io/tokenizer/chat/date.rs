//! The date that templates write.

use jiff::Zoned;
use jiff::civil::DateTime;
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};
use minijinja::{Error, ErrorKind};

/// Returns the time on this machine's clocks, in whole seconds.
pub fn now() -> DateTime {
    let now = Zoned::now().datetime();
    now.with().subsec_nanosecond(0).build().unwrap_or(now)
}

/// Returns `date` as Python's `strftime` writes a date without a zone.
pub(super) fn strftime(date: DateTime, format: &str) -> Result<String, Error> {
    let config = Config::new().custom(PosixCustom::new()).lenient(true);
    let mut text = String::new();
    let written = BrokenDownTime::from(date).format_with_config(&config, without_fractions(format), &mut text);
    written.map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))?;
    Ok(text)
}

/// `format` with what Python writes for the microseconds and for the zone that `date` has not.
fn without_fractions(format: &str) -> String {
    let mut plain = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        match (c, (c == '%').then(|| rest.next()).flatten()) {
            (_, Some('f')) => plain.push_str("000000"),
            (_, Some('z' | 'Z')) => {}
            (c, code) => plain.extend([c].into_iter().chain(code)),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::strftime;

    /// What CPython 3.11 writes on Linux.
    #[test]
    fn dates_are_written_as_in_python() {
        let format = "%A %a %d %-d %e|%B %b %h %m %Y %y %C|%H %I %M %S %p %f|%j %U %W %w %u %G %V|%c|%x|%X|%D %F %T %R %r|%Z%z%%|é";
        for (date, expected) in [
            (
                "1970-01-01T00:00:00",
                "Thursday Thu 01 1  1|January Jan Jan 01 1970 70 19|00 12 00 00 AM 000000|001 00 00 4 4 1970 01|\
                Thu Jan  1 00:00:00 1970|01/01/70|00:00:00|01/01/70 1970-01-01 00:00:00 00:00 12:00:00 AM|%|é",
            ),
            (
                "2000-02-29T11:59:59",
                "Tuesday Tue 29 29 29|February Feb Feb 02 2000 00 20|11 11 59 59 AM 000000|060 09 09 2 2 2000 09|\
                Tue Feb 29 11:59:59 2000|02/29/00|11:59:59|02/29/00 2000-02-29 11:59:59 11:59 11:59:59 AM|%|é",
            ),
            (
                "2027-01-03T23:05:00",
                "Sunday Sun 03 3  3|January Jan Jan 01 2027 27 20|23 11 05 00 PM 000000|003 01 00 0 7 2026 53|\
                Sun Jan  3 23:05:00 2027|01/03/27|23:05:00|01/03/27 2027-01-03 23:05:00 23:05 11:05:00 PM|%|é",
            ),
        ] {
            assert_eq!(strftime(date.parse().unwrap(), format).unwrap(), expected);
        }
        let date = "2000-02-29T11:59:59".parse().unwrap();
        assert_eq!(strftime(date, "100%% %").unwrap(), "100% %");
    }
}
