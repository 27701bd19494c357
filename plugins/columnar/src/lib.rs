//! Data sources for tables in columns: Parquet files by the name `parquet`, and Arrow files by the names `arrow` and `feather`,
//! which the host chooses by the extension of a file. What is in a file, its first bytes say. A row becomes what the same row in
//! JSON would become; what rows may hold, `mdt_columns` says.

mod arrow_file;
mod damage;
mod parquet_file;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod value;

pub use source::Columnar;

mdt_plugin_api::plugin! {
    data "parquet" => Columnar;
    data "arrow" => Columnar;
    data "feather" => Columnar;
}
