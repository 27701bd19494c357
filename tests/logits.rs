//! Logits of loaded models are those of transformers, in one piece, padded, or through a cache.

use std::path::{Path, PathBuf};

use mdt_tests::{LoadedModel, arrays, copy_files, families, integers, relative_difference, root};

/// Tokens of a row of the fixtures.
const LENGTH: usize = 40;
/// The models whose rotations depend on the length of the whole input, padding included, by definition: a longer batch, or
/// a cache filled piece by piece, gives other numbers here as in transformers.
const BY_LENGTH: [&str; 2] = ["extra_dynamic", "phi3_long"];

/// A model that transformers wrote, and what it computes with it.
struct Fixture {
    name: String,
    directory: PathBuf,
    /// The same model's config.json as transformers 4 writes it.
    older_config: PathBuf,
    answers: PathBuf,
}

impl Fixture {
    fn open(&self, directory: &Path) -> LoadedModel {
        families::open_at(&self.name, directory)
    }

    /// The ids and logits of transformers.
    fn expected(&self) -> (Vec<i32>, Vec<f32>) {
        let logits = arrays(&self.answers).into_iter().find(|(name, _)| name == "logits").expect("logits");
        (integers(&self.answers, "input_ids"), logits.1)
    }

    fn by_length(&self) -> bool {
        BY_LENGTH.contains(&&*self.name)
    }

    fn compare(&self, form: &str, directory: &Path) {
        let (ids, theirs) = self.expected();
        let ours = self.open(directory).logits(ids.len() / LENGTH, &ids);
        let difference = relative_difference(&ours, &theirs);
        println!("{} ({form}): {difference:.1e}", self.name);
        assert!(difference < 2e-5, "{} ({form}): {difference:e}", self.name);
    }
}

fn directories(of: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(of).expect("the fixtures").map(|entry| entry.expect("an entry"));
    let directories = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = directories.map(|entry| entry.file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}

fn fixtures() -> Vec<Fixture> {
    let (models, families) = (root().join("tests/fixtures/models"), root().join("tests/fixtures/families"));
    let (of_llama, others) = (directories(&models), directories(&families));
    assert_eq!((of_llama.len(), others.len()), (11, families::NAMES.len()), "{of_llama:?} {others:?}");
    let of_llama = of_llama.into_iter().map(|name| Fixture {
        directory: models.join(&name),
        older_config: models.join(&name).join("config.transformers4.json"),
        answers: models.join(format!("{name}.logits.safetensors")),
        name,
    });
    let others = others.into_iter().map(|name| Fixture {
        directory: families.join(&name).join("model"),
        older_config: families.join(&name).join("config.transformers4.json"),
        answers: families.join(&name).join("logits.safetensors"),
        name,
    });
    of_llama.chain(others).collect()
}

#[test]
fn logits_are_those_of_transformers_with_the_config_of_its_version_5() {
    for fixture in fixtures() {
        fixture.compare("transformers 5", &fixture.directory);
    }
}

#[test]
fn logits_are_those_of_transformers_with_the_config_of_its_version_4() {
    for fixture in fixtures() {
        let copy = tempfile::tempdir().expect("a temporary directory");
        copy_files(&fixture.directory, copy.path());
        std::fs::copy(&fixture.older_config, copy.path().join("config.json")).expect("the other config");
        fixture.compare("transformers 4", copy.path());
    }
}

#[test]
fn padding_at_the_right_changes_no_logits_whatever_its_token_is() {
    for fixture in fixtures() {
        let (name, model) = (&fixture.name, fixture.open(&fixture.directory));
        let (ids, theirs) = fixture.expected();
        let vocabulary = theirs.len() / ids.len();
        let short = 23;
        // The logits of all that is not padding.
        let padded_with = |token| {
            let mut batch = ids.clone();
            batch[LENGTH + short..].fill(token);
            model.logits(2, &batch)[..(LENGTH + short) * vocabulary].to_vec()
        };
        let padded = padded_with(0);
        assert!(padded_with(2) == padded && padded_with(99) == padded, "{name}: the token of the padding is seen");
        let difference = relative_difference(&padded, &theirs[..padded.len()]);
        assert!(difference < 1e-4, "{name}: {difference:e}");
        // Within rounding, because another shape may be multiplied in another order.
        let alone = model.logits(1, &ids[LENGTH..LENGTH + short]);
        let difference = relative_difference(&padded[LENGTH * vocabulary..], &alone);
        println!("{name}, padded: {difference:.1e}");
        assert!(difference < 1e-5 || fixture.by_length(), "{name}: {difference:e}");
    }
}

#[test]
fn hidden_states_through_a_cache_are_those_of_the_whole_sequence() {
    for fixture in fixtures().into_iter().filter(|fixture| !fixture.by_length()) {
        let (name, model) = (&fixture.name, fixture.open(&fixture.directory));
        let (ids, _) = fixture.expected();
        let ids = &ids[..LENGTH];
        let whole = model.hidden(ids);
        let token_by_token: Vec<&[i32]> = ids.chunks(1).collect();
        let prompt_then_tokens: Vec<&[i32]> = [&ids[..17]].into_iter().chain(ids[17..].chunks(1)).collect();
        let uneven = [&ids[..1], &ids[1..9], &ids[9..10], &ids[10..33], &ids[33..]];
        for pieces in [token_by_token.as_slice(), &prompt_then_tokens, &uneven] {
            let difference = relative_difference(&model.hidden_in_pieces(pieces), &whole);
            println!("{name}, {} pieces: {difference:.1e}", pieces.len());
            assert!(difference < 1e-5, "{name}, {} pieces: {difference:e}", pieces.len());
        }
    }
}

#[test]
fn greedy_generation_through_the_cache_picks_the_tokens_that_whole_forwards_pick() {
    for fixture in fixtures().into_iter().filter(|fixture| !fixture.by_length()) {
        let (name, model) = (&fixture.name, fixture.open(&fixture.directory));
        let (ids, theirs) = fixture.expected();
        let vocabulary = theirs.len() / ids.len();
        let mut whole = ids[..6].to_vec();
        for _ in 0..20 {
            let logits = model.logits(1, &whole);
            whole.push(most_likely(&logits[logits.len() - vocabulary..]));
        }
        assert_eq!(model.greedy(&ids[..6], 20), whole[6..], "{name}");
    }
}

fn most_likely(logits: &[f32]) -> i32 {
    let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(token, _)| token as i32).expect("a vocabulary")
}

#[test]
fn rows_of_unequal_prompts_have_the_logits_that_each_has_alone() {
    let ids: Vec<i32> = (0..60).map(|place| 3 + place * 31 % 90).collect();
    let (prompts, following) = ([&ids[..3], &ids[5..38], &ids[9..10]], [&ids[40..52], &ids[20..32], &ids[..12]]);
    for fixture in fixtures().into_iter().filter(|fixture| !fixture.by_length()) {
        let (name, model) = (&fixture.name, fixture.open(&fixture.directory));
        let together = model.logits_of_rows(&prompts, &following);
        for (row, together) in together.iter().enumerate() {
            let alone = model.logits_of_rows(&prompts[row..=row], &following[row..=row]);
            assert_eq!(together.len(), alone[0].len());
            let difference = relative_difference(together, &alone[0]);
            println!("{name}, row {row}: {difference:.1e}");
            assert!(difference < 2e-6, "{name}, row {row}: {difference:e}");
        }
    }
}
