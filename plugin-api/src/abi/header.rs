//! The boundary in C: a header of every table, for plugins in other languages and as a record of what is frozen.

use super::table::{CType, Declarations, Declared, Table};
use super::{comm, component, compute, data, model, observer, optimizer, prepare, root, services, tokenizer, trainer};

const HEAD: &str = "\
/* The boundary between mdt-host and its plugins, generated from mdt-plugin-api.

   A plugin exports one symbol, MDT_PLUGIN_ENTRY, of type MdtEntry. Its `open` writes the library as an object with the
   interface plugin.library/1. Every function returns whether it succeeded. It writes to `out` a record in CBOR (RFC 8949),
   or nothing where it has no reply; where it failed, a record of the error: code, message, component, context, causes. */
#ifndef MDT_PLUGIN_H
#define MDT_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if UINTPTR_MAX != UINT64_MAX
#define MDT_LAYOUT(condition)
#elif defined(__cplusplus)
#define MDT_LAYOUT(condition) static_assert(condition, \"not the layout of the boundary\");
#else
#define MDT_LAYOUT(condition) _Static_assert(condition, \"not the layout of the boundary\");
#endif

";

/// The header `include/mdt_plugin.h`.
pub fn c_header() -> String {
    let (mut text, mut all) = (HEAD.to_owned(), Declarations::default());
    root::Entry::declare(&mut all);
    write(&mut text, &all.0, |_| {
        "/* The type of MDT_PLUGIN_ENTRY; `magic` is \"mdt plugin 2\", padded with zeros. */\n".to_owned()
    });
    for interface in [
        interface::<root::PluginLibrary>,
        interface::<component::PluginComponent>,
        interface::<services::HostFunctions>,
        interface::<compute::HostFunction>,
        interface::<compute::ComputeTensors>,
        interface::<compute::ComputePlan>,
        interface::<model::HostForward>,
        interface::<model::ModelBlock>,
        interface::<model::ModelForward>,
        interface::<tokenizer::TokenizerText>,
        interface::<tokenizer::TokenizerNotes>,
        interface::<trainer::HostModel>,
        interface::<trainer::TrainerObjective>,
        interface::<prepare::HostGeneration>,
        interface::<prepare::TrainerPrepare>,
        interface::<prepare::TrainerReference>,
        interface::<prepare::TrainerEvaluation>,
        interface::<prepare::TrainerOwnParameters>,
        interface::<optimizer::OptimizerSlices>,
        interface::<optimizer::OptimizerTypedStates>,
        interface::<optimizer::OptimizerTypedSlices>,
        interface::<optimizer::OptimizerDevice>,
        interface::<optimizer::OptimizerEvaluationWeights>,
        interface::<data::DataRows>,
        interface::<data::DataPlaces>,
        interface::<comm::CommBackends>,
        interface::<comm::CommCollectives>,
        interface::<comm::CommReduceScatter>,
        interface::<comm::CommPointToPoint>,
        interface::<comm::CommMemory>,
        interface::<comm::CommWork>,
        interface::<observer::ObserverEvents>,
    ] {
        interface(&mut text, &mut all);
    }
    text + "#endif\n"
}

/// Writes a table, after the types that it uses and that are not there yet.
fn interface<T: Table>(text: &mut String, all: &mut Declarations) {
    let known = all.0.len();
    T::declare(all);
    let (name, fingerprint) = (T::NAME, T::fingerprint());
    write(text, &all.0[known..], |table| {
        format!("#define {table}_name \"{name}\"\n#define {table}_fingerprint UINT64_C(0x{fingerprint:016x})\n")
    });
}

/// Writes declarations, and what belongs before the last one by its name.
fn write(text: &mut String, declared: &[Declared], before_last: impl Fn(&str) -> String) {
    let Some((last, types)) = declared.split_last() else { return };
    types.iter().for_each(|declared| *text += &format!("{}\n", declared.text()));
    *text += &format!("{}{}\n", before_last(&last.name), last.text());
}
