//! Values separated by commas, or by another of [`SEPARATORS`], as RFC 4180 has them: cells may be quoted, and then hold
//! separators, line ends and doubled quotes.

/// What may stand between cells.
pub const SEPARATORS: [char; 4] = [',', ';', '\t', '|'];

/// A row's cells, and the line it begins on.
pub type Row = (usize, Vec<String>);

/// The separator that Excel's first line names, `sep=;`, where there is such a line before the header.
pub fn named(text: &str) -> Option<char> {
    let name = text.lines().next()?.strip_prefix("sep=")?;
    SEPARATORS.into_iter().find(|separator| name.strip_prefix(*separator) == Some(""))
}

/// The separator of `text`: the one it names, the only one in its header, or the only one that cuts all rows into as many
/// cells. Of one column, a comma. The error is what separates equally well, or badly.
pub fn separator(text: &str) -> Result<char, Vec<char>> {
    if let Some(named) = named(text) {
        return Ok(named);
    }
    let header = text.lines().next().unwrap_or_default();
    let present: Vec<char> = SEPARATORS.into_iter().filter(|&separator| header.contains(separator)).collect();
    if let [] | [_] = present[..] {
        return Ok(present.first().copied().unwrap_or(','));
    }
    match present.iter().filter(|&&separator| fits(text, separator)).collect::<Vec<_>>()[..] {
        [only] => Ok(*only),
        _ => Err(present),
    }
}

fn fits(text: &str, separator: char) -> bool {
    let widths = |rows: Vec<Row>| rows.iter().map(|(_, cells)| cells.len()).collect::<Vec<_>>();
    parse(text, separator).map(widths).is_ok_and(|widths| widths.iter().all(|&width| width > 1 && width == widths[0]))
}

/// The rows of `text` that are not empty. The error is a line and what is wrong there.
pub fn parse(text: &str, separator: char) -> Result<Vec<Row>, (usize, &'static str)> {
    let (mut rows, mut rest, mut line) = (Vec::new(), text, 1);
    while !rest.is_empty() {
        let (start, mut cells) = (line, Vec::new());
        rest = loop {
            let (value, after) = cell(rest, separator).map_err(|detail| (line, detail))?;
            line += value.matches('\n').count();
            cells.push(value);
            match after.strip_prefix(separator) {
                Some(after) => rest = after,
                None => break after.strip_prefix('\r').unwrap_or(after),
            }
        };
        rest = rest.strip_prefix('\n').unwrap_or(rest);
        line += 1;
        if cells.iter().any(|cell| !cell.is_empty()) {
            rows.push((start, cells));
        }
    }
    Ok(rows)
}

/// The first cell of `text`, and what follows it: nothing, a separator, or a line end.
fn cell(text: &str, separator: char) -> Result<(String, &str), &'static str> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([separator, '\n']).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        let is_crlf = value.ends_with('\r') && !after.starts_with(separator);
        return Ok((value[..end - usize::from(is_crlf)].to_owned(), after));
    };
    let mut value = String::new();
    loop {
        let (part, after) = rest.split_once('"').ok_or("a quoted cell is not closed")?;
        value.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                value.push('"');
                rest = after;
            }
            None if after.is_empty() || after.starts_with([separator, '\n', '\r']) => return Ok((value, after)),
            None => return Err("text after a closing quote"),
        }
    }
}
