//! `spillway init`.

use crate::*;

#[test]
fn a_seed_makes_one_checkpoint_and_an_existing_folder_is_left_alone() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let make = |name: &str, seed: &str, dtype: &str| {
        let path = folder.path().join(name);
        let out = path.to_string_lossy().into_owned();
        let arguments = [
            "init", "--arch", "mamba2", "--shape", "tiny", "--seed", seed, "--dtype", dtype, "--out", &out,
        ];
        (spillway(&arguments), path.join("model.safetensors"))
    };
    let read = |(output, path): (Output, std::path::PathBuf)| {
        assert!(output.status.success(), "{output:?}");
        fs::read(path).expect("weights")
    };
    let first = read(make("a", "1", "f32"));
    assert_eq!(first, read(make("b", "1", "f32")));
    assert_ne!(first, read(make("c", "2", "f32")));
    assert!(read(make("d", "1", "bf16")).len() < first.len());

    let (output, path) = make("a", "3", "f32");
    refused(&output, 2, &["/a", "exists"]);
    assert_eq!(fs::read(path).expect("weights"), first);
    assert_eq!(names(folder.path()), ["a", "b", "c", "d"]);
    fails(
        &["init", "--arch", "mamba2", "--shape", "131m", "--out", "x"],
        2,
        &["131m", "130m"],
    );
}

#[test]
fn help_and_list_name_every_layout() {
    let (help, list) = (stdout_of(&["init", "--help"]), stdout_of(&["init", "--list"]));
    for layout in spillway_models::registry::written_layouts() {
        let line = list.lines().find(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(layout.architecture) && line.contains(layout.name)
        });
        let line = line.unwrap_or_else(|| panic!("no {} in {list}", layout.architecture));
        assert!(
            layout.presets.iter().all(|preset| line.contains(preset.size)),
            "{line}"
        );
        assert!(help.contains(layout.architecture), "{help}");
    }
    fails(&["init"], 2, &["--shape"]);
    fails(&["init", "--shape", "tiny"], 2, &["--out"]);
    fails(
        &["init", "--arch", "perceptron", "--shape", "tiny", "--out", "x"],
        2,
        &["perceptron", "mamba2"],
    );
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let output = with_files_of_at_most(16, folder.path(), "init --arch mamba2 --shape tiny --out x");
    refused(&output, 1, &["too large"]);
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}
