//! Which inputs and outputs of a graph a task uses, and how.

use halny_engine::{Dim, ElementType, Port, Signature};
use halny_types::project::Pooling;

use crate::TaskError;

/// What an input of a text graph is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Ids,
    Mask,
    Segments,
}

/// The inputs of a text graph, in the signature's order.
#[derive(Clone, Debug)]
pub(crate) struct TextPorts {
    pub(crate) ports: Vec<(Role, ElementType)>,
    /// The length every batch is padded to; free where `None`.
    pub(crate) fixed_length: Option<usize>,
    pub(crate) batchable: bool,
}

/// Where the vectors of texts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VectorPort {
    pub(crate) output: usize,
    /// `None`: the graph gives one vector a text, `[batch, dimensions]`. Otherwise one a token,
    /// `[batch, tokens, dimensions]`.
    pub(crate) pooling: Option<Pooling>,
    pub(crate) dimensions: Option<usize>,
}

fn list(ports: &[Port]) -> String {
    let one = |port: &Port| format!("{} {} {:?}", port.name, port.element, port.oip_shape());
    if ports.is_empty() { "none".to_owned() } else { ports.iter().map(one).collect::<Vec<_>>().join(", ") }
}

/// Whether items may be joined along the outermost dimension, or there is room for one only.
pub(crate) fn batch_dim(port: &Port) -> Result<bool, TaskError> {
    match port.dims.first() {
        Some(Dim::Free(_)) => Ok(true),
        Some(Dim::Fixed(1)) => Ok(false),
        _ => Err(TaskError::Graph(format!(
            "the graph's port {:?} has the shape {:?}; its outermost dimension has to be the batch: free, or 1",
            port.name,
            port.oip_shape()
        ))),
    }
}

impl TextPorts {
    pub(crate) fn of(signature: &Signature) -> Result<TextPorts, TaskError> {
        let mut text = TextPorts { ports: Vec::new(), fixed_length: None, batchable: true };
        for port in &signature.inputs {
            let role = match port.name.as_str() {
                "input_ids" => Role::Ids,
                "attention_mask" => Role::Mask,
                "token_type_ids" => Role::Segments,
                other => {
                    return Err(TaskError::Graph(format!(
                        "the graph has an input {other:?}; text tasks fill input_ids, attention_mask and \
                         token_type_ids only: export the graph without it, or serve it as task \"tensor\""
                    )));
                }
            };
            if !matches!(port.element, ElementType::I64 | ElementType::I32) {
                return Err(TaskError::Graph(format!(
                    "the graph's input {:?} takes {} elements; text inputs are INT64 or INT32",
                    port.name, port.element
                )));
            }
            text.batchable &= batch_dim(port)?;
            match port.dims.as_slice() {
                [_, Dim::Free(_)] => {}
                [_, Dim::Fixed(length)] if text.fixed_length.is_none_or(|other| other == *length) && *length > 0 => {
                    text.fixed_length = Some(*length);
                }
                _ => {
                    return Err(TaskError::Graph(format!(
                        "the graph's input {:?} has the shape {:?}; text inputs have the shape [batch, tokens]",
                        port.name,
                        port.oip_shape()
                    )));
                }
            }
            text.ports.push((role, port.element));
        }
        if !text.has(Role::Ids) {
            return Err(TaskError::Graph(format!(
                "the graph has no input \"input_ids\"; its inputs are {}",
                list(&signature.inputs)
            )));
        }
        Ok(text)
    }

    pub(crate) fn has(&self, role: Role) -> bool {
        self.ports.iter().any(|(known, _)| *known == role)
    }
}

fn is_float(port: &Port) -> bool {
    matches!(port.element, ElementType::F32 | ElementType::F16)
}

impl VectorPort {
    /// Chooses the output: `asked` (from the project file) wants token vectors; otherwise
    /// `sentence_embedding`, `last_hidden_state`, or the first that fits. `filed` is the pooling of
    /// the model's own files.
    pub(crate) fn of(
        signature: &Signature,
        asked: Option<Pooling>,
        filed: impl FnOnce() -> Result<Option<Pooling>, TaskError>,
    ) -> Result<VectorPort, TaskError> {
        let fits: Vec<(usize, &Port)> = signature
            .outputs
            .iter()
            .enumerate()
            .filter(|(_, port)| is_float(port) && matches!(port.dims.len(), 2 | 3))
            .collect();
        let rank = |rank: usize| move |(_, port): &&(usize, &Port)| port.dims.len() == rank;
        let named = |name: &str| fits.iter().find(|(_, port)| port.name == name);
        let found = match asked {
            Some(_) => {
                let by_name = ["last_hidden_state", "token_embeddings"].into_iter().find_map(named);
                by_name.filter(rank(3)).or_else(|| fits.iter().find(rank(3)))
            }
            None => named("sentence_embedding").or_else(|| named("last_hidden_state")).or_else(|| fits.first()),
        };
        let (output, port) = found.ok_or_else(|| {
            let outputs = list(&signature.outputs);
            TaskError::Graph(match asked {
                Some(_) => format!(
                    "`text.pooling` is set, but the graph gives no token vectors [batch, tokens, dimensions] to \
                     pool; remove it, or export such an output. The outputs are {outputs}"
                ),
                None => format!(
                    "the graph has no output of FP32 or FP16 with the shape [batch, dimensions] or [batch, tokens, \
                     dimensions]; its outputs are {outputs}"
                ),
            })
        })?;
        let pooling = match (port.dims.len(), asked) {
            (2, _) => None,
            (_, Some(asked)) => Some(asked),
            (_, None) => Some(filed()?.unwrap_or(Pooling::Mean)),
        };
        Ok(VectorPort { output: *output, pooling, dimensions: fixed(port.dims.last()) })
    }
}

fn fixed(dim: Option<&Dim>) -> Option<usize> {
    match dim {
        Some(Dim::Fixed(length)) => Some(*length),
        _ => None,
    }
}

/// The output that holds scores, `[batch, scores]` with any further dimensions being 1, and how
/// many scores it has where that is fixed. `logits` if there, else the first that fits.
pub(crate) fn score_port(signature: &Signature) -> Result<(usize, Option<usize>), TaskError> {
    let shaped = |port: &Port| {
        let inner = port.dims.get(1..).unwrap_or(&[]);
        let rest_is_one = inner.iter().skip(1).all(|dim| *dim == Dim::Fixed(1));
        (is_float(port) && !port.dims.is_empty() && rest_is_one)
            .then(|| if inner.is_empty() { Some(1) } else { fixed(inner.first()) })
    };
    let mut fits = signature.outputs.iter().enumerate().filter_map(|(i, port)| Some((i, port, shaped(port)?)));
    let chosen = fits.clone().find(|(_, port, _)| port.name == "logits").or_else(|| fits.next());
    let (output, _, scores) = chosen.ok_or_else(|| {
        TaskError::Graph(format!(
            "the graph has no output of FP32 or FP16 with the shape [batch, scores]; its outputs are {}",
            list(&signature.outputs)
        ))
    })?;
    Ok((output, scores))
}

/// Whether requests for the bare graph may be joined: every outermost dimension is free, and none
/// carries a name that says it is another length than the rest.
pub(crate) fn joins(signature: &Signature) -> bool {
    // Converters make up a name for each dimension they know nothing of; that says nothing.
    let telling = |name: &String| !name.is_empty() && !name.starts_with("unk__");
    let mut names = signature.inputs.iter().chain(&signature.outputs).filter_map(|port| match port.dims.first() {
        Some(Dim::Free(name)) if telling(name) => Some(name),
        _ => None,
    });
    let first = names.next();
    signature.is_batched() && names.all(|name| Some(name) == first)
}
