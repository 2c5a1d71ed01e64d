//! Between columns of Arrow and values.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, ListBuilder, PrimitiveBuilder, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use halny_types::project::features::{FeatureType, Scalar};

use crate::{FeaturesError, Moment, Value};

fn scalar_type(of: Scalar) -> DataType {
    match of {
        Scalar::Int32 => DataType::Int32,
        Scalar::Int64 => DataType::Int64,
        Scalar::Float32 => DataType::Float32,
        Scalar::Float64 => DataType::Float64,
        Scalar::Bool => DataType::Boolean,
        Scalar::String => DataType::Utf8,
        Scalar::Bytes => DataType::Binary,
        Scalar::UnixTimestamp => moment_type(),
    }
}

/// The type of columns that hold moments.
pub(crate) fn moment_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The type of a column of values of that type.
pub(crate) fn data_type(of: FeatureType) -> DataType {
    let one = scalar_type(of.of);
    if of.list { DataType::List(Arc::new(Field::new_list_field(one, true))) } else { one }
}

/// A column whose values are of one type.
pub(crate) struct Column {
    array: ArrayRef,
    of: FeatureType,
}

impl Column {
    /// The column as one of that type. Widths may differ, and how texts are kept; a number is not made of a text, nor a
    /// whole number of a fraction.
    ///
    /// # Errors
    /// When it is of another type, or holds what the type cannot.
    pub(crate) fn new(name: &str, array: &ArrayRef, of: FeatureType) -> Result<Column, FeaturesError> {
        let wrong = |is: String| FeaturesError::Type { name: name.to_owned(), expected: of.to_string(), is };
        let array = plain(array)?;
        let item = match array.data_type() {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) if of.list => {
                item.data_type()
            }
            DataType::Null => &DataType::Null,
            other if of.list => return Err(wrong(other.to_string())),
            other => other,
        };
        if !may_be(item, of.of) {
            return Err(wrong(array.data_type().to_string()));
        }
        // Zones say how a moment is shown, not which it is, and casts would look them up by name.
        let wanted = without_zone(&data_type(of));
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let array = cast_with_options(&without_zones(&array)?, &wanted, &options)
            .map_err(|_| wrong("what it cannot hold".to_owned()))?;
        let holed = of.list && array.as_list::<i32>().iter().flatten().any(|items| items.null_count() > 0);
        if holed {
            return Err(wrong("a list with nulls in it".to_owned()));
        }
        Ok(Column { array, of })
    }

    /// The value in a row.
    pub(crate) fn value(&self, row: usize) -> Value {
        if self.array.is_null(row) {
            return Value::Null;
        }
        if !self.of.list {
            return value(&self.array, self.of.of, row);
        }
        let items = self.array.as_list::<i32>().value(row);
        Value::List((0..items.len()).map(|at| value(&items, self.of.of, at)).collect())
    }

    /// The moment in a row; nothing where it is null.
    pub(crate) fn moment(&self, row: usize) -> Option<Moment> {
        let moments = self.array.as_primitive_opt::<TimestampMicrosecondType>()?;
        moments.is_valid(row).then(|| Moment(moments.value(row)))
    }
}

fn value(array: &ArrayRef, of: Scalar, row: usize) -> Value {
    match of {
        Scalar::Int32 => Value::Int32(array.as_primitive::<Int32Type>().value(row)),
        Scalar::Int64 => Value::Int64(array.as_primitive::<Int64Type>().value(row)),
        Scalar::Float32 => Value::Float32(array.as_primitive::<Float32Type>().value(row)),
        Scalar::Float64 => Value::Float64(array.as_primitive::<Float64Type>().value(row)),
        Scalar::Bool => Value::Bool(array.as_boolean().value(row)),
        Scalar::String => Value::String(array.as_string::<i32>().value(row).to_owned()),
        Scalar::Bytes => Value::Bytes(array.as_binary::<i32>().value(row).to_vec()),
        Scalar::UnixTimestamp => Value::Timestamp(Moment(array.as_primitive::<TimestampMicrosecondType>().value(row))),
    }
}

/// The column without dictionary.
fn plain(array: &ArrayRef) -> Result<ArrayRef, FeaturesError> {
    match array.data_type() {
        DataType::Dictionary(_, values) => Ok(cast_with_options(array, values, &CastOptions::default())?),
        _ => Ok(Arc::clone(array)),
    }
}

fn without_zone(of: &DataType) -> DataType {
    match of {
        DataType::Timestamp(unit, _) => DataType::Timestamp(*unit, None),
        DataType::List(item) => DataType::List(Arc::new(Field::new_list_field(without_zone(item.data_type()), true))),
        other => other.clone(),
    }
}

/// The same moments, of no zone.
fn without_zones(array: &ArrayRef) -> Result<ArrayRef, FeaturesError> {
    let bare = match array.data_type() {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, None),
        DataType::List(item) if matches!(item.data_type(), DataType::Timestamp(_, Some(_))) => {
            without_zone(array.data_type())
        }
        _ => return Ok(Arc::clone(array)),
    };
    let data = array.to_data();
    let rebuilt = match (&bare, data.child_data()) {
        (DataType::List(item), [child]) => {
            let child = child.clone().into_builder().data_type(item.data_type().clone()).build()?;
            data.into_builder().data_type(bare.clone()).child_data(vec![child]).build()?
        }
        _ => data.into_builder().data_type(bare).build()?,
    };
    Ok(arrow::array::make_array(rebuilt))
}

fn may_be(is: &DataType, of: Scalar) -> bool {
    use DataType as D;
    match of {
        Scalar::Int32 | Scalar::Int64 => is.is_integer() || *is == D::Null,
        Scalar::Float32 | Scalar::Float64 => is.is_numeric() || *is == D::Null,
        Scalar::Bool => matches!(is, D::Boolean | D::Null),
        Scalar::String => matches!(is, D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null),
        Scalar::Bytes => {
            matches!(is, D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) | D::Null)
        }
        Scalar::UnixTimestamp => matches!(is, D::Timestamp(..) | D::Date32 | D::Date64 | D::Null),
    }
}

/// A column of these values, each of that type or null.
pub(crate) fn build<'a>(of: FeatureType, values: impl Iterator<Item = &'a Value>) -> ArrayRef {
    match of.of {
        Scalar::Int32 => primitive::<Int32Type>(of, values, |value| match value {
            Value::Int32(value) => Some(*value),
            _ => None,
        }),
        Scalar::Int64 => primitive::<Int64Type>(of, values, |value| match value {
            Value::Int64(value) => Some(*value),
            _ => None,
        }),
        Scalar::Float32 => primitive::<Float32Type>(of, values, |value| match value {
            Value::Float32(value) => Some(*value),
            _ => None,
        }),
        Scalar::Float64 => primitive::<Float64Type>(of, values, |value| match value {
            Value::Float64(value) => Some(*value),
            _ => None,
        }),
        Scalar::UnixTimestamp => primitive::<TimestampMicrosecondType>(of, values, |value| match value {
            Value::Timestamp(value) => Some(value.0),
            _ => None,
        }),
        Scalar::Bool => gather(of, values, BooleanBuilder::new(), |builder, value| match value {
            Value::Bool(value) => builder.append_value(*value),
            _ => builder.append_null(),
        }),
        Scalar::String => gather(of, values, StringBuilder::new(), |builder, value| match value {
            Value::String(value) => builder.append_value(value),
            _ => builder.append_null(),
        }),
        Scalar::Bytes => gather(of, values, BinaryBuilder::new(), |builder, value| match value {
            Value::Bytes(value) => builder.append_value(value),
            _ => builder.append_null(),
        }),
    }
}

fn primitive<'a, T: ArrowPrimitiveType>(
    of: FeatureType,
    values: impl Iterator<Item = &'a Value>,
    native: impl Fn(&Value) -> Option<T::Native>,
) -> ArrayRef {
    let builder = PrimitiveBuilder::<T>::new().with_data_type(scalar_type(of.of));
    gather(of, values, builder, |builder, value| builder.append_option(native(value)))
}

fn gather<'a, B: arrow::array::ArrayBuilder>(
    of: FeatureType,
    values: impl Iterator<Item = &'a Value>,
    mut builder: B,
    append: impl Fn(&mut B, &Value),
) -> ArrayRef {
    if !of.list {
        values.for_each(|value| append(&mut builder, value));
        return Arc::new(builder.finish());
    }
    let mut lists = ListBuilder::new(builder).with_field(Field::new_list_field(scalar_type(of.of), true));
    for value in values {
        if let Value::List(items) = value {
            items.iter().for_each(|item| append(lists.values(), item));
        }
        lists.append(matches!(value, Value::List(_)));
    }
    Arc::new(lists.finish())
}

/// A column of moments.
pub(crate) fn moments(values: impl Iterator<Item = Option<Moment>>) -> ArrayRef {
    let values: TimestampMicrosecondArray = values.map(|value| value.map(|value| value.0)).collect();
    Arc::new(values.with_timezone("UTC"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::{
        Date32Array, DictionaryArray, Float64Array, Int8Array, Int64Array, StringArray, StringViewArray,
        TimestampNanosecondArray, UInt64Array,
    };

    #[test]
    fn every_type_survives_being_built_and_read() {
        let scalar = |of| match of {
            Scalar::Int32 => Value::Int32(-1),
            Scalar::Int64 => Value::Int64(i64::MAX),
            Scalar::Float32 => Value::Float32(0.5),
            Scalar::Float64 => Value::Float64(-0.1),
            Scalar::Bool => Value::Bool(true),
            Scalar::String => Value::String("ü".to_owned()),
            Scalar::Bytes => Value::Bytes(vec![0, 255]),
            Scalar::UnixTimestamp => Value::Timestamp(Moment(-7)),
        };
        for of in FeatureType::all() {
            let some = if of.list { Value::List(vec![scalar(of.of); 2]) } else { scalar(of.of) };
            let values = [Value::Null, some, Value::Null];
            let array = build(of, values.iter());
            assert_eq!(*array.data_type(), data_type(of));
            let column = Column::new("x", &array, of).unwrap();
            let read: Vec<Value> = (0..3).map(|row| column.value(row)).collect();
            assert_eq!(read, values, "{of}");
        }
    }

    #[test]
    fn what_others_write_is_read() {
        let one = FeatureType::one;
        let columns: [(ArrayRef, FeatureType, Value); 7] = [
            (Arc::new(Int8Array::from(vec![3])), one(Scalar::Int64), Value::Int64(3)),
            (Arc::new(UInt64Array::from(vec![3])), one(Scalar::Int32), Value::Int32(3)),
            (Arc::new(Int64Array::from(vec![3])), one(Scalar::Float64), Value::Float64(3.0)),
            (Arc::new(StringViewArray::from(vec!["a"])), one(Scalar::String), Value::String("a".to_owned())),
            (
                Arc::new(DictionaryArray::<Int32Type>::from_iter(["a"])),
                one(Scalar::String),
                Value::String("a".to_owned()),
            ),
            (
                Arc::new(TimestampNanosecondArray::from(vec![5_000]).with_timezone("Europe/Warsaw")),
                one(Scalar::UnixTimestamp),
                Value::Timestamp(Moment(5)),
            ),
            (
                Arc::new(Date32Array::from(vec![1])),
                one(Scalar::UnixTimestamp),
                Value::Timestamp(Moment(86_400_000_000)),
            ),
        ];
        for (array, of, value) in columns {
            assert_eq!(Column::new("x", &array, of).unwrap().value(0), value, "{array:?}");
        }
    }

    #[test]
    fn what_would_change_the_value_is_refused() {
        let one = FeatureType::one;
        let columns: [(ArrayRef, FeatureType); 4] = [
            (Arc::new(Float64Array::from(vec![1.5])), one(Scalar::Int64)),
            (Arc::new(UInt64Array::from(vec![u64::MAX])), one(Scalar::Int64)),
            (Arc::new(StringArray::from(vec!["1"])), one(Scalar::Int64)),
            (Arc::new(Int64Array::from(vec![1])), FeatureType::list(Scalar::Int64)),
        ];
        for (array, of) in columns {
            assert!(Column::new("x", &array, of).is_err(), "{array:?}");
        }
    }
}
