//! Configuration of components: declared once, for the struct, its defaults and its JSON Schema as a constant.
//!
//! [`plugin!`](crate::plugin) writes the schema into the file of the library, so that a host knows every key, its default
//! and what it may be without running any of the library's code.

mod json;
#[cfg(test)]
mod tests;
mod types;

use serde::{Serialize, de::DeserializeOwned};

pub use json::Json;

/// A type that a configuration key can have: `bool`, numbers, `char`, `String`, `PathBuf`, `Option`, `Vec`, maps from
/// `String`, any JSON (`serde_json::Value`), and what [`config!`](macro@crate::config) declares.
pub trait Configurable: Serialize + DeserializeOwned {
    /// Its schema in parts, which the declaration of a key completes.
    const SCHEMA: Schema;
    /// Its schema as JSON.
    const JSON: Json = Json::Join(&[
        Json::Text("{"),
        Json::Description(Self::SCHEMA.doc),
        Json::Type(Self::SCHEMA.type_name),
        Self::SCHEMA.bounds,
        Self::SCHEMA.keywords,
        Json::Text("}"),
    ]);
}

/// The JSON Schema of a type, in parts.
#[derive(Clone, Copy)]
pub struct Schema {
    /// Its doc comment.
    pub doc: &'static [&'static [&'static str]],
    /// The keyword `type`; empty where other keywords say it.
    pub type_name: &'static str,
    /// The range of the type, which a key may narrow: keywords, each after a comma.
    pub bounds: Json,
    /// Further keywords, each after a comma.
    pub keywords: Json,
    /// The value of `Default::default()`.
    pub default: Json,
    /// The names of an enum's variants, and their texts.
    pub variants: &'static [(&'static str, &'static str)],
}

impl Schema {
    /// The schema of values of a JSON type, with any value and null as the default.
    pub const fn of_type(type_name: &'static str) -> Self {
        let none = Json::Text("");
        Self { doc: &[], type_name, bounds: none, keywords: none, default: Json::Text("null"), variants: &[] }
    }
}

/// Declares a component's configuration: documented keys with types, ranges and defaults.
///
/// The doc comments become descriptions in the JSON Schema. A key that a job does not set has its default, and an unknown
/// key is an error. A number, or an `Option` of one, may have a range in brackets behind its type: `[0.0..1.0]`, `[0..=100]`,
/// `[above 0.0..]`, with either end left open: `[1..]`, `[..=0.0]`.
///
/// ```
/// mdt_plugin_api::config! {
///     /// Keys of the optimizer `lion`.
///     pub struct LionConfig {
///         /// Weight of the momentum in the direction of an update.
///         beta1: f64 [0.0..1.0] = 0.9,
///         /// Decay of the momentum.
///         beta2: f64 [0.0..1.0] = 0.99,
///     }
/// }
/// assert_eq!(LionConfig::default().beta2, 0.99);
/// ```
///
/// Keys may be tables and choices, which are declared alike; the first choice is the enum's default:
///
/// ```
/// mdt_plugin_api::config! {
///     /// How rows are joined.
///     pub enum Packing {
///         /// They are not.
///         Off = "off",
///         /// Where they fit without being cut.
///         BestFit = "best_fit",
///     }
/// }
/// mdt_plugin_api::config! {
///     /// Keys of a component.
///     pub struct Config {
///         /// How rows are joined.
///         packing: Packing = Packing::BestFit,
///         /// The columns that are read; all where it is not set.
///         columns: Option<Vec<String>> = None,
///     }
/// }
/// assert_eq!(Config::default().packing, Packing::BestFit);
/// ```
///
/// The schema is a constant, so a default must be one: a literal, also with `.into()` or `.to_owned()` behind it, `None`,
/// `Some(literal)`, `vec![literals]`, a variant, `Type::new()` or `Type::default()`. A key with
/// `#[serde(skip_serializing_if = "Option::is_none")]` is not shown until it is set.
#[macro_export]
macro_rules! config {
    (
        $(#[$($attribute:tt)*])*
        $visibility:vis struct $name:ident {
            $($(#[$($key_attribute:tt)*])* $key:ident : $type:ty $([$($range:tt)*])? = $default:expr),* $(,)?
        }
    ) => {
        $(#[$($attribute)*])*
        #[derive(Clone, Debug, $crate::serde::Serialize, $crate::serde::Deserialize)]
        #[serde(crate = "mdt_plugin_api::serde", deny_unknown_fields, default)]
        $visibility struct $name {
            $($(#[$($key_attribute)*])* pub $key: $type,)*
        }

        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl $crate::config::Configurable for $name {
            const SCHEMA: $crate::config::Schema = {
                use $crate::config::{Configurable, Json, Schema};
                Schema {
                    doc: &[$($crate::__config!(doc $($attribute)*)),*],
                    keywords: Json::Join(&[
                        Json::Text(",\"properties\":{"),
                        $(
                            Json::Text(concat!(",\"", stringify!($key), "\":{")),
                            Json::Description({
                                const DOC: &[&[&str]] = &[$($crate::__config!(doc $($key_attribute)*)),*];
                                if DOC.is_empty() { <$type as Configurable>::SCHEMA.doc } else { DOC }
                            }),
                            Json::Type(<$type as Configurable>::SCHEMA.type_name),
                            $crate::__config!(range $type, $($($range)*)?),
                            <$type as Configurable>::SCHEMA.keywords,
                            $crate::__config!(default [",\"default\":"] $type, $default, $([$($key_attribute)*])*),
                            Json::Text("}"),
                        )*
                        Json::Text("},\"additionalProperties\":false"),
                    ]),
                    default: Json::Join(&[
                        Json::Text("{"),
                        $($crate::__config!(
                            default [concat!(",\"", stringify!($key), "\":")] $type, $default, $([$($key_attribute)*])*
                        ),)*
                        Json::Text("}"),
                    ]),
                    ..Schema::of_type("object")
                }
            };
        }
    };
    (
        $(#[$($attribute:tt)*])*
        $visibility:vis enum $name:ident {
            $($(#[$($variant_attribute:tt)*])* $variant:ident = $text:literal),+ $(,)?
        }
    ) => {
        $(#[$($attribute)*])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, $crate::serde::Serialize, $crate::serde::Deserialize)]
        #[serde(crate = "mdt_plugin_api::serde")]
        $visibility enum $name {
            $($(#[$($variant_attribute)*])* #[serde(rename = $text)] $variant,)+
        }

        impl ::std::default::Default for $name {
            fn default() -> Self {
                [$(Self::$variant),+][0]
            }
        }

        impl $crate::config::Configurable for $name {
            const SCHEMA: $crate::config::Schema = {
                use $crate::config::{Json, Schema};
                Schema {
                    doc: &[$($crate::__config!(doc $($attribute)*)),*],
                    keywords: Json::Join(&[
                        Json::Text(",\"oneOf\":["),
                        $(
                            Json::Text(",{"),
                            Json::Description(&[$($crate::__config!(doc $($variant_attribute)*)),*]),
                            Json::Text(concat!(",\"type\":\"string\",\"const\":\"", $text, "\"}")),
                        )+
                        Json::Text("]"),
                    ]),
                    default: Json::Text([$(concat!("\"", $text, "\"")),+][0]),
                    variants: &[$((stringify!($variant), $text)),+],
                    ..Schema::of_type("")
                }
            };
        }
    };
}

/// Parts of the expansion of [`config!`](macro@crate::config).
#[doc(hidden)]
#[macro_export]
macro_rules! __config {
    (doc doc = $line:expr) => { &[$line] };
    (doc $($other:tt)*) => { &[] };
    (range $type:ty,) => { <$type as $crate::config::Configurable>::SCHEMA.bounds };
    (range $type:ty, $($range:tt)+) => { $crate::config::Json::Range(stringify!($($range)+)) };
    (default [$begin:expr] $type:ty, $default:expr, [serde(skip_serializing_if = $test:literal)] $($rest:tt)*) => {
        $crate::config::Json::Text("")
    };
    (default [$begin:expr] $type:ty, $default:expr, [serde $($other:tt)*] $($rest:tt)*) => {
        compile_error!("a configuration key has the name and the form of its field; only skip_serializing_if is possible")
    };
    (default [$begin:expr] $type:ty, $default:expr, [$($other:tt)*] $($rest:tt)*) => {
        $crate::__config!(default [$begin] $type, $default, $($rest)*)
    };
    (default [$begin:expr] $type:ty, $default:expr,) => {
        $crate::config::Json::Join(&[
            $crate::config::Json::Text($begin),
            $crate::config::Json::Default {
                code: stringify!($default),
                of_type: &<$type as $crate::config::Configurable>::SCHEMA.default,
                variants: <$type as $crate::config::Configurable>::SCHEMA.variants,
            },
        ])
    };
}
