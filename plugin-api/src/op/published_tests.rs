//! `OPERATIONS.md` is the table of operations as a page.

use std::fmt::Write;

use super::{AttributeSpec, Definition, OpKind, Types, ValueKind};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/OPERATIONS.md");
const TABLE: &str = include_str!("table.rs");

const INTRODUCTION: &str = "\
# Operations

What a compute plugin computes, exactly. This page is generated from the table in `src/op/table.rs`
(`MDT_WRITE_BOUNDARY=1 cargo test -p mdt-plugin-api published` writes it), and numbers and meanings that are published never
change.

A compute plugin implements `Compute`. Its `op` gets the number of an operation, inputs, named attributes, and a slot for each
result; its `supports` says which operations it has, by number, names of attributes, and the element type of the first input
(of the result where there are no inputs).

- It has every operation that is marked **primitive**, on bool, uint8, int32, uint32, int64, float16, bfloat16 and float32 as
  far as the operation is defined on them: the element types that stand beside its number are those of its first input, or of
  what its inputs are promoted to. On the other integers and float64 it may refuse an operation.
- All other operations are **composed** of primitives where `op` is an error and `supports` is false: `op::compose` is the
  definition of each, its gradient, and what serves meanwhile. A plugin implements those that it computes faster. The same goes for primitives with
  the attributes `left`, `right` and `operands`.
- `Definition::infer` checks inputs and attributes and gives the types of the results, so that errors are the same everywhere:
  begin with it. An optional input that is left out before others is handle 0. What depends on values, such as an index out of range, is an error when the operation runs.
- Results differ from these definitions by rounding alone. The crate `mdt-conformance` compares them, from one line in a test.

`examples/cpu_compute` is a complete compute plugin.

## Rules
";

const SECTIONS: &[(u32, &str)] = &[
    (1, "Functions of two elements"),
    (20, "Functions of an element"),
    (40, "Along axes"),
    (60, "Products"),
    (80, "Moving and choosing elements"),
    (100, "Comparisons"),
    (120, "Constants and random numbers"),
    (140, "Layers"),
];

/// The rules that the table states in its head.
fn rules() -> String {
    let lines =
        TABLE.lines().map_while(|line| line.strip_prefix("//!")).map(|line| line.strip_prefix(' ').unwrap_or(line));
    let rules = lines.skip_while(|line| !line.starts_with("- ")).collect::<Vec<_>>().join("\n");
    rules.replace("[`super::promoted`]", "`op::promoted`").replace("[`super::real`]", "`op::real`")
}

fn kind(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Bool => "bool",
        ValueKind::Int => "integer",
        ValueKind::Float => "real number",
        ValueKind::Ints => "integers",
        ValueKind::Dtype => "element type",
        ValueKind::Text => "text",
        ValueKind::Floats => "real numbers",
    }
}

fn types(types: Types) -> &'static str {
    match types {
        Types::Any => "any type",
        Types::Numbers => "any type but bool",
        Types::Floats => "floating-point types",
        Types::Integers => "integers and bool",
        Types::Words => "uint32",
    }
}

fn meaning(name: &str) -> &'static str {
    match name {
        "left" => "the left operand, where there is one input",
        "right" => "the right operand, where there is one input",
        "approximate" => "`none` or `tanh`",
        "axis" => "the axis, negative ones counted from the end",
        "axes" => "the axes that are reduced, all when absent",
        "keep_dims" => "whether reduced axes stay with length 1",
        "count" => "how many elements",
        "descending" => "whether the largest element comes first",
        "reverse" => "whether sums run from the end",
        "exclusive" => "whether a sum leaves out the element itself",
        "group_size" => "elements that share a scale and a bias: 32, 64 or 128",
        "bits" => "bits of an element: 2, 3, 4, 5, 6 or 8",
        "scale" => "the factor of the result, or of scores or logits",
        "soft_cap" => "c of `c · tanh(score / c)`, positive",
        "rows" => "how many rows are computed at a time",
        "operands" => "the type that both operands are rounded to, float16 or bfloat16",
        "shape" => "the shape of the result",
        "start" => "where the part begins, for every axis",
        "stop" => "where the part ends, exclusive, for every axis",
        "dtype" => "the element type of the result",
        "value" => "the value of every element",
        "key" => "the key of the random numbers, 64 bits",
        "eps" => "what is added to the mean square or the variance",
        "offset" => "what is added to the positions",
        "causal" => "whether a query sees keys up to its own place only",
        "window" => "how many keys up to its own place a query sees",
        "dropout" => "the part of the weights that is set to 0",
        "rate" => "the part of the elements that is set to 0, less than 1",
        other => panic!("say what the attribute {other:?} means"),
    }
}

fn attribute(AttributeSpec { name, kind: of, is_required }: &AttributeSpec) -> String {
    let absent = if *is_required { "" } else { ", optional" };
    format!("  - `{name}` ({}{absent}): {}.\n", kind(*of), meaning(name))
}

/// How many inputs, and through which a gradient flows.
fn inputs(definition: &Definition) -> String {
    let &Definition { least_inputs: least, most_inputs: most, differentiable, .. } = definition;
    let count = match (least, most) {
        (0, 0) => "none".to_owned(),
        (least, usize::MAX) => format!("{least} or more"),
        (least, most) if least == most => least.to_string(),
        (least, most) => format!("{least} to {most}"),
    };
    let through: Vec<String> = (0..most.min(8))
        .filter(|input| differentiable >> input & 1 == 1)
        .map(|input| (input + 1).to_string())
        .collect();
    let gradient = match (through.len(), most) {
        (0, _) => "no gradient".to_owned(),
        (_, usize::MAX) => "gradient through all".to_owned(),
        (all, most) if all == most => "gradient through all".to_owned(),
        _ => format!("gradient through input {}", through.join(", ")),
    };
    if most == 0 { format!("- Inputs: {count}.\n") } else { format!("- Inputs: {count}; {gradient}.\n") }
}

fn operation(definition: &Definition) -> String {
    let &Definition { op: OpKind(number), name, documentation, is_primitive, attributes, .. } = definition;
    let kind = if is_primitive { "primitive" } else { "composed" };
    let text: Vec<&str> = documentation.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    let text = text.join("\n").replace("[`crate::ModelContext::key`]", "`ModelContext::key`");
    let mut page = format!("\n### `{name}`\n\n{number}, {kind}, on {}\n\n{text}\n\n", types(definition.types));
    page += &inputs(definition);
    if definition.results > 1 {
        writeln!(page, "- Results: {}.", definition.results).unwrap();
    }
    if !attributes.is_empty() {
        page += "- Attributes:\n";
    }
    page + &attributes.iter().map(attribute).collect::<String>()
}

fn page() -> String {
    let mut page = format!("{INTRODUCTION}\n{}\n", rules());
    for (place, &(first, title)) in SECTIONS.iter().enumerate() {
        let end = SECTIONS.get(place + 1).map_or(u32::MAX, |&(next, _)| next);
        write!(page, "\n## {title}\n").unwrap();
        let rows = OpKind::all().iter().filter(|definition| (first..end).contains(&definition.op.0));
        page.extend(rows.map(operation));
    }
    page
}

#[test]
fn the_page_of_operations_is_published() {
    let page = page();
    if std::env::var_os("MDT_WRITE_BOUNDARY").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let published = std::fs::read_to_string(PAGE).unwrap_or_default();
    let differs = page.lines().zip(published.lines()).find(|(page, published)| page != published);
    assert!(
        page == published,
        "{PAGE} is not what the table says (first difference: {differs:?}): write it again with MDT_WRITE_BOUNDARY=1"
    );
}

#[test]
fn every_operation_stands_on_the_page_once_and_in_the_order_that_look_ups_need() {
    assert!(OpKind::all().is_sorted_by_key(|definition| definition.op.0));
    let page = page();
    for definition in OpKind::all() {
        assert_eq!(page.matches(&format!("### `{}`\n", definition.name)).count(), 1, "{}", definition.name);
        assert_eq!(definition.op.definition().unwrap().name, definition.name);
    }
}
