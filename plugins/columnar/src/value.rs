//! Cells as the values that the same rows have in JSON.
//!
//! A field of a struct that is null counts as missing: a table has all fields in all of its rows. Numbers that are not finite are
//! null. Decimals, dates, times and timestamps (in UTC, where they have a zone) are text, as is what is bytes and valid UTF-8;
//! other bytes are null. Columns that are marked as JSON (`arrow.json`, as `datasets` does for values of many forms) are parsed.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float16Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, OffsetSizeTrait};
use arrow_schema::{DataType, Field, TimeUnit};
use mdt_plugin_api::serde_json::{Map, Value, from_str};
use mdt_plugin_api::{Error, Result};

/// The value of a cell of this column, or of a part of one.
///
/// # Errors
/// Text that is marked as JSON is none; a date is out of range.
pub(crate) fn value(field: &Field, array: &dyn Array, row: usize) -> Result<Value> {
    match plain(field, array, row)? {
        Value::String(text) if field.extension_type_name() == Some("arrow.json") => from_str(&text)
            .map_err(|error| Error::input(format!("`{}` is text that is no JSON", field.name())).caused_by(error)),
        value => Ok(value),
    }
}

/// The bytes of a cell that has bytes.
pub(crate) fn bytes(array: &dyn Array, row: usize) -> Option<&[u8]> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Binary => array.as_binary::<i32>().value(row),
        DataType::LargeBinary => array.as_binary::<i64>().value(row),
        DataType::BinaryView => array.as_binary_view().value(row),
        DataType::FixedSizeBinary(_) => array.as_fixed_size_binary().value(row),
        _ => return None,
    })
}

fn plain(field: &Field, array: &dyn Array, row: usize) -> Result<Value> {
    macro_rules! primitive {
        ($type:ty) => {
            array.as_primitive::<$type>().value(row)
        };
    }
    // Debug shows what these are as ISO 8601 has it.
    macro_rules! iso {
        ($type:ty, $method:ident) => {
            array.as_primitive::<$type>().$method(row).map(|time| format!("{time:?}"))
        };
    }
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let time = match array.data_type() {
        DataType::Date32 => iso!(Date32Type, value_as_date),
        DataType::Date64 => iso!(Date64Type, value_as_date),
        DataType::Time32(TimeUnit::Second) => iso!(Time32SecondType, value_as_time),
        DataType::Time32(_) => iso!(Time32MillisecondType, value_as_time),
        DataType::Time64(TimeUnit::Microsecond) => iso!(Time64MicrosecondType, value_as_time),
        DataType::Time64(_) => iso!(Time64NanosecondType, value_as_time),
        DataType::Timestamp(unit, zone) => {
            let time = match unit {
                TimeUnit::Second => iso!(TimestampSecondType, value_as_datetime),
                TimeUnit::Millisecond => iso!(TimestampMillisecondType, value_as_datetime),
                TimeUnit::Microsecond => iso!(TimestampMicrosecondType, value_as_datetime),
                TimeUnit::Nanosecond => iso!(TimestampNanosecondType, value_as_datetime),
            };
            time.map(|time| if zone.is_some() { time + "Z" } else { time })
        }
        other => {
            return Ok(match other {
                DataType::Boolean => array.as_boolean().value(row).into(),
                DataType::Int8 => primitive!(Int8Type).into(),
                DataType::Int16 => primitive!(Int16Type).into(),
                DataType::Int32 => primitive!(Int32Type).into(),
                DataType::Int64 => primitive!(Int64Type).into(),
                DataType::UInt8 => primitive!(UInt8Type).into(),
                DataType::UInt16 => primitive!(UInt16Type).into(),
                DataType::UInt32 => primitive!(UInt32Type).into(),
                DataType::UInt64 => primitive!(UInt64Type).into(),
                DataType::Float16 => f64::from(primitive!(Float16Type)).into(),
                DataType::Float32 => primitive!(Float32Type).into(),
                DataType::Float64 => primitive!(Float64Type).into(),
                DataType::Decimal32(..) => array.as_primitive::<Decimal32Type>().value_as_string(row).into(),
                DataType::Decimal64(..) => array.as_primitive::<Decimal64Type>().value_as_string(row).into(),
                DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row).into(),
                DataType::Decimal256(..) => array.as_primitive::<Decimal256Type>().value_as_string(row).into(),
                DataType::Utf8 => array.as_string::<i32>().value(row).into(),
                DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
                DataType::Utf8View => array.as_string_view().value(row).into(),
                DataType::Dictionary(..) => {
                    let dictionary = array.as_any_dictionary();
                    let key = plain(field, dictionary.keys(), row)?;
                    let place = key.as_u64().and_then(|key| usize::try_from(key).ok());
                    match place.filter(|&place| place < dictionary.values().len()) {
                        Some(place) => plain(field, dictionary.values(), place)?,
                        None => Value::Null,
                    }
                }
                DataType::List(item) => list::<i32>(item, array, row)?,
                DataType::LargeList(item) => list::<i64>(item, array, row)?,
                DataType::FixedSizeList(item, length) => {
                    let (values, length) = (array.as_fixed_size_list().values(), *length as usize);
                    items(item, values, row * length..(row + 1) * length)?
                }
                DataType::Struct(fields) => {
                    let columns = fields.iter().zip(array.as_struct().columns());
                    let mut object = Map::new();
                    for (field, column) in columns {
                        let value = value(field, column, row)?;
                        if !value.is_null() {
                            object.insert(field.name().clone(), value);
                        }
                    }
                    Value::Object(object)
                }
                DataType::Map(entries, _) => map(entries, array, row)?,
                _ => bytes(array, row).and_then(|bytes| str::from_utf8(bytes).ok()).map_or(Value::Null, Value::from),
            });
        }
    };
    time.map(Value::from).ok_or_else(|| Error::input(format!("`{}` has a time that is out of range", field.name())))
}

fn list<O: OffsetSizeTrait>(item: &Field, array: &dyn Array, row: usize) -> Result<Value> {
    let array = array.as_list::<O>();
    let [start, end] = [row, row + 1].map(|place| array.value_offsets()[place].as_usize());
    items(item, array.values(), start..end)
}

fn items(item: &Field, values: &dyn Array, places: std::ops::Range<usize>) -> Result<Value> {
    places.map(|place| value(item, values, place)).collect()
}

/// An object, whose keys are text.
fn map(entries: &Field, array: &dyn Array, row: usize) -> Result<Value> {
    let DataType::Struct(fields) = entries.data_type() else { return Ok(Value::Null) };
    let [key, item] = &fields[..] else { return Ok(Value::Null) };
    let array = array.as_map();
    let [start, end] = [row, row + 1].map(|place| array.value_offsets()[place] as usize);
    let mut object = Map::new();
    for place in start..end {
        let name = match value(key, array.keys(), place)? {
            Value::String(name) => name,
            other => other.to_string(),
        };
        object.insert(name, value(item, array.values(), place)?);
    }
    Ok(Value::Object(object))
}
