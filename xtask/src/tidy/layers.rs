//! The folder list is the architecture: a crate depends on lower layers only, and engines on nothing that does I/O.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use toml::Table;

use super::Breach;
use crate::tree;

/// Every crate's layer. A new crate is entered here first, which is the moment to ask where it belongs.
const LAYERS: &[(&str, u8)] = &[
    ("model", 0),
    ("mapping", 1),
    ("pool", 1),
    ("nbd", 1),
    ("wire", 1),
    ("store", 1),
    ("api", 1),
    ("stream", 1),
    ("qcow2", 1),
    ("agent", 2),
    ("controller", 2),
    ("node", 2),
    ("store-redb", 2),
    ("store-etcd", 2),
    ("reactor", 2),
    ("sim", 3),
    ("dashboard", 3),
    ("acre", 4),
];

/// Crates that decide and never act: they must replay from a seed, so nothing that does I/O may come near them.
const ENGINES: &[&str] =
    &["model", "mapping", "pool", "nbd", "wire", "store", "stream", "qcow2", "agent", "controller", "node"];

/// Crates of others that touch the outside world: clocks, files, sockets, threads, randomness.
const OUTSIDE_WORLD: &[&str] = &[
    "axum",
    "getrandom",
    "hyper",
    "hyper-util",
    "io-uring",
    "libc",
    "mio",
    "nix",
    "rand",
    "redb",
    "rustix",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-rustls",
];

/// Checks the `Cargo.toml` of every crate.
pub(super) fn check() -> Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    for manifest in super::files(&["Cargo.toml"])? {
        let shown = tree::shown(&manifest);
        let Some(folder) = shown.strip_prefix("crates/").and_then(|rest| rest.strip_suffix("/Cargo.toml")) else {
            continue;
        };
        let text = std::fs::read_to_string(&manifest)?;
        let table: Table = text.parse().with_context(|| format!("{shown} is not TOML"))?;
        breaches.extend(check_manifest(folder, &table).into_iter().map(|message| Breach::of_file(&manifest, message)));
    }
    Ok(breaches)
}

/// What is wrong with one crate's manifest.
fn check_manifest(folder: &str, manifest: &Table) -> Vec<String> {
    let layers: BTreeMap<&str, u8> = LAYERS.iter().copied().collect();
    let mut messages = Vec::new();
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(|name| name.as_str());
    if name != Some(folder) {
        messages.push(format!("the crate is called {name:?} and its folder {folder:?}; one name, one meaning"));
    }
    let Some(own) = layers.get(folder) else {
        messages
            .push(format!("{folder} has no layer; enter it in xtask/src/tidy/layers.rs and in docs/architecture.md"));
        return messages;
    };
    for dependency in needed(manifest) {
        match layers.get(dependency.as_str()) {
            Some(layer) if layer >= own => messages.push(format!(
                "{folder} (L{own}) depends on {dependency} (L{layer}); a crate depends on lower layers only: move the \
                 shared noun down, or let them meet in `wire`"
            )),
            None if ENGINES.contains(&folder) && OUTSIDE_WORLD.contains(&dependency.as_str()) => messages.push(format!(
                "{folder} is an engine and depends on {dependency}, which does I/O; ask for it with an effect instead"
            )),
            _ => {}
        }
    }
    messages
}

/// Names of the crates a manifest needs to build, tests aside.
fn needed(manifest: &Table) -> Vec<String> {
    let mut names = Vec::new();
    let mut sections = vec![manifest];
    // Dependencies for one platform only count like the others.
    if let Some(targets) = manifest.get("target").and_then(|target| target.as_table()) {
        sections.extend(targets.values().filter_map(|target| target.as_table()));
    }
    for section in sections {
        for kind in ["dependencies", "build-dependencies"] {
            if let Some(list) = section.get(kind).and_then(|list| list.as_table()) {
                names.extend(list.keys().cloned());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(folder: &str, manifest: &str) -> Vec<String> {
        check_manifest(folder, &manifest.parse().expect("the test's manifest is TOML"))
    }

    #[test]
    fn a_dependency_on_the_same_or_a_higher_layer_is_a_breach_and_on_a_lower_one_is_none() {
        let fine = "[package]\nname = 'agent'\n[dependencies]\nmodel.workspace = true\nwire.workspace = true";
        assert!(messages("agent", fine).is_empty());
        let sideways = "[package]\nname = 'agent'\n[dependencies]\ncontroller.workspace = true";
        assert!(messages("agent", sideways)[0].contains("agent (L2) depends on controller (L2)"));
        let up = "[package]\nname = 'mapping'\n[target.'cfg(unix)'.dependencies]\nreactor.workspace = true";
        assert!(messages("mapping", up)[0].contains("lower layers only"));
    }

    #[test]
    fn an_engine_may_not_reach_the_outside_world_but_its_tests_may() {
        let engine = "[package]\nname = 'nbd'\n[dependencies]\ntokio = '1'\n[dev-dependencies]\ntempfile = '3'";
        assert_eq!(messages("nbd", engine).len(), 1);
        let shell = "[package]\nname = 'reactor'\n[dependencies]\nio-uring = '0.7'";
        assert!(messages("reactor", shell).is_empty());
    }

    #[test]
    fn a_crate_without_a_layer_is_a_breach() {
        assert!(messages("gadget", "[package]\nname = 'gadget'")[0].contains("has no layer"));
    }
}
