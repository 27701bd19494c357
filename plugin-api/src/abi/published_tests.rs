//! What is published stays as it is: tables, their layout in C, and the bytes of records.

use std::fmt::Write;
use std::process::Command;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::component::ComponentRecord;
use super::header::c_header;
use super::record::{decode, encode};
use super::services::SetupRecord;
use crate::{
    Bootstrap, Capabilities, Datum, DeviceInfo, Dtype, Error, Event, Example, Granularity, Head, HostArray, HostBatch,
    Init, Initial, Item, MemoryInfo, Message, Metrics, ModelSpec, NamedFile, Observation, ParameterSpec, PlannedMemory,
    ReduceOp, Role, Sample, Setup, StateShape, StateSpec, Vocabulary,
};

const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include/mdt_plugin.h");
const RECORDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include/records.txt");

/// A value's record, which gives the value back; what damage makes of it is read or refused, and never a crash.
fn bytes<T: Serialize + DeserializeOwned>(value: &T) -> Vec<u8> {
    let bytes = encode(value).unwrap();
    assert_eq!(encode(&decode::<T>(&bytes).unwrap()).unwrap(), bytes);
    let mut state = 8;
    for _ in 0..2_000 {
        if let Ok(other) = decode::<T>(&damaged(&bytes, &mut state)) {
            encode(&other).unwrap();
        }
    }
    bytes
}

/// The bytes with one to four of them changed, removed or doubled, by a fixed sequence (Knuth's generator).
fn damaged(bytes: &[u8], state: &mut u64) -> Vec<u8> {
    let mut below = |bound: usize| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize % bound
    };
    let mut bytes = bytes.to_vec();
    for _ in 0..=below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = below(bytes.len());
        match below(4) {
            0 => bytes[at] ^= 1 << below(8),
            1 => bytes[at] = below(256) as u8,
            2 => drop(bytes.remove(at)),
            _ => bytes.insert(at, bytes[at]),
        }
    }
    bytes
}

/// Compares what this crate gives with what is published in a file.
fn is_published(file: &str, generated: &str) {
    if std::env::var_os("MDT_WRITE_BOUNDARY").is_some() {
        std::fs::write(file, generated).unwrap();
    }
    let published = std::fs::read_to_string(file).unwrap_or_default();
    let differs = generated.lines().zip(published.lines()).find(|(generated, published)| generated != published);
    assert!(
        generated == published,
        "{file} is not what this crate gives (first difference: {differs:?}): what is published never changes, so give a \
         new table another number, and a new field of a record a default; what is not published yet is written again with \
         MDT_WRITE_BOUNDARY=1"
    );
}

#[test]
fn no_published_table_changes() {
    is_published(HEADER, &c_header());
}

#[test]
fn no_published_record_changes_its_bytes() {
    let mut text = String::new();
    let mut record = |name: &str, value: Vec<u8>| {
        let hex = value.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        writeln!(text, "{name} {hex}").unwrap();
    };
    let extra = json!({ "name": "calculator", "tool_calls": [{ "id": 1, "weight": 0.5 }] });
    let message = Message {
        role: "assistant".to_owned(),
        content: "4".to_owned(),
        extra: extra.as_object().cloned().unwrap_or_default(),
    };
    record("Example, messages", bytes(&Example::new(812).with("messages", vec![message])));
    record(
        "Example, prompt and completion",
        bytes(&Example::new(812).with("prompt", "2 + 2 = ").with("completion", "4")),
    );
    let example = Example::new(812).with("text", "ä").with("null", Datum::Null).with("truth", true).with("integer", -3);
    let example = example.with("real", 0.1).with("bytes", vec![0u8, 255]).with("list", vec![Datum::from(u64::MAX)]);
    record("Example, every type", bytes(&example));
    let item = Item::of(vec![1, 70_000], vec![false, true]).with("rejected", vec![1], vec![false]);
    record("Item", bytes(&vec![item.with_numbers("weight", [0.5])]));
    let array = HostArray::new(&[1, 2], &[1i32, -100]).unwrap();
    record(
        "HostBatch",
        bytes(&HostBatch { arrays: vec![("targets".to_owned(), array)], tokens: 2, supervised_tokens: 1 }),
    );
    record(
        "Vocabulary",
        bytes(&Vocabulary {
            size: 32_000,
            prefix: vec![1],
            bos: Some(1),
            eos: None,
            stop: vec![2],
            special: vec![(1, "<s>".to_owned())],
            renders_messages: true,
        }),
    );
    let file = |name: &str, text: Option<&str>| NamedFile { name: name.to_owned(), text: text.map(str::to_owned) };
    record("NamedFile", bytes(&vec![file("tokenizer.json", None), file("chat_template.jinja", Some("{{ x }}"))]));
    record("StateSpec", bytes(&vec![StateSpec::zeros("momentum")]));
    let scales = StateSpec::zeros("scales").with_shape(StateShape::Blocks(256)).with_dtype(Dtype::BF16);
    let rows = StateSpec::zeros("rows").with_shape(StateShape::Of(vec![4])).with_initial(Initial::Parameter);
    record("StateSpec, typed", bytes(&vec![scales, rows]));
    record("Granularity, element", bytes(&Granularity::Element));
    record("Granularity, block", bytes(&Granularity::Block(256)));
    record("Granularity, tensor", bytes(&Granularity::Tensor));
    let parameter = |name: &str, role, init| ParameterSpec::new(name, [4, 2], role, init);
    let parameters = vec![
        parameter("embedding.weight", Role::Embedding, Init::Normal { std: 0.02 }).alias("model.embedding.weight"),
        parameter("linear.weight", Role::Linear, Init::Zeros).in_out(),
        parameter("experts.weight", Role::Experts, Init::Zeros)
            .stacked_from((0..4).map(|e| format!("expert.{e}.weight"))),
        parameter("norm.weight", Role::Norm, Init::Ones).frozen(),
        parameter("head.weight", Role::Other, Init::Zeros).tied_to("embedding.weight"),
    ];
    let head = Head { soft_cap: Some(30.0), ..Head::new("head") };
    let config = json!({ "tie_word_embeddings": true }).as_object().cloned().unwrap_or_default();
    record("ModelSpec", bytes(&ModelSpec { config, ..ModelSpec::new(parameters, 32_000, head) }));
    let [kind, name, library] = ["cpu", "EPYC", "MLX 0.32.2"].map(str::to_owned);
    record(
        "DeviceInfo",
        bytes(&DeviceInfo { kind, name, library, unified_memory: true, threads: 2, ..DeviceInfo::default() }),
    );
    record("MemoryInfo", bytes(&MemoryInfo { active_bytes: 1, peak_bytes: 1 << 40, cached_bytes: 0 }));
    record("PlannedMemory", bytes(&PlannedMemory { peak_bytes: 1 << 40 }));
    let dtypes = vec![Dtype::F32, Dtype::F64];
    let ops = vec![ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Mean];
    let data_path = "over TCP".to_owned();
    record("Capabilities", bytes(&Capabilities { dtypes, ops, max_world_size: 0, deterministic: true, data_path }));
    let values = [("address", "10.0.0.1"), ("port", "29500")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (job, identity) = ("1f3a".to_owned(), "{}".to_owned());
    record("Bootstrap", bytes(&Bootstrap { rank: 1, world_size: 4, job, identity, values: values.into() }));
    let [kind, id, version] = ["optimizer", "lion", "1.0.0"].map(str::to_owned);
    record("ComponentRecord", bytes(&ComponentRecord { kind, id, version }));
    let setup =
        Setup { model_path: Some("model".into()), model_config: json!({ "model_type": "llama" }), ..Setup::default() };
    record("SetupRecord", bytes(&SetupRecord::export(&setup).unwrap().0));
    let metrics = Metrics { update: 3, values: [("loss".to_owned(), 2.5)].into() };
    record("Observation, updated", bytes(&Observation { unix_time_s: 1.5, event: Event::Updated(metrics) }));
    let [prompt, answer] = ["2 + 2 = ", "4"].map(str::to_owned);
    let sample = Sample { update: 3, evaluation: true, prompt, answer };
    record("Observation, sampled", bytes(&Observation { unix_time_s: 1.5, event: Event::Sampled(sample) }));
    record("Observation, finished", bytes(&Observation { unix_time_s: 1.5, event: Event::Finished }));
    let error = Error::input("bad row").with("line", 812).caused_by("unexpected end").in_component("data jsonl 1.0.0");
    record("Error", bytes(&error));
    is_published(RECORDS, &text);
}

#[test]
fn c_and_cpp_lay_every_table_out_as_rust_does() {
    for [compiler, language] in [["cc", "c"], ["c++", "c++"]] {
        let arguments = ["-fsyntax-only", "-Wall", "-Werror", "-x", language, HEADER];
        let compiled = Command::new(compiler).args(arguments).output();
        let compiled = compiled.expect("a C compiler, as Rust needs one to link");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    }
}
