//! Microseconds per drawn token, and what masks cost, for a vocabulary of 262,144 tokens.
//!
//! `cargo run --release -p halny-generation --example pick_speed`
#![allow(clippy::print_stdout, reason = "an example prints its figures")]

use std::sync::Arc;
use std::time::Instant;

use halny_engine::{LanguageCard, LanguageModel, Specials, TokenId};
use halny_generation::grammar::{Format, Grammars, TokenMask};
use halny_generation::sampling::{Sampler, SamplingOptions};

const VOCABULARY: usize = 262_144;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{:<44} {:>9} {:>9}", "microseconds per token", "median", "best");
    let half: TokenMask = TokenMask::from_slice(&(0..VOCABULARY).map(|token| token % 3 > 0).collect::<Vec<_>>());
    let base = SamplingOptions { seed: Some(1), ..SamplingOptions::default() };
    let t08 = SamplingOptions { temperature: 0.8, ..base.clone() };
    let cases = [
        ("greedy", SamplingOptions { temperature: 0.0, ..base.clone() }, None),
        ("temperature 0.8", t08.clone(), None),
        ("temperature 0.8, top-p 0.95", SamplingOptions { top_p: 0.95, ..t08.clone() }, None),
        ("temperature 2, top-p 0.95", SamplingOptions { top_p: 0.95, temperature: 2.0, ..base.clone() }, None),
        ("temperature 0.8, top-k 40", SamplingOptions { top_k: 40, ..t08.clone() }, None),
        ("temperature 0.8, min-p 0.05", SamplingOptions { min_p: 0.05, ..t08.clone() }, None),
        ("greedy, logprobs 5", SamplingOptions { temperature: 0.0, logprobs: Some(5), ..base.clone() }, None),
        (
            "top-p 0.95, repetition 1.1, 4,096 tokens",
            SamplingOptions { top_p: 0.95, repetition_penalty: 1.1, ..t08.clone() },
            None,
        ),
        ("greedy, mask of two thirds", SamplingOptions { temperature: 0.0, ..base }, Some(&half)),
        ("top-p 0.95, mask of two thirds", SamplingOptions { top_p: 0.95, ..t08 }, Some(&half)),
    ];
    for (shape, logits) in [("like a model's", model_like()), ("all alike", vec![1.0; VOCABULARY])] {
        println!("logits {shape}");
        for (name, options, mask) in &cases {
            let prompt: Vec<TokenId> = (0..4_096).collect();
            let mut sampler = Sampler::new(options, &prompt, 0);
            sampler.pick(&logits, *mask)?;
            let mut picks = Vec::new();
            for _ in 0..400 {
                let started = Instant::now();
                sampler.pick(&logits, *mask)?;
                picks.push(started.elapsed().as_secs_f64() * 1e6);
            }
            picks.sort_by(f64::total_cmp);
            println!("  {name:<42} {:>9.1} {:>9.1}", picks[200], picks[4]);
        }
    }
    grammar()
}

fn grammar() -> Result<(), Box<dyn std::error::Error>> {
    let model = Arc::new(Words::new());
    let started = Instant::now();
    let grammars = Grammars::new(model);
    grammars.prepare()?;
    println!("trie of the vocabulary: {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    let started = Instant::now();
    let mut grammar = grammars.compile(&Format::JsonObject)?;
    println!("json_object: compiled with its first mask in {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let mut sampler = Sampler::new(&SamplingOptions { seed: Some(1), ..SamplingOptions::default() }, &[], 0);
    let logits = vec![0.0; VOCABULARY];
    let mut masks = Vec::new();
    while masks.len() < 2_000 && !grammar.is_complete() {
        let started = Instant::now();
        let mask = grammar.mask()?;
        let took = started.elapsed();
        let token = sampler.pick(&logits, Some(mask))?.token;
        let started = Instant::now();
        grammar.accept(token)?;
        masks.push((took + started.elapsed()).as_secs_f64() * 1e6);
    }
    masks.sort_by(f64::total_cmp);
    let at = |share: f64| masks.get((masks.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "mask and accept, {} tokens: median {:.0} us, p99 {:.0} us, most {:.0} us",
        masks.len(),
        at(0.5),
        at(0.99),
        at(0.9999)
    );
    Ok(())
}

/// A few probable tokens and very many improbable ones.
fn model_like() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut logits: Vec<f32> = (0..VOCABULARY).map(|_| (0..8).map(|_| uniform()).sum::<f32>() * 3.5 - 20.0).collect();
    (0..20).for_each(|token| logits[token * 9_999] = 12.0 + 8.0 * uniform());
    logits
}

/// A vocabulary of the size and shape of Gemma's: all bytes, then words with and without a space.
struct Words {
    card: LanguageCard,
    words: Vec<Vec<u8>>,
}

impl Words {
    fn new() -> Words {
        let mut words: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let syllables =
            ["an", "ber", "co", "di", "el", "fo", "ga", "hi", "ing", "ju", "ka", "lo", "mi", "no", "or", "pe", "qu"];
        for number in 0.. {
            if words.len() + 1 >= VOCABULARY {
                break;
            }
            let mut word = if number % 2 == 0 { b" ".to_vec() } else { Vec::new() };
            let mut rest = number / 2 + 1;
            while rest > 0 {
                word.extend(syllables[rest % 17].as_bytes());
                rest /= 17;
            }
            words.push(word);
        }
        words.push(Vec::new());
        Words { card: LanguageCard { vocabulary: VOCABULARY, ..LanguageCard::default() }, words }
    }
}

impl LanguageModel for Words {
    fn card(&self) -> &LanguageCard {
        &self.card
    }
    fn tokenise(&self, _: &str, _: Specials, _: bool) -> Vec<TokenId> {
        Vec::new()
    }
    fn piece(&self, token: TokenId) -> &[u8] {
        self.words.get(token as usize).map(Vec::as_slice).unwrap_or_default()
    }
    fn special(&self, token: TokenId) -> Option<&str> {
        (token as usize + 1 == VOCABULARY).then_some("<eos>")
    }
    fn ends(&self, token: TokenId) -> bool {
        token as usize + 1 == VOCABULARY
    }
}
