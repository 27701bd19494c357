//! Data sources that come with `mdt-host`: files of rows in text. [`Jsonl`] reads JSON by the name `jsonl`, and [`Csv`] tables by
//! the names `csv` and `tsv`, which the host chooses by the extension of a file. Any of them may be compressed. What rows may
//! hold, `mdt_columns` says.

mod compressed;
mod csv;
mod jsonl;
mod open;
mod unpacked;

pub use csv::Csv;
pub use jsonl::Jsonl;

mdt_plugin_api::plugin! {
    data "jsonl" => Jsonl;
    data "csv" => Csv;
    data "tsv" => Csv;
}
