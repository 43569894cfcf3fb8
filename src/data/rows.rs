//! Files of rows: JSON lines, one JSON array, csv, or a text. What the rows mean is not known here.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::csv;
use super::fields::Fields;
use crate::error::{Error, Result};
use crate::io::text;

/// Where a record stands: `line 7` of a file, or `record 7` of its array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    path: Arc<Path>,
    unit: &'static str,
    number: usize,
}

impl Place {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error that names this place.
    pub fn refuse(&self, detail: impl fmt::Display) -> Error {
        Error::file(&self.path, format!("{self}: {detail}"))
    }

    /// `error` as one that names this place.
    pub fn blame(&self, error: Error) -> Error {
        let refusal = self.refuse(&error);
        match error.hint() {
            Some(hint) => refusal.with_hint(hint),
            None => refusal,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.unit, self.number)
    }
}

/// The records of a file, each where it stands.
pub(super) type Rows = Vec<(Place, Fields)>;

/// Reads the rows of a file, and what separates their cells if it is a csv.
pub(super) fn read(path: &Path) -> Result<(Rows, Option<char>)> {
    let text = text::read(path)?;
    let text = text.as_str();
    if text.trim().is_empty() {
        Ok((Vec::new(), None))
    } else if has_extension(path, "txt") {
        let place = Place { path: path.into(), unit: "line", number: 1 };
        let mut fields = Fields::default();
        fields.push("text".into(), text.into());
        Ok((vec![(place, fields)], None))
    } else if is_table(path) {
        let separator = separator(path, text)?;
        csv_rows(path, text, separator).map(|rows| (rows, Some(separator)))
    } else if text.trim_start().starts_with('[') {
        array(path, text).map(|rows| (rows, None))
    } else {
        lines(path, text).map(|rows| (rows, None))
    }
}

const JSON: &str = "data is one JSON object a line, or one array of them; or a .csv, or a .txt of plain text";

fn lines(path: &Path, text: &str) -> Result<Rows> {
    let path: Arc<Path> = path.into();
    let place = |index| Place { path: path.clone(), unit: "line", number: index + 1 };
    let mut rows = Vec::new();
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).peekable();
    while let Some((index, line)) = lines.next() {
        let is_torn = lines.peek().is_none() && !text.ends_with('\n');
        let hint = if is_torn { "the file may end too early: get it again, or delete its last line" } else { JSON };
        rows.push((place(index), text::json(&path, line, index).map_err(|e| e.or_hint(hint))?));
    }
    Ok(rows)
}

fn array(path: &Path, text: &str) -> Result<Rows> {
    let rows: Vec<Fields> = text::json(path, text, 0).map_err(|e| e.or_hint(JSON))?;
    let path: Arc<Path> = path.into();
    let place = |index| Place { path: path.clone(), unit: "record", number: index + 1 };
    Ok(rows.into_iter().enumerate().map(|(index, fields)| (place(index), fields)).collect())
}

/// Whether `path` is a file of cells in rows.
pub(super) fn is_table(path: &Path) -> bool {
    has_extension(path, "csv") || has_extension(path, "tsv")
}

fn separator(path: &Path, text: &str) -> Result<char> {
    if has_extension(path, "tsv") {
        return Ok('\t');
    }
    csv::separator(text).map_err(|present| {
        let place = Place { path: path.into(), unit: "line", number: 1 };
        let present: Vec<String> = present.iter().map(|separator| format!("{separator:?}")).collect();
        place
            .refuse(format!("the header has {}, and not just one cuts all rows alike", present.join(" and ")))
            .with_hint(QUOTES)
    })
}

fn csv_rows(path: &Path, text: &str, separator: char) -> Result<Rows> {
    let path: Arc<Path> = path.into();
    let place = |line| Place { path: path.clone(), unit: "line", number: line };
    let rows = csv::parse(text, separator).map_err(|(line, detail)| place(line).refuse(detail))?;
    let mut rows = rows.into_iter().skip(usize::from(csv::named(text).is_some()));
    let Some((line, header)) = rows.next() else { return Ok(Vec::new()) };
    let header: Vec<&str> = header.iter().map(|name| name.trim()).collect();
    let is_twice = |i: &usize| !header[*i].is_empty() && header[..*i].contains(&header[*i]);
    if let Some(name) = (0..header.len()).find(is_twice).map(|i| header[i]) {
        return Err(place(line).refuse(format!("two columns are called {name:?}")).with_hint(HEADER));
    }
    let fields = |(line, cells): (usize, Vec<String>)| {
        if cells.len() != header.len() {
            let detail = format!("has {} cells where the header has {}", cells.len(), header.len());
            return Err(place(line).refuse(detail).with_hint(QUOTES));
        }
        let mut fields = Fields::default();
        header.iter().zip(cells).for_each(|(name, cell)| _ = fields.push(name.to_string(), cell.into()));
        Ok((place(line), fields))
    };
    rows.map(fields).collect()
}

const QUOTES: &str = "put cells that hold a separator in double quotes, or write the file as JSON lines";
const HEADER: &str = "the first line of a csv names its columns";

pub(super) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}
