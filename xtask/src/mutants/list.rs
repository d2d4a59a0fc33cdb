//! The list of mutants, `e2e/mutants.toml`: what it may say, and whether it still fits the sources and the tests it names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use toml::{Table, Value};

use crate::tree;

/// Where the list lies, from the root of the checkout.
pub(crate) const FILE: &str = "e2e/mutants.toml";

/// Where the end-to-end tests lie, from the root of the checkout.
const TESTS: &str = "e2e/tests/e2e";

/// A server broken on purpose, and who must notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutant {
    /// What it is called, in words joined by hyphens.
    pub(crate) name: String,
    /// What an operator or a host would suffer.
    pub(crate) why: String,
    /// The source file, from the root of the checkout.
    pub(crate) file: String,
    /// The text to replace, which occurs once.
    pub(crate) find: String,
    /// What takes its place.
    pub(crate) replace: String,
    /// The tests that must fail, as `module::name`.
    pub(crate) tests: Vec<String>,
    /// The test that must still pass: a server on which everything fails shows nothing.
    pub(crate) spares: String,
}

/// Reads the list of this checkout.
pub(crate) fn read() -> Result<Vec<Mutant>> {
    let text = std::fs::read_to_string(tree::root().join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    parse(&text).with_context(|| format!("in {FILE}"))
}

/// The mutants of a list's text.
pub(crate) fn parse(text: &str) -> Result<Vec<Mutant>> {
    let table: Table = text.parse().context("not TOML")?;
    only(&table, &["spares", "mutant"])?;
    let spares = string(&table, "spares")?;
    let entries = table.get("mutant").and_then(Value::as_array).context("no [[mutant]]")?;
    let mut mutants = Vec::new();
    for entry in entries {
        let entry = entry.as_table().context("a [[mutant]] is a table")?;
        let name = string(entry, "name")?;
        mutants.push(mutant(entry, &name, &spares).with_context(|| format!("mutant {name}"))?);
    }
    Ok(mutants)
}

fn mutant(entry: &Table, name: &str, spares: &str) -> Result<Mutant> {
    only(entry, &["name", "why", "file", "find", "replace", "tests", "spares"])?;
    let tests = entry.get("tests").and_then(Value::as_array).context("no tests")?;
    let tests: Option<Vec<String>> = tests.iter().map(|test| test.as_str().map(str::to_owned)).collect();
    Ok(Mutant {
        name: name.to_owned(),
        why: string(entry, "why")?,
        file: string(entry, "file")?,
        find: string(entry, "find")?,
        replace: string(entry, "replace")?,
        tests: tests.context("a test is named by a string")?,
        spares: if entry.contains_key("spares") { string(entry, "spares")? } else { spares.to_owned() },
    })
}

fn string(table: &Table, key: &str) -> Result<String> {
    table.get(key).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("no {key}, or not a string"))
}

fn only(table: &Table, known: &[&str]) -> Result<()> {
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        Some(unknown) => bail!("{unknown:?} means nothing here; there is {}", known.join(", ")),
        None => Ok(()),
    }
}

/// A source with the replacement made.
pub(crate) fn mutated(mutant: &Mutant, source: &str) -> Result<String> {
    let count = source.matches(&mutant.find).count();
    ensure!(count == 1, "{}: what it replaces occurs {count} times in {}, not once", mutant.name, mutant.file);
    ensure!(mutant.find != mutant.replace, "{}: it replaces a text by itself", mutant.name);
    Ok(source.replacen(&mutant.find, &mutant.replace, 1))
}

/// What no longer fits: texts that do not occur just once, tests that do not exist, tests that no mutant names.
pub(crate) fn faults(mutants: &[Mutant], root: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let tests = tests(&root.join(TESTS))?;
    let mut names = BTreeSet::new();
    let mut named = BTreeSet::new();
    for mutant in mutants {
        let name = &mutant.name;
        if !names.insert(name) {
            faults.push(format!("{name}: a second mutant of this name"));
        }
        match std::fs::read_to_string(root.join(&mutant.file)) {
            Ok(source) => faults.extend(mutated(mutant, &source).err().map(|error| error.to_string())),
            Err(error) => faults.push(format!("{name}: cannot read {}: {error}", mutant.file)),
        }
        if mutant.tests.is_empty() {
            faults.push(format!("{name}: no test is to notice it"));
        }
        if mutant.tests.contains(&mutant.spares) {
            faults.push(format!("{name}: {} is to fail and to pass", mutant.spares));
        }
        let unknown = mutant.tests.iter().chain([&mutant.spares]).filter(|test| !tests.contains(*test));
        faults.extend(unknown.map(|test| format!("{name}: there is no test {test}")));
        named.extend(&mutant.tests);
    }
    let unseen = tests.iter().filter(|test| !named.contains(test));
    faults.extend(unseen.map(|test| format!("{test} was never seen to fail: name it in a mutant")));
    Ok(faults)
}

/// Every end-to-end test below a folder, as `module::name`.
fn tests(folder: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for file in tree::files(folder, &[".rs"])? {
        let module = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file)?;
        let mut marked = false;
        for line in text.lines().map(str::trim) {
            if let Some((name, _)) = line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')).filter(|_| marked) {
                found.insert(format!("{module}::{name}"));
            }
            marked = line == "#[test]" || (marked && line.starts_with("#["));
        }
    }
    Ok(found)
}

/// The mutants asked for by name; all of them when none is named.
pub(crate) fn chosen(mutants: Vec<Mutant>, names: &[String]) -> Result<Vec<Mutant>> {
    let mut by_name: BTreeMap<String, Mutant> =
        mutants.iter().map(|mutant| (mutant.name.clone(), mutant.clone())).collect();
    if names.is_empty() {
        return Ok(mutants);
    }
    names.iter().map(|name| by_name.remove(name).with_context(|| format!("no mutant is called {name:?}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "spares = 'm::fine'\n[[mutant]]\nname = 'a'\nwhy = 'w'\nfile = 'f.rs'\nfind = 'x'\nreplace = 'y'\n\
        tests = ['m::seen']\n";

    fn checkout(source: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let tests = folder.path().join(TESTS);
        std::fs::create_dir_all(&tests).expect("the folder is made");
        let text = "#[test]\nfn seen() {}\n#[test]\n#[ignore]\nfn fine() {}\nfn none() {}\n";
        std::fs::write(tests.join("m.rs"), text).expect("the tests are written");
        std::fs::write(folder.path().join("f.rs"), source).expect("the source is written");
        folder
    }

    fn faults_of(list: &str, source: &str) -> Vec<String> {
        let mutants = parse(list).expect("the test's list is one");
        faults(&mutants, checkout(source).path()).expect("the checkout can be read")
    }

    #[test]
    fn a_text_that_is_gone_or_there_twice_is_a_fault_and_one_that_is_there_once_is_none() {
        assert_eq!(faults_of(LIST, "x").len(), 1, "only the test that nobody names");
        assert!(faults_of(LIST, "")[0].contains("occurs 0 times"));
        assert!(faults_of(LIST, "x x")[0].contains("occurs 2 times"));
    }

    #[test]
    fn a_test_that_no_mutant_names_and_a_name_without_a_test_are_faults() {
        assert_eq!(faults_of(LIST, "x"), ["m::fine was never seen to fail: name it in a mutant"]);
        let other = LIST.replace("m::seen", "m::none");
        assert!(faults_of(&other, "x").contains(&"a: there is no test m::none".to_owned()));
        let torn = LIST.replace("m::seen", "m::fine");
        assert!(faults_of(&torn, "x")[0].contains("to fail and to pass"));
    }

    #[test]
    fn what_the_list_may_not_say_is_refused() {
        assert!(parse("spares = 'a'").is_err());
        assert!(parse(&format!("{LIST}because = 'no'\n")).is_err());
        let mutants = parse(LIST).expect("the test's list is one");
        assert!(chosen(mutants.clone(), &["b".to_owned()]).is_err());
        assert_eq!(chosen(mutants.clone(), &[]).expect("all of them"), mutants);
    }
}
