//! Rows of parquet files, as far as data sets of text need them: texts, and lists of texts.

use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::DataError;
use crate::input;

/// The rows of a file as objects; of one that cannot be read, why not.
///
/// # Errors
/// [`DataError`] for a file that cannot be opened, or is none of parquet.
pub(super) fn rows(path: &Path) -> Result<Vec<Result<Value, String>>, DataError> {
    let (file, _) = input::open(path).map_err(|source| DataError::File {
        path: path.to_path_buf(),
        source,
    })?;
    let broken = |error: ParquetError| DataError::Broken {
        path: path.to_path_buf(),
        place: "as a whole".into(),
        expected: "a parquet file".into(),
        found: error.to_string(),
    };
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let rows = reader.get_row_iter(None).map_err(broken)?;
    let rows = rows.map(|row| match row {
        Ok(row) => Ok(Value::Object(object(&row))),
        Err(error) => Err(error.to_string()),
    });
    Ok(rows.collect())
}

fn object(row: &Row) -> Map<String, Value> {
    let columns = row.get_column_iter();
    columns
        .map(|(name, field)| (name.clone(), value(field)))
        .collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Str(text) => Value::String(text.clone()),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::Group(row) => Value::Object(object(row)),
        // Numbers and times are no part of any field that is read.
        _ => Value::Null,
    }
}
