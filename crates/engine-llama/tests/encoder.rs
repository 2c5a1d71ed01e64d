//! What an encoder promises, kept by llama.cpp with a real model: Gemma, whose last token's vector is a text's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use halny_engine::testsuite::fetched;
use halny_engine::{
    Device, EncoderSpec, EngineError, Head, Instance, LanguageEngine, LoadedEncoder, Pooling, Specials, Tensor,
};
use halny_engine_llama::LlamaEngine;

fn spec(device: Device) -> EncoderSpec {
    EncoderSpec {
        weights: fetched("models/gemma3-270m/model.gguf"),
        device,
        instances: 2,
        threads: 1,
        tokens_max: 40,
        head: Head::Vector(None),
    }
}

/// Rows filled up to the longest.
fn inputs(rows: &[Vec<i32>]) -> [Tensor; 2] {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let filled = |row: &Vec<i32>, with: i32| {
        let mut row: Vec<i32> = if with == 0 { row.clone() } else { vec![with; row.len()] };
        row.resize(width, 0);
        row
    };
    let tensor = |with| {
        let numbers: Vec<i32> = rows.iter().flat_map(|row| filled(row, with)).collect();
        Tensor::from_slice(&[rows.len(), width], &numbers).unwrap()
    };
    [tensor(0), tensor(1)]
}

fn run(instance: &mut dyn Instance, inputs: &[Tensor; 2]) -> Result<Vec<Vec<f32>>, EngineError> {
    let mut outputs = Vec::new();
    instance.run(&[inputs[0].view(), inputs[1].view()], &mut outputs)?;
    let width = outputs[0].shape()[1];
    Ok(outputs[0].elements::<f32>().unwrap().chunks(width).map(<[f32]>::to_vec).collect())
}

fn rows(encoder: &LoadedEncoder, texts: &[&str]) -> Vec<Vec<i32>> {
    let framed = |text: &&str| {
        let tokens = encoder.model.tokenise(text, Specials::AsText, false);
        let frame = &encoder.frame;
        frame.before.iter().chain(&tokens).chain(&frame.after).map(|token| i32::try_from(*token).unwrap()).collect()
    };
    texts.iter().map(framed).collect()
}

/// 1 for vectors that point the same way.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn a_text_has_its_vector_in_any_company_on_every_device() {
    for device in LlamaEngine.devices() {
        let mut encoder = LlamaEngine.load_encoder(&spec(device)).unwrap();
        assert_eq!((encoder.loaded.choice.device, encoder.tokens_max, encoder.probabilities), (device, 40, false));
        assert_eq!((encoder.frame.before.as_slice(), encoder.frame.after.as_slice()), (&[2][..], &[][..]));
        let long = "one two three four five six seven eight nine ten eleven twelve";
        let texts: Vec<&str> = ["The sky is blue", "a", long, "Monday"].into_iter().cycle().take(90).collect();
        let rows = rows(&encoder, &texts);
        let mut instances = std::mem::take(&mut encoder.loaded.instances);
        let together = run(instances[0].as_mut(), &inputs(&rows)).unwrap();
        assert_eq!(together.len(), 90);
        for place in 0..4 {
            let alone = &run(instances[1].as_mut(), &inputs(&rows[place..=place])).unwrap()[0];
            let (near, far) = (cosine(alone, &together[place]), cosine(alone, &together[place + 84]));
            // 4-bit weights: the kernels for few tokens round otherwise than those for many.
            assert!(near > 0.99 && far > 0.99, "{place}: {near} {far}");
        }
        assert!(cosine(&together[0], &together[2]) < 0.9, "the comparison above would prove nothing");
    }
}

#[test]
fn another_pooling_gives_other_vectors() {
    let vector = |pooling| {
        let head = Head::Vector(Some(pooling));
        let mut encoder = LlamaEngine.load_encoder(&EncoderSpec { head, ..spec(Device::Cpu) }).unwrap();
        let rows = rows(&encoder, &["The sky is blue"]);
        run(encoder.loaded.instances[0].as_mut(), &inputs(&rows)).unwrap().remove(0)
    };
    let [mean, first, last] = [Pooling::Mean, Pooling::Cls, Pooling::Last].map(vector);
    assert!(cosine(&mean, &last) < 0.999 && cosine(&first, &last) < 0.999);
}

#[test]
fn what_does_not_fit_is_refused_and_the_instance_lives_on() {
    let mut encoder = LlamaEngine.load_encoder(&spec(Device::Cpu)).unwrap();
    let mut instance = encoder.loaded.instances.remove(0);
    let tensor = |shape: &[usize], numbers: &[i32]| Tensor::from_slice(shape, numbers).unwrap();
    let good = inputs(&[vec![2, 5], vec![2]]);
    let before = run(instance.as_mut(), &good).unwrap();
    for (case, ids, mask) in [
        ("shapes that differ", tensor(&[1, 2], &[2, 5]), tensor(&[2, 1], &[1, 1])),
        ("no token", tensor(&[1, 2], &[2, 5]), tensor(&[1, 2], &[0, 0])),
        ("a hole", tensor(&[1, 3], &[2, 5, 6]), tensor(&[1, 3], &[1, 0, 1])),
        ("a negative token", tensor(&[1, 2], &[2, -1]), tensor(&[1, 2], &[1, 1])),
        ("a token too many", tensor(&[1, 2], &[2, 262_144]), tensor(&[1, 2], &[1, 1])),
        ("too long", tensor(&[1, 41], &[5; 41]), tensor(&[1, 41], &[1; 41])),
    ] {
        let error = run(instance.as_mut(), &[ids, mask]).unwrap_err();
        assert!(matches!(error, EngineError::Input(_)), "{case}: {error}");
    }
    assert_eq!(run(instance.as_mut(), &good).unwrap(), before);
    assert_eq!(run(instance.as_mut(), &[tensor(&[0, 3], &[]), tensor(&[0, 3], &[])]).unwrap(), Vec::<Vec<f32>>::new());
}

#[test]
fn a_head_that_is_not_there_is_refused() {
    for head in [Head::Scores, Head::Relevance] {
        let error = LlamaEngine.load_encoder(&EncoderSpec { head, ..spec(Device::Cpu) }).unwrap_err();
        assert!(matches!(&error, EngineError::Load(reason) if reason.contains("no classification head")), "{error}");
    }
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let error = LlamaEngine.load_encoder(&spec(Device::Cuda(99))).unwrap_err();
    assert!(error.to_string().contains("cuda:99"), "{error}");
}
