//! Small ONNX graphs for tests, written byte by byte.
//!
//! A graph in a test shows what is computed, and needs no file that someone has to fetch. The field
//! numbers are those of `onnx.proto3`; its writer is thirty lines, so no code generator is wanted.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::Path;

use halny_engine::{Dim, Element, ElementType};

/// The operator set of the graphs made here.
const OPSET: u64 = 17;

/// A dimension of this length.
#[must_use]
pub fn fixed(length: usize) -> Dim {
    Dim::Fixed(length)
}

/// A free dimension of this name.
#[must_use]
pub fn free(name: &str) -> Dim {
    Dim::Free(name.to_owned())
}

/// An attribute of a node.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// One integer.
    Int(i64),
    /// Several integers.
    Ints(Vec<i64>),
}

/// A graph being written.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Message,
    weights: Message,
    inputs: Message,
    outputs: Message,
}

impl Graph {
    /// A graph with nothing in it.
    #[must_use]
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Adds an input that is a tensor.
    #[must_use]
    pub fn input(mut self, name: &str, element: ElementType, dims: &[Dim]) -> Graph {
        self.inputs.message(11, &port(name, &tensor_type(code(element), dims)));
        self
    }

    /// Adds an output that is a tensor.
    #[must_use]
    pub fn output(mut self, name: &str, element: ElementType, dims: &[Dim]) -> Graph {
        self.outputs.message(12, &port(name, &tensor_type(code(element), dims)));
        self
    }

    /// Adds an input and an output of the same type, with an `Identity` between them, where the type
    /// is one that no engine here supports.
    #[must_use]
    pub fn pass(mut self, unsupported: Unsupported) -> Graph {
        let of = |field: u32, inner: Message| Message::default().with(field, &inner);
        let singles = tensor_type(code(ElementType::F32), &[free("n")]);
        let kind = match unsupported {
            Unsupported::Text => tensor_type(8, &[free("n")]),
            Unsupported::Sequence => of(4, of(1, singles)),
            Unsupported::Optional => of(9, of(1, singles)),
        };
        self.inputs.message(11, &port("x", &kind));
        self.outputs.message(12, &port("y", &kind));
        self.node("Identity", &["x"], &["y"], &[])
    }

    /// Adds a weight.
    #[must_use]
    pub fn weight<T: Element>(mut self, name: &str, shape: &[usize], elements: &[T]) -> Graph {
        let mut tensor = tensor_head(name, T::TYPE, shape);
        tensor.bytes(9, bytemuck::cast_slice(elements));
        self.weights.message(5, &tensor);
        self
    }

    /// Adds a weight of singles whose bytes lie in another file.
    #[must_use]
    pub fn weight_in_file(mut self, name: &str, shape: &[usize], location: &str) -> Graph {
        let mut tensor = tensor_head(name, ElementType::F32, shape);
        let mut entry = Message::default();
        entry.bytes(1, b"location");
        entry.bytes(2, location.as_bytes());
        tensor.message(13, &entry);
        tensor.number(14, 1);
        self.weights.message(5, &tensor);
        self
    }

    /// Adds a node.
    #[must_use]
    pub fn node(mut self, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, Attribute)]) -> Graph {
        let mut node = Message::default();
        inputs.iter().for_each(|name| node.bytes(1, name.as_bytes()));
        outputs.iter().for_each(|name| node.bytes(2, name.as_bytes()));
        node.bytes(4, op.as_bytes());
        for (name, value) in attributes {
            let mut attribute = Message::default();
            attribute.bytes(1, name.as_bytes());
            match value {
                Attribute::Int(value) => {
                    attribute.number(3, value.cast_unsigned());
                    attribute.number(20, 2);
                }
                Attribute::Ints(values) => {
                    values.iter().for_each(|value| attribute.number(8, value.cast_unsigned()));
                    attribute.number(20, 7);
                }
            }
            node.message(5, &attribute);
        }
        self.nodes.message(1, &node);
        self
    }

    /// The bytes of an `.onnx` file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut graph = Message::default();
        graph.0.extend_from_slice(&self.nodes.0);
        graph.bytes(2, b"test");
        for part in [&self.weights, &self.inputs, &self.outputs] {
            graph.0.extend_from_slice(&part.0);
        }
        let mut opset = Message::default();
        opset.number(2, OPSET);
        let mut model = Message::default();
        model.number(1, 8);
        model.message(7, &graph);
        model.message(8, &opset);
        model.0
    }

    /// Writes the `.onnx` file.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

/// Types of values that ONNX has and no engine here supports.
#[derive(Clone, Copy, Debug)]
pub enum Unsupported {
    /// A tensor of strings.
    Text,
    /// A sequence of tensors.
    Sequence,
    /// A tensor or nothing.
    Optional,
}

/// `y = 2x`, `[n, 4]` singles: the graph of the contract suite.
#[must_use]
pub fn doubling() -> Graph {
    let dims = [free("n"), fixed(4)];
    Graph::new()
        .input("x", ElementType::F32, &dims)
        .output("y", ElementType::F32, &dims)
        .weight("two", &[1], &[2.0f32])
        .node("Mul", &["x", "two"], &["y"], &[])
}

/// `y = x` of one element type, `[n, 3]`.
#[must_use]
pub fn identity(element: ElementType) -> Graph {
    let dims = [free("n"), fixed(3)];
    Graph::new().input("x", element, &dims).output("y", element, &dims).node("Identity", &["x"], &["y"], &[])
}

/// The weight in a row and column of every table made here, between -1 and 1.
#[must_use]
pub fn table_weight(row: usize, column: usize) -> f32 {
    ((row * 31 + column * 17 + row * column) % 97) as f32 / 48.0 - 1.0
}

fn table(rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|place| table_weight(place / columns, place % columns)).collect()
}

fn tokens(graph: Graph) -> Graph {
    let dims = [free("batch"), free("tokens")];
    graph.input("input_ids", ElementType::I64, &dims).input("attention_mask", ElementType::I64, &dims)
}

/// A text encoder whose answer for a token is its row of [`table_weight`]: `input_ids` and
/// `attention_mask`, `[batch, tokens]`, to `last_hidden_state`, `[batch, tokens, dim]`. An id that is not
/// below `vocabulary` makes the run fail.
#[must_use]
pub fn embed(vocabulary: usize, dim: usize) -> Graph {
    tokens(Graph::new())
        .output("last_hidden_state", ElementType::F32, &[free("batch"), free("tokens"), fixed(dim)])
        .weight("table", &[vocabulary, dim], &table(vocabulary, dim))
        .weight("last_axis", &[1], &[2i64])
        .node("Gather", &["table", "input_ids"], &["rows"], &[])
        .node("Cast", &["attention_mask"], &["mask"], &[("to", Attribute::Int(1))])
        .node("Unsqueeze", &["mask", "last_axis"], &["mask3"], &[])
        .node("Mul", &["rows", "mask3"], &["last_hidden_state"], &[])
}

/// A text classifier: `logits`, `[batch, labels]`, are the mean of the [`table_weight`] rows of the
/// tokens that `attention_mask` keeps. With one label it is a reranker.
#[must_use]
pub fn classify(vocabulary: usize, labels: usize) -> Graph {
    tokens(Graph::new())
        .output("logits", ElementType::F32, &[free("batch"), fixed(labels)])
        .weight("table", &[vocabulary, labels], &table(vocabulary, labels))
        .weight("last_axis", &[1], &[2i64])
        .weight("token_axis", &[1], &[1i64])
        .node("Gather", &["table", "input_ids"], &["rows"], &[])
        .node("Cast", &["attention_mask"], &["mask"], &[("to", Attribute::Int(1))])
        .node("Unsqueeze", &["mask", "last_axis"], &["mask3"], &[])
        .node("Mul", &["rows", "mask3"], &["kept"], &[])
        .node("ReduceSum", &["kept", "token_axis"], &["sum"], &[("keepdims", Attribute::Int(0))])
        .node("ReduceSum", &["mask", "token_axis"], &["count"], &[("keepdims", Attribute::Int(1))])
        .node("Div", &["sum", "count"], &["logits"], &[])
}

/// Where an image's channels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[batch, 3, side, side]`.
    ChannelsFirst,
    /// `[batch, side, side, 3]`.
    ChannelsLast,
}

/// An image classifier: `logits`, `[batch, labels]`, are the mean of each channel of `pixel_values`
/// times a `[3, labels]` table of [`table_weight`].
#[must_use]
pub fn image(layout: Layout, side: usize, labels: usize) -> Graph {
    let (dims, axes) = match layout {
        Layout::ChannelsFirst => ([free("batch"), fixed(3), fixed(side), fixed(side)], vec![2, 3]),
        Layout::ChannelsLast => ([free("batch"), fixed(side), fixed(side), fixed(3)], vec![1, 2]),
    };
    let reduce = [("axes", Attribute::Ints(axes)), ("keepdims", Attribute::Int(0))];
    Graph::new()
        .input("pixel_values", ElementType::F32, &dims)
        .output("logits", ElementType::F32, &[free("batch"), fixed(labels)])
        .weight("table", &[3, labels], &table(3, labels))
        .node("ReduceMean", &["pixel_values"], &["means"], &reduce)
        .node("MatMul", &["means", "table"], &["logits"], &[])
}

/// Two inputs and two outputs of different types: `a`, `[batch, 2]` 64-bit integers, and `b`, `[batch, 2]`
/// halves, to `sum = a + b` in singles and `twice = b + b` in halves.
#[must_use]
pub fn mixed() -> Graph {
    let dims = [free("batch"), fixed(2)];
    Graph::new()
        .input("a", ElementType::I64, &dims)
        .input("b", ElementType::F16, &dims)
        .output("sum", ElementType::F32, &dims)
        .output("twice", ElementType::F16, &dims)
        .node("Cast", &["a"], &["a32"], &[("to", Attribute::Int(1))])
        .node("Cast", &["b"], &["b32"], &[("to", Attribute::Int(1))])
        .node("Add", &["a32", "b32"], &["sum"], &[])
        .node("Add", &["b32", "b32"], &["twice32"], &[])
        .node("Cast", &["twice32"], &["twice"], &[("to", Attribute::Int(10))])
}

/// `layers` matrix products of `[n, width]` singles with `[width, width]` weights, each kept near 1 by
/// `Tanh`: a graph with weights worth packing and mapping.
#[must_use]
pub fn dense(width: usize, layers: usize) -> Graph {
    let dims = [free("n"), fixed(width)];
    let mut graph = Graph::new().input("x", ElementType::F32, &dims).output("y", ElementType::F32, &dims);
    let mut from = "x".to_owned();
    for layer in 0..layers {
        let weights: Vec<f32> = table(width, width).iter().map(|weight| weight / width as f32 * 4.0).collect();
        let (weight, product) = (format!("w{layer}"), format!("p{layer}"));
        let to = if layer + 1 == layers { "y".to_owned() } else { format!("h{layer}") };
        graph = graph
            .weight(&weight, &[width, width], &weights)
            .node("MatMul", &[&from, &weight], &[&product], &[])
            .node("Tanh", &[&product], &[&to], &[]);
        from = to;
    }
    graph
}

/// `TensorProto.DataType` of an element type.
fn code(element: ElementType) -> u64 {
    match element {
        ElementType::F32 => 1,
        ElementType::U8 => 2,
        ElementType::I8 => 3,
        ElementType::U16 => 4,
        ElementType::I16 => 5,
        ElementType::I32 => 6,
        ElementType::I64 => 7,
        ElementType::Bool => 9,
        ElementType::F16 => 10,
        ElementType::F64 => 11,
        ElementType::U32 => 12,
        ElementType::U64 => 13,
        ElementType::Bf16 => 16,
    }
}

fn tensor_head(name: &str, element: ElementType, shape: &[usize]) -> Message {
    let mut tensor = Message::default();
    shape.iter().for_each(|length| tensor.number(1, *length as u64));
    tensor.number(2, code(element));
    tensor.bytes(8, name.as_bytes());
    tensor
}

fn tensor_type(code: u64, dims: &[Dim]) -> Message {
    let mut shape = Message::default();
    for dim in dims {
        let mut one = Message::default();
        match dim {
            Dim::Fixed(length) => one.number(1, *length as u64),
            Dim::Free(name) => one.bytes(2, name.as_bytes()),
        }
        shape.message(1, &one);
    }
    let mut tensor = Message::default();
    tensor.number(1, code);
    tensor.message(2, &shape);
    Message::default().with(1, &tensor)
}

fn port(name: &str, kind: &Message) -> Message {
    let mut port = Message::default();
    port.bytes(1, name.as_bytes());
    port.message(2, kind);
    port
}

/// A protocol-buffers message being written.
#[derive(Clone, Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, message: &Message) {
        self.bytes(field, &message.0);
    }

    fn with(mut self, field: u32, message: &Message) -> Message {
        self.message(field, message);
        self
    }
}
