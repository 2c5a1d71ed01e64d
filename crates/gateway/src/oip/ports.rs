//! What a model takes and gives, as the protocol names it.

use halny_engine::{ElementType, Port};
use halny_residency::{Inference, LoadedModel};
use halny_types::Fault;
use halny_types::project::TaskKind;
use halny_types::{ModelName, ModelVersion};

use super::tensors::{Given, shown};
use crate::ApiError;

/// Dimensions that a refusal repeats.
const SHOWN_DIMS_MAX: usize = 16;

/// The type of an input's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Datatype {
    /// Numbers or booleans.
    Number(ElementType),
    /// Byte strings: texts or image files.
    Bytes,
}

impl Datatype {
    /// Its name in the protocol.
    pub(super) fn name(self) -> &'static str {
        match self {
            Datatype::Number(element) => element.oip_name(),
            Datatype::Bytes => "BYTES",
        }
    }
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortView {
    pub(super) name: String,
    pub(super) datatype: Datatype,
    /// -1 stands for any length.
    pub(super) shape: Vec<i64>,
}

/// What a model takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) inputs: Vec<PortView>,
    pub(super) outputs: Vec<PortView>,
}

impl Ports {
    /// The graph's own for `tensor` (and for `rerank`, which this protocol does not reach); for the
    /// other tasks texts or images in, and vectors or scores out.
    pub(super) fn of(model: &Inference) -> Ports {
        let task = &model.task;
        let length = |known: Option<usize>| known.and_then(|known| i64::try_from(known).ok()).unwrap_or(-1);
        let strings = |name: &str| PortView { name: name.to_owned(), datatype: Datatype::Bytes, shape: vec![-1] };
        let singles = |name: &str, width: Option<usize>| PortView {
            name: name.to_owned(),
            datatype: Datatype::Number(ElementType::F32),
            shape: vec![-1, length(width)],
        };
        let (input, output) = match task.kind() {
            TaskKind::Embed => (strings("text"), singles("embedding", task.dimensions())),
            TaskKind::ClassifyText => (strings("text"), singles("scores", Some(task.labels().len()))),
            TaskKind::ClassifyImage => (strings("image"), singles("scores", Some(task.labels().len()))),
            TaskKind::Tensor | TaskKind::Rerank | TaskKind::Generate => {
                let view = |port: &Port| PortView {
                    name: port.name.clone(),
                    datatype: Datatype::Number(port.element),
                    shape: port.oip_shape(),
                };
                let signature = &model.signature;
                return Ports {
                    inputs: signature.inputs.iter().map(view).collect(),
                    outputs: signature.outputs.iter().map(view).collect(),
                };
            }
        };
        Ports { inputs: vec![input], outputs: vec![output] }
    }

    /// Those of a tensor model; a language model takes a text and gives one, by the protocol's
    /// `generate` extension.
    pub(super) fn of_model(model: &LoadedModel) -> Ports {
        if let Some(inference) = model.inference() {
            return Ports::of(inference);
        }
        let text = |name: &str| PortView { name: name.to_owned(), datatype: Datatype::Bytes, shape: vec![1] };
        Ports { inputs: vec![text("text_input")], outputs: vec![text("text_output")] }
    }

    /// The inputs of a request in the model's order, each with its shape.
    ///
    /// # Errors
    /// When one is unknown, missing, there twice, or of another datatype or shape.
    pub(super) fn sort(&self, given: Vec<Given>) -> Result<Vec<(Given, Vec<usize>)>, ApiError> {
        let mut places: Vec<Option<(Given, Vec<usize>)>> = self.inputs.iter().map(|_| None).collect();
        for input in given {
            let found = self.inputs.iter().zip(&mut places).find(|(port, _)| port.name == input.name);
            let Some((port, place)) = found else {
                let text = format!("the model has no input {}; it takes {}", shown(&input.name), list(&self.inputs));
                return Err(ApiError::invalid(text).with_param("inputs"));
            };
            if place.is_some() {
                return Err(input.refused("it is given twice"));
            }
            let shape = port.accept(&input)?;
            *place = Some((input, shape));
        }
        let missing = |(port, place): (&PortView, Option<_>)| {
            place.ok_or_else(|| {
                let text = format!("the input {:?} is missing; the model takes {}", port.name, list(&self.inputs));
                ApiError::invalid(text).with_param("inputs")
            })
        };
        self.inputs.iter().zip(places).map(missing).collect()
    }

    /// The place of the output of that name.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn output(&self, name: &str) -> Result<usize, ApiError> {
        self.outputs.iter().position(|port| port.name == name).ok_or_else(|| {
            let text = format!("the model has no output {}; it gives {}", shown(name), list(&self.outputs));
            ApiError::invalid(text).with_param("outputs")
        })
    }
}

impl PortView {
    /// The shape of what was given, where it may stand here.
    fn accept(&self, given: &Given) -> Result<Vec<usize>, ApiError> {
        if given.datatype != self.datatype.name() {
            let problem = format!("it takes {} elements, {} were given", self.datatype.name(), shown(&given.datatype));
            return Err(given.refused(problem));
        }
        let refused = || {
            let more = if given.shape.len() > SHOWN_DIMS_MAX { " and more" } else { "" };
            let begin = given.shape.get(..SHOWN_DIMS_MAX).unwrap_or(&given.shape);
            let wanted = &self.shape;
            given
                .refused(format!("it takes the shape {wanted:?} (-1 stands for any length), {begin:?}{more} was given"))
        };
        if given.shape.len() != self.shape.len() {
            return Err(refused());
        }
        let one = |(wanted, length): (&i64, &i64)| {
            let fits = *wanted == -1 || wanted == length;
            usize::try_from(*length).ok().filter(|_| fits).ok_or_else(refused)
        };
        self.shape.iter().zip(&given.shape).map(one).collect()
    }
}

fn list(ports: &[PortView]) -> String {
    let one = |port: &PortView| format!("{:?} ({} {:?})", port.name, port.datatype.name(), port.shape);
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The library that runs a model, as Triton names platforms.
pub(super) fn platform(model: &LoadedModel) -> String {
    match backend(model) {
        "onnxruntime" => "onnxruntime_onnx".to_owned(),
        other => other.to_owned(),
    }
}

/// The library that runs a model, without its version.
pub(super) fn backend(model: &LoadedModel) -> &str {
    model.engine.split(' ').next().unwrap_or_default()
}

/// Refuses a version that is not the one that is served. Its first 12 digits name it too; no
/// version at all is any.
///
/// # Errors
/// Which version is served.
pub(super) fn check_version(name: &ModelName, version: &ModelVersion, asked: &str) -> Result<(), ApiError> {
    let served = version.to_string();
    if asked.is_empty() || asked == served || asked == version.short() {
        return Ok(());
    }
    let (name, asked) = (name.as_str(), shown(asked));
    let text = format!("the model {name:?} has no version {asked} here; {served} is served: name that one or none");
    Err(ApiError::new(Fault::Missing, text).with_param("version"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tensors::Content;
    use super::*;

    fn ports() -> Ports {
        let port = |name: &str, shape: &[i64]| PortView {
            name: name.to_owned(),
            datatype: Datatype::Number(ElementType::I64),
            shape: shape.to_vec(),
        };
        Ports { inputs: vec![port("a", &[-1, 2]), port("b", &[-1])], outputs: vec![port("y", &[-1])] }
    }

    fn given(name: &str, shape: &[i64]) -> Given {
        Given { name: name.to_owned(), datatype: "INT64".to_owned(), shape: shape.to_vec(), content: Content::Nothing }
    }

    #[test]
    fn inputs_come_in_the_models_order_whatever_order_they_were_sent_in() {
        let sorted = ports().sort(vec![given("b", &[3]), given("a", &[4, 2])]).unwrap();
        let names: Vec<_> = sorted.iter().map(|(given, shape)| (given.name.as_str(), shape.clone())).collect();
        assert_eq!(names, [("a", vec![4, 2]), ("b", vec![3])]);
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused_by_name() {
        let refused = |given: Vec<Given>| ports().sort(given).unwrap_err().message().to_owned();
        assert!(refused(vec![given("a", &[1, 2])]).contains("\"b\" is missing"));
        assert!(refused(vec![given("c", &[1])]).contains("no input \"c\""));
        assert!(refused(vec![given("b", &[1]), given("b", &[1])]).contains("\"b\": it is given twice"));
        assert!(refused(vec![given("b", &[-1])]).contains("\"b\": it takes the shape [-1]"));
        assert!(refused(vec![given("a", &[1, 3])]).contains("\"a\""));
        assert!(refused(vec![given("a", &[2])]).contains("[-1, 2]"));
        let typed = Given { datatype: "FP32".to_owned(), ..given("b", &[1]) };
        assert!(refused(vec![typed]).contains("takes INT64 elements, \"FP32\" were given"));
        let long = refused(vec![given(&"n".repeat(10_000), &vec![1; 10_000])]);
        assert!(long.len() < 500, "{} characters", long.len());
        assert!(refused(vec![given("a", &vec![1; 10_000])]).len() < 300);
        assert!(ports().output("z").unwrap_err().message().contains("gives \"y\""));
    }
}
