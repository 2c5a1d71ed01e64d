//! What never changes about a loaded GGUF: its card, its vocabulary, the bytes of its tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use halny_engine::{LanguageCard, LanguageModel, Specials, TokenId};
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use crate::foreign::Alphabet;

/// A GGUF's vocabulary, with every token's bytes in one table: asked for at each token of each
/// stream, so never through llama.cpp's own lookup and its copies.
pub(crate) struct LlamaLanguage {
    model: Arc<LlamaModel>,
    card: LanguageCard,
    begins: bool,
    alphabet: Option<Alphabet>,
    bytes: Vec<u8>,
    /// Where each token's bytes end; they begin where those of the token before end.
    ends: Vec<u32>,
    specials: BTreeMap<TokenId, String>,
    finishing: Vec<TokenId>,
}

impl LlamaLanguage {
    pub(crate) fn of(model: Arc<LlamaModel>) -> LlamaLanguage {
        let vocab = model.vocab();
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let (mut specials, mut finishing) = (BTreeMap::new(), Vec::new());
        for token in vocab.tokens() {
            let id = token_id(token);
            let is_special = vocab.is_control(token)
                || vocab.is_eog(token)
                || vocab.attr(token).contains(LlamaTokenAttr::Control)
                || vocab.attr(token).contains(LlamaTokenAttr::Unknown);
            if is_special {
                let name = vocab.text(token).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                specials.insert(id, name);
            } else {
                vocab.token_to_piece_into(token, &mut bytes, false, None);
            }
            if vocab.is_eog(token) {
                finishing.push(id);
            }
            ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        let named = |token: LlamaToken| {
            let id = TokenId::try_from(token.0).ok()?;
            let name = vocab.text(token).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Some((id, name))
        };
        let card = LanguageCard {
            architecture: architecture(&model),
            quantisation: file_type(&model),
            parameters: model.n_params(),
            context_trained: usize::try_from(model.n_ctx_train()).unwrap_or(usize::MAX),
            vocabulary: ends.len(),
            token_bytes_max: longest(&ends).max(specials.values().map(String::len).max().unwrap_or(0)),
            begin: named(vocab.bos()),
            end: named(vocab.eos()),
            chat_templates: templates(&model),
        };
        let begins = vocab.should_add_bos();
        let alphabet = Alphabet::of(&model);
        LlamaLanguage { card, begins, alphabet, bytes, ends, specials, finishing, model }
    }
}

impl LanguageModel for LlamaLanguage {
    fn card(&self) -> &LanguageCard {
        &self.card
    }

    fn tokenise(&self, text: &str, specials: Specials, begin: bool) -> Vec<TokenId> {
        let begin = self.card.begin.as_ref().filter(|_| begin && self.begins).map(|(token, _)| *token);
        let slices = self.alphabet.as_ref().map_or_else(|| vec![text], |alphabet| alphabet.slices(text));
        let tokens = slices.iter().enumerate().flat_map(|(place, slice)| self.tokens_of(slice, specials, place > 0));
        begin.into_iter().chain(tokens).collect()
    }

    fn piece(&self, token: TokenId) -> &[u8] {
        let place = token as usize;
        let end = |place: usize| self.ends.get(place).map(|end| *end as usize);
        let start = if place == 0 { Some(0) } else { end(place - 1) };
        start.zip(end(place)).and_then(|(start, end)| self.bytes.get(start..end)).unwrap_or_default()
    }

    fn special(&self, token: TokenId) -> Option<&str> {
        self.specials.get(&token).map(String::as_str)
    }

    fn ends(&self, token: TokenId) -> bool {
        self.finishing.binary_search(&token).is_ok()
    }
}

impl LlamaLanguage {
    /// The tokens of a text, or of one that goes on: then llama.cpp's space in front of it is taken away.
    fn tokens_of(&self, text: &str, specials: Specials, goes_on: bool) -> Vec<TokenId> {
        // An empty text is no tokens; llama.cpp would make a space of it for some vocabularies.
        let Some(first) = text.chars().next() else { return Vec::new() };
        let tokens = |text: &str| self.model.vocab().tokenize(text.as_bytes(), false, specials == Specials::Parsed);
        // A text that goes on begins with a character that no token has: a token for each of its bytes.
        let spaces = if goes_on { tokens(&text[..first.len_utf8()]).len() - first.len_utf8() } else { 0 };
        tokens(text).into_iter().skip(spaces).map(token_id).collect()
    }
}

/// The longest of pieces that lie one after the other.
fn longest(ends: &[u32]) -> usize {
    let starts = std::iter::once(&0).chain(ends);
    starts.zip(ends).map(|(start, end)| (end - start) as usize).max().unwrap_or(0)
}

/// The kind of model, as the file names it.
pub(crate) fn architecture(model: &LlamaModel) -> String {
    model.meta_val_str("general.architecture").unwrap_or_default()
}

pub(crate) fn token_id(token: LlamaToken) -> TokenId {
    TokenId::try_from(token.0).unwrap_or(TokenId::MAX)
}

fn templates(model: &LlamaModel) -> BTreeMap<String, String> {
    const KEY: &str = "tokenizer.chat_template";
    let mut templates = BTreeMap::new();
    for place in 0..model.meta_count() {
        let Ok(key) = model.meta_key_by_index(place) else { continue };
        let Some(rest) = key.strip_prefix(KEY) else { continue };
        let name = match rest.strip_prefix('.') {
            None if rest.is_empty() => "default",
            Some(name) => name,
            None => continue,
        };
        if let Ok(template) = model.meta_val_str_by_index(place) {
            templates.insert(name.to_owned(), template);
        }
    }
    templates
}

/// The quantisation as its makers name it; llama.cpp describes a model as `gemma3 270M Q4_K - Medium`.
fn file_type(model: &LlamaModel) -> String {
    let number = model.meta_val_str("general.file_type").ok().and_then(|number| number.parse::<u32>().ok());
    // The numbers of `llama_ftype` in llama.h.
    let name = match number {
        Some(0) => "F32",
        Some(1) => "F16",
        Some(2) => "Q4_0",
        Some(3) => "Q4_1",
        Some(7) => "Q8_0",
        Some(8) => "Q5_0",
        Some(9) => "Q5_1",
        Some(10) => "Q2_K",
        Some(11) => "Q3_K_S",
        Some(12) => "Q3_K_M",
        Some(13) => "Q3_K_L",
        Some(14) => "Q4_K_S",
        Some(15) => "Q4_K_M",
        Some(16) => "Q5_K_S",
        Some(17) => "Q5_K_M",
        Some(18) => "Q6_K",
        Some(32) => "BF16",
        _ => "GGUF",
    };
    name.to_owned()
}
