//! A component of every kind with every ability, small and deterministic, and calls of each of their methods: what they
//! answer is the same for a component itself, for one that was exported and imported, and for one of a loaded file.
//!
//! The file of each kind has the component and its calls. `mdt-plugin-api` has these files in its own tests, too: they
//! show that no function of a table is left out.

mod comm;
mod compute;
mod data;
mod faults;
mod model;
mod observer;
mod optimizer;
mod recorder;
mod source;
mod tokenizer;
mod trainer;

pub use source::Source;

use recorder::Recorder;

mdt_plugin_api::plugin! {
    compute "every_kind" => compute::Slab;
    model "every_kind" => model::Small;
    tokenizer "every_kind" => tokenizer::Bytes;
    trainer "every_kind" => trainer::Counts: prepare, reference, evaluation, parameters;
    optimizer "every_kind" => optimizer::Momentum: slices, typed_states, typed_slices, device, evaluation_weights;
    data "every_kind" => data::Numbers;
    comm "every_kind" => comm::Mirror: reduce_scatter, point_to_point, regions;
    observer "every_kind" => observer::Listener;
}

/// Makes a component and calls its methods.
type Exercise = fn(&mut Recorder, &Source);

/// Methods of interfaces that version 0.2 does not have.
const LATER: [(&str, &[&str]); 4] = [
    ("compute.plan/1", compute::PLANNING),
    ("comm.point_to_point/1", comm::PAIRS),
    ("data.places/1", data::PLACES),
    ("tokenizer.notes/1", tokenizer::NOTES),
];

/// What all components answer, a line for each call, first as they should be and then with each method failing and
/// panicking once. Methods of the interfaces in `without` are not called.
pub fn transcript(source: &Source, without: &[String]) -> String {
    let is_left_out = |(interface, _): &&(&str, _)| without.iter().any(|name| name == interface);
    let left_out: Vec<&str> = LATER.iter().filter(is_left_out).flat_map(|(_, methods)| *methods).copied().collect();
    let kinds: [(&str, &[&str], Exercise); 8] = [
        ("compute", compute::METHODS, compute::exercise),
        ("model", model::METHODS, model::exercise),
        ("tokenizer", tokenizer::METHODS, tokenizer::exercise),
        ("trainer", trainer::METHODS, trainer::exercise),
        ("optimizer", optimizer::METHODS, optimizer::exercise),
        ("data", data::METHODS, data::exercise),
        ("comm", comm::METHODS, comm::exercise),
        ("observer", observer::METHODS, observer::exercise),
    ];
    let mut lines = Vec::new();
    for (kind, methods, exercise) in kinds {
        let component = source.component_name(kind);
        lines.push(source.describe(kind));
        let mut run = |title: String, mut recorder: Recorder| {
            lines.push(format!("[{kind}{title}]"));
            exercise(&mut recorder, source);
            lines.extend(recorder.finish());
        };
        let recorder = |panics_in, fails_in| Recorder::new(component, panics_in, fails_in, &left_out);
        run(String::new(), recorder(None, None));
        for method in ["create", "drop"].iter().chain(methods).filter(|method| !left_out.contains(method)) {
            run(format!(", {method} panics"), recorder(Some(method), None));
            run(format!(", {method} fails"), recorder(None, Some(method)));
        }
    }
    lines.join("\n") + "\n"
}
