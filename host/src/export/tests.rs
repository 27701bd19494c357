use super::*;
use mdt_plugin_api::NamedFile;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

const EMBEDDING: Array<'static> =
    Array { name: "model.embed_tokens.weight", shape: &[2, 3], data: &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
const NORM: Array<'static> = Array { name: "model.norm.weight", shape: &[3], data: &[0.5, 0.25, 0.125] };

/// A model directory with tokenizer files, old weights and something private.
fn source() -> tempfile::TempDir {
    let source = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::write(source.path().join(name), name).unwrap();
    }
    fs::create_dir(source.path().join("additional_chat_templates")).unwrap();
    fs::write(source.path().join("additional_chat_templates/tools.jinja"), "tools").unwrap();
    fs::write(source.path().join("pytorch_model.bin"), "old weights").unwrap();
    fs::write(source.path().join("notes.txt"), "private").unwrap();
    source
}

/// The model's directory with this `config.json`.
fn opened(source: &Path, config: &Value) -> Directory {
    fs::write(source.join("config.json"), config.to_string()).unwrap();
    Directory::open(source).unwrap()
}

fn export<'a>(source: &'a Directory, parameters: &'a [Array<'a>]) -> Export<'a> {
    static NONE: std::sync::LazyLock<serde_json::Map<String, Value>> = std::sync::LazyLock::new(Default::default);
    let names = ["tokenizer.json", "tokenizer_config.json", "additional_chat_templates/tools.jinja"];
    let files = names.iter().filter(|name| source.path().join(name).exists()).map(|&name| file(name, None)).collect();
    Export {
        source,
        tokenizer: Box::leak(Box::new(of(source.path(), files))),
        config: &NONE,
        parameters,
        specs: &[],
        quantised: &[],
        types: Box::leak(Box::default()),
        packing: None,
        adapter: None,
        card: None,
    }
}

fn file(name: &str, text: Option<&str>) -> NamedFile {
    NamedFile { name: name.to_owned(), text: text.map(str::to_owned) }
}

fn of(source: &Path, files: Vec<NamedFile>) -> TokenizerFiles {
    TokenizerFiles::named(source, files).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_directory_has_config_weights_and_the_tokenizers_files_and_nothing_else() {
    let (place, out) = (source(), tempfile::tempdir().unwrap());
    let source = opened(place.path(), &json!({ "model_type": "llama" }));
    let written = export(&source, &[EMBEDDING, NORM]).write(out.path(), &|| false).unwrap();
    assert_eq!(written, out.path().join("final"));
    let expected = [
        "additional_chat_templates",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&written), expected);
    assert_eq!(fs::read_to_string(written.join("additional_chat_templates/tools.jinja")).unwrap(), "tools");
    let config: Value = serde_json::from_slice(&fs::read(written.join("config.json")).unwrap()).unwrap();
    assert_eq!(config, json!({ "model_type": "llama", "torch_dtype": "float32" }));
    let bytes = fs::read(written.join("model.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor(NORM.name).unwrap().shape(), [3]);
}

#[test]
fn shards_and_their_index_hold_every_parameter() {
    let (place, out) = (source(), tempfile::tempdir().unwrap());
    let source = opened(place.path(), &json!({}));
    let written = out.path().join("final");
    export(&source, &[EMBEDDING, NORM]).write_sharded(&written, 24, &|| false).unwrap();
    let index: Value =
        serde_json::from_slice(&fs::read(written.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], json!(36));
    let map: BTreeMap<String, String> = serde_json::from_value(index["weight_map"].clone()).unwrap();
    assert_eq!(map[EMBEDDING.name], "model-00001-of-00002.safetensors");
    assert_eq!(map[NORM.name], "model-00002-of-00002.safetensors");
    for (name, file) in map {
        let bytes = fs::read(written.join(file)).unwrap();
        assert!(SafeTensors::deserialize(&bytes).unwrap().tensor(&name).is_ok());
    }
    assert!(!written.join("model.safetensors").exists());
}

#[test]
fn an_earlier_result_is_replaced_whole() {
    let (place, out) = (source(), tempfile::tempdir().unwrap());
    let source = opened(place.path(), &json!({}));
    export(&source, &[EMBEDDING, NORM]).write_sharded(&out.path().join("final"), 24, &|| false).unwrap();
    let written = export(&source, &[NORM]).write(out.path(), &|| false).unwrap();
    assert!(!names(&written).iter().any(|name| name.contains("-of-") || name.contains("index")));
    assert_eq!(names(out.path()), ["final"]);
}

#[test]
fn a_result_can_be_written_over_the_model_that_it_came_from() {
    let (place, out) = (source(), tempfile::tempdir().unwrap());
    let source = opened(place.path(), &json!({}));
    let first = export(&source, &[NORM]).write(out.path(), &|| false).unwrap();
    export(&Directory::open(&first).unwrap(), &[EMBEDDING]).write(out.path(), &|| false).unwrap();
    assert_eq!(fs::read_to_string(first.join("tokenizer.json")).unwrap(), "tokenizer.json");
}

#[test]
fn an_interrupted_export_leaves_the_earlier_result() {
    let (place, out) = (source(), tempfile::tempdir().unwrap());
    let source = opened(place.path(), &json!({}));
    let written = export(&source, &[NORM]).write(out.path(), &|| false).unwrap();
    let calls = std::cell::Cell::new(0);
    let second_time = || calls.replace(calls.get() + 1) == 1;
    let failure = export(&source, &[EMBEDDING, NORM]).write(out.path(), &second_time).unwrap_err();
    assert_eq!(failure.status(), Status::Interrupted);
    let bytes = fs::read(written.join("model.safetensors")).unwrap();
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().names(), [NORM.name]);
    assert_eq!(names(out.path()), ["final"]);
}

#[test]
fn a_failed_export_leaves_the_earlier_result_and_names_the_file() {
    let (place, out) = (source(), tempfile::tempdir().unwrap());
    let source = opened(place.path(), &json!({}));
    let written = export(&source, &[NORM]).write(out.path(), &|| false).unwrap();
    let before = fs::read(written.join("model.safetensors")).unwrap();
    // No disk is full in a unit test; arrays that contradict themselves fail at the same place.
    let contradiction = Array { shape: &[4], ..NORM };
    let failure = export(&source, &[contradiction]).write(out.path(), &|| false).unwrap_err();
    assert_eq!(failure.status(), Status::Storage);
    assert!(failure.to_string().contains("final/model.safetensors"), "{failure}");
    assert_eq!(fs::read(written.join("model.safetensors")).unwrap(), before);
    assert_eq!(names(out.path()), ["final"]);
}

#[test]
fn what_the_tokenizer_says_differently_takes_the_place_of_the_models_own() {
    let (place, out) = (source(), tempfile::tempdir().unwrap());
    let source = opened(place.path(), &json!({}));
    let tokenizer =
        of(place.path(), vec![file("tokenizer.json", Some("new")), file("templates/chat.jinja", Some("hello"))]);
    let written = Export { tokenizer: &tokenizer, ..export(&source, &[NORM]) }.write(out.path(), &|| false).unwrap();
    assert_eq!(fs::read_to_string(written.join("tokenizer.json")).unwrap(), "new");
    assert_eq!(fs::read_to_string(written.join("templates/chat.jinja")).unwrap(), "hello");

    let before = of(place.path(), vec![file("tokenizer.json", None)]).checksum().unwrap();
    let same = of(place.path(), vec![file("tokenizer.json", Some("tokenizer.json"))]).checksum().unwrap();
    assert_eq!(before, same, "the same words are the same tokenizer");
    assert_ne!(before, tokenizer.checksum().unwrap());
}

#[test]
fn a_tokenizer_names_no_file_outside_of_the_models_directory() {
    let place = source();
    for name in ["", "/etc/passwd", "../secret", "a/../../secret"] {
        let failure = TokenizerFiles::named(place.path(), vec![file(name, None)]).unwrap_err();
        assert_eq!(failure.status(), Status::Plugin, "{name:?}");
    }
}

#[cfg(unix)]
#[test]
fn links_out_of_the_models_directory_are_never_followed_into_the_result() {
    use std::os::unix::fs::symlink;
    let (place, secret, out) = (source(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(secret.path().join("id.jinja"), "secret").unwrap();
    let source = opened(place.path(), &json!({}));
    for (name, target) in [
        ("vocab.txt", secret.path().join("id.jinja")),
        ("additional_chat_templates", secret.path().to_owned()),
        ("additional_chat_templates/id.jinja", secret.path().join("id.jinja")),
    ] {
        let link = place.path().join(name);
        let templates = place.path().join("additional_chat_templates");
        if link == templates {
            fs::remove_dir_all(&templates).unwrap();
        }
        symlink(&target, &link).unwrap();
        let named = if link == templates { "additional_chat_templates/id.jinja" } else { name };
        let tokenizer = of(place.path(), vec![file(named, None)]);
        let export = Export { tokenizer: &tokenizer, ..export(&source, &[NORM]) };
        let failure = export.write(out.path(), &|| false).unwrap_err();
        assert_eq!(failure.status(), Status::Input);
        let text = failure.to_string();
        assert!(text.contains(&link.display().to_string()) && text.contains("leads out"), "{text}");
        assert_eq!(tokenizer.check().unwrap_err().status(), Status::Input);
        assert!(!out.path().join("final").exists());
        fs::remove_file(&link).unwrap();
        fs::create_dir_all(&templates).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn the_files_of_a_hub_cache_are_links_to_the_blobs_beside_its_snapshots() {
    use std::os::unix::fs::symlink;
    let (cache, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = cache.path().join("models--maker--name");
    let (blobs, snapshot) = (model.join("blobs"), model.join("snapshots/0a1b"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(blobs.join("f00d"), "vocabulary").unwrap();
    symlink("../../blobs/f00d", snapshot.join("vocab.txt")).unwrap();
    let source = opened(&snapshot, &json!({}));
    let tokenizer = of(&snapshot, vec![file("vocab.txt", None)]);
    let written = Export { tokenizer: &tokenizer, ..export(&source, &[NORM]) }.write(out.path(), &|| false).unwrap();
    assert_eq!(fs::read_to_string(written.join("vocab.txt")).unwrap(), "vocabulary");
    assert!(!written.join("vocab.txt").is_symlink());

    fs::write(model.join("token"), "secret").unwrap();
    symlink("../../token", snapshot.join("merges.txt")).unwrap();
    assert!(of(&snapshot, vec![file("merges.txt", None)]).check().is_err());
}
