//! Names the sources of the plugin in its file.

fn main() -> std::io::Result<()> {
    mdt_plugin_sources::declare(&["../data/columns/src"])
}
