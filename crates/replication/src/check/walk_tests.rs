use super::*;

#[test]
fn chunks_grow_and_shrink_towards_the_wanted_time() {
    let wanted = Duration::from_millis(100);
    let next = |rows, took_ms| next_rows(rows, Duration::from_millis(took_ms), wanted, 5_000);
    assert_eq!(next(10, 0), 40);
    assert_eq!(next(1_000, 100), 1_000);
    assert_eq!(next(1_000, 200), 500);
    assert_eq!(next(1_000, 60_000), 100);
    assert_eq!(next(4_000, 10), 5_000);
    assert_eq!(next(1, 60_000), 1);
}

#[test]
fn questions_are_of_bounded_size_and_lose_no_key() {
    let keys: Vec<KeyValue> = (0..100).map(|n| vec![format!("{n:05000}")]).collect();
    let parts = batches(&keys);
    assert!(parts.len() > 3);
    assert_eq!(parts.concat(), keys);
    assert!(batches(&[]).is_empty());
}

#[test]
fn keys_are_shown_as_people_write_them() {
    let key = Key {
        index: "PRIMARY".to_owned(),
        columns: vec![
            super::super::KeyColumn {
                name: "tenant".to_owned(),
                form: KeyForm::Text {
                    charset: "utf8mb4".to_owned(),
                    collation: "utf8mb4_bin".to_owned(),
                },
            },
            super::super::KeyColumn {
                name: "id".to_owned(),
                form: KeyForm::Number,
            },
        ],
    };
    let value = |tenant: &str, id: &str| vec![tenant.to_owned(), id.to_owned()];
    assert_eq!(key_words(&key, &value("4142", "7")), "tenant='AB' id=7");
    let range = Range {
        after: Some(value("41", "1")),
        until: Some(value("41", "9")),
    };
    assert_eq!(
        range_words(&key, &range),
        "above tenant='A' id=1 up to tenant='A' id=9"
    );
}
