//! Values as Python writes them.

use minijinja::Value;
use minijinja::value::ValueKind;

/// Returns `str(value)`.
pub(super) fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => repr(value),
        _ => value.to_string(),
    }
}

/// Returns `repr(value)`.
fn repr(value: &Value) -> String {
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::Number => number(value),
        ValueKind::Seq => {
            let written: Vec<String> = items().map(|item| repr(&item)).collect();
            match (value.is_tuple(), &written[..]) {
                (true, [one]) => format!("({one},)"),
                (true, _) => format!("({})", written.join(", ")),
                (false, _) => format!("[{}]", written.join(", ")),
            }
        }
        ValueKind::Map => {
            let field = |key: Value| format!("{}: {}", repr(&key), repr(&value.get_item(&key).unwrap_or_default()));
            format!("{{{}}}", items().map(field).collect::<Vec<_>>().join(", "))
        }
        _ => format!("{value:?}"),
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => self::float(float),
        _ => value.to_string(),
    }
}

/// Returns `repr(float)`: the shortest digits that tell it from all others, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(float: f64) -> String {
    if !float.is_finite() {
        return format!("{float}").to_lowercase();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if float != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => format!("{float:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn numbers_are_written_as_in_python() {
        for (number, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e-4, "0.0001"),
            (0.00012, "0.00012"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e16, "1e+16"),
            (-1e100, "-1e+100"),
            (5e-324, "5e-324"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float(number), expected);
        }
    }
}
