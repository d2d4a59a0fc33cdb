//! The copy of the tree in which servers are broken: the checkout as it stands, commits or not, beside the build output.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::list::{self, Mutant};
use crate::process::cargo;
use crate::tree;

/// A copy of the checkout with a build folder of its own, so that neither the checkout nor its build ever holds a mutant.
pub(crate) struct Copy {
    sources: PathBuf,
    build: PathBuf,
    /// The file that differs from the checkout now.
    changed: Option<String>,
}

impl Copy {
    /// Brings the copy up to the checkout. What is the same already is left alone: its age tells cargo what to build.
    pub(crate) fn refreshed() -> Result<Copy> {
        let folder = tree::programs("mutants")?;
        let copy = Copy { sources: folder.join("tree"), build: folder.join("build"), changed: None };
        let listed = listed()?;
        for file in &listed {
            copy.take_over(file)?;
        }
        // What the checkout no longer has would still be built: a module, or a crate found by its folder.
        for file in tree::files(&copy.sources, &[""])? {
            let name = file.strip_prefix(&copy.sources)?.to_string_lossy().into_owned();
            if !listed.contains(&name) {
                std::fs::remove_file(&file)?;
            }
        }
        Ok(copy)
    }

    fn take_over(&self, file: &str) -> Result<()> {
        let wanted = std::fs::read(tree::root().join(file)).with_context(|| format!("cannot read {file}"))?;
        write(&self.sources.join(file), &wanted)
    }

    /// Makes one mutant of the copy, whatever it was before.
    pub(crate) fn mutate(&mut self, mutant: &Mutant) -> Result<()> {
        self.restore()?;
        let source = std::fs::read_to_string(tree::root().join(&mutant.file))?;
        let mutated = list::mutated(mutant, &source)?;
        self.changed = Some(mutant.file.clone());
        write(&self.sources.join(&mutant.file), mutated.as_bytes())
    }

    /// Makes the copy what the checkout is.
    pub(crate) fn restore(&mut self) -> Result<()> {
        match self.changed.take() {
            Some(file) => self.take_over(&file),
            None => Ok(()),
        }
    }

    /// Builds the server in the copy and puts it aside under `name`; an error when it does not compile.
    pub(crate) fn build(&self, name: &str) -> Result<PathBuf> {
        // With the features that the tests' own server is built with.
        let mut command = cargo(&["build", "--quiet", "--workspace", "--exclude", "sim", "--bin", "acre"]);
        command.current_dir(&self.sources).env("CARGO_TARGET_DIR", &self.build);
        // A mutant may leave a name unused: what the compiler says is worth reading only when it refuses.
        let output = command.output().context("cannot start cargo")?;
        ensure!(output.status.success(), "it does not compile:\n{}", String::from_utf8_lossy(&output.stderr));
        let aside = self.build.join(name);
        std::fs::copy(self.build.join("debug/acre"), &aside).context("the server cannot be put aside")?;
        Ok(aside)
    }
}

/// Writes a file only if that changes it.
fn write(file: &Path, wanted: &[u8]) -> Result<()> {
    if std::fs::read(file).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, wanted).with_context(|| format!("cannot write {}", file.display()))
}

/// The files of the checkout: what git tracks and what it would, if it is there.
fn listed() -> Result<BTreeSet<String>> {
    let mut command = Command::new("git");
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(tree::root());
    let output = command.output().context("cannot start git")?;
    ensure!(output.status.success(), "git does not list the checkout: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    let there = |name: &&str| !name.is_empty() && tree::root().join(name).is_file();
    Ok(names.split('\0').filter(there).map(str::to_owned).collect())
}
