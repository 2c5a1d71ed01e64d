//! Rows in JSON, as pushes bring them: columns by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use arrow::record_batch::RecordBatch;
use halny_types::project::features::{FeatureType, Scalar};
use serde_json::{Map, Value as Json};

use crate::columns::{build, data_type};
use crate::offline::parts::{CREATED, EVENT};
use crate::{Asked, Features, FeaturesError, Moment, Value, View};

impl Features {
    /// Rows of a view from columns of JSON. Moments are seconds since 1970, or texts such as `2026-01-02T03:04:05Z`; those
    /// without a zone are in UTC.
    ///
    /// # Errors
    /// When there is no such view, or a value is of a wrong type. Columns that the view does not have stay, for who keeps
    /// the rows to refuse.
    pub fn rows_from_json(&self, view: &str, columns: &Map<String, Json>) -> Result<RecordBatch, FeaturesError> {
        let definitions = self.definitions();
        let view = definitions.view(view)?;
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        for (name, column) in columns {
            let of = value_type(view, name);
            let values = read_column(name, column, of)?;
            fields.push(Field::new(name, data_type(of), true));
            arrays.push(build(of, values.iter()));
        }
        if arrays.iter().any(|array| Some(array.len()) != arrays.first().map(|first| first.len())) {
            let wrong = "the columns are not of one length; send one value for each row in each of them";
            return Err(FeaturesError::Invalid(wrong.to_owned()));
        }
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
    }
}

impl Features {
    /// The columns that a request needs, from columns of JSON: join keys, and fields of the request. Others are left out.
    ///
    /// # Errors
    /// When something that is asked for is not there, or a value is of a wrong type. What is missing is told when it is
    /// asked for.
    pub fn columns_from_json(
        &self,
        asked: &Asked,
        columns: &Map<String, Json>,
    ) -> Result<BTreeMap<String, Vec<Value>>, FeaturesError> {
        let (_, selection) = self.definitions().selection(asked)?;
        let keys = selection.keys.iter().map(|part| (&part.name, part.value_type));
        let fields = selection.fields.iter().map(|(name, of, _)| (name, *of));
        let mut read_columns = BTreeMap::new();
        for (name, of) in keys.chain(fields) {
            let Some(column) = columns.get(name) else { continue };
            read_columns.insert(name.clone(), read_column(name, column, of)?);
        }
        Ok(read_columns)
    }
}

fn read_column(name: &str, column: &Json, of: FeatureType) -> Result<Vec<Value>, FeaturesError> {
    let wrong = || FeaturesError::Type {
        name: name.to_owned(),
        expected: "a list with one value for each row".to_owned(),
        is: "something else".to_owned(),
    };
    column.as_array().ok_or_else(wrong)?.iter().map(|value| read(name, value, of)).collect()
}

fn value_type(view: &View, name: &str) -> FeatureType {
    let key = view.keys.iter().find(|part| part.name == name).map(|part| part.value_type);
    let feature = || view.features.iter().find(|feature| feature.name == name).map(|feature| feature.value_type);
    let time = || [EVENT, CREATED].contains(&name).then_some(FeatureType::one(Scalar::UnixTimestamp));
    key.or_else(feature).or_else(time).unwrap_or(FeatureType::one(Scalar::String))
}

fn read(name: &str, value: &Json, of: FeatureType) -> Result<Value, FeaturesError> {
    match value {
        Json::String(text) if of == FeatureType::one(Scalar::UnixTimestamp) => {
            let wrong = || FeaturesError::Type {
                name: name.to_owned(),
                expected: "a time such as \"2026-01-02T03:04:05Z\", or seconds since 1970".to_owned(),
                is: "another text".to_owned(),
            };
            Moment::parse(text).map(Value::Timestamp).ok_or_else(wrong)
        }
        other => Value::from_json(name, other, of),
    }
}
