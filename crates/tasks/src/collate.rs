//! From items to the graph's inputs, and from its outputs to one answer an item.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use halny_engine::{Element, ElementType, EngineError, Tensor, TensorView};
use halny_types::project::Pooling;

use crate::answer::{normalise, sigmoid, softmax};
use crate::image::spec::{ImageSpec, Layout};
use crate::item::{Content, Item, Tokens};
use crate::ports::{Role, TextPorts, VectorPort};
use crate::{Answer, TaskError};

/// What one run takes and gives.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) input: InputPlan,
    pub(crate) output: OutputPlan,
}

#[derive(Debug)]
pub(crate) enum InputPlan {
    Text { ports: TextPorts, padding: u32 },
    Image(ImageSpec),
    Tensors(Vec<ElementType>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Softmax,
    Sigmoid,
    /// The graph gives probabilities.
    None,
}

#[derive(Debug)]
pub(crate) enum OutputPlan {
    Vector { port: VectorPort, normalise: bool },
    Scores { output: usize, labels: usize, activation: Activation },
    Score { output: usize, activation: Activation },
    Tensors { outputs: usize },
}

/// Joins items into the inputs of a run and cuts its outputs into answers. Its buffers are reused:
/// keep one for each device thread.
#[derive(Debug)]
pub struct Collator {
    plan: Arc<Plan>,
    inputs: Vec<Tensor>,
    /// Tokens in a row of the latest batch, padding counted.
    length: usize,
    /// An output's halves as singles.
    singles: Vec<f32>,
}

/// Gives a buffer its shape. One that has it already is not cleared: all of it is written anyway.
fn shape(tensor: &mut Tensor, element: ElementType, shape: &[usize]) -> Result<(), TaskError> {
    if tensor.element() == element && tensor.shape() == shape {
        return Ok(());
    }
    tensor.reset(element, shape).map_err(TaskError::Tensors)
}

impl Collator {
    pub(crate) fn new(plan: Arc<Plan>) -> Collator {
        let elements: Vec<ElementType> = match &plan.input {
            InputPlan::Text { ports, .. } => ports.ports.iter().map(|(_, element)| *element).collect(),
            InputPlan::Image(spec) => vec![spec.element],
            InputPlan::Tensors(elements) => elements.clone(),
        };
        let inputs = elements.into_iter().map(Tensor::empty).collect();
        Collator { plan, inputs, length: 0, singles: Vec::new() }
    }

    /// Joins the items, in order, into the graph's inputs; texts are padded on the right to the
    /// longest.
    ///
    /// # Errors
    /// [`TaskError::Mixed`] for items of other tasks, of different [groups](Item::group), or several
    /// where one is not [batchable](Item::is_batchable).
    pub fn collate(&mut self, items: &[&Item]) -> Result<(), TaskError> {
        let alone = items.len() == 1;
        let first = items.first().ok_or(TaskError::Mixed)?;
        if !alone && items.iter().any(|item| !item.batchable || item.group != first.group) {
            return Err(TaskError::Mixed);
        }
        let plan = Arc::clone(&self.plan);
        match &plan.input {
            InputPlan::Text { ports, padding } => self.join_texts(ports, *padding, items),
            InputPlan::Image(spec) => self.join_images(spec, items),
            InputPlan::Tensors(elements) => self.join_tensors(elements, items),
        }
    }

    /// The graph's inputs as [`Collator::collate`] made them, in the signature's order.
    #[must_use]
    pub fn inputs(&self) -> Vec<TensorView<'_>> {
        self.inputs.iter().map(Tensor::view).collect()
    }

    /// Elements of the latest batch along the padded axis, padding counted: tokens for text, rows
    /// otherwise.
    #[must_use]
    pub fn padded_elements(&self) -> usize {
        let rows = self.inputs.first().and_then(|input| input.shape().first().copied()).unwrap_or(0);
        rows * self.length.max(1)
    }

    fn join_texts(&mut self, ports: &TextPorts, padding: u32, items: &[&Item]) -> Result<(), TaskError> {
        let rows: Vec<&Tokens> = items.iter().map(|item| tokens(item)).collect::<Result<_, _>>()?;
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        self.length = ports.fixed_length.unwrap_or(longest);
        if longest > self.length {
            return Err(TaskError::Mixed);
        }
        for ((role, element), tensor) in ports.ports.iter().zip(&mut self.inputs) {
            shape(tensor, *element, &[rows.len(), self.length])?;
            match element {
                ElementType::I64 => fill::<i64>(tensor, *role, &rows, padding, self.length),
                _ => fill::<i32>(tensor, *role, &rows, padding, self.length),
            }
        }
        Ok(())
    }

    fn join_images(&mut self, spec: &ImageSpec, items: &[&Item]) -> Result<(), TaskError> {
        let Some(tensor) = self.inputs.first_mut() else { return Err(TaskError::Mixed) };
        shape(tensor, spec.element, &spec.shape(items.len()))?;
        let bytes = spec.levels() * spec.element.size();
        for (item, image) in items.iter().zip(tensor.bytes_mut().chunks_exact_mut(bytes)) {
            match &item.content {
                Content::Levels(levels) if levels.len() == spec.levels() => write_levels(spec, levels, image),
                _ => return Err(TaskError::Mixed),
            }
        }
        Ok(())
    }

    fn join_tensors(&mut self, elements: &[ElementType], items: &[&Item]) -> Result<(), TaskError> {
        let rows: usize = items.iter().map(|item| item.rows).sum();
        for (place, (element, joined)) in elements.iter().zip(&mut self.inputs).enumerate() {
            let first = tensors(items.first().ok_or(TaskError::Mixed)?)?.get(place).ok_or(TaskError::Mixed)?;
            if let [item] = items {
                debug_assert_eq!(tensors(item)?.len(), elements.len());
                shape(joined, *element, first.shape())?;
                joined.bytes_mut().copy_from_slice(first.bytes());
                continue;
            }
            let mut wanted = first.shape().to_vec();
            *wanted.first_mut().ok_or(TaskError::Mixed)? = rows;
            shape(joined, *element, &wanted)?;
            let mut rest = joined.bytes_mut();
            for item in items {
                let tensor = tensors(item)?.get(place).ok_or(TaskError::Mixed)?;
                // Two shapes may share a hash.
                if tensor.shape().get(1..) != wanted.get(1..) || tensor.bytes().len() > rest.len() {
                    return Err(TaskError::Mixed);
                }
                let (part, behind) = rest.split_at_mut(tensor.bytes().len());
                part.copy_from_slice(tensor.bytes());
                rest = behind;
            }
        }
        Ok(())
    }

    /// Cuts the outputs of the run over the latest batch into one answer for each item, in order.
    ///
    /// # Errors
    /// [`TaskError::Outputs`] when they are not as the signature promises; [`TaskError::NotFinite`]
    /// when an answer holds an infinity or a NaN: run the items one by one to learn which.
    pub fn split(&mut self, items: &[&Item], outputs: &[Tensor]) -> Result<Vec<Answer>, TaskError> {
        let plan = Arc::clone(&self.plan);
        let output = match &plan.output {
            OutputPlan::Vector { port, .. } => port.output,
            OutputPlan::Scores { output, .. } | OutputPlan::Score { output, .. } => *output,
            OutputPlan::Tensors { outputs: wanted } => return split_tensors(items, outputs, *wanted),
        };
        let tensor = outputs.get(output).ok_or_else(|| differs(format!("there is no output {output}")))?;
        if tensor.shape().first() != Some(&items.len()) {
            return Err(differs(format!("{} items gave the shape {:?}", items.len(), tensor.shape())));
        }
        let elements = singles(tensor, &mut self.singles)?;
        let row = elements.len() / items.len().max(1);
        let mut answers = Vec::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            let row = &elements[place * row..(place + 1) * row];
            answers.push(match &plan.output {
                OutputPlan::Vector { port, normalise } => vector(port, *normalise, item, tensor.shape(), row)?,
                OutputPlan::Scores { labels, activation, .. } => scores(*labels, *activation, row)?,
                OutputPlan::Score { activation, .. } => match (row, activation) {
                    ([score], Activation::None) => Answer::Score(finite(*score)?),
                    ([logit], _) => Answer::Score(sigmoid(finite(*logit)?)),
                    _ => return Err(differs(format!("a pair gave {} scores", row.len()))),
                },
                OutputPlan::Tensors { .. } => return Err(TaskError::Mixed),
            });
        }
        Ok(answers)
    }
}

fn tokens<'a>(item: &&'a Item) -> Result<&'a Tokens, TaskError> {
    match &item.content {
        Content::Tokens(tokens) => Ok(tokens),
        _ => Err(TaskError::Mixed),
    }
}

fn tensors<'a>(item: &&'a Item) -> Result<&'a [Tensor], TaskError> {
    match &item.content {
        Content::Tensors(tensors) => Ok(tensors),
        _ => Err(TaskError::Mixed),
    }
}

/// An integer that holds token ids.
trait Whole: Element {
    fn of(id: u32) -> Self;
}

impl Whole for i64 {
    fn of(id: u32) -> i64 {
        i64::from(id)
    }
}

impl Whole for i32 {
    fn of(id: u32) -> i32 {
        id as i32
    }
}

fn fill<T: Whole>(tensor: &mut Tensor, role: Role, rows: &[&Tokens], padding: u32, length: usize) {
    let Some(elements) = tensor.elements_mut::<T>() else { return };
    for (row, tokens) in elements.chunks_exact_mut(length.max(1)).zip(rows) {
        let (used, pad) = row.split_at_mut(tokens.ids.len());
        match role {
            Role::Ids => {
                used.iter_mut().zip(&tokens.ids).for_each(|(place, id)| *place = T::of(*id));
                pad.fill(T::of(padding));
            }
            Role::Mask => {
                used.fill(T::of(1));
                pad.fill(T::of(0));
            }
            Role::Segments if tokens.types.is_empty() => row.fill(T::of(0)),
            Role::Segments => {
                used.iter_mut().zip(&tokens.types).for_each(|(place, segment)| *place = T::of(u32::from(*segment)));
                pad.fill(T::of(0));
            }
        }
    }
}

/// Pixels whose factors are laid out one behind the other, so that the loop over interleaved levels
/// has no channel to look up: 48 levels fill whole vectors of any width.
const RUN: usize = 16 * 3;

/// `level * factor + offset`, in the graph's type.
fn write_levels(spec: &ImageSpec, levels: &[u8], image: &mut [u8]) {
    match spec.element {
        ElementType::U8 => image.copy_from_slice(levels),
        ElementType::F16 => {
            let halves: &mut [f16] = bytemuck::cast_slice_mut(image);
            let mut run = [0.0; RUN];
            for_each_run(spec, levels, RUN, |at, levels, factor, offset| {
                let run = &mut run[..levels.len()];
                affine(levels, run, factor, offset);
                halves[at..at + run.len()].convert_from_f32_slice(run);
            });
        }
        _ => {
            let singles: &mut [f32] = bytemuck::cast_slice_mut(image);
            for_each_run(spec, levels, RUN, |at, levels, factor, offset| {
                affine(levels, &mut singles[at..at + levels.len()], factor, offset);
            });
        }
    }
}

fn affine(levels: &[u8], out: &mut [f32], factor: &[f32; RUN], offset: &[f32; RUN]) {
    for (((out, level), factor), offset) in out.iter_mut().zip(levels).zip(factor).zip(offset) {
        *out = f32::from(*level) * factor + offset;
    }
}

/// Calls with each run of levels, its place, and its factors and offsets.
fn for_each_run(
    spec: &ImageSpec,
    levels: &[u8],
    run: usize,
    mut each: impl FnMut(usize, &[u8], &[f32; RUN], &[f32; RUN]),
) {
    let planes = match spec.layout {
        Layout::Nhwc => levels.len(),
        Layout::Nchw => levels.len() / 3,
    };
    for (plane, part) in levels.chunks(planes.max(1)).enumerate() {
        let by_channel = |of: &[f32; 3]| {
            std::array::from_fn(|i| match spec.layout {
                Layout::Nhwc => of[i % 3],
                Layout::Nchw => of[plane % 3],
            })
        };
        let (factor, offset) = (by_channel(&spec.factor), by_channel(&spec.offset));
        for (place, levels) in part.chunks(run).enumerate() {
            each(plane * planes + place * run, levels, &factor, &offset);
        }
    }
}

fn differs(cause: String) -> TaskError {
    TaskError::Outputs { cause }
}

fn finite(score: f32) -> Result<f32, TaskError> {
    if score.is_finite() { Ok(score) } else { Err(TaskError::NotFinite) }
}

fn all_finite(elements: &[f32]) -> Result<(), TaskError> {
    // A sum over products with 0 is 0 unless an element is not finite; unlike `all`, it is vectorised.
    if elements.iter().map(|x| x * 0.0).sum::<f32>() == 0.0 { Ok(()) } else { Err(TaskError::NotFinite) }
}

/// The elements of a tensor as singles.
fn singles<'a>(tensor: &'a Tensor, buffer: &'a mut Vec<f32>) -> Result<&'a [f32], TaskError> {
    if let Some(elements) = tensor.elements::<f32>() {
        return Ok(elements);
    }
    let halves = tensor.elements::<f16>().ok_or_else(|| differs(format!("{} is no float", tensor.element())))?;
    buffer.resize(halves.len(), 0.0);
    halves.convert_to_f32_slice(buffer);
    Ok(buffer)
}

fn vector(port: &VectorPort, scale: bool, item: &Item, shape: &[usize], row: &[f32]) -> Result<Answer, TaskError> {
    let mut vector = match (port.pooling, shape) {
        (None, [_, _]) => row.to_vec(),
        (Some(pooling), [_, positions, dimensions]) if item.tokens() <= *positions && *dimensions > 0 => {
            pool(pooling, &row[..item.tokens() * dimensions], *dimensions)
        }
        _ => return Err(differs(format!("a text of {} tokens gave vectors of shape {shape:?}", item.tokens()))),
    };
    if port.dimensions.is_some_and(|dimensions| dimensions != vector.len()) {
        return Err(differs(format!("a vector has {} dimensions", vector.len())));
    }
    all_finite(&vector)?;
    if scale {
        normalise(&mut vector);
    }
    Ok(Answer::Vector(vector))
}

/// One vector of the token vectors of a text without its padding, `[tokens, dimensions]`.
fn pool(pooling: Pooling, tokens: &[f32], dimensions: usize) -> Vec<f32> {
    match pooling {
        Pooling::Cls => tokens.get(..dimensions).unwrap_or(&[]).to_vec(),
        Pooling::Last => tokens.get(tokens.len().saturating_sub(dimensions)..).unwrap_or(&[]).to_vec(),
        Pooling::Mean => {
            let mut mean = vec![0.0; dimensions];
            let rows = tokens.chunks_exact(dimensions);
            let factor = 1.0 / rows.len().max(1) as f32;
            rows.for_each(|row| mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
            mean.iter_mut().for_each(|sum| *sum *= factor);
            mean
        }
    }
}

fn scores(labels: usize, activation: Activation, row: &[f32]) -> Result<Answer, TaskError> {
    if row.len() != labels {
        return Err(differs(format!("an item gave {} scores for {labels} labels", row.len())));
    }
    all_finite(row)?;
    let mut scores = row.to_vec();
    match activation {
        Activation::Softmax => softmax(&mut scores),
        Activation::Sigmoid => scores.iter_mut().for_each(|score| *score = sigmoid(*score)),
        Activation::None => {}
    }
    Ok(Answer::Scores(scores))
}

fn split_tensors(items: &[&Item], outputs: &[Tensor], wanted: usize) -> Result<Vec<Answer>, TaskError> {
    if outputs.len() != wanted {
        return Err(differs(format!("{} outputs, the signature has {wanted}", outputs.len())));
    }
    if let [_] = items {
        return Ok(vec![Answer::Tensors(outputs.to_vec())]);
    }
    let rows: usize = items.iter().map(|item| item.rows).sum();
    if let Some(other) = outputs.iter().find(|output| output.shape().first() != Some(&rows)) {
        return Err(differs(format!("{rows} rows gave the shape {:?}", other.shape())));
    }
    let mut from = 0;
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        let range = from..from + item.rows;
        from = range.end;
        let cut = |output: &Tensor| -> Result<Tensor, EngineError> {
            let mut shape = output.shape().to_vec();
            shape[0] = item.rows;
            Tensor::from_bytes(output.element(), &shape, output.view().rows(range.clone()).unwrap_or(&[]))
        };
        let parts: Result<Vec<Tensor>, EngineError> = outputs.iter().map(cut).collect();
        answers.push(Answer::Tensors(parts.map_err(|error| differs(error.to_string()))?));
    }
    Ok(answers)
}
