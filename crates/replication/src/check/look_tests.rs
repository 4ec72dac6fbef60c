use super::*;

fn row(values: &[(&str, &str)]) -> Row {
    let value = |text: &str| (text != "NULL").then(|| text.to_owned());
    Row::new(
        values
            .iter()
            .map(|(name, text)| ((*name).to_owned(), value(text)))
            .collect(),
    )
}

fn column_of(name: &str, kind: &str, nullable: &str) -> Row {
    row(&[
        ("c", name),
        ("d", kind),
        ("nu", nullable),
        ("x", ""),
        ("cs", "utf8mb4"),
        ("co", "utf8mb4_bin"),
        ("o", "40"),
    ])
}

fn part(index: &str, name: &str, prefix: &str) -> Row {
    row(&[("i", index), ("c", name), ("p", prefix)])
}

#[test]
fn the_primary_key_comes_first_and_a_unique_one_must_tell_all_rows_apart() {
    let columns = [
        column_of("id", "int", "NO"),
        column_of("mail", "varchar", "NO"),
        column_of("maybe", "int", "YES"),
        column_of("kind", "enum", "NO"),
    ];
    let found = |indexes: &[Row]| key(indexes, &columns).map(|key| key.index);
    let both = [part("a", "mail", "NULL"), part("PRIMARY", "id", "NULL")];
    assert_eq!(found(&both), Some("PRIMARY".to_owned()));
    assert_eq!(found(&[part("a", "mail", "NULL")]), Some("a".to_owned()));
    // NULLs, a prefix, an order that is not that of the values, an expression.
    assert_eq!(found(&[part("a", "maybe", "NULL")]), None);
    assert_eq!(found(&[part("a", "mail", "10")]), None);
    assert_eq!(found(&[part("PRIMARY", "kind", "NULL")]), None);
    assert_eq!(found(&[part("a", "NULL", "NULL")]), None);
    assert_eq!(
        found(&[
            part("a", "maybe", "NULL"),
            part("b", "id", "NULL"),
            part("b", "mail", "NULL")
        ]),
        Some("b".to_owned())
    );
}

#[test]
fn a_column_is_compared_by_all_that_it_holds() {
    let form = |kind: &str, octets: &str, extra: &str| {
        column(&row(&[("c", "x"), ("d", kind), ("o", octets), ("x", extra)])).map(|column| column.form)
    };
    assert_eq!(form("decimal", "NULL", ""), Some(Form::Plain));
    assert_eq!(form("float", "NULL", ""), Some(Form::Float));
    assert_eq!(form("bit", "NULL", ""), Some(Form::Bits));
    assert_eq!(form("varchar", "400", ""), Some(Form::Bytes));
    assert_eq!(form("varchar", "4000", ""), Some(Form::Long));
    assert_eq!(form("json", "NULL", ""), Some(Form::Long));
    assert_eq!(form("longtext", "4294967295", ""), Some(Form::Long));
    assert_eq!(form("geometry", "NULL", ""), Some(Form::Bytes));
    assert_eq!(form("int", "NULL", "STORED GENERATED"), Some(Form::Plain));
    assert_eq!(form("int", "NULL", "VIRTUAL GENERATED"), None);
}

#[test]
fn the_next_number_is_no_part_of_a_definition() {
    let text = |next: &str| format!("CREATE TABLE t (id INT) ENGINE=InnoDB{next} DEFAULT CHARSET=utf8mb4");
    assert_eq!(definition(&text(" AUTO_INCREMENT=7")), definition(&text("")));
    assert_ne!(definition(&text("")), definition(&text(" ROW_FORMAT=REDUNDANT")));
}

#[test]
fn long_values_are_cut_between_characters() {
    let long = "é".repeat(100);
    let start = format!("{}… (200 bytes, SHA-256 ", "é".repeat(60));
    assert!(shortened(&long).starts_with(&start), "{}", shortened(&long));
    assert_ne!(shortened(&long), shortened(&format!("{}e", "é".repeat(99))));
    assert_eq!(shortened("short"), "short");
}
