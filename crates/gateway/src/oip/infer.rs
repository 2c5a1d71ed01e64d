//! One inference, whichever surface asked for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use halny_engine::Tensor;
use halny_residency::Inference;
use halny_tasks::{Answer, Item, Task};
use halny_types::project::TaskKind;
use halny_types::{Fault, Tick};
use http::HeaderMap;

use super::parameters::{self, Parameters};
use super::ports::{Datatype, Ports, check_version};
use super::tensors::Given;
use super::{elements, tensors};
use crate::prepare::Admitted;
use crate::{ApiError, Shared, prepare};

/// Content that is worth this many bytes of JSON is decoded in the CPU pool: JSON numbers are read
/// at about 150 MB/s, so that 64 KiB take some 400 microseconds.
const DECODE_INLINE_BYTES_MAX: usize = 64 * 1024;

/// What a client asks for.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) model: String,
    /// Empty for the version that is served.
    pub(super) version: String,
    /// Comes back with the answer.
    pub(super) id: String,
    pub(super) parameters: Parameters,
    pub(super) inputs: Vec<Given>,
    /// Empty for all.
    pub(super) outputs: Vec<Wanted>,
    /// The form of outputs that nobody named.
    pub(super) binary: bool,
}

/// An output that is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) binary: bool,
    pub(super) parameters: Parameters,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) model: String,
    pub(super) version: String,
    pub(super) id: String,
    pub(super) outputs: Vec<Output>,
}

/// An output, in the form it was asked for.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) tensor: Tensor,
    pub(super) binary: bool,
}

/// Checks the request, decodes its tensors, runs them, and picks the outputs that are wanted.
/// `limit` is the time the surface's own convention gives it, counted from `arrived`.
///
/// # Errors
/// What is wrong with the request, why it was refused, or what went wrong.
pub(super) async fn infer(
    shared: &Shared,
    headers: &HeaderMap,
    arrived: Tick,
    limit: Option<Duration>,
    ask: Ask,
) -> Result<Reply, ApiError> {
    let model = prepare::model(
        shared,
        &ask.model,
        &[TaskKind::Tensor, TaskKind::Embed, TaskKind::ClassifyText, TaskKind::ClassifyImage],
    )?;
    check_version(&model.name, &model.version, &ask.version)?;
    parameters::check_request(&ask.parameters)?;
    let ports = Ports::of(&model);
    let picks = picks(&ports, ask.outputs, ask.binary)?;
    let inputs = ports.sort(ask.inputs)?;
    let asked = parameters::count(&ask.parameters, "timeout")?.filter(|micros| *micros > 0).map(Duration::from_micros);
    let limit = limit.into_iter().chain(asked).min();
    let admitted = prepare::admit(shared, headers, arrived, limit, &model)?;
    let tensors = if model.task.kind() == TaskKind::Tensor {
        let item = tensor_item(shared, &model, &ports, inputs).await?;
        match admitted.run_items(vec![item]).await?.answers.into_iter().next() {
            Some(Answer::Tensors(tensors)) => tensors,
            _ => return Err(ApiError::new(Fault::Ours, "the model did not give tensors")),
        }
    } else {
        vec![rows(of_strings(shared, &admitted, inputs).await?.into_iter())?]
    };
    let outputs = pick(picks, tensors)?;
    Ok(Reply { model: ask.model, version: model.version.to_string(), id: ask.id, outputs })
}

/// An output's name, its place among the model's, and whether it goes out as binary data.
type Pick = (String, usize, bool);

/// The outputs that are wanted.
fn picks(ports: &Ports, wanted: Vec<Wanted>, binary: bool) -> Result<Vec<Pick>, ApiError> {
    let picks = if wanted.is_empty() {
        ports.outputs.iter().enumerate().map(|(place, port)| (port.name.clone(), place, binary)).collect()
    } else {
        let mut seen = BTreeSet::new();
        let one = |wanted: Wanted| {
            let place = ports.output(&wanted.name)?;
            parameters::check_tensor(&wanted.parameters)?;
            if !seen.insert(place) {
                let text = format!("the output {} is asked for twice", tensors::shown(&wanted.name));
                return Err(ApiError::invalid(text).with_param("outputs"));
            }
            Ok((wanted.name, place, wanted.binary))
        };
        wanted.into_iter().map(one).collect::<Result<Vec<Pick>, ApiError>>()?
    };
    for (name, place, binary) in &picks {
        if let Some(Datatype::Number(element)) = ports.outputs.get(*place).map(|port| port.datatype)
            && !*binary
            && !elements::has_json_form(element)
        {
            let text = format!(
                "the output {name:?} is {element}, which has no form in JSON; ask for it with \"binary_data\": true"
            );
            return Err(ApiError::invalid(text).with_param("outputs"));
        }
    }
    Ok(picks)
}

async fn tensor_item(
    shared: &Shared,
    model: &Inference,
    ports: &Ports,
    inputs: Vec<(Given, Vec<usize>)>,
) -> Result<Item, ApiError> {
    let work: usize = inputs.iter().map(|(given, _)| given.work()).sum();
    let task = Arc::clone(&model.task);
    let datatypes: Vec<Datatype> = ports.inputs.iter().map(|port| port.datatype).collect();
    let decode = move || {
        let one = |((given, shape), datatype): (&(Given, Vec<usize>), Datatype)| match datatype {
            Datatype::Number(element) => given.tensor(element, shape),
            Datatype::Bytes => Err(given.refused("it takes no tensor")),
        };
        let tensors = inputs.iter().zip(datatypes).map(one).collect::<Result<Vec<Tensor>, ApiError>>()?;
        task.from_tensors(tensors).map_err(ApiError::from)
    };
    shared.pool.run_unless(work <= DECODE_INLINE_BYTES_MAX, decode).await?
}

async fn of_strings(
    shared: &Shared,
    admitted: &Admitted<'_>,
    inputs: Vec<(Given, Vec<usize>)>,
) -> Result<Vec<Answer>, ApiError> {
    let Some((given, shape)) = inputs.into_iter().next() else {
        return Err(ApiError::new(Fault::Ours, "the model takes no input"));
    };
    let (count, most) = (shape.iter().product::<usize>(), shared.limits.now().max_inputs_per_request);
    if count == 0 {
        return Err(given.refused("it is empty; give at least one element"));
    }
    if count > most {
        return Err(
            given.refused(format!("it has {count} elements, one request may have {most}; send several requests"))
        );
    }
    let texts = admitted.task().kind() != TaskKind::ClassifyImage;
    let small = given.work() <= DECODE_INLINE_BYTES_MAX;
    let decode = move || {
        let strings = given.strings(&shape)?;
        if let Some(place) = strings.iter().position(Bytes::is_empty) {
            return Err(given.refused(format!("element {place} is empty; leave it out")));
        }
        match strings.iter().position(|string| texts && std::str::from_utf8(string).is_err()) {
            Some(place) => Err(given.refused(format!("element {place} is not UTF-8"))),
            None => Ok(strings),
        }
    };
    let strings = shared.pool.run_unless(small, decode).await??;
    let done = if texts {
        // Checked above.
        let tokenise = |task: &Task, text: Bytes| Ok(task.tokenise(&String::from_utf8_lossy(&text))?);
        admitted.run(strings, Bytes::len, tokenise).await?
    } else {
        // A decoded image is far more work than its file: always in the pool.
        admitted.run(strings, |_| 1 << 20, |task, image: Bytes| Ok(task.decode_image(&image)?)).await?
    };
    Ok(done.answers)
}

/// Vectors or scores, one below the other: `[items, width]`.
fn rows(answers: impl Iterator<Item = Answer>) -> Result<Tensor, ApiError> {
    let broken = || ApiError::new(Fault::Ours, "the model did not give vectors or scores of one length");
    let mut all: Vec<f32> = Vec::new();
    let mut count = 0;
    for answer in answers {
        match answer {
            Answer::Vector(row) | Answer::Scores(row) => all.extend_from_slice(&row),
            Answer::Score(_) | Answer::Tensors(_) => return Err(broken()),
        }
        count += 1;
    }
    let width = all.len().checked_div(count).unwrap_or(0);
    Tensor::from_slice(&[count, width], &all).map_err(|_| broken())
}

fn pick(picks: Vec<Pick>, tensors: Vec<Tensor>) -> Result<Vec<Output>, ApiError> {
    let mut tensors: Vec<Option<Tensor>> = tensors.into_iter().map(Some).collect();
    let one = |(name, place, binary): Pick| {
        let tensor = tensors.get_mut(place).and_then(Option::take);
        let tensor = tensor.ok_or_else(|| ApiError::new(Fault::Ours, "the model did not give all of its outputs"))?;
        Ok(Output { name, tensor, binary })
    };
    picks.into_iter().map(one).collect()
}
