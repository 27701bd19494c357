//! The types that a configuration key can have.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde_json::Value;

use super::json::Json::{Join, Text};
use super::{Configurable, Schema};

macro_rules! plain {
    ($($type:ty: $name:literal $bounds:literal $keywords:literal = $default:literal;)*) => { $(
        impl Configurable for $type {
            const SCHEMA: Schema = Schema {
                bounds: Text($bounds),
                keywords: Text($keywords),
                default: Text($default),
                ..Schema::of_type($name)
            };
        }
    )* };
}
plain! {
    bool: "boolean" "" "" = "false";
    String: "string" "" "" = r#""""#;
    PathBuf: "string" "" "" = r#""""#;
    char: "string" "" r#","minLength":1,"maxLength":1"# = r#""\u0000""#;
    f32: "number" "" r#","format":"float""# = "0.0";
    f64: "number" "" r#","format":"double""# = "0.0";
    i8: "integer" r#","minimum":-128,"maximum":127"# r#","format":"int8""# = "0";
    i16: "integer" r#","minimum":-32768,"maximum":32767"# r#","format":"int16""# = "0";
    i32: "integer" "" r#","format":"int32""# = "0";
    i64: "integer" "" r#","format":"int64""# = "0";
    isize: "integer" "" r#","format":"int""# = "0";
    u8: "integer" r#","minimum":0,"maximum":255"# r#","format":"uint8""# = "0";
    u16: "integer" r#","minimum":0,"maximum":65535"# r#","format":"uint16""# = "0";
    u32: "integer" r#","minimum":0"# r#","format":"uint32""# = "0";
    u64: "integer" r#","minimum":0"# r#","format":"uint64""# = "0";
    usize: "integer" r#","minimum":0"# r#","format":"uint""# = "0";
}

/// Anything.
impl Configurable for Value {
    const SCHEMA: Schema = Schema::of_type("");
}

/// `None` is a key that is not set.
impl<T: Configurable> Configurable for Option<T> {
    const SCHEMA: Schema = Schema {
        doc: T::SCHEMA.doc,
        keywords: if T::SCHEMA.type_name.is_empty() {
            Join(&[Text(r#","anyOf":["#), T::JSON, Text(r#",{"type":"null"}]"#)])
        } else {
            Join(&[Text(r#","type":[""#), Text(T::SCHEMA.type_name), Text(r#"","null"]"#), T::SCHEMA.keywords])
        },
        bounds: T::SCHEMA.bounds,
        variants: T::SCHEMA.variants,
        ..Schema::of_type("")
    };
}

impl<T: Configurable> Configurable for Vec<T> {
    const SCHEMA: Schema = Schema {
        keywords: Join(&[Text(r#","items":"#), T::JSON]),
        default: Text("[]"),
        variants: T::SCHEMA.variants,
        ..Schema::of_type("array")
    };
}

macro_rules! maps {
    ($($map:ident)*) => { $(
        /// A table with keys of the user's choice.
        impl<T: Configurable> Configurable for $map<String, T> {
            const SCHEMA: Schema = Schema {
                keywords: Join(&[Text(r#","additionalProperties":"#), T::JSON]),
                default: Text("{}"),
                ..Schema::of_type("object")
            };
        }
    )* };
}
maps! { BTreeMap HashMap }
