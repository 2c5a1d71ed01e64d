//! What a graph wants images to be: size, layout, order of channels, scale.
//!
//! Read from `image` in `halny-model.json`, or else from Hugging Face's `preprocessor_config.json`;
//! what they leave out and the graph's signature says is taken from there.

use halny_engine::{Dim, ElementType, Port, Signature};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::decode::MAX_SIDE;
use crate::TaskError;
use crate::files::{Folder, OWN, PREPROCESSOR};
use crate::ports::batch_dim;

/// `image` in `halny-model.json`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ImageSection {
    width: Option<u32>,
    height: Option<u32>,
    layout: Option<Layout>,
    channels: Channels,
    resize: Filter,
    mode: Mode,
    resize_to: Option<u32>,
    /// `(level * scale - mean) / std`, mean and std in the order of `channels`.
    scale: Option<f32>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

/// The order of the dimensions behind the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layout {
    Nhwc,
    Nchw,
}

/// The order of the channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Channels {
    #[default]
    Rgb,
    Bgr,
}

/// How a resize weighs pixels; all but `Nearest` look at more of them when the image shrinks.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Filter {
    Nearest,
    #[default]
    Bilinear,
    Bicubic,
    Lanczos,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// To the graph's size, whatever the image's proportions.
    #[default]
    Stretch,
    /// To a square of `resize_to`, whatever the proportions; then the middle is cut out.
    CenterCrop,
    /// Until the shorter edge is `resize_to`, in proportion; then the middle is cut out.
    ShortestEdgeCrop,
}

/// What the whole image is resized to before the middle is cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    Stretch { width: u32, height: u32 },
    ShortestEdge(u32),
}

/// What a graph wants images to be.
#[derive(Clone, Debug)]
pub(crate) struct ImageSpec {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) layout: Layout,
    pub(crate) channels: Channels,
    pub(crate) resize: Filter,
    pub(crate) fit: Fit,
    pub(crate) element: ElementType,
    /// `level * factor + offset` is what the graph gets, by channel in the order of `channels`.
    pub(crate) factor: [f32; 3],
    pub(crate) offset: [f32; 3],
    pub(crate) batchable: bool,
}

impl ImageSpec {
    pub(crate) fn open(
        folder: Folder<'_>,
        own: Option<ImageSection>,
        signature: &Signature,
    ) -> Result<ImageSpec, TaskError> {
        let (file, section) = match own {
            Some(section) => (OWN, section),
            None => match folder.preprocessor()? {
                Some(fields) => (PREPROCESSOR, hugging_face(&fields)?),
                None => {
                    return Err(TaskError::File {
                        file: OWN,
                        problem: format!(
                            "is needed, with an `image` section that says how images are prepared (or {PREPROCESSOR})"
                        ),
                    });
                }
            },
        };
        section.resolve(file, signature)
    }

    /// Levels in one image.
    pub(crate) fn levels(&self) -> usize {
        self.width as usize * self.height as usize * 3
    }

    /// The shape of `rows` images.
    pub(crate) fn shape(&self, rows: usize) -> [usize; 4] {
        let (height, width) = (self.height as usize, self.width as usize);
        match self.layout {
            Layout::Nhwc => [rows, height, width, 3],
            Layout::Nchw => [rows, 3, height, width],
        }
    }
}

fn the_input(signature: &Signature) -> Result<(&Port, [Option<usize>; 3]), TaskError> {
    let [port] = signature.inputs.as_slice() else {
        return Err(TaskError::Graph(format!(
            "the graph has {} inputs; an image classifier has one",
            signature.inputs.len()
        )));
    };
    let length = |dim: &Dim| match dim {
        Dim::Fixed(length) => Some(*length),
        Dim::Free(_) => None,
    };
    match (port.dims.as_slice(), port.element) {
        ([_, a, b, c], ElementType::F32 | ElementType::F16 | ElementType::U8) => {
            Ok((port, [length(a), length(b), length(c)]))
        }
        _ => Err(TaskError::Graph(format!(
            "the graph's input {:?} takes {} of the shape {:?}; an image classifier takes FP32, FP16 or UINT8 of the \
             shape [batch, height, width, 3] or [batch, 3, height, width]",
            port.name,
            port.element,
            port.oip_shape()
        ))),
    }
}

impl ImageSection {
    fn resolve(self, file: &'static str, signature: &Signature) -> Result<ImageSpec, TaskError> {
        let problem = |problem: String| TaskError::File { file, problem };
        let (port, dims) = the_input(signature)?;
        let layout = self.layout.or(match dims {
            [Some(3), _, last] if last != Some(3) => Some(Layout::Nchw),
            [first, _, Some(3)] if first != Some(3) => Some(Layout::Nhwc),
            _ => None,
        });
        let layout = layout.ok_or_else(|| {
            problem(format!(
                "the graph's input shape {:?} does not tell the order of its dimensions; say `layout` \"nhwc\" or \
                 \"nchw\" in the `image` section of {OWN}",
                port.oip_shape()
            ))
        })?;
        let (height, width, colours) = match (layout, dims) {
            (Layout::Nhwc, [height, width, colours]) | (Layout::Nchw, [colours, height, width]) => {
                (height, width, colours)
            }
        };
        let side = |what: &str, said: Option<u32>, graph: Option<usize>| {
            let graph = graph.and_then(|length| u32::try_from(length).ok());
            match (said.or(graph), graph) {
                (Some(said), Some(graph)) if said != graph => {
                    Err(problem(format!("`{what}` is {said}, but the graph's input takes {graph}")))
                }
                (Some(said @ 1..=MAX_SIDE), _) => Ok(said),
                (Some(said), _) => Err(problem(format!("`{what}` is {said}; it has to be from 1 to {MAX_SIDE}"))),
                (None, _) => Err(problem(format!("`{what}` is missing, and the graph takes any"))),
            }
        };
        let (width, height) = (side("width", self.width, width)?, side("height", self.height, height)?);
        if colours.is_some_and(|colours| colours != 3) {
            return Err(TaskError::Graph(format!(
                "the graph's input has the shape {:?}; images have 3 channels",
                port.oip_shape()
            )));
        }
        let (factor, offset) = self.affine(port.element).map_err(problem)?;
        Ok(ImageSpec {
            width,
            height,
            layout,
            channels: self.channels,
            resize: self.resize,
            fit: self.fit(width, height).map_err(problem)?,
            element: port.element,
            factor,
            offset,
            batchable: batch_dim(port)?,
        })
    }

    fn fit(&self, width: u32, height: u32) -> Result<Fit, String> {
        let longest = width.max(height);
        let edge = self.resize_to.unwrap_or(longest);
        match self.mode {
            Mode::Stretch if self.resize_to.is_some() => {
                Err("`resize_to` has no meaning in `mode` \"stretch\"; remove it or choose a crop".to_owned())
            }
            Mode::Stretch => Ok(Fit::Stretch { width, height }),
            _ if !(longest..=MAX_SIDE).contains(&edge) => {
                Err(format!("`resize_to` is {edge}; a crop of {width} x {height} needs from {longest} to {MAX_SIDE}"))
            }
            Mode::CenterCrop => Ok(Fit::Stretch { width: edge, height: edge }),
            Mode::ShortestEdgeCrop => Ok(Fit::ShortestEdge(edge)),
        }
    }

    fn affine(&self, element: ElementType) -> Result<([f32; 3], [f32; 3]), String> {
        let scale = self.scale.unwrap_or(1.0);
        let (mean, std) = (self.mean.unwrap_or([0.0; 3]), self.std.unwrap_or([1.0; 3]));
        if !scale.is_finite()
            || scale == 0.0
            || std.iter().any(|std| !std.is_normal())
            || mean.iter().any(|mean| !mean.is_finite())
        {
            return Err("`scale`, `mean` and `std` have to be finite, scale and std not 0".to_owned());
        }
        let (factor, offset) = (std.map(|std| scale / std), [0, 1, 2].map(|i| -mean[i] / std[i]));
        let identity = factor == [1.0; 3] && offset.iter().all(|offset| *offset == 0.0);
        if element == ElementType::U8 && !identity {
            return Err("the graph takes levels as UINT8, so `scale`, `mean` and `std` cannot be applied; remove them"
                .to_owned());
        }
        Ok((factor, offset))
    }
}

/// Fields of `preprocessor_config.json` that change no level.
const SILENT: [&str; 9] = [
    "_valid_processor_keys",
    "feature_extractor_type",
    "image_processor_type",
    "processor_class",
    "do_convert_rgb",
    "return_tensors",
    "data_format",
    "input_data_format",
    "model_input_names",
];

/// Fields that have to be said to be false to be off.
const ON_BY_DEFAULT: [&str; 3] = ["do_resize", "do_rescale", "do_normalize"];

/// `preprocessor_config.json`, as Hugging Face's image processors read it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Processor {
    #[serde(default = "yes")]
    do_resize: bool,
    size: Option<Size>,
    resample: Option<u8>,
    #[serde(default)]
    do_center_crop: bool,
    crop_size: Option<Size>,
    #[serde(default = "yes")]
    do_rescale: bool,
    rescale_factor: Option<f32>,
    #[serde(default = "yes")]
    do_normalize: bool,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Size {
    Square(u32),
    Sides { height: u32, width: u32 },
    Shortest { shortest_edge: u32 },
}

fn hugging_face(fields: &Map<String, Value>) -> Result<ImageSection, TaskError> {
    let problem = |problem: String| TaskError::File { file: PREPROCESSOR, problem };
    // Processors write what they do not do, too: as null or false.
    let says = |(name, value): &(&String, &Value)| {
        let off = value.is_null() || (**value == Value::Bool(false) && !ON_BY_DEFAULT.contains(&name.as_str()));
        !off && !SILENT.contains(&name.as_str())
    };
    let told: Map<String, Value> =
        fields.iter().filter(says).map(|(name, value)| (name.clone(), value.clone())).collect();
    let processor: Processor = serde_json::from_value(Value::Object(told))
        .map_err(|error| problem(format!("{error}; describe the preparation in {OWN} instead")))?;

    let mut section = ImageSection { resize: filter(processor.resample).map_err(problem)?, ..ImageSection::default() };
    let sides = |size: Size| match size {
        Size::Square(side) => Some((side, side)),
        Size::Sides { height, width } => Some((width, height)),
        Size::Shortest { .. } => None,
    };
    let crop = processor.crop_size.filter(|_| processor.do_center_crop);
    let unusual =
        || problem(format!("its `size` and `crop_size` do not go together; describe the preparation in {OWN}"));
    let (width, height) = match (processor.size, crop) {
        _ if !processor.do_resize => {
            return Err(problem(format!(
                "does not resize, but the graph takes one size; describe the preparation in {OWN}"
            )));
        }
        (Some(Size::Shortest { shortest_edge } | Size::Square(shortest_edge)), Some(crop)) => {
            section.mode = Mode::ShortestEdgeCrop;
            section.resize_to = Some(shortest_edge);
            sides(crop).ok_or_else(unusual)?
        }
        (Some(Size::Sides { height, width }), Some(crop)) if height == width => {
            section.mode = Mode::CenterCrop;
            section.resize_to = Some(width);
            sides(crop).ok_or_else(unusual)?
        }
        (Some(size), None) if !processor.do_center_crop => sides(size).ok_or_else(unusual)?,
        _ => return Err(unusual()),
    };
    (section.width, section.height) = (Some(width), Some(height));
    if processor.do_rescale {
        section.scale = Some(processor.rescale_factor.unwrap_or(1.0 / 255.0));
    }
    if processor.do_normalize {
        let missing = || problem("normalises, but lacks `image_mean` or `image_std`".to_owned());
        section.mean = Some(processor.image_mean.ok_or_else(missing)?);
        section.std = Some(processor.image_std.ok_or_else(missing)?);
    }
    Ok(section)
}

/// Pillow's numbers for its filters.
fn filter(number: Option<u8>) -> Result<Filter, String> {
    match number {
        Some(0) => Ok(Filter::Nearest),
        Some(1) => Ok(Filter::Lanczos),
        None | Some(2) => Ok(Filter::Bilinear),
        Some(3) => Ok(Filter::Bicubic),
        Some(other) => {
            Err(format!("`resample` is {other}; supported are 0 (nearest), 1 (Lanczos), 2 (bilinear) and 3 (bicubic)"))
        }
    }
}
