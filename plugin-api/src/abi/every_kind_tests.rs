//! Components of every kind answer alike as they are and through the boundary, by each function of each table.

use std::collections::BTreeSet;

use super::every_kind::{MDT_PLUGIN_ENTRY, Source, transcript};
use super::header::c_header;
use super::{root, under_way};

/// The functions of all tables, as the C header has them, each with its interface.
fn declared() -> BTreeSet<(String, String)> {
    let (header, mut interface) = (c_header(), String::new());
    let mut functions = BTreeSet::new();
    for line in header.lines() {
        if let Some((_, name)) = line.strip_prefix("#define ").and_then(|line| line.split_once("_name \"")) {
            interface = name.trim_end_matches('"').to_owned();
        } else if let Some((name, _)) = line.split_once(")(const void *object")
            && let Some(name) = name.strip_prefix("    bool (*")
        {
            functions.insert((interface.clone(), name.to_owned()));
        }
    }
    functions
}

#[test]
fn every_function_of_every_table_answers_alike_before_and_behind_the_boundary() {
    let native = transcript(&Source::Native, &[]);
    under_way::CALLED.take();
    // SAFETY: it is the entry of this program, which is never unloaded.
    let components = unsafe { root::load((&raw const MDT_PLUGIN_ENTRY).cast()) }.unwrap();
    let crossed = transcript(&Source::Loaded(components), &[]);
    let differs = native.lines().zip(crossed.lines()).find(|(native, crossed)| native != crossed);
    assert!(native == crossed, "{differs:?}");

    let called = under_way::CALLED.take().into_iter();
    let called: BTreeSet<_> = called.map(|(interface, function)| (interface.to_owned(), function.to_owned())).collect();
    let declared = declared();
    let unknown: Vec<_> = called.difference(&declared).collect();
    assert!(unknown.is_empty(), "the C header does not have {unknown:?}: `c_header` lists the tables");
    let left_out: Vec<_> = declared.difference(&called).collect();
    assert!(left_out.is_empty(), "tests/plugins/every_kind does not call {left_out:?}");
}
