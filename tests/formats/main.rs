//! Formats of data files through the real program: the same rows in any of them train the same model, and whatever is
//! wrong with one is named.

mod bad_rows;
mod endless;
mod fields;
mod limits;
mod same_rows;
mod tables;
mod written;
