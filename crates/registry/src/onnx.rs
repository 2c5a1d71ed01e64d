//! Whether an ONNX file's tensors tell the truth, and which other files it reads.
//!
//! ONNX is a protobuf message. It is walked here in its wire format, from a stream: lengths are
//! compared with what encloses them, shapes with data, and the names of external data files are
//! collected; weights are skipped over, so a file of any size takes the same small memory.
//!
//! Not `prost` or ONNX Runtime's own loader: both build the whole message in memory before anything
//! can be refused, and the loader is the code that a crafted file is aimed at.
//!
//! Protobuf lets a message appear in pieces that are merged. No exporter writes that, and it would
//! let a shape and its data be checked apart, so a singular field that comes twice is refused.

mod tensor;
mod wire;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek},
    path::Path,
};

use tensor::{External, Tensor};
use wire::{Field, Refusal, Value, Wire};

use crate::{RegistryError, names};

/// How deep graphs may lie in graphs (the bodies of `If`, `Loop`, `Scan`).
pub const MAX_GRAPH_DEPTH: usize = 16;

/// The most external files one model may name: some exporters write one a tensor.
pub const MAX_EXTERNAL_FILES: usize = 4096;

/// The most fields walked through. A model of 100,000 nodes has about 5 million.
const MAX_FIELDS: u64 = 200_000_000;

/// The longest key or value of `external_data`.
const MAX_ENTRY_BYTES: u64 = 4096;

/// What a sound file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnnxSummary {
    /// Nodes of all graphs and functions.
    pub nodes: u64,
    /// Tensors of all graphs, nodes and functions.
    pub tensors: u64,
    /// External data files, relative to the ONNX file's folder, each with the number of bytes it
    /// must at least have.
    pub external: BTreeMap<String, u64>,
}

/// Walks the file at `path`, which the model calls `name`. The external files are named in the
/// result, not looked at.
///
/// # Errors
/// [`RegistryError::Malformed`] with what is wrong, or [`RegistryError::Io`].
pub fn walk_file(path: &Path, name: &str) -> Result<OnnxSummary, RegistryError> {
    let failed = |error| RegistryError::io("read", name, error);
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    walk(file, bytes).map_err(|reason| malformed(name, reason))
}

/// Walks the file `name` of the model at `root` (a canonical path), then looks at each external
/// file: it must be a regular file inside `root`, of an accepted format, with all bytes that the
/// tensors ask for.
///
/// # Errors
/// As [`walk_file`], and what is wrong with an external file.
pub fn check_file(root: &Path, name: &str) -> Result<OnnxSummary, RegistryError> {
    let path = names::contained(root, name, "the model")?;
    let summary = walk_file(&path, name)?;
    for (location, needed_bytes) in &summary.external {
        let external = names::sibling(name, location);
        crate::refused::check_name(&external)?;
        let path = names::contained(root, &external, name)?;
        let metadata = path.metadata().map_err(|e| RegistryError::io("look at", &external, e))?;
        if metadata.len() < *needed_bytes {
            let reason = format!(
                "its tensors need {needed_bytes} bytes of {}, which has {}",
                names::shown(&external),
                metadata.len()
            );
            return Err(malformed(name, reason));
        }
    }
    Ok(summary)
}

fn malformed(name: &str, reason: String) -> RegistryError {
    RegistryError::Malformed { file: name.to_owned(), format: "ONNX", reason }
}

/// Walks an ONNX model of `bytes` bytes.
///
/// # Errors
/// What is wrong, in words.
pub fn walk(reader: impl Read + Seek, bytes: u64) -> Result<OnnxSummary, String> {
    let mut walker = Walker { wire: Wire::new(reader, MAX_FIELDS), found: OnnxSummary::default() };
    walker.model(bytes)?;
    Ok(walker.found)
}

struct Walker<R> {
    wire: Wire<R>,
    found: OnnxSummary,
}

/// Refuses the second of what may come once.
fn once(seen: &mut bool, what: &str) -> Result<(), Refusal> {
    if std::mem::replace(seen, true) {
        return Err(format!("{what} comes twice where it may come once"));
    }
    Ok(())
}

fn wrong_type<T>(what: &str) -> Result<T, Refusal> {
    Err(format!("{what} is not of the type that ONNX gives it"))
}

/// The end of a field that must be a message or text.
fn message(field: Field, what: &str) -> Result<u64, Refusal> {
    match field.value {
        Value::Bytes { end, .. } => Ok(end),
        _ => wrong_type(what),
    }
}

impl<R: Read + Seek> Walker<R> {
    /// Goes past a field that is of no interest.
    fn pass(&mut self, field: Field) -> Result<(), Refusal> {
        match field.value {
            Value::Bytes { end, .. } => self.wire.skip_to(end),
            Value::Varint(_) | Value::Fixed32 | Value::Fixed64 => Ok(()),
        }
    }

    /// `ModelProto`.
    fn model(&mut self, end: u64) -> Result<(), Refusal> {
        let (mut has_version, mut has_graph) = (false, false);
        while let Some(field) = self.wire.field(end)? {
            match (field.number, field.value) {
                (1, Value::Varint(_)) => has_version = true,
                (1, _) => return wrong_type("the format version"),
                (7, _) => {
                    once(&mut has_graph, "the graph")?;
                    self.graph(message(field, "the graph")?, 1)?;
                }
                (20, _) => self.training(message(field, "training information")?)?,
                (25, _) => self.function(message(field, "a function")?)?,
                _ => self.pass(field)?,
            }
        }
        if !has_version || !has_graph {
            return Err("it has no format version or no graph, so it is no ONNX model".to_owned());
        }
        Ok(())
    }

    /// `TrainingInfoProto`: two graphs.
    fn training(&mut self, end: u64) -> Result<(), Refusal> {
        let mut seen = [false; 2];
        while let Some(field) = self.wire.field(end)? {
            match field.number {
                number @ (1 | 2) => {
                    once(&mut seen[usize::from(number == 2)], "a training graph")?;
                    self.graph(message(field, "a training graph")?, 1)?;
                }
                _ => self.pass(field)?,
            }
        }
        Ok(())
    }

    /// `FunctionProto`.
    fn function(&mut self, end: u64) -> Result<(), Refusal> {
        while let Some(field) = self.wire.field(end)? {
            match field.number {
                7 => self.node(message(field, "a node")?, 1)?,
                11 => self.attribute(message(field, "an attribute")?, 1)?,
                _ => self.pass(field)?,
            }
        }
        Ok(())
    }

    /// `GraphProto`.
    fn graph(&mut self, end: u64, depth: usize) -> Result<(), Refusal> {
        if depth > MAX_GRAPH_DEPTH {
            return Err(format!("graphs are nested deeper than {MAX_GRAPH_DEPTH} levels"));
        }
        while let Some(field) = self.wire.field(end)? {
            match field.number {
                1 => self.node(message(field, "a node")?, depth)?,
                5 => self.tensor(message(field, "an initializer")?)?,
                15 => self.sparse_tensor(message(field, "a sparse initializer")?)?,
                _ => self.pass(field)?,
            }
        }
        Ok(())
    }

    /// `NodeProto`.
    fn node(&mut self, end: u64, depth: usize) -> Result<(), Refusal> {
        self.found.nodes += 1;
        while let Some(field) = self.wire.field(end)? {
            match field.number {
                5 => self.attribute(message(field, "an attribute")?, depth)?,
                _ => self.pass(field)?,
            }
        }
        Ok(())
    }

    /// `AttributeProto`: tensors and graphs, alone or in lists.
    fn attribute(&mut self, end: u64, depth: usize) -> Result<(), Refusal> {
        let (mut tensor, mut graph, mut sparse) = (false, false, false);
        while let Some(field) = self.wire.field(end)? {
            match field.number {
                5 => {
                    once(&mut tensor, "an attribute's tensor")?;
                    self.tensor(message(field, "an attribute's tensor")?)?;
                }
                6 => {
                    once(&mut graph, "an attribute's graph")?;
                    self.graph(message(field, "an attribute's graph")?, depth + 1)?;
                }
                10 => self.tensor(message(field, "an attribute's tensor")?)?,
                11 => self.graph(message(field, "an attribute's graph")?, depth + 1)?,
                22 => {
                    once(&mut sparse, "an attribute's sparse tensor")?;
                    self.sparse_tensor(message(field, "a sparse tensor")?)?;
                }
                23 => self.sparse_tensor(message(field, "a sparse tensor")?)?,
                _ => self.pass(field)?,
            }
        }
        Ok(())
    }

    /// `SparseTensorProto`: values and indices are tensors; the dense shape must not overflow.
    fn sparse_tensor(&mut self, end: u64) -> Result<(), Refusal> {
        let mut seen = [false; 2];
        let mut dense = Tensor::default();
        while let Some(field) = self.wire.field(end)? {
            match field.number {
                number @ (1 | 2) => {
                    once(&mut seen[usize::from(number == 2)], "a sparse tensor's part")?;
                    self.tensor(message(field, "a sparse tensor's part")?)?;
                }
                3 => self.dims(field, &mut dense)?,
                _ => self.pass(field)?,
            }
        }
        crate::shape::elements(&dense.dims)
            .map(|_| ())
            .ok_or_else(|| "the shape of a sparse tensor overflows 64 bits".to_owned())
    }

    /// A shape, packed or one number a field.
    fn dims(&mut self, field: Field, tensor: &mut Tensor) -> Result<(), Refusal> {
        match field.value {
            Value::Varint(dim) => tensor.push_dim(dim),
            Value::Bytes { end, .. } => {
                while !self.wire.is_at(end) {
                    let dim = self.wire.varint(end)?;
                    tensor.push_dim(dim)?;
                }
                Ok(())
            }
            Value::Fixed32 | Value::Fixed64 => wrong_type("a dimension"),
        }
    }

    /// `TensorProto`.
    fn tensor(&mut self, end: u64) -> Result<(), Refusal> {
        self.found.tensors += 1;
        let mut tensor = Tensor::default();
        while let Some(field) = self.wire.field(end)? {
            match (field.number, field.value) {
                (1, _) => self.dims(field, &mut tensor)?,
                (2, Value::Varint(data_type)) => {
                    if tensor.data_type.replace(data_type).is_some() {
                        return Err("a tensor has its data type twice".to_owned());
                    }
                }
                (3, _) => return Err("a tensor is stored in segments".to_owned()),
                (4 | 5 | 7 | 10 | 11, _) => {
                    let values = self.typed_values(field)?;
                    tensor.add_typed(field.number, values)?;
                }
                (6, Value::Bytes { end, .. }) => {
                    self.wire.skip_to(end)?;
                    tensor.add_typed(6, 1)?;
                }
                (9, Value::Bytes { len, end }) => {
                    if tensor.raw_bytes.replace(len).is_some() {
                        return Err("a tensor has its raw data twice".to_owned());
                    }
                    self.wire.skip_to(end)?;
                }
                (13, Value::Bytes { end, .. }) => {
                    let external = tensor.external.get_or_insert_default();
                    self.external_entry(end, external)?;
                }
                (14, Value::Varint(location @ (0 | 1))) => {
                    if tensor.is_external.replace(location == 1).is_some() {
                        return Err("a tensor has its data location twice".to_owned());
                    }
                }
                (2 | 6 | 9 | 13 | 14, _) => return wrong_type("a field of a tensor"),
                _ => self.pass(field)?,
            }
        }
        self.take_external(tensor)
    }

    fn take_external(&mut self, tensor: Tensor) -> Result<(), Refusal> {
        let Some((location, needed_bytes)) = tensor.check()? else { return Ok(()) };
        let known = self.found.external.entry(location).or_default();
        *known = needed_bytes.max(*known);
        if self.found.external.len() > MAX_EXTERNAL_FILES {
            return Err(format!("it names more than {MAX_EXTERNAL_FILES} external files"));
        }
        Ok(())
    }

    /// How many values a typed data field holds; passes over them.
    fn typed_values(&mut self, field: Field) -> Result<u64, Refusal> {
        let fixed_bytes = match field.number {
            4 => Some(4),
            10 => Some(8),
            _ => None,
        };
        match (field.value, fixed_bytes) {
            (Value::Bytes { len, end }, Some(bytes)) => {
                self.wire.skip_to(end)?;
                if len % bytes != 0 {
                    return Err(format!("{len} bytes of typed data are no whole number of values"));
                }
                Ok(len / bytes)
            }
            (Value::Bytes { end, .. }, None) => self.wire.count_varints(end),
            (Value::Fixed32, Some(4)) | (Value::Fixed64, Some(8)) | (Value::Varint(_), None) => Ok(1),
            _ => wrong_type("typed data"),
        }
    }

    /// `StringStringEntryProto` of `external_data`.
    fn external_entry(&mut self, end: u64, external: &mut External) -> Result<(), Refusal> {
        let (mut key, mut value) = (None, None);
        while let Some(field) = self.wire.field(end)? {
            let slot = match field.number {
                1 => &mut key,
                2 => &mut value,
                _ => {
                    self.pass(field)?;
                    continue;
                }
            };
            let text = self.wire.bytes(message(field, "external data")?, MAX_ENTRY_BYTES)?;
            let text = String::from_utf8(text).map_err(|_| "external data has a text that is not UTF-8".to_owned())?;
            if slot.replace(text).is_some() {
                return Err("external data has an entry with two keys or values".to_owned());
            }
        }
        external.set(&key.unwrap_or_default(), value.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
