//! From texts to tokens.
//!
//! The tokenizer of the model's `tokenizer.json`, or the vocabulary of its GGUF file, splits the text;
//! the special tokens around it are put on here. So cutting a text that is too long is cutting a slice,
//! special tokens are never lost to it, and the tokenizer's own padding and truncation (which files
//! often leave switched on, at 128 tokens) have no say.

use std::borrow::Cow;
use std::sync::Arc;

use halny_engine::{LanguageModel, LoadedEncoder, Specials, TokenFrame};
use halny_types::project::TextOptions;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{Encoding, PostProcessor, Token, Tokenizer};

use crate::TaskError;
use crate::files::{self, Config, Folder};
use crate::item::Tokens;

/// Where no file of the model names a limit: the positions of BERT.
const DEFAULT_MAX_TOKENS: usize = 512;
/// Bytes of text per token, above which a text is not even tokenised. The longest tokens of common
/// vocabularies have fewer; only long runs of white space have more.
const MAX_BYTES_PER_TOKEN: usize = 64;
/// Bytes of text allowed on top, so that a model of few tokens still takes a padded text.
const SPARE_BYTES: usize = 4_096;
/// Stand for the two texts when the special tokens around them are looked up.
const FIRST: u32 = u32::MAX;
const SECOND: u32 = u32::MAX - 1;

/// A tokenizer with the limits of its model.
pub(crate) struct Text {
    splitter: Splitter,
    single: Frame,
    pair: Option<Frame>,
    max_tokens: usize,
    truncate: bool,
    /// Ids from here on are refused.
    vocabulary: u32,
    /// The id that pads.
    pub(crate) padding: u32,
}

/// What splits a text.
enum Splitter {
    Tokenizer(Box<Tokenizer>),
    Vocabulary(Arc<dyn LanguageModel>),
}

/// The special tokens around one or two texts, each with its segment; and what the texts of a pair are
/// put between before they are split.
#[derive(Debug, Default, PartialEq)]
struct Frame {
    around_first: [String; 2],
    around_second: [String; 2],
    before: Vec<(u32, u8)>,
    first: u8,
    between: Vec<(u32, u8)>,
    second: u8,
    after: Vec<(u32, u8)>,
}

impl Text {
    /// Reads the tokenizer. `fixed` is the graph's own length where it has one.
    pub(crate) fn open(
        folder: Folder<'_>,
        config: &Config,
        options: &TextOptions,
        fixed: Option<usize>,
        pairs: bool,
    ) -> Result<Text, TaskError> {
        let problem = |problem: String| TaskError::File { file: files::TOKENIZER, problem };
        // The CPU pool has a thread for each core already.
        tokenizers::parallelism::set_parallelism(false);
        let mut tokenizer = Tokenizer::from_bytes(folder.tokenizer()?).map_err(|error| problem(error.to_string()))?;
        let padding = tokenizer.get_padding().map_or(0, |padding| padding.pad_id);
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| problem(error.to_string()))?;
        let single = Frame::of(tokenizer.get_post_processor(), false)?;
        let pair = pairs.then(|| Frame::of(tokenizer.get_post_processor(), true)).transpose()?;
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);

        let known = tokenizer.get_vocab(true).into_values().max().map_or(0, |last| last.saturating_add(1));
        let vocabulary = config.vocab_size.map_or(known, |size| size.min(known));
        let max_tokens = max_tokens(options, folder.max_tokens()?, config.positions(), fixed)?;
        let splitter = Splitter::Tokenizer(Box::new(tokenizer));
        Text { splitter, single, pair, max_tokens, truncate: options.truncate, vocabulary, padding }.checked()
    }

    /// Splits as the model's own file says.
    pub(crate) fn of(encoder: &LoadedEncoder, options: &TextOptions, pairs: bool) -> Result<Text, TaskError> {
        let card = encoder.model.card();
        Text {
            splitter: Splitter::Vocabulary(Arc::clone(&encoder.model)),
            single: Frame::single(&encoder.frame),
            pair: pairs.then(|| Frame::pair(&encoder.frame)),
            max_tokens: max_tokens(options, None, Some(card.context_trained), Some(encoder.tokens_max))?,
            truncate: options.truncate,
            vocabulary: u32::try_from(card.vocabulary).unwrap_or(u32::MAX),
            padding: 0,
        }
        .checked()
    }

    fn checked(self) -> Result<Text, TaskError> {
        let special = self.pair.as_ref().unwrap_or(&self.single).len();
        if self.max_tokens <= special {
            return Err(TaskError::Options(format!(
                "`text.max_tokens` is {}, but the model's special tokens alone take {special}; raise it",
                self.max_tokens
            )));
        }
        Ok(self)
    }

    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// One text with its special tokens.
    pub(crate) fn single(&self, text: &str) -> Result<Tokens, TaskError> {
        self.split(&self.bounded(text)?, |ids| self.single.around(self.fit(ids, self.single.len())?, &[]))
    }

    /// The tokens of a query, which leave room for some of a document.
    pub(crate) fn query(&self, query: &str) -> Result<Vec<u32>, TaskError> {
        let frame = self.pair.as_ref().ok_or(TaskError::NotTokenised)?;
        let limit = self.max_tokens - frame.len();
        self.split(&within(&frame.around_first, self.bounded(query)?), |ids| match ids.len() {
            tokens if tokens >= limit => Err(TaskError::QueryTooLong { tokens, limit }),
            _ => Ok(ids.to_vec()),
        })
    }

    /// A query and a document with their special tokens. Only the document is ever cut.
    pub(crate) fn pair(&self, query: &[u32], document: &str) -> Result<Tokens, TaskError> {
        let frame = self.pair.as_ref().ok_or(TaskError::NotTokenised)?;
        self.split(&within(&frame.around_second, self.bounded(document)?), |ids| {
            frame.around(query, self.fit(ids, frame.len() + query.len())?)
        })
    }

    /// Tokens that the caller made. Special tokens are put on unless they are there already.
    pub(crate) fn given(&self, ids: &[u32]) -> Result<Tokens, TaskError> {
        if ids.is_empty() {
            return Err(TaskError::NoTokens);
        }
        // The length first: it bounds the work of everything below.
        let framed = self.single.is_around(ids);
        let ids = if framed { &ids[self.single.before.len()..ids.len() - self.single.after.len()] } else { ids };
        let ids = self.fit(ids, self.single.len())?;
        match ids.iter().find(|id| **id >= self.vocabulary) {
            Some(id) => Err(TaskError::UnknownToken { id: *id, vocabulary: self.vocabulary }),
            None => self.single.around(ids, &[]),
        }
    }

    /// `length` tokens that mean nothing, for warming up.
    pub(crate) fn filler(&self, length: usize) -> Tokens {
        let frame = self.pair.as_ref().unwrap_or(&self.single);
        let filler = vec![self.padding; length.saturating_sub(frame.len())];
        let (query, document) =
            if self.pair.is_some() { filler.split_at(filler.len() / 2) } else { (&filler[..], &[][..]) };
        frame.around(query, document).unwrap_or_default()
    }

    /// What `then` makes of the text's tokens, which are lent to it where the splitter keeps them.
    fn split<T>(&self, text: &str, then: impl FnOnce(&[u32]) -> Result<T, TaskError>) -> Result<T, TaskError> {
        match &self.splitter {
            Splitter::Tokenizer(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false).map_err(|_| TaskError::NotTokenised)?;
                then(encoding.get_ids())
            }
            Splitter::Vocabulary(model) => then(&model.tokenise(text, Specials::AsText, false)),
        }
    }

    /// The text, or its beginning, or the refusal to spend time on one so long.
    fn bounded<'a>(&self, text: &'a str) -> Result<Cow<'a, str>, TaskError> {
        let limit_bytes = self.max_tokens.saturating_mul(MAX_BYTES_PER_TOKEN).saturating_add(SPARE_BYTES);
        if text.len() <= limit_bytes {
            return Ok(Cow::Borrowed(text));
        }
        if !self.truncate {
            return Err(TaskError::TextTooLong { bytes: text.len(), limit_bytes, limit: self.max_tokens });
        }
        Ok(Cow::Borrowed(&text[..text.floor_char_boundary(limit_bytes)]))
    }

    /// The tokens that fit beside `others`.
    fn fit<'a>(&self, ids: &'a [u32], others: usize) -> Result<&'a [u32], TaskError> {
        let room = self.max_tokens.saturating_sub(others);
        match ids.get(..room) {
            Some(cut) if self.truncate || ids.len() == room => Ok(cut),
            Some(_) => Err(TaskError::TooManyTokens { tokens: ids.len() + others, limit: self.max_tokens }),
            None => Ok(ids),
        }
    }
}

/// The text between the two.
fn within<'a>(around: &[String; 2], text: Cow<'a, str>) -> Cow<'a, str> {
    let [start, end] = around;
    if start.is_empty() && end.is_empty() { text } else { Cow::Owned(format!("{start}{text}{end}")) }
}

fn unsegmented(tokens: &[u32]) -> Vec<(u32, u8)> {
    tokens.iter().map(|token| (*token, 0)).collect()
}

/// The longest text in tokens: what the project file says, or else the model's files.
fn max_tokens(
    options: &TextOptions,
    files: Option<usize>,
    positions: Option<usize>,
    fixed: Option<usize>,
) -> Result<usize, TaskError> {
    let most = [positions, fixed].into_iter().flatten().min();
    match (options.max_tokens, most) {
        (Some(asked), Some(most)) if asked > most => Err(TaskError::Options(format!(
            "`text.max_tokens` is {asked}, but the model takes {most} tokens at most; lower it"
        ))),
        (Some(asked), _) => Ok(asked),
        (None, most) => {
            let said = files.into_iter().chain(most).min();
            Ok(said.unwrap_or(DEFAULT_MAX_TOKENS))
        }
    }
}

impl Frame {
    /// Around one text; without segments, which GGUF models have none of.
    fn single(frame: &TokenFrame) -> Frame {
        Frame { before: unsegmented(&frame.before), after: unsegmented(&frame.after), ..Frame::default() }
    }

    /// Around and between two.
    fn pair(frame: &TokenFrame) -> Frame {
        Frame {
            around_first: frame.around_first.clone(),
            around_second: frame.around_second.clone(),
            between: unsegmented(&frame.between),
            ..Frame::single(frame)
        }
    }

    /// Learns the special tokens by letting the tokenizer put them around stand-ins.
    fn of(processor: Option<&PostProcessorWrapper>, pair: bool) -> Result<Frame, TaskError> {
        let Some(processor) = processor else { return Ok(Frame { second: 1, ..Frame::default() }) };
        let unusual = || TaskError::File {
            file: files::TOKENIZER,
            problem: "its post-processor does not put each text in once, the first text first".to_owned(),
        };
        let stand_in = |id| Encoding::from_tokens(vec![Token::new(id, "x".to_owned(), (0, 1))], 0);
        let framed = processor
            .process(stand_in(FIRST), pair.then(|| stand_in(SECOND)), true)
            .map_err(|error| TaskError::File { file: files::TOKENIZER, problem: error.to_string() })?;
        let mut frame = Frame::default();
        let mut seen = 0;
        for (id, segment) in framed.get_ids().iter().zip(framed.get_type_ids()) {
            let segment = u8::try_from(*segment).map_err(|_| unusual())?;
            match (*id, seen) {
                (FIRST, 0) => (seen, frame.first) = (1, segment),
                (SECOND, 1) => (seen, frame.second) = (2, segment),
                (FIRST | SECOND, _) => return Err(unusual()),
                (id, 0) => frame.before.push((id, segment)),
                (id, 1) if pair => frame.between.push((id, segment)),
                (id, _) => frame.after.push((id, segment)),
            }
        }
        if seen == if pair { 2 } else { 1 } { Ok(frame) } else { Err(unusual()) }
    }

    /// How many special tokens there are.
    fn len(&self) -> usize {
        self.before.len() + self.between.len() + self.after.len()
    }

    fn is_around(&self, ids: &[u32]) -> bool {
        let equal = |ids: &[u32], special: &[(u32, u8)]| ids.iter().eq(special.iter().map(|(id, _)| id));
        self.len() > 0
            && ids.len() >= self.len()
            && equal(&ids[..self.before.len()], &self.before)
            && equal(&ids[ids.len() - self.after.len()..], &self.after)
    }

    fn around(&self, first: &[u32], second: &[u32]) -> Result<Tokens, TaskError> {
        let length = self.len() + first.len() + second.len();
        if length == 0 {
            return Err(TaskError::NoTokens);
        }
        let mut tokens = Tokens { ids: Vec::with_capacity(length), types: Vec::new() };
        let special = |tokens: &mut Tokens, special: &[(u32, u8)]| {
            tokens.ids.extend(special.iter().map(|(id, _)| *id));
        };
        special(&mut tokens, &self.before);
        tokens.ids.extend_from_slice(first);
        special(&mut tokens, &self.between);
        tokens.ids.extend_from_slice(second);
        special(&mut tokens, &self.after);
        if self.has_segments() {
            tokens.types.reserve_exact(length);
            let segments = |special: &[(u32, u8)]| special.iter().map(|(_, segment)| *segment).collect::<Vec<u8>>();
            tokens.types.extend(segments(&self.before));
            tokens.types.resize(tokens.types.len() + first.len(), self.first);
            tokens.types.extend(segments(&self.between));
            tokens.types.resize(tokens.types.len() + second.len(), self.second);
            tokens.types.extend(segments(&self.after));
        }
        Ok(tokens)
    }

    fn has_segments(&self) -> bool {
        let special = self.before.iter().chain(&self.between).chain(&self.after);
        self.first > 0 || self.second > 0 || special.into_iter().any(|(_, segment)| *segment > 0)
    }
}
