//! The boundary in C: a header of every table, for plugins in other languages and as a record of what is frozen.

use super::table::{CType, Declarations, Table};
use super::{comm, component, compute, data, model, optimizer, root, services, trainer};

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

/// Every interface with its table.
fn interfaces() -> Vec<(&'static str, u64, Declarations)> {
    fn interface<T: Table>() -> (&'static str, u64, Declarations) {
        let mut declarations = Declarations::default();
        T::declare(&mut declarations);
        (T::NAME, T::fingerprint(), declarations)
    }
    vec![
        interface::<root::PluginLibrary>(),
        interface::<component::PluginComponent>(),
        interface::<services::HostFunctions>(),
        interface::<compute::ComputeTensors>(),
        interface::<model::HostWeights>(),
        interface::<model::ModelForward>(),
        interface::<trainer::HostModel>(),
        interface::<trainer::TrainerObjective>(),
        interface::<optimizer::OptimizerSlices>(),
        interface::<data::DataExamples>(),
        interface::<comm::CommBackends>(),
        interface::<comm::CommCollectives>(),
        interface::<comm::CommWork>(),
    ]
}

/// The header `include/mdt_plugin.h`.
pub fn c_header() -> String {
    let (mut seen, mut text) = (Vec::new(), HEAD.to_owned());
    let mut declare = |declarations: &Declarations, before_last: &str| {
        for declared in &declarations.0 {
            if !seen.contains(&declared.name) {
                let last = std::ptr::eq(declared, declarations.0.last().unwrap_or(declared));
                text += &format!("{}{}\n", if last { before_last } else { "" }, declared.text());
                seen.push(declared.name.clone());
            }
        }
    };
    let mut entry = Declarations::default();
    root::Entry::declare(&mut entry);
    declare(&entry, "/* The type of MDT_PLUGIN_ENTRY; `magic` is \"mdt plugin 2\", padded with zeros. */\n");
    for (name, fingerprint, declarations) in interfaces() {
        let table = declarations.0.last().map_or("", |declared| declared.name.as_str());
        let constants =
            format!("#define {table}_name \"{name}\"\n#define {table}_fingerprint UINT64_C(0x{fingerprint:016x})\n");
        declare(&declarations, &constants);
    }
    text + "#endif\n"
}
