use super::*;

fn table(forms: &[(&str, KeyForm)]) -> Table {
    let column = |name: &str, form| KeyColumn {
        name: name.to_owned(),
        form,
    };
    Table {
        schema: "app".to_owned(),
        name: "t`; DROP".to_owned(),
        columns: vec![
            Column {
                name: "a".to_owned(),
                form: Form::Plain,
                charset: None,
                generated: false,
            },
            Column {
                name: "f".to_owned(),
                form: Form::Float,
                charset: None,
                generated: false,
            },
        ],
        key: (!forms.is_empty()).then(|| Key {
            index: "PRIMARY".to_owned(),
            columns: forms
                .iter()
                .map(|(name, form)| column(name, form.clone()))
                .collect(),
        }),
        rows: 0,
        engine: "InnoDB".to_owned(),
        definition: String::new(),
        key_bytes: 8,
    }
}

fn range(after: &[&str], until: &[&str]) -> Range {
    let key = |values: &[&str]| {
        (!values.is_empty()).then(|| values.iter().map(|value| (*value).to_owned()).collect())
    };
    Range {
        after: key(after),
        until: key(until),
    }
}

#[test]
fn a_range_of_several_columns_is_written_out_for_the_index() {
    let table = table(&[("a", KeyForm::Number), ("b", KeyForm::Number)]);
    let statement = sum(&table, &range(&["1", "2"], &["3", "4"])).unwrap();
    assert!(
        statement.contains(
            "WHERE `a` >= 1 AND ((`a` > 1) OR (`a` = 1 AND `b` > 2)) \
             AND `a` <= 3 AND ((`a` < 3) OR (`a` = 3 AND `b` < 4) OR (`a` = 3 AND `b` = 4))"
        ),
        "{statement}"
    );
    assert!(
        statement.contains("FROM `app`.`t``; DROP` FORCE INDEX (`PRIMARY`)"),
        "{statement}"
    );
    assert!(statement.contains("`f` * 1e0"), "a FLOAT in full: {statement}");
}

#[test]
fn nothing_but_values_becomes_part_of_a_statement() {
    let text = KeyForm::Text {
        charset: "utf8mb4".to_owned(),
        collation: "utf8mb4_general_ci".to_owned(),
    };
    let good = [
        (KeyForm::Number, "-1.5"),
        (KeyForm::Quoted, "2026-01-02 03:04:05.678"),
        (KeyForm::Quoted, "00000000-0000-0000-0000-00000000000a"),
        (KeyForm::Bytes, ""),
        (text.clone(), "4142"),
    ];
    for (form, value) in good {
        let table = table(&[("k", form.clone())]);
        find(&table, &[vec![value.to_owned()]]).unwrap_or_else(|refusal| panic!("{form:?}: {refusal}"));
    }
    let evil = KeyForm::Text {
        charset: "utf8mb4 OR 1".to_owned(),
        collation: "x".to_owned(),
    };
    let bad = [
        (KeyForm::Number, "1 OR 1=1"),
        (KeyForm::Number, ""),
        (KeyForm::Quoted, "' OR '"),
        (KeyForm::Bytes, "4"),
        (KeyForm::Bytes, "zz"),
        (text, "' --"),
        (evil, "41"),
    ];
    for (form, value) in bad {
        let table = table(&[("k", form.clone())]);
        let refusal = find(&table, &[vec![value.to_owned()]]).unwrap_err();
        assert_eq!(refusal.code, Code::N005, "{form:?} {value:?}");
    }
    // A key with another number of columns, and a digest that is none.
    assert!(find(&table(&[("k", KeyForm::Number)]), &[vec![]]).is_err());
    assert!(find(&table(&[]), &[vec!["'".to_owned()]]).is_err());
}

#[test]
fn a_table_without_a_key_is_told_apart_by_what_its_rows_hold() {
    let table = table(&[]);
    let statement = rows(&table, &Range::default(), 7).unwrap();
    assert!(
        statement.contains("GROUP BY k0") && statement.contains("COUNT(*)"),
        "{statement}"
    );
}
