//! Answers that keep to a format: JSON, a JSON Schema, a regular expression, a choice.
//!
//! A [`Grammar`] walks beside one sequence and says before each token which tokens may come next; the
//! sampler draws from those. The walking is done by llguidance: a lexer of regular-expression
//! derivatives that are worked out as they are met, and an Earley parser above it, both run over a trie
//! of the model's vocabulary. Nothing is worked out for the whole vocabulary in advance but the trie,
//! so that a format of one's own costs milliseconds, not seconds.
//!
//! Formats come from callers, and some are made to explode. So they are measured before they are
//! compiled ([`Limits`]), and compiling and each step have a fixed amount of work after which they end
//! with an error. llguidance compiles by recursion: this is done on a thread with a stack that the
//! limits cannot use up, since a stack that overflows takes the process with it.
//!
//! Compiling takes milliseconds, the worst schema within the limits most of a second; [`Grammar::mask`]
//! takes tens of microseconds, some formats milliseconds: neither is for async threads.
//!
//! What a schema cannot say here is refused, not ignored: `oneOf` whose options may overlap, `not`,
//! `if`, `uniqueItems`, `$ref` to other documents.

mod json_object;
mod limits;
mod vocabulary;

pub use limits::Limits;
/// A set of tokens: a bit for each token of the vocabulary, in words of 32 (`as_slice`).
pub use toktrie::SimpleVob as TokenMask;

use std::sync::{Arc, OnceLock};

use halny_engine::{LanguageModel, TokenId};
use halny_types::{Blame, Fault};
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;
use thiserror::Error;

/// The stack that compiling gets. Measured: the deepest schema within the limits, a chain of `$ref`s
/// with 3,500 levels, needs more than 8 and less than 24 MiB. Pages that are not touched cost nothing.
const STACK_BYTES: usize = 64 << 20;

/// A reason in an error is cut to this many characters: it quotes the caller's format.
const REASON_CHARS: usize = 200;

/// White space in JSON, between any two parts. Some models would otherwise write it for ever.
const WHITE_SPACE: &str = r"[ \n\r\t]{1,64}";

/// What an answer has to keep to.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// A JSON object, nested up to 64 deep, with numbers that fit 64-bit floating point.
    JsonObject,
    /// JSON that is valid by this schema (draft 2020-12 unless it says otherwise). Object members come
    /// in the order in which the schema lists them. Where the schema allows anything, nesting and the
    /// size of numbers have no limit.
    JsonSchema(Value),
    /// Text that this regular expression matches from beginning to end; Rust's `regex` syntax.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
}

impl Format {
    /// The format's name in requests and errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Format::JsonObject => "json_object",
            Format::JsonSchema(_) => "json_schema",
            Format::Regex(_) => "regex",
            Format::Choice(_) => "choice",
        }
    }
}

/// Why a format is refused, or an answer cannot go on.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GrammarError {
    /// There is more of something than may be.
    #[error("the response format has {count} {what}, at most {limit} are allowed")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much there is; counting stops soon after the limit.
        count: usize,
        /// How much there may be.
        limit: usize,
    },
    /// It takes more work or memory than a format may, to compile it or for one token.
    #[error("the {format} response format is too complex: {reason}; make repetitions and alternatives fewer")]
    TooComplex {
        /// [`Format::name`].
        format: &'static str,
        /// What was exceeded.
        reason: String,
    },
    /// It is wrong, or says something that cannot be kept to.
    #[error("the {format} response format cannot be used: {reason}")]
    Refused {
        /// [`Format::name`].
        format: &'static str,
        /// Why.
        reason: String,
    },
    /// The model has no token that goes on as the format asks.
    #[error("the model has no token that continues the answer as the {format} response format asks")]
    DeadEnd {
        /// [`Format::name`].
        format: &'static str,
    },
    /// A token was to be accepted that may not come here.
    #[error("token {token} may not come here")]
    NotAllowed {
        /// The token.
        token: TokenId,
    },
    /// The model's vocabulary cannot be used for this.
    #[error("this model does not offer response formats: {reason}")]
    Vocabulary {
        /// Why.
        reason: &'static str,
    },
    /// Something broke that should not.
    #[error("the response format could not be compiled")]
    Broken,
}

impl Blame for GrammarError {
    fn fault(&self) -> Fault {
        match self {
            GrammarError::Limit { .. } | GrammarError::TooComplex { .. } => Fault::TooLarge,
            GrammarError::Refused { .. } | GrammarError::DeadEnd { .. } => Fault::Caller,
            GrammarError::Vocabulary { .. } => Fault::Unsupported,
            GrammarError::NotAllowed { .. } | GrammarError::Broken => Fault::Ours,
        }
    }
}

/// Compiles formats for one loaded model. One a model, shared by all its requests.
pub struct Grammars {
    model: Arc<dyn LanguageModel>,
    factory: OnceLock<Result<ParserFactory, GrammarError>>,
}

impl Grammars {
    /// For this model. Costs nothing: the trie of its vocabulary is built when it is needed first.
    #[must_use]
    pub fn new(model: Arc<dyn LanguageModel>) -> Grammars {
        Grammars { model, factory: OnceLock::new() }
    }

    /// Builds the trie now, so that the first request with a format does not wait for it: about a
    /// second and 150 MB for 262,144 tokens.
    ///
    /// # Errors
    /// [`GrammarError::Vocabulary`] when the vocabulary cannot be used.
    pub fn prepare(&self) -> Result<(), GrammarError> {
        self.factory().map(|_| ())
    }

    fn factory(&self) -> Result<&ParserFactory, GrammarError> {
        self.factory.get_or_init(|| vocabulary::factory(self.model.as_ref())).as_ref().map_err(Clone::clone)
    }

    /// Compiles a format, for one sequence or to be cloned for several.
    ///
    /// # Errors
    /// When the format is larger than [`Limits`] allow, is wrong, cannot be kept to, or takes too much
    /// work.
    pub fn compile(&self, format: &Format) -> Result<Grammar, GrammarError> {
        let limits = Limits::default();
        limits.check(format)?;
        let factory = self.factory()?;
        let name = format.name();
        let (matcher, mask) = std::thread::scope(|scope| {
            let compile = || {
                if let Format::JsonSchema(schema) = format {
                    limits.check_intersections(schema)?;
                }
                let mut matcher = Matcher::new(factory.create_parser(source(format)));
                // A format that is too complex often shows with its first token only.
                matcher
                    .compute_mask_or_eos()
                    .map(|mask| (matcher, mask))
                    .map_err(|error| explain(name, &error.to_string()))
            };
            let thread = std::thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            let compiling = thread.spawn_scoped(scope, compile).map_err(|_| GrammarError::Broken)?;
            compiling.join().map_err(|_| GrammarError::Broken)?
        })?;
        let ends = factory.tok_env().tok_trie().eos_token_set();
        Ok(Grammar { format: name, matcher, mask: Some(mask), ends: Arc::new(ends), ended: false })
    }
}

/// A format in llguidance's terms. It has been checked.
fn source(format: &Format) -> TopLevelGrammar {
    match format {
        Format::JsonObject => TopLevelGrammar::from_lark(json_object::lark(WHITE_SPACE)),
        Format::JsonSchema(schema) => {
            let mut schema = schema.clone();
            if let Some(members) = schema.as_object_mut() {
                // llguidance reads its own options from here; they are ours to set.
                let options = serde_json::json!({ "whitespace_pattern": WHITE_SPACE });
                members.insert("x-guidance".to_owned(), options);
            }
            TopLevelGrammar::from_json_schema(schema)
        }
        Format::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
        Format::Choice(texts) => {
            // JSON's way to quote a string is Lark's.
            let quoted: Vec<String> = texts.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
            // A name in capitals: one lexeme, so that a choice may begin another.
            TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}\n", quoted.join(" | ")))
        }
    }
}

/// What went wrong, from llguidance's text. Only a line of it is of use to a caller, and none if it
/// panicked: then it holds a backtrace.
fn explain(format: &'static str, message: &str) -> GrammarError {
    const LIMITS: [&str; 9] = [
        "fuel",
        "too big",
        "too large",
        "too complex",
        "limit",
        "exceeded",
        "precomputation",
        "to determine",
        "max is",
    ];
    let first = message.lines().next().unwrap_or_default();
    if first.starts_with("panic") || first.is_empty() {
        return GrammarError::Refused { format, reason: "it cannot be compiled".to_owned() };
    }
    if first.contains("NoExtensionBias") {
        return GrammarError::DeadEnd { format };
    }
    // regex-syntax draws the place in the pattern and says the cause in the last line.
    let cause = message.lines().find_map(|line| line.strip_prefix("error: "));
    let reason = match cause {
        Some(cause) => format!("a regular expression is wrong: {cause}"),
        // Advice on options that callers do not have.
        None if first.starts_with("oneOf") => "the options of a oneOf may overlap, use anyOf".to_owned(),
        None if first.starts_with("Only absolute $ref") => {
            "a $ref leaves the schema, only #/... may be used".to_owned()
        }
        None => first.chars().take(REASON_CHARS).collect(),
    };
    if LIMITS.iter().any(|word| first.contains(word)) {
        return GrammarError::TooComplex { format, reason };
    }
    GrammarError::Refused { format, reason }
}

/// Walks beside one sequence. A clone goes on from the same place, for another answer to the same
/// request; clones share what the lexer has worked out so far.
#[derive(Clone)]
pub struct Grammar {
    format: &'static str,
    matcher: Matcher,
    /// The tokens that may come next, once worked out.
    mask: Option<TokenMask>,
    ends: Arc<TokenMask>,
    ended: bool,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").field("format", &self.format).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Grammar {
    /// The tokens that may come next. The tokens that end a text are among them when it may end here,
    /// and alone when it must. None at all for a model without such tokens when the text must end:
    /// see [`is_complete`](Grammar::is_complete).
    ///
    /// # Errors
    /// [`GrammarError::TooComplex`] when it takes too much work to find out, [`GrammarError::DeadEnd`]
    /// when there is no such token. The sequence cannot go on then.
    pub fn mask(&mut self) -> Result<&TokenMask, GrammarError> {
        let mask = match self.mask.take() {
            Some(mask) => mask,
            None if self.ended => TokenMask::clone(&self.ends),
            None => self.matcher.compute_mask_or_eos().map_err(|error| explain(self.format, &error.to_string()))?,
        };
        Ok(self.mask.insert(mask))
    }

    /// Takes the sequence's next token.
    ///
    /// # Errors
    /// [`GrammarError::NotAllowed`] for a token that is not in the mask; [`GrammarError::TooComplex`]
    /// when it takes too much work.
    pub fn accept(&mut self, token: TokenId) -> Result<(), GrammarError> {
        if !allows(self.mask()?, token) {
            return Err(GrammarError::NotAllowed { token });
        }
        self.mask = None;
        if allows(&self.ends, token) {
            self.ended = true;
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|error| explain(self.format, &error.to_string()))
    }

    /// Whether the text is whole and nothing but its end can follow: the sequence may be ended without
    /// asking the model.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ended || (self.matcher.is_stopped() && self.matcher.stop_reason().is_ok())
    }

    /// The name of the format.
    #[must_use]
    pub fn format(&self) -> &'static str {
        self.format
    }
}

/// Whether a mask allows a token; it allows none that it has no bit for.
fn allows(mask: &TokenMask, token: TokenId) -> bool {
    (token as usize) < mask.len() && mask.is_allowed(token)
}

#[cfg(test)]
mod tests;
