//! The texts of a run: read from a file, or made up.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{LoadError, Options, Texts, options::limits};

/// Words that are one token each in WordPiece and byte-pair vocabularies trained on English.
const WORDS: [&str; 64] = [
    "the",
    "people",
    "water",
    "house",
    "time",
    "year",
    "small",
    "large",
    "world",
    "city",
    "music",
    "light",
    "night",
    "river",
    "school",
    "table",
    "paper",
    "story",
    "state",
    "group",
    "number",
    "point",
    "white",
    "black",
    "green",
    "money",
    "power",
    "music",
    "level",
    "order",
    "south",
    "north",
    "right",
    "under",
    "after",
    "first",
    "third",
    "great",
    "local",
    "early",
    "young",
    "human",
    "party",
    "study",
    "family",
    "system",
    "program",
    "question",
    "work",
    "government",
    "company",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "fact",
    "month",
    "book",
    "eye",
    "job",
    "word",
    "business",
];

/// Collects the texts that `options` asks for.
pub(crate) fn collect(options: &Options) -> Result<Vec<String>, LoadError> {
    let mut rng = StdRng::seed_from_u64(options.seed);
    match &options.texts {
        Texts::Given(texts) => Ok(texts.clone()),
        Texts::File { path, shuffled } => {
            let mut texts = read(path)?;
            if *shuffled {
                texts.shuffle(&mut rng);
            }
            Ok(texts)
        }
        Texts::Synthetic { lengths, distinct } => {
            let mut texts = Vec::with_capacity(*distinct);
            let mut bytes = 0;
            while texts.len() < *distinct {
                let text = synthetic(lengths.draw(&mut rng), &mut rng);
                bytes += text.len();
                if bytes > limits::BODY_BYTES_MAX {
                    return Err(LoadError::refused(
                        "the synthetic texts",
                        format!("{distinct} texts"),
                        format!("at most {} bytes together: ask for fewer or shorter texts", limits::BODY_BYTES_MAX),
                    ));
                }
                texts.push(text);
            }
            Ok(texts)
        }
    }
}

fn synthetic(words: u32, rng: &mut impl Rng) -> String {
    let mut text = String::with_capacity(words as usize * 6);
    for index in 0..words {
        if index > 0 {
            text.push(' ');
        }
        text.push_str(WORDS[rng.random_range(0..WORDS.len())]);
    }
    text
}

fn read(path: &Path) -> Result<Vec<String>, LoadError> {
    let error = |source| LoadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(error)?;
    file.take(limits::TEXT_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > limits::TEXT_FILE_BYTES_MAX {
        return Err(LoadError::refused(
            "the text file",
            format!("{} (more than {} bytes)", path.display(), limits::TEXT_FILE_BYTES_MAX),
            format!("at most {} bytes", limits::TEXT_FILE_BYTES_MAX),
        ));
    }
    let mut texts = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let Ok(line) = std::str::from_utf8(line) else {
            return Err(LoadError::NotUtf8 { path: path.to_owned(), line: index + 1 });
        };
        if !line.trim().is_empty() {
            texts.push(line.trim_end_matches('\r').to_owned());
        }
    }
    if texts.is_empty() {
        return Err(LoadError::NoTexts { path: path.to_owned() });
    }
    Ok(texts)
}
