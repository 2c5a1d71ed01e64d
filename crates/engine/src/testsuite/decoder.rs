//! A language model that costs nothing, and the suite that every decoder has to pass.
//!
//! The fake's next token depends on every token before it, so that a token that is lost, repeated,
//! shared by mistake or put at a wrong position changes everything that follows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::{
    Choice, Decoder, DecoderLimits, Device, EncoderSpec, EngineError, LanguageCard, LanguageEngine, LanguageModel,
    LanguageSpec, LoadedEncoder, LoadedLanguage, RunReport, SequenceId, Specials, StepToken, TokenId,
};

/// The fake's token that ends a text.
pub const END: TokenId = 256;
/// The fake's token that begins a text.
pub const BEGIN: TokenId = 257;
/// How many tokens the fake knows: the bytes, [`END`] and [`BEGIN`].
pub const VOCABULARY: usize = 258;

/// A model whose tokens are bytes.
#[derive(Debug)]
pub struct FakeLanguage {
    card: LanguageCard,
    bytes: Vec<u8>,
}

impl Default for FakeLanguage {
    fn default() -> FakeLanguage {
        let card = LanguageCard {
            architecture: "fake".to_owned(),
            quantisation: "none".to_owned(),
            parameters: 1,
            context_trained: 4_096,
            vocabulary: VOCABULARY,
            token_bytes_max: "<eos>".len(),
            begin: Some((BEGIN, "<bos>".to_owned())),
            end: Some((END, "<eos>".to_owned())),
            chat_templates: [("default".to_owned(), TEMPLATE.to_owned())].into(),
        };
        FakeLanguage { card, bytes: (0..=255).collect() }
    }
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

impl LanguageModel for FakeLanguage {
    fn card(&self) -> &LanguageCard {
        &self.card
    }

    fn tokenise(&self, text: &str, specials: Specials, begin: bool) -> Vec<TokenId> {
        let mut tokens = if begin { vec![BEGIN] } else { Vec::new() };
        let mut rest = text;
        while !rest.is_empty() {
            let special = [("<eos>", END), ("<bos>", BEGIN)].into_iter().find(|(name, _)| rest.starts_with(name));
            match special.filter(|_| specials == Specials::Parsed) {
                Some((name, token)) => {
                    tokens.push(token);
                    rest = &rest[name.len()..];
                }
                None => {
                    let width = rest.chars().next().map_or(1, char::len_utf8);
                    tokens.extend(rest.as_bytes()[..width].iter().map(|b| TokenId::from(*b)));
                    rest = &rest[width..];
                }
            }
        }
        tokens
    }

    fn piece(&self, token: TokenId) -> &[u8] {
        let token = token as usize;
        self.bytes.get(token..=token).unwrap_or_default()
    }

    fn special(&self, token: TokenId) -> Option<&str> {
        match token {
            END => Some("<eos>"),
            BEGIN => Some("<bos>"),
            _ => None,
        }
    }

    fn ends(&self, token: TokenId) -> bool {
        token == END
    }
}

/// What the fake says after these tokens, greedily: a letter, or seldom [`END`].
#[must_use]
pub fn fake_next(tokens: &[TokenId], adapter: Option<usize>) -> TokenId {
    let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ adapter.map_or(0, |place| place as u64 + 1);
    for token in tokens {
        hash = (hash ^ u64::from(*token)).wrapping_mul(0x0100_0000_01b3);
        hash ^= hash >> 29;
    }
    if hash.is_multiple_of(61) { END } else { 97 + (hash >> 8) as TokenId % 26 }
}

/// Counts what a [`FakeDecoder`] does, from outside.
#[derive(Debug, Default)]
pub struct FakeCounts {
    /// Cells that are taken.
    pub cells: AtomicUsize,
    /// Tokens that were computed.
    pub computed: AtomicUsize,
    /// Steps that ran.
    pub steps: AtomicUsize,
}

/// A decoder of [`FakeLanguage`] that keeps books of its cells as llama.cpp's unified cache does.
pub struct FakeDecoder {
    limits: DecoderLimits,
    /// Each sequence's tokens, with the cell that each takes.
    sequences: Vec<Vec<(TokenId, usize)>>,
    /// How many sequences hold each cell; 0 is free.
    holders: Vec<u16>,
    logits: Vec<Vec<f32>>,
    counts: Arc<FakeCounts>,
    /// Fails the step in which a sequence contains this token: for tests of failing steps.
    pub poison: Option<TokenId>,
}

impl FakeDecoder {
    /// An empty one.
    #[must_use]
    pub fn new(limits: DecoderLimits) -> FakeDecoder {
        FakeDecoder {
            limits,
            sequences: vec![Vec::new(); limits.sequences],
            holders: vec![0; limits.cells],
            logits: Vec::new(),
            counts: Arc::default(),
            poison: None,
        }
    }

    /// What it does, as seen from outside.
    #[must_use]
    pub fn counts(&self) -> Arc<FakeCounts> {
        Arc::clone(&self.counts)
    }

    fn count_cells(&self) {
        let taken = self.holders.iter().filter(|holders| **holders > 0).count();
        self.counts.cells.store(taken, Ordering::SeqCst);
    }
}

impl Decoder for FakeDecoder {
    fn limits(&self) -> DecoderLimits {
        self.limits
    }

    fn step(&mut self, tokens: &[StepToken], adapter: Option<usize>) -> Result<RunReport, EngineError> {
        assert!(!tokens.is_empty() && tokens.len() <= self.limits.step_tokens, "a step of {} tokens", tokens.len());
        let free: Vec<usize> = (0..self.holders.len()).filter(|cell| self.holders[*cell] == 0).collect();
        if free.len() < tokens.len() {
            return Err(EngineError::Memory);
        }
        if tokens.iter().any(|token| Some(token.token) == self.poison) {
            return Err(EngineError::Run { cause: "poison".to_owned() });
        }
        self.logits.clear();
        for (token, cell) in tokens.iter().zip(free) {
            let sequence = &mut self.sequences[usize::from(token.sequence.0)];
            assert_eq!(token.position as usize, sequence.len(), "a token at a wrong position");
            assert!(sequence.len() < self.limits.context, "a sequence longer than the context");
            sequence.push((token.token, cell));
            self.holders[cell] = 1;
            if token.wants_logits {
                let said: Vec<TokenId> = sequence.iter().map(|(token, _)| *token).collect();
                let next = fake_next(&said, adapter) as usize;
                let mut row: Vec<f32> = (0..VOCABULARY).map(|t| ((t * 31 + next * 17) % 101) as f32 / 101.0).collect();
                row[next] = 4.0;
                self.logits.push(row);
            }
        }
        self.count_cells();
        self.counts.computed.fetch_add(tokens.len(), Ordering::SeqCst);
        self.counts.steps.fetch_add(1, Ordering::SeqCst);
        Ok(RunReport { device_time: Duration::from_micros(tokens.len() as u64) })
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.logits.get(row).map_or(&[], Vec::as_slice)
    }

    fn share(&mut self, from: SequenceId, to: SequenceId, tokens: u32) {
        assert!(self.limits.shares, "this decoder does not share");
        let shared = self.sequences[usize::from(from.0)][..tokens as usize].to_vec();
        let target = &mut self.sequences[usize::from(to.0)];
        assert!(target.is_empty(), "shared into a sequence that holds cells");
        for (_, cell) in &shared {
            self.holders[*cell] += 1;
        }
        *target = shared;
        self.count_cells();
    }

    fn keep(&mut self, sequence: SequenceId, tokens: u32) {
        assert!(tokens == 0 || self.limits.shares, "this decoder cannot cut");
        let sequence = &mut self.sequences[usize::from(sequence.0)];
        for (_, cell) in sequence.drain((tokens as usize).min(sequence.len())..) {
            self.holders[cell] -= 1;
        }
        self.count_cells();
    }
}

/// An engine that "loads" a [`FakeDecoder`].
#[derive(Clone, Debug, Default)]
pub struct FakeLanguageEngine;

impl LanguageEngine for FakeLanguageEngine {
    fn describe(&self) -> String {
        "fake 1".to_owned()
    }

    fn devices(&self) -> Vec<Device> {
        vec![Device::Cpu]
    }

    fn widens(&self, _device: Device) -> bool {
        false
    }

    fn load(&self, spec: &LanguageSpec) -> Result<LoadedLanguage, EngineError> {
        let limits = DecoderLimits {
            cells: spec.cells,
            sequences: spec.sequences,
            step_tokens: spec.step_tokens,
            context: spec.cells.min(4_096),
            shares: true,
        };
        Ok(LoadedLanguage {
            model: Arc::new(FakeLanguage::default()),
            decoder: Box::new(FakeDecoder::new(limits)),
            choice: Choice { device: Device::Cpu, reason: "the only one".to_owned() },
            memory_bytes: 0,
            phases: Vec::new(),
        })
    }

    fn load_encoder(&self, _spec: &EncoderSpec) -> Result<LoadedEncoder, EngineError> {
        Err(EngineError::Load("the fake only writes".to_owned()))
    }
}

/// The token with the largest logit, the first of equals.
#[must_use]
pub fn greedy(logits: &[f32]) -> TokenId {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as TokenId
}

/// Reads `prompt` into a sequence that holds its first `known` tokens already, in pieces of at most
/// `piece` tokens, and tells what the model says next, `count` times.
pub fn say(
    decoder: &mut dyn Decoder,
    sequence: SequenceId,
    prompt: &[TokenId],
    known: usize,
    piece: usize,
    count: usize,
) -> Vec<TokenId> {
    let mut at = known;
    while at < prompt.len() {
        let end = (at + piece).min(prompt.len());
        let step: Vec<StepToken> = (at..end)
            .map(|place| StepToken {
                token: prompt[place],
                position: place as u32,
                sequence,
                wants_logits: place + 1 == prompt.len(),
            })
            .collect();
        decoder.step(&step, None).unwrap();
        at = end;
    }
    let mut said = vec![greedy(decoder.logits(0))];
    while said.len() < count {
        let token = StepToken { token: said[said.len() - 1], position: at as u32, sequence, wants_logits: true };
        decoder.step(&[token], None).unwrap();
        said.push(greedy(decoder.logits(0)));
        at += 1;
    }
    said
}

/// What every decoder promises, tried with prompts of the model's own. `decoder` is empty, has at
/// least four sequences, 512 cells and steps of 64 tokens.
///
/// # Panics
/// When a promise is broken.
pub fn contract(model: &dyn LanguageModel, decoder: &mut dyn Decoder) {
    let limits = decoder.limits();
    let prompt = |text: &str| model.tokenise(text, Specials::AsText, true);
    let [one, two, three] = [0, 1, 2].map(SequenceId);
    let long = prompt(&"The weather in the mountains changes quickly, and so do the roads. ".repeat(3));
    let short = prompt("A list of colours: red, green,");
    assert!(long.len() + short.len() + 64 < limits.cells.min(limits.context), "the decoder is too small to be tried");

    // Alone, in one step and in many: the same.
    let alone = say(decoder, one, &long, 0, limits.step_tokens, 8);
    decoder.keep(one, 0);
    assert_eq!(say(decoder, one, &long, 0, 7, 8), alone, "how a prompt is cut into steps changed what is said");
    decoder.keep(one, 0);
    let short_alone = say(decoder, two, &short, 0, limits.step_tokens, 8);
    decoder.keep(two, 0);

    // Rows are in the order in which they were asked for.
    let mut step: Vec<StepToken> = Vec::new();
    for (sequence, prompt) in [(one, &long), (two, &short)] {
        for (place, token) in prompt.iter().enumerate() {
            let wants_logits = place + 1 == prompt.len();
            step.push(StepToken { token: *token, position: place as u32, sequence, wants_logits });
        }
    }
    let mut rows = 0;
    for piece in step.chunks(limits.step_tokens) {
        decoder.step(piece, None).unwrap();
        rows = piece.iter().filter(|token| token.wants_logits).count();
    }
    if rows == 2 {
        assert_eq!(greedy(decoder.logits(0)), alone[0], "a neighbour changed what is said");
    }
    assert_eq!(greedy(decoder.logits(rows - 1)), short_alone[0], "a neighbour changed what is said");
    assert!(decoder.logits(9).is_empty(), "a row that nobody asked for");
    decoder.keep(two, 0);

    if limits.shares {
        // Shared and cut: the same as computed, and the giver may go.
        let known = long.len() - 1;
        decoder.share(one, three, known as u32);
        decoder.keep(one, 0);
        assert_eq!(say(decoder, three, &long, known, 1, 8), alone, "sharing changed what is said");
        decoder.keep(three, known as u32);
        assert_eq!(say(decoder, three, &long, known, 1, 8), alone, "cutting changed what is said");
        decoder.keep(three, 0);
    } else {
        decoder.keep(one, 0);
    }

    // All cells are free again: the cache can be filled to the last one, and not further.
    let mut taken = 0;
    let fill = |sequence: u16, position: usize| StepToken {
        token: long[position % long.len()],
        position: position as u32,
        sequence: SequenceId(sequence),
        wants_logits: false,
    };
    let mut sequence = 0u16;
    let mut position = 0;
    while taken < limits.cells {
        if position == limits.context {
            sequence += 1;
            position = 0;
        }
        let count = (limits.cells - taken).min(limits.step_tokens).min(limits.context - position);
        let step: Vec<StepToken> = (position..position + count).map(|place| fill(sequence, place)).collect();
        decoder.step(&step, None).unwrap_or_else(|error| panic!("after {taken} of {} cells: {error}", limits.cells));
        taken += count;
        position += count;
    }
    let other = StepToken { token: long[0], position: 0, sequence: SequenceId(sequence + 1), wants_logits: true };
    assert!(matches!(decoder.step(&[other], None), Err(EngineError::Memory)), "a step without a free cell");
    let held: BTreeSet<u16> = (0..=sequence).collect();
    for sequence in held {
        decoder.keep(SequenceId(sequence), 0);
    }
    assert_eq!(say(decoder, two, &short, 0, limits.step_tokens, 8), short_alone, "a failed step left something behind");
    decoder.keep(two, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fake_passes_its_own_suite() {
        for shares in [true, false] {
            let limits = DecoderLimits { cells: 900, sequences: 8, step_tokens: 64, context: 600, shares };
            contract(&FakeLanguage::default(), &mut FakeDecoder::new(limits));
        }
    }

    #[test]
    fn special_names_are_tokens_only_where_they_are_parsed() {
        let model = FakeLanguage::default();
        assert_eq!(model.tokenise("a<eos>", Specials::Parsed, true), [BEGIN, 97, END]);
        assert_eq!(model.tokenise("a<eos>", Specials::AsText, false).len(), 6);
    }
}
