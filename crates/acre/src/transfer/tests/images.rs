//! Images into volumes: raw files with holes, and exports of other servers.

use super::*;
use std::fs::File;
use std::os::unix::fs::FileExt;

#[test]
fn a_raw_file_comes_in_with_its_holes_and_an_odd_end() {
    let to = StandIn::start(2);
    let path = to.folder.path().join("image.raw");
    let file = File::create(&path).unwrap();
    file.set_len((3 << 20) + 100).unwrap();
    file.write_all_at(&[7; 5000], 123_456).unwrap();
    file.write_all_at(&[8; 300_000], 1 << 20).unwrap();
    file.write_all_at(&[9; 50], (3 << 20) + 50).unwrap();
    let report = import(&to, &what(&to, path.clone(), "copy")).unwrap();
    assert_eq!(report.size_bytes, (3 << 20) + 512);
    assert!(report.data_bytes < 1 << 20, "holes are not read: {report:?}");
    let mut expected = std::fs::read(&path).unwrap();
    expected.resize((3 << 20) + 512, 0);
    assert!(to.bytes("copy") == expected);
}

#[test]
fn an_interrupted_image_import_is_gone_on_with_and_leaves_nothing_of_another() {
    let to = StandIn::start(2);
    let path = to.folder.path().join("image.raw");
    let mut bytes = vec![0; 1 << 20];
    Dice(9).scribble(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    to.make("copy.importing", vec![5; 1 << 20]);
    let wanted = what(&to, path, "copy");
    assert_eq!(import(&to, &wanted).unwrap_err().kind, ErrorKind::Exists);
    import(&to, &Import { resume: true, ..wanted }).unwrap();
    assert!(to.bytes("copy") == bytes);
    assert_eq!(to.names(), ["copy"]);
}

#[test]
fn an_export_of_another_server_comes_in() {
    let (from, to) = (StandIn::start(1), StandIn::start(2));
    from.make("disk", vec![0; SIZE]);
    from.change("disk", |bytes| (0..3).for_each(|_| Dice(3).scribble(bytes)));
    from.change("disk", |bytes| bytes[SIZE - 1] = 1);
    let source = PathBuf::from(from.uri("disk"));
    import(&to, &what(&to, source, "copy")).unwrap();
    assert!(to.bytes("copy") == from.bytes("disk"));
    let missing = import(&to, &what(&to, PathBuf::from(from.uri("none")), "other")).unwrap_err();
    assert!(missing.message.contains("no export of that name"), "{missing}");
}
