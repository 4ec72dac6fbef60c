use super::*;
use crate::testing::process_node;

fn node(dir: &Path) -> DatabaseNode {
    process_node(dir, &[])
}

/// A data directory with the old data and a copy that is ready.
fn ready(dir: &Path) -> DatabaseNode {
    let node = node(dir);
    std::fs::create_dir(&node.datadir).unwrap();
    std::fs::write(node.datadir.join("is"), "old").unwrap();
    let owner = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let data = make_incoming(&node, owner, 0).unwrap();
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("is"), "new").unwrap();
    seal(&node, "0-1-7").unwrap();
    node
}

fn assert_swapped(node: &DatabaseNode, moved: &Moved) {
    assert_eq!(std::fs::read_to_string(node.datadir.join("is")).unwrap(), "new");
    assert_eq!(std::fs::read_to_string(moved.to.join("is")).unwrap(), "old");
    assert!(moved.to.to_string_lossy().contains(".pontoon-aside-"));
    assert_eq!(read_mark(node).unwrap().unwrap().state, IncomingState::Active);
}

#[test]
fn a_swap_is_finished_from_wherever_it_was_killed() {
    // 0: nothing done; 1: the mark is written; 2: the old one is aside; 3: the new one is in place.
    for killed_after in 0..=3 {
        let dir = tempfile::tempdir().unwrap();
        let node = ready(dir.path());
        let mut aside = None;
        if killed_after >= 1 {
            let mut mark = read_mark(&node).unwrap().unwrap();
            let moved = aside_of(&node.datadir);
            mark.state = IncomingState::Activating;
            mark.aside = Some(moved.clone());
            write_mark(&node, &mark).unwrap();
            if killed_after >= 2 {
                rename(&moved.from, &moved.to).unwrap();
            }
            if killed_after >= 3 {
                rename(&data_of(&node.incoming()), &node.datadir).unwrap();
            }
            aside = Some(moved);
            assert_eq!(
                discard(&node).unwrap_err().code,
                Code::D006,
                "a swap halfway is not thrown away"
            );
        }
        let moved = activate(&node).unwrap().unwrap();
        assert!(
            aside.is_none_or(|aside| aside == moved),
            "the name of the first attempt"
        );
        assert_swapped(&node, &moved);
        assert_eq!(activate(&node).unwrap(), Some(moved.clone()), "twice is once");
        discard(&node).unwrap();
        discard(&node).unwrap();
        assert!(!node.incoming().exists());
        assert_eq!(std::fs::read_to_string(node.datadir.join("is")).unwrap(), "new");
    }
}

#[test]
fn something_new_in_the_data_directorys_place_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let node = ready(dir.path());
    let mut mark = read_mark(&node).unwrap().unwrap();
    let moved = aside_of(&node.datadir);
    mark.state = IncomingState::Activating;
    mark.aside = Some(moved.clone());
    write_mark(&node, &mark).unwrap();
    rename(&moved.from, &moved.to).unwrap();
    // Killed there; a package's script makes a fresh data directory meanwhile.
    std::fs::create_dir(&node.datadir).unwrap();
    std::fs::write(node.datadir.join("is"), "precious").unwrap();
    assert_eq!(activate(&node).unwrap_err().code, Code::D006);
    assert_eq!(
        std::fs::read_to_string(node.datadir.join("is")).unwrap(),
        "precious"
    );
}

#[test]
fn an_unfinished_copy_is_never_activated_and_goes_when_it_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    std::fs::create_dir(&node.datadir).unwrap();
    assert_eq!(activate(&node).unwrap_err().code, Code::D003);
    let owner = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let data = make_incoming(&node, owner, 0).unwrap();
    assert_eq!(
        seal(&node, "0-1-7").unwrap_err().code,
        Code::D003,
        "nothing arrived"
    );
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("half"), "x").unwrap();
    assert_eq!(activate(&node).unwrap_err().code, Code::D003);
    assert!(node.datadir.exists());
    make_incoming(&node, owner, 0).unwrap();
    assert!(!data.exists(), "the killed attempt's half copy is gone");
}

#[test]
fn what_is_not_ours_is_renamed_and_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    for mark in [None, Some("nonsense")] {
        std::fs::create_dir(node.incoming()).unwrap();
        std::fs::write(node.incoming().join("thesis.txt"), "years of work").unwrap();
        if let Some(mark) = mark {
            std::fs::write(node.incoming().join("mark.json"), mark).unwrap();
        }
        discard(&node).unwrap();
        assert!(!node.incoming().exists());
    }
    let kept = std::fs::read_dir(dir.path())
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().join("thesis.txt").exists())
        .count();
    assert_eq!(kept, 2);
}

#[test]
fn a_copy_that_does_not_fit_is_refused_before_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let refusal = make_incoming(&node, (0, 0), u64::MAX / 2).unwrap_err();
    assert_eq!(refusal.code, Code::D003);
    assert!(refusal.evidence[0].contains("free"), "{refusal:?}");
    assert!(!node.incoming().exists());
}

#[test]
fn a_data_directory_that_is_a_mount_point_is_refused_before_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path());
    // /proc is a mount point on every Linux.
    node.datadir = "/proc".into();
    assert_eq!(check_renameable(&node).unwrap_err().code, Code::D006);
}

#[test]
fn a_mark_that_names_other_places_renames_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = ready(dir.path());
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "root's").unwrap();
    for (from, to) in [
        (victim.clone(), dir.path().join("preload")),
        (node.datadir.clone(), dir.path().join("elsewhere")),
        (node.datadir.clone(), dir.path().join("sub/data.pontoon-aside-x")),
    ] {
        let mark = Incoming {
            state: IncomingState::Activating,
            position: None,
            aside: Some(Moved { from, to }),
        };
        write_mark(&node, &mark).unwrap();
        assert_eq!(activate(&node).unwrap_err().code, Code::D006);
        assert!(victim.exists());
        assert_eq!(std::fs::read_to_string(node.datadir.join("is")).unwrap(), "old");
    }
}

#[test]
fn a_mark_of_another_user_is_not_believed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a file away");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let node = ready(dir.path());
    std::os::unix::fs::chown(mark_path(&node), Some(65_534), None).unwrap();
    assert_eq!(activate(&node).unwrap_err().code, Code::D006);
    assert_eq!(std::fs::read_to_string(node.datadir.join("is")).unwrap(), "old");
}

#[test]
fn a_link_is_not_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let node = ready(dir.path());
    let data = data_of(&node.incoming());
    std::fs::rename(&data, dir.path().join("copy")).unwrap();
    std::os::unix::fs::symlink(dir.path(), &data).unwrap();
    // The data directory stays a directory: a link in its place could be turned to anywhere later.
    assert_eq!(activate(&node).unwrap_err().code, Code::D006);
    assert!(foreign::is_directory(&node.datadir));
}
