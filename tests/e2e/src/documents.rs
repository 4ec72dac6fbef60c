//! Rules on the documents: what they name exists, and what they must name is in them.

use pontoon_fleet::{Category, Code};

/// Files and folders of the repository that a document names in `code` or as a link: those that begin with one of
/// the top folders. A name with a placeholder (`…`, `*`, `NAME`, `<`) is no file's.
pub fn named_paths(text: &str) -> Vec<String> {
    const TOPS: &[&str] = &[
        "crates/",
        "tests/",
        "script/",
        "packaging/",
        "docs/",
        "demo/",
        ".ci/",
        "fuzz/",
        "benches/",
    ];
    let separators = |c: char| c.is_whitespace() || "`()[]{},;\"'|«»".contains(c);
    let mut paths: Vec<String> = text
        .split(separators)
        .map(|word| word.trim_end_matches(['.', ':', '?', '!']))
        .map(|word| {
            word.trim_start_matches("../")
                .split(['#', ':'])
                .next()
                .unwrap_or(word)
        })
        .filter(|word| TOPS.iter().any(|top| word.starts_with(top)))
        .filter(|word| !word.contains(['…', '*', '<', '$', 'X']) && !word.contains("NAME"))
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

/// docs/codes.md as it must be: every code that this version knows.
pub fn codes_page() -> String {
    let mut page = String::from(
        "# Codes\n\n\
         Every refusal carries a stable code. `pontoon explain CODE` prints the same text. This page is generated from\n\
         `crates/fleet/src/code.rs`; a test fails when the two differ (CONTRIBUTING.md says how to write it anew).\n\n\
         The letter says the area: `C` configuration, `J` joining and identity, `P` plan and apply, `F` fleet safety,\n\
         `D` database, `T` visitors' TLS, `N` network and processes.\n\n\
         | code | exit | title |\n|---|---|---|\n",
    );
    for code in Code::ALL {
        page.push_str(&format!(
            "| [{code}](#{}) | {} | {} |\n",
            code.as_str().to_lowercase(),
            code.category().exit_status(),
            code.title()
        ));
    }
    for code in Code::ALL {
        page.push_str(&format!(
            "\n## {code}\n**{}** ({})\n\n{}\n",
            code.title(),
            kind(code.category()),
            code.explanation()
        ));
    }
    page
}

fn kind(category: Category) -> &'static str {
    match category {
        Category::Failed => "failed, exit 1",
        Category::Usage => "usage or configuration, exit 2",
        Category::Safety => "refused for safety, exit 3",
        Category::Unreachable => "unreachable, exit 4",
        Category::Changed => "changed since the plan, exit 5",
    }
}

/// Every key of a JSON schema as a dotted path (`db.listen`, `server.name`), tables and what they hold.
pub fn schema_keys(schema: &serde_json::Value) -> Vec<String> {
    let mut keys = Vec::new();
    collect(schema, schema, "", 0, &mut keys);
    keys.sort();
    keys.dedup();
    keys
}

/// A schema that refers to itself ends here; the configuration is three levels deep.
const DEEPEST: usize = 12;

fn collect(
    root: &serde_json::Value,
    node: &serde_json::Value,
    path: &str,
    depth: usize,
    keys: &mut Vec<String>,
) {
    if depth > DEEPEST {
        return;
    }
    if let Some(target) = node
        .get("$ref")
        .and_then(|name| name.as_str())
        .and_then(|name| name.strip_prefix('#'))
        && let Some(target) = root.pointer(target)
    {
        collect(root, target, path, depth + 1, keys);
    }
    for (name, child) in node
        .get("properties")
        .and_then(|p| p.as_object())
        .into_iter()
        .flatten()
    {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        keys.push(path.clone());
        collect(root, child, &path, depth + 1, keys);
    }
    for list in ["anyOf", "oneOf", "allOf"] {
        for child in node.get(list).and_then(|l| l.as_array()).into_iter().flatten() {
            collect(root, child, path, depth + 1, keys);
        }
    }
    if let Some(items) = node.get("items") {
        collect(root, items, path, depth + 1, keys);
    }
}

/// The keys that docs/configuration.md does not explain. A key `a.b.c` is explained by the word `b.c` or `a.b.c` in
/// code, or by `c` in code in the section of `a` (a heading that holds `[a]`, `[[a]]` or `[a.b]`).
pub fn unexplained_keys(page: &str, keys: &[String]) -> Vec<String> {
    keys.iter().filter(|key| !explained(page, key)).cloned().collect()
}

fn explained(page: &str, key: &str) -> bool {
    let in_code = |text: &str, word: &str| text.contains(&format!("`{word}`"));
    let Some((table, name)) = key.split_once('.') else {
        return in_code(page, key) || section(page, key).is_some();
    };
    section(page, table).is_some_and(|text| in_code(text, name) || in_code(text, key))
}

/// The part of the page under the heading of this table, up to the next heading of the same or a higher level.
fn section<'a>(page: &'a str, table: &str) -> Option<&'a str> {
    let heading = page.match_indices("\n## ").map(|(at, _)| at).find(|at| {
        page[at + 1..]
            .lines()
            .next()
            .is_some_and(|line| line.contains(&format!("[{table}]")))
    })?;
    let body = &page[heading + 1..];
    Some(body[3..].find("\n## ").map_or(body, |end| &body[..end + 3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_in_prose() {
        let text = "See `crates/edge/src/lib.rs`, [codes](docs/codes.md#c001) and crates/rt/src/files.rs:12. \
                    Not `crates/NAME/src`, crates/*/src, https://example.invalid/docs/x or ../docs/y.md";
        assert_eq!(
            named_paths(text),
            [
                "crates/edge/src/lib.rs",
                "crates/rt/src/files.rs",
                "docs/codes.md",
                "docs/y.md"
            ]
        );
    }

    #[test]
    fn keys_of_a_schema_are_found_through_references_and_lists() {
        let schema = serde_json::json!({
            "properties": { "version": {}, "server": { "items": { "$ref": "#/$defs/Server" } }, "db": { "anyOf": [{ "$ref": "#/$defs/Db" }, { "type": "null" }] } },
            "$defs": { "Server": { "properties": { "name": {} } }, "Db": { "properties": { "reads": { "$ref": "#/$defs/Reads" } } }, "Reads": { "properties": { "split": {} } } }
        });
        assert_eq!(
            schema_keys(&schema),
            [
                "db",
                "db.reads",
                "db.reads.split",
                "server",
                "server.name",
                "version"
            ]
        );
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        schema_keys(&serde_json::json!({ "properties": { "a": { "$ref": "#" } } }));
    }

    #[test]
    fn a_key_is_explained_in_its_own_section() {
        let page =
            "# Keys\n\n## `version`\n\n## `[db]`\n`listen` and `reads.split`.\n\n## `[cache]`\n`memory`\n";
        let keys = [
            "version",
            "db",
            "db.listen",
            "db.reads.split",
            "db.memory",
            "cache.memory",
            "ip",
        ]
        .map(str::to_owned);
        assert_eq!(unexplained_keys(page, &keys), ["db.memory", "ip"]);
    }

    #[test]
    fn the_page_of_codes_has_every_code() {
        let page = codes_page();
        assert!(Code::ALL.iter().all(|code| page.contains(code.explanation())));
    }
}
