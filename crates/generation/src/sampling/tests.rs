//! Properties of sampling, against a reference that sorts everything.

use proptest::prelude::*;
use rand_chacha::rand_core::RngCore;

use super::choose::below;
use super::*;

/// What the module's doc says, step by step, for logits that no penalty has to change. Gives the tokens
/// that may be drawn with their weights, in the order of ids.
fn reference(logits: &[f32], options: &SamplingOptions) -> Vec<(TokenId, u32)> {
    let most = logits.iter().copied().filter(|logit| !logit.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    let scale = std::f32::consts::LOG2_E / options.temperature;
    let mut kept: Vec<(TokenId, f32, u32)> = (0..)
        .zip(logits)
        .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
        .map(|(token, logit)| (token, *logit, scan::weight(*logit, most, scale)))
        .collect();
    if options.min_p > 0.0 {
        let depth = (-f64::from(options.min_p).ln() * f64::from(options.temperature)) as f32;
        kept.retain(|(_, logit, _)| *logit >= most - depth);
    }
    // Stable: of equal logits, lower ids come first.
    kept.sort_by(|one, other| other.1.partial_cmp(&one.1).unwrap());
    if options.top_k > 0 {
        kept.truncate(options.top_k as usize);
    }
    if options.top_p < 1.0 {
        let total: u64 = kept.iter().map(|(_, _, weight)| u64::from(*weight)).sum();
        let need = ((f64::from(options.top_p) * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut held = 0;
        let first = kept.iter().position(|(_, _, weight)| {
            held += u64::from(*weight);
            held >= need
        });
        kept.truncate(first.map_or(kept.len(), |first| first + 1));
    }
    kept.sort_by_key(|(token, ..)| *token);
    kept.into_iter().map(|(token, _, weight)| (token, weight)).collect()
}

/// Draws from the reference's tokens with a given number.
fn reference_draw(kept: &[(TokenId, u32)], random: u64) -> Option<TokenId> {
    let mut drawn = below(random, kept.iter().map(|(_, weight)| u64::from(*weight)).sum());
    for (token, weight) in kept {
        if drawn < u64::from(*weight) {
            return Some(*token);
        }
        drawn -= u64::from(*weight);
    }
    None
}

/// Logits of many shapes: alike, far apart, with many equal ones, with what is not a number.
fn some_logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        10 => -20.0f32..20.0,
        3 => (-4i8..4).prop_map(f32::from),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(f32::NAN),
        1 => prop::sample::select(vec![0.0, -0.0, 1e-40, 50.0, -1e30, 1e30]),
    ];
    let normal = prop::collection::vec(-3.0f32..3.0, 1..3_000);
    let alike = (1usize..3_000, -5.0f32..5.0).prop_map(|(count, logit)| vec![logit; count]);
    let gentle = prop::collection::vec((-4i8..4).prop_map(f32::from), 1..3_000);
    prop_oneof![3 => prop::collection::vec(logit, 1..1_500), 2 => normal, 1 => alike, 1 => gentle]
}

fn some_options() -> impl Strategy<Value = SamplingOptions> {
    let top_k = prop_oneof![Just(0u32), 2u32..60, 60u32..4_000, Just(u32::MAX)];
    let top_p = prop_oneof![2 => Just(1.0f32), 3 => 0.01f32..1.0, 1 => Just(f32::MIN_POSITIVE), 1 => Just(0.999_999)];
    let min_p = prop_oneof![3 => Just(0.0f32), 1 => 0.0f32..0.5, 1 => Just(1.0), 1 => Just(1e-30)];
    let temperature = prop_oneof![3 => 0.1f32..2.0, 1 => Just(1e-4), 1 => Just(1.0)];
    (top_k, top_p, min_p, temperature, any::<u64>()).prop_map(|(top_k, top_p, min_p, temperature, seed)| {
        SamplingOptions { top_k, top_p, min_p, temperature, seed: Some(seed), ..SamplingOptions::default() }
    })
}

/// The chooser alone: what it keeps, and what it draws with a given number.
fn choose(logits: &[f32], options: &SamplingOptions, random: u64) -> (Option<TokenId>, Vec<(TokenId, u32)>) {
    let mut chooser = Chooser::default();
    chooser.look(logits);
    let token = chooser.choose(logits, &Filters::new(options), || random);
    (token, chooser.kept())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn the_same_tokens_are_kept_and_drawn_as_by_sorting_everything(
        logits in some_logits(),
        options in some_options(),
        random in any::<u64>(),
    ) {
        let expected = reference(&logits, &options);
        let (token, kept) = choose(&logits, &options, random);
        prop_assert_eq!(token, reference_draw(&expected, random));
        let top_k = options.top_k > 0 && (options.top_k as usize) < logits.len();
        // Without filters nothing is kept: the whole vocabulary is drawn from.
        if top_k || options.top_p < 1.0 || options.min_p > 0.0 {
            // Tokens of no weight cannot be drawn, whether they are kept or not.
            let weighing = |kept: &[(TokenId, u32)]| -> Vec<_> {
                kept.iter().copied().filter(|(_, weight)| *weight > 0).collect()
            };
            prop_assert_eq!(weighing(&kept), weighing(&expected));
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest(logits in some_logits()) {
        let options = SamplingOptions { temperature: 0.0, ..SamplingOptions::default() };
        let picked = Sampler::new(&options, &[], 0).pick(&logits, None);
        let mut best: Option<usize> = None;
        for (token, logit) in logits.iter().enumerate() {
            if *logit > best.map_or(f32::NEG_INFINITY, |best| logits[best]) {
                best = Some(token);
            }
        }
        prop_assert_eq!(picked.map(|picked| picked.token), best.map(|best| best as TokenId).ok_or(PickError::NoLogits));
    }

    #[test]
    fn only_allowed_tokens_are_drawn(
        logits in some_logits(),
        options in some_options(),
        bits in prop::collection::vec(prop_oneof![Just(0u32), any::<u32>()], 1..100),
    ) {
        let mut mask = TokenMask::alloc(bits.len() * 32);
        (0..bits.len() * 32).filter(|bit| bits[bit / 32] >> (bit % 32) & 1 == 1).for_each(|bit| mask.set(bit, true));
        let possible = |token: usize| token < mask.len() && mask.get(token) && logits[token] > f32::NEG_INFINITY;
        match Sampler::new(&options, &[], 0).pick(&logits, Some(&mask)) {
            Ok(picked) => prop_assert!(possible(picked.token as usize)),
            Err(PickError::NothingAllowed) => prop_assert!(!(0..logits.len()).any(possible)),
            Err(PickError::NoLogits) => prop_assert!(!scan::any_number(&logits)),
        }
    }

    #[test]
    fn logprobs_are_those_of_the_models_own_distribution(
        logits in prop::collection::vec(-20.0f32..20.0, 1..2_000),
        options in some_options(),
        count in 0usize..=20,
    ) {
        let options = SamplingOptions {
            logprobs: Some(count),
            logit_bias: vec![(0, 3.0)],
            frequency_penalty: 1.0,
            ..options
        };
        let mut sampler = Sampler::new(&options, &[], 0);
        sampler.saw(0);
        let picked = sampler.pick(&logits, None).unwrap();
        let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum = logits.iter().map(|logit| (f64::from(*logit) - most).exp()).sum::<f64>().ln();
        let right = |token: TokenId| f64::from(logits[token as usize]) - most - sum;
        let given = picked.logprob.unwrap();
        prop_assert!((f64::from(given.chosen) - right(picked.token)).abs() < 1e-5);
        let mut order: Vec<TokenId> = (0..logits.len() as TokenId).collect();
        order.sort_by(|one, other| logits[*other as usize].partial_cmp(&logits[*one as usize]).unwrap());
        order.truncate(count);
        prop_assert_eq!(given.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), order);
        for (token, logprob) in given.top {
            prop_assert!((f64::from(logprob) - right(token)).abs() < 1e-5);
        }
    }

    #[test]
    fn no_logits_make_it_panic(
        logits in prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..700),
        options in some_options(),
        repetition in 0.001f32..10.0,
    ) {
        let options = SamplingOptions {
            repetition_penalty: repetition,
            presence_penalty: -2.0,
            logit_bias: vec![(3, 100.0), (5, -100.0)],
            logprobs: Some(20),
            ..options
        };
        let mut sampler = Sampler::new(&options, &[1, 2, 3, 4, u32::MAX], 0);
        for _ in 0..3 {
            match sampler.pick(&logits, None) {
                Ok(picked) => prop_assert!(logits[picked.token as usize] > f32::NEG_INFINITY),
                Err(error) => prop_assert_eq!(error, PickError::NoLogits),
            }
        }
    }
}

#[test]
fn tokens_are_drawn_as_often_as_they_are_probable() {
    // 200,000 draws from 8 tokens: chi-square with 7 degrees of freedom, 24.3 at one in a thousand.
    let logits = [0.5f32, -1.0, 2.0, 0.0, 1.5, -0.5, 1.0, -2.0];
    for (temperature, seed) in [(1.0f32, 7), (0.6, 8), (2.0, 9)] {
        let options = SamplingOptions { temperature, seed: Some(seed), ..SamplingOptions::default() };
        let mut sampler = Sampler::new(&options, &[], 0);
        let mut counts = [0f64; 8];
        const DRAWS: usize = 200_000;
        for _ in 0..DRAWS {
            counts[sampler.pick(&logits, None).unwrap().token as usize] += 1.0;
        }
        let weights: Vec<f64> = logits.iter().map(|logit| f64::from(logit / temperature).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let chi: f64 = (0..8)
            .map(|token| {
                let expected = DRAWS as f64 * weights[token] / sum;
                (counts[token] - expected).powi(2) / expected
            })
            .sum();
        assert!(chi < 24.3, "chi-square {chi} at temperature {temperature}: {counts:?}");
    }
}

/// Logits that look like a model's: few tokens probable, very many improbable.
fn model_like(vocabulary: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || random.next_u32() as f32 / u32::MAX as f32;
    (0..vocabulary).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 4.0 - 12.0).collect()
}

#[test]
fn a_large_vocabulary_is_drawn_from_as_by_sorting_everything() {
    let mut logits = model_like(262_144, 1);
    logits[77_777] = f32::NAN;
    let base = SamplingOptions { temperature: 0.8, ..SamplingOptions::default() };
    let cases = [
        base.clone(),
        SamplingOptions { top_p: 0.95, ..base.clone() },
        SamplingOptions { top_p: 0.95, temperature: 2.0, ..base.clone() },
        SamplingOptions { top_k: 40, ..base.clone() },
        SamplingOptions { top_k: 40, top_p: 0.9, min_p: 0.05, ..base.clone() },
        SamplingOptions { top_k: 100_000, top_p: 0.5, ..base.clone() },
        SamplingOptions { min_p: 0.01, ..base },
    ];
    for options in cases {
        let expected = reference(&logits, &options);
        for random in [0, 1 << 40, 1 << 63, u64::MAX / 3, u64::MAX] {
            let (token, _) = choose(&logits, &options, random);
            assert_eq!(token, reference_draw(&expected, random), "{options:?} {random}");
        }
    }
}

#[test]
fn an_outlier_does_not_make_all_others_one_bucket() {
    // One logit far away: linear buckets would hold all others in one, again and again.
    let mut logits = model_like(20_000, 2);
    logits[5] = 1e30;
    logits[6] = -1e30;
    let options = SamplingOptions { top_k: 5_000, ..SamplingOptions::default() };
    let (_, kept) = choose(&logits, &options, 0);
    assert_eq!(kept, reference(&logits, &options));
}

#[test]
fn the_smallest_differences_there_are_do_not_keep_it_busy() {
    // Half of the smallest number is 0.
    let logits: Vec<f32> = (0..5_000u32).map(|token| f32::from_bits(token * 7 % 2)).collect();
    for options in [
        SamplingOptions { top_k: 3_000, ..SamplingOptions::default() },
        SamplingOptions { top_p: 0.3, ..SamplingOptions::default() },
    ] {
        let (_, kept) = choose(&logits, &options, 0);
        assert_eq!(kept, reference(&logits, &options));
    }
}

#[test]
fn equal_seeds_give_equal_tokens_and_answers_differ() {
    let logits = model_like(1_000, 3);
    let options = SamplingOptions { seed: Some(42), temperature: 1.5, ..SamplingOptions::default() };
    let draw = |answer: u64| -> Vec<TokenId> {
        let mut sampler = Sampler::new(&options, &[], answer);
        (0..20).map(|_| sampler.pick(&logits, None).unwrap().token).collect()
    };
    assert_eq!(draw(0), draw(0));
    assert_ne!(draw(0), draw(1));
}

#[test]
fn the_generator_is_the_same_in_every_version() {
    // Texts of seeds that users wrote down: if this fails, they all change.
    let logits: Vec<f32> = (0..1_000).map(|token| (token % 10) as f32 / 4.0).collect();
    let options = SamplingOptions { seed: Some(1), temperature: 1.3, top_p: 0.9, ..SamplingOptions::default() };
    let mut sampler = Sampler::new(&options, &[], 0);
    let drawn: Vec<TokenId> = (0..8).map(|_| sampler.pick(&logits, None).unwrap().token).collect();
    assert_eq!(drawn, [376, 289, 793, 916, 853, 138, 726, 778]);
}

#[test]
fn a_preempted_sequence_goes_on_as_if_it_had_not_been() {
    let logits = model_like(1_000, 4);
    let options = SamplingOptions {
        seed: Some(9),
        frequency_penalty: 0.5,
        repetition_penalty: 1.2,
        ..SamplingOptions::default()
    };
    let mut whole = Sampler::new(&options, &[1, 2, 3], 0);
    let said: Vec<TokenId> = (0..30).map(|_| whole.pick(&logits, None).unwrap().token).collect();
    let mut first = Sampler::new(&options, &[1, 2, 3], 0);
    let before: Vec<TokenId> = (0..11).map(|_| first.pick(&logits, None).unwrap().token).collect();
    let mut kept = first.clone();
    // What happens to others meanwhile, on the same thread, changes nothing.
    Sampler::new(&SamplingOptions::default(), &[], 0).pick(&model_like(5_000, 5), None).unwrap();
    let after: Vec<TokenId> = (0..19).map(|_| kept.pick(&logits, None).unwrap().token).collect();
    assert_eq!([before, after].concat(), said);
}

#[test]
fn penalties_and_bias_change_what_is_taken() {
    let greedy = SamplingOptions { temperature: 0.0, ..SamplingOptions::default() };
    let pick = |options: &SamplingOptions, prompt: &[TokenId], logits: &[f32]| {
        Sampler::new(options, prompt, 0).pick(logits, None).unwrap().token
    };
    let logits = [1.0, 3.0, 2.9, -1.0];
    assert_eq!(pick(&greedy, &[1], &logits), 1);
    let repetition = SamplingOptions { repetition_penalty: 1.5, ..greedy.clone() };
    assert_eq!(pick(&repetition, &[1], &logits), 2);
    let bias = SamplingOptions { logit_bias: vec![(3, 100.0), (1, -100.0)], ..greedy.clone() };
    assert_eq!(pick(&bias, &[], &logits), 3);
    // Frequency counts what was written, not the prompt.
    let frequency = SamplingOptions { frequency_penalty: 0.2, ..greedy };
    let mut sampler = Sampler::new(&frequency, &[1, 1, 1], 0);
    let said: Vec<TokenId> = (0..4).map(|_| sampler.pick(&logits, None).unwrap().token).collect();
    assert_eq!(said, [1, 2, 1, 2]);
}

#[test]
fn nothing_to_draw_is_an_error_that_says_whose_fault_it_is() {
    let mut sampler = Sampler::new(&SamplingOptions::default(), &[], 0);
    let nothing = TokenMask::alloc(3);
    assert_eq!(sampler.pick(&[1.0, 2.0, 3.0], Some(&nothing)), Err(PickError::NothingAllowed));
    for broken in [vec![], vec![f32::NAN; 300], vec![f32::NEG_INFINITY; 7]] {
        assert_eq!(sampler.pick(&broken, None), Err(PickError::NoLogits));
    }
    assert_eq!(PickError::NoLogits.fault(), Fault::Ours);
    assert_eq!(PickError::NothingAllowed.fault(), Fault::Caller);
}

#[test]
fn infinite_logits_share_what_there_is() {
    let logits = [f32::INFINITY, 5.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let options = SamplingOptions { seed: Some(3), logprobs: Some(2), ..SamplingOptions::default() };
    let mut sampler = Sampler::new(&options, &[], 0);
    let mut seen = [0; 5];
    for _ in 0..100 {
        let picked = sampler.pick(&logits, None).unwrap();
        seen[picked.token as usize] += 1;
        let logprob = picked.logprob.unwrap();
        assert!((logprob.chosen - 0.5f32.ln()).abs() < 1e-6);
        assert_eq!(logprob.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 3]);
    }
    assert!(seen[0] > 20 && seen[3] > 20 && seen[1] + seen[2] + seen[4] == 0, "{seen:?}");
}
