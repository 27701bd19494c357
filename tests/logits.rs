//! Logits of loaded models are those of transformers, in one piece, padded, or through a cache.

use std::path::{Path, PathBuf};

use mdt_tests::{LoadedModel, arrays, copy_files, example_plugin, integers, relative_difference, root};

/// Tokens of a row of the fixtures.
const LENGTH: usize = 40;
/// The one model whose rotations depend on the length of the whole input, padding included, by definition: a longer
/// batch, or a cache filled piece by piece, gives other numbers here as in transformers.
const DYNAMIC: &str = "extra_dynamic";

fn models() -> PathBuf {
    root().join("tests/fixtures/models")
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(models()).expect("the fixtures");
    let directories = entries.map(|entry| entry.expect("an entry")).filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = directories.map(|entry| entry.file_name().into_string().expect("a name")).collect();
    names.sort();
    assert_eq!(names.len(), 11, "{names:?}");
    names
}

/// The ids and logits of transformers.
fn expected(name: &str) -> (Vec<i32>, Vec<f32>) {
    let file = models().join(format!("{name}.logits.safetensors"));
    let [(_, logits)] = <[_; 1]>::try_from(arrays(&file)).expect("one array of f32");
    (integers(&file, "input_ids"), logits)
}

fn compare(name: &str, form: &str, directory: &Path) {
    let (ids, theirs) = expected(name);
    let ours = LoadedModel::open(directory).logits(ids.len() / LENGTH, &ids);
    let difference = relative_difference(&ours, &theirs);
    println!("{name} ({form}): {difference:.1e}");
    assert!(difference < 1e-4, "{name} ({form}): {difference:e}");
}

#[test]
fn logits_are_those_of_transformers_with_the_config_of_its_version_5() {
    for name in names() {
        compare(&name, "transformers 5", &models().join(&name));
    }
}

#[test]
fn logits_are_those_of_transformers_with_the_config_of_its_version_4() {
    for name in names() {
        let copy = tempfile::tempdir().expect("a temporary directory");
        copy_files(&models().join(&name), copy.path());
        std::fs::rename(copy.path().join("config.transformers4.json"), copy.path().join("config.json"))
            .expect("the other config");
        compare(&name, "transformers 4", copy.path());
    }
}

#[test]
fn padding_at_the_right_changes_no_logits_whatever_its_token_is() {
    for name in names() {
        let model = LoadedModel::open(&models().join(&name));
        let (ids, theirs) = expected(&name);
        let vocabulary = theirs.len() / ids.len();
        let short = 23;
        // The logits of all that is not padding.
        let padded_with = |token| {
            let mut batch = ids.clone();
            batch[LENGTH + short..].fill(token);
            model.logits(2, &batch)[..(LENGTH + short) * vocabulary].to_vec()
        };
        let padded = padded_with(0);
        assert!(padded_with(2) == padded && padded_with(127) == padded, "{name}: the token of the padding is seen");
        let difference = relative_difference(&padded, &theirs[..padded.len()]);
        assert!(difference < 1e-4, "{name}: {difference:e}");
        // Within rounding, because another shape may be multiplied in another order.
        let alone = model.logits(1, &ids[LENGTH..LENGTH + short]);
        let difference = relative_difference(&padded[LENGTH * vocabulary..], &alone);
        println!("{name}, padded: {difference:.1e}");
        assert!(difference < 1e-5 || name == DYNAMIC, "{name}: {difference:e}");
    }
}

#[test]
fn hidden_states_through_a_cache_are_those_of_the_whole_sequence() {
    for name in names().into_iter().filter(|name| name != DYNAMIC) {
        let model = LoadedModel::open(&models().join(&name));
        let (ids, _) = expected(&name);
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
    for name in ["llama2", "llama3", "linear_sharded", "smollm", "mistral", "qwen2", "qwen3"] {
        let model = LoadedModel::open(&models().join(name));
        let (ids, theirs) = expected(name);
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
fn a_window_shorter_than_the_sequence_hides_what_it_hides_in_transformers() {
    let copy = windowed_mistral();
    let file = root().join("tests/fixtures/examples/mistral_window.safetensors");
    let [(_, theirs)] = <[_; 1]>::try_from(arrays(&file)).expect("one array of f32");
    let (ids, model) = (integers(&file, "input_ids"), LoadedModel::open(copy.path()));
    let difference = relative_difference(&model.logits(ids.len() / LENGTH, &ids), &theirs);
    assert!(difference < 1e-4, "{difference:e}");
    let ids = &ids[..LENGTH];
    let whole = model.hidden(ids);
    for pieces in [ids.chunks(1).collect::<Vec<_>>(), vec![&ids[..1], &ids[1..9], &ids[9..33], &ids[33..]]] {
        let difference = relative_difference(&model.hidden_in_pieces(&pieces), &whole);
        assert!(difference < 1e-5, "{} pieces: {difference:e}", pieces.len());
    }
}

/// The fixture of Mistral with windows of 16 tokens, in a directory of its own.
fn windowed_mistral() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary directory");
    copy_files(&models().join("mistral"), copy.path());
    let config = copy.path().join("config.json");
    let text = std::fs::read_to_string(&config).expect("the config");
    assert!(text.contains("\"sliding_window\": 128"), "{text}");
    std::fs::write(&config, text.replace("\"sliding_window\": 128", "\"sliding_window\": 16")).expect("the config");
    copy
}

#[test]
fn rows_of_unequal_prompts_have_the_logits_that_each_has_alone() {
    let windowed = windowed_mistral();
    let gemma3 = root().join("tests/fixtures/examples/gemma3/model");
    let fixtures = names().into_iter().filter(|name| name != DYNAMIC);
    let fixtures = fixtures.map(|name| (LoadedModel::open(&models().join(&name)), name));
    let others = [
        (LoadedModel::open(windowed.path()), "windowed mistral".to_owned()),
        (LoadedModel::open_with(&gemma3, &example_plugin("gemma3")), "gemma3".to_owned()),
    ];
    let ids: Vec<i32> = (0..60).map(|place| 3 + place * 31 % 90).collect();
    let (prompts, following) = ([&ids[..3], &ids[5..38], &ids[9..10]], [&ids[40..52], &ids[20..32], &ids[..12]]);
    for (model, name) in fixtures.chain(others) {
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
