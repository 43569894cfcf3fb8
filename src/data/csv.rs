//! Comma-separated values as RFC 4180 has them: cells may be quoted, and then hold commas, line ends and doubled quotes.

/// A row's cells, and the line it begins on.
pub type Row = (usize, Vec<String>);

/// The rows of `text` that are not empty. The error is a line and what is wrong there.
pub fn parse(text: &str) -> Result<Vec<Row>, (usize, &'static str)> {
    let (mut rows, mut rest, mut line) = (Vec::new(), text, 1);
    while !rest.is_empty() {
        let (start, mut cells) = (line, Vec::new());
        rest = loop {
            let (value, after) = cell(rest).map_err(|detail| (line, detail))?;
            line += value.matches('\n').count();
            cells.push(value);
            match after.strip_prefix(',') {
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

/// The first cell of `text`, and what follows it: nothing, a comma, or a line end.
fn cell(text: &str) -> Result<(String, &str), &'static str> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([',', '\n']).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        let is_crlf = value.ends_with('\r') && !after.starts_with(',');
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
            None if after.is_empty() || after.starts_with([',', '\n', '\r']) => return Ok((value, after)),
            None => return Err("text after a closing quote"),
        }
    }
}
